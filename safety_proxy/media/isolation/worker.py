"""The other side of `processes`: what runs in the template process and in each decoder.

    template   a fresh interpreter that has imported all decoders and never sees a picture. It
               forks a decoder for each {"fork": n} that comes with a socket, kills it upon
               {"kill": n}, and tells {"ended": n, "status": ...}. When the proxy is gone, so that
               its own socket ends, it kills them all and ends.
    decoder    closes itself in, says READY, and answers on its socket, one picture at a time

Never imported by the proxy itself: `template` starts it as a program.
"""

import codecs
import gc
import importlib
import json
import mmap
import os
import pkgutil
import select
import signal
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import numpy as np

from safety_proxy.crops import CropSpec
from safety_proxy.errors import UndecodableImage
from safety_proxy.media.bounds import Bounds, Frame
from safety_proxy.media.isolation import sandbox, wire

Decode = Callable[[mmap.mmap | bytes, CropSpec, Bounds], list[Frame]]

# What imports parts of itself only when a file needs them. No file can be opened by then, so all of
# it is imported before.
_PACKAGES: Final = ("PIL", "av", "pillow_jxl", "pdqhash")

# Codecs of texts in pictures.
_ENCODINGS: Final = ("ascii", "latin_1", "utf_8", "utf_16", "utf_16_be", "utf_16_le", "utf_32")

_CONTROL_BYTES: Final = 4096

# A decoder's socket; below it are the standard streams.
_CHANNEL: Final = 3


@dataclass(frozen=True, slots=True)
class Duty:
    """What each decoder does: `decode`, for so many files, with so much for each."""

    decode: Decode
    files: int
    memory_bytes: int
    cpu_seconds: float


def main(config: dict[str, Any]) -> None:
    """The template's life. `config` is what `template` passes on."""
    # A terminal and systemd signal all processes at once. Decoders go on until the proxy is done.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    control = socket.socket(fileno=config["control"])
    try:
        duty = Duty(
            _import(config["decode"]),
            config["files"],
            config["memory_bytes"],
            config["cpu_seconds"],
        )
        sandbox.give_up_privileges()
    except Exception as error:  # noqa: BLE001 -- told to the proxy, which says it on its log
        _tell(control, failed=f"{type(error).__name__}: {error}"[:1000])
        return
    # What lives now lives as long as the process; left alone by the collector, its pages stay
    # shared between the template and all decoders.
    gc.collect()
    gc.freeze()
    _tell(control, seccomp=sandbox.can_filter_calls())
    Template(control, duty).run()


def _import(name: str) -> Decode:
    """The function `module:name`, with all that it may need later."""
    module, _, function = name.partition(":")
    decode: Decode = getattr(importlib.import_module(module), function)
    for package in _PACKAGES:
        folder = importlib.import_module(package).__path__
        for it in pkgutil.walk_packages(folder, f"{package}.", onerror=lambda _: None):
            with suppress(ImportError):  # such as Pillow's bridges to toolkits that are not there
                importlib.import_module(it.name)
    importlib.import_module("PIL.Image").init()
    for encoding in _ENCODINGS:
        codecs.lookup(encoding)
    return decode


def _tell(control: socket.socket, **fields: object) -> None:
    control.send(json.dumps(fields).encode())


class Template:
    """Forks decoders, and knows which of them live."""

    def __init__(self, control: socket.socket, duty: Duty) -> None:
        self._control = control
        self._duty = duty
        self._pid = os.getpid()
        self._numbers: dict[int, int] = {}  # by process id
        self._wake, woken = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(woken)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def run(self) -> None:
        """Until the proxy is gone. Then no decoder is left either."""
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        with suppress(OSError):  # what it was to be told
            while self._serve({descriptor for descriptor, _ in poll.poll()}):
                pass
        for pid in self._numbers:
            os.kill(pid, signal.SIGKILL)
        for pid in self._numbers:
            os.waitpid(pid, 0)

    def _serve(self, ready: set[int]) -> bool:
        """Does what there is to do; False if the proxy is gone."""
        if self._wake in ready:
            os.read(self._wake, _CONTROL_BYTES)
            self._bury()
        return self._control.fileno() not in ready or self._obey()

    def _obey(self) -> bool:
        """Does what the proxy says next; False if it is gone."""
        message, descriptors, _, _ = socket.recv_fds(self._control, _CONTROL_BYTES, 1)
        match json.loads(message or "{}"):
            case {"fork": number}:
                self._fork(number, descriptors[0])
            case {"kill": number}:
                for pid, it in self._numbers.items():
                    if it == number:
                        os.kill(pid, signal.SIGKILL)
        return bool(message)

    def _fork(self, number: int, descriptor: int) -> None:
        try:
            pid = os.fork()
        except OSError:  # no memory, or no more processes
            _tell(self._control, ended=number, status=1)
        else:
            if not pid:
                _live(descriptor, self._duty, parent=self._pid)
            self._numbers[pid] = number
        os.close(descriptor)

    def _bury(self) -> None:
        """Collects the decoders that have ended, and tells how."""
        while self._numbers:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            _tell(
                self._control,
                ended=self._numbers.pop(pid),
                status=os.waitstatus_to_exitcode(status),
            )


def _live(descriptor: int, duty: Duty, *, parent: int) -> NoReturn:
    """A decoder's life, from the fork on. Nothing gets out of it into the template's."""
    try:
        os.dup2(descriptor, _CHANNEL, inheritable=False)
        os.closerange(_CHANNEL + 1, os.sysconf("SC_OPEN_MAX"))
        channel = socket.socket(fileno=_CHANNEL)
        channel.send(_settle_down(duty, parent))
        for _ in range(duty.files):
            _serve(channel, duty)
        os._exit(0)
    except BaseException:  # noqa: BLE001 -- sys.exit too ends here, and not in the template's code
        os._exit(1)


def _settle_down(duty: Duty, parent: int) -> bytes:
    """READY, or else what went wrong."""
    try:
        sandbox.die_with(parent)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        sandbox.confine(memory_bytes=duty.memory_bytes)
    except Exception as error:  # noqa: BLE001 -- told to the proxy, which says it on its log
        return f"{type(error).__name__}: {error}".encode()
    return wire.READY


def _serve(channel: socket.socket, duty: Duty) -> None:
    """One picture."""
    message, descriptors, _, _ = socket.recv_fds(channel, wire.MOST_BYTES, 2)
    if not message:
        os._exit(0)
    sandbox.allow_processor_time(duty.cpu_seconds)
    picture, crops = descriptors
    try:
        channel.send(_answer(wire.Request.unpack(message), picture, crops, duty.decode))
    finally:
        os.close(picture)
        os.close(crops)


def _answer(request: wire.Request, picture: int, crops: int, decode: Decode) -> bytes:
    try:
        size_bytes = request.size_bytes
        data = mmap.mmap(picture, size_bytes, access=mmap.ACCESS_READ) if size_bytes else b""
        frames = decode(data, request.spec, request.bounds)
        _lay_out(frames, crops, request.spec)
        return wire.pack_frames(frames)
    except UndecodableImage as error:
        return wire.pack_undecodable(error)
    except Exception as error:  # noqa: BLE001 -- boundary: the asker is answered
        why = f"decoder failed: {type(error).__name__}: {error}"
        return wire.pack_undecodable(UndecodableImage(why))


def _lay_out(frames: Sequence[Frame], crops: int, spec: CropSpec) -> None:
    """Puts the crops into the proxy's memory, one after another."""
    if not 0 < len(frames) <= wire.MOST_FRAMES:
        raise UndecodableImage(f"{len(frames)} frames, not 1 to {wire.MOST_FRAMES}")
    shape = (len(frames), spec.height, spec.width, 3)
    laid_out = np.ndarray(shape, np.uint8, mmap.mmap(crops, len(frames) * wire.crop_bytes(spec)))
    for place, frame in zip(laid_out, frames, strict=True):
        if frame.crop.shape != place.shape or frame.crop.dtype != np.uint8:
            raise ValueError(f"a crop of {frame.crop.shape} {frame.crop.dtype}")
        place[:] = frame.crop
