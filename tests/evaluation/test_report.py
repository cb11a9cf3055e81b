"""Tests of safety_proxy/evaluation/report.py: the page asks for nothing, and tells the truth."""

import base64
import io
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

from safety_proxy.evaluation.calibration import missed_at
from safety_proxy.evaluation.outcome import Outcome
from safety_proxy.evaluation.report import report
from safety_proxy.evaluation.sources import Unopened
from safety_proxy.verdict import Action
from tests.e2e.harness import missing
from tests.evaluation.scenes import HOSTILE, hostile_policy, outcome_of

MANY = [-0.2, -0.1] + [0.5 + 0.01 * number for number in range(400)]
GROUPS = ["food"] * 2 + ["pets", "sport"] * 200


def calibrated(name: str = "a.png") -> Outcome:
    """An outcome with every part a page can have; the first picture has this name."""
    outcome = outcome_of(MANY, must_block=[0.1, 0.4, 0.9], groups=GROUPS, wanted=0.05)
    first, *others = outcome.harmless.standouts
    harmless = replace(
        outcome.harmless,
        standouts=(replace(first, name=name), *others),
        unreadable=1,
        problems=(Unopened(name, f"broken: {name}"),),
    )
    return replace(outcome, harmless=harmless)


class Page(HTMLParser):
    """Of a page: its tags with their attributes, its text, and the numbers for machines by part."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.numbers: dict[str, list[float]] = {}
        self._part = ""
        self.feed(html)

    @property
    def kinds(self) -> list[str]:
        """Its tags, but for those that the curves of a plot are made of."""
        return [tag for tag, _ in self.tags if tag not in {"g", "path", "use"}]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        if tag in ("section", "h1") or attributes.get("id") == "figures":
            self._part = attributes.get("id") or tag
        if tag == "data":
            self.numbers.setdefault(self._part, []).append(float(attributes["value"] or "nan"))

    def handle_data(self, data: str) -> None:
        self.text += data


def check_numbers(page: Page, outcome: Outcome) -> None:
    """Those of the page are those of the outcome, to the last bit."""
    harmless, must_block, choice = outcome.harmless, outcome.must_block, outcome.choice
    assert choice is not None
    assert must_block is not None
    assert outcome.missed is not None
    assert choice.needed_severity is not None
    blocked = outcome.blocked
    assert page.numbers["h1"][:2] == [blocked.hits, blocked.pictures]
    figures = page.numbers["figures"]
    rates = [blocked, outcome.flagged, outcome.missed]
    assert figures[:9] == [n for rate in rates for n in (rate.share, rate.hits, rate.bound)]
    at = [outcome.policy.severity, choice.severity, choice.needed_severity]
    rows = [
        [harmless.rate_at(severity, Action.BLOCK) for severity in at],
        [harmless.rate_at(severity, Action.FLAG) for severity in at],
        [missed_at(must_block, severity) for severity in at],
    ]
    expected = [*at]
    for row in rows:
        expected += [rate.hits for rate in row]
        expected += [rate.share for rate in row]
        expected += [rate.bound for rate in row]
    for point in outcome.curve:
        rate = point.blocked
        expected += [point.severity, rate.hits, rate.share, rate.bound]
    assert page.numbers["severity"] == expected
    assert page.numbers["nearest"] == [one.block_severity for one in harmless.standouts]
    assert page.numbers["hardest"] == [one.block_severity for one in must_block.standouts]
    groups = [
        (rate.hits, rate.pictures, rate.share, rate.bound, group.flagged.share)
        for group in outcome.groups
        for rate in [group.blocked]
    ]
    assert page.numbers["groups"] == [number for group in groups for number in group]


def test_numbers_of_the_page_are_those_of_the_outcome() -> None:
    """Every table, and the figures at the top."""
    outcome = calibrated()
    page = Page(report(outcome))
    check_numbers(page, outcome)
    assert "Far above the rest: food" in page.text
    assert "2 of 402 harmless pictures blocked" in page.text


def test_a_page_without_calibration_leaves_those_parts_out() -> None:
    """Nothing was chosen, no stand-ins were given, and all lie in one folder."""
    html = report(outcome_of(MANY))
    sections = {attributes.get("id") for tag, attributes in Page(html).tags if tag == "section"}
    assert sections == {"severity", "rules", "concepts", "nearest", "origin"}
    assert "Chosen" not in Page(html).text


def test_a_point_estimate_is_not_dressed_up() -> None:
    """The page says that the sample is too small."""
    outcome = calibrated()
    assert outcome.choice is not None
    weak = replace(outcome, choice=replace(outcome.choice, is_shown=False))
    assert "This sample is too small" in Page(report(weak)).text
    assert "This sample is too small" not in Page(report(outcome)).text


def test_page_holds_all_it_needs_and_may_load_nothing() -> None:
    """No script, link or frame; the policy of the page itself forbids the rest."""
    page = Page(report(calibrated(HOSTILE)))
    csp = [a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert csp[0] is not None
    assert csp[0].startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'")
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "link", "iframe", "object", "embed", "base", "form", "a"}
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")]
        if tag == "img":
            assert (attributes["src"] or "").startswith("data:image/jpeg;base64,")


def test_hostile_names_are_shown_and_do_nothing() -> None:
    """Of files, policies, concepts and rules; where it matters to see what a file is called."""
    plain = Page(report(outcome_of([-0.5, 1.0], groups=["a", "b"])))
    outcome = outcome_of([-0.5, 1.0], groups=[HOSTILE, "b"], policy=hostile_policy())
    first, second = outcome.harmless.standouts
    harmless = replace(outcome.harmless, standouts=(replace(first, name=HOSTILE), second))
    page = Page(report(replace(outcome, harmless=harmless, source=HOSTILE)))
    assert page.kinds == plain.kinds
    assert page.text.count(HOSTILE) == 3  # the group, the picture, the source
    assert "<script>alert(1)</script>" in page.text
    assert "</svg><b>$red" in page.text


def test_pictures_are_small_jpegs_of_the_crops_and_can_be_reached() -> None:
    """Each behind a blur that pointing, touch and the keyboard lift."""
    outcome = outcome_of([1.0])
    html = report(outcome)
    (source,) = [a["src"] for tag, a in Page(html).tags if tag == "img"]
    assert source is not None
    image = Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2])))
    gray = int(outcome.harmless.standouts[0].looked.crop[0, 0, 0])
    assert image.format == "JPEG"
    assert image.convert("L").getpixel((4, 4)) == pytest.approx(gray, abs=2)
    shots = [a for _, a in Page(html).tags if a.get("class") == "shot"]
    assert [shot["tabindex"] for shot in shots] == ["0"]
    assert ".shot:hover img, .shot:focus img { filter: none;" in html


@contextmanager
def listening() -> Iterator[tuple[int, list[str]]]:
    """A server's port, and the paths that it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 -- its name
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port, asked
        server.shutdown()
        thread.join()


def opened(file: Path) -> str:
    """The page as Chromium has it after loading, with no name of the internet known to it."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        missing("chromium is not installed")
    done = subprocess.run(
        [
            browser,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            f"--user-data-dir={file.parent / 'profile'}",
            "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
            "--dump-dom",
            file.as_uri(),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=90,
    )
    return done.stdout


def test_in_a_browser_the_page_asks_no_server_for_anything(tmp_path: Path) -> None:
    """A hostile name that would fetch a picture does not; the same page unguarded does."""
    file = tmp_path / "report.html"
    with listening() as (port, asked):
        name = f"<img src='http://127.0.0.1:{port}/leak'>"
        outcome = calibrated(name)
        file.write_text(report(outcome), encoding="utf-8")
        check_numbers(Page(opened(file)), outcome)
        assert asked == []
        unguarded = report(outcome).replace("img-src data:", "img-src *", 1)
        unguarded = unguarded.replace("&lt;img src=&#x27;http", "<img src='http", 1)
        file.write_text(unguarded.replace("/leak&#x27;&gt;", "/leak'>", 1), encoding="utf-8")
        opened(file)
        assert asked == ["/leak"]


def test_the_same_outcome_gives_the_same_page() -> None:
    """Two reports can be compared."""
    assert report(calibrated()) == report(calibrated())
