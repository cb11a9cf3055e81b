"""Tests of safety_proxy/store/hashlist.py: what is listed is known at once, and nothing else is."""

import asyncio
import hashlib
import io
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from PIL import Image

from safety_proxy.errors import ConfigError, StoreUnavailable
from safety_proxy.evidence import Pdq
from safety_proxy.store.database import Database
from safety_proxy.store.entries import Kind
from safety_proxy.store.hashlist import OWN_LIST, TEST_PICTURE_LIST, HashLists, Match
from safety_proxy.store.hashlist import test_picture as harmless_picture
from safety_proxy.store.listed import Exclusion, OwnEntry
from safety_proxy.store.shared import ListSource
from safety_proxy.verdict import Action

A, B, C = "a" * 64, "b" * 64, "c" * 64
MD5, SHA1 = "0a" * 16, "0b" * 20
# Two of the reference's, far apart; and the first with 31 and with 32 of its bits turned over.
PDQ = bytes.fromhex("d8f8f0cce0f4a84f0e370a22028f67f0b36e2ed596623e1d33e6b39c4e9c9b22")
FAR = bytes.fromhex("38a50efd71c83f429013d68d0ffffc52e34e0e15ada952a9d29684214aa9e5af")
NEAR = (int.from_bytes(PDQ) ^ (2**31 - 1)).to_bytes(32)
OUT = (int.from_bytes(PDQ) ^ (2**32 - 1)).to_bytes(32)


def digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def good(bits: bytes) -> tuple[Pdq]:
    return (Pdq(bits, 50),)


@pytest.fixture
async def opened() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as opened:
        yield opened


class Files:
    """Lists in a folder, by name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, name: str, *lines: str) -> ListSource:
        file = self.folder / f"{name}.txt"
        file.write_text("\n".join(lines))
        return ListSource(name, file)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


async def started(
    folder: Path, opened: AsyncExitStack, *sources: ListSource, distance: int = 31
) -> HashLists:
    """As after a start on this folder."""
    database = Database(folder)
    await database.open()
    opened.push_async_callback(database.aclose)
    lists = HashLists(sources, database=database, max_distance=distance)
    await lists.load()
    return lists


def test_the_test_picture_is_always_listed() -> None:
    """By the digest of the very file that is handed out, and under its own name."""
    listed = digest(harmless_picture())
    expected = Match(Action.BLOCK, TEST_PICTURE_LIST, Kind.SHA256, listed)
    assert HashLists().match_exact(listed) == expected
    assert HashLists().match(listed) == expected


def test_the_test_picture_is_one_that_anybody_can_upload() -> None:
    """A small PNG, that pict-rs itself would take."""
    body = harmless_picture()
    with Image.open(io.BytesIO(body)) as picture:
        picture.load()
        assert picture.format == "PNG"
        assert min(picture.size) >= 64
    assert len(body) < 100_000


@pytest.mark.parametrize("place", [0, 100, -1])
def test_a_look_alike_is_not_listed(place: int) -> None:
    """One byte changed, or one added, is another file."""
    body = bytearray(harmless_picture())
    body[place] ^= 1
    assert HashLists().match_exact(digest(bytes(body))) is None
    assert HashLists().match_exact(digest(harmless_picture() + b"\0")) is None


async def test_the_test_picture_cannot_be_allowed(tmp_path: Path, opened: AsyncExitStack) -> None:
    """Nor be taken over: set-ups, and the proxy itself at its start, rely on it."""
    lists = await started(tmp_path, opened)
    for action in (Action.ALLOW, Action.BLOCK):
        with pytest.raises(ConfigError, match="always blocked"):
            await lists.put(OwnEntry(digest(harmless_picture()), action))


async def test_a_decision_holds_at_once_and_after_a_restart(
    tmp_path: Path, opened: AsyncExitStack
) -> None:
    """With the note who and why; until it is taken back."""
    lists = await started(tmp_path, opened)
    assert lists.match_exact(A) is None
    await lists.put(OwnEntry(A, Action.ALLOW, "the logo", "anna"))
    allowed = Match(Action.ALLOW, OWN_LIST, Kind.SHA256, A, note="anna, the logo", origin=A)
    assert lists.match_exact(A) == lists.match(A) == allowed
    again = await started(tmp_path, opened)
    assert again.match_exact(A) == allowed
    assert again.version == lists.version
    assert await lists.remove(A, Action.ALLOW)
    assert lists.match_exact(A) is None


async def test_every_change_has_a_version_of_its_own(
    tmp_path: Path, opened: AsyncExitStack, files: Files
) -> None:
    """Undone, it is that of before: what was known then holds again."""
    source = files.write("theirs", MD5)
    lists = await started(tmp_path, opened, source)
    versions = [lists.version]
    await lists.put(OwnEntry(A, Action.ALLOW))
    versions.append(lists.version)
    await lists.put(OwnEntry(A, Action.BLOCK))
    versions.append(lists.version)
    await lists.put(OwnEntry(A, Action.BLOCK, pdq=good(PDQ)))
    versions.append(lists.version)
    await lists.exclude(Exclusion(MD5))
    versions.append(lists.version)
    files.write("theirs", SHA1)
    await lists.reload()
    versions.append(lists.version)
    assert len(set(versions)) == 6
    files.write("theirs", MD5)
    await lists.reload()
    await lists.include(MD5)
    await lists.remove(A, Action.BLOCK)
    assert lists.version == versions[0]
    strict = await started(tmp_path, opened, source, distance=30)
    assert strict.version not in versions


async def test_exact_hashes_of_shared_lists_match(
    tmp_path: Path, opened: AsyncExitStack, files: Files
) -> None:
    """Of whatever kind; the match names the list and the entry."""
    theirs = files.write("theirs", MD5, f"sha256 {A}")
    others = files.write("others", SHA1, MD5)
    lists = await started(tmp_path, opened, theirs, others)
    assert lists.match_exact(A) == Match(Action.BLOCK, "theirs", Kind.SHA256, A)
    assert lists.match(B, md5=MD5) == Match(Action.BLOCK, "theirs", Kind.MD5, MD5)
    assert lists.match(B, sha1=SHA1) == Match(Action.BLOCK, "others", Kind.SHA1, SHA1)
    assert lists.match(B, sha1="0c" * 20, md5="0d" * 16) is None
    assert lists.match(B) is None


async def test_an_allow_goes_before_every_block(
    tmp_path: Path, opened: AsyncExitStack, files: Files
) -> None:
    """For these bytes, however many lists hold them, and whatever they look like."""
    source = files.write("theirs", MD5, f"sha256 {A}", f"pdq {PDQ.hex()}")
    lists = await started(tmp_path, opened, source)
    await lists.put(OwnEntry(A, Action.ALLOW))
    match = lists.match(A, md5=MD5, pdq=good(PDQ))
    assert match is not None
    assert match.action is Action.ALLOW
    blocked = lists.match(B, md5=MD5)
    assert blocked is not None
    assert blocked.action is Action.BLOCK


async def test_a_block_reaches_what_looks_the_same(tmp_path: Path, opened: AsyncExitStack) -> None:
    """Other bytes, up to 31 bits away; not 32. An exact block reaches only its bytes."""
    lists = await started(tmp_path, opened)
    await lists.put(OwnEntry(A, Action.BLOCK, "spam", pdq=good(PDQ)))
    await lists.put(OwnEntry(B, Action.BLOCK))
    match = lists.match(C, pdq=good(NEAR))
    assert match == Match(Action.BLOCK, OWN_LIST, Kind.PDQ, PDQ.hex(), 31, "spam", A)
    assert str(match) == f"own: pdq {PDQ.hex()} at distance 31 (spam)"
    assert lists.match(C, pdq=good(OUT)) is None
    assert lists.match(C, pdq=good(FAR)) is None


async def test_nothing_that_looks_the_same_is_ever_allowed(
    tmp_path: Path, opened: AsyncExitStack, files: Files
) -> None:
    """An allow has no PDQ hash to spread by: what PDQ finds is a block, or is not listed."""
    lists = await started(tmp_path, opened, files.write("theirs", f"pdq {FAR.hex()}"))
    await lists.put(OwnEntry(A, Action.ALLOW))
    assert lists.match(B, pdq=good(PDQ)) is None
    match = lists.match(B, pdq=(*good(PDQ), *good(FAR)))
    assert match is not None
    assert match.action is Action.BLOCK


async def test_poor_hashes_never_match(tmp_path: Path, opened: AsyncExitStack) -> None:
    """On either side: a quality below 50 says that there is nothing to recognize."""
    lists = await started(tmp_path, opened)
    await lists.put(OwnEntry(A, Action.BLOCK, pdq=(Pdq(PDQ, 49), Pdq(FAR, 100))))
    assert lists.match(B, pdq=good(PDQ)) is None
    assert lists.match(B, pdq=(Pdq(FAR, 49),)) is None
    assert lists.match(B, pdq=(Pdq(FAR, 50),)) is not None


async def test_the_nearest_entry_is_named(
    tmp_path: Path, opened: AsyncExitStack, files: Files
) -> None:
    """Over all lists and all hashes of the picture; the distance may be set lower."""
    theirs = files.write("theirs", f"pdq {NEAR.hex()}")
    others = files.write("others", f"pdq {PDQ.hex()}")
    lists = await started(tmp_path, opened, theirs, others)
    match = lists.match(A, pdq=(*good(FAR), *good(PDQ)))
    assert match == Match(Action.BLOCK, "others", Kind.PDQ, PDQ.hex(), 0)
    strict = await started(tmp_path, opened, theirs, distance=30)
    assert strict.match(A, pdq=good(PDQ)) is None


async def test_an_entry_can_be_excluded_here(
    tmp_path: Path, opened: AsyncExitStack, files: Files
) -> None:
    """Exact or PDQ, from every shared list; a neighbor of it still counts."""
    lines = (MD5, f"sha256 {A}", f"pdq {PDQ.hex()}", f"pdq {NEAR.hex()}")
    lists = await started(tmp_path, opened, files.write("theirs", *lines))
    for hash_ in (MD5, A, PDQ.hex()):
        await lists.exclude(Exclusion(hash_, "a stock photo"))
    assert lists.match(A, md5=MD5) is None
    assert lists.match(B, pdq=good(PDQ)) == Match(Action.BLOCK, "theirs", Kind.PDQ, NEAR.hex(), 31)
    await lists.reload()
    assert lists.match_exact(A) is None
    assert len(await (await started(tmp_path, opened)).exclusions()) == 3
    await lists.include(A)
    assert lists.match_exact(A) is not None


async def test_an_own_block_cannot_be_excluded(tmp_path: Path, opened: AsyncExitStack) -> None:
    """It is taken back by removing it."""
    lists = await started(tmp_path, opened)
    await lists.put(OwnEntry(A, Action.BLOCK, pdq=good(PDQ)))
    await lists.exclude(Exclusion(A))
    await lists.exclude(Exclusion(PDQ.hex()))
    assert lists.match_exact(A) is not None
    assert lists.match(B, pdq=good(PDQ)) is not None


async def test_a_list_that_breaks_stays_as_it_was(
    tmp_path: Path, opened: AsyncExitStack, files: Files
) -> None:
    """And says so, while the others are read anew; repaired, it is read again."""
    theirs, others = files.write("theirs", MD5), files.write("others", SHA1)
    lists = await started(tmp_path, opened, theirs, others)
    version = lists.version
    files.write("theirs", "<html>502 Bad Gateway</html>")
    files.write("others", SHA1, f"sha256 {A}")
    first, second = await lists.reload()
    assert "no hash of a picture could be read" in first.error
    assert (first.counts, second.counts) == ({Kind.MD5: 1}, {Kind.SHA1: 1, Kind.SHA256: 1})
    assert second.error == ""
    assert lists.match(B, md5=MD5) is not None
    assert lists.match_exact(A) is not None
    assert lists.version != version
    theirs.file.unlink()
    assert "No such file" in (await lists.reload())[0].error
    assert lists.match(B, md5=MD5) is not None
    files.write("theirs", "0c" * 16)
    assert [report.error for report in await lists.reload()] == ["", ""]
    assert lists.match(B, md5=MD5) is None
    assert lists.match(B, md5="0c" * 16) is not None


async def test_a_start_without_a_list_fails(
    tmp_path: Path, opened: AsyncExitStack, files: Files
) -> None:
    """Nobody should believe to be protected by a list that was never read; all are named."""
    missing = [ListSource(name, tmp_path / name) for name in ("one", "two")]
    with pytest.raises(ConfigError, match=r"(?s)List one: .*List two: "):
        await started(tmp_path, opened, files.write("theirs", MD5), *missing)


@pytest.mark.parametrize("names", [["a", "a"], [OWN_LIST], [TEST_PICTURE_LIST]])
def test_names_are_unique(names: list[str], tmp_path: Path) -> None:
    """A reason that names a list must not be ambiguous."""
    with pytest.raises(ConfigError, match="Two lists are named"):
        HashLists([ListSource(name, tmp_path) for name in names])


async def test_what_could_not_be_written_does_not_hold(
    tmp_path: Path, opened: AsyncExitStack
) -> None:
    """The admin is told, and sees no effect that would be gone after a restart."""
    database = Database(tmp_path)
    await database.open()
    lists = HashLists(database=database)
    await lists.load()
    await database.aclose()
    with pytest.raises(StoreUnavailable):
        await lists.put(OwnEntry(A, Action.ALLOW))
    assert lists.match_exact(A) is None


async def test_changes_at_the_same_time_all_hold(
    tmp_path: Path, opened: AsyncExitStack, files: Files
) -> None:
    """A reload in the middle of many decisions loses none of them."""
    lists = await started(tmp_path, opened, files.write("theirs", MD5))
    digests = [digest(bytes([number])) for number in range(20)]

    def changes() -> Iterator[asyncio.Future[object]]:
        for sha256 in digests:
            yield asyncio.get_running_loop().create_task(lists.put(OwnEntry(sha256, Action.ALLOW)))
            yield asyncio.get_running_loop().create_task(lists.reload())

    await asyncio.gather(*changes())
    assert all(lists.match_exact(sha256) for sha256 in digests)
    assert lists.match(A, md5=MD5) is not None


async def test_without_a_database_nothing_can_be_decided() -> None:
    """Such lists are those of a command that only looks."""
    with pytest.raises(RuntimeError, match="without a database"):
        await HashLists().put(OwnEntry(A, Action.ALLOW))


async def test_an_empty_file_has_the_digest_that_every_list_may_hold(
    tmp_path: Path, opened: AsyncExitStack, files: Files
) -> None:
    """No special case: it matches where it is listed, and only there."""
    empty = digest(b"")
    lists = await started(tmp_path, opened, files.write("theirs", f"sha256 {empty}"))
    assert lists.match_exact(empty) is not None
    assert HashLists().match_exact(empty) is None


async def test_generation_never_comes_back(tmp_path: Path, opened: AsyncExitStack) -> None:
    """As the version does when a change is taken back: verdicts in memory are known by it."""
    lists = await started(tmp_path, opened)
    seen = [(lists.version, lists.generation)]
    for _ in range(2):
        await lists.put(OwnEntry(A, Action.BLOCK))
        seen.append((lists.version, lists.generation))
        await lists.remove(A, Action.BLOCK)
        seen.append((lists.version, lists.generation))
    assert len({version for version, _ in seen}) == 2
    assert len({generation for _, generation in seen}) == 5
