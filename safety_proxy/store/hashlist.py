"""Pictures that are known by a hash and need no model: listed here, by the admin or by others.

An allow of the admin's goes before every block, and holds for exactly the bytes it names. A block,
the admin's own or one of a shared list, holds for exact hashes and, by PDQ, for what looks the
same. Nothing that PDQ finds ever lets a picture in.
"""

import asyncio
import hashlib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Final

from safety_proxy.errors import ConfigError
from safety_proxy.evidence import Pdq
from safety_proxy.store.database import Database
from safety_proxy.store.entries import Kind
from safety_proxy.store.listed import Exclusion, OwnEntry, OwnLists
from safety_proxy.store.pdq import MAX_DISTANCE, PdqIndex
from safety_proxy.store.shared import ListReport, ListSource, SharedList, load_list
from safety_proxy.verdict import Action

TEST_PICTURE: Final = Path(__file__).with_name("test_picture.png")
TEST_PICTURE_LIST: Final = "test picture"
OWN_LIST: Final = "own"

# Of the reference (pdq/README.md): below it a hash says too little of a picture.
MIN_QUALITY: Final = 50


def test_picture() -> bytes:
    """The harmless PNG that is always blocked: what EICAR is to virus scanners."""
    return TEST_PICTURE.read_bytes()


@dataclass(frozen=True, slots=True)
class Match:
    """A picture that is listed.

    list: the name of the list that holds it; OWN_LIST for what the admin decided.
    entry: the hash that stands there, in hex, of the kind `kind`.
    distance: bits in which the PDQ hash of the picture differs; 0 for all other kinds.
    origin: the sha256 of the admin's own entry that leads here; "" for shared lists.
    """

    action: Action
    list: str
    kind: Kind
    entry: str
    distance: int = 0
    note: str = ""
    origin: str = ""

    def __str__(self) -> str:
        entry = "" if self.kind is Kind.SHA256 else f": {self.kind} {self.entry}"
        near = f" at distance {self.distance}" if self.kind is Kind.PDQ else ""
        note = f" ({self.note})" if self.note else ""
        return f"{self.list}{entry}{near}{note}"


@dataclass(frozen=True, slots=True)
class _Own:
    """The admin's decisions as they are looked up; never changed, only replaced."""

    entries: Mapping[str, OwnEntry]  # by sha256
    index: PdqIndex
    indexed: Sequence[tuple[OwnEntry, Pdq]]  # for each row of the index
    excluded: frozenset[bytes]
    digest: bytes  # of all of it

    @classmethod
    def of(
        cls, entries: Iterable[OwnEntry], exclusions: Iterable[Exclusion], *, min_quality: int
    ) -> "_Own":
        by_sha256 = {entry.sha256: entry for entry in entries}
        spread = [
            (entry, pdq)
            for entry in by_sha256.values()
            for pdq in entry.pdq
            if pdq.quality >= min_quality
        ]
        excluded = frozenset(bytes.fromhex(exclusion.hash) for exclusion in exclusions)
        digest = hashlib.sha256(b"".join(sorted(excluded)))
        for entry in sorted(by_sha256.values(), key=lambda entry: entry.sha256):
            digest.update(f"\n{entry.sha256} {entry.action} ".encode())
            digest.update(b"".join(pdq.bits for pdq in entry.pdq))
        return cls(
            MappingProxyType(by_sha256),
            PdqIndex.of(pdq.bits for _, pdq in spread),
            spread,
            excluded,
            digest.digest(),
        )


@dataclass(frozen=True, slots=True)
class _State:
    """All that a look-up needs, replaced as one, so that no look-up sees half a change."""

    own: _Own
    shared: tuple[SharedList, ...]
    bounds: tuple[int, int]  # max_distance, min_quality
    version: str = field(init=False)
    generation: int = field(init=False, default_factory=itertools.count().__next__)

    def __post_init__(self) -> None:
        digest = hashlib.sha256(self.own.digest + str(self.bounds).encode())
        for each in self.shared:
            digest.update(f"\n{each.source.name} {each.digest}".encode())
        object.__setattr__(self, "version", digest.hexdigest()[:16])


class HashLists:
    """All lists, as the scanner asks them. For one event loop; `match` on any thread.

    sources: the shared lists. Without a database the admin's own decisions are not kept.
    max_distance, min_quality: what counts as a match by PDQ: 0 to 31 bits, and 0 to 100.
    """

    def __init__(
        self,
        sources: Sequence[ListSource] = (),
        *,
        database: Database | None = None,
        max_distance: int = MAX_DISTANCE,
        min_quality: int = MIN_QUALITY,
    ) -> None:
        names = [TEST_PICTURE_LIST, OWN_LIST, *(source.name for source in sources)]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"Two lists are named {name!r}; give each a name of its own.")
        self._sources = tuple(sources)
        self._own = OwnLists(database) if database else None
        self._max_distance = max_distance
        self._min_quality = min_quality
        self._test_digest = hashlib.sha256(test_picture()).hexdigest()
        self._changing = asyncio.Lock()
        self._errors: dict[str, str] = {}  # of a list, why its latest load failed
        own = _Own.of((), (), min_quality=min_quality)
        self._state = _State(own, (), (max_distance, min_quality))

    @property
    def version(self) -> str:
        """Changes with every change of what a look-up may come to; the same after a restart."""
        return self._state.version

    @property
    def generation(self) -> int:
        """Another with every change; never the same again, also where a change is taken back."""
        return self._state.generation

    @property
    def entries(self) -> Mapping[str, OwnEntry]:
        """The admin's own decisions, by sha256."""
        return self._state.own.entries

    def match_exact(self, sha256: str) -> Match | None:
        """What the lists say of these bytes by their sha256 alone; takes about a microsecond."""
        return self._exact(self._state, sha256)

    def match(
        self, sha256: str, *, sha1: str = "", md5: str = "", pdq: Sequence[Pdq] = ()
    ) -> Match | None:
        """What the lists say of a picture, exact hashes first, then the nearest by PDQ.

        Takes up to half a millisecond for each of `pdq` and each list of a million.
        """
        state = self._state
        exact = (
            self._exact(state, sha256)
            or (_shared_match(state, Kind.SHA1, sha1) if sha1 else None)
            or (_shared_match(state, Kind.MD5, md5) if md5 else None)
        )
        if exact is not None:
            return exact
        hashes = {one.bits for one in pdq if one.quality >= self._min_quality}
        near = [match for bits in sorted(hashes) for match in self._near(state, bits)]
        return min(near, key=lambda match: match.distance, default=None)

    def _exact(self, state: _State, sha256: str) -> Match | None:
        if sha256 == self._test_digest:
            return Match(Action.BLOCK, TEST_PICTURE_LIST, Kind.SHA256, sha256)
        own = state.own.entries.get(sha256)
        if own is not None:
            return _own_match(own, Kind.SHA256, sha256)
        return _shared_match(state, Kind.SHA256, sha256)

    def _near(self, state: _State, bits: bytes) -> Iterable[Match]:
        """The nearest entry of each list, the admin's own first."""
        for row, distance in state.own.index.search(bits, self._max_distance)[:1]:
            entry, pdq = state.own.indexed[row]
            yield _own_match(entry, Kind.PDQ, pdq.bits.hex(), distance)
        for each in state.shared:
            for row, distance in each.index.search(bits, self._max_distance):
                listed = each.pdq[row].tobytes()
                if listed not in state.own.excluded:
                    name = each.source.name
                    yield Match(Action.BLOCK, name, Kind.PDQ, listed.hex(), distance)
                    break

    async def load(self) -> None:
        """Reads everything, at start. Raises ConfigError for a list that cannot be used."""
        await self.reload()
        if self._errors:
            raise ConfigError("\n".join(self._errors.values()))

    async def reload(self) -> list[ListReport]:
        """Reads everything anew. What cannot be read stays as it was, and its report says so.

        Raises StoreUnavailable.
        """
        async with self._changing:
            known = {each.source: each for each in self._state.shared}
            loaded = [await self._loaded(source, known.get(source)) for source in self._sources]
            shared = tuple(each for each in loaded if each is not None)
            self._state = replace(self._state, own=await self._own_now(), shared=shared)
        return self.reports()

    async def _loaded(self, source: ListSource, known: SharedList | None) -> SharedList | None:
        """The list as it is now; where that cannot be read, as it was."""
        try:
            loaded = await asyncio.to_thread(
                load_list, source, known, min_quality=self._min_quality
            )
        except ConfigError as error:
            self._errors[source.name] = str(error)
            return known
        self._errors.pop(source.name, None)
        return loaded

    def reports(self) -> list[ListReport]:
        """What each shared list holds, in the order of the settings."""
        loaded = {each.source: each.report for each in self._state.shared}
        return [
            loaded.get(source, ListReport(source.name, str(source.file))).with_error(
                self._errors.get(source.name, "")
            )
            for source in self._sources
        ]

    async def exclusions(self) -> list[Exclusion]:
        """Entries of shared lists that do not count here. Raises StoreUnavailable."""
        return await self._own.exclusions() if self._own else []

    async def put(self, entry: OwnEntry) -> None:
        """The admin decides about a picture, from now on. Raises StoreUnavailable, ConfigError."""
        if entry.sha256 == self._test_digest:
            raise ConfigError("The test picture is always blocked: set-ups are checked with it.")
        async with self._changing:
            await self._table().put(entry)
            await self._refresh()

    async def remove(self, sha256: str, action: Action) -> bool:
        """Takes a decision back; whether there was one. Raises StoreUnavailable."""
        async with self._changing:
            removed = await self._table().remove(sha256, action)
            await self._refresh()
        return removed

    async def exclude(self, exclusion: Exclusion) -> None:
        """An entry of a shared list does not count any more. Raises StoreUnavailable."""
        async with self._changing:
            await self._table().exclude(exclusion)
            await self._refresh()

    async def include(self, hash_: str) -> bool:
        """It counts again; whether it had not. Raises StoreUnavailable."""
        async with self._changing:
            included = await self._table().include(hash_)
            await self._refresh()
        return included

    def _table(self) -> OwnLists:
        if self._own is None:
            raise RuntimeError("these lists were made without a database")
        return self._own

    async def _refresh(self) -> None:
        self._state = replace(self._state, own=await self._own_now())

    async def _own_now(self) -> _Own:
        entries = await self._own.entries() if self._own else []
        exclusions = await self.exclusions()
        return await asyncio.to_thread(_Own.of, entries, exclusions, min_quality=self._min_quality)


def _own_match(entry: OwnEntry, kind: Kind, hash_: str, distance: int = 0) -> Match:
    note = ", ".join(filter(None, (entry.who, entry.note)))
    return Match(entry.action, OWN_LIST, kind, hash_, distance, note, origin=entry.sha256)


def _shared_match(state: _State, kind: Kind, hash_: str) -> Match | None:
    digest = bytes.fromhex(hash_)
    if digest in state.own.excluded:
        return None
    for each in state.shared:
        if digest in each.exact:
            return Match(Action.BLOCK, each.source.name, kind, hash_)
    return None
