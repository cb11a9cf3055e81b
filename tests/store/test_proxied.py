"""Tests of safety_proxy/store/proxied.py: one picture for an address, and none that gets lost."""

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from safety_proxy.errors import StoreUnavailable
from safety_proxy.store.database import Database
from safety_proxy.store.proxied import Entry, ProxiedTable

HOUR = 3600.0
WEEK = 7 * 24 * HOUR
ADDRESS = "http://origin.example/a.png?b=%2F"


@dataclass
class Clock:
    """The time of day, as much later as a test says."""

    later: float = 0.0

    def __post_init__(self) -> None:
        self._time = time.time

    def time(self) -> float:
        return self._time() + self.later


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "time", clock.time)
    return clock


@pytest.fixture
async def opened() -> AsyncIterator[AsyncExitStack]:
    """What a test opens, and this closes."""
    async with AsyncExitStack() as opened:
        yield opened


async def table_in(folder: Path, opened: AsyncExitStack) -> ProxiedTable:
    """As after a start on this folder."""
    database = Database(folder)
    await database.open()
    opened.push_async_callback(database.aclose)
    return ProxiedTable(database)


@pytest.fixture
async def table(tmp_path: Path, opened: AsyncExitStack, clock: Clock) -> ProxiedTable:
    return await table_in(tmp_path, opened)


def entry_of(alias: str, address: str = ADDRESS) -> Entry:
    return Entry(
        alias=alias,
        address=address,
        sha256="c" * 64,
        etag='W/"an etag"',
        last_modified="Wed, 25 Nov 2026 12:47:02 GMT",
        checked_at=time.time(),
    )


async def add(table: ProxiedTable, alias: str, address: str = ADDRESS) -> Entry:
    """A picture that pict-rs has."""
    entry = entry_of(alias, address)
    await table.begin(entry)
    await table.finish(entry)
    return entry


async def doomed(table: ProxiedTable, *, limit: int = 100) -> list[str]:
    return await table.doomed(keep_seconds=WEEK, limit=limit)


async def shown(table: ProxiedTable, address: str = ADDRESS) -> str | None:
    """The alias that an address is shown by."""
    entry = await table.find(address)
    return entry.alias if entry else None


async def test_nothing_is_known_at_first(table: ProxiedTable) -> None:
    """Neither to show nor to remove."""
    assert await table.find(ADDRESS) is None
    assert await table.count() == 0
    assert await doomed(table) == []


async def test_a_picture_is_shown_once_pictrs_has_it(table: ProxiedTable) -> None:
    """While it is being stored, nobody is sent to it; then it comes back with all that was said."""
    entry = entry_of("a")
    await table.begin(entry)
    assert (await shown(table), await table.count()) == (None, 0)
    await table.finish(entry)
    assert (await table.find(ADDRESS), await table.count()) == (entry, 1)
    assert await doomed(table) == []


async def test_an_origin_may_say_nothing_of_its_version(table: ProxiedTable) -> None:
    """Without validators there is nothing to ask by."""
    entry = replace(entry_of("a"), etag=None, last_modified=None)
    await table.begin(entry)
    await table.finish(entry)
    assert await table.find(ADDRESS) == entry


async def test_addresses_do_not_meet(table: ProxiedTable) -> None:
    """Not even by the case of a letter: they are compared as they are."""
    addresses = [ADDRESS, ADDRESS.upper(), f"{ADDRESS}#", f"{ADDRESS} ", f"{ADDRESS}'; --", "%", ""]
    for n, address in enumerate(addresses):
        await add(table, f"{n}", address)
    assert [await shown(table, address) for address in addresses] == list("0123456")
    assert await shown(table, "http://other.example/") is None
    assert await table.count() == 7


async def test_a_new_picture_takes_the_place_of_the_old_one(table: ProxiedTable) -> None:
    """The old one is shown until then, and removed afterwards; another address is not touched."""
    await add(table, "old")
    await add(table, "elsewhere", "http://other.example/")
    new = entry_of("new")
    await table.begin(new)
    assert await shown(table) == "old"
    assert await doomed(table) == []
    await table.finish(new)
    assert await shown(table) == "new"
    assert await doomed(table) == ["old"]
    assert await shown(table, "http://other.example/") == "elsewhere"
    assert await table.count() == 2


async def test_of_two_that_are_stored_at_the_same_time_the_later_one_stays(
    table: ProxiedTable,
) -> None:
    """There is never more than one for an address, and the other one is removed."""
    first, second = entry_of("first"), entry_of("second")
    await table.begin(first)
    await table.begin(second)
    await table.finish(second)
    assert await shown(table) == "second"
    assert await doomed(table) == []  # the first one is still on its way
    await table.finish(first)
    assert await shown(table) == "first"
    assert await doomed(table) == ["second"]
    assert await table.count() == 1


async def test_one_alias_stands_for_one_picture(table: ProxiedTable) -> None:
    """An alias that is taken cannot be taken again; what it stands for stays."""
    entry = await add(table, "a")
    with pytest.raises(StoreUnavailable):
        await table.begin(entry_of("a", "http://other.example/"))
    assert await table.find(ADDRESS) == entry


async def test_what_is_asked_for_again_and_again_is_kept(table: ProxiedTable, clock: Clock) -> None:
    """Each look counts as access, so only what nobody looks at for so long is doomed."""
    await add(table, "asked for")
    await add(table, "not asked for", "http://other.example/")
    for _ in range(8):
        clock.later += WEEK / 4
        assert await shown(table) == "asked for"
    assert await doomed(table) == ["not asked for"]
    assert await shown(table, "http://other.example/") is None
    assert await table.count() == 1


async def test_what_was_not_asked_for_is_kept_so_long_and_no_longer(
    table: ProxiedTable, clock: Clock
) -> None:
    """Not less than was promised, and hardly more."""
    await add(table, "a")
    clock.later += WEEK
    assert await doomed(table) == []
    clock.later += 2 * HOUR
    assert await doomed(table) == ["a"]
    assert await shown(table) is None


async def test_a_read_within_the_hour_costs_no_write(table: ProxiedTable, clock: Clock) -> None:
    """Times of access are exact to the hour, and a busy picture is written once in it."""
    await add(table, "a")

    async def accessed_at() -> float:
        rows = await table._database.run(
            lambda connection: connection.execute("SELECT accessed_at FROM proxied").fetchall()
        )
        return float(rows[0][0])

    before = await accessed_at()
    clock.later += HOUR - 60
    await table.find(ADDRESS)
    assert await accessed_at() == before
    clock.later += 120
    await table.find(ADDRESS)
    assert await accessed_at() == pytest.approx(before + HOUR + 60, abs=30)


async def test_a_look_late_in_the_last_hour_counts(table: ProxiedTable, clock: Clock) -> None:
    """Though it was not written down: a picture is kept for so long after its last access."""
    await add(table, "a")
    clock.later += HOUR - 60
    await table.find(ADDRESS)
    clock.later += WEEK - 60
    assert await doomed(table) == []


async def test_what_was_interrupted_is_found_again(table: ProxiedTable, clock: Clock) -> None:
    """Only when no upload can be under way any more; pict-rs may have got it."""
    entry = entry_of("a")
    await table.begin(entry)
    clock.later += 4 * 60
    assert await doomed(table) == []
    clock.later += 2 * 60
    assert await doomed(table) == ["a"]
    assert await shown(table) is None


async def test_an_upload_of_a_picture_that_is_long_known_is_given_its_time(
    table: ProxiedTable, clock: Clock
) -> None:
    """It counts from when it began, not from when its origin was first asked."""
    old = await add(table, "old")
    clock.later += WEEK / 2
    await table.begin(replace(old, alias="new"))
    assert await doomed(table) == []


async def test_dropped_is_not_shown_and_is_removed(table: ProxiedTable) -> None:
    """The origin has it no more, or it may not be shown any more."""
    await add(table, "a")
    await table.doom("a")
    assert (await shown(table), await table.count()) == (None, 0)
    assert await doomed(table) == ["a"]
    await add(table, "b")
    assert await shown(table) == "b"


async def test_it_stays_doomed_until_pictrs_has_removed_it(
    table: ProxiedTable, clock: Clock
) -> None:
    """However often it has to be tried."""
    await add(table, "a")
    await table.doom("a")
    for _ in range(3):
        assert await doomed(table) == ["a"]
        clock.later += WEEK
    await table.remove("a")
    assert await doomed(table) == []


async def test_removed_is_forgotten(table: ProxiedTable) -> None:
    """It alone, and also if it was shown; to remove it once more changes nothing."""
    await add(table, "a")
    await add(table, "b", "http://other.example/")
    for _ in range(2):
        await table.remove("a")
        assert await shown(table) is None
        assert await doomed(table) == []
        assert await shown(table, "http://other.example/") == "b"


async def test_what_was_removed_while_it_was_stored_is_not_shown(table: ProxiedTable) -> None:
    """To finish what is not there brings nothing back."""
    entry = entry_of("a")
    await table.begin(entry)
    await table.remove("a")
    await table.finish(entry)
    assert await shown(table) is None
    assert await doomed(table) == []


async def test_a_check_is_remembered(table: ProxiedTable, clock: Clock) -> None:
    """When the origin was asked, and nothing else; other entries are as they were."""
    entry = await add(table, "a")
    other = await add(table, "b", "http://other.example/")
    clock.later += 2 * HOUR
    await table.checked("a")
    found = await table.find(ADDRESS)
    assert found is not None
    assert found.checked_at == pytest.approx(entry.checked_at + 2 * HOUR, abs=30)
    assert replace(found, checked_at=entry.checked_at) == entry
    assert await table.find("http://other.example/") == other


async def test_many_are_listed_a_part_at_a_time(table: ProxiedTable) -> None:
    """All of them come in the end, as those before are removed."""
    for n in range(7):
        await add(table, f"{n}")
    removed = []
    while part := await doomed(table, limit=2):
        assert len(part) <= 2
        removed += part
        for alias in part:
            await table.remove(alias)
    assert sorted(removed) == list("012345")
    assert await shown(table) == "6"


async def test_all_of_it_survives_a_restart(
    tmp_path: Path, opened: AsyncExitStack, clock: Clock
) -> None:
    """What is shown, what is to be removed, and what was under way."""
    table = await table_in(tmp_path, opened)
    await add(table, "replaced")
    entry = await add(table, "shown")
    await table.begin(entry_of("interrupted", "http://other.example/"))
    await opened.aclose()
    table = await table_in(tmp_path, opened)
    assert await table.find(ADDRESS) == entry
    assert await table.count() == 1
    assert await doomed(table) == ["replaced"]
    clock.later += 6 * 60
    assert sorted(await doomed(table)) == ["interrupted", "replaced"]


async def test_without_the_database_it_says_so(tmp_path: Path) -> None:
    """Each of its methods, by the one error."""
    table = ProxiedTable(Database(tmp_path))  # which is not open
    for asked in (
        table.find(ADDRESS),
        table.begin(entry_of("a")),
        table.finish(entry_of("a")),
        table.checked("a"),
        table.doom("a"),
        doomed(table),
        table.remove("a"),
        table.count(),
    ):
        with pytest.raises(StoreUnavailable):
            await asked
