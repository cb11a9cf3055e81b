"""What a policy says of many pictures, kept in a few bytes each.

Of a picture remain its digest, its action, two severities, its concepts' margins and the number of
its group. Only the few that stand out keep their embeddings, crop and name.
"""

import hashlib
import heapq
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from safety_proxy.crops import Float32Array, UInt8Array
from safety_proxy.evaluation.bounds import Rate
from safety_proxy.evaluation.sources import Unopened
from safety_proxy.evidence import Evidence
from safety_proxy.policy.judge import Judge
from safety_proxy.verdict import Action, Reason

STANDOUTS: Final = 48

# Pictures whose severities are worked out in one go; until then their crops are held.
_CHUNK: Final = 64

# Of files that gave no verdict so many are named; all are counted.
_NAMED: Final = 100


@dataclass(frozen=True, slots=True, eq=False)
class Looked:
    """What a look at a picture brings: the evidence, and a crop (H, W, 3) uint8 to show."""

    evidence: Evidence
    crop: UInt8Array


@dataclass(frozen=True, slots=True, eq=False)
class Standout:
    """One of the pictures that come nearest to a block, or of those that stay furthest from it.

    block_severity, flag_severity: from which severity on it is blocked, and at least flagged.
    action, reasons: at the policy's own severity.
    """

    name: str
    looked: Looked
    action: Action
    reasons: tuple[Reason, ...]
    block_severity: float
    flag_severity: float

    @property
    def sha256(self) -> str:
        return self.looked.evidence.sha256


@dataclass(frozen=True, slots=True, eq=False)
class Survey:
    """What a policy says of P distinct pictures, in the order in which they were found.

    model: fingerprint of the model that looked.
    data_digest: sha256 over the sorted sha256 of all judged pictures, each with a line end; that of
    `sha256sum FILES | cut -c-64 | sort -u | sha256sum`.
    actions: (P,) int8, `Action.severity` of each. block_severities, flag_severities: (P,) float32,
    see Standout. margins: (P, C) float32, by how much each of `concepts` passed its threshold.
    group_of: (P,) int32, an index into `groups`.
    rules: how many pictures each rule held for. problems: the first files without a verdict.
    """

    model: str
    data_digest: str
    actions: NDArray[np.int8]
    block_severities: Float32Array
    flag_severities: Float32Array
    concepts: tuple[str, ...]
    margins: Float32Array
    groups: tuple[str, ...]
    group_of: NDArray[np.int32]
    rules: dict[str, int]
    standouts: tuple[Standout, ...]
    duplicates: int
    unreadable: int
    failed: int
    problems: tuple[Unopened, ...]

    @property
    def pictures(self) -> int:
        """Distinct pictures that were judged; what rates are of."""
        return len(self.actions)

    def rate(self, action: Action) -> Rate:
        """How many get at least `action` from the policy as it stands."""
        return Rate(int((self.actions >= action.severity).sum()), self.pictures)

    def rate_at(self, severity: float, action: Action) -> Rate:
        """How many would get at least `action` at another severity."""
        return Rate(int((self.severities(action) <= severity).sum()), self.pictures)

    def severities(self, action: Action) -> Float32Array:
        """(P,): from which severity on each picture gets at least `action`, BLOCK or FLAG."""
        return self.block_severities if action is Action.BLOCK else self.flag_severities


class Tally:
    """Takes pictures one by one and ends as a Survey.

    furthest: keep as standouts those that stay furthest from a block instead of the nearest.
    """

    def __init__(self, judge: Judge, *, furthest: bool = False) -> None:
        self._judge = judge
        self._sign = 1 if furthest else -1
        self._seen: set[bytes] = set()
        self._actions = array("b")
        self._severities = {Action.BLOCK: array("f"), Action.FLAG: array("f")}
        self._margins = array("f")
        self._groups: dict[str, int] = {}
        self._group_of = array("i")
        self._rules: Counter[str] = Counter()
        self._waiting: list[tuple[str, Looked, tuple[Reason, ...]]] = []
        self._nearest: list[tuple[float, float, int, Standout]] = []
        self._duplicates = 0
        self._without: Counter[str] = Counter()
        self._problems: list[Unopened] = []
        self._judged: list[bytes] = []
        self._model = ""

    def is_new(self, sha256: str) -> bool:
        """Whether this digest comes for the first time; if not, it is counted as a duplicate."""
        digest = bytes.fromhex(sha256)
        if digest in self._seen:
            self._duplicates += 1
            return False
        self._seen.add(digest)
        return True

    def add(self, name: str, group: str, looked: Looked) -> None:
        """Judges a picture. Raises EmbedderUnavailable if its scores are not finite."""
        evidence = looked.evidence
        judgment = self._judge.judge(evidence.embeddings, evidence.places)
        self._model = evidence.model
        self._judged.append(bytes.fromhex(evidence.sha256))
        self._actions.append(judgment.action.severity)
        self._margins.extend(score.score - score.threshold for score in judgment.scores)
        self._group_of.append(self._groups.setdefault(group, len(self._groups)))
        self._rules.update(reason.rule for reason in judgment.reasons)
        self._waiting.append((name, looked, judgment.reasons))
        if len(self._waiting) >= _CHUNK:
            self._settle()

    def add_unreadable(self, file: Unopened) -> None:
        """Counts a file that no picture could be read from."""
        self._count("unreadable", file)

    def add_failed(self, file: Unopened) -> None:
        """Counts a file that the model could not be asked about."""
        self._count("failed", file)

    def survey(self) -> Survey:
        """All that was added."""
        self._settle()
        concepts = tuple(self._judge.policy.concepts)
        digest = hashlib.sha256()
        for one in sorted(self._judged):
            digest.update(f"{one.hex()}\n".encode())
        return Survey(
            model=self._model,
            data_digest=digest.hexdigest(),
            actions=np.array(self._actions, np.int8),
            block_severities=np.array(self._severities[Action.BLOCK], np.float32),
            flag_severities=np.array(self._severities[Action.FLAG], np.float32),
            concepts=concepts,
            margins=np.array(self._margins, np.float32).reshape(-1, len(concepts)),
            groups=tuple(self._groups),
            group_of=np.array(self._group_of, np.int32),
            rules={rule.name: self._rules[rule.name] for rule in self._judge.policy.rules},
            standouts=tuple(standout for *_, standout in sorted(self._nearest, reverse=True)),
            duplicates=self._duplicates,
            unreadable=self._without["unreadable"],
            failed=self._without["failed"],
            problems=tuple(self._problems),
        )

    def _count(self, what: str, file: Unopened) -> None:
        self._without[what] += 1
        if len(self._problems) < _NAMED:
            self._problems.append(file)

    def _settle(self) -> None:
        """Works out the severities of what waits, and keeps of it what stands out."""
        if not self._waiting:
            return
        rows = [looked.evidence.embeddings for _, looked, _ in self._waiting]
        starts = np.cumsum([0, *map(len, rows[:-1])])
        block, flag = (
            self._judge.severity_of(np.concatenate(rows), starts, action)
            for action in (Action.BLOCK, Action.FLAG)
        )
        first = len(self._severities[Action.BLOCK])
        self._severities[Action.BLOCK].extend(block.tolist())
        self._severities[Action.FLAG].extend(flag.tolist())
        self._keep(first, block.tolist(), flag.tolist())
        self._waiting.clear()

    def _keep(self, first: int, block: Sequence[float], flag: Sequence[float]) -> None:
        for place, (name, looked, reasons) in enumerate(self._waiting):
            action = list(Action)[self._actions[first + place]]
            standout = Standout(name, looked, action, reasons, block[place], flag[place])
            # Of equals the first stays; the running number also keeps standouts uncompared.
            key = (self._sign * block[place], self._sign * flag[place], -(first + place), standout)
            if len(self._nearest) < STANDOUTS:
                heapq.heappush(self._nearest, key)
            else:
                heapq.heappushpop(self._nearest, key)
