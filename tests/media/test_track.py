"""Tests of safety_proxy/media/track.py: which packets are decoded, and what comes of them."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import av
import pytest
from PIL import Image

from safety_proxy.errors import UndecodableImage
from safety_proxy.media.bounds import Bounds
from safety_proxy.media.track import Decoded, HeldBackError, Track
from tests.media.samples.boxes import film
from tests.media.samples.tools import scenes

BOUNDS = Bounds()


@contextmanager
def opened(body: bytes) -> Iterator[Track]:
    """The first track of a film, its packets read."""
    with av.open(io.BytesIO(body), "r") as container:
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.size]
        yield Track("", stream, is_cover=False, packets=packets)


def decoded(track: Track, bounds: Bounds = BOUNDS, *, threads: int = 1) -> list[Decoded]:
    """What comes of it."""
    return list(track.decoded(bounds, lambda pixels: None, threads=threads))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("b_frames", ["0", "8"])
def test_every_frame_comes_in_order(threads: int, b_frames: str) -> None:
    """Where everything is to be decoded."""
    with opened(film(scenes(30), bf=b_frames)) as track:
        track.plan_all()
        times = [picture.seconds for picture in decoded(track, threads=threads)]
    assert times == pytest.approx([number / 10 for number in range(30)])


def test_key_frames_stand_for_what_is_near() -> None:
    """Half a second in this film, where a second is the bound."""
    with opened(film(scenes(40), g="5", sc_threshold="0")) as track:
        every = track.cost_of_all
        track.plan(BOUNDS)
        assert track.cost == every // 5
        times = [picture.seconds for picture in decoded(track)]
    assert times == pytest.approx([number / 2 for number in range(8)])


def test_frames_between_far_key_frames_are_decoded() -> None:
    """Two seconds here."""
    with opened(film(scenes(40), g="20", sc_threshold="0")) as track:
        track.plan(BOUNDS)
        assert track.cost == track.cost_of_all
        assert len(decoded(track)) == 40


def test_frames_near_and_far_in_one_film() -> None:
    """Each stretch for itself."""
    frames = [*scenes(10), *[Image.new("RGB", (160, 120))] * 30, *scenes(10)]
    with opened(film(frames, g="30", keyint_min="30", rate=20)) as track:
        track.plan(replace(BOUNDS, gap_seconds=1.0))
        keys = [n for n, packet in enumerate(track.packets) if packet.is_keyframe]
        assert len(keys) == 2
        assert len(decoded(track)) == 31
    assert keys == [0, 30]


def test_longer_film_is_sampled_with_larger_gaps() -> None:
    """A film of four times the length that is sampled in full, with gaps of four seconds."""
    with opened(film(scenes(120), g="30", sc_threshold="0")) as track:
        track.plan(replace(BOUNDS, seconds=3))
        assert len(decoded(track)) == 4


def test_frames_are_counted_where_timestamps_pack_them_together() -> None:
    """A hundred frames in a hundredth of a second are no short stretch."""
    with opened(film(scenes(100), g="9999", sc_threshold="0", bf="0")) as track:
        for packet in track.packets:
            packet.pts = packet.dts = 0
        track.plan(BOUNDS)
        assert track.cost == track.cost_of_all


def test_missing_timestamps_are_made_up() -> None:
    """From the packets' order; the frames' own stay unknown."""
    with opened(film(scenes(10), bf="0")) as track:
        for packet in track.packets:
            packet.pts = packet.dts = None
        track.plan(BOUNDS)
        assert [picture.seconds for picture in decoded(track)] == [None]


def test_key_frame_that_is_none_is_not_believed() -> None:
    """What comes of a frame whose ground is not there may be anything."""
    with opened(film(scenes(20), g="9999", sc_threshold="0", bf="0")) as track:
        for packet in track.packets:
            packet.is_keyframe = True
        track.plan(BOUNDS)
        with pytest.raises(UndecodableImage, match="a key frame that is none"):
            decoded(track)


def broken(body: bytes, *places: int) -> bytes:
    """The film with some of its packets, by number, made unreadable."""
    changed = bytearray(body)
    with av.open(io.BytesIO(body), "r") as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    for number in places:
        place = packets[number].pos
        assert place is not None
        changed[place : place + 4] = b"\xff" * 4  # longer than the packet
    return bytes(changed)


def test_damaged_packet_takes_no_other_frame_with_it() -> None:
    """The one before it and the one after it are read, as by a player."""
    with opened(broken(film(scenes(20), bf="0", g="1"), 10)) as track:
        track.plan_all()
        times = [picture.seconds for picture in decoded(track)]
    assert times == pytest.approx([number / 10 for number in range(20) if number != 10])


def test_damage_is_told_apart_where_threads_hold_frames_back() -> None:
    """They would be lost: the caller decodes once more, in one thread."""
    with opened(broken(film(scenes(20), bf="0"), 19)) as track:
        track.plan_all()
        with pytest.raises(HeldBackError):
            decoded(track, threads=2)


def test_film_that_is_mostly_damaged_is_undecodable() -> None:
    """A tenth is the bound."""
    with opened(broken(film(scenes(20), bf="0", g="1"), 4, 5, 6)) as track:
        track.plan_all()
        with pytest.raises(UndecodableImage, match="3 frames"):
            decoded(track)


def test_all_that_is_decoded_is_counted() -> None:
    """Packets as well as pixels."""
    spent: list[int] = []
    with opened(film(scenes(10))) as track:
        track.plan_all()
        list(track.decoded(BOUNDS, spent.append, threads=1))
    assert sum(spent) >= 10 * 160 * 120 + 10 * 50_000


def test_what_counting_raises_ends_the_work() -> None:
    """Whatever the headers said before."""

    def refuse(pixels: int) -> None:
        raise UndecodableImage("enough")

    with opened(film(scenes(10))) as track:
        track.plan_all()
        with pytest.raises(UndecodableImage, match="enough"):
            list(track.decoded(BOUNDS, refuse, threads=1))
