"""One video track: its packets -> the pictures decoded of it, in the order in which they are shown.

Where all of a track is decoded, every frame comes. Else the key frames come, and all that follow on
one of them where the next is too far to stand for them.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, TypeAlias

import numpy as np
from av.codec import CodecContext
from av.codec.context import Flags, Flags2
from av.error import InvalidDataError
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from safety_proxy.media.bounds import Bounds, Code, undecodable

Spend = Callable[[int], None]
VideoPacket: TypeAlias = "Packet[VideoStream]"

# What a packet costs beside the pixels of its frame, in pixels.
_PACKET_PIXELS: Final = 50_000

# Frames that pass in a second at most, whatever timestamps say: nobody vouches for those.
_FASTEST: Final = 60

# Of a frame that has no timestamp.
_FRAME_SECONDS: Final = 1 / 25

# Of a track's packets. Players go on after a damaged one, and so do we, but not on next to nothing.
_MOST_DAMAGED: Final = 0.1

# How Matroska keeps transparency: a second video, a frame of it with each packet of the first,
# behind eight bytes that say so.
_ADDITION: Final = "matroska_block_additional"
_IS_ALPHA: Final = (1).to_bytes(8, "big")


class HeldBackError(Exception):
    """A packet is damaged, and good frames beside it are lost in the threads that decode them."""


@dataclass(slots=True)
class Decoded:
    """A decoded frame.

    alpha: a frame whose brightness is the opacity, in a track that has transparency.
    seconds: since the track's first frame; None where no timestamp says so.
    """

    frame: VideoFrame
    alpha: VideoFrame | None
    seconds: float | None


@dataclass(slots=True)
class _Group:
    """The packets from one key frame up to the next; `whole`: all of them are to be decoded."""

    packets: Sequence[VideoPacket]
    whole: bool


@dataclass(slots=True)
class Track:
    """A video track, or a picture that is attached to the file.

    name: what a verdict calls it; empty for the first track.
    packets: filled by whoever reads the file, before anything else is asked.
    """

    name: str
    stream: VideoStream
    is_cover: bool
    packets: list[VideoPacket] = field(default_factory=list)
    _groups: list[_Group] = field(default_factory=list)

    @property
    def cost_of_all(self) -> int:
        """Pixels that decoding every frame takes, by the headers."""
        return self._packet_cost * len(self.packets)

    @property
    def cost(self) -> int:
        """Pixels that decoding what is planned takes, by the headers."""
        return self._packet_cost * sum(
            len(group.packets) if group.whole else 1 for group in self._groups
        )

    @property
    def _packet_cost(self) -> int:
        context = self.stream.codec_context
        return _PACKET_PIXELS + context.width * context.height

    def plan_all(self) -> None:
        """Every frame is to be decoded."""
        self._groups = [_Group(self.packets, whole=True)]

    def plan(self, bounds: Bounds) -> None:
        """Key frames are to be decoded, and all that follows on one where the next is far."""
        seconds = self._times()
        # Of a longer video the whole length is sampled, with larger gaps.
        gap_seconds = bounds.gap_seconds * max(1, (max(seconds) - min(seconds)) / bounds.seconds)
        gap_frames = bounds.gap_seconds * max(_FASTEST, len(self.packets) / bounds.seconds)
        starts = [0, *(n for n, packet in enumerate(self.packets) if n and packet.is_keyframe)]
        for start, end in pairwise([*starts, len(self.packets)]):
            packets, shown = self.packets[start:end], seconds[start : end + 1]
            far = max(shown) - min(shown) > gap_seconds or len(packets) > gap_frames
            self._groups.append(_Group(packets, whole=far or not packets[0].is_keyframe))

    def decoded(self, bounds: Bounds, spend: Spend, *, threads: int) -> Iterator[Decoded]:
        """What is decoded, as planned.

        spend: called with the pixels that each step took; what it raises ends the work.
        Raises UndecodableImage if much is damaged, HeldBackError if anything is and `threads` are
        more than one, or whatever else the decoder raises.
        """
        decoder = _Decoder(self, bounds, spend, threads)
        start = min(self._times())
        for frame, alpha in self._decoded(decoder):
            seconds = None
            if frame.pts is not None and self.stream.time_base is not None:
                seconds = max(0.0, float(frame.pts * self.stream.time_base) - start)
            yield Decoded(frame, alpha, seconds)

    def _decoded(self, decoder: "_Decoder") -> Iterator[tuple[VideoFrame, VideoFrame | None]]:
        for group in self._groups:
            if group.whole:
                for packet in group.packets:
                    yield from decoder.decode(packet)
            else:
                yield from decoder.drain()
                alone = [*decoder.decode(group.packets[0]), *decoder.drain()]
                if not alone or not alone[0][0].key_frame:
                    # The container says that it is one. What it shows alone is not to be believed.
                    raise undecodable(Code.DAMAGED, "a key frame that is none")
                yield from alone
        yield from decoder.drain()

    def _times(self) -> list[float]:
        """When each packet's frame is shown, in seconds."""
        times: list[float] = []
        for packet in self.packets:
            stamp = packet.dts if packet.pts is None else packet.pts
            if stamp is None:
                times.append(times[-1] + _FRAME_SECONDS if times else 0.0)
            else:
                times.append(float(stamp * packet.time_base))
        return times


class _Decoder:
    """The decoder of a track, and one for its transparency where there is any."""

    def __init__(self, track: Track, bounds: Bounds, spend: Spend, threads: int) -> None:
        self._spend = spend
        self._context = track.stream.codec_context
        self._alpha_context: VideoCodecContext | None = None
        self._alpha: VideoFrame | None = None
        self._damaged = 0
        self._most_damaged = max(1, _MOST_DAMAGED * len(track.packets))
        if any(packet.has_sidedata(_ADDITION) for packet in track.packets):
            context = CodecContext.create(self._context.name, "r")
            assert isinstance(context, VideoCodecContext)
            self._alpha_context = context
            self._alpha = VideoFrame.from_ndarray(np.full((1, 1), 255, np.uint8), format="gray")
            threads = 1  # more of them delay frames: which belong together could not be told
            _prepare(context, bounds, threads)
        _prepare(self._context, bounds, threads)

    def decode(self, packet: "VideoPacket | None") -> list[tuple[VideoFrame, VideoFrame | None]]:
        """The frames that this packet completes, with their opacity; None: all that are left.

        Raises UndecodableImage where too many packets are damaged for the rest to stand for all.
        """
        self._spend(_PACKET_PIXELS)
        try:
            if packet is not None and self._alpha_context is not None:
                self._decode_alpha(packet, self._alpha_context)
            frames = self._context.decode(packet)
        except InvalidDataError as error:
            if self._context.thread_count > 1:
                raise HeldBackError from error
            self._damaged += 1
            if self._damaged > self._most_damaged:
                raise undecodable(Code.DAMAGED, f"{self._damaged} frames: {error}") from error
            return []
        self._spend(sum(frame.width * frame.height for frame in frames))
        return [(frame, self._alpha) for frame in frames]

    def drain(self) -> list[tuple[VideoFrame, VideoFrame | None]]:
        """The frames that are left; what is decoded next has to be a key frame."""
        left = self.decode(None)
        self._context.flush_buffers()
        return left

    def _decode_alpha(self, packet: VideoPacket, context: VideoCodecContext) -> None:
        if not packet.has_sidedata(_ADDITION):
            return
        addition = bytes(packet.get_sidedata(_ADDITION))
        if addition.startswith(_IS_ALPHA):
            for frame in context.decode(Packet(addition[len(_IS_ALPHA) :])):
                self._spend(frame.width * frame.height)
                self._alpha = frame


def _prepare(context: VideoCodecContext, bounds: Bounds, threads: int) -> None:
    """Sets what has to be set before the first packet."""
    context.options = {"max_pixels": str(bounds.frame_pixels)}
    context.thread_count = threads
    context.thread_type = "FRAME"
    # What a decoder would hold back, since it rests on what is not there, some players show.
    context.flags |= Flags.output_corrupt
    context.flags2 |= Flags2.show_all
