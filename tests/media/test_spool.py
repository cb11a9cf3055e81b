"""Tests of safety_proxy/media/spool.py: bytes on disk and their digest."""

import asyncio
import hashlib
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safety_proxy.errors import BodyTooLarge, Busy
from safety_proxy.media.spool import BLOCK_BYTES, Media, Spool, Spooler


async def spool_of(*chunks: bytes, limit_bytes: int = 10 * BLOCK_BYTES) -> Media:
    """The media that these chunks make."""
    spool = Spool(Spooler(file_bytes=limit_bytes, total_bytes=limit_bytes))
    try:
        for chunk in chunks:
            await spool.write(chunk)
        return await spool.finish()
    except BaseException:
        spool.close()
        raise


@given(st.lists(st.binary(max_size=50), max_size=8))
async def test_chunks_of_any_size_make_the_same_media(chunks: list[bytes]) -> None:
    """Bytes, size and digest are those of the whole."""
    whole = b"".join(chunks)
    with await spool_of(*chunks) as media:
        assert b"".join([block async for block in media.blocks()]) == whole
        assert media.sha256 == hashlib.sha256(whole).hexdigest()
        assert media.size_bytes == len(whole)


async def test_large_media_comes_in_bounded_blocks() -> None:
    """Written in odd chunks over several blocks, read in blocks, again and again."""
    whole = bytes(range(251)) * 12_000
    with await spool_of(*(whole[n : n + 70_001] for n in range(0, len(whole), 70_001))) as media:
        for _ in range(2):
            blocks = [block async for block in media.blocks()]
            assert b"".join(blocks) == whole
            assert max(map(len, blocks)) == BLOCK_BYTES
        assert media.sha256 == hashlib.sha256(whole).hexdigest()


async def test_what_waits_in_memory_is_bounded() -> None:
    """After each block it is on the disk."""
    spool = Spool(Spooler(file_bytes=10 * BLOCK_BYTES, total_bytes=10 * BLOCK_BYTES))
    for _ in range(50):
        await spool.write(bytes(100_000))
        assert spool._waiting_bytes < BLOCK_BYTES
        assert sum(map(len, spool._waiting)) == spool._waiting_bytes
    spool.close()


async def test_limit_itself_passes_and_a_byte_more_does_not() -> None:
    """As soon as it is written, with a message in MiB."""
    (await spool_of(b"12", b"34", limit_bytes=4)).close()
    with pytest.raises(BodyTooLarge, match="over the limit of 2 MiB"):
        await spool_of(bytes(2 * 1024**2), b"x", limit_bytes=2 * 1024**2)


async def test_closed_spool_frees_its_file(spooled: Callable[[], set[str]]) -> None:
    """And it never had a name."""
    spool = Spool(Spooler(file_bytes=10, total_bytes=10))
    assert len(spooled()) == 1
    spool.close()
    assert not spooled()


async def test_what_is_held_outlives_the_media(spooled: Callable[[], set[str]]) -> None:
    """It has a descriptor of its own, which cannot write; with both gone the file is freed."""
    media = await spool_of(b"bytes")
    held = media.hold()
    media.close()
    assert os.pread(held.descriptor, 10, 0) == b"bytes"
    assert held.size_bytes == 5
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.write(held.descriptor, b"other")
    assert len(spooled()) == 1
    del held
    assert not spooled()


def test_media_of_a_file_on_disk(tmp_path: Path) -> None:
    """Digest, size and bytes are the file's."""
    file = tmp_path / "a"
    file.write_bytes(b"content")
    with Media.from_path(file) as media:
        assert media.sha256 == hashlib.sha256(b"content").hexdigest()
        assert media.size_bytes == 7

        async def read() -> bytes:
            return b"".join([block async for block in media.blocks()])

        assert asyncio.run(read()) == b"content"


async def test_spools_share_a_bound_on_their_bytes() -> None:
    """Beyond it there is no room until one is closed; closing twice frees once."""
    spooler = Spooler(file_bytes=10, total_bytes=15)
    with ExitStack() as opened:
        first, second = spooler.open(opened), spooler.open(opened)
        await first.write(bytes(10))
        with pytest.raises(Busy, match="max_spool_bytes"):
            await second.write(bytes(6))
        assert second.size_bytes == 0
        first.close()
        first.close()
        await second.write(bytes(6))
        assert spooler.used_bytes == 6
    assert spooler.used_bytes == 0


async def test_disk_that_is_full_means_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client can try again, and the log names the folder; nothing is half a media."""

    def full(self: Spool, chunks: list[bytes]) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Spool, "_store", full)
    with ExitStack() as opened:
        spool = Spooler(file_bytes=10, total_bytes=10).open(opened)
        await spool.write(b"x")
        with pytest.raises(Busy, match="No space left on device"):
            await spool.finish()


@contextmanager
def no_more_files() -> Iterator[None]:
    """Every descriptor that this process may have is taken, as far as `open` is concerned."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_too_many_open_files_mean_busy() -> None:
    """At the beginning and when the scan takes the file; afterwards all is as before."""
    spooler = Spooler(file_bytes=10, total_bytes=10)
    with ExitStack() as opened:
        media = asyncio.run(spooler.open(opened).finish())
        with no_more_files():
            with pytest.raises(Busy, match="Too many open files"):
                spooler.open(opened)
            with pytest.raises(Busy, match="Too many open files"):
                media.hold()
        assert media.hold().size_bytes == 0
