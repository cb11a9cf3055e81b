"""Tests of safety_proxy/deadline.py: what the client says of its time, and what it is allowed."""

from dataclasses import dataclass

import pytest

from safety_proxy.deadline import HEADER, Deadline
from safety_proxy.errors import DeadlineExceeded, MalformedRequest

NOW_NS = 1_764_000_000_000_000_000


@dataclass
class Clock:
    """Stands for the module `time`: both its clocks, which differ as they do in life."""

    passed: float = 0.0

    def time(self) -> float:
        return NOW_NS / 1e9 + self.passed

    def monotonic(self) -> float:
        return 1000.0 + self.passed


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of the deadlines; it stands until a test moves it."""
    clock = Clock()
    monkeypatch.setattr("safety_proxy.deadline.time", clock)
    return clock


def in_seconds(seconds: int) -> str:
    """The header of a client that waits so long from now on."""
    return str(NOW_NS + seconds * 10**9)


def test_the_header_is_that_of_pictrs() -> None:
    """Lemmy and pict-rs know it by this name."""
    assert HEADER == "X-Request-Deadline"


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, 30),
        (in_seconds(5), 5),
        (in_seconds(30), 30),
        (in_seconds(31), 30),
        (in_seconds(10 * 365 * 86_400), 30),
    ],
)
def test_the_earlier_of_header_and_allowance_holds(header: str | None, seconds: float) -> None:
    """A client may ask for less time than its kind of request is allowed, never for more."""
    assert Deadline.of_request(header, 30).left == pytest.approx(seconds, abs=0.001)


@pytest.mark.parametrize("header", [in_seconds(0), in_seconds(-1), "0", "1"])
def test_a_deadline_that_is_past_is_exceeded(header: str) -> None:
    """Refused at once, in pict-rs' own words."""
    with pytest.raises(DeadlineExceeded) as raised:
        Deadline.of_request(header, 30)
    error = raised.value
    assert (error.status, error.code, error.public_message) == (
        408,
        "request-timeout",
        "Deadline exceeded",
    )


@pytest.mark.parametrize("digits", [21, 40, 400, 5000])
@pytest.mark.parametrize("first", ["1", "9"])
def test_a_number_that_no_clock_reaches_is_not_a_deadline(first: str, digits: int) -> None:
    """pict-rs cannot read a time after the year 9999 either, and nothing overflows over it."""
    with pytest.raises(MalformedRequest):
        Deadline.of_request(first + "0" * digits, 30)


@pytest.mark.parametrize(
    "header",
    [
        "",
        " ",
        "abc",
        "-1",
        "+1",
        "1.5",
        "1e18",
        "0x10",
        "1_000",
        "nan",
        "inf",
        f" {NOW_NS}",
        f"{NOW_NS}, {NOW_NS}",
        "\u0661\u0662\u0663",  # Arabic digits
        "\uff11\uff12",  # full-width digits
        "\u00b2",
        "Wed, 25 Nov 2026 12:47:02 GMT",
    ],
)
def test_what_is_no_number_of_nanoseconds_is_malformed(header: str) -> None:
    """400 with pict-rs' code for it."""
    with pytest.raises(MalformedRequest) as raised:
        Deadline.of_request(header, 30)
    assert (raised.value.status, raised.value.code) == (400, "parse-deadline")


def test_the_time_left_runs_out(clock: Clock) -> None:
    """It shrinks with the clock and goes on below nothing."""
    deadline = Deadline.after(10)
    clock.passed = 4
    assert deadline.left == 6
    clock.passed = 12
    assert deadline.left == -2


def test_within_gives_less_time_and_never_more(clock: Clock) -> None:
    """Counted from when it is asked, as a step has its own time within that of the request."""
    deadline = Deadline.after(10)
    clock.passed = 4
    assert deadline.within(2).left == 2
    assert deadline.within(6) == deadline.within(60) == deadline


def test_before_leaves_time_for_what_comes_after(clock: Clock) -> None:
    """It may well be past already."""
    deadline = Deadline.after(10)
    assert deadline.before(3).left == 7
    clock.passed = 8
    assert deadline.before(3).left == -1


@pytest.mark.parametrize("passed", [0, 4])
def test_the_next_server_is_told_the_same_deadline(clock: Clock, passed: float) -> None:
    """What it reads from the header is what is left here, whenever it is written."""
    deadline = Deadline.after(10)
    clock.passed = passed
    header = deadline.as_header()
    assert int(header) == pytest.approx(NOW_NS + 10 * 10**9, abs=10**6)
    assert Deadline.of_request(header, 60).left == pytest.approx(10 - passed, abs=0.001)


def test_the_next_server_is_told_of_a_deadline_that_is_past(clock: Clock) -> None:
    """It is a readable one, so that the answer is that of a deadline and not of a bad request."""
    deadline = Deadline.after(10)
    clock.passed = 12
    with pytest.raises(DeadlineExceeded):
        Deadline.of_request(deadline.as_header(), 60)
