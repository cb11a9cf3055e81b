"""Tests of media/isolation/seccomp.py: the program, run here as the kernel runs it."""

import errno
import platform
import re
import resource
import struct
from pathlib import Path

import pytest

from safety_proxy.media.isolation import seccomp

MACHINES = ("x86_64", "aarch64")
PID = 4711

ALLOWED = "allowed"
KILLED = "killed"

# <asm/unistd.h> of some calls that are in no table of the module.
DENIED = {
    "bind": (49, 200),
    "connect": (42, 203),
    "execve": (59, 221),
    "fork": (57, None),
    "ftruncate": (77, 46),
    "io_uring_setup": (425, 425),
    "kill": (62, 129),
    "memfd_create": (319, 279),
    "openat": (257, 56),
    "pidfd_open": (434, 434),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "seccomp": (317, 277),
    "socket": (41, 198),
    "unshare": (272, 97),
}


def verdict(machine: str, number: int, *arguments: int, architecture: int | None = None) -> str:
    """What becomes of a call: ALLOWED, KILLED, or the name of an error."""
    own = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}[machine]
    data = struct.pack("=IIQ6Q", number, architecture or own, 0, *(*arguments, *[0] * 6)[:6])
    steps = list(struct.iter_unpack("=HBBI", seccomp.program(PID, machine)))
    place = value = 0
    while True:
        code, then, otherwise, operand = steps[place]
        place += 1
        match code:
            case 0x20:
                (value,) = struct.unpack_from("=I", data, operand)
            case 0x54:
                value &= operand
            case 0x15:
                place += then if value == operand else otherwise
            case 0x35:
                place += then if value >= operand else otherwise
            case 0x06 if operand == 0x7FFF0000:
                return ALLOWED
            case 0x06 if operand == 0x80000000:
                return KILLED
            case 0x06:
                assert operand & 0xFFFF0000 == 0x00050000
                return errno.errorcode[operand & 0xFFFF]
            case _:
                raise AssertionError(code)


def number_of(name: str, machine: str) -> int:
    number = {**seccomp.FREE, **seccomp.BOUND, **DENIED}[name][MACHINES.index(machine)]
    assert number is not None
    return number


@pytest.mark.parametrize("machine", MACHINES)
def test_calls_of_decoding_are_allowed_and_all_others_fail(machine: str) -> None:
    """Of all numbers there are, those of the tables and no other."""
    column = MACHINES.index(machine)
    free = {numbers[column] for numbers in seccomp.FREE.values()}
    bound = {numbers[column] for numbers in seccomp.BOUND.values()}
    for number in range(600):
        # Arguments that none of the bound calls takes.
        found = verdict(machine, number, 4, 99, 4, 0)
        if number in free:
            assert found == ALLOWED
        elif number not in bound:
            assert found == "EPERM"
    for numbers in DENIED.values():
        assert numbers[column] not in (free | bound) - {None}


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("mmap", (0, 4096, 1), ALLOWED),
        ("mmap", (0, 4096, 3), ALLOWED),
        ("mmap", (0, 4096, 5), "EPERM"),
        ("mprotect", (0, 4096, 3), ALLOWED),
        ("mprotect", (0, 4096, 4), "EPERM"),
        ("clone", (0x3D0F00,), ALLOWED),  # a thread of glibc
        ("clone", (0x01200011,), "EPERM"),  # fork of glibc
        ("clone", (0x10000000,), "EPERM"),  # CLONE_NEWUSER
        ("clone3", (0, 88), "ENOSYS"),
        ("tgkill", (PID, 5, 6), ALLOWED),
        ("tgkill", (PID + 1, 5, 6), "EPERM"),
        ("prctl", (15,), ALLOWED),
        ("prctl", (22,), "EPERM"),
        ("newfstatat", (3, 0, 0, 0x1000), ALLOWED),
        ("newfstatat", (3, 0, 0, 0), "EPERM"),
        ("prlimit64", (0, resource.RLIMIT_CPU), ALLOWED),
        ("prlimit64", (0, resource.RLIMIT_AS), "EPERM"),
        ("prlimit64", (PID + 1, resource.RLIMIT_CPU), "EPERM"),
        ("fcntl", (3, 1), ALLOWED),
        ("fcntl", (3, 1030), ALLOWED),
        ("fcntl", (3, 8), "EPERM"),  # F_SETOWN, which sends signals
        ("fcntl", (3, 4), "EPERM"),
    ],
)
def test_arguments_decide(
    machine: str, name: str, arguments: tuple[int, ...], expected: str
) -> None:
    """For calls that can do more than decoding needs."""
    assert verdict(machine, number_of(name, machine), *arguments) == expected


def test_other_tables_of_numbers_are_not_taken_for_this_one() -> None:
    """32 bit calls have other numbers: a way round, where a filter forgets them."""
    assert verdict("x86_64", 0, architecture=0x40000003) == KILLED  # i386
    assert verdict("aarch64", 63, architecture=0x40000028) == KILLED  # arm
    assert verdict("x86_64", 0x40000000) == "EPERM"  # x32


@pytest.mark.parametrize("machine", MACHINES)
def test_numbers_are_those_of_the_kernel(machine: str) -> None:
    """As its headers have them, where they are installed."""
    header = Path(
        "/usr/include/x86_64-linux-gnu/asm/unistd_64.h"
        if machine == "x86_64"
        else "/usr/include/asm-generic/unistd.h"
    )
    if not header.is_file():
        pytest.skip(f"{header} is not installed")
    found = re.findall(r"#define __NR(?:3264)?_(\w+) (\d+)", header.read_text())
    known = {name.replace("fstatat", "newfstatat"): int(it) for name, it in found}
    known |= {name: int(it) for name, it in found}
    column = MACHINES.index(machine)
    for name, numbers in {**seccomp.FREE, **seccomp.BOUND, **DENIED}.items():
        assert known.get(name) == numbers[column], name


def test_machine_that_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no program for it; on the others the call that sets it is known."""
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert seccomp.machine() is None
    for column, machine in enumerate(MACHINES):
        monkeypatch.setattr(platform, "machine", lambda machine=machine: machine)
        assert seccomp.machine() == machine
        assert seccomp.own_number() == DENIED["seccomp"][column]
