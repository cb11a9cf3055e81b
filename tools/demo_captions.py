"""Captions for the training pictures, and the small vocabulary to read them."""

import gzip
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import regex
from demo_concepts import EMPTY_PHRASES, GROUPS
from demo_data import shown_name

Random = np.random.Generator
EMPTY = "(empty)"  # stands for the icon of a picture that shows none

TEMPLATES = (
    "{}",
    "{}",
    "a picture of {}",
    "a drawing of {}",
    "an emoji of {}",
    "an icon of {}",
    "a cartoon of {}",
    "an image of {}",
    "a photo of {}",
    "a small picture of {}",
    "{} on a plain background",
)
JOINERS = ("{} and {}", "{} with {}", "{} next to {}", "both {} and {}", "{} together with {}")
WORD = regex.compile(r"[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")


@dataclass(frozen=True)
class Meaning:
    """A wording, the icons it fits, and the icons for which that is open."""

    text: str
    fits: np.ndarray
    unsure: np.ndarray


class Captioner:
    """Chooses wordings for icons and knows which icons each wording fits."""

    def __init__(self, icons: list[str], keywords: dict[str, set[str]]) -> None:
        self.icons = [*icons, EMPTY]
        self.number = {icon: index for index, icon in enumerate(self.icons)}
        self.keywords = keywords
        self.groups_of: dict[str, list[str]] = {}
        for name, group in GROUPS.items():
            for icon in group.icons:
                self.groups_of.setdefault(icon, []).append(name)
        self.names = {icon: self._name_meaning(icon) for icon in icons}
        self.group_meanings = {name: self._group_meanings(name) for name in GROUPS}
        self.keyword_meanings = self._keyword_meanings()
        nobody = self._mask([])
        self.empty = [Meaning(text, self._mask([EMPTY]), nobody) for text in EMPTY_PHRASES]

    def _mask(self, icons: list[str]) -> np.ndarray:
        mask = np.zeros(len(self.icons), bool)
        mask[[self.number[icon] for icon in icons if icon in self.number]] = True
        return mask

    def _words(self, icon: str) -> set[str]:
        return set(shown_name(icon).split()) | self.keywords.get(icon, set())

    def _name_meaning(self, icon: str) -> Meaning:
        name = shown_name(icon)
        words = set(name.split())
        real = [other for other in self.icons if other != EMPTY]
        fits = [other for other in real if shown_name(other) == name]
        groups = set(self.groups_of.get(icon, []))
        unsure = [other for other in real if words <= self._words(other)]
        for other in real:
            alike = groups & set(self.groups_of.get(other, []))
            if alike and words & set(shown_name(other).split()):
                unsure.append(other)
        return Meaning(name, self._mask(fits), self._mask(unsure))

    def _group_meanings(self, name: str) -> list[Meaning]:
        group = GROUPS[name]
        fits, unsure = self._mask(list(group.icons)), self._mask(list(group.unsure))
        return [Meaning(phrase, fits, unsure) for phrase in group.phrases]

    def _keyword_meanings(self) -> dict[str, list[Meaning]]:
        """Return wordings from keywords that no everyday concept and no icon name uses."""
        taken = {
            word for group in GROUPS.values() for text in group.phrases for word in text.split()
        }
        taken |= {shown_name(icon) for icon in self.names}
        users: dict[str, list[str]] = {}
        for icon in self.names:
            for word in self.keywords.get(icon, set()) - taken:
                users.setdefault(word, []).append(icon)
        found: dict[str, list[Meaning]] = {icon: [] for icon in self.names}
        nobody = self._mask([])
        for word, icons in sorted(users.items()):
            if len(icons) <= 25:
                meaning = Meaning(word, self._mask(icons), nobody)
                for icon in icons:
                    found[icon].append(meaning)
        return found

    def wording(self, random: Random, icon: str) -> Meaning:
        """Return one of the wordings that fit an icon."""
        draw = random.random()
        groups = self.groups_of.get(icon)
        if groups and draw < 0.65:
            options = self.group_meanings[groups[int(random.integers(len(groups)))]]
            # Half of the time the plain name, the first phrase; its synonyms else.
            return options[0] if random.random() < 0.4 else self._any(random, options)
        if draw > 0.85 and self.keyword_meanings[icon]:
            return self._any(random, self.keyword_meanings[icon])
        return self.names[icon]

    def _any(self, random: Random, options: list[Meaning]) -> Meaning:
        return options[int(random.integers(len(options)))]

    def captions(self, random: Random, icons: list[str]) -> list[list[Meaning]]:
        """Return the captions of one picture; each is one or two wordings that must all fit."""
        if not icons:
            return [[self._any(random, self.empty)]]
        captions = [[self.wording(random, icon)] for icon in icons]
        if len(icons) > 1:
            first, second = random.permutation(len(icons))[:2]
            captions.append([captions[first][0], captions[second][0]])
        elif random.random() < 0.2:
            # Wrong for this picture: only one of the two things is there.
            other = self.icons[int(random.integers(len(self.icons) - 1))]
            captions.append([captions[0][0], self.wording(random, other)])
        return captions

    def sentence(self, random: Random, caption: list[Meaning]) -> str:
        """Put a caption into words."""
        parts = [with_article(random, meaning.text) for meaning in caption]
        joiner = JOINERS[int(random.integers(len(JOINERS)))]
        text = parts[0] if len(parts) == 1 else joiner.format(*parts)
        return TEMPLATES[int(random.integers(len(TEMPLATES)))].format(text)

    def all_texts(self) -> list[str]:
        """Return every wording once, for the vocabulary."""
        texts = [meaning.text for meaning in self.names.values()]
        for options in (*self.group_meanings.values(), *self.keyword_meanings.values()):
            texts += [meaning.text for meaning in options]
        frames = [part.replace("{}", "") for part in (*TEMPLATES, *JOINERS)]
        return [*texts, *EMPTY_PHRASES, *frames * 20, *("a an the" for _ in range(20))]


def with_article(random: Random, text: str) -> str:
    """Put "a" or "an" before a bare name, half of the time."""
    if text.partition(" ")[0] in {"a", "an", "the"} or text.endswith("s") or random.random() < 0.5:
        return text
    return f"{'an' if text[0] in 'aeiou' else 'a'} {text}"


def label_captions(
    captions: list[list[Meaning]], shown: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return which pictures each caption fits, and which of the pairs are open.

    `shown` tells which icons (columns) are on which pictures (rows).  Both results have a row
    per picture and a column per caption.
    """
    table = shown.astype(np.float32)
    fits = np.ones((len(shown), len(captions)), bool)
    may_fit = np.ones_like(fits)
    for place in range(2):
        meanings = [caption[min(place, len(caption) - 1)] for caption in captions]
        sure = np.stack([meaning.fits for meaning in meanings]).T.astype(np.float32)
        open_to = sure + np.stack([meaning.unsure for meaning in meanings]).T
        fits &= table @ sure > 0
        may_fit &= table @ open_to > 0
    return fits, may_fit & ~fits


def learn_merges(texts: list[str], count: int) -> list[tuple[str, str]]:
    """Learn byte pair merges inside words; a word ends with the mark that CLIP uses."""
    words = Counter(word for text in texts for word in WORD.findall(text.lower()))
    spelled = {word: [*word[:-1], word[-1] + "</w>"] for word in words if word.isascii()}
    merges: list[tuple[str, str]] = []
    while len(merges) < count:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, parts in spelled.items():
            for pair in pairwise(parts):
                pairs[pair] += words[word]
        if not pairs:
            break
        # Ties go to the first in the alphabet, so that every run gives the same vocabulary.
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for word, parts in spelled.items():
            if best[0] in parts:
                spelled[word] = merge_pair(parts, best)
    return merges


def merge_pair(parts: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for part in parts:
        if merged and (merged[-1], part) == pair:
            merged[-1] += part
        else:
            merged.append(part)
    return merged


def write_merges(path: Path, merges: list[tuple[str, str]]) -> None:
    """Write merges in the form that open_clip's SimpleTokenizer reads."""
    lines = ["#version: demo", *(" ".join(pair) for pair in merges)]
    # No time stamp and no last line break: the same merges give the same file, and the
    # tokenizer would read an empty last line as one more merge.
    path.write_bytes(gzip.compress("\n".join(lines).encode("utf-8"), mtime=0))
