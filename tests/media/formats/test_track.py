"""Tests of media/formats/track.py: which packets are decoded, and what comes of them."""

import io
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise

import av
import pytest
from PIL import Image

from safety_proxy.errors import UndecodableImage
from safety_proxy.media.bounds import Bounds
from safety_proxy.media.formats.track import Decoded, HeldBackError, Track, _one_in_each_cell
from tests.media.samples.boxes import film
from tests.media.samples.tools import scenes

BOUNDS = Bounds(salt="a test's")

# With nothing left for a look between near key frames.
NO_LOOKS = replace(BOUNDS, total_pixels=0)


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
    """Half a second in this film, where little more is the bound."""
    with opened(film(scenes(40), g="5", sc_threshold="0")) as track:
        every = track.cost_of_all
        track.plan(replace(NO_LOOKS, gap_seconds=0.6))
        assert track.cost == every // 5
        times = [picture.seconds for picture in decoded(track)]
    assert times == pytest.approx([number / 2 for number in range(8)])


@pytest.mark.parametrize("gap_seconds", [0.5, 1.0, 2.5])
def test_key_frames_beside_each_other_are_not_all_decoded(gap_seconds: float) -> None:
    """In a film of nothing but key frames."""
    body = film(scenes(100), g="1")
    chosen = set()
    for salt in ("a", "b", "c"):
        with opened(body) as track:
            track.plan(replace(NO_LOOKS, gap_seconds=gap_seconds, salt=salt))
            times = [picture.seconds or 0 for picture in decoded(track)]
        assert len(times) < 60
        assert times[0] == 0
        assert times[-1] == pytest.approx(9.9)
        assert max(after - before for before, after in pairwise(times)) <= gap_seconds + 1e-9
        chosen.add(tuple(times))
    assert len(chosen) > 1


def test_some_stretches_between_near_key_frames_are_decoded_whole() -> None:
    """Which, is chance: else harmless key frames could hide all the others."""
    body = film(scenes(100), g="5", sc_threshold="0", bf="0")
    bounds = replace(BOUNDS, total_pixels=20 * 15 * (160 * 120 + 50_000))
    looks = set()
    for salt in ("a", "b", "c"):
        with opened(body) as track:
            track.plan(replace(bounds, salt=salt))
            numbers = [round(10 * (picture.seconds or 0)) for picture in decoded(track)]
        between = [number for number in numbers if number % 5]
        assert len(between) == 3 * 4
        keys = [number for number in numbers if not number % 5]
        assert max(after - before for before, after in pairwise([*keys, 100])) <= 10
        looks.add(tuple(between))
    assert len(looks) > 1


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
@pytest.mark.parametrize("threads", [1, 2])
def test_frames_on_which_no_other_rests_are_left_out(codec: str, threads: int) -> None:
    """Half of them, so that a film with far key frames costs little more than half."""
    with opened(film(scenes(200), codec, g="9999", sc_threshold="0", bf="3")) as track:
        track.plan(NO_LOOKS)
        times = [picture.seconds or 0 for picture in decoded(track, threads=threads)]
        assert track.cost * 200 == track.cost_of_all * len(times)
    assert 50 < len(times) < 150
    assert times == sorted(times)
    assert max(after - before for before, after in pairwise(times)) < 1
    assert times[0] == 0
    assert times[-1] == pytest.approx(19.9)


@pytest.mark.parametrize("codec", ["libvpx", "libvpx-vp9", "libsvtav1"])
def test_of_other_codecs_every_frame_between_far_key_frames_is_decoded(codec: str) -> None:
    """Their decoders leave none out when asked."""
    with opened(film(scenes(40), codec, "webm", g="9999")) as track:
        track.plan(NO_LOOKS)
        assert track.cost == track.cost_of_all
        assert len(decoded(track)) == 40


def test_no_stretch_longer_than_the_gap_is_left_out() -> None:
    """Even where no other frame rests on any, so that all might be."""
    with opened(film(scenes(200), g="9999", sc_threshold="0", bf="16", b_strategy="0")) as track:
        for gap_seconds in (0.5, 1.0, 3.0):
            track.plan(replace(NO_LOOKS, gap_seconds=gap_seconds))
            times = track._times()
            needed = sorted(times[number] for number in track._needed)
            assert max(after - before for before, after in pairwise(needed)) <= gap_seconds
            assert max(needed) == max(times)
            assert len(needed) < 200


def test_frame_that_is_shown_for_long_is_decoded() -> None:
    """A slide stands for its time alone, whatever was chosen beside it."""
    seconds = [0.0, 0.1, 0.2, 9.0, 9.1, 9.2, 9.3, 9.4]
    for salt in range(20):
        needed = _one_in_each_cell(seconds, 1.0, 60, random.Random(salt))
        assert {2, 7} <= needed
        assert len(needed) < len(seconds)


def test_which_frames_are_decoded_is_left_to_chance() -> None:
    """A salt gives the same ones again, another one others."""
    seconds = [number / 30 for number in range(900)]
    chosen = [
        frozenset(_one_in_each_cell(seconds, 1.0, 60, random.Random(salt))) for salt in "aabc"
    ]
    assert chosen[0] == chosen[1]
    assert len(set(chosen)) == 3
    assert all(60 <= len(numbers) <= 100 for numbers in chosen)


def test_frames_near_and_far_in_one_film() -> None:
    """Each stretch for itself."""
    frames = [*scenes(10), *[Image.new("RGB", (160, 120))] * 30, *scenes(10)]
    with opened(film(frames, g="30", keyint_min="30", rate=20, bf="0")) as track:
        track.plan(NO_LOOKS)
        keys = [n for n, packet in enumerate(track.packets) if packet.is_keyframe]
        assert len(keys) == 2
        assert len(decoded(track)) == 31
    assert keys == [0, 30]


def test_longer_film_is_sampled_with_larger_gaps() -> None:
    """A film of four times the length that is sampled in full, with gaps of four seconds."""
    with opened(film(scenes(120), g="30", sc_threshold="0")) as track:
        track.plan(replace(NO_LOOKS, seconds=3))
        assert len(decoded(track)) == 4


def test_frames_are_counted_where_timestamps_pack_them_together() -> None:
    """A hundred frames in a hundredth of a second are no short stretch."""
    with opened(film(scenes(100), g="9999", sc_threshold="0")) as track:
        for packet in track.packets:
            packet.pts = packet.dts = 0
        track.plan(NO_LOOKS)
        assert len(track._needed) >= 4
        assert len(decoded(track)) >= 30


def test_missing_timestamps_are_made_up() -> None:
    """From the packets' order; the frames' own stay unknown."""
    with opened(film(scenes(10), bf="0")) as track:
        for packet in track.packets:
            packet.pts = packet.dts = None
        track.plan(NO_LOOKS)
        assert [picture.seconds for picture in decoded(track)] == [None]


def test_key_frame_that_is_none_is_not_believed() -> None:
    """What comes of a frame whose ground is not there may be anything."""
    with opened(film(scenes(20), g="9999", sc_threshold="0", bf="0")) as track:
        for packet in track.packets:
            packet.is_keyframe = True
        track.plan(NO_LOOKS)
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
