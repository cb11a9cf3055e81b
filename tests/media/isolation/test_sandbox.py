"""Tests of media/isolation/sandbox.py, each in a process that is closed in for good."""

import os
import platform
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from safety_proxy.media.isolation import sandbox

ROOT = Path(__file__).parents[3]
_IMPORT = "from safety_proxy.media.isolation import sandbox\n"


def run(code: str) -> subprocess.CompletedProcess[str]:
    """What a process that runs this comes to."""
    return subprocess.run(
        [
            sys.executable,
            "-c",
            "from safety_proxy.media.isolation import sandbox\n" + textwrap.dedent(code),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=ROOT,
    )


def test_privileges_are_gone_and_do_not_come_back() -> None:
    """Of root's too, and in what is forked from then on."""
    done = run("""
        import os, pathlib
        sandbox.give_up_privileges()
        if os.fork():
            os.wait()
        else:
            print(pathlib.Path("/proc/self/status").read_text())
            print("nice", os.nice(0))
    """)
    status = dict(line.split(":\t") for line in done.stdout.splitlines() if ":\t" in line)
    for kind in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert int(status[kind], 16) == 0
    assert status["NoNewPrivs"] == "1"
    assert f"nice {min(19, os.nice(0) + 5)}" in done.stdout


def test_nothing_is_written_or_dumped() -> None:
    """Not where its user may write, either."""
    done = run("""
        import resource, tempfile
        file = tempfile.TemporaryFile(buffering=0)
        sandbox.give_up_privileges()
        print(resource.getrlimit(resource.RLIMIT_CORE), resource.getrlimit(resource.RLIMIT_FSIZE))
        try:
            file.write(b"x")
        except OSError as error:
            print(error.strerror)
    """)
    assert done.stdout == "(0, 0) (0, 0)\nFile too large\n"


def test_memory_is_what_it_has_and_so_much_more() -> None:
    """And descriptors are few; when memory runs out, it goes first."""
    done = run("""
        import fcntl, pathlib
        adjusted = pathlib.Path("/proc/self/oom_score_adj").open()
        sandbox.confine(memory_bytes=100 * 1024**2)
        print(adjusted.read().strip())
        taken = []
        try:
            for _ in range(1000):
                taken.append(bytes(10 * 1024**2))
        except MemoryError:
            count = len(taken)
            del taken
            print(count)
        try:
            for _ in range(100):
                fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, 0)
        except OSError as error:
            print(error.strerror)
    """)
    adjusted, count, descriptors = done.stdout.splitlines()
    assert adjusted == "900"
    assert 5 <= int(count) <= 10
    assert descriptors == "Too many open files"


def test_system_calls_are_filtered_where_the_kernel_can() -> None:
    """What is open can be used, and nothing is opened."""
    assert sandbox.can_filter_calls() == (platform.machine() in {"x86_64", "aarch64"})
    done = run("""
        import pathlib, socket, threading
        ours, theirs = socket.socketpair()
        sandbox.confine(memory_bytes=2**30)
        thread = threading.Thread(target=lambda: theirs.send(b"thread"))
        thread.start()
        print(ours.recv(100))
        for attempt in (socket.socket, lambda: open("/etc/passwd")):
            try:
                attempt()
            except PermissionError as error:
                print(error.strerror)
    """)
    assert done.stdout.splitlines() == ["b'thread'", *["Operation not permitted"] * 2]


def test_machine_without_numbers_is_not_filtered(monkeypatch: pytest.MonkeyPatch) -> None:
    """All else still holds there."""
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert not sandbox.can_filter_calls()
    done = run("""
        import platform, resource
        platform.machine = lambda: "riscv64"
        sandbox.confine(memory_bytes=2**30)
        print(resource.getrlimit(resource.RLIMIT_NOFILE), open("/etc/passwd").read(1) != "")
    """)
    assert done.stdout == "(16, 16) True\n"


def test_processor_time_is_allowed_again_and_again() -> None:
    """From now on each time, whatever was used before; beyond it the process ends."""
    done = run("""
        import time
        sandbox.give_up_privileges()
        sandbox.confine(memory_bytes=2**30)
        def work(seconds):
            end = time.process_time() + seconds
            while time.process_time() < end:
                pass
        for _ in range(6):
            sandbox.allow_processor_time(0.4)
            work(0.35)
        print("went on", flush=True)
        work(10)
    """)
    assert done.stdout == "went on\n"
    assert done.returncode == -signal.SIGXCPU


def test_process_dies_with_the_one_that_forked_it() -> None:
    """Also if that has ended before it could ask for it."""
    done = run("""
        import os, time
        parent = os.getpid()
        middle = os.fork()
        if not middle:
            child = os.fork()
            if child:
                print(child, flush=True)
                time.sleep(0.5)
                os._exit(0)
            sandbox.die_with(os.getppid())
            time.sleep(60)
            os._exit(0)
        os.waitpid(middle, 0)
        if not os.fork():
            sandbox.die_with(1234567)
            print("lives on", flush=True)
        else:
            print("status", os.waitstatus_to_exitcode(os.wait()[1]))
    """)
    child, status = done.stdout.splitlines()
    assert status == "status 1"
    assert (
        not Path(f"/proc/{child}/stat").exists()
        or b") Z" in Path(f"/proc/{child}/stat").read_bytes()
    )


def test_failing_call_is_an_oserror() -> None:
    """With its code, so that a decoder which cannot be closed in does not start."""
    with pytest.raises(OSError, match="Invalid argument"):
        sandbox._prctl(1, 12345)
