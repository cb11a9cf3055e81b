"""Tests of safety_proxy/evaluation/markup.py: nothing gets through that HTML would understand."""

import math

from safety_proxy.evaluation import markup
from safety_proxy.evaluation.bounds import Rate
from safety_proxy.evaluation.markup import Html

EVIL = "<b onclick='x'>\"&"


def test_text_is_escaped() -> None:
    """Also for the value of an attribute."""
    assert markup.text(EVIL) == "&lt;b onclick=&#x27;x&#x27;&gt;&quot;&amp;"


def test_headings_and_names_are_escaped() -> None:
    """Wherever a piece takes plain text."""
    pieces = [
        markup.figure(EVIL, Html("1"), Html("2")),
        markup.section("a", EVIL, Html("x")),
        markup.table([EVIL, EVIL], [(markup.text(EVIL), [markup.count(1)], False)]),
        markup.key(("seen", EVIL)),
    ]
    for piece in pieces:
        assert "<b onclick" not in piece
        assert "&lt;b onclick" in piece


def test_numbers_are_there_for_machines_too() -> None:
    """To the last bit, beside the rounded ones."""
    rate = Rate(1, 3)
    assert markup.count(1234) == '<data value="1234">1,234</data>'
    assert f'value="{1 / 3!r}"' in markup.share(rate)
    assert f'value="{rate.bound!r}"' in markup.bound(rate)
    assert markup.severity(0.5) == '<data value="0.5">0.500</data>'
    assert markup.severity(math.inf) == "never"


def test_a_section_without_content_is_not_there() -> None:
    """No heading over nothing."""
    assert markup.section("a", "Groups", Html("")) == ""


def test_rows_that_stand_out_have_their_class() -> None:
    """And only they."""
    cells = [markup.count(1)]
    table = markup.table(["", "n"], [(Html("a"), cells, True), (Html("b"), cells, False)])
    assert table.count('class="high"') == 1
