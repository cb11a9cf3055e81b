"""Tests of safety_proxy/scanner.py: what the lists decide, whatever else is known or fails."""

import asyncio
import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from safety_proxy.errors import DecodersUnavailable
from safety_proxy.media.frames import read_frames
from safety_proxy.store.hashlist import test_picture as blocked_picture
from safety_proxy.store.listed import OwnEntry
from safety_proxy.store.shared import ListSource
from safety_proxy.verdict import Action, Source, Verdict
from tests.fakes import color_policy
from tests.pictures import PURPLE, RED, encoded, plain
from tests.test_scanner import Scanning, media_of, scanning, soon

FOLLOWS = {"ids": ["an-id-of-the-validator"]}

# A picture that PDQ can tell from others, and the same with something in it that nobody is shown.
NOISE = np.random.default_rng(7).integers(0, 256, (8, 8, 3), np.uint8)
PICTURE = encoded(Image.fromarray(NOISE).resize((128, 128), Image.Resampling.BICUBIC))
STRIPPED = PICTURE + b"trailing"


async def verdict_on(it: Scanning, body: bytes) -> Verdict:
    with await media_of(body) as media:
        return await it.scanner.scan(media, soon())


async def allow(it: Scanning, body: bytes) -> None:
    await it.lists.put(OwnEntry(hashlib.sha256(body).hexdigest(), Action.ALLOW))


def listing(folder: Path, body: bytes) -> list[ListSource]:
    """A shared list that holds the md5 of it."""
    file = folder / "list.txt"
    file.write_text(hashlib.md5(body, usedforsecurity=False).hexdigest())
    return [ListSource("others", file)]


async def test_lists_decide_before_there_is_a_model() -> None:
    """Then all else is let in, where the admin chose so."""
    async with scanning(scan={"on_failure": "allow"}, validator=FOLLOWS) as it:
        it.scanner.model, model = None, it.scanner.model
        await allow(it, plain(PURPLE))
        assert (await verdict_on(it, blocked_picture())).source is Source.BLOCK_LIST
        assert (await verdict_on(it, plain(PURPLE))).source is Source.ALLOW_LIST
        assert (await verdict_on(it, plain(RED))).source is Source.UNSCANNED
        it.scanner.model = model


@pytest.mark.parametrize("body", [plain(RED), b""])
async def test_no_failure_lets_in_what_is_listed_by_its_bytes(tmp_path: Path, body: bytes) -> None:
    """Neither decoders nor a model are needed to know an md5."""
    sources = listing(tmp_path, plain(RED))
    async with scanning(sources=sources, scan={"on_failure": "allow"}) as it:

        def fail(*args: object) -> None:
            raise DecodersUnavailable("on purpose")

        it.decoders.decoding = fail  # type: ignore[assignment]
        verdict = await verdict_on(it, body)
        assert verdict.source is (Source.BLOCK_LIST if body else Source.UNSCANNED)
        assert len(it.unscanned) == (0 if body else 1)


@pytest.mark.parametrize("unreadable", list(Action))
async def test_no_policy_lets_in_what_is_listed_by_its_bytes(
    tmp_path: Path, unreadable: Action
) -> None:
    """Though no picture can be read from it."""
    policy = color_policy().model_copy(update={"unreadable": unreadable})
    async with scanning(policy=policy, sources=listing(tmp_path, b"listed")) as it:
        assert (await verdict_on(it, b"listed")).action is Action.BLOCK
        assert (await verdict_on(it, b"not listed")).action is unreadable
        assert (await verdict_on(it, b"")).action is unreadable


async def test_an_allow_covers_equal_looks_that_pdq_would_block() -> None:
    """As it does the bytes themselves; until it is taken back, and for the validator alone."""
    for validator, reaches in ((FOLLOWS, Action.ALLOW), ({}, Action.BLOCK)):
        async with scanning(validator=validator) as it:
            with await media_of(PICTURE) as media:
                evidence, _ = await it.scanner.look(media, soon())
            assert max(one.quality for one in evidence.pdq) >= 50
            await it.lists.put(OwnEntry("0" * 64, Action.BLOCK, pdq=evidence.pdq))
            assert (await verdict_on(it, PICTURE)).source is Source.BLOCK_LIST
            await allow(it, PICTURE)
            assert (await verdict_on(it, PICTURE)).source is Source.ALLOW_LIST
            assert (await verdict_on(it, STRIPPED)).action is reaches
            await it.lists.remove(evidence.sha256, Action.ALLOW)
            assert (await verdict_on(it, PICTURE)).action is Action.BLOCK
            assert (await verdict_on(it, STRIPPED)).action is Action.BLOCK


async def test_an_allow_covers_equal_looks_that_an_earlier_scan_has_seen() -> None:
    """Their evidence, and a verdict at hand, say no more than that they are blocked."""
    body, stripped = plain(PURPLE), plain(PURPLE) + b"trailing"
    async with scanning(validator=FOLLOWS) as it:
        await allow(it, body)
        assert (await verdict_on(it, stripped)).action is Action.BLOCK
        await it.recall.aclose()  # which writes it down
        assert (await verdict_on(it, body)).source is Source.ALLOW_LIST
        assert (await verdict_on(it, stripped)).source is Source.ALLOW_LIST
        assert (await verdict_on(it, plain((254, 0, 255)))).action is Action.BLOCK


async def test_blocks_of_the_bytes_go_before_the_allow_of_others(tmp_path: Path) -> None:
    """Who listed exactly these knew what he listed."""
    body, stripped = plain(PURPLE), plain(PURPLE) + b"trailing"
    async with scanning(sources=listing(tmp_path, stripped), validator=FOLLOWS) as it:
        await allow(it, body)
        assert (await verdict_on(it, body)).action is Action.ALLOW
        assert (await verdict_on(it, stripped)).source is Source.BLOCK_LIST


async def test_many_uploads_of_an_allowed_file_are_looked_at_once() -> None:
    """They go round the queue of the scans, and must not take all of the decoders."""
    async with scanning(validator=FOLLOWS) as it:
        looked: list[int] = []

        def decode(*args: object) -> object:
            looked.append(1)
            return read_frames(*args)  # type: ignore[arg-type]

        it.decoders.decoding = decode  # type: ignore[assignment]
        await allow(it, plain(PURPLE))
        await asyncio.gather(*(verdict_on(it, plain(PURPLE)) for _ in range(20)))
        assert len(looked) < 20


async def test_what_needed_no_model_can_be_asked_for_by_its_digest() -> None:
    """The log names the file by it alone: why it was refused is kept, without embeddings."""
    async with scanning() as it:
        with await media_of(PICTURE) as media:
            evidence, _ = await it.scanner.look(media, soon())
        await it.lists.put(OwnEntry("0" * 64, Action.BLOCK, pdq=evidence.pdq))
        for body, source in ((PICTURE, Source.BLOCK_LIST), (b"no picture", Source.UNREADABLE)):
            verdict = await verdict_on(it, body)
            await it.recall.aclose()  # which writes it down
            [known] = await it.evidence.known(verdict.sha256)
            assert (known.verdict, verdict.source) == (verdict, source)
            assert await it.evidence.get(verdict.sha256, verdict.model) is None
