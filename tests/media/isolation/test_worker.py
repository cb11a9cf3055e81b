"""Tests of media/isolation/worker.py: what is imported before, since nothing can be after."""

import asyncio
import os
import signal
import socket
import tempfile
from typing import cast

import numpy as np
import pytest

from safety_proxy.crops import CropSpec, UInt8Array
from safety_proxy.deadline import Deadline
from safety_proxy.errors import UndecodableImage
from safety_proxy.media.bounds import Bounds, Frame
from safety_proxy.media.frames import read_frames
from safety_proxy.media.isolation import wire, worker
from safety_proxy.media.isolation.descriptors import CropMemory
from safety_proxy.media.isolation.processes import Decoders
from tests.media import misbehavior
from tests.media.corpus import PAIRS
from tests.media.samples.tools import HARMLESS, MissingTool

SPEC = CropSpec(64, 64)
BOUNDS = Bounds()


def corpus() -> dict[str, bytes]:
    """Every file whose maker is installed."""
    made = {}
    for name, make in PAIRS.items():
        try:
            made[name] = make(HARMLESS)
        except MissingTool:
            continue
    return made


async def test_every_kind_of_file_is_read_closed_in_as_it_is_outside() -> None:
    """A decoder that opened a file to import a part of itself would refuse good pictures."""
    decoders = Decoders(read_frames, processes=1, memory_bytes=3 * 2**29, cpu_seconds=30)
    await decoders.start()
    try:
        files = await asyncio.to_thread(corpus)
        for name, data in files.items():
            expected = await asyncio.to_thread(outcome, data)
            with tempfile.TemporaryFile(buffering=0) as file:
                file.write(data)
                try:
                    found = looks(
                        await decoders.decode(
                            file.fileno(), len(data), SPEC, BOUNDS, deadline=Deadline.after(60)
                        )
                    )
                except UndecodableImage as error:
                    found = [(error.code, str(error).encode())]
            assert found == expected, name
        assert len(files) > 20
        assert decoders.lost == 0
    finally:
        await decoders.aclose()


def outcome(data: bytes) -> list[tuple[str, bytes]]:
    try:
        return looks(read_frames(data, SPEC, BOUNDS))
    except UndecodableImage as error:
        return [(error.code, str(error).encode())]


def looks(frames: list[Frame]) -> list[tuple[str, bytes]]:
    return [(frame.where, frame.crop.tobytes()) for frame in frames]


def test_function_is_found_by_its_name() -> None:
    """With all of its libraries."""
    assert worker._import("tests.media.misbehavior:decode") is misbehavior.decode
    with pytest.raises(AttributeError):
        worker._import("tests.media.misbehavior:missing")


def answer(content: str, spec: CropSpec = SPEC) -> tuple[bytes, int]:
    """What a decoder says to a file, and the memory that it has laid the crops in."""
    data = content.encode()
    with tempfile.TemporaryFile(buffering=0) as file, CropMemory(spec) as memory:
        file.write(data)
        request = wire.Request(len(data), spec, BOUNDS)
        said = worker._answer(request, file.fileno(), memory.descriptor, misbehavior.decode)
        return said, os.fstat(memory.descriptor).st_blocks


def test_answers_of_a_decoder() -> None:
    """Frames, or why there are none."""
    assert wire.unpack_answer(answer("crop a")[0]) == [("a", ())]
    for content, why in (
        ("refuse no", "no"),
        ("raise x", "decoder failed: ZeroDivisionError: x"),
        ("misshape", "decoder failed: ValueError: a crop of (7, 5, 3) uint8"),
        ("many 0", "0 frames, not 1 to 1024"),
        ("", "decoder failed: KeyError: ''"),
    ):
        with pytest.raises(UndecodableImage) as refused:
            wire.unpack_answer(answer(content)[0])
        assert str(refused.value) == why


def test_crops_take_up_no_more_memory_than_they_need() -> None:
    """Of that which is set aside for the most there may be."""
    _, blocks = answer("crop a")
    assert blocks * 512 < wire.crop_bytes(SPEC) + 2 * 4096
    assert answer("refuse no")[1] == 0


def test_crop_of_another_kind_is_refused() -> None:
    """Floats would be taken for bytes."""
    frame = Frame(cast("UInt8Array", np.zeros((64, 64, 3))), "")
    with CropMemory(SPEC) as memory, pytest.raises(ValueError, match="float64"):
        worker._lay_out([frame], memory.descriptor, SPEC)


def test_template_ends_when_the_proxy_is_gone() -> None:
    """At once, whether or not it has been told anything."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.send(b'{"kill": 7}')  # one that it does not know
    ours.close()
    duty = worker.Duty(misbehavior.decode, 1, 0, 0)
    handler = signal.getsignal(signal.SIGCHLD)
    try:
        with theirs:
            template = worker.Template(theirs, duty)
            template.run()
            assert theirs.recv(100) == b""
    finally:
        os.close(signal.set_wakeup_fd(-1))
        os.close(template._wake)
        signal.signal(signal.SIGCHLD, handler)
