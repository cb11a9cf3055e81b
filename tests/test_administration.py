"""Tests of safety_proxy/administration.py: what an admin decides takes effect in the scanner."""

import hashlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, web

from safety_proxy.administration import Administration
from safety_proxy.errors import StoreUnavailable
from safety_proxy.media.spool import Spooler
from safety_proxy.proxy.fetch import Fetcher
from safety_proxy.settings import Settings
from safety_proxy.store.entries import Kind
from safety_proxy.store.hashlist import test_picture as blocked_picture
from safety_proxy.store.shared import ListSource
from safety_proxy.verdict import Action
from tests.fakes import POLICY_TEXT, FakeServer, ask
from tests.pictures import GREEN, PURPLE, RED, plain
from tests.test_scanner import Scanning, media_of, scanning, soon

FILE = {"Content-Type": "application/octet-stream"}
STRICTER = POLICY_TEXT.replace('"flag"', '"block"')
BLOCKS_RED = STRICTER.replace('all = ["green"]', 'all = ["red"]')


@dataclass
class Office:
    """The admin's routes over a scanner that has proved itself."""

    url: str
    administration: Administration
    it: Scanning

    async def action_on(self, body: bytes) -> Action:
        with await media_of(body) as media:
            return (await self.it.scanner.scan(media, soon())).action


@asynccontextmanager
async def opened(folder: Path, origin_port: int = 80) -> AsyncIterator[Office]:
    """With a policy file and a list, both in the folder."""
    policy, listed = folder / "policy.toml", folder / "list.txt"
    policy.write_text(POLICY_TEXT)
    listed.touch()
    fetch = {"allow_networks": ["127.0.0.0/8"], "allow_ports": [origin_port]}
    settings = Settings.model_validate({"fetch": fetch, "policy": {"file": str(policy)}})
    spooler = Spooler(file_bytes=1_000_000, total_bytes=10_000_000)
    async with AsyncExitStack() as closing:
        it = await closing.enter_async_context(
            scanning(sources=[ListSource("others", listed, Kind.SHA256)])
        )
        with await media_of(blocked_picture()) as hit, await media_of(plain(RED)) as clean:
            await it.proof.prove(hit, clean)
        fetcher = Fetcher(settings.fetch, spooler)
        closing.push_async_callback(fetcher.aclose)
        administration = Administration(
            settings.policy,
            scanner=it.scanner,
            lists=it.lists,
            evidence=it.evidence,
            fetcher=fetcher,
            spooler=spooler,
            proof=it.proof,
        )
        application = web.Application()
        application.add_routes(administration.routes)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        closing.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield Office(f"http://127.0.0.1:{runner.addresses[0][1]}", administration, it)


@pytest.fixture
async def office(tmp_path: Path, origin: FakeServer) -> AsyncIterator[Office]:
    async with opened(tmp_path, origin.port) as office:
        yield office


async def test_a_policy_is_in_force_with_the_answer(client: ClientSession, office: Office) -> None:
    """Also for what is at hand."""
    assert await office.action_on(plain(GREEN)) is Action.FLAG
    answer = await ask(
        client, "POST", office.url, "/api/v1/policy/apply", data=STRICTER, headers=FILE
    )
    assert answer.status == 200
    assert await office.action_on(plain(GREEN)) is Action.BLOCK


@pytest.mark.parametrize("what", ["diff", "apply"])
async def test_a_policy_that_blocks_the_plain_picture_is_refused(
    client: ClientSession, office: Office, what: str
) -> None:
    """It would fail every user."""
    answer = await ask(
        client, "POST", office.url, f"/api/v1/policy/{what}", data=BLOCKS_RED, headers=FILE
    )
    assert (answer.status, answer.json["code"]) == (400, "config")
    assert "plain gray" in answer.json["msg"]
    assert await office.action_on(plain(RED)) is Action.ALLOW


async def test_an_entry_is_in_force_with_the_answer(client: ClientSession, office: Office) -> None:
    """And so is that it was taken back."""
    assert await office.action_on(plain(PURPLE)) is Action.BLOCK
    sha256 = hashlib.sha256(plain(PURPLE)).hexdigest()
    body = {"action": "allow", "sha256": sha256}
    answer = await ask(client, "POST", office.url, "/api/v1/lists/entries", json=body)
    assert answer.status == 200
    assert await office.action_on(plain(PURPLE)) is Action.ALLOW
    await ask(client, "DELETE", office.url, f"/api/v1/lists/entries/{sha256}?action=allow")
    assert await office.action_on(plain(PURPLE)) is Action.BLOCK


async def test_an_explanation_says_what_the_scanner_does(
    client: ClientSession, office: Office, origin: FakeServer
) -> None:
    """Of a file, of an address, of bytes that were seen, and of what cannot be read."""

    async def picture(*_: object) -> web.Response:
        return web.Response(body=plain(PURPLE), content_type="image/png")

    origin.answer = picture
    base, sha256 = "/api/v1/explain", hashlib.sha256(plain(PURPLE)).hexdigest()
    await office.action_on(plain(PURPLE))
    await office.it.recall.aclose()  # which writes it down
    for answer in (
        await ask(client, "POST", office.url, base, data=plain(PURPLE), headers=FILE),
        await ask(client, "POST", office.url, base, json={"url": f"{origin.url}/x.png"}),
        await ask(client, "GET", office.url, f"{base}/{sha256}"),
    ):
        assert answer.status == 200
        assert (answer.json["sha256"], answer.json["action"]) == (sha256, "block")
    for body in (b"no picture", b""):
        answer = await ask(client, "POST", office.url, base, data=body, headers=FILE)
        assert (answer.status, answer.json["action"]) == (200, "block")
        assert answer.json["unreadable"]
    await office.action_on(b"no picture")
    await office.it.recall.aclose()
    sha256 = hashlib.sha256(b"no picture").hexdigest()
    answer = await ask(client, "GET", office.url, f"{base}/{sha256}")
    assert (answer.status, answer.json["action"]) == (200, "block")
    assert answer.json["recorded"]["reasons"]


async def test_before_the_model_has_loaded_it_says_so(
    client: ClientSession, office: Office
) -> None:
    """An entry can be made all the same."""
    office.it.scanner.model, model = None, office.it.scanner.model
    wanted: list[tuple[str, dict[str, Any]]] = [
        ("/api/v1/policy/apply", {"data": STRICTER, "headers": FILE}),
        ("/api/v1/explain", {"data": plain(RED), "headers": FILE}),
    ]
    for target, options in wanted:
        answer = await ask(client, "POST", office.url, target, **options)
        assert answer.status == 503
        assert "loading" in answer.json["msg"]
    await office.administration.reload()
    body = {"action": "block", "sha256": "a" * 64, "exact": True}
    answer = await ask(client, "POST", office.url, "/api/v1/lists/entries", json=body)
    assert answer.status == 200
    office.it.scanner.model = model


async def test_a_reload_reads_policy_and_lists(tmp_path: Path, office: Office) -> None:
    """What is wrong stays as it was, and does not keep the rest from being read."""
    (tmp_path / "policy.toml").write_text(STRICTER)
    (tmp_path / "list.txt").write_text(hashlib.sha256(plain(RED)).hexdigest())
    await office.administration.reload()
    assert await office.action_on(plain(GREEN)) is Action.BLOCK
    assert await office.action_on(plain(RED)) is Action.BLOCK
    (tmp_path / "policy.toml").write_text("no policy")
    (tmp_path / "list.txt").write_text("")
    await office.administration.reload()
    assert await office.action_on(plain(GREEN)) is Action.BLOCK
    assert await office.action_on(plain(RED)) is Action.ALLOW


async def test_a_reload_outlives_the_database(
    tmp_path: Path,
    office: Office,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The lists stay, the policy is read, and the log says which."""

    async def fail() -> None:
        raise StoreUnavailable("the disk is full")

    (tmp_path / "policy.toml").write_text(STRICTER)
    monkeypatch.setattr(office.it.lists, "reload", fail)
    await office.administration.reload()
    assert "the lists stay as they were" in caplog.text
    assert "the disk is full" in caplog.text
    assert await office.action_on(plain(GREEN)) is Action.BLOCK
