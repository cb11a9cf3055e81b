"""What a decoder process cannot do, whatever a file makes it do: Linux's own means, no package.

rlimits       address space, processor time, open files; no file is written, no core dumped
capabilities  none, and none can come back (no_new_privs)
seccomp       only the system calls that decoding needs (see `seccomp`); so there is nothing in
              reach that is not an open descriptor already, and Landlock or a network namespace
              would have nothing left to deny
prctl         killed when the process that forked it ends
oom_score_adj when memory runs out, the kernel takes a decoder and not the proxy

RLIMIT_NPROC is not used: it counts the threads of all processes of a user, the proxy's too, and
does not bind root at all. Forking is what seccomp denies; threads are bounded by address space.
"""

import ctypes
import errno
import math
import os
import resource
import signal
import time
from pathlib import Path
from typing import Final

from safety_proxy.media.isolation import seccomp

# <linux/prctl.h>, <linux/seccomp.h>, <linux/capability.h>
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NO_NEW_PRIVS: Final = 38
_CAPABILITY_VERSION_3: Final = 0x20080522

_SET_MODE_FILTER: Final = 1

# Without it, kernels before 5.16 turn off speculation for whoever is filtered, which costs decoders
# more than all else here. What they could read that way is pictures, and they have no way out.
_SPEC_ALLOW: Final = 4

# Standard streams, the socket, the picture, the crops, and room for what libraries duplicate.
_OPEN_FILES: Final = 16

# Decoders make way for the proxy's event loop, which all requests wait for.
_NICE: Final = 5

# Of 1000, at which a process is the first that the kernel kills when memory runs out.
_FIRST_TO_GO: Final = 900

_libc = ctypes.CDLL(None, use_errno=True)
_libc.prctl.argtypes = (ctypes.c_int, *(ctypes.c_ulong,) * 4)
_libc.syscall.argtypes = (ctypes.c_long, *(ctypes.c_ulong,) * 3)


class _Filter(ctypes.Structure):
    """struct sock_fprog"""

    _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.c_char_p))


class _CapabilityHeader(ctypes.Structure):
    """struct __user_cap_header_struct"""

    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


def give_up_privileges() -> None:
    """No capability from here on, none to come, and the processor only after others.

    For the process that decoders are forked from; they inherit it. Raises OSError.
    """
    os.nice(_NICE)
    none = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable, twice
    _check(_libc.capset(ctypes.byref(_CapabilityHeader(_CAPABILITY_VERSION_3, 0)), none))
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def die_with(parent: int) -> None:
    """From here on, SIGKILL follows when the process `parent`, which forked this one, ends."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before that
        os._exit(1)


def confine(*, memory_bytes: int) -> None:
    """Closes this process in, for good.

    memory_bytes: address space it may take beyond what it has. Raises OSError.
    """
    Path("/proc/self/oom_score_adj").write_text(str(_FIRST_TO_GO))
    used_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    most_bytes = used_bytes + memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (most_bytes, most_bytes))
    resource.setrlimit(resource.RLIMIT_NOFILE, (_OPEN_FILES, _OPEN_FILES))
    if can_filter_calls():
        steps = seccomp.program(os.getpid())
        program = _Filter(len(steps) // seccomp.STEP_BYTES, steps)
        _check(_filter_calls(ctypes.addressof(program)))


def can_filter_calls() -> bool:
    """Whether seccomp is there on this kernel and machine; the rest is everywhere."""
    if seccomp.machine() is None:
        return False
    # With no program to look at, a kernel that has it fails otherwise than one that does not.
    _filter_calls(0)
    return ctypes.get_errno() == errno.EFAULT


def _filter_calls(program: int) -> int:
    result: int = _libc.syscall(seccomp.own_number(), _SET_MODE_FILTER, _SPEC_ALLOW, program)
    return result


def allow_processor_time(seconds: float) -> None:
    """So much from now on, of all threads, rounded up; then SIGXCPU ends the process."""
    most = math.ceil(time.process_time() + seconds)
    resource.setrlimit(resource.RLIMIT_CPU, (most, resource.RLIM_INFINITY))


def _prctl(option: int, first: int, second: int = 0) -> None:
    _check(_libc.prctl(option, first, second, 0, 0))


def _check(result: int) -> None:
    if result:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
