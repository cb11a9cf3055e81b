"""Tests of safety_proxy/store/listed.py: the admin's decisions are kept as they were made."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from safety_proxy.errors import ConfigError, StoreUnavailable
from safety_proxy.evidence import Pdq
from safety_proxy.store.database import Database
from safety_proxy.store.listed import (
    Exclusion,
    OwnEntry,
    OwnLists,
    checked_hash,
    checked_sha256,
    user_name,
)
from safety_proxy.verdict import Action

A, B = "a" * 64, "b" * 64
PDQS = (Pdq(bytes(range(32)), 87), Pdq(bytes(range(32, 64)), 0), Pdq(bytes(32), 100))


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = Database(tmp_path)
    await database.open()
    yield database
    await database.aclose()


async def test_entries_survive_as_they_were_put(database: Database) -> None:
    """The oldest first, with their PDQ hashes and qualities."""
    block = OwnEntry(B, Action.BLOCK, "spam, „again“", "anna", PDQS, at=2.0)
    allow = OwnEntry(A, Action.ALLOW, "the logo", "ben", at=1.0)
    for entry in (block, allow):
        await OwnLists(database).put(entry)
    assert await OwnLists(database).entries() == [allow, block]


async def test_a_decision_replaces_the_one_before(database: Database) -> None:
    """A picture is allowed or blocked, never both."""
    lists = OwnLists(database)
    await lists.put(OwnEntry(A, Action.BLOCK, pdq=PDQS))
    allow = OwnEntry(A, Action.ALLOW, at=3.0)
    await lists.put(allow)
    assert await lists.entries() == [allow]


async def test_only_what_was_decided_can_be_taken_back(database: Database) -> None:
    """`allow --remove` does not lift a block."""
    lists = OwnLists(database)
    await lists.put(OwnEntry(A, Action.BLOCK))
    assert not await lists.remove(A, Action.ALLOW)
    assert not await lists.remove(B, Action.BLOCK)
    assert len(await lists.entries()) == 1
    assert await lists.remove(A, Action.BLOCK)
    assert await lists.entries() == []


async def test_exclusions_come_and_go(database: Database) -> None:
    """Each with its note."""
    lists = OwnLists(database)
    exclusion = Exclusion("c" * 32, "a stock photo", "anna", at=1.0)
    await lists.exclude(exclusion)
    await lists.exclude(exclusion)
    assert await lists.exclusions() == [exclusion]
    assert await lists.include("c" * 32)
    assert not await lists.include("c" * 32)
    assert await lists.exclusions() == []


async def test_a_closed_database_is_told(tmp_path: Path) -> None:
    """The caller must not believe that it was written."""
    with pytest.raises(StoreUnavailable):
        await OwnLists(Database(tmp_path)).put(OwnEntry(A, Action.ALLOW))


@pytest.mark.parametrize(
    "wrong", [(Action.FLAG, ()), (Action.ALLOW, PDQS)], ids=["flag", "an allow that spreads"]
)
def test_an_entry_that_makes_no_sense_cannot_be_made(wrong: tuple[Action, tuple[Pdq]]) -> None:
    """An allow never has a PDQ hash: so it cannot spread by one."""
    with pytest.raises(ValueError, match="exact bytes"):
        OwnEntry(A, wrong[0], pdq=wrong[1])


def test_hashes_are_checked_where_they_come_in() -> None:
    """With the remedy in the message."""
    assert checked_sha256(f" {A.upper()} ") == A
    for text in ("a" * 40, "g" * 64, "", "nö" * 32, "0x" + "a" * 62):
        with pytest.raises(ConfigError, match="sha256sum"):
            checked_sha256(text)
    assert checked_hash("A" * 32) == "a" * 32
    assert checked_hash("b" * 40) == "b" * 40
    with pytest.raises(ConfigError, match="explain"):
        checked_hash("b" * 41)


def test_the_user_s_name_is_known_or_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container may run under a number that has no name."""
    monkeypatch.setenv("LOGNAME", "anna")
    assert user_name() == "anna"

    def nobody() -> str:
        raise KeyError("uid not found: 4711")

    monkeypatch.setattr("getpass.getuser", nobody)
    assert user_name() == ""
