"""Tests of media/isolation/wire.py: what is taken for an answer, and nothing else is."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from safety_proxy.crops import CropSpec
from safety_proxy.errors import UndecodableImage
from safety_proxy.evidence import Pdq
from safety_proxy.media.bounds import Bounds, Frame
from safety_proxy.media.isolation import wire

NO_CROP = np.zeros((0, 0, 3), np.uint8)


def test_request_survives_the_way() -> None:
    """Every field of it."""
    request = wire.Request(
        5,
        CropSpec(7, 9, "longest", "bilinear", 114),
        Bounds(1, 2, 3, 4.5, 0.25, "refuse", turned=True, salt="salt"),
    )
    assert wire.Request.unpack(request.pack()) == request


def test_size_of_a_crop() -> None:
    """Three bytes a pixel."""
    assert wire.crop_bytes(CropSpec(2, 5)) == 30


def test_places_survive_the_way() -> None:
    """As one line each, cut where they are long; the most there may be fit into a message."""
    frames = [Frame(NO_CROP, where) for where in ("", "é", "a\nb\0c")]
    told = [("", ()), ("é", ()), ("a b c", ())]
    assert wire.unpack_answer(wire.pack_frames(frames)) == told


def test_hashes_survive_the_way() -> None:
    """The most there may be fit into a message; of more than enough, the later are left out."""
    pdq = (Pdq(bytes(range(32)), 100),) * 8
    message = wire.pack_frames([Frame(NO_CROP, "x" * 1000, pdq=pdq)] * wire.MOST_FRAMES)
    assert len(message) <= wire.MOST_BYTES
    told = wire.unpack_answer(message)
    assert told == [("x" * 100, pdq)] * 32 + [("x" * 100, ())] * (wire.MOST_FRAMES - 32)
    assert wire.is_answer(message)


def test_refusal_survives_the_way() -> None:
    """With its code."""
    error = UndecodableImage("tóo\n" + "x" * 1000)
    error.code = "too-large"
    message = wire.pack_undecodable(error)
    with pytest.raises(UndecodableImage) as told:
        wire.unpack_answer(message)
    assert str(told.value) == "tóo " + "x" * 296
    assert told.value.code == "too-large"
    assert wire.is_answer(message)


GARBLED = [
    b"",
    b"ready",
    b"\xff\xfe",
    b"{",
    b"[]",
    b"{}",
    b"null",
    b"NaN",
    b'{"frames": []}',
    b'{"frames": "ab"}',
    b'{"frames": {"0": "a"}}',
    b'{"frames": [1]}',
    b'{"frames": ["a"]}',
    b'{"frames": [["a", ""], null]}',
    b'{"frames": [["a", ""]], "more": 1}',
    b'{"frames": [["a", ""]], "undecodable": "b", "code": "c"}',
    b'{"frames": [["a", "", ""]]}',
    b'{"frames": [["a", 5]]}',
    b'{"frames": [["a", "' + b"0" * 64 + b'65"]]}',
    b'{"frames": [["a", "' + b"G" * 66 + b'"]]}',
    b'{"frames": [["a", "' + b"0" * 66 * 9 + b'"]]}',
    b'{"undecodable": "b"}',
    b'{"undecodable": 1, "code": "c"}',
    b'{"undecodable": "b", "code": 1}',
    b'{"undecodable": "b", "code": ""}',
    b'{"undecodable": "b", "code": "C\\n"}',
    b'{"undecodable": "b", "code": "c", "more": 1}',
    json.dumps({"frames": [["a", ""]] * (wire.MOST_FRAMES + 1)}).encode(),
    b"[" * wire.MOST_BYTES,
    b"1" * wire.MOST_BYTES,
    b'{"frames": [["a", ""]]}' + b" " * wire.MOST_BYTES,
]


@pytest.mark.parametrize("message", GARBLED, ids=lambda it: repr(it[:40]))
def test_anything_else_is_garbled(message: bytes) -> None:
    """A process that says such a thing is not believed in anything."""
    with pytest.raises(wire.Garbled):
        wire.unpack_answer(message)
    assert not wire.is_answer(message)


@given(
    st.binary()
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(st.sampled_from(["frames", "undecodable", "code", "x"]), inner)
        ),
    ).map(lambda it: json.dumps(it).encode())
)
def test_no_message_raises_anything_else(message: bytes) -> None:
    """What is believed is of the right form."""
    try:
        places = wire.unpack_answer(message)
    except (wire.Garbled, UndecodableImage):
        return
    assert 1 <= len(places) <= wire.MOST_FRAMES
    assert all(where.isprintable() for where, _ in places)
