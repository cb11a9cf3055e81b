"""Pictures that are known by the digest of their exact bytes and need no model."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

TEST_PICTURE: Final = Path(__file__).with_name("test_picture.png")
TEST_PICTURE_LIST: Final = "test picture"


def test_picture() -> bytes:
    """The harmless PNG that is always blocked: what EICAR is to virus scanners."""
    return TEST_PICTURE.read_bytes()


class BlockList:
    """sha256 (hex) -> name of the list that holds it. The test picture is always on it."""

    def __init__(self, entries: Mapping[str, str] | None = None) -> None:
        digest = hashlib.sha256(test_picture()).hexdigest()
        self._entries = MappingProxyType({**(entries or {}), digest: TEST_PICTURE_LIST})

    def match(self, sha256: str) -> str | None:
        """The name of the list that holds this digest, or None."""
        return self._entries.get(sha256)
