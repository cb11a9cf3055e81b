"""Tests of safety_proxy/commands/lists.py: the same decisions with a server and without one."""

import asyncio
import hashlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from PIL import Image
from typer.testing import CliRunner, Result

from safety_proxy.commands.lists import register
from safety_proxy.errors import ConfigError
from safety_proxy.settings import load_settings
from safety_proxy.store.database import Database
from safety_proxy.store.hashlist import HashLists
from safety_proxy.store.listed import Exclusion, OwnEntry
from safety_proxy.store.shared import ListSource
from safety_proxy.verdict import Action
from tests.listing import Listing, evidence_of, serving_beside
from tests.pictures import encoded

MD5 = "0a" * 16
REFERENCE = Path(__file__).parents[1] / "media" / "pdq_reference" / "square-256x256.jpg"


def run(*arguments: str) -> Result:
    """A command, as the shell calls it; what main would say of a ConfigError is raised."""
    cli = typer.Typer()
    register(cli)
    result = CliRunner().invoke(cli, list(arguments))
    if isinstance(result.exception, ConfigError):
        raise result.exception
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Settings of a server that does not run."""
    file = tmp_path / "settings.toml"
    file.write_text(
        f'[server]\nadmin_port = {free_port()}\n[store]\nfolder = "{tmp_path / "store"}"\n'
    )
    return file


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    file = tmp_path / "picture.png"
    with Image.open(REFERENCE) as image:
        image.save(file)
    return file


@pytest.fixture
def source(tmp_path: Path) -> ListSource:
    file = tmp_path / "theirs.txt"
    file.write_text(f"{MD5}\nbad\n")
    return ListSource("theirs", file)


@pytest.fixture
def server(tmp_path: Path, source: ListSource) -> Iterator[tuple[Listing, str]]:
    with serving_beside(tmp_path, source) as served:
        yield served


def sha256_of(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def written(tmp_path: Path) -> tuple[list[OwnEntry], list[Exclusion]]:
    """What a server would read at its start."""

    async def read() -> tuple[list[OwnEntry], list[Exclusion]]:
        database = Database(tmp_path / "store")
        await database.open()
        lists = HashLists(database=database)
        await lists.load()
        found = list(lists.entries.values()), await lists.exclusions()
        await database.aclose()
        return found

    return asyncio.run(read())


def action_of(lists: HashLists, body: bytes) -> Action | None:
    evidence = evidence_of(body)
    match = lists.match(evidence.sha256, pdq=evidence.pdq)
    return match.action if match else None


def test_the_running_server_takes_a_decision_at_once(
    server: tuple[Listing, str], picture: Path
) -> None:
    """By file or by digest; and takes it back."""
    listing, url = server
    body = picture.read_bytes()
    for named in (str(picture), sha256_of(picture).upper()):
        result = run("allow", named, "--note", "logo", "--who", "anna", "--admin", url)
        assert (result.exit_code, result.output) == (0, f"Allowed: {sha256_of(picture)}\n")
        assert action_of(listing.lists, body) is Action.ALLOW
        assert listing.lists.entries[sha256_of(picture)].note == "logo"
        result = run("allow", named, "--remove", "--admin", url)
        assert "No allow any more" in result.output
        assert action_of(listing.lists, body) is None
    assert run("allow", str(picture), "--remove", "--admin", url).exit_code == 1


def test_a_block_spreads_unless_it_is_exact(server: tuple[Listing, str], picture: Path) -> None:
    """The server looks at the file, and says if it cannot tell copies."""
    listing, url = server
    with Image.open(picture) as image:
        copy = encoded(image.convert("RGB"), "JPEG", quality=40)
    result = run("block", str(picture), "--exact", "--admin", url)
    assert result.output == f"Blocked: {sha256_of(picture)}\n"
    assert action_of(listing.lists, copy) is None
    assert run("block", str(picture), "--admin", url).exit_code == 0
    assert action_of(listing.lists, copy) is Action.BLOCK
    result = run("block", "a" * 64, "--admin", url)
    assert "Only these exact bytes" in result.output


def test_without_a_server_the_database_is_written(
    tmp_path: Path, config: Path, picture: Path
) -> None:
    """Same entries, PDQ hash and all, and it is said when they take effect, and where they are."""
    result = run("block", str(picture), "--note", "spam", "--config", str(config))
    assert result.exit_code == 0
    folder = load_settings(config).store.folder
    assert f"from the next start on (no server runs; written to {folder})" in result.output
    run("allow", "a" * 64, "--who", "anna", "--config", str(config))
    run("lists", "exclude", MD5, "--note", "stock", "--config", str(config))
    (block, allow), (excluded,) = written(tmp_path)
    assert (block.sha256, block.action, block.note) == (
        sha256_of(picture),
        Action.BLOCK,
        "spam",
    )
    assert block.pdq == evidence_of(picture.read_bytes()).pdq
    assert (allow.sha256, allow.action, allow.who) == ("a" * 64, Action.ALLOW, "anna")
    assert (excluded.hash, excluded.note) == (MD5, "stock")
    run("block", sha256_of(picture), "--remove", "--config", str(config))
    run("lists", "exclude", MD5, "--remove", "--config", str(config))
    assert written(tmp_path) == ([allow], [])
    result = run("block", sha256_of(picture), "--remove", "--config", str(config))
    assert result.exit_code == 1


def test_without_a_server_an_unreadable_file_is_blocked_exactly(
    tmp_path: Path, config: Path
) -> None:
    """And the user is told."""
    file = tmp_path / "note.txt"
    file.write_text("no picture")
    result = run("block", str(file), "--config", str(config))
    assert "no picture could be read" in result.output
    assert written(tmp_path)[0][0].pdq == ()


def test_a_server_that_was_named_is_not_gone_round(config: Path, tmp_path: Path) -> None:
    """Its database may be another's than that of the settings."""
    url = f"http://127.0.0.1:{free_port()}"
    result = run("allow", "a" * 64, "--admin", url, "--config", str(config))
    assert result.exit_code == 3
    assert not (tmp_path / "store").exists()


def test_lists_are_shown(server: tuple[Listing, str], picture: Path) -> None:
    """With names, counts and problems, within 80 columns; 1 because of the bad line."""
    _, url = server
    run("block", str(picture), "--note", "[b]spam[/b]", "--who", "anna", "--admin", url)
    run("lists", "exclude", MD5, "--note", "stock", "--admin", url)
    result = run("lists", "--admin", url)
    assert result.exit_code == 1
    for text in ("theirs", "1 md5", "1 unreadable", "line 2: 'bad'", "[b]spam[/b]", MD5, "stock"):
        assert text in result.output
    document = json.loads(run("lists", "--json", "--admin", url).output)
    assert document["lists"][0]["counts"] == {"md5": 1}


def test_lists_are_reloaded(server: tuple[Listing, str], source: ListSource) -> None:
    """1 if one stays as it was."""
    listing, url = server
    source.file.write_text("0b" * 16)
    assert run("lists", "reload", "--admin", url).exit_code == 0
    assert listing.lists.match("a" * 64, md5="0b" * 16) is not None
    source.file.unlink()
    result = run("lists", "reload", "--admin", url)
    assert result.exit_code == 1
    assert "theirs stays as it was" in result.output


@pytest.mark.parametrize("command", [("lists",), ("lists", "reload")])
def test_what_needs_a_server_says_so(config: Path, command: tuple[str, ...]) -> None:
    """With code 3, and how to start it."""
    result = run(*command, "--config", str(config))
    assert result.exit_code == 3
    assert "safety-proxy serve" in result.output


def test_what_is_neither_a_file_nor_a_digest_is_refused(config: Path) -> None:
    """Before anything is asked or written."""
    with pytest.raises(ConfigError, match="neither a file nor a sha256"):
        run("allow", "no-such-file.png", "--config", str(config))
    with pytest.raises(ConfigError, match="no hash of a list"):
        run("lists", "exclude", "abc", "--config", str(config))
