"""Tests of safety_proxy/media/selection.py: which frames of many are judged."""

from collections.abc import Iterable
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safety_proxy.media.likeness import Thumb
from safety_proxy.media.selection import Selection

GRAY, WHITE = 128, 255


def thumb(level: int) -> Thumb:
    """A thumbnail of one gray."""
    return np.full((32, 32, 3), level, np.int16)


def chosen(
    levels: Iterable[int],
    *,
    most: int = 8,
    gap: float = 1.0,
    per_second: float = 10,
    salt: str = "",
) -> list[int]:
    """The numbers of the frames that are chosen of frames of these grays."""
    selection = Selection[int](most, gap, salt)
    for number, level in enumerate(levels):
        selection.offer(number / per_second, thumb(level), partial(int, number))
    return selection.chosen()


def test_frames_that_look_the_same_are_one() -> None:
    """However many there are, and however long they are shown."""
    assert chosen([GRAY] * 1000) == [0]
    assert chosen([GRAY, GRAY + 1] * 500) == [0]


def test_single_frame_is_chosen() -> None:
    """Nothing is needed to compare it with."""
    assert chosen([GRAY]) == [0]


def test_nothing_of_nothing() -> None:
    """No frame was offered."""
    assert chosen([]) == []


@pytest.mark.parametrize("place", [0, 1, 57, 123, 198, 199])
def test_one_frame_that_differs_is_chosen(place: int) -> None:
    """Wherever it is."""
    assert place in chosen([WHITE if number == place else GRAY for number in range(200)])


@pytest.mark.parametrize("place", [57, 123, 199])
def test_one_frame_that_differs_is_chosen_of_many_that_move(place: int) -> None:
    """What differs most stays, however many others differ a little."""
    levels = [WHITE if number == place else number * 7 % 100 for number in range(200)]
    assert place in chosen(levels)


def test_last_frame_is_chosen_whatever_came_before() -> None:
    """Though it differs too little to be chosen for that."""
    levels = [number * 5 % 250 for number in range(199)]
    assert chosen([*levels, levels[-1] + 5])[-1] == 199


def test_slow_change_is_followed() -> None:
    """None of its steps would be seen alone."""
    found = chosen([100 + number // 4 for number in range(400)], gap=1000)
    assert len(found) >= 4
    levels = [100 + number // 4 for number in found]
    assert max(np.diff(levels)) <= 50


def test_what_is_shown_for_long_is_chosen_beside_what_flashes() -> None:
    """Half of the places are the clock's: ten seconds of a gray between flashes of all others."""
    flashes = [number * 37 % 256 for number in range(200)]
    levels = [*flashes, *([70] * 100), *flashes]
    assert min(abs(levels[number] - 70) for number in chosen(levels, most=16)) <= 3


def test_clock_reaches_over_the_whole_length() -> None:
    """With gaps that widen as long as frames come."""
    found = chosen([number % 200 for number in range(4000)], most=16)
    assert found[0] == 0
    assert max(np.diff(found)) <= 2000


def test_choice_is_the_same_for_one_salt_and_another_for_another() -> None:
    """So nobody can tell between which frames there will be a gap, and every run agrees."""
    levels = [number * 7 % 230 for number in range(500)]
    assert chosen(levels, salt="one") == chosen(levels, salt="one")
    assert chosen(levels, salt="one") != chosen(levels, salt="other")


def test_picture_is_taken_only_of_what_may_be_chosen() -> None:
    """Taking is what costs."""
    taken: list[int] = []
    selection = Selection[None](8, 1.0, "")
    for number in range(1000):
        selection.offer(number / 10, thumb(GRAY + number % 2), partial(taken.append, number))
    selection.chosen()
    assert len(taken) == 1


@settings(max_examples=100, deadline=None)
@given(
    levels=st.lists(st.integers(0, 255), min_size=1, max_size=120),
    most=st.integers(2, 20),
    per_second=st.sampled_from([0.01, 1.0, 10.0, 1000.0]),
)
def test_choice_is_in_order_bounded_and_has_both_ends(
    levels: list[int], most: int, per_second: float
) -> None:
    """Whatever comes; an end that is left out looks like a frame that is chosen."""
    found = chosen(levels, most=most, per_second=per_second)
    assert found[0] == 0
    assert found == sorted(set(found))
    assert len(found) <= most
    assert min(abs(levels[-1] - levels[number]) for number in found) <= 3
