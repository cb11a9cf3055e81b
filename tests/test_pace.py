"""Tests of safety_proxy/pace.py: how long the next scan will take, from the latest ones."""

import math
from dataclasses import dataclass

import pytest

from safety_proxy.pace import Pace

HOUR = 3600.0


@dataclass
class Clock:
    """Stands for the module `time`; it moves when a test says so."""

    now: float = 5000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock that scans are measured by."""
    clock = Clock()
    monkeypatch.setattr("safety_proxy.pace.time", clock)
    return clock


@pytest.fixture
def pace() -> Pace:
    return Pace()


@dataclass
class Load:
    """A model that takes batches of scans, one after another, while others wait for it."""

    pace: Pace
    clock: Clock

    def begin(self, count: int) -> None:
        for _ in range(count):
            self.pace.begin()

    def end(self, count: int, *, reached: bool = True) -> None:
        for _ in range(count):
            self.pace.end(reached=reached)

    def batches(self, count: int, *, size: int, seconds: float) -> None:
        """So many batches that each take so long; the places of what ended are taken at once."""
        for _ in range(count):
            self.clock.now += seconds
            self.end(size)
            self.begin(size)


@pytest.fixture
def load(pace: Pace, clock: Clock) -> Load:
    return Load(pace, clock)


def test_while_nothing_is_known_nothing_is_expected(pace: Pace, load: Load, clock: Clock) -> None:
    """The first scans are let in, however many run and however long they have."""
    assert pace.expected_seconds() == 0
    load.begin(50)
    clock.now += HOUR
    assert pace.expected_seconds() == 0


def test_a_scan_that_would_run_alone_is_always_worth_the_attempt(pace: Pace, load: Load) -> None:
    """Also after slow ones, as nobody can know that the next is slow as well."""
    load.begin(1)
    load.batches(5, size=1, seconds=60)
    assert pace.expected_seconds() > 60
    load.end(1)
    assert pace.running == 0
    assert pace.expected_seconds() == 0


def test_the_running_are_counted(pace: Pace, load: Load) -> None:
    """From their beginning to their end, whatever became of them."""
    load.begin(3)
    assert pace.running == 3
    pace.end(reached=True)
    pace.end(reached=False)
    assert pace.running == 1


@pytest.mark.parametrize(("running", "expected"), [(1, 0.4), (4, 1.0), (9, 2.0)])
def test_each_that_runs_adds_its_share(
    pace: Pace, load: Load, running: int, expected: float
) -> None:
    """Five scans a second: who comes to nine others will be through in two seconds."""
    load.begin(running)
    load.batches(200, size=1, seconds=0.2)
    assert pace.expected_seconds() == pytest.approx(expected, rel=0.02)


def test_bursts_as_batches_bring_them_even_out(pace: Pace, load: Load, clock: Clock) -> None:
    """32 ends at once each second are 32 a second, just after them and just before the next."""
    load.begin(64)
    load.batches(60, size=32, seconds=1.0)
    after = pace.expected_seconds()
    clock.now += 0.99
    load.begin(1)  # which makes the pace look at the clock
    before = pace.expected_seconds()
    assert after == pytest.approx(65 / 32, rel=0.15)
    assert before == pytest.approx(66 / 32, rel=0.15)


def test_a_batch_costs_its_scans_their_share_of_it(pace: Pace, load: Load) -> None:
    """Equal speed is equally fast, in whatever batches it comes."""
    load.begin(16)
    load.batches(400, size=1, seconds=0.05)
    one_by_one = pace.expected_seconds()
    load.batches(50, size=16, seconds=0.8)
    assert pace.expected_seconds() == pytest.approx(one_by_one, rel=0.1)


def test_a_model_that_slows_is_noticed(pace: Pace, load: Load) -> None:
    """Within the time that the measure remembers, not only after an average of hours."""
    load.begin(10)
    load.batches(100_000, size=1, seconds=0.1)  # almost three hours of ten a second
    assert pace.expected_seconds() == pytest.approx(1.1, rel=0.02)
    load.batches(20, size=1, seconds=1.0)  # 20 seconds of one a second
    assert pace.expected_seconds() > 4
    load.batches(40, size=1, seconds=1.0)
    assert pace.expected_seconds() == pytest.approx(11, rel=0.1)


def test_a_model_that_hangs_is_noticed_though_nothing_ends(
    pace: Pace, load: Load, clock: Clock
) -> None:
    """The time in which nothing ended counts as soon as somebody comes."""
    load.begin(10)
    load.batches(100, size=1, seconds=0.1)
    fast = pace.expected_seconds()
    clock.now += 20
    load.begin(1)
    assert pace.expected_seconds() > 8 * fast


def test_a_model_that_recovers_is_found_to_work_again(pace: Pace, load: Load, clock: Clock) -> None:
    """Scans that run alone are let in, and a few that end fast open the way for others."""
    load.begin(10)
    load.batches(100, size=1, seconds=0.1)
    for _ in range(100):  # it hangs for minutes, and all are given up
        clock.now += 8
        load.end(1, reached=False)
        load.begin(1)
    assert pace.expected_seconds() > 100
    load.end(10, reached=False)
    for _ in range(5):
        assert pace.expected_seconds() == 0
        load.begin(1)
        clock.now += 0.1
        load.end(1)
    load.begin(1)
    assert 0 < pace.expected_seconds() < 8
    load.batches(600, size=1, seconds=0.1)
    assert pace.expected_seconds() == pytest.approx(0.2, rel=0.05)


def test_giving_up_counts_as_time_and_not_as_an_end(pace: Pace, load: Load, clock: Clock) -> None:
    """Clients that leave do not make the model look fast."""
    load.begin(4)
    load.batches(200, size=1, seconds=0.5)
    assert pace.expected_seconds() == pytest.approx(2.5, rel=0.05)
    for _ in range(200):  # now every other one is given up: half as many verdicts in the same time
        clock.now += 0.5
        load.end(1)
        load.begin(1)
        clock.now += 0.5
        load.end(1, reached=False)
        load.begin(1)
    assert pace.expected_seconds() == pytest.approx(5.0, rel=0.1)


def test_time_in_which_nothing_runs_costs_nothing(pace: Pace, load: Load, clock: Clock) -> None:
    """A quiet night says nothing about the speed of the model."""
    load.begin(1)
    load.batches(100, size=1, seconds=0.2)
    clock.now += 0.2
    load.end(1)
    clock.now += 8 * HOUR
    load.begin(1)
    assert pace.expected_seconds() == pytest.approx(0.4, rel=0.02)


@pytest.mark.parametrize("hours", [0.1, 1, 2, 5])
def test_a_model_that_hangs_for_hours_takes_a_time_that_can_be_told(
    pace: Pace, load: Load, clock: Clock, hours: float
) -> None:
    """Clients are told to come again after it, so it is a matter of minutes and not of ages."""
    load.begin(10)
    load.batches(100, size=1, seconds=0.1)
    load.end(10, reached=False)
    for _ in range(int(hours * HOUR / 8)):  # each time somebody tries alone, and gives up
        load.begin(1)
        clock.now += 8
        load.end(1, reached=False)
    load.begin(1)
    assert math.isfinite(pace.expected_seconds())
    assert 8 < pace.expected_seconds() < HOUR
