"""Tests of safety_proxy/admin/lists.py: the admin decides, and it holds with the answer."""

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from aiohttp import ClientSession
from PIL import Image

from safety_proxy.store.hashlist import test_picture as harmless_picture
from safety_proxy.store.shared import ListSource
from safety_proxy.verdict import Action
from tests.fakes import ask
from tests.listing import Listing, evidence_of, serving
from tests.pictures import RED, encoded, plain

BASE = "/api/v1/lists"
MD5 = "0a" * 16
FILE = {"Content-Type": "application/octet-stream"}
REFERENCE = Path(__file__).parents[1] / "media" / "pdq_reference" / "square-256x256.jpg"


@pytest.fixture
def source(tmp_path: Path) -> ListSource:
    file = tmp_path / "theirs.txt"
    file.write_text(f"{MD5}\nbad\n")
    return ListSource("theirs", file)


@pytest.fixture
async def served(tmp_path: Path, source: ListSource) -> AsyncIterator[tuple[Listing, str]]:
    async with serving(tmp_path, source) as served:
        yield served


@pytest.fixture
def listing(served: tuple[Listing, str]) -> Listing:
    return served[0]


@pytest.fixture
def url(served: tuple[Listing, str]) -> str:
    return served[1]


def picture() -> Image.Image:
    with Image.open(REFERENCE) as image:
        image.load()
        return image


def sha256_of(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def action_of(listing: Listing, body: bytes) -> Action | None:
    """What the lists say of a picture, as the scanner asks them."""
    evidence = evidence_of(body)
    match = listing.lists.match(
        evidence.sha256, sha1=evidence.sha1, md5=evidence.md5, pdq=evidence.pdq
    )
    return match.action if match else None


async def put(client: ClientSession, url: str, **fields: Any) -> Any:
    answer = await ask(client, "POST", url, f"{BASE}/entries", json=fields)
    assert answer.status == 200, answer.body
    return answer.json


async def test_an_allow_holds_with_the_answer(
    client: ClientSession, listing: Listing, url: str
) -> None:
    """For these bytes; the note and who come back with the list. Taken back, it is gone."""
    body = plain(RED)
    sha256 = sha256_of(body)
    answer = await put(client, url, action="allow", sha256=sha256.upper(), note="logo", who="anna")
    assert answer["problem"] == ""
    assert action_of(listing, body) is Action.ALLOW
    assert action_of(listing, body + b"\0") is None
    (own,) = (await ask(client, "GET", url, BASE)).json["own"]
    assert (own["sha256"], own["note"], own["who"], own["pdq"]) == (sha256, "logo", "anna", [])
    gone = await ask(client, "DELETE", url, f"{BASE}/entries/{sha256}?action=allow")
    assert gone.json == {"removed": True}
    assert action_of(listing, body) is None
    again = await ask(client, "DELETE", url, f"{BASE}/entries/{sha256}?action=allow")
    assert again.json == {"removed": False}


async def test_a_blocked_file_is_blocked_in_other_bytes_too(
    client: ClientSession, listing: Listing, url: str
) -> None:
    """Encoded anew and half the size; other pictures are not. No copy was looked at."""
    body = encoded(picture())
    query = urlencode({"action": "block", "note": "spam & more", "who": "anna"})
    answer = await ask(client, "POST", url, f"{BASE}/entries?{query}", data=body, headers=FILE)
    assert answer.status == 200
    assert answer.json["problem"] == ""
    assert answer.json["entry"]["note"] == "spam & more"
    assert listing.looks == 1
    copies = [
        encoded(picture(), "JPEG", quality=30),
        encoded(picture().resize((128, 128)), "WEBP"),
    ]
    assert [action_of(listing, copy) for copy in (body, *copies)] == [Action.BLOCK] * 3
    assert action_of(listing, encoded(picture().transpose(Image.Transpose.ROTATE_180))) is None
    await put(client, url, action="allow", sha256=sha256_of(copies[0]))
    assert [action_of(listing, copy) for copy in copies] == [Action.ALLOW, Action.BLOCK]


async def test_an_exact_block_is_of_these_bytes(
    client: ClientSession, listing: Listing, url: str
) -> None:
    """By file or by digest; nobody looks at the picture."""
    body = encoded(picture())
    query = "action=block&exact=true"
    answer = await ask(client, "POST", url, f"{BASE}/entries?{query}", data=body, headers=FILE)
    assert answer.json["entry"]["pdq"] == []
    assert (answer.json["problem"], listing.looks) == ("", 0)
    assert action_of(listing, body) is Action.BLOCK
    assert action_of(listing, encoded(picture(), "WEBP")) is None


async def test_a_digest_that_was_seen_spreads(
    client: ClientSession, listing: Listing, url: str
) -> None:
    """The evidence of the earlier scan has its PDQ hash; without one the answer says so."""
    body = encoded(picture())
    evidence = evidence_of(body)
    answer = await put(client, url, action="block", sha256=evidence.sha256)
    assert "the server has not seen such a picture" in answer["problem"]
    assert action_of(listing, encoded(picture(), "WEBP")) is None
    listing.seen[evidence.sha256] = evidence
    answer = await put(client, url, action="block", sha256=evidence.sha256)
    assert answer["problem"] == ""
    assert action_of(listing, encoded(picture(), "WEBP")) is Action.BLOCK


@pytest.mark.parametrize(
    ("body", "problem"), [(plain(RED), "too few features"), (b"no picture", "no picture could")]
)
async def test_what_cannot_be_recognized_is_blocked_all_the_same(
    client: ClientSession, listing: Listing, url: str, body: bytes, problem: str
) -> None:
    """By its exact bytes, and the answer says why no more."""
    target = f"{BASE}/entries?action=block"
    answer = await ask(client, "POST", url, target, data=body, headers=FILE)
    assert answer.status == 200
    assert problem in answer.json["problem"]
    assert listing.lists.match_exact(sha256_of(body)) is not None


async def test_lists_are_shown_with_their_problems(client: ClientSession, url: str) -> None:
    """Names, files, counts, and the lines that could not be used."""
    answer = (await ask(client, "GET", url, BASE)).json
    (report,) = answer["lists"]
    assert (report["name"], report["counts"], report["bad"]) == ("theirs", {"md5": 1}, 1)
    assert report["problems"][0].startswith("line 2: 'bad'")
    assert (answer["own"], answer["excluded"]) == ([], [])
    assert len(answer["version"]) == 16


async def test_lists_are_reloaded_and_a_broken_one_stays(
    client: ClientSession, listing: Listing, url: str, source: ListSource
) -> None:
    """Without a restart."""
    source.file.write_text("0b" * 16)
    answer = await ask(client, "POST", url, f"{BASE}/reload", json={})
    assert answer.json["lists"][0]["error"] == ""
    assert listing.lists.match("a" * 64, md5="0b" * 16) is not None
    source.file.write_text("<html>")
    answer = await ask(client, "POST", url, f"{BASE}/reload", json={})
    assert "no hash of a picture" in answer.json["lists"][0]["error"]
    assert listing.lists.match("a" * 64, md5="0b" * 16) is not None


async def test_entries_are_excluded_and_count_again(
    client: ClientSession, listing: Listing, url: str
) -> None:
    """On this server, with a note."""
    fields = {"hash": MD5.upper(), "note": "a stock photo", "who": "ben"}
    answer = await ask(client, "POST", url, f"{BASE}/exclusions", json=fields)
    assert answer.json["excluded"]["hash"] == MD5
    assert listing.lists.match("a" * 64, md5=MD5) is None
    (excluded,) = (await ask(client, "GET", url, BASE)).json["excluded"]
    assert (excluded["note"], excluded["who"]) == ("a stock photo", "ben")
    answer = await ask(client, "DELETE", url, f"{BASE}/exclusions/{MD5}")
    assert answer.json == {"removed": True}
    assert listing.lists.match("a" * 64, md5=MD5) is not None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"action": "flag", "sha256": "a" * 64}, "allow or block, not 'flag'"),
        ({"action": "allow", "sha256": "a" * 63}, "64 hex digits"),
        ({"action": "allow"}, "64 hex digits"),
        ({"action": "block", "sha256": 5}, "sha256 must be text"),
        ({"action": "allow", "sha256": sha256_of(harmless_picture())}, "always blocked"),
    ],
)
async def test_wrong_decisions_are_refused(
    client: ClientSession, listing: Listing, url: str, fields: dict[str, Any], message: str
) -> None:
    """With a message, and no effect."""
    answer = await ask(client, "POST", url, f"{BASE}/entries", json=fields)
    assert answer.status == 400
    assert message in answer.json["msg"]
    assert not listing.lists.entries
