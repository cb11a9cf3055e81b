"""Tests of safety_proxy/bench.py: pictures are looked at as the server does, without a server."""

import asyncio
from pathlib import Path

import numpy as np
import pytest

from safety_proxy import bench as module
from safety_proxy.bench import open_bench
from safety_proxy.errors import ConfigError, ScanTimeout, UndecodableImage
from safety_proxy.media.spool import Media
from safety_proxy.settings import Settings
from safety_proxy.verdict import Action
from tests.fakes import FakeEmbedder, InProcessDecoders, color_policy
from tests.pictures import BLUE, PURPLE, RED, animation, plain
from tests.test_scanner import media_of, scanning, soon


class Decoders(InProcessDecoders):
    """That know what became of them."""

    steps: tuple[str, ...] = ()

    async def start(self) -> None:
        self.steps += ("started",)

    async def aclose(self) -> None:
        self.steps += ("closed",)
        await super().aclose()


@pytest.fixture
def decoders(monkeypatch: pytest.MonkeyPatch) -> Decoders:
    decoders = Decoders()
    monkeypatch.setattr(module, "build_decoders", lambda settings: decoders)
    monkeypatch.setattr(module, "load_clip", lambda settings: FakeEmbedder())
    return decoders


@pytest.mark.parametrize("body", [plain(PURPLE), animation([RED, BLUE])])
async def test_it_sees_what_the_server_sees(decoders: Decoders, body: bytes) -> None:
    """To the last bit, and with the crop that a report shows."""
    async with open_bench(Settings()) as bench, scanning() as it:
        with await media_of(body) as media:
            looked = await bench.looker.look(media)
            evidence, look = await it.scanner.look(media, soon())
        assert np.array_equal(looked.evidence.embeddings, evidence.embeddings)
        assert looked.evidence.places == evidence.places
        assert looked.evidence.pdq == evidence.pdq
        assert np.array_equal(looked.crop, look.frames[0].crop)
        judge = await asyncio.to_thread(bench.judge_of, color_policy())
        action = judge.judge(looked.evidence.embeddings, looked.evidence.places).action
        assert action is (Action.BLOCK if body == plain(PURPLE) else Action.ALLOW)
    assert bench.fingerprint == evidence.model
    assert decoders.steps == ("started", "closed")


async def test_what_cannot_be_looked_at_is_an_error_of_its_own(
    decoders: Decoders, tmp_path: Path
) -> None:
    """The survey goes on without it."""
    file = tmp_path / "notes.txt"
    file.write_text("no picture")
    async with open_bench(Settings()) as bench:
        media = await asyncio.to_thread(Media.from_path, file)
        with media, pytest.raises(UndecodableImage):
            await bench.looker.look(media)


@pytest.mark.usefixtures("decoders")
async def test_a_picture_has_many_times_the_time_of_a_scan() -> None:
    """For many wait at once here; but there is an end to it."""
    hasty = Settings.model_validate({"scan": {"timeout_seconds": 1e-9}})
    async with open_bench(hasty) as bench:
        with await media_of(plain(RED)) as media, pytest.raises(ScanTimeout):
            await bench.looker.look(media)


async def test_a_model_that_does_not_load_leaves_no_decoders(
    decoders: Decoders, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And is told in its own words."""

    def fail(settings: Settings) -> FakeEmbedder:
        raise ConfigError("no such weights")

    monkeypatch.setattr(module, "load_clip", fail)
    with pytest.raises(ConfigError, match="no such weights"):
        async with open_bench(Settings()):
            pass
    assert decoders.steps == ("started", "closed")
