"""A list that others keep: a file of hashes under a name, as it is looked up, and its report."""

import hashlib
import time
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from safety_proxy.errors import ConfigError
from safety_proxy.store.entries import Kind
from safety_proxy.store.listfiles import Hashes, read_hashes
from safety_proxy.store.pdq import HASH_BYTES, PdqIndex


@dataclass(frozen=True, slots=True)
class ListSource:
    """Where a list comes from.

    name: for people: log, statistics and `explain` say it.
    kind: of the hashes for which the file does not say it.
    """

    name: str
    file: Path
    kind: Kind | None = None


@dataclass(frozen=True, slots=True)
class ListReport:
    """What became of a list's lines, for the admin.

    counts: hashes in use, by kind. flat: PDQ hashes of pictures without features, left out.
    other: lines about something else than pictures. loaded_at: seconds since the epoch; 0: never.
    error: why the latest load failed; what was loaded before is in use still.
    """

    name: str
    source: str
    counts: Mapping[Kind, int] = field(default_factory=dict)
    duplicates: int = 0
    bad: int = 0
    other: int = 0
    flat: int = 0
    problems: tuple[str, ...] = ()
    loaded_at: float = 0.0
    error: str = ""

    def with_error(self, error: str) -> "ListReport":
        return replace(self, error=error)


@dataclass(frozen=True, slots=True, eq=False)
class SharedList:
    """A loaded list; never changed, only replaced.

    digest: of the file's bytes. pdq: (N, 32) uint8, a row for each row of `index`.
    """

    source: ListSource
    digest: str
    exact: AbstractSet[bytes]
    pdq: NDArray[np.uint8]
    index: PdqIndex
    report: ListReport


def load_list(
    source: ListSource, known: SharedList | None = None, *, min_quality: int
) -> SharedList:
    """The list as its file is now; `known`, if that is what it was made of. Blocks.

    Raises ConfigError.
    """
    try:
        with source.file.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ConfigError(
            f"List {source.name}: {source.file}: {error.strerror}. Put the file there, or take the "
            "list out of the settings."
        ) from error
    if known is not None and known.digest == digest:
        return known
    hashes = read_hashes(source.file, source.kind, min_quality=min_quality)
    pdq = np.frombuffer(b"".join(hashes.pdq), np.uint8).reshape(-1, HASH_BYTES)
    return SharedList(source, digest, hashes.exact, pdq, PdqIndex(pdq), _report(source, hashes))


def _report(source: ListSource, hashes: Hashes) -> ListReport:
    return ListReport(
        source.name,
        str(source.file),
        counts=hashes.counts,
        duplicates=hashes.duplicates,
        bad=hashes.bad,
        other=hashes.other,
        flat=hashes.flat,
        problems=tuple(hashes.problems),
        loaded_at=time.time(),
    )
