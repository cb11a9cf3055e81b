"""Tests of media/formats/units.py: what units say is what the decoder makes of a frame."""

import io

import av
import pytest

from safety_proxy.media.formats.units import LAYERED, others_rest_on
from tests.media.samples.boxes import film
from tests.media.samples.tools import scenes

# Lengths of four bytes.
H264 = bytes(4) + b"\xff"
H265 = bytes(21) + b"\xff"


def unit(*heads: int) -> memoryview:
    """A packet with these units, three bytes long each."""
    return memoryview(b"".join(b"\0\0\0\3" + bytes((head, 0, 0)) for head in heads))


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
@pytest.mark.parametrize("b_frames", ["0", "3"])
def test_as_many_frames_are_decoded_as_the_units_say(codec: str, b_frames: str) -> None:
    """By the decoder, told to leave out the others."""
    body = film(scenes(60), codec, g="9999", sc_threshold="0", bf=b_frames)
    with av.open(io.BytesIO(body), "r") as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        context.thread_count = 1
        packets = [packet for packet in container.demux(stream) if packet.size]
        assert context.name in LAYERED
        description = context.extradata or b""
        said = sum(
            others_rest_on(memoryview(packet), context.name, description) for packet in packets
        )
        frames = len(context.decode(packets[0]))
        context.skip_frame = "NONREF"
        frames += sum(len(context.decode(packet)) for packet in [*packets[1:], None])
    assert said == frames
    assert (said == 60) == (b_frames == "0")


@pytest.mark.parametrize(
    ("heads", "rest"),
    [
        ((0x65,), True),  # a key frame
        ((0x41,), True),
        ((0x01,), False),
        ((0x09, 0x06, 0x01), False),  # after a delimiter and a message
        ((0x06,), True),  # no frame at all
        ((), True),
    ],
)
def test_first_slice_of_h264_says(heads: tuple[int, ...], rest: bool) -> None:  # noqa: FBT001 -- what is expected
    """By the two bits of its importance."""
    assert others_rest_on(unit(*heads), "h264", H264) is rest


@pytest.mark.parametrize(
    ("kind", "rest"), [(0, False), (1, True), (8, False), (9, True), (19, True), (21, True)]
)
def test_first_slice_of_h265_says(kind: int, rest: bool) -> None:  # noqa: FBT001 -- what is expected
    """By its kind."""
    assert others_rest_on(unit(35 << 1, kind << 1), "hevc", H265) is rest


@pytest.mark.parametrize(
    ("packet", "codec", "description"),
    [
        (unit(0x01), "vp9", H264),
        (unit(0x01), "h264", b""),
        (memoryview(b"\xff\xff\xff\xff"), "h264", H264),
        (memoryview(b"\xff\xff\xff\xff\x06"), "h264", H264),
        (memoryview(b""), "h264", H264),
    ],
)
def test_what_cannot_be_told_is_taken_for_the_dearer(
    packet: memoryview, codec: str, description: bytes
) -> None:
    """Another codec, no description, lengths that lie."""
    assert others_rest_on(packet, codec, description)
