"""Tests of media/isolation/processes.py: what a file costs that does its worst."""

import asyncio
import logging
import mmap
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

from safety_proxy.crops import CropSpec
from safety_proxy.deadline import Deadline
from safety_proxy.errors import (
    ConfigError,
    DecoderLost,
    DecodersUnavailable,
    ScanTimeout,
    UndecodableImage,
)
from safety_proxy.media.bounds import Bounds, Frame
from safety_proxy.media.isolation import pool as pool_module
from safety_proxy.media.isolation import wire
from safety_proxy.media.isolation.processes import Decoders
from safety_proxy.tasks import spawn
from tests.media import misbehavior

SPEC = CropSpec(24, 32)
BOUNDS = Bounds()
MEMORY_BYTES = 512 * 1024**2


@asynccontextmanager
async def decoders(
    decode: Callable[..., list[Frame]] = misbehavior.decode,
    *,
    processes: int = 2,
    cpu_seconds: float = 20,
    files_each: int = 100,
) -> AsyncIterator[Decoders]:
    """Started, and closed in the end, with nothing left of them."""
    before = open_files()
    started = Decoders(
        decode,
        processes=processes,
        memory_bytes=MEMORY_BYTES,
        cpu_seconds=cpu_seconds,
        files_each=files_each,
    )
    await started.start()
    template = template_of(started)
    try:
        yield started
    finally:
        await started.aclose()
    await asyncio.sleep(0)  # for those whose decode has just been ended to close their files
    await until_nothing_is_left_of(template)
    assert open_files() == before


def open_files() -> dict[str, str]:
    """This process' descriptors and what they are of."""
    found = {}
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # of this very listing
            found[descriptor.name] = str(descriptor.readlink())
    return found


def template_of(decoders: Decoders) -> int:
    """The process that the decoders are forked from."""
    template = decoders._pool._template
    assert template is not None
    return template._process.pid


def in_session(session: int) -> set[int]:
    """All processes of a session: a template begins one, and none of its decoders can leave it."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, _, its_session, *_ = stat.read_text().rpartition(")")[2].split()
            if int(its_session) == session and state != "Z":  # for whoever is init to collect
                found.add(int(stat.parent.name))
    return found


async def until_nothing_is_left_of(session: int) -> None:
    """The decoders of a template that was killed are so by the kernel, a moment later."""
    await until(lambda: in_session(session) == set())


def told_of(process: int) -> bytes:
    """The environment and the arguments of a process."""
    folder = Path(f"/proc/{process}")
    return (folder / "environ").read_bytes() + (folder / "cmdline").read_bytes()


def processes_of(decoders: Decoders) -> set[int]:
    template = template_of(decoders)
    return in_session(template) - {template}


async def decode(
    decoders: Decoders,
    content: str | bytes,
    *,
    seconds: float = 60,
    spec: CropSpec = SPEC,
    bounds: Bounds = BOUNDS,
) -> list[Frame]:
    """The frames of a file of this content, which is closed as soon as it has been handed over."""
    data = content.encode() if isinstance(content, str) else content
    with tempfile.TemporaryFile(buffering=0) as file:
        file.write(data)
        deadline = Deadline.after(seconds)
        decoding = spawn(
            decoders.decode(file.fileno(), len(data), spec, bounds, deadline=deadline), name="test"
        )
        await asyncio.sleep(0)
    try:
        return await asyncio.shield(decoding)
    except asyncio.CancelledError:
        decoding.cancel()
        raise


async def until(condition: Callable[[], bool], *, seconds: float = 20) -> None:
    """Returns when it holds."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 -- of other processes
            await asyncio.sleep(0.01)


async def refusal(decoders: Decoders, content: str, *, seconds: float = 60) -> str:
    with pytest.raises(UndecodableImage) as refused:
        await decode(decoders, content, seconds=seconds)
    return str(refused.value)


async def test_frames_arrive_byte_for_byte() -> None:
    """One or hundreds, of any text; the file is open for no longer than it takes to hand over."""
    async with decoders() as pool:
        (frame,) = await decode(pool, "crop héllo")
        assert frame.where == "héllo"
        assert frame.crop.dtype == np.uint8
        assert np.array_equal(frame.crop, misbehavior.pattern("héllo", SPEC))
        frames = await decode(pool, "many 300")
        assert [it.where for it in frames] == [f"frame {i}" for i in range(300)]
        assert all(
            np.array_equal(it.crop, misbehavior.pattern(str(i), SPEC))
            for i, it in enumerate(frames)
        )
        assert len(await decode(pool, f"many {wire.MOST_FRAMES}")) == wire.MOST_FRAMES


async def test_spec_and_bounds_reach_the_function() -> None:
    """Every field of both."""
    spec = CropSpec(7, 9, "longest", "bilinear", 114)
    bounds = Bounds(1, 2, 3, 4.5, 0.25, "refuse", turned=True, salt="salt")
    async with decoders() as pool:
        with pytest.raises(UndecodableImage) as told:
            await decode(pool, "bounds", spec=spec, bounds=bounds)
    assert str(told.value) == f"{bounds} {spec}"


async def test_function_refuses_by_value() -> None:
    """With its text and code; any other exception is a refusal too."""
    async with decoders() as pool:
        with pytest.raises(UndecodableImage) as refused:
            await decode(pool, "refuse too\nlarge")
        assert str(refused.value) == "too large"
        assert refused.value.code == "too-large"
        assert type(refused.value) is UndecodableImage
        assert await refusal(pool, "raise x") == "decoder failed: ZeroDivisionError: x"
        assert "KeyError" in await refusal(pool, "nonsense")
        assert "KeyError" in await refusal(pool, "")  # an empty file, which cannot be mapped
        assert pool.lost == 0


DEADLY = [
    ("segfault", "by SIGSEGV"),
    ("abort", "by SIGABRT"),
    ("exit 0", "with exit code 0"),
    ("exit 3", "with exit code 3"),
    ("sys-exit 4", "with exit code 1"),
    ("close", "by SIGKILL"),
    ("say ", "by SIGKILL"),
    ("say {}", "by SIGKILL"),
    ('say {"frames": []}', "by SIGKILL"),
    ('say {"frames": ["a"], "more": 1}', "by SIGKILL"),
    ("say-much 100000", "by SIGKILL"),
    ("say-much 140000", "by SIGKILL"),
]


async def test_file_that_ends_its_decoder_costs_two(caplog: pytest.LogCaptureFixture) -> None:
    """It is refused as unreadable after one more attempt; files beside and after it are not."""
    async with decoders() as pool:
        for content, why in DEADLY:
            caplog.clear()
            lost = pool.lost
            beside = spawn(decode(pool, "sleep 0.1"), name="beside")
            with caplog.at_level(logging.WARNING), pytest.raises(DecoderLost) as refused:
                await decode(pool, content)
            assert str(refused.value) == f"its decoder ended {why}, and so did another", content
            assert pool.lost == lost + 2
            assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
            assert pool.healthy
            assert len(await beside) == 1
            assert len(await decode(pool, "crop after")) == 1


async def test_answers_that_are_no_frames_are_refused() -> None:
    """Of another shape, none, or too many."""
    async with decoders() as pool:
        assert "(7, 5, 3)" in await refusal(pool, "misshape")
        assert await refusal(pool, "many 0") == f"0 frames, not 1 to {wire.MOST_FRAMES}"
        assert "frames, not 1 to" in await refusal(pool, f"many {wire.MOST_FRAMES + 1}")
        assert pool.lost == 0


async def test_file_that_takes_too_long_to_compute_is_refused() -> None:
    """At once and for good, since another process would take as long."""
    async with decoders(cpu_seconds=0.5) as pool:
        refused = await asyncio.gather(refusal(pool, "spin"), refusal(pool, "spin-in-c"))
        assert set(refused) == {"it takes more than 0.5 s of processor time"}
        assert pool.lost == 2
        assert len(await decode(pool, "crop after")) == 1


async def test_processor_time_is_counted_for_each_file() -> None:
    """A process that has used up a few times as much in all goes on."""
    async with decoders(processes=1, cpu_seconds=0.5) as pool:
        (first,) = await decode(pool, "who 0")
        for _ in range(8):
            await decode(pool, "work 0.3")
        (last,) = await decode(pool, "who 0")
        assert first.where == last.where


async def test_deadline_ends_what_hangs() -> None:
    """With an error that says to try again, and the process makes room for the next file."""
    async with decoders(processes=1) as pool:
        for content in ("spin", "spin-in-c", "sleep 60", "handle-signals"):
            start = time.monotonic()
            with pytest.raises(ScanTimeout):
                await decode(pool, content, seconds=0.3)
            assert 0.25 < time.monotonic() - start < 5
            assert len(await decode(pool, "crop after")) == 1
        assert pool.lost == 0


async def test_deadline_holds_for_the_wait_too() -> None:
    """One that is past takes no process; one that passes in the queue leaves it."""
    async with decoders(processes=1) as pool:
        with pytest.raises(ScanTimeout):
            await decode(pool, "crop x", seconds=0)
        slow = spawn(decode(pool, "sleep 0.5"), name="slow")
        await asyncio.sleep(0.1)
        with pytest.raises(ScanTimeout):
            await decode(pool, "crop x", seconds=0.1)
        assert len(await slow) == 1
        assert not pool._pool._waiting


async def test_memory_is_bounded() -> None:
    """A file that takes all it can get is refused, whether or not its decoder looks at it."""
    async with decoders() as pool:
        refused = await asyncio.gather(refusal(pool, "eat"), refusal(pool, "eat-in-c"))
        assert refused[0] == "decoder failed: MemoryError: "
        assert "by SIGSEGV" in refused[1]
        assert len(await decode(pool, "crop after")) == 1


async def test_processes_and_threads_are_bounded() -> None:
    """None forks, whatever its user; threads end where the address space does."""
    async with decoders(processes=1) as pool:
        assert await refusal(pool, "fork") == "0 children"
        assert len(processes_of(pool)) == 1
        assert len(await decode(pool, "threads 4")) == 1
        with pytest.raises(UndecodableImage, match="can't start new thread"):
            await decode(pool, "threads 100000")


async def test_decoder_reaches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """No file, network, program or process, and no secret of the proxy's."""
    monkeypatch.setenv("SAFETY_PROXY_UPSTREAM__API_KEY", "planted")
    with tempfile.TemporaryFile() as secret:
        os.set_inheritable(secret.fileno(), True)
        async with decoders(processes=1) as pool:
            assert await refusal(pool, f"reach {os.getpid()}") == "reached: "
            environment = set((await refusal(pool, "environment")).split())
            assert environment - {"PATH", "TMPDIR", "LD_LIBRARY_PATH"} == {
                "LC_ALL",
                "MALLOC_ARENA_MAX",
                "MALLOC_MMAP_THRESHOLD_",
                "MALLOC_TRIM_THRESHOLD_",
                "MKL_NUM_THREADS",
                "OMP_NUM_THREADS",
                "OPENBLAS_NUM_THREADS",
            }
            # Standard streams, its socket, the file, the memory for crops, and what the map holds.
            assert await refusal(pool, "descriptors") == "0 1 2 3 4 5 6"
            (worker,) = processes_of(pool)
            for process in (worker, template_of(pool)):
                assert b"planted" not in told_of(process)


async def test_file_cannot_be_changed_through_what_a_decoder_gets() -> None:
    """Even where no seccomp stood before it: see test_descriptors.py."""
    async with decoders() as pool:
        content = f"reach {os.getpid()}".encode()
        with tempfile.TemporaryFile(buffering=0) as file:
            file.write(content)
            with pytest.raises(UndecodableImage):
                await pool.decode(
                    file.fileno(), len(content), SPEC, BOUNDS, deadline=Deadline.after(60)
                )
            assert os.pread(file.fileno(), 100, 0) == content


async def test_cancelling_frees_the_process() -> None:
    """At once if it hangs; and who waits in the queue simply leaves it."""
    async with decoders(processes=1) as pool:
        stuck = spawn(decode(pool, "spin"), name="stuck")
        waiting = spawn(decode(pool, "crop x"), name="waiting")
        await until(lambda: bool(pool._pool._busy))
        waiting.cancel()
        stuck.cancel()
        await asyncio.wait([stuck, waiting])
        assert len(await decode(pool, "crop after", seconds=20)) == 1


async def test_process_whose_asker_leaves_goes_on_if_it_is_done_in_a_moment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """To replace it would cost more than the rest of the decode."""
    monkeypatch.setattr(pool_module, "_GRACE_SECONDS", 10.0)
    async with decoders(processes=1) as pool:
        (before,) = await decode(pool, "who 0")
        leaving = spawn(decode(pool, "sleep 0.2"), name="leaving")
        while not pool._pool._busy:  # noqa: ASYNC110 -- at once, not after a while
            await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.wait([leaving])
        (after,) = await decode(pool, "who 0")
        assert before.where == after.where


async def test_as_many_files_at_once_as_processes() -> None:
    """And never more; the others wait."""
    async with decoders(processes=3) as pool:
        decoding = [spawn(decode(pool, "who 0.2"), name="test") for _ in range(9)]
        most = 0
        while not all(it.done() for it in decoding):
            most = max(most, len(pool._pool._busy))
            await asyncio.wait(decoding, timeout=0.01)
        assert most == 3
        assert len({(await it)[0].where for it in decoding}) == 3


async def test_first_come_first_served() -> None:
    """In the order in which they came, of whatever length."""
    async with decoders(processes=1) as pool:
        done: list[int] = []

        async def one(number: int) -> None:
            await decode(pool, f"sleep {0.02 * (number % 3)}")
            done.append(number)

        await asyncio.gather(*(one(number) for number in range(12)))
        assert done == list(range(12))


@pytest.mark.parametrize(("files_each", "expected"), [(1, 6), (2, 3), (100, 1)])
async def test_process_is_replaced_after_its_number_of_files(
    files_each: int, expected: int
) -> None:
    """So nothing of one file outlives it for longer."""
    async with decoders(processes=1, files_each=files_each) as pool:
        seen = {(await decode(pool, "who 0"))[0].where for _ in range(6)}
        assert len(seen) == expected


async def test_nothing_of_a_file_is_left_for_the_next_in_a_process_of_its_own() -> None:
    """files_each = 1."""
    async with decoders(processes=1, files_each=1) as pool:
        assert [await refusal(pool, f"remember {word}") for word in "abc"] == ["a", "b", "c"]


async def test_processes_killed_by_hand_lose_no_file() -> None:
    """Kill -9 of one after another, of the template too, while 300 files are decoded."""
    async with decoders(processes=2) as pool:
        answers: list[bool] = []

        async def one(number: int) -> None:
            seconds = f"0.00{400 + number}"  # each another text, and so another crop
            (frame,) = await decode(pool, f"sleep {seconds}")
            answers.append(np.array_equal(frame.crop, misbehavior.pattern(seconds, SPEC)))

        async def killing() -> int:
            """Each time all that was hit before has been tried again: a file gets one other."""
            kills = 0
            while len(answers) < 270:
                await until(lambda: bool(pool._pool._busy))
                target = template_of(pool) if kills == 3 else min(processes_of(pool), default=None)
                if target is not None:
                    os.kill(target, signal.SIGKILL)
                    kills += 1
                enough = len(answers) + 10
                await until(lambda enough=enough: len(answers) >= enough)  # type: ignore[misc]
            return kills

        killer = spawn(killing(), name="killer")
        await asyncio.gather(*(one(number) for number in range(300)))
        assert await killer > 4
        assert answers == [True] * 300
        await until(lambda: pool.healthy)


@pytest.mark.parametrize("victim", ["its decoder", "the template"])
async def test_file_whose_decoders_are_killed_twice_may_come_again(victim: str) -> None:
    """The kernel does so for want of memory: it was not the file, which is not refused for good."""
    async with decoders(processes=1) as pool:
        decoding = spawn(decode(pool, "sleep 30"), name="test")
        for _ in range(2):
            await until(lambda: bool(pool._pool._busy))
            (busy,) = pool._pool._busy
            (decoder,) = processes_of(pool)
            os.kill(decoder if victim == "its decoder" else template_of(pool), signal.SIGKILL)
            await until(busy.status.done)
            await until(lambda it=busy: it not in pool._pool._busy)  # type: ignore[misc]
        with pytest.raises(
            DecodersUnavailable, match=r"from outside, the second (by SIGKILL|with)"
        ):
            await decoding
        await until(lambda: pool.healthy)
        assert len(await decode(pool, "crop after")) == 1


async def test_template_that_ends_is_replaced() -> None:
    """With all its decoders, and the files that they had."""
    async with decoders(processes=2) as pool:
        first = template_of(pool)
        decoding = [spawn(decode(pool, "sleep 0.3"), name="test") for _ in range(4)]
        await until(lambda: len(pool._pool._busy) == 2)
        os.kill(first, signal.SIGKILL)
        assert [len(await it) for it in decoding] == [1] * 4
        assert template_of(pool) != first
        await until_nothing_is_left_of(first)


async def test_decoders_outlast_what_asks_the_proxy_to_stop() -> None:
    """A terminal and systemd signal every process; the proxy drains before it closes them."""
    async with decoders(processes=1) as pool:
        (before,) = await decode(pool, "who 0")
        for process in in_session(template_of(pool)):
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                os.kill(process, number)
        (after,) = await decode(pool, "who 0")
        assert before.where == after.where


async def test_closing_ends_what_is_under_way() -> None:
    """Those at work and those in the queue: told to try again, and nothing is left."""
    async with decoders(processes=2) as pool:
        decoding = [spawn(decode(pool, "sleep 60"), name="test") for _ in range(5)]
        await until(lambda: len(pool._pool._busy) == 2)
        await pool.aclose()
        results = await asyncio.gather(*decoding, return_exceptions=True)
        assert [type(it) for it in results] == [DecodersUnavailable] * 5
        assert not pool.healthy
        with pytest.raises(DecodersUnavailable, match="shutting down"):
            await decode(pool, "crop x")
        await pool.aclose()  # once more does no harm


async def test_closing_what_was_never_started() -> None:
    """Does nothing."""
    pool = Decoders(misbehavior.decode, processes=1, memory_bytes=MEMORY_BYTES, cpu_seconds=1)
    assert not pool.healthy
    await pool.aclose()


async def test_decoders_that_cannot_start_are_an_error_of_the_settings() -> None:
    """Which says why, and leaves nothing behind."""
    before = open_files()

    def local(data: mmap.mmap | bytes, spec: CropSpec, bounds: Bounds) -> list[Frame]:
        return []

    pool = Decoders(local, processes=1, memory_bytes=MEMORY_BYTES, cpu_seconds=1)
    with pytest.raises(ConfigError, match="Decoder processes do not start: AttributeError"):
        await pool.start()
    assert open_files() == before


async def test_only_linux_has_what_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere the proxy does not start, rather than decode unconfined."""
    monkeypatch.setattr(sys, "platform", "darwin")
    pool = Decoders(misbehavior.decode, processes=1, memory_bytes=MEMORY_BYTES, cpu_seconds=1)
    with pytest.raises(ConfigError, match="this is darwin"):
        await pool.start()


async def test_file_that_is_not_open_is_an_error_of_its_own() -> None:
    """Not the picture's fault."""
    async with decoders() as pool:
        with pytest.raises(DecodersUnavailable, match="cannot hand over the file"):
            await pool.decode(9999, 1, SPEC, BOUNDS, deadline=Deadline.after(10))


async def test_memory_of_the_proxy_stays_flat() -> None:
    """Over files that are decoded, refused, and that end their decoders."""
    async with decoders(processes=2, files_each=20) as pool:

        async def round_of_files() -> None:
            for number in range(24):
                with suppress(UndecodableImage):
                    await decode(pool, ("many 60", "refuse x", "crop x", "exit 1")[number % 4])

        await round_of_files()
        before = resident_bytes()
        for _ in range(3):
            await round_of_files()
        assert resident_bytes() - before < 8 * 1024**2


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_nothing_outlives_a_proxy_that_is_killed() -> None:
    """Kill -9 of the proxy ends the template and every decoder, a busy one too."""
    program = """
import asyncio, tempfile
from safety_proxy.deadline import Deadline
from tests.media.isolation import test_processes as t
async def main():
    async with t.decoders() as pool:
        task = asyncio.ensure_future(t.decode(pool, "spin"))
        await t.until(lambda: bool(pool._pool._busy))
        print(t.template_of(pool), flush=True)
        await task
asyncio.run(main())
"""
    root = Path(__file__).parents[3]
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=root
    ) as proxy:
        assert proxy.stdout is not None
        template = int(proxy.stdout.readline())
        assert len(in_session(template)) >= 2
        proxy.kill()
    patience = time.monotonic() + 20
    while in_session(template) and time.monotonic() < patience:
        time.sleep(0.01)
    assert in_session(template) == set()
