"""Tests of media/formats/video.py: all tracks of a film, within bounds, nothing outside."""

import io
import mmap
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from av.audio.stream import AudioStream
from av.video.stream import VideoStream
from PIL import Image

from safety_proxy.crops import CropSpec
from safety_proxy.errors import UndecodableImage
from safety_proxy.media.bounds import Bounds, Code, Frame
from safety_proxy.media.formats import video
from safety_proxy.media.formats.video import read_video
from tests.media.samples import bad_videos
from tests.media.samples.boxes import box, content, film, full, numbers, replaced
from tests.media.samples.tools import scene, scenes
from tests.pictures import BLUE, GREEN, RED, Color, encoded

WHITE = (255, 255, 255)

SPEC = CropSpec(32, 32)
BOUNDS = Bounds()
SIZE = (64, 64)


def plain(*colors: Color, size: tuple[int, int] = SIZE) -> list[Image.Image]:
    """Frames of one color each."""
    return [Image.new("RGB", size, color) for color in colors]


def places(frames: Sequence[Frame]) -> list[str]:
    """Where the crops are from, each once."""
    return list(dict.fromkeys(frame.where for frame in frames))


def colors(frames: Sequence[Frame]) -> list[str]:
    """The strongest channel of each crop: r, g or b."""
    return ["rgb"[int(frame.crop.mean(axis=(0, 1)).argmax())] for frame in frames]


def refusal(data: bytes, bounds: Bounds = BOUNDS) -> UndecodableImage:
    """The error that reading ends in."""
    with pytest.raises(UndecodableImage) as caught:
        read_video(data, SPEC, bounds)
    return caught.value


def joined(*tracks: Sequence[Image.Image], codec: str = "libx264", kind: str = "mp4") -> bytes:
    """A film with several video tracks."""
    body = io.BytesIO()
    with av.open(body, "w", format=kind) as container:
        streams = []
        for images in tracks:
            stream = container.add_stream(codec, rate=10)
            assert isinstance(stream, VideoStream)
            stream.width, stream.height = images[0].size
            stream.pix_fmt = "yuv420p"
            streams.append(stream)
        for stream, images in zip(streams, tracks, strict=True):
            for image in images:
                frame = av.VideoFrame.from_ndarray(np.asarray(image), format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    return body.getvalue()


def sound() -> bytes:
    """A file with sound and nothing else."""
    body = io.BytesIO()
    with av.open(body, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=8000)
        assert isinstance(stream, AudioStream)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return body.getvalue()


def with_cover(body: bytes, cover: bytes, *, kind: int = 13) -> bytes:
    """A film with a cover as players keep it; kind: 13 is a JPEG, 14 a PNG."""
    data = full(b"data", numbers(0), cover, flags=kind)
    item = box(b"ilst", box(b"covr", data))
    handler = full(b"hdlr", numbers(0), b"mdirappl", bytes(9))
    tags = box(b"udta", full(b"meta", handler, item))
    return replaced(body, (b"moov",), box(b"moov", content(body, (b"moov",)), tags))


@pytest.mark.parametrize(
    ("codec", "kind"),
    [
        ("libx264", "mp4"),
        ("libx265", "mp4"),
        ("libsvtav1", "mp4"),
        ("libsvtav1", "webm"),
        ("libvpx", "webm"),
        ("libvpx-vp9", "webm"),
        ("libx264", "mov"),
        ("libx264", "matroska"),
    ],
)
def test_what_pictrs_stores_is_read(codec: str, kind: str) -> None:
    """Each frame that differs, with the time at which it is shown."""
    frames = read_video(film(plain(RED, GREEN, BLUE), codec, kind), SPEC, BOUNDS)
    assert colors(frames) == ["r", "g", "b"]
    assert places(frames) == ["frame at 0.00 s", "frame at 0.10 s", "frame at 0.20 s"]
    assert all(frame.crop.shape == (32, 32, 3) for frame in frames)
    assert all(frame.crop.dtype == np.uint8 for frame in frames)


def test_mapped_file_is_read_like_bytes(tmp_path: Path) -> None:
    """And can be let go of afterwards."""
    path = tmp_path / "a.mp4"
    path.write_bytes(film(plain(RED, BLUE)))
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        assert colors(read_video(view, SPEC, BOUNDS)) == ["r", "b"]


def test_film_in_which_nothing_changes_is_one_frame() -> None:
    """However long."""
    assert places(read_video(film(plain(*[RED] * 60)), SPEC, BOUNDS)) == ["frame at 0.00 s"]


def test_no_more_frames_than_the_bound() -> None:
    """Of many that differ."""
    frames = read_video(film(scenes(60)), SPEC, replace(BOUNDS, frames=6))
    assert 2 <= len(places(frames)) <= 2 * 6


@pytest.mark.parametrize("size", [(2, 2), (18, 34), (130, 66), (16, 640)])
def test_odd_size_is_read(size: tuple[int, int]) -> None:
    """As small as an encoder makes it, or as long."""
    assert colors(read_video(film(plain(RED, size=size), "libvpx", "webm"), SPEC, BOUNDS))[0] == "r"


def test_single_pixel_is_read() -> None:
    """The smallest picture there is."""
    image = Image.new("RGB", (1, 1), (200, 200, 200))
    frames = read_video(film([image], "libvpx-vp9", "webm"), SPEC, BOUNDS)
    assert frames[0].crop.shape == (32, 32, 3)


def test_second_track_is_read() -> None:
    """And a verdict says so."""
    frames = read_video(joined(plain(RED, RED), plain(GREEN, BLUE)), SPEC, BOUNDS)
    assert colors(frames) == ["r", "g", "b"]
    assert places(frames) == [
        "frame at 0.00 s",
        "track 2, frame at 0.00 s",
        "track 2, frame at 0.10 s",
    ]


@pytest.mark.parametrize(("kind", "number"), [("JPEG", 13), ("PNG", 14)])
def test_cover_is_read(kind: str, number: int) -> None:
    """A picture that players show in lists."""
    cover = encoded(Image.new("RGB", SIZE, BLUE), kind)
    frames = read_video(with_cover(film(plain(RED)), cover, kind=number), SPEC, BOUNDS)
    assert sorted(zip(places(frames), colors(frames), strict=True)) == [
        ("cover picture", "b"),
        ("frame at 0.00 s", "r"),
    ]


def test_picture_in_the_opacity_of_a_cover_is_read() -> None:
    """A white cover that is a picture on a dark ground."""
    cover = Image.new("RGBA", SIZE, (*WHITE, 255))
    cover.paste((*WHITE, 0), (0, 0, 64, 32))
    data = with_cover(film(plain(RED)), encoded(cover, "PNG"), kind=14)
    crops = {frame.where: frame.crop for frame in read_video(data, SPEC, BOUNDS)}
    upper, lower = crops["cover picture, over black"][[8, 24]].mean(axis=(1, 2))
    assert (upper, lower) == (0, 255)


@pytest.mark.parametrize(
    "data",
    [
        joined(plain(RED), plain(GREEN)),
        with_cover(film(plain(RED)), encoded(Image.new("RGB", SIZE, BLUE), "JPEG")),
    ],
    ids=["track", "cover"],
)
def test_further_picture_is_refused_where_the_settings_say_so(data: bytes) -> None:
    """Whatever it shows."""
    error = refusal(data, replace(BOUNDS, hidden="refuse"))
    assert error.code == Code.HIDDEN_PICTURE


def test_frames_outside_the_edit_list_are_read() -> None:
    """A player that ignores the list shows them."""
    body = film(plain(RED, RED, RED, GREEN, GREEN), g="1", bf="0")
    track = content(body, (b"moov", b"trak"))
    edits = box(b"edts", full(b"elst", numbers(1, 200, 3 * 1024, 1 << 16)))
    track = replaced(track, (b"edts",), edits) if b"edts" in track else edits + track
    body = replaced(body, (b"moov", b"trak"), box(b"trak", track))
    assert colors(read_video(body, SPEC, BOUNDS)) == ["r", "g"]


def test_sound_is_no_picture() -> None:
    """There is nothing to look at."""
    error = refusal(sound())
    assert error.code == Code.NOT_A_PICTURE


def test_cover_alone_is_no_film() -> None:
    """A song with a cover, which pict-rs does not store."""
    error = refusal(with_cover(sound(), encoded(scene(), "JPEG")))
    assert error.code == Code.NOT_A_PICTURE


@pytest.mark.parametrize("codec", ["mpeg4", "mpeg2video"])
def test_codec_that_pictrs_does_not_store_is_refused(codec: str) -> None:
    """No exotic decoder sees foreign bytes, not even while the file is opened."""
    assert refusal(film(scenes(3), codec)).code in {Code.UNSUPPORTED_TYPE, Code.DAMAGED}


def test_unread_track_is_refused_beside_one_that_is_read() -> None:
    """Which of the two pict-rs would keep is not for us to know."""
    body = joined(plain(RED), plain(GREEN), codec="mpeg4")
    assert refusal(body).code in {Code.UNSUPPORTED_TYPE, Code.DAMAGED}


@pytest.mark.parametrize("data", [b"", b"\x1a\x45\xdf\xa3", b"\0\0\0\x10ftypisom\0\0\0\0", b"text"])
def test_bytes_that_are_no_film_are_refused(data: bytes) -> None:
    """A signature, or none."""
    assert refusal(data).code == Code.DAMAGED


@pytest.mark.parametrize(
    "data", [b"#EXTM3U\n#EXTINF:1,\na.mp4\n", b"ffconcat version 1.0\nfile a\n"]
)
def test_list_of_other_files_is_no_film(
    data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The formats that name files are never tried."""
    (tmp_path / "a.mp4").write_bytes(film(plain(RED)))
    monkeypatch.chdir(tmp_path)
    refusal(data)


ALIAS = bad_videos.with_reference(b"alis", bad_videos.alias(b"Disk:folder:other.mp4"))


def test_other_file_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though it lies where the film says: the film has no frames of its own."""
    (tmp_path / "other.mp4").write_bytes(bad_videos.mp4())
    monkeypatch.chdir(tmp_path)
    error = refusal(ALIAS)
    assert str(error) == "a video track without a frame"


def test_other_file_would_not_be_opened_if_ffmpeg_asked_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second lock, with the first one open."""
    (tmp_path / "other.mp4").write_bytes(bad_videos.mp4())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(video._DEMUXING, "enable_drefs", "1")
    error = refusal(ALIAS)
    assert str(error) == "the video refers to another file"


def test_frame_over_the_bound_is_refused_before_it_is_decoded() -> None:
    """By its headers."""
    error = refusal(film(plain(RED, size=(200, 200))), replace(BOUNDS, frame_pixels=39_999))
    assert error.code == Code.TOO_LARGE


def test_frame_that_is_larger_than_the_header_says_is_refused() -> None:
    """By the decoder, which is given the bound."""
    body = film(plain(RED, size=(400, 400)))
    stsd = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd")
    entry = bytearray(content(body, stsd))
    at = entry.index(b"avc1") + 4 + 24
    entry[at : at + 4] = b"\0\x40\0\x40"
    body = replaced(body, stsd, box(b"stsd", bytes(entry)))
    refusal(body, replace(BOUNDS, frame_pixels=100_000))


def test_small_film_is_decoded_whole() -> None:
    """A picture between two key frames is found, though they are near each other."""
    frames = plain(*[RED] * 7, GREEN, *[RED] * 22)
    body = film(frames, g="5", sc_threshold="0", bf="0")
    assert "g" in colors(read_video(body, SPEC, BOUNDS))


def test_of_a_large_film_near_key_frames_are_enough() -> None:
    """What decoding costs is what this saves, and what this loses."""
    frames = plain(*[RED] * 7, GREEN, *[RED] * 22)
    body = film(frames, g="5", sc_threshold="0", bf="0")
    bounds = replace(BOUNDS, total_pixels=1_500_000)
    assert places(read_video(body, SPEC, bounds)) == ["frame at 0.00 s"]


def test_of_a_large_film_all_is_decoded_between_far_key_frames() -> None:
    """One key frame does not hide the rest."""
    frames = plain(*[RED] * 17, GREEN, *[RED] * 12)
    body = film(frames, g="9999", sc_threshold="0", bf="0")
    bounds = replace(BOUNDS, total_pixels=3_000_000)
    assert "g" in colors(read_video(body, SPEC, bounds))


@pytest.mark.parametrize("b_frames", ["0", "3", "16"])
def test_one_second_of_60_is_found_in_a_large_film(
    b_frames: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the only key frame and the end, whether or not other frames rest on it."""
    frames = [*scenes(400), *plain(*[GREEN] * 10, size=(160, 120)), *scenes(190)]
    body = film(frames, g="9999", sc_threshold="0", bf=b_frames, b_strategy="0")
    monkeypatch.setattr(video, "_WHOLE_SHARE", 0)
    shown = [frame.crop.reshape(-1, 3).mean(axis=0) for frame in read_video(body, SPEC, BOUNDS)]
    assert any(green > 2 * max(red, blue, 20) for red, green, blue in shown)


def test_hours_in_a_few_kilobytes_are_read() -> None:
    """Ten frames, of which each is shown for an hour; in the second film one is green."""
    body = bad_videos.ten_hours_of_black()
    assert len(body) < 5_000
    read = read_video(body, SPEC, BOUNDS)
    assert places(read) == ["frame at 0.00 s", "frame at 0.00 s, whole picture"]
    frames = [*plain(*[(0, 0, 0)] * 7), *plain(GREEN), *plain(*[(0, 0, 0)] * 2)]
    for bounds in (BOUNDS, replace(BOUNDS, total_pixels=2_000_000)):
        body = bad_videos.hours(frames)
        read = read_video(body, SPEC, bounds)
        assert "g" in colors([frame for frame in read if frame.crop.max() > 40])
        assert places(read)[1] == "frame at 25200.00 s"


def test_film_that_costs_too_much_even_so_is_refused() -> None:
    """Rather than seen in part."""
    body = film(plain(*[RED] * 60), g="9999", sc_threshold="0", bf="0")
    error = refusal(body, replace(BOUNDS, total_pixels=2_000_000))
    assert error.code == Code.TOO_LARGE


def test_what_is_decoded_counts_and_not_what_headers_say() -> None:
    """Here they say two by two pixels."""
    body = film(plain(*[RED] * 30, size=(640, 480)), "libvpx", "webm", speed="8")
    tracks = bytearray(body)
    for name, low in ((b"\xb0\x82", 2), (b"\xba\x82", 2)):
        at = tracks.index(name) + 2
        tracks[at : at + 2] = low.to_bytes(2, "big")
    error = refusal(bytes(tracks), replace(BOUNDS, total_pixels=4_000_000))
    assert error.code == Code.TOO_LARGE


def test_more_tracks_than_any_camera_writes_are_refused() -> None:
    """Before any is read."""
    assert refusal(bad_videos.many_tracks(20)).code == Code.TOO_LARGE


def test_packets_that_overlap_are_refused() -> None:
    """A file of a few kilobytes that would be read a thousand times over."""
    assert refusal(bad_videos.overlapping(1000)).code == Code.TOO_LARGE


def test_more_packets_than_an_hour_has_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """However small."""
    monkeypatch.setattr(video, "_MOST_PACKETS", 9)
    assert refusal(film(scenes(10))).code == Code.TOO_LARGE


def test_track_without_a_frame_is_refused() -> None:
    """Never passed as seen."""
    path = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsz")
    error = refusal(replaced(film(scenes(3)), path, full(b"stsz", numbers(0, 0))))
    assert error.code == Code.DAMAGED


def test_film_that_breaks_off_is_read_as_far_as_it_goes() -> None:
    """As players do; its table comes first."""
    body = io.BytesIO()
    with av.open(body, "w", format="mp4", options={"movflags": "frag_every_frame"}) as container:
        stream = container.add_stream("libx264", rate=10, options={"bf": "0", "g": "1"})
        assert isinstance(stream, VideoStream)
        stream.width, stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        for image in plain(RED, GREEN, BLUE):
            frame = av.VideoFrame.from_ndarray(np.asarray(image), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    data = body.getvalue()
    cut = data[: data.rindex(b"moof") - 4]
    assert colors(read_video(cut, SPEC, BOUNDS)) == ["r", "g"]


def test_decoders_say_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """What FFmpeg thinks of foreign bytes is no matter for the log."""
    refusal(film(scenes(3))[:1000])
    assert capfd.readouterr() == ("", "")
