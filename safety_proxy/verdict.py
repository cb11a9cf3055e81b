"""The decision about one picture, and what it rests on."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

# What a client is told of a file that could not be read, by the code of `UndecodableImage`.
_UNREADABLE: Final = {
    "not-a-picture": "This is no picture or video of a known type",
    "unsupported-type": "Files of this type cannot be checked, and so are not taken",
    "damaged": "The picture could not be read",
    "too-large": "The picture is too large or too complex to be checked",
    "hidden-picture": "The file holds further pictures or data beside the one that it shows",
}


class Action(StrEnum):
    """What happens to a picture; the names are those of the policy file."""

    ALLOW = "allow"
    FLAG = "flag"  # allowed, and recorded for review
    BLOCK = "block"

    @property
    def severity(self) -> int:
        """Rises from allow to block, so that the most severe of several actions is their `max`."""
        return list(Action).index(self)


class Source(StrEnum):
    """Who decided."""

    POLICY = "policy"  # the model's scores, under the rules of the policy
    ALLOW_LIST = "allow_list"  # the admin lets exactly these bytes in
    BLOCK_LIST = "block_list"  # a hash of it is listed; no model was asked
    UNREADABLE = "unreadable"  # no picture could be decoded; the policy says what follows
    UNSCANNED = "unscanned"  # nobody could decide, and `scan.on_failure` says to let it in


@dataclass(frozen=True, slots=True)
class ConceptScore:
    """How strongly one concept was found in one frame.

    score: cosine in [-1, 1] or probability in [0, 1], as the policy's `score` says, of the prompt
    that stands highest over its threshold; controls have been applied.
    weight: the sum over the concept's prompts that were found; 0 means not found.
    """

    concept: str
    score: float
    threshold: float
    weight: int


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a verdict is not a plain allow. For the log and the admin; never sent to a client.

    rule: of the policy; of a file that could not be read the code, else what decided.
    where: the part of the file that it speaks of, as `media.frames.Frame.where`; "" for all of it.
    """

    rule: str
    concepts: tuple[ConceptScore, ...] = ()
    where: str = ""
    detail: str = ""

    def __str__(self) -> str:
        scores = ", ".join(f"{c.concept} {c.score:.3f}>={c.threshold:.3f}" for c in self.concepts)
        where = f" in {self.where}" if self.where else ""
        return f"{self.rule}{where}: {scores or self.detail}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The decision on the bytes whose digest is `sha256`, and on no others.

    model, policy: the versions that decided; a verdict holds for these only.
    scores: of each concept the one that stands highest over its threshold, over all frames.
    """

    action: Action
    reasons: tuple[Reason, ...]
    sha256: str
    model: str
    policy: str
    source: Source
    scores: tuple[ConceptScore, ...] = ()

    @property
    def public_message(self) -> str:
        """What a client is told of a refusal: never which concept, an oracle to train against."""
        if self.source is Source.UNREADABLE:
            return _UNREADABLE[self.code]
        return "The picture was refused by the safety check"

    @property
    def code(self) -> str:
        """The `code` of a refusal; of a picture that was judged, the one that pict-rs gives."""
        if self.source is Source.UNREADABLE:
            rule = self.reasons[0].rule
            return rule if rule in _UNREADABLE else "damaged"
        return "failed-external-validation"
