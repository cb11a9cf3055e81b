"""Every file of the corpus: the purple is found, and the same file without it passes."""

from functools import cache, partial

import pytest

from safety_proxy.crops import CropSpec
from safety_proxy.errors import UndecodableImage
from safety_proxy.media.bounds import Bounds, Code, Frame
from safety_proxy.media.frames import read_frames
from safety_proxy.policy.judge import Judge
from safety_proxy.verdict import Action
from tests.fakes import FakeEmbedder, color_policy
from tests.media.corpus import PAIRS
from tests.media.making import made_by_or_skip
from tests.media.samples.tools import HARMLESS
from tests.pictures import PURPLE, Color

SPEC = CropSpec(64, 64)

# What this build does not read it refuses, with the purple and without.
REFUSED = {"frame-7-of-12.jxl", "last-of-12.jxl"}


@cache
def judge() -> Judge:
    """Of the test policy."""
    return Judge(color_policy(), FakeEmbedder().embed_texts, logit_scale=10, logit_bias=None)


def blocked(frames: list[Frame]) -> list[str]:
    """Where the test policy blocks."""
    rows = FakeEmbedder().embed_images([frame.crop for frame in frames])
    return [
        frame.where
        for frame, row in zip(frames, rows, strict=True)
        if judge().judge(row[None], [""]).action is Action.BLOCK
    ]


def made(name: str, color: Color) -> bytes:
    """The file; skips the test, or fails it, where a program is missing that makes it."""
    return made_by_or_skip(partial(PAIRS[name], color))


def test_corpus_has_all_that_pictrs_takes() -> None:
    """At least 60 files, of each kind."""
    assert len(PAIRS) >= 60
    endings = {name.rpartition(".")[2] for name in PAIRS}
    assert endings >= {"png", "apng", "jpg", "gif", "webp", "avif", "jxl", "mp4", "webm"}


@pytest.mark.parametrize("name", sorted(PAIRS.keys() - REFUSED))
def test_purple_is_found(name: str) -> None:
    """In whatever place it is."""
    frames = read_frames(made(name, PURPLE), SPEC, Bounds())
    assert blocked(frames), [frame.where for frame in frames]


@pytest.mark.parametrize("name", sorted(PAIRS.keys() - REFUSED))
def test_same_file_without_it_passes(name: str) -> None:
    """So it is the purple that was found, and nothing else of the file."""
    assert not blocked(read_frames(made(name, HARMLESS), SPEC, Bounds()))


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_file_that_is_not_read_is_refused(name: str) -> None:
    """Never passed unseen."""
    with pytest.raises(UndecodableImage) as caught:
        read_frames(made(name, HARMLESS), SPEC, Bounds())
    assert caught.value.code == Code.UNSUPPORTED_TYPE
