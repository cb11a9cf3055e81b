"""Stretches of a file, and files put together from them, without copying what nobody reads.

Parsers look at a `Window`; decoders get a `Spliced`, which reads like a file. Neither holds the
memory map open: it can be closed as soon as nobody reads any more.
"""

import io
import mmap
import re
from collections.abc import Iterable
from typing import IO, Protocol, cast


class Sliceable(Protocol):
    """Bytes of which a slice is cheap: bytes, a memory map, a Window."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> bytes: ...


class Window:
    """The bytes `start` to `end` of `data`; offsets count from `start`."""

    __slots__ = ("_data", "_end", "_start")

    def __init__(self, data: mmap.mmap | bytes, start: int = 0, end: int | None = None) -> None:
        size = len(data)
        self._data = data
        self._start = min(max(start, 0), size)
        self._end = min(max(size if end is None else end, self._start), size)

    def __len__(self) -> int:
        return self._end - self._start

    def __getitem__(self, part: slice, /) -> bytes:
        start, stop, _ = part.indices(len(self))
        return self._data[self._start + start : self._start + stop]

    def part(self, start: int, end: int | None = None) -> "Window":
        """The same bytes from `start` to `end`, or less where the window ends before."""
        end = len(self) if end is None else min(end, len(self))
        return Window(self._data, self._start + min(start, end), self._start + end)

    def byte(self, offset: int) -> int:
        """One byte. Raises IndexError past the end."""
        if not 0 <= offset < len(self):
            raise IndexError(offset)
        return self._data[self._start + offset]

    def number(self, offset: int, size: int, *, little: bool = False) -> int:
        """An unsigned number of `size` bytes. Raises EOFError if they are not all there."""
        raw = self[offset : offset + size]
        if len(raw) < size:
            raise EOFError(f"ends where {size} bytes were expected at {offset}")
        return int.from_bytes(raw, "little" if little else "big")

    def search(self, pattern: re.Pattern[bytes], start: int = 0) -> int | None:
        """Where the pattern is first found, from `start` on."""
        found = pattern.search(self._data, self._start + start, self._end)
        return None if found is None else found.start() - self._start

    def whole(self) -> mmap.mmap | bytes:
        """All of it, a copy only if this is a part of something."""
        return self._data if len(self) == len(self._data) else self.bytes()

    def bytes(self) -> bytes:
        """A copy of all of it."""
        return self._data[self._start : self._end]


class Spliced:
    """A readable, seekable file of pieces in a row."""

    def __init__(self, pieces: Iterable[Window | bytes]) -> None:
        self._pieces = [piece for piece in pieces if len(piece)]
        self._starts: list[int] = []
        end = 0
        for piece in self._pieces:
            self._starts.append(end)
            end += len(piece)
        self._size = end
        self._at = 0
        self._piece = 0  # the one that `_at` lies in

    def as_file(self) -> IO[bytes]:
        """This, as the type that decoders ask for; they read, seek and tell only."""
        return cast("IO[bytes]", self)

    def read(self, size: int = -1) -> bytes:
        """The next `size` bytes, or all the rest; fewer only at the end."""
        left = self._size - self._at if size < 0 else min(size, self._size - self._at)
        parts = []
        while left > 0:
            piece, start = self._pieces[self._piece], self._starts[self._piece]
            part = piece[self._at - start : self._at - start + left]
            parts.append(part)
            left -= len(part)
            self._at += len(part)
            if self._at == start + len(piece):
                self._piece += 1
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """The new position, never past the end."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = min(max(base + offset, 0), self._size)
        self._piece = 0
        while self._piece < len(self._pieces) and self._at >= self._starts[self._piece] + len(
            self._pieces[self._piece]
        ):
            self._piece += 1
        return self._at

    def tell(self) -> int:
        return self._at

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        """Nothing is held."""
