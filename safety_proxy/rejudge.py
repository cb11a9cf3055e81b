"""What another policy would make of every known picture: their embeddings, judged twice.

No picture is decoded and no model asked. The reading and the judging are done in a thread of their
own, a few megabytes at a time, so that uploads go on meanwhile.
"""

import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from sqlite3 import Connection
from typing import Final

import numpy as np

from safety_proxy.evidence import Float32Array
from safety_proxy.policy.judge import Judge, Judgment
from safety_proxy.store.database import Database
from safety_proxy.store.pictures import read_name
from safety_proxy.store.vectors import Chunk, read_chunks
from safety_proxy.verdict import Action

_ACTIONS: Final = tuple(Action)

Transition = tuple[Action, Action]


@dataclass(frozen=True, slots=True)
class Change:
    """A picture that two policies judge differently."""

    sha256: str
    old: Judgment
    new: Judgment


@dataclass(frozen=True, slots=True)
class Diff:
    """The difference between two policies over the known pictures.

    pictures: how many were judged.
    counts: how many went from which action to which, those included that stayed; never 0.
    changed: of each kind of change the first few in the order they became known.
    """

    pictures: int = 0
    counts: dict[Transition, int] = field(default_factory=dict)
    changed: tuple[Change, ...] = ()

    @property
    def changes(self) -> int:
        """How many pictures are judged differently."""
        return sum(count for (old, new), count in self.counts.items() if old is not new)


async def compare(database: Database, model: str, judges: tuple[Judge, Judge], limit: int) -> Diff:
    """How the known pictures of a model fare under the first judge and under the second.

    judges: of the old and the new policy, both for this model.
    limit: the most pictures that are named for each kind of change.
    Raises StoreUnavailable. Ends early, and quietly, when it is cancelled.
    """
    comparison = _Comparison(*judges, limit)
    try:
        return await database.read(lambda connection: comparison.over(connection, model))
    finally:
        comparison.stop.set()


class _Comparison:
    def __init__(self, old: Judge, new: Judge, limit: int) -> None:
        self._old = old
        self._new = new
        self._limit = limit
        self._counts: Counter[int] = Counter()
        self._changed: list[Change] = []
        self.stop = threading.Event()

    def over(self, connection: Connection, model: str) -> Diff:
        """The difference over all evidence that this connection can read."""
        for chunk in read_chunks(connection, model):
            if self.stop.is_set():
                break
            self._add(connection, chunk)
        return Diff(
            pictures=self._counts.total(),
            counts={_transition(code): count for code, count in sorted(self._counts.items())},
            changed=tuple(self._changed),
        )

    def _add(self, connection: Connection, chunk: Chunk) -> None:
        old = self._old.actions(chunk.embeddings, chunk.starts).astype(np.int64)
        new = self._new.actions(chunk.embeddings, chunk.starts).astype(np.int64)
        codes = old * len(_ACTIONS) + new
        for code, count in zip(*np.unique(codes, return_counts=True), strict=True):
            before, after = _transition(int(code))
            room = max(0, self._limit - self._counts[int(code)])
            self._counts[int(code)] += int(count)
            if before is not after:
                for index in np.flatnonzero(codes == code)[:room]:
                    self._name(connection, int(chunk.pictures[index]), chunk.of(int(index)))

    def _name(self, connection: Connection, picture: int, embeddings: Float32Array) -> None:
        name = read_name(connection, picture)
        if name is None:
            return
        sha256, places = name
        if len(places) == len(embeddings):
            old, new = self._judgments(embeddings, places)
            self._changed.append(Change(sha256, old, new))

    def _judgments(
        self, embeddings: Float32Array, places: Sequence[str]
    ) -> tuple[Judgment, Judgment]:
        return self._old.judge(embeddings, places), self._new.judge(embeddings, places)


def _transition(code: int) -> Transition:
    old, new = divmod(code, len(_ACTIONS))
    return _ACTIONS[old], _ACTIONS[new]
