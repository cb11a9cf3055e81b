"""Tests of safety_proxy/store/looks.py: an allow reaches equal crops, and no others."""

from safety_proxy.store import looks as module
from safety_proxy.store.looks import Looks


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_equal_crops_lead_to_what_was_allowed() -> None:
    """By their digest; any other digest, however near, leads nowhere."""
    looks = Looks()
    looks.remember("crops", "a" * 64)
    assert looks.origin("crops") == "a" * 64
    assert looks.origin("cropt") is None


def test_after_a_while_it_is_forgotten() -> None:
    """Each time that the bytes are seen it begins anew."""
    clock = Clock()
    looks = Looks(seconds=60, clock=clock)
    looks.remember("crops", "a" * 64)
    clock.now = 50
    looks.remember("crops", "b" * 64)
    clock.now = 110
    assert looks.origin("crops") == "b" * 64
    clock.now = 110.1
    assert looks.origin("crops") is None
    assert len(looks) == 0


def test_memory_is_bounded() -> None:
    """The oldest go first."""
    looks = Looks()
    for number in range(module._MAX_ENTRIES + 1):
        looks.remember(str(number), "a" * 64)
    assert len(looks) == module._MAX_ENTRIES
    assert looks.origin("0") is None
    assert looks.origin("1") == "a" * 64


def test_what_is_new_makes_another_generation() -> None:
    """So that a verdict from before can be told; what is merely seen again does not."""
    looks = Looks(seconds=60)
    generations = []
    for sha256 in ("a", "a", "b", "a"):
        looks.remember("crops", sha256 * 64)
        generations.append(looks.generation)
    assert generations == [1, 1, 2, 3]
