"""The system calls that a decoder process may make, as a program that the kernel runs before each.

Allowed is what turns memory into memory: allocating, waiting, threads, the clock, and using what is
open already. All else fails with EPERM, rather than killing the process: a library that asks for
something it can do without goes on without it.

    open, socket, connect       no file, no network, no other process' environment or memory
    execve, fork, clone         no program and no process; threads only
    kill, tgkill, fcntl         no signal but to itself, as abort() sends one
    mmap, mprotect              no memory that can be executed, so nothing new can be loaded either
    prlimit64                   only its own processor time, which it sets anew for each file

Numbers: <asm/unistd_64.h> and <asm-generic/unistd.h>; no two machines have the same.
"""

import errno
import platform
import resource
import struct
from typing import Final, TypeAlias

# <linux/seccomp.h>, <linux/audit.h>, <linux/filter.h>
_ALLOW: Final = 0x7FFF0000
_FAIL: Final = 0x00050000
_KILL_PROCESS: Final = 0x80000000
_AUDIT_ARCH: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

_LOAD: Final = 0x20
_AND: Final = 0x54
_IF_EQUAL: Final = 0x15
_IF_AT_LEAST: Final = 0x35
_RETURN: Final = 0x06

# Offsets in struct seccomp_data. Of an argument the low half, both machines being little-endian.
_CALL: Final = 0
_ARCHITECTURE: Final = 4
_ARGUMENTS: Final = 16

_WHOLE: Final = 0xFFFFFFFF

# sizeof (struct sock_filter)
STEP_BYTES: Final = 8

# Of x86_64, numbers from here on are those of its 32 bit variant, another table.
_X32: Final = 0x40000000

# <sys/mman.h>, <linux/sched.h>, <linux/fcntl.h>, <linux/prctl.h>
_PROT_EXEC: Final = 4
_CLONE_THREAD: Final = 0x10000
_FCNTL_COMMANDS: Final = (1, 2, 3, 1030)  # F_GETFD, F_SETFD, F_GETFL, F_DUPFD_CLOEXEC
_PR_SET_NAME: Final = 15
_AT_EMPTY_PATH: Final = 0x1000

# Numbers of x86_64 and aarch64; None where there is no such call.
_Numbers: TypeAlias = tuple[int | None, int | None]

FREE: Final[dict[str, _Numbers]] = {
    "brk": (12, 214),
    "clock_getres": (229, 114),
    "clock_gettime": (228, 113),
    "clock_nanosleep": (230, 115),
    "close": (3, 57),
    "exit": (60, 93),
    "exit_group": (231, 94),
    "fstat": (5, 80),
    "futex": (202, 98),
    "getcpu": (309, 168),
    "getpid": (39, 172),
    "getrandom": (318, 278),
    "getrusage": (98, 165),
    "gettid": (186, 178),
    "gettimeofday": (96, 169),
    "lseek": (8, 62),
    "madvise": (28, 233),
    "membarrier": (324, 283),
    "mincore": (27, 232),
    "mremap": (25, 216),
    "munmap": (11, 215),
    "nanosleep": (35, 101),
    "poll": (7, None),
    "ppoll": (271, 73),
    "pread64": (17, 67),
    "read": (0, 63),
    "readv": (19, 65),
    "recvfrom": (45, 207),
    "recvmsg": (47, 212),
    "restart_syscall": (219, 128),
    "rseq": (334, 293),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sched_getaffinity": (204, 123),
    "sched_yield": (24, 124),
    "sendmsg": (46, 211),
    "sendto": (44, 206),
    "set_robust_list": (273, 99),
    "sigaltstack": (131, 132),
    "sysinfo": (99, 179),
    "time": (201, None),
    "times": (100, 153),
    "uname": (63, 160),
    "write": (1, 64),
    "writev": (20, 66),
}
BOUND: Final[dict[str, _Numbers]] = {
    "clone": (56, 220),
    "clone3": (435, 435),
    "fcntl": (72, 25),
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "newfstatat": (262, 79),
    "prctl": (157, 167),
    "prlimit64": (302, 261),
    "tgkill": (234, 131),
}

# (argument, mask, value): the masked argument has this value.
_Condition: TypeAlias = tuple[int, int, int]


def machine() -> str | None:
    """The machine, if its numbers are known here."""
    name = platform.machine()
    return name if name in _AUDIT_ARCH else None


def own_number() -> int:
    """The number of the call that sets the program. Only where `machine` knows the machine."""
    return _number((317, 277), platform.machine())


def program(pid: int, machine: str | None = None) -> bytes:
    """The filter, an array of struct sock_filter, for the process `pid`, on this machine or that.

    Only where `machine` knows the machine.
    """
    machine = machine or platform.machine()
    steps = [
        _step(_LOAD, _ARCHITECTURE),
        _step(_IF_EQUAL, _AUDIT_ARCH[machine], 1, 0),
        _step(_RETURN, _KILL_PROCESS),
        _step(_LOAD, _CALL),
    ]
    if machine == "x86_64":
        steps += [_step(_IF_AT_LEAST, _X32, 0, 1), _step(_RETURN, _FAIL | errno.EPERM)]
    for numbers in FREE.values():
        if numbers[_column(machine)] is not None:
            number = _number(numbers, machine)
            steps += [_step(_IF_EQUAL, number, 0, 1), _step(_RETURN, _ALLOW)]
    for name, conditions in _bounds(pid):
        steps += _if_all(_number(BOUND[name], machine), conditions)
    # glibc makes threads by clone3, whose flags lie in memory that no filter can see. Told that
    # there is none it takes clone.
    clone3 = _number(BOUND["clone3"], machine)
    steps += [_step(_IF_EQUAL, clone3, 0, 1), _step(_RETURN, _FAIL | errno.ENOSYS)]
    return b"".join([*steps, _step(_RETURN, _FAIL | errno.EPERM)])


def _column(machine: str) -> int:
    return list(_AUDIT_ARCH).index(machine)


def _number(numbers: _Numbers, machine: str) -> int:
    number = numbers[_column(machine)]
    assert number is not None
    return number


def _bounds(pid: int) -> list[tuple[str, tuple[_Condition, ...]]]:
    return [
        ("mmap", ((2, _PROT_EXEC, 0),)),
        ("mprotect", ((2, _PROT_EXEC, 0),)),
        ("clone", ((0, _CLONE_THREAD, _CLONE_THREAD),)),
        ("newfstatat", ((3, _AT_EMPTY_PATH, _AT_EMPTY_PATH),)),  # glibc's fstat
        ("tgkill", ((0, _WHOLE, pid),)),
        ("prctl", ((0, _WHOLE, _PR_SET_NAME),)),
        ("prlimit64", ((0, _WHOLE, 0), (1, _WHOLE, resource.RLIMIT_CPU))),
        *[("fcntl", ((1, _WHOLE, command),)) for command in _FCNTL_COMMANDS],
    ]


def _if_all(number: int, conditions: tuple[_Condition, ...]) -> list[bytes]:
    """Allows the call if all hold; else leaves with the number loaded again, for what follows."""
    tests: list[bytes] = []
    steps_after = 2  # the return and the load
    for argument, mask, value in reversed(conditions):
        # Past the other tests and the return, to the load.
        tests = [
            _step(_LOAD, _ARGUMENTS + 8 * argument),
            _step(_AND, mask),
            _step(_IF_EQUAL, value, 0, len(tests) + 1),
            *tests,
        ]
    return [
        _step(_IF_EQUAL, number, 0, len(tests) + steps_after),
        *tests,
        _step(_RETURN, _ALLOW),
        _step(_LOAD, _CALL),
    ]


def _step(code: int, value: int, then: int = 0, otherwise: int = 0) -> bytes:
    """One instruction; `then` and `otherwise` are how many steps a test skips."""
    return struct.pack("=HBBI", code, then, otherwise, value)
