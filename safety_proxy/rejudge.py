"""What another policy would make of every known picture: their embeddings, judged twice.

No picture is decoded and no model asked. One thread reads and two judge, a few megabytes at a time,
so that uploads go on meanwhile.
"""

import threading
from collections import Counter, deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from sqlite3 import Connection
from typing import Final

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from safety_proxy.evidence import Float32Array
from safety_proxy.policy.judge import Judge, Judgment, joint_actions
from safety_proxy.store.database import Database
from safety_proxy.store.pictures import read_name
from safety_proxy.store.vectors import Chunk, Rows, read_rows
from safety_proxy.verdict import Action

_ACTIONS: Final = tuple(Action)

# numpy gives the interpreter free while it computes, so they keep two cores busy.
_JUDGES: Final = 2

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
        # numpy's own threads would spin for each other, which takes four times as long.
        with (
            threadpool_limits(1, user_api="blas"),
            ThreadPoolExecutor(_JUDGES, thread_name_prefix="rejudge") as pool,
        ):
            judged: deque[Future[_Judged | None]] = deque()
            for rows in read_rows(connection, model):
                judged.append(pool.submit(self._judge, rows))
                if len(judged) > _JUDGES:
                    self._add(connection, judged.popleft().result())
                if self.stop.is_set():
                    break
            for last in judged:
                self._add(connection, last.result())
        return Diff(
            pictures=self._counts.total(),
            counts={_transition(code): count for code, count in sorted(self._counts.items())},
            changed=tuple(self._changed),
        )

    def _judge(self, rows: Rows) -> "_Judged | None":
        chunk = rows.decode()
        if chunk is None:
            return None
        both = joint_actions([self._old, self._new], chunk.embeddings, chunk.starts)
        old, new = (actions.astype(np.int64) for actions in both)
        return _Judged(chunk, old * len(_ACTIONS) + new)

    def _add(self, connection: Connection, judged: "_Judged | None") -> None:
        if judged is None:
            return
        chunk, codes = judged.chunk, judged.codes
        for code in np.unique(codes).tolist():
            indices = np.flatnonzero(codes == code).tolist()
            room = max(0, self._limit - self._counts[code])
            self._counts[code] += len(indices)
            before, after = _transition(code)
            if before is not after:
                for index in indices[:room]:
                    self._name(connection, int(chunk.pictures[index]), chunk.of(index))

    def _name(self, connection: Connection, picture: int, embeddings: Float32Array) -> None:
        name = read_name(connection, picture)
        if name is None or len(name[1]) != len(embeddings):  # swept meanwhile, or damaged
            return
        sha256, places = name
        old, new = self._old.judge(embeddings, places), self._new.judge(embeddings, places)
        self._changed.append(Change(sha256, old, new))


@dataclass(frozen=True, slots=True, eq=False)
class _Judged:
    """codes: (P,) int64, the transition of each picture of the chunk."""

    chunk: Chunk
    codes: NDArray[np.int64]


def _transition(code: int) -> Transition:
    old, new = divmod(code, len(_ACTIONS))
    return _ACTIONS[old], _ACTIONS[new]
