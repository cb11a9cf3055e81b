"""A bench over the tests' model of colors, and pictures whose severities are known."""

import asyncio
import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from safety_proxy.evaluation.groups import groups_of
from safety_proxy.evaluation.outcome import Outcome
from safety_proxy.evaluation.tally import Looked, Survey, Tally
from safety_proxy.evaluation.trial import Bench, with_choice
from safety_proxy.evidence import Evidence
from safety_proxy.inference.embedder import Embedder
from safety_proxy.media.bounds import Bounds
from safety_proxy.media.frames import read_frames
from safety_proxy.media.spool import Media
from safety_proxy.policy.forms import Cosine
from safety_proxy.policy.judge import Judge
from safety_proxy.policy.policy import Policy, parse_policy
from tests.fakes import POLICY_TEXT, FakeEmbedder, bytes_of, color_policy
from tests.pictures import Color, plain


class Eyes:
    """Looks as the server does, without its batching: decoder, then model."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self._one_at_a_time = asyncio.Lock()

    async def look(self, media: Media) -> Looked:
        async with self._one_at_a_time:
            return await asyncio.to_thread(looked_at, media, self._embedder)


def looked_at(media: Media, embedder: Embedder) -> Looked:
    """What the decoder and the model make of a file."""
    frames = read_frames(bytes_of(media), embedder.crop_spec, Bounds())
    crops = [frame.crop for frame in frames]
    places = tuple(frame.where for frame in frames)
    rows = embedder.embed_images(crops)
    evidence = Evidence(media.sha256, "", "", "", embedder.fingerprint, rows, places)
    return Looked(evidence, crops[0])


def judge_of(policy: Policy, embedder: Embedder) -> Judge:
    """The judge of this model."""
    return Judge(
        policy,
        embedder.embed_texts,
        logit_scale=embedder.logit_scale,
        logit_bias=embedder.logit_bias,
    )


def bench_of(embedder: Embedder | None = None) -> Bench:
    """A bench, over the model of colors unless another is given."""
    model = embedder or FakeEmbedder()
    return Bench(model.fingerprint, Eyes(model), lambda policy: judge_of(policy, model))


def shade(red: int) -> Color:
    """The more red, the nearer to a block: its blue is full, and both together are blocked."""
    return red, 0, 255


def write_shades(folder: Path, reds: Iterable[int]) -> Path:
    """A picture of each shade, named by its number."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, red in enumerate(reds):
        (folder / f"{number:04}.png").write_bytes(plain(shade(red)))
    return folder


def looked(row: Iterable[float], name: str) -> Looked:
    """A picture with this embedding, which is normalized first."""
    vector = np.array([list(row)], np.float32)
    rows = vector / np.linalg.norm(vector)
    digest = hashlib.sha256(name.encode()).hexdigest()
    evidence = Evidence(digest, "", "", "image/png", "fake/fp32", rows, ("frame 0",))
    crop = np.full((8, 8, 3), int(digest[:2], 16), np.uint8)
    return Looked(evidence, crop)


# The color policy blocks what is red and blue, each at a cosine of 0.6 or more. In this plane an
# angle gives red's cosine, so a severity in logits of the model, whose scale is 10, is known.
LOGIT_SCALE = 10.0
THRESHOLD = 0.6


def at_severity(severity: float, name: str) -> Looked:
    """A picture that is blocked from this severity on, about; 0 <= its red <= its blue."""
    red = THRESHOLD - severity / LOGIT_SCALE
    return looked((red, 0.0, float(np.sqrt(1 - red**2)), 0.0), name)


def survey_of(
    severities: Iterable[float],
    *,
    groups: Iterable[str] = (),
    furthest: bool = False,
    policy: Policy | None = None,
) -> Survey:
    """A survey of pictures with about these severities."""
    tally = Tally(judge_of(policy or color_policy(), FakeEmbedder()), furthest=furthest)
    names = list(groups)
    for number, severity in enumerate(severities):
        picture = at_severity(severity, f"{number}")
        assert tally.is_new(picture.evidence.sha256)
        tally.add(f"{number:04}.png", names[number] if names else "", picture)
    return tally.survey()


HOSTILE = "birds/<img src=x onerror=alert(1)>\"'&amp;$x^2$.png"


def outcome_of(
    severities: Iterable[float],
    *,
    must_block: Iterable[float] | None = None,
    groups: Iterable[str] = (),
    wanted: float | None = None,
    policy: Policy | None = None,
) -> Outcome:
    """An outcome over pictures with about these severities; calibrated if a rate is wanted."""
    harmless = survey_of(severities, groups=groups, policy=policy)
    furthest = None if must_block is None else survey_of(must_block, furthest=True, policy=policy)
    outcome = Outcome(
        source="/srv/harmless",
        policy=policy or color_policy(),
        form=Cosine(LOGIT_SCALE),
        made=datetime(2026, 1, 2, 3, 4, tzinfo=UTC),
        harmless=harmless,
        groups=groups_of(harmless),
        must_block_source="" if furthest is None else "/srv/stand-ins",
        must_block=furthest,
    )
    return outcome if wanted is None else with_choice(outcome, wanted, point_estimate=False)


def hostile_policy() -> Policy:
    """The color policy, with names in it that would do harm where they are not escaped."""
    text = POLICY_TEXT.replace('name = "colors"', 'name = "<script>alert(1)</script>"')
    text = text.replace("[concepts.red]", '[concepts."</svg><b>$red"]')
    text = text.replace('all = ["red", "blue"]', 'all = ["</svg><b>$red", "blue"]')
    return parse_policy(text.replace('"red-and-blue"', '"<i>rule"'), where="test")
