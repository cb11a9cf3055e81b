"""Tests of safety_proxy/admin/policy.py: a policy tried and put in force while the server runs."""

import asyncio
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from aiohttp import ClientSession, web

from safety_proxy.admin.policy import Active, PolicyAdmin
from safety_proxy.errors import ConfigError, EmbedderUnavailable
from safety_proxy.policy.judge import Judge
from safety_proxy.policy.policy import Policy, parse_policy
from safety_proxy.settings import PolicySettings
from safety_proxy.store.database import Database
from safety_proxy.tasks import spawn
from safety_proxy.verdict import Action
from tests.fakes import POLICY_TEXT, FakeEmbedder, ask, until
from tests.store.made import evidence_of, filled

EMBEDDER = FakeEmbedder()
TOML = {"Content-Type": "application/toml"}

# Blocks what the policy in force flags.
STRICTER = POLICY_TEXT.replace('"flag"', '"block"').replace('"colors"', '"stricter"')


def judge_of(policy: Policy) -> Judge:
    return Judge(policy, EMBEDDER.embed_texts, logit_scale=10.0, logit_bias=None)


@dataclass
class Server:
    """The routes on a port of their own, and all that they were given."""

    url: str = ""
    judge: Judge = field(
        default_factory=lambda: judge_of(parse_policy(POLICY_TEXT, where="the test"))
    )
    loaded: bool = True
    build: Callable[[Policy], Awaitable[Judge]] | None = None
    switched: list[Judge] = field(default_factory=list)
    admin: PolicyAdmin | None = None

    def active(self) -> Active | None:
        return Active("model", self.judge) if self.loaded else None

    async def build_judge(self, policy: Policy) -> Judge:
        return await self.build(policy) if self.build else judge_of(policy)

    def switch(self, judge: Judge) -> None:
        self.switched.append(judge)
        self.judge = judge


@asynccontextmanager
async def running(
    folder: Path,
    *,
    file: Path | None = None,
    severity: float | None = None,
    dry_run: bool = False,
) -> AsyncIterator[Server]:
    """A server that knows three pictures, of which one is green, which is flagged."""
    rows = EMBEDDER.embed_texts(["red", "green", "blue"])
    pictures = [evidence_of(n, embeddings=rows[n : n + 1]) for n in range(3)]
    async with AsyncExitStack() as closing:
        database = await closing.enter_async_context(filled(folder / "state", pictures))
        server = Server()
        admin = PolicyAdmin(
            database,
            active=server.active,
            build_judge=server.build_judge,
            switch=server.switch,
            settings=PolicySettings(file=file, severity=severity, dry_run=dry_run),
        )
        server.admin = admin
        application = web.Application()
        application.add_routes(admin.routes)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        closing.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield server


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    """One whose policy is no file."""
    async with running(tmp_path) as server:
        yield server


async def send(
    client: ClientSession, server: Server, what: str, text: str | bytes = STRICTER, **options: Any
) -> tuple[int, Any]:
    options.setdefault("headers", TOML)
    answer = await ask(client, "POST", server.url, f"/api/v1/policy/{what}", data=text, **options)
    return answer.status, answer.json


async def test_a_diff_tells_what_would_change_and_changes_nothing(
    client: ClientSession, server: Server
) -> None:
    """How many, and which, with the reasons of both."""
    status, answer = await send(client, server, "diff")
    assert status == 200
    assert answer.pop("seconds") >= 0
    green = evidence_of(1).sha256
    version = parse_policy(STRICTER, where="the test").version
    assert answer == {
        "model": "model",
        "old": {"name": "colors", "version": server.judge.version, "unreadable": "block"},
        "new": {"name": "stricter", "version": version, "unreadable": "block"},
        "pictures": 3,
        "changes": 1,
        "counts": [
            {"old": "allow", "new": "allow", "pictures": 2},
            {"old": "flag", "new": "block", "pictures": 1},
        ],
        "changed": [
            {
                "sha256": green,
                "old": {"action": "flag", "reasons": ["green in frame 0: green 1.000>=0.900"]},
                "new": {"action": "block", "reasons": ["green in frame 0: green 1.000>=0.900"]},
            }
        ],
    }
    assert server.switched == []


async def test_apply_puts_it_in_force_and_tells_what_it_changed(
    client: ClientSession, server: Server
) -> None:
    """Against the one before; the next diff is against the new one."""
    status, answer = await send(client, server, "apply")
    assert status == 200
    assert [judge.policy.name for judge in server.switched] == ["stricter"]
    assert (answer["pictures"], answer["changes"]) == (3, 1)
    assert (answer["old"]["name"], answer["new"]["name"]) == ("colors", "stricter")
    _, again = await send(client, server, "diff")
    assert again["changes"] == 0


@pytest.mark.parametrize("what", ["diff", "apply"])
@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"no TOML", "TOML"),
        (b"\xff\xfe", "UTF-8"),
        (POLICY_TEXT.replace('"block"', '"blok"').encode(), "blok"),
        (b"", "that was sent"),
    ],
)
async def test_a_wrong_policy_is_refused_with_what_is_wrong(
    client: ClientSession, server: Server, what: str, body: bytes, message: str
) -> None:
    """The old one stays."""
    status, answer = await send(client, server, what, body)
    assert (status, answer["code"]) == (400, "config")
    assert message in answer["msg"]
    assert server.switched == []


@pytest.mark.parametrize("what", ["diff", "apply"])
@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {**TOML, "Origin": "https://example.com"},
    ],
)
async def test_a_web_page_cannot_send_one(
    client: ClientSession, server: Server, what: str, headers: dict[str, str]
) -> None:
    """That the admin looks at it, with this server on the same machine, is no reason."""
    status, answer = await send(client, server, what, headers=headers)
    assert status == 400
    assert "application/toml" in answer["msg"] or "web page" in answer["msg"]
    assert server.switched == []


@pytest.mark.parametrize("limit", ["-1", "501", "1" * 5000, "x", "", "1e2", "٣"])
async def test_a_wrong_limit_is_refused(client: ClientSession, server: Server, limit: str) -> None:
    """Before anything is put in force."""
    status, answer = await send(client, server, f"apply?{urlencode({'limit': limit})}")
    assert status == 400
    assert "limit" in answer["msg"]
    assert server.switched == []


async def test_bytes_of_no_declared_kind_are_read_as_a_policy(
    client: ClientSession, server: Server
) -> None:
    """As commands send files; a web page would have to ask before it sent such."""
    headers = {"Content-Type": "application/octet-stream"}
    status, answer = await send(client, server, "diff", headers=headers)
    assert (status, answer["changes"]) == (200, 1)


async def test_the_limit_bounds_what_is_named(client: ClientSession, server: Server) -> None:
    """Not what is counted."""
    _, answer = await send(client, server, "diff?limit=0")
    assert (answer["changes"], answer["changed"]) == (1, [])


@pytest.mark.parametrize("what", ["diff", "apply"])
async def test_while_the_model_loads_there_is_nothing_to_compare(
    client: ClientSession, server: Server, what: str
) -> None:
    """The client may try again."""
    server.loaded = False
    status, answer = await send(client, server, what)
    assert status == 503
    assert "loading" in answer["msg"]
    assert server.switched == []


@pytest.mark.parametrize(
    ("error", "status"), [(ConfigError("not for this"), 400), (EmbedderUnavailable("broken"), 503)]
)
@pytest.mark.parametrize("what", ["diff", "apply"])
async def test_a_policy_that_the_model_cannot_take_is_refused(
    client: ClientSession, server: Server, what: str, error: Exception, status: int
) -> None:
    """With the model's words; the old one stays."""

    async def build(policy: Policy) -> Judge:
        raise error

    server.build = build
    assert await send(client, server, what) == (
        status,
        {"msg": str(error), "code": "config" if status == 400 else "model"},
    )
    assert server.switched == []


async def test_the_settings_severity_moves_what_is_sent(
    client: ClientSession, tmp_path: Path
) -> None:
    """As it moves the file at the start."""
    async with running(tmp_path, severity=3.0) as server:
        await send(client, server, "apply")
    assert server.switched[0].policy.severity == 3.0


async def test_in_a_dry_run_what_is_sent_or_read_only_flags(
    client: ClientSession, tmp_path: Path
) -> None:
    """The file holds the policy as it was sent, for when the dry run ends."""
    file = tmp_path / "policy.toml"
    file.write_text(STRICTER)
    async with running(tmp_path, file=file, dry_run=True) as server:
        assert server.admin is not None
        await server.admin.reload()
        await send(client, server, "apply")
    wanted = parse_policy(STRICTER, where="the test")
    for judge in server.switched:
        assert {rule.action for rule in judge.policy.rules} == {Action.FLAG}
        assert judge.version != wanted.version
    assert len(server.switched) == 2
    assert file.read_text() == STRICTER


async def test_without_a_policy_file_it_lasts_until_the_next_start(
    client: ClientSession, server: Server
) -> None:
    """The answer says so, and what to do."""
    _, answer = await send(client, server, "apply")
    assert answer["file"] == ""
    assert "until the next start" in answer["problem"]
    assert "SAFETY_PROXY_POLICY__FILE" in answer["problem"]


async def test_the_policy_file_is_replaced_as_a_whole(
    client: ClientSession, tmp_path: Path
) -> None:
    """Byte for byte, with its mode, through a link; nothing else is left in the folder."""
    target, link = tmp_path / "conf" / "policy.toml", tmp_path / "link.toml"
    target.parent.mkdir()
    target.write_text(POLICY_TEXT)
    target.chmod(0o640)
    link.symlink_to(target)
    text = STRICTER + "# grün\n"
    async with running(tmp_path, file=link) as server:
        _, answer = await send(client, server, "apply", text)
    assert (answer["file"], answer["problem"]) == (str(link), None)
    assert target.read_bytes() == text.encode()
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert link.is_symlink()
    assert list(target.parent.iterdir()) == [target]


async def test_a_policy_file_that_is_gone_is_made(client: ClientSession, tmp_path: Path) -> None:
    """In its folder, if that is there."""
    file = tmp_path / "policy.toml"
    async with running(tmp_path, file=file) as server:
        _, answer = await send(client, server, "apply")
    assert answer["problem"] is None
    assert file.read_text() == STRICTER
    assert stat.S_IMODE(file.stat().st_mode) == 0o644


async def test_a_file_that_cannot_be_replaced_is_told_and_the_policy_is_in_force(
    client: ClientSession, tmp_path: Path
) -> None:
    """What to do about it is in the answer."""
    file = tmp_path / "nowhere" / "policy.toml"
    async with running(tmp_path, file=file) as server:
        status, answer = await send(client, server, "apply")
    assert status == 200
    assert len(server.switched) == 1
    assert str(file) in answer["problem"]
    assert "until the next start" in answer["problem"]


async def test_links_that_lead_round_in_a_ring_are_told(
    client: ClientSession, tmp_path: Path
) -> None:
    """As a folder that is not there is."""
    file = tmp_path / "policy.toml"
    file.symlink_to(file)
    async with running(tmp_path, file=file) as server:
        status, answer = await send(client, server, "apply")
    assert status == 200
    assert "cannot be replaced" in answer["problem"]


async def test_a_replacement_that_fails_leaves_the_old_file(
    client: ClientSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no half of a new one, as on a mounted file or a full disk."""
    file = tmp_path / "conf" / "policy.toml"
    file.parent.mkdir()
    file.write_text(POLICY_TEXT)

    def busy(self: Path, target: Path) -> None:
        raise OSError(16, "Device or resource busy")

    monkeypatch.setattr(Path, "replace", busy)
    async with running(tmp_path, file=file) as server:
        _, answer = await send(client, server, "apply")
    assert "busy" in answer["problem"]
    assert file.read_text() == POLICY_TEXT
    assert list(file.parent.iterdir()) == [file]


async def test_without_evidence_a_policy_can_still_be_put_in_force(
    client: ClientSession, tmp_path: Path
) -> None:
    """A damaged database must not keep the admin from changing it; a diff cannot be had."""
    async with running(tmp_path) as server:
        assert server.admin is not None
        server.admin._database = Database(tmp_path / "not open")
        status, answer = await send(client, server, "apply")
        assert status == 200
        assert "pictures" not in answer
        assert answer["new"]["name"] == "stricter"
        status, answer = await send(client, server, "diff")
        assert (status, answer["code"]) == (503, "store")
    assert len(server.switched) == 1


async def test_one_policy_at_a_time(client: ClientSession, server: Server) -> None:
    """The second is compared with the first, and comes to be in force after it."""
    waiting, go = 0, asyncio.Event()

    async def build(policy: Policy) -> Judge:
        nonlocal waiting
        waiting += 1
        await go.wait()
        return judge_of(policy)

    server.build = build
    first = spawn(send(client, server, "apply"), name="first")
    await until(lambda: waiting == 1)
    second = spawn(send(client, server, "apply", POLICY_TEXT), name="second")
    await asyncio.sleep(0.1)
    assert waiting == 1
    go.set()
    (_, one), (_, two) = await asyncio.gather(first, second)
    assert (one["old"]["name"], one["new"]["name"]) == ("colors", "stricter")
    assert (two["old"]["name"], two["new"]["name"]) == ("stricter", "colors")
    assert [judge.policy.name for judge in server.switched] == ["stricter", "colors"]


async def test_an_apply_ends_though_its_client_has_left(
    client: ClientSession, server: Server
) -> None:
    """Half of it would be a policy in force that no file holds."""
    building, go = asyncio.Event(), asyncio.Event()

    async def build(policy: Policy) -> Judge:
        building.set()
        await go.wait()
        return judge_of(policy)

    server.build = build
    sending = spawn(send(client, server, "apply"), name="apply")
    await building.wait()
    sending.cancel()
    await asyncio.wait([sending])
    await asyncio.sleep(0.1)
    go.set()
    await until(lambda: len(server.switched) == 1)


async def test_reload_reads_the_policy_file_again(tmp_path: Path) -> None:
    """As SIGHUP asks for."""
    file = tmp_path / "policy.toml"
    file.write_text(STRICTER)
    async with running(tmp_path, file=file, severity=2.0) as server:
        assert server.admin is not None
        await server.admin.reload()
    assert [judge.policy.name for judge in server.switched] == ["stricter"]
    assert server.switched[0].policy.severity == 2.0


@pytest.mark.parametrize("why", ["wrong", "gone", "not set", "loading"])
async def test_a_reload_that_cannot_be_leaves_the_old_policy(tmp_path: Path, why: str) -> None:
    """It is logged, and nothing else happens."""
    file = tmp_path / "policy.toml"
    if why != "gone":
        file.write_text("wrong" if why == "wrong" else STRICTER)
    async with running(tmp_path, file=None if why == "not set" else file) as server:
        assert server.admin is not None
        server.loaded = why != "loading"
        await server.admin.reload()
    assert server.switched == []
