"""One entry of a list of hashes: what it says in its own words, and the hash that this is."""

from collections.abc import Iterator
from enum import StrEnum
from functools import lru_cache
from typing import Final, NamedTuple


class Kind(StrEnum):
    """What a listed hash is a hash of, and how."""

    MD5 = "md5"
    SHA1 = "sha1"
    SHA256 = "sha256"
    PDQ = "pdq"


LENGTHS: Final = {Kind.MD5: 16, Kind.SHA1: 20, Kind.SHA256: 32, Kind.PDQ: 32}  # in bytes

_DIGITS: Final = frozenset(2 * length for length in LENGTHS.values())

BY_LENGTH: Final = {16: Kind.MD5, 20: Kind.SHA1}

# As ThreatExchange, NCMEC and others write them, without case, blanks, "-" and "_".
KINDS: Final = {
    **{name: kind for kind in Kind for name in (kind.value, f"hash{kind.value}")},
    **{f"{kind.value}hash": kind for kind in Kind},
    "videomd5": Kind.MD5,
    "hashvideomd5": Kind.MD5,
    "videosha256": Kind.SHA256,
    "hashvideosha256": Kind.SHA256,
}

# A PDQ hash says for each of 256 values whether it is above their median, so that half its bits
# are set. Far from that, all values were the same: a flat picture, which is near to any other.
_SET_BITS: Final = range(112, 145)


class Listed(NamedTuple):
    """What a line says: the hash, in its own words."""

    text: str
    kind: str = ""
    quality: int | None = None


# Each with the number of its line, or of its record in JSON.
Entries = Iterator[tuple[int, Listed]]


@lru_cache
def kind_named(name: str) -> Kind | None:
    """The kind that goes by this name in lists of whatever origin."""
    return KINDS.get(plain_name(name))


def flat(pdq: bytes) -> bool:
    """Whether this is the hash of a picture without features."""
    return int.from_bytes(pdq).bit_count() not in _SET_BITS


def plain_name(name: str) -> str:
    return name.strip().lower().replace("_", "").replace("-", "").replace(" ", "")


def hash_in(text: str) -> bytes | None:
    """The hash that these hex digits are; None if they are none."""
    text = text.strip()
    if len(text) not in _DIGITS:
        return None
    try:
        digest = bytes.fromhex(text)
    except ValueError:
        return None
    return digest if 2 * len(digest) == len(text) else None  # blanks between them do not count
