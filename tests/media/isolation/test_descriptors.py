"""Tests of media/isolation/descriptors.py: they give away no more than they have to."""

import fcntl
import mmap
import os
import tempfile

import numpy as np
import pytest

from safety_proxy.crops import CropSpec
from safety_proxy.media.isolation import wire
from safety_proxy.media.isolation.descriptors import CropMemory, reopen

SPEC = CropSpec(3, 5)


def test_reopened_file_is_read_only_and_stands_by_itself() -> None:
    """Though it has no name. Neither its place nor its end is shared."""
    with tempfile.TemporaryFile(buffering=0) as file:
        file.write(b"picture")
        again = reopen(file.fileno())
    try:
        assert os.read(again, 100) == b"picture"
        assert fcntl.fcntl(again, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.write(again, b"x")
        with pytest.raises(OSError, match="Invalid argument"):
            os.ftruncate(again, 0)
        with pytest.raises(PermissionError):
            mmap.mmap(again, 7)
    finally:
        os.close(again)
    with pytest.raises(OSError, match="No such file"):
        reopen(again)


async def test_crops_come_out_as_they_were_laid_in() -> None:
    """One after another, copied: what the other side does later changes none."""
    rows = np.random.default_rng(1).integers(0, 255, (40, 3, 5, 3), dtype=np.uint8)
    with CropMemory(SPEC) as memory:
        with mmap.mmap(memory.descriptor, rows.nbytes) as theirs:
            theirs[:] = rows.tobytes()
            crops = await memory.read(len(rows))
            theirs[:] = bytes(rows.nbytes)
        assert all(np.array_equal(crop, row) for crop, row in zip(crops, rows, strict=True))
        assert np.array_equal(await memory.read(1), [np.zeros((3, 5, 3))])
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(memory.descriptor)


async def test_memory_for_crops_cannot_be_resized() -> None:
    """Cut short, it would end whoever reads it; grown, it would take all there is."""
    with CropMemory(SPEC) as memory:
        size = wire.MOST_FRAMES * wire.crop_bytes(SPEC)
        for other in (0, size - 1, size + 1):
            with pytest.raises(PermissionError):
                os.ftruncate(memory.descriptor, other)
        with pytest.raises(PermissionError):
            fcntl.fcntl(memory.descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
        with pytest.raises(PermissionError):
            os.pwrite(memory.descriptor, b"x", size)
        assert os.fstat(memory.descriptor).st_size == size
        assert os.fstat(memory.descriptor).st_blocks == 0  # taken up as far as it is used
        assert len(await memory.read(wire.MOST_FRAMES)) == wire.MOST_FRAMES
