"""Many PDQ hashes -> those near to a given one, exactly, a million of them in a fraction of a ms.

Two hashes that differ in at most 31 of 256 bits differ in at most one bit in one of their sixteen
parts of 16 bits: spread over sixteen parts, 32 differences would be needed for two in each. So only
hashes that share such a part, or nearly, have to be compared. The reference calls this multi-index
hashing (pdq/README-MIH.md); benchmarks/lists.py has the other ways that were measured.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

_UInt8Array = NDArray[np.uint8]
_UInt64Array = NDArray[np.uint64]
_IntArray = NDArray[np.intp]

HASH_BYTES: Final = 32
MAX_DISTANCE: Final = 31  # of the reference, and the most that one bit in a part can vouch for

_PARTS: Final = 16
_VALUES: Final = 1 << 16  # of a part

# 0, and each single bit: what a part may differ by.
_NEAR: Final = np.array([0] + [1 << bit for bit in range(16)], dtype=np.uint16)

# Rows that are compared at a time, small enough for the processor's cache. Up to so many there is
# nothing to gain from a table.
_CHUNK: Final = 1 << 15


class Near(NamedTuple):
    """A row of the index, and in how many bits it differs."""

    row: int
    distance: int


class PdqIndex:
    """An immutable index; about 100 bytes a hash, and 0.4 s to build for a million.

    hashes: (N, 32) uint8, a row for each. May be searched from several threads.
    """

    def __init__(self, hashes: _UInt8Array) -> None:
        if hashes.ndim != 2 or hashes.shape[1] != HASH_BYTES:  # noqa: PLR2004 -- (N, 32)
            raise ValueError(f"an array of shape (N, {HASH_BYTES}) is wanted, not {hashes.shape}")
        whole = np.ascontiguousarray(hashes)
        self._words: _UInt64Array = np.ascontiguousarray(whole.view(np.uint64).T)
        self._table = _Table(whole.view(np.uint16)) if len(whole) > _CHUNK else None

    @classmethod
    def of(cls, hashes: Iterable[bytes]) -> "PdqIndex":
        """Of hashes of 32 bytes each."""
        return cls(np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, HASH_BYTES))

    def __len__(self) -> int:
        return int(self._words.shape[1])

    def search(self, pdq: bytes, distance: int = MAX_DISTANCE) -> list[Near]:
        """All rows that differ from `pdq` in at most `distance` bits, the nearest first."""
        if not 0 <= distance <= MAX_DISTANCE:
            raise ValueError(f"a distance from 0 to {MAX_DISTANCE} is wanted, not {distance}")
        rows = self._table.candidates(pdq) if self._table else None
        if rows is None:  # no table, or one that leaves too many: then all are compared
            found = [
                near
                for start in range(0, len(self), _CHUNK)
                for near in self._compare(pdq, slice(start, start + _CHUNK), distance)
            ]
        else:
            found = [
                Near(int(rows[place]), bits) for place, bits in self._compare(pdq, rows, distance)
            ]
        return sorted(set(found), key=lambda near: (near.distance, near.row))

    def _compare(self, pdq: bytes, rows: slice | _IntArray, distance: int) -> list[Near]:
        query = np.frombuffer(pdq, np.uint64)
        words = self._words[:, rows]
        # Half of the bits rule out nearly all; a byte holds the count of 128 bits, not of 256.
        half = np.bitwise_count(words[0] ^ query[0]) + np.bitwise_count(words[1] ^ query[1])
        kept = np.flatnonzero(half <= distance)
        rest = np.bitwise_count(words[2:, kept] ^ query[2:, np.newaxis]).sum(axis=0)
        bits = half[kept] + rest
        start = (rows.start or 0) if isinstance(rows, slice) else 0
        return [
            Near(start + int(place), int(bits_))
            for place, bits_ in zip(kept, bits, strict=True)
            if bits_ <= distance
        ]


class _Table:
    """For each part and each of its values, the rows that have it there."""

    def __init__(self, parts: NDArray[np.uint16]) -> None:
        count = len(parts)
        self._most = count // 8  # from so many on, comparing all in their order is faster
        self._rows = np.empty((_PARTS, count), np.uint32)
        self._starts = np.zeros((_PARTS, _VALUES + 1), np.uint32)
        for part in range(_PARTS):
            column = np.ascontiguousarray(parts[:, part])
            self._rows[part] = np.argsort(column, kind="stable")
            np.cumsum(np.bincount(column, minlength=_VALUES), out=self._starts[part, 1:])

    def candidates(self, pdq: bytes) -> _IntArray | None:
        """Rows that share a part with `pdq` but for one bit; None if that is no small share."""
        values = np.frombuffer(pdq, np.uint16)[:, np.newaxis] ^ _NEAR
        parts = np.arange(_PARTS)[:, np.newaxis]
        starts = self._starts[parts, values]
        stops = self._starts[parts, values.astype(np.intp) + 1]
        if int((stops - starts).sum(dtype=np.int64)) > self._most:
            return None
        slices = [
            self._rows[part, start:stop]
            for part in range(_PARTS)
            for start, stop in zip(starts[part].tolist(), stops[part].tolist(), strict=True)
            if stop > start
        ]
        return np.concatenate(slices).astype(np.intp) if slices else np.empty(0, np.intp)
