"""The harmless pictures with the small model of the package, by the program's own composition."""

import asyncio
import tomllib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession

from safety_proxy.app import App
from safety_proxy.assembly import load_clip
from safety_proxy.inference.embedder import Embedder
from safety_proxy.policy.policy import Policy, default_policy, load_policy
from safety_proxy.settings import Settings
from tests.fakes import FakeServer, ask

DEMO = Path(str(resources.files("safety_proxy.demo"))) / "policy.toml"
PINNED: list[dict[str, Any]] = tomllib.loads(Path(__file__).with_name("harmless.toml").read_text())[
    "policies"
]

# Of all harmless pictures, what a policy of the package may flag or block as it is shipped; and of
# a group, even where more severity was asked for.
MOST_OF_ALL, MOST_OF_A_GROUP = 0.04, 0.67

# To the small model plain gray is like nothing at all, and nearly everything else like this.
BLOCKS_NEARLY_ALL = """
name = "nearly all"
score = "contrast"
neutral = ["an empty background"]

[concepts.drawing]
threshold = 0.001
prompts = ["a drawing"]

[[rules]]
name = "drawing"
action = "block"
all = ["drawing"]
"""

TOML = {"Content-Type": "application/toml"}


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    """The small model, loaded once."""
    return load_clip(Settings.model_validate({"model": {"name": "demo", "precision": "fp32"}}))


Start = Callable[..., AbstractAsyncContextManager[App]]


@pytest.fixture
def start(embedder: Embedder, pictrs: FakeServer, tmp_path: Path) -> Start:
    """Starts a server with the small model and this policy, which has looked at all pictures."""

    @asynccontextmanager
    async def start(policy: str, **settings: Any) -> AsyncIterator[App]:
        file = tmp_path / "policy.toml"
        file.write_text(policy)
        made = Settings.model_validate(
            {
                "server": {"port": 0, "admin_port": 0},
                "upstream": {"url": pictrs.url},
                "store": {"folder": tmp_path / "store"},
                "policy": {"file": file, **settings},
            }
        )
        async with App(made, load_embedder=lambda _: embedder) as app:
            await app.ready()
            await app.proof.look()
            yield app

    return start


def admin(app: App) -> str:
    return f"http://127.0.0.1:{app.admin_port}"


async def test_the_demo_policy_passes_and_one_that_blocks_nearly_all_is_refused(
    client: ClientSession, start: Start, tmp_path: Path
) -> None:
    """By a command and by SIGHUP; the policy in force and its file stay."""
    async with start(DEMO.read_text()) as app:
        assert (await ask(client, "GET", admin(app), "/readyz")).status == 200
        model = app.scanner.model
        assert model is not None
        for what in ("apply", "diff"):
            answer = await ask(
                client,
                "POST",
                admin(app),
                f"/api/v1/policy/{what}",
                data=BLOCKS_NEARLY_ALL,
                headers=TOML,
            )
            assert (answer.status, answer.json["code"]) == (400, "config")
            assert "of 50 harmless pictures" in answer.json["msg"]
        assert (tmp_path / "policy.toml").read_text() == DEMO.read_text()
        (tmp_path / "policy.toml").write_text(BLOCKS_NEARLY_ALL)
        await app.reload()
        assert app.scanner.model is model
        assert (await ask(client, "GET", admin(app), "/readyz")).status == 200


async def test_a_start_with_a_policy_that_blocks_nearly_all_is_not_ready(
    client: ClientSession, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says why; a policy that is put in force then makes it ready."""
    async with start(BLOCKS_NEARLY_ALL) as app:
        answer = await ask(client, "GET", admin(app), "/readyz")
        assert (answer.status, answer.json["model"]) == (503, False)
        assert "'nearly all' blocks" in caplog.text
        apply = partial(ask, client, "POST", admin(app), "/api/v1/policy/apply", headers=TOML)
        assert (await apply(data=DEMO.read_text())).status == 200
        assert (await ask(client, "GET", admin(app), "/readyz")).status == 200


async def test_in_a_dry_run_it_starts_and_blocks_nothing(
    client: ClientSession, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    """With two warnings: that it is a dry run, and what the policy makes of harmless pictures."""
    async with start(BLOCKS_NEARLY_ALL, dry_run=True) as app:
        assert (await ask(client, "GET", admin(app), "/readyz")).status == 200
        assert app.scanner.model is not None
        outcome = app.proof.outcome(app.scanner.model.judge)
    assert outcome.blocked.total() == 0
    assert outcome.flagged.total() > 40
    assert "DRY RUN" in caplog.text
    assert "flags or blocks" in caplog.text


def policy_of(pinned: dict[str, Any], model: str) -> Policy:
    severity = pinned["severity"]
    if pinned["name"] == "demo":
        return load_policy(DEMO, severity=severity)
    return default_policy(model, severity=severity)


async def test_no_group_of_harmless_pictures_is_acted_on_twice_as_often_as_it_was(
    start: Start,
) -> None:
    """Measured into harmless.toml; a change of model, decoders, scores or policy shows here."""
    async with start(DEMO.read_text()) as app:
        model = app.scanner.model
        assert model is not None
        for pinned in PINNED:
            policy = await asyncio.to_thread(policy_of, pinned, model.fingerprint)
            judge = await asyncio.to_thread(model.judge_of, policy)
            outcome = app.proof.outcome(judge)
            acted_on = outcome.acted_on
            assert pinned["acted_on"].keys() <= outcome.pictures.keys()
            for group, pictures in outcome.pictures.items():
                told = f"{pinned['name']} at {pinned['severity']}: {dict(acted_on)}"
                assert acted_on[group] <= 2 * pinned["acted_on"].get(group, 0), told
                assert acted_on[group] <= MOST_OF_A_GROUP * pictures, told
            if pinned["severity"]:
                assert acted_on.total() > 0  # or nothing could double
            else:
                assert outcome.share(acted_on) <= MOST_OF_ALL
