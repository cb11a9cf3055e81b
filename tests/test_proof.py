"""Tests of safety_proxy/proof.py: a model that works and a policy that is sane, and others."""

import asyncio
import logging
import tomllib
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from PIL import Image

from safety_proxy.errors import ConfigError, EmbedderUnavailable
from safety_proxy.media.spool import Media
from safety_proxy.policy.judge import Judge
from safety_proxy.policy.policy import Policy
from safety_proxy.policy.tables import Rule
from safety_proxy.proof import HARMLESS
from safety_proxy.scanner import Model
from safety_proxy.store.hashlist import test_picture as blocked_test_picture
from safety_proxy.tasks import spawn
from safety_proxy.verdict import Action
from tests.fakes import FakeEmbedder, color_policy, until
from tests.pictures import BLUE, PURPLE, RED, plain
from tests.test_scanner import Scanning, media_of, scanning, soon

LISTED: list[dict[str, str]] = tomllib.loads((HARMLESS / "manifest.toml").read_text())["pictures"]
LICENSES = {"CC0-1.0", "public domain", "MIT", "CC-BY-4.0"}


def warm(action: Action, threshold: float) -> Policy:
    """Acts so on whatever is red enough: that of plain red is 0.99, of gray 0.58."""
    concepts = color_policy().concepts
    red = concepts["red"].model_copy(update={"threshold": threshold})
    rule = Rule.model_validate({"name": "warm", "action": action, "all": ["red"]})
    return color_policy().model_copy(update={"concepts": concepts | {"red": red}, "rules": [rule]})


# Nearly all of the harmless pictures are redder, and plain blue is not.
NEARLY_ALL = 0.3


@asynccontextmanager
async def proven(
    policy: Policy | None = None, harmless_limit: float = 0.2
) -> AsyncIterator[Scanning]:
    """What has looked at its first pictures, with the limit as shipped."""
    async with scanning(policy=policy, harmless_limit=harmless_limit) as it:
        with await media_of(blocked_test_picture()) as hit, await media_of(plain(BLUE)) as clean:
            await it.proof.prove(hit, clean)
        yield it


def loaded(it: Scanning) -> Model:
    assert it.scanner.model is not None
    return it.scanner.model


def judge_of(it: Scanning, policy: Policy) -> Judge:
    return loaded(it).judge_of(policy)


def test_the_harmless_pictures_are_fifty_in_groups() -> None:
    """Small, square, each listed with whose work it shows, and under a license that lets us."""
    files = {file.name for file in HARMLESS.iterdir()} - {"manifest.toml", "LICENSES.md"}
    assert files == {entry["file"] for entry in LISTED}
    assert len(files) == len(LISTED) == 50
    groups = Counter(entry["group"] for entry in LISTED)
    assert len(groups) >= 10
    assert min(groups.values()) >= 3
    assert {entry["license"] for entry in LISTED} <= LICENSES
    assert all(entry["source"] and entry["caption"] for entry in LISTED)
    assert sum((HARMLESS / file).stat().st_size for file in files) < 500_000
    for file in files:
        with Image.open(HARMLESS / file) as picture:
            assert picture.size == (256, 256)


async def test_scanner_is_proven_by_what_is_built_in() -> None:
    """The test picture is blocked, another is not, and the model tells them apart."""
    for embedder, picture, proven in (
        (FakeEmbedder(), plain(RED), True),
        (FakeEmbedder(), plain(PURPLE), False),
        (FakeEmbedder(answer=lambda rows: rows * 0 + rows[:1]), plain(RED), False),
    ):
        async with scanning(embedder) as it:
            with await media_of(blocked_test_picture()) as hit, await media_of(picture) as clean:
                await it.proof.prove(hit, clean)
                assert it.scanner.proven is proven
            assert it.metrics.verdicts_by_action == {}  # nothing that users sent


async def test_another_policy_proves_the_scanner_or_not() -> None:
    """It may come while the model looks at its first pictures, or mend what they found."""
    strict = color_policy().model_copy(
        update={"rules": [Rule.model_validate({"name": "red", "action": "block", "all": ["red"]})]}
    )
    async with scanning(policy=strict) as it:
        scanner = it.scanner
        assert scanner.model is not None
        lax = scanner.model.judge_of(color_policy())
        with await media_of(blocked_test_picture()) as hit, await media_of(plain(RED)) as clean:
            await it.proof.prove(hit, clean)
            assert not scanner.proven
            it.proof.switch(lax)
            assert scanner.proven
            it.embedder.go.clear()
            proving = spawn(it.proof.prove(hit, clean), name="prove")
            await until(lambda: len(it.embedder.batches) == 2)
            it.proof.switch(scanner.model.judge_of(strict))
            it.embedder.go.set()
            await proving
            assert not scanner.proven


async def test_harmless_pictures_are_judged_as_uploads_of_them_are() -> None:
    """One a forward pass, by the server's own way; groups are counted right."""
    async with proven(warm(Action.BLOCK, 0.6)) as it:
        before = len(it.embedder.batches)
        await it.proof.look()
        assert len(it.embedder.batches) == before + 50
        outcome = it.proof.outcome(loaded(it).judge)
        blocked: Counter[str] = Counter()
        for entry in LISTED:
            with await asyncio.to_thread(Media.from_path, HARMLESS / entry["file"]) as media:
                verdict = await it.scanner.scan(media, soon())
            blocked[entry["group"]] += verdict.action is Action.BLOCK
    assert outcome.pictures == Counter(entry["group"] for entry in LISTED)
    assert outcome.blocked == +blocked
    assert outcome.flagged.total() == 0
    assert 0 < outcome.blocked.total() < 50


async def test_a_policy_that_blocks_what_is_harmless_proves_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The log says how much of what, and what to do; another policy mends it."""
    async with proven(warm(Action.BLOCK, NEARLY_ALL)) as it:
        assert it.scanner.proven
        await it.proof.look()
        assert not it.scanner.proven
        outcome = it.proof.outcome(loaded(it).judge)
        error = next(line for line in caplog.records if line.levelname == "ERROR").getMessage()
        assert f"{outcome.blocked.total()} of 50 harmless pictures" in error
        assert "policy.harmless_limit is 20%" in error
        assert "food 5 of 5" in error
        assert "safety-proxy explain" in error
        it.proof.switch(judge_of(it, color_policy()))
        assert it.scanner.proven


async def test_a_policy_that_flags_what_is_harmless_is_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As in a dry run of one that would block it: it starts all the same."""
    async with proven(warm(Action.BLOCK, NEARLY_ALL).only_flagging()) as it:
        await it.proof.look()
        assert it.scanner.proven
        await it.proof.check(loaded(it).judge)
    warned = [line.getMessage() for line in caplog.records if line.levelname == "WARNING"]
    assert len(warned) == 1
    assert "flags or blocks" in warned[0]
    assert "of 50 harmless pictures" in warned[0]


async def test_a_sane_policy_is_silent(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing to say, nothing said."""
    async with proven(warm(Action.BLOCK, 0.999)) as it:
        await it.proof.look()
        assert it.scanner.proven
    assert not [line for line in caplog.records if line.levelno >= logging.WARNING]


async def test_the_limit_is_the_largest_share_that_may_be_blocked() -> None:
    """It is that of the settings, and a share that is just it may be."""
    strict = warm(Action.BLOCK, 0.6)
    async with proven() as it:
        await it.proof.look()
        outcome = it.proof.outcome(judge_of(it, strict))
        share = outcome.blocked.total() / 50
    for limit, refused in ((share, False), (share - 0.01, True)):
        async with proven(harmless_limit=limit) as it:
            if refused:
                with pytest.raises(ConfigError, match="harmless pictures"):
                    await it.proof.check(judge_of(it, strict))
            else:
                await it.proof.check(judge_of(it, strict))


async def test_at_a_limit_of_one_nothing_is_looked_at() -> None:
    """But a plain picture must get in all the same."""
    async with proven(harmless_limit=1) as it:
        before = len(it.embedder.batches)
        await it.proof.look()
        await it.proof.check(judge_of(it, warm(Action.BLOCK, NEARLY_ALL)))
        assert len(it.embedder.batches) == before
        with pytest.raises(ConfigError, match="plain gray"):
            await it.proof.check(judge_of(it, warm(Action.BLOCK, 0.0)))


async def test_a_check_waits_for_the_look_that_is_under_way() -> None:
    """Or looks itself; no picture is looked at twice."""
    async with proven() as it:
        it.embedder.go.clear()
        before = len(it.embedder.batches)
        looking = spawn(it.proof.look(), name="look")
        await until(lambda: len(it.embedder.batches) > before)
        nearly_all = judge_of(it, warm(Action.BLOCK, NEARLY_ALL))
        checking = spawn(it.proof.check(nearly_all), name="check")
        await asyncio.sleep(0.05)
        assert not checking.done()
        it.embedder.go.set()
        with pytest.raises(ConfigError, match=r"of 50 harmless pictures \(.*food 5 of 5"):
            await checking
        await looking
        assert len(it.embedder.batches) == before + 50
        assert it.scanner.proven  # by the policy that stays


async def test_a_look_that_failed_goes_on_where_it_was() -> None:
    """With the model's error, and without a verdict on a policy by half of the pictures."""
    async with proven(warm(Action.BLOCK, NEARLY_ALL)) as it:
        seen = len(it.embedder.batches) + 7
        it.embedder.poison = lambda crop: len(it.embedder.batches) == seen
        with pytest.raises(EmbedderUnavailable):
            await it.proof.look()
        assert it.scanner.proven
        it.embedder.poison = lambda crop: False
        await it.proof.look()
        assert len(it.embedder.batches) == seen + 44
        assert not it.scanner.proven


async def test_a_model_that_failed_its_first_pictures_refuses_no_policy() -> None:
    """No policy is at fault."""
    async with scanning(harmless_limit=0.2) as it:
        await it.proof.check(judge_of(it, warm(Action.BLOCK, 0.0)))
        assert it.embedder.batches == []
