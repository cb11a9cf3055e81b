"""One body, written to disk while it arrives and hashed on the way.

The file has no name: the kernel frees it when the last handle is closed, also after kill -9, and
nothing is ever written to a path built from what a client sent.
"""

import asyncio
import hashlib
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Self
from weakref import finalize

from safety_proxy.errors import BodyTooLarge, Busy
from safety_proxy.media.isolation.descriptors import reopen

# Disk and digest run on a thread; blocks of this size make the hop there cheap (one for most
# pictures) and bound what one upload holds in memory.
BLOCK_BYTES = 1024 * 1024


class Held:
    """A descriptor of a file's bytes, for reading only: open as long as somebody holds this."""

    def __init__(self, descriptor: int, size_bytes: int) -> None:
        self.descriptor = reopen(descriptor)
        self.size_bytes = size_bytes
        finalize(self, os.close, self.descriptor)


class Media:
    """The complete bytes of one file, on disk, and their digest. Whoever made it closes it."""

    def __init__(self, file: IO[bytes], *, sha256: str, size_bytes: int) -> None:
        self._file = file
        self.sha256 = sha256
        self.size_bytes = size_bytes

    @classmethod
    def from_path(cls, path: Path) -> "Media":
        """The file at `path` as it is now; blocks, so not for the event loop."""
        file = path.open("rb")
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return cls(file, sha256=digest, size_bytes=os.fstat(file.fileno()).st_size)

    def hold(self) -> Held:
        """The bytes for somebody who may need them after this media is closed. Raises Busy."""
        try:
            return Held(self._file.fileno(), self.size_bytes)
        except OSError as error:
            raise Busy(f"cannot open what was spooled: {error.strerror}") from error

    async def blocks(self) -> AsyncIterator[bytes]:
        """The bytes in order, at most BLOCK_BYTES at a time.

        They are hashed once more while they are read, and the last block is given out only when
        the digest is that of this media. Raises RuntimeError if it is not.
        """
        digest = hashlib.sha256()
        offset = 0
        while offset < self.size_bytes:
            block = await asyncio.to_thread(self._read, offset, digest)
            offset += len(block)
            is_last = offset >= self.size_bytes
            if not block or (is_last and digest.hexdigest() != self.sha256):
                raise RuntimeError("the spooled bytes are not those that were judged")
            yield block

    def _read(self, offset: int, digest: "hashlib._Hash") -> bytes:
        block = os.pread(self._file.fileno(), BLOCK_BYTES, offset)
        digest.update(block)
        return block

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Spooler:
    """Opens spools that together hold no more than `total_bytes`: the disk they lie on is small."""

    def __init__(self, *, file_bytes: int, total_bytes: int) -> None:
        self.file_bytes = file_bytes
        self._total_bytes = total_bytes
        self.used_bytes = 0

    def open(self, opened: ExitStack) -> "Spool":
        """A new spool, which `opened` closes. Raises Busy if no file can be made."""
        try:
            spool = Spool(self)
        except OSError as error:
            raise _no_spool(error) from error
        opened.callback(spool.close)
        return spool

    def take(self, size_bytes: int) -> None:
        """Counts bytes that are about to be spooled. Raises Busy if there is no room for them."""
        if self.used_bytes + size_bytes > self._total_bytes:
            raise Busy("more bytes are being received and judged than limits.max_spool_bytes")
        self.used_bytes += size_bytes

    def give_back(self, size_bytes: int) -> None:
        """Counts them as freed."""
        self.used_bytes -= size_bytes


class Spool:
    """Takes chunks of any size and ends as a Media.

        spool = spooler.open(opened)
        await spool.write(chunk) ...
        media = await spool.finish()

    Raises BodyTooLarge as soon as more than the spooler's `file_bytes` were written, Busy when
    there is no room.
    """

    def __init__(self, spooler: Spooler) -> None:
        self._spooler = spooler
        self._file: IO[bytes] = tempfile.TemporaryFile(prefix="safety-proxy-", buffering=0)  # noqa: SIM115 -- outlives this call
        self._digest = hashlib.sha256()
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._writing: asyncio.Future[None] | None = None
        self._closed = False
        self.size_bytes = 0

    async def write(self, chunk: bytes) -> None:
        limit_bytes = self._spooler.file_bytes
        if self.size_bytes + len(chunk) > limit_bytes:
            raise BodyTooLarge(f"File too large: over the limit of {limit_bytes / 1024**2:g} MiB")
        self._spooler.take(len(chunk))
        self.size_bytes += len(chunk)
        self._waiting.append(chunk)
        self._waiting_bytes += len(chunk)
        if self._waiting_bytes >= BLOCK_BYTES:
            await self._flush()

    async def finish(self) -> Media:
        await self._flush()
        return Media(self._file, sha256=self._digest.hexdigest(), size_bytes=self.size_bytes)

    def close(self) -> None:
        """Frees the file. A write that its client has left behind ends first.

        Closed under it, the number of the file could be given to the next upload, and the write
        would land there.
        """
        if self._closed:
            return
        self._closed = True
        self._spooler.give_back(self.size_bytes)
        if self._writing is None or self._writing.done():
            self._file.close()
        else:
            self._writing.add_done_callback(lambda _: self._file.close())

    async def _flush(self) -> None:
        chunks, self._waiting, self._waiting_bytes = self._waiting, [], 0
        loop = asyncio.get_running_loop()
        self._writing = loop.run_in_executor(None, self._store, chunks)
        try:
            await asyncio.shield(self._writing)
        except OSError as error:
            raise _no_spool(error) from error

    def _store(self, chunks: list[bytes]) -> None:
        for chunk in chunks:
            self._digest.update(chunk)
            rest = memoryview(chunk)
            while rest:
                rest = rest[self._file.write(rest) :]


def _no_spool(error: OSError) -> Busy:
    """Of a disk that is full, or too many open files."""
    return Busy(f"cannot spool to {tempfile.tempdir}: {error.strerror}")
