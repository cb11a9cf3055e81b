"""Decode functions that do what no decoder should; decoder processes find them by name.

What a file makes its decoder do is written in the file: `segfault`, `exit 3` and so on.
"""

import ctypes
import hashlib
import mmap
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np

from safety_proxy.crops import CropSpec, UInt8Array
from safety_proxy.errors import UndecodableImage
from safety_proxy.media.bounds import Bounds, Frame

_libc: Final = ctypes.CDLL(None, use_errno=True)

# The socket to the proxy, in every decoder.
_CHANNEL: Final = 3

_MANY_BYTES: Final = 32 * 1024**2

# What files before this one have left in the process.
_remembered: list[str] = []

_Act: TypeAlias = Callable[[str, CropSpec], list[Frame]]


def decode(data: mmap.mmap | bytes, spec: CropSpec, bounds: Bounds) -> list[Frame]:
    """Does what the file says."""
    word, _, rest = bytes(data[:4096]).decode().partition(" ")
    if word == "bounds":
        raise UndecodableImage(f"{bounds} {spec}")
    return ACTS[word](rest, spec)


def unfit(data: mmap.mmap | bytes, spec: CropSpec, bounds: Bounds) -> list[Frame]:
    """What the processes of a pool die of as soon as they have a file."""
    os._exit(7)


def pattern(text: str, spec: CropSpec) -> UInt8Array:
    """A crop that depends on the text."""
    size = spec.height * spec.width * 3
    digest = np.frombuffer(hashlib.sha512(text.encode()).digest(), np.uint8)
    return np.tile(digest, size // 64 + 1)[:size].reshape(spec.height, spec.width, 3)


def _crop(text: str, spec: CropSpec) -> list[Frame]:
    return [Frame(crop=pattern(text, spec), where=text[:40])]


def _many(text: str, spec: CropSpec) -> list[Frame]:
    return [Frame(crop=pattern(str(i), spec), where=f"frame {i}") for i in range(int(text))]


def _misshape(_text: str, _spec: CropSpec) -> list[Frame]:
    return [Frame(crop=np.zeros((7, 5, 3), np.uint8), where="")]


def _refuse(text: str, _spec: CropSpec) -> list[Frame]:
    error = UndecodableImage(text)
    error.code = "too-large"
    raise error


def _raise(text: str, _spec: CropSpec) -> list[Frame]:
    raise ZeroDivisionError(text)


def _segfault(_text: str, _spec: CropSpec) -> list[Frame]:
    ctypes.string_at(0)
    raise AssertionError


def _abort(_text: str, _spec: CropSpec) -> list[Frame]:
    os.abort()


def _exit(text: str, _spec: CropSpec) -> list[Frame]:
    os._exit(int(text))


def _sys_exit(text: str, _spec: CropSpec) -> list[Frame]:
    sys.exit(int(text))


def _spin(_text: str, _spec: CropSpec) -> list[Frame]:
    while True:
        pass


def _spin_in_c(_text: str, _spec: CropSpec) -> list[Frame]:
    """In one call, in which no signal handler of Python runs."""
    raise UndecodableImage(str(sum(range(10**15))))


def _sleep(text: str, spec: CropSpec) -> list[Frame]:
    time.sleep(float(text))
    return _crop(text, spec)


def _work(text: str, spec: CropSpec) -> list[Frame]:
    """For so many seconds of processor time."""
    end = time.process_time() + float(text)
    while time.process_time() < end:
        pass
    return _crop(text, spec)


def _eat(_text: str, _spec: CropSpec) -> list[Frame]:
    eaten = []
    while True:
        eaten.append(b"x" * _MANY_BYTES)


def _eat_in_c(_text: str, _spec: CropSpec) -> list[Frame]:
    """As a library does that does not look at what malloc says."""
    _libc.malloc.restype = ctypes.c_void_p
    while True:
        ctypes.memset(_libc.malloc(_MANY_BYTES), 1, _MANY_BYTES)


def _fork(_text: str, _spec: CropSpec) -> list[Frame]:
    children = 0
    for _ in range(1000):
        pid = _libc.fork()
        if pid == 0:
            time.sleep(60)
            os._exit(0)
        children += pid > 0
    raise UndecodableImage(f"{children} children")


def _threads(text: str, spec: CropSpec) -> list[Frame]:
    stop = threading.Event()
    started = 0
    try:
        for _ in range(int(text)):
            threading.Thread(target=stop.wait, daemon=True).start()
            started += 1
    except RuntimeError:
        assert 0 < started < int(text)
        raise
    finally:
        stop.set()
    return _crop(text, spec)


def _say(text: str, _spec: CropSpec) -> list[Frame]:
    """Answers by itself, and goes on as if it had not."""
    os.write(_CHANNEL, text.encode())
    time.sleep(60)
    return []


def _say_much(text: str, _spec: CropSpec) -> list[Frame]:
    os.write(_CHANNEL, b"[" * int(text))
    time.sleep(60)
    return []


def _close(_text: str, _spec: CropSpec) -> list[Frame]:
    os.close(_CHANNEL)
    time.sleep(60)
    return []


def _environment(_text: str, _spec: CropSpec) -> list[Frame]:
    raise UndecodableImage(" ".join(sorted(os.environ)))


def _descriptors(_text: str, _spec: CropSpec) -> list[Frame]:
    """All that are open."""
    found = []
    for descriptor in range(1024):
        with suppress(OSError):
            os.fstat(descriptor)
            found.append(str(descriptor))
    raise UndecodableImage(" ".join(found))


def _reach(text: str, _spec: CropSpec) -> list[Frame]:
    """What can be reached of the world outside; `text` is the process id of the proxy."""
    proxy = int(text)
    attempts: dict[str, Callable[[], object]] = {
        "open": Path("/etc/passwd").read_bytes,
        "list": lambda: list(Path("/").iterdir()),
        "environment": Path(f"/proc/{proxy}/environ").read_bytes,
        "memory": Path(f"/proc/{proxy}/mem").open,
        "write": lambda: Path("/tmp/written").write_bytes(b"x"),
        "network": lambda: socket.socket(socket.AF_INET),
        "neighbors": lambda: socket.socket(socket.AF_UNIX),
        "execute": lambda: os.execv("/bin/true", ["true"]),
        "signal": lambda: os.kill(proxy, 0),
        "limit": lambda: resource.prlimit(proxy, resource.RLIMIT_CPU, (1000, 1000)),
        "more memory": lambda: resource.setrlimit(resource.RLIMIT_AS, (-1, -1)),
        "priority": lambda: os.setpriority(os.PRIO_PROCESS, proxy, 19),
        "code": lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC),
        "ptrace": lambda: _checked(_libc.ptrace(16, proxy, 0, 0)),
        "root": lambda: os.setuid(1),
        "truncate the file": lambda: os.truncate(4, 0),
        "change the file": lambda: os.write(4, b"x"),
        "resize the memory": lambda: os.truncate(5, 0),
    }
    reached = []
    for name, attempt in attempts.items():
        with suppress(OSError, ValueError):
            attempt()
            reached.append(name)
    raise UndecodableImage(f"reached: {' '.join(reached)}")


def _checked(result: int) -> None:
    if result < 0:
        raise OSError


def _handle_signals(_text: str, _spec: CropSpec) -> list[Frame]:
    """Hard to end."""
    for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
        with suppress(OSError):
            signal.signal(number, signal.SIG_IGN)
    while True:
        pass


def _remember(text: str, _spec: CropSpec) -> list[Frame]:
    _remembered.append(text)
    raise UndecodableImage(" ".join(_remembered))


def _who(text: str, spec: CropSpec) -> list[Frame]:
    """The process that decodes this, after so many seconds."""
    time.sleep(float(text))
    return [Frame(crop=pattern(text, spec), where=str(os.getpid()))]


ACTS: Final[dict[str, _Act]] = {
    "abort": _abort,
    "close": _close,
    "crop": _crop,
    "descriptors": _descriptors,
    "eat": _eat,
    "eat-in-c": _eat_in_c,
    "environment": _environment,
    "exit": _exit,
    "fork": _fork,
    "handle-signals": _handle_signals,
    "many": _many,
    "misshape": _misshape,
    "raise": _raise,
    "reach": _reach,
    "refuse": _refuse,
    "remember": _remember,
    "say": _say,
    "say-much": _say_much,
    "segfault": _segfault,
    "sleep": _sleep,
    "spin": _spin,
    "spin-in-c": _spin_in_c,
    "sys-exit": _sys_exit,
    "threads": _threads,
    "who": _who,
    "work": _work,
}
