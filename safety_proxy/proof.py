"""Whether the model works and a policy is sane, by pictures whose verdict is known beforehand.

    two pictures, before the server is ready:   the test picture and plain gray
    fifty harmless ones, while it runs:         safety_proxy/harmless, by groups

No such picture says how good a policy is; they find the one that would fail every user.
"""

import asyncio
import tomllib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Final

import numpy as np

from safety_proxy.crops import Float32Array
from safety_proxy.deadline import Deadline
from safety_proxy.errors import ConfigError
from safety_proxy.inference.batcher import Control
from safety_proxy.logs import get_logger
from safety_proxy.look import Viewer
from safety_proxy.media.spool import Media
from safety_proxy.policy.judge import Judge
from safety_proxy.scanner import Scanner
from safety_proxy.store.hashlist import HashLists
from safety_proxy.verdict import Action

_logger = get_logger(__name__)

HARMLESS: Final = Path(__file__).with_name("harmless")

# For one picture, while everything else starts too.
_SECONDS: Final = 60.0

# Cosine from which on the embeddings of two quite different pictures count as one.
_SAME: Final = 0.9999

# Of the groups that are named where too many pictures are acted on.
_WORST: Final = 4


@dataclass(frozen=True, slots=True)
class Seen:
    """A harmless picture as the model sees it: (F, D) embeddings, a row for each frame."""

    group: str
    embeddings: Float32Array


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a policy makes of harmless pictures: how many there are of each group, and its hits."""

    pictures: Counter[str]
    flagged: Counter[str]
    blocked: Counter[str]

    @property
    def acted_on(self) -> Counter[str]:
        """Flagged or blocked."""
        return self.flagged + self.blocked

    def share(self, hits: Counter[str]) -> float:
        """Of all pictures; 0 where there are none."""
        return hits.total() / max(self.pictures.total(), 1)

    def told(self, hits: Counter[str]) -> str:
        """The share, and the groups with the most hits for their size."""
        by_share = sorted(hits, key=lambda group: hits[group] / self.pictures[group], reverse=True)
        worst = [f"{group} {hits[group]} of {self.pictures[group]}" for group in by_share]
        named = ", ".join(worst[:_WORST]) + (", and others" if worst[_WORST:] else "")
        total = self.pictures.total()
        return f"{hits.total()} of {total} harmless pictures ({self.share(hits):.0%}; {named})"


class Proof:
    """Tries model, lists and policies on what is built in, and sets `scanner.proven` by it.

    limit: the largest share of the harmless pictures that a policy may block; at 1 they are not
        looked at. They are decoded as uploads are, one picture a forward pass, so that no upload
        waits for more than one of them.
    """

    def __init__(self, scanner: Scanner, *, lists: HashLists, viewer: Viewer, limit: float) -> None:
        self._scanner = scanner
        self._lists = lists
        self._viewer = viewer
        self._limit = limit
        self._works = False  # the model and the lists, whatever the policy is
        self._plain: Float32Array | None = None
        self._seen: dict[str, Seen] = {}  # by file
        self._looking = asyncio.Lock()

    async def prove(self, blocked: Media, allowed: Media) -> None:
        """Looks at the two pictures that come first.

        A model that sees no difference between them, a policy that blocks the plain one, or a list
        that misses the test picture would fail every user, or none. The first picture is shown to
        the model in every pass from then on. Raises ScanError, UndecodableImage.
        """
        model, deadline = self._scanner.loaded(), Deadline.after(_SECONDS)
        looks = [
            await self._viewer.look(media.hold(), media.sha256, model.crop_spec, deadline)
            for media in (blocked, allowed)
        ]
        crops = [look.frames[0].crop for look in looks]
        embeddings = await model.batcher.embed(crops)
        model.batcher.control = Control(crops[0], embeddings[0])
        self._plain = embeddings[1:]
        self._works = (
            self._lists.match_exact(blocked.sha256) is not None
            and float(embeddings[0] @ embeddings[1]) < _SAME
        )
        self._settle()

    async def look(self) -> None:
        """Looks at the harmless pictures that have not been looked at.

        A policy in force that acts on too many of them is logged, and `proven` is set anew.
        Raises ScanError, UndecodableImage.
        """
        if self._limit >= 1:
            return
        async with self._looking:  # who comes second finds all done
            listed = await asyncio.to_thread(_listed)
            left = [file for file in listed if file not in self._seen]
            for file in left:
                self._seen[file] = Seen(listed[file], await self._look_at(HARMLESS / file))
            if left:
                self._settle()

    def outcome(self, judge: Judge) -> Outcome:
        """What a policy makes of the harmless pictures that have been looked at."""
        seen = list(self._seen.values())
        counts: dict[Action, Counter[str]] = {action: Counter() for action in Action}
        for each, action in zip(seen, _actions(judge, seen), strict=True):
            counts[action][each.group] += 1
        pictures = Counter(each.group for each in seen)
        return Outcome(pictures, counts[Action.FLAG], counts[Action.BLOCK])

    async def check(self, judge: Judge) -> None:
        """Raises ConfigError if the policy may not be put in force.

        Waits until the harmless pictures have been looked at. Raises as `look`.
        """
        if self._plain is None:
            return  # the model has failed its first pictures, and no policy helps
        await self.look()
        problem = self._problem(judge)
        if problem:
            raise ConfigError(problem)

    def switch(self, judge: Judge) -> None:
        """Puts a policy in force that has been checked."""
        self._scanner.switch(judge)
        self._settle()

    async def _look_at(self, file: Path) -> Float32Array:
        model, deadline = self._scanner.loaded(), Deadline.after(_SECONDS)
        with await asyncio.to_thread(Media.from_path, file) as media:
            look = await self._viewer.look(media.hold(), media.sha256, model.crop_spec, deadline)
            embeddings = await self._viewer.embed(look.frames, model.batcher)
            # Rounded, as those are that a scan judges.
            return look.evidence(model.fingerprint, embeddings).embeddings

    def _settle(self) -> None:
        """Says whether the policy in force is sane, by what has been looked at so far."""
        judge = self._scanner.loaded().judge
        problem = self._problem(judge) if self._works else _BROKEN
        self._scanner.proven = not problem
        if problem:
            _logger.error("not ready; see docs/policy.md", detail=problem)
            return
        outcome = self.outcome(judge)
        acted_on = outcome.acted_on
        if outcome.share(acted_on) > self._limit:
            _logger.warning(
                "the policy acts on what is harmless",
                policy=judge.policy.name,
                detail=f"It flags or blocks {outcome.told(acted_on)}. {_REMEDY}",
            )

    def _problem(self, judge: Judge) -> str:
        """Why a policy must not be in force; "" if nothing speaks against it."""
        name, plain = judge.policy.name, self._plain
        if plain is not None and judge.judge(plain, [""]).action is Action.BLOCK:
            return (
                f"Policy {name!r} blocks a plain gray picture, and so nearly everything. {_REMEDY}"
            )
        outcome = self.outcome(judge)
        blocked = outcome.blocked
        if outcome.share(blocked) <= self._limit:
            return ""
        return (
            f"Policy {name!r} blocks {outcome.told(blocked)}, and policy.harmless_limit is "
            f"{self._limit:.0%}. {_REMEDY}"
        )


_BROKEN: Final = (
    "The test picture must be on the block list, and the model must tell it from plain gray."
)
_REMEDY: Final = (
    "A threshold is too low, or the severity too high: `safety-proxy explain FILE` shows a "
    f"picture's scores; the harmless ones are in {HARMLESS}."
)


def _listed() -> dict[str, str]:
    """The files of the harmless pictures, each with its group."""
    manifest = tomllib.loads((HARMLESS / "manifest.toml").read_text(encoding="utf-8"))
    return {entry["file"]: entry["group"] for entry in manifest["pictures"]}


def _actions(judge: Judge, seen: Sequence[Seen]) -> list[Action]:
    if not seen:
        return []
    rows = [each.embeddings for each in seen]
    starts = np.array([0, *accumulate(map(len, rows[:-1]))], np.int64)
    return [list(Action)[number] for number in judge.actions(np.concatenate(rows), starts)]
