"""Tests of safety_proxy/store/unscanned.py: what was let in unseen is not forgotten."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from safety_proxy.errors import StoreUnavailable
from safety_proxy.store.database import Database
from safety_proxy.store.unscanned import Unscanned

A, B = "a" * 64, "b" * 64


@pytest.fixture
async def opened() -> AsyncIterator[AsyncExitStack]:
    """What a test opens, and this closes."""
    async with AsyncExitStack() as opened:
        yield opened


async def started(folder: Path, opened: AsyncExitStack) -> Unscanned:
    """As after a start on this folder."""
    database = Database(folder)
    await database.open()
    opened.push_async_callback(database.aclose)
    unscanned = Unscanned(database)
    await unscanned.load()
    return unscanned


async def reasons(unscanned: Unscanned) -> dict[str, str]:
    """What the file holds."""
    return dict(
        await unscanned._database.run(
            lambda connection: connection.execute("SELECT sha256, reason FROM unscanned").fetchall()
        )
    )


async def test_at_first_there_is_none(tmp_path: Path, opened: AsyncExitStack) -> None:
    """An empty file is fine to load from."""
    assert len(await started(tmp_path, opened)) == 0


async def test_marks_survive_a_restart(tmp_path: Path, opened: AsyncExitStack) -> None:
    """A picture that nobody has looked at stays one, and why is kept for the admin."""
    unscanned = await started(tmp_path, opened)
    await unscanned.mark(A, "queue_full")
    await unscanned.mark(B, "model")
    assert len(unscanned) == 2
    await opened.aclose()
    unscanned = await started(tmp_path, opened)
    assert len(unscanned) == 2
    assert await reasons(unscanned) == {A: "queue_full", B: "model"}


async def test_a_picture_that_was_looked_at_is_cleared(
    tmp_path: Path, opened: AsyncExitStack
) -> None:
    """It alone, and for good."""
    unscanned = await started(tmp_path, opened)
    await unscanned.mark(A, "timeout")
    await unscanned.mark(B, "timeout")
    await unscanned.clear(A)
    assert len(unscanned) == 1
    await opened.aclose()
    unscanned = await started(tmp_path, opened)
    assert len(unscanned) == 1
    assert await reasons(unscanned) == {B: "timeout"}


async def test_what_an_earlier_run_has_marked_can_be_cleared(
    tmp_path: Path, opened: AsyncExitStack
) -> None:
    """The scan that it waits for may come after a restart."""
    await (await started(tmp_path, opened)).mark(A, "timeout")
    await opened.aclose()
    unscanned = await started(tmp_path, opened)
    await unscanned.clear(A)
    assert (len(unscanned), await reasons(unscanned)) == (0, {})


async def test_a_picture_that_comes_twice_counts_once(
    tmp_path: Path, opened: AsyncExitStack
) -> None:
    """Kept is why it was let in the latest time."""
    unscanned = await started(tmp_path, opened)
    await unscanned.mark(A, "queue_full")
    await unscanned.mark(A, "timeout")
    assert len(unscanned) == 1
    assert await reasons(unscanned) == {A: "timeout"}
    await unscanned.clear(A)
    assert (len(unscanned), await reasons(unscanned)) == (0, {})
    await unscanned.mark(A, "model")
    assert (len(unscanned), await reasons(unscanned)) == (1, {A: "model"})


async def test_clearing_what_is_not_marked_needs_no_database(
    tmp_path: Path, opened: AsyncExitStack
) -> None:
    """Almost every scan does it, and must not wait for a disk."""
    unscanned = Unscanned(Database(tmp_path))  # which is not open
    await unscanned.clear(A)
    assert len(unscanned) == 0


async def test_without_the_database_a_mark_holds_while_the_program_runs(
    tmp_path: Path,
) -> None:
    """The caller is told that it could not be stored; it is counted nevertheless."""
    unscanned = Unscanned(Database(tmp_path))
    with pytest.raises(StoreUnavailable):
        await unscanned.load()
    with pytest.raises(StoreUnavailable):
        await unscanned.mark(A, "timeout")
    assert len(unscanned) == 1
