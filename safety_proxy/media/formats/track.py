"""One video track: its packets -> the pictures decoded of it, in the order in which they are shown.

Where all of a track is decoded, every frame comes. Else key frames come, and where the next is
too far to stand for what follows on one of them, so many of those that no stretch goes unseen: all
on which others rest, since they have to be decoded anyway, and of the rest, half of the frames in
many films, one in every half gap. Which one, and in which stretches between near key frames all
frames come though they need not, is left to chance: a film that hides something from a sampler
would have to know.
"""

import random
from collections import defaultdict
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
from safety_proxy.media.formats import units

Spend = Callable[[int], None]
VideoPacket: TypeAlias = "Packet[VideoStream]"

# What a packet costs beside the pixels of its frame, in pixels.
_PACKET_PIXELS: Final = 50_000

# Frames that pass in a second at most, whatever timestamps say: nobody vouches for those.
_FASTEST: Final = 60

# Of a frame that has no timestamp.
_FRAME_SECONDS: Final = 1 / 25

# Of `Bounds.total_pixels`, what frames cost at most that are decoded between near key frames.
_SPOT_SHARE: Final = 0.05

# A gap has two cells at least, each with a frame that is decoded.
_CELLS: Final = 2
_LEAST_CELL_SECONDS: Final = 0.001

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
    """The packets `start` to `end`, from one key frame up to the next.

    whole: what follows on the key frame is to be decoded too, but what may be left out.
    """

    start: int
    end: int
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
    _needed: set[int] = field(default_factory=set)  # numbers of packets not to be left out

    @property
    def cost_of_all(self) -> int:
        """Pixels that decoding every frame takes, by the headers."""
        return self._cost_of(len(self.packets))

    @property
    def cost(self) -> int:
        """Pixels that decoding what is planned takes, by the headers."""
        followers = (n for it in self._groups if it.whole for n in range(it.start, it.end))
        decoded = sum(n in self._needed or not self._is_left_out(n) for n in followers)
        return self._cost_of(decoded + sum(not it.whole for it in self._groups))

    def _is_left_out(self, number: int) -> bool:
        """Whether the decoder will find that no other frame rests on the one in this packet."""
        context = self.stream.codec_context
        packet = memoryview(self.packets[number])
        return not units.others_rest_on(packet, context.name, context.extradata or b"")

    def _cost_of(self, count: int) -> int:
        context = self.stream.codec_context
        return (_PACKET_PIXELS + context.width * context.height) * count

    def plan_all(self) -> None:
        """Every frame is to be decoded."""
        self._groups = [_Group(0, len(self.packets), whole=True)]
        self._needed = set(range(len(self.packets)))

    def plan(self, bounds: Bounds) -> None:
        """So much is to be decoded that no longer gap than that of the bounds goes unseen."""
        seconds = self._times()
        chance = random.Random(bounds.salt + self.name)  # noqa: S311 -- as in Selection
        # Of a longer video the whole length is sampled, with larger gaps.
        gap_seconds = bounds.gap_seconds * max(1, (max(seconds) - min(seconds)) / bounds.seconds)
        gap_frames = bounds.gap_seconds * max(_FASTEST, len(self.packets) / bounds.seconds)
        starts = [0, *(n for n, packet in enumerate(self.packets) if n and packet.is_keyframe)]
        self._groups = []
        for start, end in pairwise([*starts, len(self.packets)]):
            shown = seconds[start : end + 1]
            far = max(shown) - min(shown) > gap_seconds or end - start > gap_frames
            whole = far or not self.packets[start].is_keyframe
            self._groups.append(_Group(start, end, whole=whole))
        self._needed = set(range(len(self.packets)))
        if self.stream.codec_context.name in units.LAYERED:
            self._needed = _one_in_each_cell(seconds, gap_seconds, gap_frames, chance)
        self._look_between(bounds, chance)
        self._thin_out(seconds, gap_seconds, gap_frames, chance)

    def _look_between(self, bounds: Bounds, chance: random.Random) -> None:
        """Has all frames decoded between some of the near key frames."""
        left = int(_SPOT_SHARE * bounds.total_pixels)
        near = [group for group in self._groups if not group.whole]
        for group in chance.sample(near, len(near)):
            left -= self._cost_of(group.end - group.start)
            if left < 0:
                return
            group.whole = True
            self._needed.update(range(group.start, group.end))

    def _thin_out(
        self, seconds: Sequence[float], gap_seconds: float, gap_frames: float, chance: random.Random
    ) -> None:
        """Leaves out key frames that are nearer to each other than they need be."""
        kept: list[_Group] = []
        last: int | None = None  # the number of the key frame that stands for what follows
        for group, following in pairwise([*self._groups, None]):
            assert group is not None
            most = chance.uniform(0.5, 1)
            if (
                following is not None
                and last is not None
                and not group.whole
                and 0 <= seconds[following.start] - seconds[last] <= most * gap_seconds
                and following.start - last <= most * gap_frames
            ):
                continue
            kept.append(group)
            last = None if group.whole else group.start
        self._groups = kept

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
                for number in range(group.start, group.end):
                    is_needed = number == group.start or number in self._needed
                    yield from decoder.decode(self.packets[number], may_leave_out=not is_needed)
            else:
                yield from decoder.drain()
                alone = [*decoder.decode(self.packets[group.start]), *decoder.drain()]
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


def _one_in_each_cell(
    seconds: Sequence[float], gap_seconds: float, gap_frames: float, chance: random.Random
) -> set[int]:
    """Numbers of frames, one in each half gap, by timestamps and by count.

    seconds: when each is shown, in the order of decoding. What is shown for longer than a cell may
    have none but its own, so each such frame is among them, and the last one.
    """
    cell_seconds = max(_LEAST_CELL_SECONDS, gap_seconds / _CELLS)
    cell_frames = max(1, gap_frames // _CELLS)
    cells: dict[tuple[str, float], list[int]] = defaultdict(list)
    for number, shown in enumerate(seconds):
        cells["seconds", shown // cell_seconds].append(number)
        cells["frames", number // cell_frames].append(number)
    in_order = sorted(range(len(seconds)), key=seconds.__getitem__)
    long = {
        number
        for number, following in pairwise(in_order)
        if seconds[following] - seconds[number] > cell_seconds
    }
    return {in_order[-1], *long, *(chance.choice(numbers) for numbers in cells.values())}


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

    def decode(
        self, packet: "VideoPacket | None", *, may_leave_out: bool = False
    ) -> list[tuple[VideoFrame, VideoFrame | None]]:
        """The frames that this packet completes, with their opacity; None: all that are left.

        may_leave_out: it need not be decoded for its own sake.
        Raises UndecodableImage where too many packets are damaged for the rest to stand for all.
        """
        self._spend(_PACKET_PIXELS)
        self._context.skip_frame = "NONREF" if may_leave_out else "DEFAULT"
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
