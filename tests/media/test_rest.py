"""Tests of safety_proxy/media/rest.py."""

from safety_proxy.media.rest import Rest
from safety_proxy.media.window import Window


def test_patches_are_put_in_their_places() -> None:
    """In whatever order they come; all else stays."""
    rest = Rest("x", Window(b"-0123456789", 1), patches=((7, b"ab"), (0, b"c"), (9, b"d")))
    assert rest.patched().bytes() == b"c123456ab" + b"d"


def test_without_patches_it_is_the_same() -> None:
    """As a copy."""
    assert Rest("x", Window(b"abc")).patched().bytes() == b"abc"
