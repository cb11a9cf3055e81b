"""MP4 and WebM -> the frames of a video that are to be judged.

FFmpeg's libraries do the decoding, with nothing left for them to guess: one of two demuxers, a
handful of decoders, no file but the one in memory. Every video track is read, a cover picture too,
and what an edit list leaves out. Which of the decoded frames are judged is `Selection`'s choice.

A video that is small enough is decoded whole, so that a picture shown for one frame is found. Of a
larger one so much is decoded that no stretch longer than `Bounds.gap_seconds` goes unseen: see
`track`. One that costs more than `Bounds.total_pixels` even so is refused.
"""

import mmap
from collections.abc import Sequence
from functools import partial
from typing import Final, NoReturn, cast

import av
from av.container import Flags, InputContainer
from av.stream import Disposition

from safety_proxy.crops import CropSpec
from safety_proxy.errors import UndecodableImage
from safety_proxy.media.bounds import (
    Bounds,
    Code,
    Frame,
    check_frame,
    check_total,
    joined,
    undecodable,
)
from safety_proxy.media.color import ColorNotes
from safety_proxy.media.formats.screen import Screen
from safety_proxy.media.formats.track import Decoded, HeldBackError, Track, VideoPacket
from safety_proxy.media.selection import Selection
from safety_proxy.media.stills import Picture, frames_of

# What pict-rs stores, and the two that covers are made of. No other decoder sees foreign bytes.
_DECODERS: Final = ("h264", "hevc", "vp8", "vp9", "libdav1d", "mjpeg", "png")

# Nothing outside the file is opened; `_refuse_to_open` stands behind that. Without edit lists and
# chapters all frames come, and none twice, whatever these tables say.
_DEMUXING: Final = {
    "codec_whitelist": ",".join(_DECODERS),
    "protocol_whitelist": "none",
    "enable_drefs": "0",
    "ignore_editlist": "1",
    "ignore_chapters": "1",
    "max_streams": "32",
}
_EBML: Final = b"\x1a\x45\xdf\xa3"

# Video tracks and covers together. Cameras write one track, seldom a second or a cover.
_MOST_TRACKS: Final = 8

# Of all tracks together: an hour at 50 frames a second, a second of demuxing.
_MOST_PACKETS: Final = 200_000

# Packets lie beside each other in the file. Where tables let them overlap, or the container
# compresses them, they are larger than it.
_MOST_INFLATION: Final = 2

# Frame threads, each with pictures of its own in memory. More would take the cores from the model.
_THREADS: Final = 2

# Of `Bounds.total_pixels`, what decoding every frame may cost: 18 s of 720p at 30 frames a second.
_WHOLE_SHARE: Final = 0.25


def read_video(data: mmap.mmap | bytes, spec: CropSpec, bounds: Bounds) -> list[Frame]:
    """The crops of a video's frames that are to be judged, by track and time.

    Of up to `bounds.frames` frames: of each track the first, the last, and those between that
    `Selection` chooses. Blocks for the time of the decode.
    Raises UndecodableImage if the bytes are no video that this build reads, are damaged beyond a
    tenth, or pass a bound.
    """
    try:
        try:
            return _read(data, spec, bounds, threads=_THREADS)
        except HeldBackError:
            return _read(data, spec, bounds, threads=1)
    except UndecodableImage:
        raise
    except MemoryError as error:
        raise undecodable(Code.TOO_LARGE, "not enough memory to decode it") from error
    except Exception as error:
        # Decoders fail on hostile bytes with whatever exception the broken invariant gives.
        message = f"decoder failed: {type(error).__name__}: {error}"
        raise undecodable(Code.DAMAGED, message) from error


def _read(data: mmap.mmap | bytes, spec: CropSpec, bounds: Bounds, *, threads: int) -> list[Frame]:
    with av.open(
        _Bytes(data),
        "r",
        format="matroska" if data[:4] == _EBML else "mov",
        options={**_DEMUXING, "max_pixels": str(bounds.frame_pixels)},
        metadata_errors="replace",
        io_open=_refuse_to_open,
    ) as container:
        # A missing timestamp is not worth to read all that follows into memory.
        container.flags &= ~cast("int", Flags.gen_pts.value)
        return _Video(container, len(data), spec, bounds, threads).frames()


def _refuse_to_open(*_: object) -> NoReturn:
    """What FFmpeg calls for any other file that a video names."""
    raise undecodable(Code.UNSUPPORTED_TYPE, "the video refers to another file")


class _Bytes:
    """What FFmpeg reads from. An `mmap` itself would raise where it seeks past the end."""

    def __init__(self, data: mmap.mmap | bytes) -> None:
        self._data = data
        self._place = 0

    def read(self, count: int) -> bytes:
        read = self._data[self._place : self._place + count]
        self._place += len(read)
        return read

    def seek(self, offset: int, whence: int) -> int:
        self._place = max(0, (0, self._place, len(self._data))[whence & 3] + offset)
        return self._place

    def tell(self) -> int:
        return self._place


class _Video:
    """One opened video on its way to frames; its tracks share the bounds."""

    def __init__(
        self,
        container: InputContainer,
        size: int,
        spec: CropSpec,
        bounds: Bounds,
        threads: int,
    ) -> None:
        self._container = container
        self._size = size
        self._spec = spec
        self._bounds = bounds
        self._threads = threads
        self._spent = 0

    def frames(self) -> list[Frame]:
        """The result of `read_video`."""
        tracks = self._tracks()
        self._collect_packets(tracks)
        self._plan(tracks)
        covers = sum(track.is_cover for track in tracks)
        places = (self._bounds.frames - covers) // (len(tracks) - covers)
        return [frame for track in tracks for frame in self._judged(track, max(2, places))]

    def _tracks(self) -> list[Track]:
        """All that have pictures. Raises UndecodableImage if one cannot be read."""
        tracks: list[Track] = []
        number = 0
        for stream in self._container.streams.video:
            context = stream.codec_context
            if getattr(context, "name", None) not in _DECODERS:  # None for what FFmpeg lacks
                raise undecodable(Code.UNSUPPORTED_TYPE, "a video track of an unknown codec")
            if context.width or context.height:
                check_frame(context.width, context.height, self._bounds)
            if stream.disposition & Disposition.attached_pic:
                tracks.append(Track("cover picture", stream, is_cover=True))
            else:
                number += 1
                tracks.append(
                    Track(f"track {number}" if number > 1 else "", stream, is_cover=False)
                )
        if not number:
            raise undecodable(Code.NOT_A_PICTURE, "no video track")
        if len(tracks) > _MOST_TRACKS:
            raise undecodable(Code.TOO_LARGE, f"{len(tracks)} video tracks and covers")
        if len(tracks) > 1 and self._bounds.hidden == "refuse":
            raise undecodable(Code.HIDDEN_PICTURE, "a second video track or a cover picture")
        return tracks

    def _collect_packets(self, tracks: Sequence[Track]) -> None:
        """Reads all that may have to be decoded, as it is stored."""
        by_stream = {track.stream.index: track for track in tracks}
        count = size = 0
        for packet in self._container.demux([track.stream for track in tracks]):
            if not packet.size:
                continue  # PyAV's way to say that a stream has ended
            count += 1
            size += packet.size
            if count > _MOST_PACKETS or size > _MOST_INFLATION * self._size:
                raise undecodable(Code.TOO_LARGE, "more frames than such a file has room for")
            by_stream[packet.stream_index].packets.append(cast("VideoPacket", packet))
        if not all(track.packets for track in tracks):
            raise undecodable(Code.DAMAGED, "a video track without a frame")

    def _plan(self, tracks: Sequence[Track]) -> None:
        total = self._bounds.total_pixels
        if sum(track.cost_of_all for track in tracks) <= _WHOLE_SHARE * total:
            for track in tracks:
                track.plan_all()
            return
        for track in tracks:
            track.plan(self._bounds)
        check_total(sum(track.cost for track in tracks), self._bounds)

    def _spend(self, pixels: int) -> None:
        self._spent += pixels
        check_total(self._spent, self._bounds)

    def _judged(self, track: Track, places: int) -> list[Frame]:
        """The crops of one track. Raises UndecodableImage if there is no frame in it."""
        bounds = self._bounds
        screen = Screen(self._spec, pixel_shape=float(track.stream.sample_aspect_ratio or 1))
        selection = Selection[tuple[Picture, str]](
            places, bounds.gap_seconds, bounds.salt + track.name
        )
        seconds = 0.0
        frames_in_order = track.decoded(bounds, self._spend, threads=self._threads)
        for number, decoded in enumerate(frames_in_order, 1):
            where = f"frame {number}"
            if decoded.seconds is not None:
                seconds = decoded.seconds
                where = f"frame at {seconds:.2f} s"
            where = track.name if track.is_cover else joined(track.name, where)
            thumb = screen.thumb(decoded.frame, decoded.alpha)
            selection.offer(seconds, thumb, partial(_kept, screen, decoded, where))
        frames = [
            frame
            for picture, where in selection.chosen()
            for frame in frames_of(picture, self._spec, where=where, few=True)
        ]
        if not frames:
            raise undecodable(Code.DAMAGED, "no frame could be decoded")
        return frames


def _kept(screen: Screen, decoded: Decoded, where: str) -> tuple[Picture, str]:
    """What is kept of a frame until it is sure to be judged: no more than its crops need."""
    frame = decoded.frame
    notes = ColorNotes(code_points=(frame.color_primaries, frame.color_trc))
    return Picture(screen.picture(frame, decoded.alpha), notes), where
