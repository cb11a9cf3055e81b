"""Tests of safety_proxy/evaluation/survey.py: every file is counted, in order, whatever it is."""

import asyncio
import io
import tarfile
from pathlib import Path

import pytest

from safety_proxy.evaluation.bounds import Rate
from safety_proxy.evaluation.sources import open_source
from safety_proxy.evaluation.survey import LOOKS, survey
from safety_proxy.evaluation.tally import Looked, Survey
from safety_proxy.inference.clip import ClipEmbedder, choose
from safety_proxy.media.spool import Media
from safety_proxy.policy.policy import load_policy
from safety_proxy.settings import ModelSettings
from safety_proxy.verdict import Action
from tests.evaluation.scenes import Eyes, judge_of, shade, write_shades
from tests.fakes import FakeEmbedder, color_policy
from tests.pictures import animation, plain

DEMO = Path(__file__).parents[2] / "safety_proxy" / "demo"


async def surveyed(path: Path, embedder: FakeEmbedder | None = None) -> Survey:
    """What the color policy makes of the files at `path`."""
    model = embedder or FakeEmbedder()
    source = await asyncio.to_thread(open_source, path)
    return await survey(source, Eyes(model), judge_of(color_policy(), model))


async def test_folder_is_looked_through_and_every_file_told_of(tmp_path: Path) -> None:
    """Pictures, the same bytes again, what is no picture, and a broken one."""
    folder = write_shades(tmp_path / "in", [0, 100, 250])
    (folder / "again.png").write_bytes(plain(shade(100)))
    (folder / "notes.txt").write_bytes(b"not a picture")
    (folder / "empty.png").write_bytes(b"")
    (folder / "cut.png").write_bytes(plain(shade(7), size=(64, 64))[:40])
    told: list[None] = []
    embedder = FakeEmbedder()
    result = await survey(
        await asyncio.to_thread(open_source, folder),
        Eyes(embedder),
        judge_of(color_policy(), embedder),
        on_file=lambda: told.append(None),
    )
    assert len(told) == 7
    assert (result.pictures, result.duplicates, result.unreadable) == (3, 1, 3)
    assert [problem.name for problem in result.problems] == ["cut.png", "empty.png", "notes.txt"]
    assert result.rate(Action.BLOCK) == Rate(1, 3)
    assert result.standouts[0].name == "0002.png"


async def test_same_folder_gives_the_same_survey(tmp_path: Path) -> None:
    """Looks end in any order; the counting is in that of the names."""
    folder = write_shades(tmp_path / "in", range(3 * LOOKS))
    first, second = await surveyed(folder), await surveyed(folder)
    assert first.block_severities.tolist() == second.block_severities.tolist()
    assert first.data_digest == second.data_digest
    assert [one.name for one in first.standouts] == [one.name for one in second.standouts]


async def test_tar_and_folder_agree(tmp_path: Path) -> None:
    """The same pictures, the same rates and digest; a link among them adds nothing."""
    folder = write_shades(tmp_path / "in", [0, 100, 250])
    with tarfile.open(tmp_path / "in.tar.gz", "w:gz") as archive:
        archive.add(folder, "in")
        link = tarfile.TarInfo("in/link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "0000.png"
        archive.addfile(link, io.BytesIO())
    tar, plain_folder = await surveyed(tmp_path / "in.tar.gz"), await surveyed(folder)
    assert tar.data_digest == plain_folder.data_digest
    assert tar.rate(Action.BLOCK) == plain_folder.rate(Action.BLOCK) == Rate(1, 3)
    assert tar.groups == ("in",)


async def test_model_that_fails_on_one_picture_ends_nothing(tmp_path: Path) -> None:
    """It is counted apart from what cannot be read."""
    folder = write_shades(tmp_path / "in", [0, 100, 250])
    embedder = FakeEmbedder(poison=lambda crop: bool(crop[0, 0, 0] == 100))
    result = await surveyed(folder, embedder)
    assert (result.pictures, result.failed, result.unreadable) == (2, 1, 0)
    assert result.problems[0].problem == "poisoned batch"


async def test_an_animation_counts_once_with_its_worst_frame(tmp_path: Path) -> None:
    """One picture, one verdict."""
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.gif").write_bytes(animation([shade(0), shade(250)]))
    result = await surveyed(folder)
    assert result.rate(Action.BLOCK) == Rate(1, 1)
    assert result.standouts[0].reasons[0].where == "frame 2 at 0.10 s"


async def test_a_defect_ends_the_survey_and_leaves_no_file_open(tmp_path: Path) -> None:
    """Only a picture's own trouble is counted; looks under way are given up."""
    media_seen: list[Media] = []

    class Broken:
        async def look(self, media: Media) -> Looked:
            media_seen.append(media)
            if len(media_seen) < LOOKS:
                await asyncio.Event().wait()
            raise ZeroDivisionError

    folder = write_shades(tmp_path / "in", range(LOOKS + 5))
    source = await asyncio.to_thread(open_source, folder)
    judge = judge_of(color_policy(), FakeEmbedder())
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await survey(source, Broken(), judge)
    for media in media_seen:
        with pytest.raises(ValueError, match="closed file"):
            media.hold()


async def test_the_small_model_looks_through_its_samples() -> None:
    """The real thing, from file to rate: 8 of the samples show fire and water, 3 pizza."""
    choice = choose(ModelSettings(name="demo", device="cpu", precision="fp32"))
    embedder = await asyncio.to_thread(ClipEmbedder, choice)
    policy = await asyncio.to_thread(load_policy, DEMO / "policy.toml")
    judge = judge_of(policy, embedder)
    source = await asyncio.to_thread(open_source, DEMO / "samples")
    result = await survey(source, Eyes(embedder), judge)
    assert result.rate(Action.BLOCK) == Rate(8, 24)
    assert result.rate(Action.FLAG) == Rate(11, 24)
    assert (result.unreadable, result.failed) == (2, 0)  # the manifest and the licenses
    assert {one.name[:2] for one in result.standouts[:8]} == {f"{n:02}" for n in range(1, 9)}
