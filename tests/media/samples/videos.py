"""Videos: the purple is in some frames, tracks or parts only."""

from collections.abc import Iterable
from functools import partial

from PIL import Image

from tests.media.samples.tools import Make, filmed, scene, scenes
from tests.pictures import Color, encoded

_H264 = ("-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p")
_H265 = ("-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "log-level=none")
_AV1 = ("-c:v", "libaom-av1", "-cpu-used", "8", "-usage", "realtime")
_VP8 = ("-c:v", "libvpx", "-deadline", "realtime", "-cpu-used", "8", "-b:v", "1M")
_VP9 = ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8")
_ALT_REF = ("-deadline", "good", "-lag-in-frames", "10", "-auto-alt-ref", "1")
CODECS = {
    "h264.mp4": _H264,
    "h264-10-bit.mp4": (*_H264, "-pix_fmt", "yuv420p10le"),
    "h264-full-chroma.mp4": (*_H264, "-pix_fmt", "yuv444p"),
    "h264-b-frames.mp4": (*_H264, "-preset", "medium", "-bf", "8"),
    "h264-interlaced.mp4": (*_H264, "-flags", "+ilme+ildct"),
    "h265.mp4": (*_H265, "-tag:v", "hvc1"),
    "av1.mp4": _AV1,
    "av1.webm": _AV1,
    "vp8.webm": _VP8,
    "vp9.webm": _VP9,
    "vp9-alt-ref.webm": (*_VP9, *_ALT_REF),
    "vp9-10-bit.webm": (*_VP9, "-pix_fmt", "yuv420p10le"),
}
_ONE_KEY_FRAME = ("-g", "9999")
_NO_SCENE_CUTS = ("-keyint_min", "9999", "-sc_threshold", "0")


def with_codec(color: Color, name: str) -> bytes:
    """In frames 5 and 6 of 20."""
    return filmed(scenes(20, {4, 5}, color), *CODECS[name], out=f"a.{name[-4:].lstrip('.')}")


def in_frames(
    color: Color,
    count: int,
    numbers: Iterable[int],
    *options: str,
    out: str = "a.mp4",
    rate: int = 10,
) -> bytes:
    """In frames with these numbers, from 0, of a film that has one key frame."""
    codec = _VP9 if out.endswith("webm") else (*_H264, *_NO_SCENE_CUTS)
    frames = scenes(count, numbers, color)
    return filmed(frames, *codec, *_ONE_KEY_FRAME, *options, out=out, rate=rate)


def in_second_track(color: Color, out: str) -> bytes:
    """In a second video track, smaller than the first."""
    other = filmed(scenes(10, {3, 4, 5}, color, size=(80, 60)), *_VP9, out="b.webm")
    return filmed(
        scenes(10), "-i", "b.webm", "-map", "0", "-map", "1",
        *(_H264 if out.endswith("mp4") else _VP8), out=out, b_webm=other,
    )  # fmt: skip


def as_cover(color: Color) -> bytes:
    """As the cover, a picture that players show in lists."""
    film = filmed(scenes(5), *_H264, out="b.mp4")
    return filmed(
        scenes(1), "-i", "b.mp4", "-i", "c.jpg", "-map", "1", "-map", "2", "-c", "copy",
        "-disposition:v:1", "attached_pic", out="a.mp4", b_mp4=film,
        c_jpg=encoded(scene(color), "JPEG"),
    )  # fmt: skip


def as_attachment(color: Color) -> bytes:
    """As a picture that is attached to a Matroska file."""
    film = filmed(scenes(5), *_VP9, out="b.webm")
    return filmed(
        scenes(1), "-i", "b.webm", "-map", "1", "-c", "copy", "-attach", "c.jpg",
        "-metadata:s:t", "mimetype=image/jpeg", out="a.mkv", b_webm=film,
        c_jpg=encoded(scene(color), "JPEG"),
    )  # fmt: skip


def before_the_edit(color: Color) -> bytes:
    """In what an edit list leaves out at the start."""
    film = filmed(scenes(20, {4, 5}, color), *_H264, *_ONE_KEY_FRAME, *_NO_SCENE_CUTS, out="b.mp4")
    return filmed(
        scenes(1), "-ss", "1.0", "-i", "b.mp4", "-map", "1", "-c", "copy", out="a.mp4", b_mp4=film
    )


def with_wrong_times(color: Color) -> bytes:
    """In a film whose header says that it ends before."""
    body = bytearray(in_frames(color, 30, {20, 21}))
    for kind, at in ((b"mvhd", 16), (b"mdhd", 16), (b"tkhd", 20)):
        place = body.index(kind) + 4 + at
        body[place : place + 4] = (1).to_bytes(4, "big")
    return bytes(body)


def all_at_once(color: Color) -> bytes:
    """In a film all of whose frames are shown within a thousandth of a second, says its table."""
    body = bytearray(in_frames(color, 30, {20, 21}, "-bf", "0"))
    place = body.index(b"stts") + 16
    body[place : place + 4] = (0).to_bytes(4, "big")
    return bytes(body)


def see_through(color: Color, codec: str) -> bytes:
    """In a film of one color that is clear as glass but for a moment."""
    frames = [Image.new("RGB", (64, 64), color)] * 10
    return filmed(
        frames, "-vf", "format=yuva420p,geq=lum='p(X,Y)':a='if(eq(N,5),255,0)'", "-c:v", codec,
        "-auto-alt-ref", "0", "-pix_fmt", "yuva420p", out="a.webm",
    )  # fmt: skip


def under_transparency(color: Color, codec: str) -> bytes:
    """In one frame of a film that is clear as glass all the time, so that no player shows it."""
    return filmed(
        scenes(10, {5}, color), "-vf", "format=rgba,colorchannelmixer=aa=0,format=yuva420p",
        "-c:v", codec, "-auto-alt-ref", "0", "-pix_fmt", "yuva420p", out="a.webm",
    )  # fmt: skip


def sideways(color: Color) -> bytes:
    """At one end of a long picture that the container turns by a quarter."""
    size = (480, 120)
    stored = scene(color, size=size, box=(370, 0, *size)).transpose(Image.Transpose.ROTATE_90)
    body = bytearray(filmed([stored] * 5, *_H264, out="a.mp4"))
    place = body.index(b"tkhd") + 44
    one = (1 << 16).to_bytes(4, "big", signed=True)
    minus = (-1 << 16).to_bytes(4, "big", signed=True)
    body[place : place + 20] = bytes(4) + one + bytes(4) + minus + bytes(4)
    return bytes(body)


def gradually(color: Color) -> bytes:
    """Brought in over 40 frames."""
    start, end = scene(), scene(color)
    frames = [Image.blend(start, end, n / 39) for n in range(40)]
    return filmed(frames, *_H264, *_ONE_KEY_FRAME, *_NO_SCENE_CUTS, out="a.mp4")


PAIRS: dict[str, Make] = {
    **{f"codec-{name}": partial(with_codec, name=name) for name in CODECS},
    "one-second-of-60.mp4": lambda color: in_frames(color, 600, range(400, 410)),
    "one-frame-of-200.mp4": lambda color: in_frames(color, 200, {123}, rate=50),
    "one-frame-of-200.webm": lambda color: in_frames(color, 200, {123}, rate=50, out="a.webm"),
    "last-frame.mp4": lambda color: in_frames(color, 50, {49}),
    "last-frame.webm": lambda color: in_frames(color, 50, {49}, out="a.webm"),
    "single-frame.mp4": lambda color: in_frames(color, 1, {0}),
    "gradually.mp4": gradually,
    "fragmented.mp4": lambda color: in_frames(
        color, 30, {20}, "-movflags", "frag_every_frame+empty_moov"
    ),
    "faststart.mp4": lambda color: in_frames(color, 30, {20}, "-movflags", "faststart"),
    "quicktime.mov": lambda color: in_frames(color, 30, {20}, out="a.mov"),
    "second-track.mp4": partial(in_second_track, out="a.mp4"),
    "second-track.webm": partial(in_second_track, out="a.webm"),
    "cover.mp4": as_cover,
    "attachment.mkv": as_attachment,
    "before-the-edit.mp4": before_the_edit,
    "wrong-duration.mp4": with_wrong_times,
    "all-at-once.mp4": all_at_once,
    "transparent-vp8.webm": partial(see_through, codec="libvpx"),
    "transparent-vp9.webm": partial(see_through, codec="libvpx-vp9"),
    "under-transparency-vp8.webm": partial(under_transparency, codec="libvpx"),
    "under-transparency-vp9.webm": partial(under_transparency, codec="libvpx-vp9"),
    "sideways.mp4": sideways,
    "webm-named.gif": lambda color: in_frames(color, 20, {10}, out="a.webm"),
}
