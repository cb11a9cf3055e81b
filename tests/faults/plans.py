"""What each request will be: chosen by the seed and its number alone."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from tests.faults.behaviors import FAIR, TURNING, UNFAIR
from tests.faults.pictures import Kind
from tests.faults.spellings import SPELLINGS
from tests.faults.wire import CUTS, Manner


class Road(StrEnum):
    """A way into the proxy."""

    UPLOAD = "POST image"
    SEVERAL = "POST image, several"
    BACKGROUNDED = "POST image/backgrounded"
    IMPORT = "POST internal/import"
    DOWNLOAD = "image/download"
    DOWNLOAD_LATER = "image/download, backgrounded"
    ORIGINAL = "original?proxy="
    PROCESS = "process?proxy="
    BLURHASH = "blurhash?proxy="
    LOOKUP = "look-ups ?proxy="
    FORGET = "purge, delete ?proxy="
    READ = "reads of aliases"
    VALIDATOR = "validator"
    SPELLING = "odd spellings"

    @property
    def is_read(self) -> bool:
        """Whether it brings no bytes in: not counted where pict-rs was away."""
        return self in {Road.LOOKUP, Road.FORGET, Road.READ}

    @property
    def seconds(self) -> float:
        """How long Lemmy waits."""
        return 30.0 if self in _SLOW else 10.0


_SLOW: Final = {Road.UPLOAD, Road.SEVERAL, Road.BACKGROUNDED, Road.IMPORT, Road.VALIDATOR}
BY_ADDRESS: Final = (
    Road.DOWNLOAD,
    Road.DOWNLOAD_LATER,
    Road.ORIGINAL,
    Road.PROCESS,
    Road.BLURHASH,
)
_WEIGHTS: Final = {
    Road.UPLOAD: 22,
    Road.SEVERAL: 8,
    Road.BACKGROUNDED: 8,
    Road.IMPORT: 7,
    Road.DOWNLOAD: 9,
    Road.DOWNLOAD_LATER: 4,
    Road.ORIGINAL: 10,
    Road.PROCESS: 4,
    Road.BLURHASH: 4,
    Road.LOOKUP: 4,
    Road.FORGET: 3,
    Road.READ: 9,
    Road.VALIDATOR: 8,
    Road.SPELLING: 6,
}

FAIR_HOSTS: Final = ("pictures", "slow")
ODD_HOSTS: Final = ("inside", "inside6", "mapped", "mixed", "turned", "nowhere", "silent")

# Bodies that more than one request brings, and addresses that more than one asks for.
_REPEATED: Final = 0.2
_ADDRESSES_PER: Final = 3
_TURNING_PER: Final = 150


@dataclass(frozen=True, slots=True)
class Mix:
    """How likely a request is odd in some way; `only`: the roads taken, all if none is named.

    all_origins, all_spellings, all_cuts: each kind in turn, so that few requests meet them all.
    """

    unfair: float = 0.0
    odd_host: float = 0.0
    cut: float = 0.0
    deadline: float = 0.02
    only: Sequence[Road] = ()
    all_origins: bool = False
    all_spellings: bool = False
    all_cuts: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """One request. numbers: of its pictures. pick: in [0, 1), chooses among what is stored."""

    index: int
    road: Road
    kind: Kind
    numbers: tuple[int, ...]
    behavior: str
    host: str
    manner: Manner
    spelling: str
    deadline: float | None
    pick: float

    def __str__(self) -> str:
        text = f"#{self.index} {self.road}, {self.kind}"
        if self.is_by_address:
            text += f", {self.host} {self.behavior}"
        if self.road is Road.SPELLING:
            text += f", {self.spelling}"
        return text if self.manner is Manner.WHOLE else f"{text}, {self.manner}"

    @property
    def is_by_address(self) -> bool:
        return self.road in BY_ADDRESS

    @property
    def is_fair(self) -> bool:
        """Whether a clean picture must get in on this road while nothing else goes wrong."""
        origin_is_fair = self.behavior in FAIR and self.host.partition("-")[0] in FAIR_HOSTS
        return (
            not self.manner.leaves
            and self.deadline is None
            and self.road is not Road.SPELLING
            and not self.road.is_read
            and (origin_is_fair or not self.is_by_address)
        )


def plan(seed: int, index: int, mix: Mix) -> Plan:
    """The request of this number."""
    rng = random.Random(f"{seed}/{index}")
    road = rng.choice(mix.only) if mix.only else _weighted(rng)
    kind = rng.choices(tuple(Kind), (55, 35, 10))[0]
    behavior, host = _origin(rng, index, mix)
    cut = mix.all_cuts or rng.random() < mix.cut
    manner = Manner.SLOW if rng.random() < 0.03 else Manner.WHOLE
    if cut:
        manner = CUTS[index % len(CUTS)] if mix.all_cuts else rng.choice(CUTS)
    spelling = (
        SPELLINGS[index % len(SPELLINGS)] if mix.all_spellings else rng.choice(SPELLINGS)
    ).name
    deadline = rng.choice((-1.0, 0.5, 1.3, 4.0)) if rng.random() < mix.deadline else None
    return Plan(
        index=index,
        road=road,
        kind=kind,
        numbers=_numbers(rng, index, road, behavior),
        behavior=behavior,
        host=host,
        manner=manner,
        spelling=spelling,
        deadline=deadline,
        pick=rng.random(),
    )


def _weighted(rng: random.Random) -> Road:
    return rng.choices(tuple(_WEIGHTS), tuple(_WEIGHTS.values()))[0]


def _origin(rng: random.Random, index: int, mix: Mix) -> tuple[str, str]:
    behavior, host = rng.choice(tuple(FAIR)), rng.choice(FAIR_HOSTS)
    odd = (*UNFAIR, *TURNING)
    if mix.all_origins:
        turn = index % (len(odd) + len(ODD_HOSTS))
        if turn < len(odd):
            behavior = odd[turn]
        else:
            host = ODD_HOSTS[turn - len(odd)]
    elif rng.random() < mix.unfair:
        behavior = rng.choice(odd)
    elif rng.random() < mix.odd_host:
        host = rng.choice(ODD_HOSTS)
    if host == "turned":  # a name of its own, and a second look-up on the way
        return "moved", f"{host}-{index}"
    return behavior, host


def _numbers(rng: random.Random, index: int, road: Road, behavior: str) -> tuple[int, ...]:
    if behavior in TURNING and road in BY_ADDRESS:
        return (index // _TURNING_PER,)
    if road in {Road.LOOKUP, Road.FORGET} or (road in BY_ADDRESS and rng.random() < 0.4):
        return (rng.randrange(index // _ADDRESSES_PER + 1) * 10,)
    count = rng.randint(2, 4) if road is Road.SEVERAL else 1
    if rng.random() < _REPEATED:
        return tuple(rng.randrange(index + 1) * 10 + turn for turn in range(count))
    return tuple(index * 10 + turn for turn in range(count))
