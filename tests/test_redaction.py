"""Tests of safety_proxy/redaction.py: what may be told, and what may not.

How it comes out of a log is in test_logs.py, with secrets planted in every way there.
"""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safety_proxy.errors import EmbedderUnavailable
from safety_proxy.redaction import clean, exception_of, message_of, prose_of, traceback_of

SECRETS = [
    "https://h.example/x.png?signature=abc",
    "HTTP://h.example/",
    "https%3A%2F%2Fh.example%2Fx",
    "Bearer abc",
    "jwt=abc",
    "Authorization: Basic abc",
    "Cookie: a=abc",
    "eyJhbGciOi.abc.def",
]


@pytest.mark.parametrize("secret", SECRETS)
def test_secret_in_a_field_is_cut_out_wherever_it_stands(secret: str) -> None:
    """In a text, a list, a key or a value; what stands before it stays."""
    for value in (f"before {secret}", [f"before {secret}"], {f"before {secret}": 1}):
        text = json.dumps(clean(value))
        assert "before" in text
        assert "abc" not in text
        assert "h.example" not in text


@given(
    st.recursive(
        st.one_of(
            st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(max_size=9)
        ),
        lambda inner: st.one_of(
            st.lists(inner), st.tuples(inner), st.dictionaries(st.text(), inner)
        ),
        max_leaves=8,
    )
)
def test_field_of_any_kind_becomes_plain_json_on_one_line(value: object) -> None:
    """Whatever it is, an encoder takes it, and it has no line of its own."""
    text = json.dumps(clean(value), allow_nan=False)
    assert "\n" not in text


def test_object_is_its_type_alone() -> None:
    """What it would say of itself may be anything."""
    assert clean(object()) == "<object>"
    assert clean(Path("a") / "b") == "a/b"
    assert clean(ValueError("secret")) == "ValueError"


@pytest.mark.parametrize(
    ("message", "arguments", "told"),
    [
        ("Loaded %d of %s tensors", (5, "secret"), "Loaded 5 of ... tensors"),
        ("Cannot open 'secret'", (), "Cannot open ..."),
        ("GET /secret", (), "GET ..."),
        ("token secret", (), "token ..."),
        ("takes %s", (), "takes ..."),
        ("one\nsecret", (), "one"),
        (ValueError("secret"), (), "<ValueError>"),
        ("", (), ""),
    ],
)
def test_message_of_a_library_is_told_as_far_as_it_is_prose(
    message: object, arguments: object, told: str
) -> None:
    """Words and numbers; arguments only where they are numbers."""
    assert message_of(message, arguments) == told


@given(st.text())
def test_prose_of_any_text_is_one_line_of_words(text: str) -> None:
    """Nothing that could be an address, a path or a header is among them."""
    told = prose_of(text)
    assert not set(told) & set('/\\=@\n"()[]{}<>')


def test_exception_is_types_and_places_of_all_that_led_to_it() -> None:
    """Texts only of our own errors."""

    def lose_the_device() -> None:
        try:
            raise OSError(111, "secret")  # noqa: TRY301 -- what is raised is the point
        except OSError as cause:
            raise EmbedderUnavailable("device lost") from cause

    with pytest.raises(EmbedderUnavailable) as caught:
        lose_the_device()
    told = traceback_of(caught.value)
    assert told.startswith("EmbedderUnavailable: device lost (tests/test_redaction.py:")
    assert "; because of ConnectionRefusedError ECONNREFUSED (" in told
    assert "secret" not in told
    assert exception_of((type(caught.value), caught.value, None)) is caught.value
    assert exception_of(None) is None
