"""Tests of safety_proxy/media/bounds.py."""

import pytest

from safety_proxy.errors import UndecodableImage
from safety_proxy.media.bounds import (
    Bounds,
    Code,
    check_frame,
    check_total,
    joined,
    undecodable,
)
from safety_proxy.settings import LimitsSettings


def test_refusal_has_its_code() -> None:
    """And its text, for the log."""
    error = undecodable(Code.HIDDEN_PICTURE, "why")
    assert error.code == "hidden-picture"
    assert str(error) == "why"


def test_bounds_themselves_are_allowed() -> None:
    """One more is not."""
    bounds = Bounds(frame_pixels=100, total_pixels=1000)
    check_frame(10, 10, bounds)
    check_total(1000, bounds)
    with pytest.raises(UndecodableImage) as frame:
        check_frame(101, 1, bounds)
    with pytest.raises(UndecodableImage) as total:
        check_total(1001, bounds)
    assert frame.value.code == total.value.code == "too-large"


def test_frames_are_as_many_as_the_settings_have() -> None:
    """Who gives no bounds gets what a server does."""
    assert Bounds().frames == LimitsSettings().max_frames


@pytest.mark.parametrize("size", [(0, 10), (10, 0), (-1, -1)])
def test_picture_without_a_size_is_damaged(size: tuple[int, int]) -> None:
    """Whatever its product."""
    with pytest.raises(UndecodableImage) as refused:
        check_frame(*size, Bounds())
    assert refused.value.code == "damaged"


def test_salt_is_new_with_each_start_and_stays() -> None:
    """All bounds of one process choose the same frames."""
    assert Bounds().salt == Bounds().salt
    assert len(Bounds().salt) == 32


def test_parts_of_a_place_are_joined() -> None:
    """Those that are empty left out."""
    assert joined("a", "", "b") == "a, b"
    assert joined("", "") == ""
