"""Tests of safety_proxy/commands/policy.py: what the admin is shown, and what the shell is told."""

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from safety_proxy import __version__
from safety_proxy.commands import ExitCode
from safety_proxy.commands.policy import commands
from safety_proxy.errors import ConfigError
from tests.admin.test_policy import STRICTER, running
from tests.fakes import POLICY_TEXT

SHA256 = "ab" * 32
SAME: dict[str, Any] = {
    "model": "ViT-B-32/x/fp32",
    "old": {"name": "colors", "version": "000000000001", "unreadable": "block"},
    "new": {"name": "new [colors]", "version": "000000000002", "unreadable": "block"},
    "pictures": 1200,
    "changes": 0,
    "counts": [{"old": "allow", "new": "allow", "pictures": 1200}],
    "changed": [],
    "seconds": 0.1,
}
CHANGED: dict[str, Any] = SAME | {
    "changes": 37,
    "counts": [
        {"old": "allow", "new": "allow", "pictures": 1163},
        {"old": "flag", "new": "block", "pictures": 37},
    ],
    "changed": [
        {
            "sha256": SHA256,
            "old": {"action": "flag", "reasons": ["green in frame 0: green 0.950>=0.900"]},
            "new": {"action": "block", "reasons": ["[red] rule: red 0.7>=0.6"]},
        }
    ],
}
KEPT = {"file": "/etc/policy.toml", "problem": None}


@dataclass
class Server:
    """An admin listener that answers always the same, and keeps what it was asked."""

    url: str = ""
    status: int = 200
    answer: bytes = b""
    received: list[tuple[str, str | None, bytes]] = field(default_factory=list)


@contextmanager
def listening(answer: object, status: int = 200) -> Iterator[Server]:
    body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    server = Server(status=status, answer=body)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            sent = self.rfile.read(int(self.headers["Content-Length"]))
            server.received.append((self.path, self.headers["Content-Type"], sent))
            self.send_response(server.status)
            self.send_header("X-Safety-Proxy", __version__)
            self.send_header("Content-Length", str(len(server.answer)))
            self.end_headers()
            self.wfile.write(server.answer)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- its name there
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        server.url = f"http://127.0.0.1:{http.server_port}"
        try:
            yield server
        finally:
            http.shutdown()
            thread.join()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A policy file."""
    file = tmp_path / "new.toml"
    file.write_text(POLICY_TEXT)
    return file


def run(*arguments: object) -> Result:
    return CliRunner().invoke(commands, [str(a) for a in arguments], env={"COLUMNS": "200"})


def words(result: Result) -> str:
    """All that was printed, whatever table it stands in."""
    return " ".join(result.output.split())


def test_check_says_what_a_policy_holds(file: Path) -> None:
    """Its name and version, concepts with their thresholds, rules with what they want."""
    file.write_text(
        POLICY_TEXT.replace('all = ["green"]', 'any = [{ concept = "green", weight = 1 }, "red"]')
        .replace('name = "colors"', 'name = "colors [of all]"\nnote = "a [b]note"')
        .replace('prompts = ["blue"]', 'prompts = ["blue", { text = "navy", threshold = 0.25 }]')
    )
    result = run("check", file)
    assert result.exit_code == 0
    for part in ("colors [of all], version ", "score cosine", "a [b]note", "red-and-blue", "block"):
        assert part in result.output
    rows = [" ".join(line.replace("│", " ").split()) for line in result.output.splitlines()]
    assert "blue 2 0.25 0.6" in rows
    assert "red-and-blue block red, blue" in rows
    assert "green flag green, red" in rows


def test_check_shows_the_weight_that_a_rule_wants(file: Path) -> None:
    """Where it is more than one."""
    file.write_text(
        POLICY_TEXT.replace('"red", "blue"', '{ concept = "red", weight = 3 }').replace(
            'prompts = ["red"]', 'prompts = ["red"]\ncritical = 0.9'
        )
    )
    assert "red (weight 3)" in run("check", file).output


@pytest.mark.parametrize("command", ["check", "diff", "apply"])
@pytest.mark.parametrize("text", ["no TOML", None])
def test_a_wrong_file_is_told_without_a_server(file: Path, command: str, text: str | None) -> None:
    """With its path."""
    if text is None:
        file.unlink()
    else:
        file.write_text(text)
    with listening(CHANGED) as server:
        admin = [] if command == "check" else ["--admin", server.url]
        result = run(command, file, *admin)
    assert isinstance(result.exception, ConfigError)
    assert str(file) in str(result.exception)
    assert server.received == []


def test_a_diff_shows_what_changes_and_tells_the_shell(file: Path) -> None:
    """Counts, and pictures with the reasons of both."""
    with listening(CHANGED) as server:
        result = run("diff", file, "--admin", server.url, "--limit", 7)
    assert result.exit_code == ExitCode.FOUND
    assert server.received == [
        ("/api/v1/policy/diff?limit=7", "application/octet-stream", POLICY_TEXT.encode())
    ]
    shown = words(result)
    assert "colors (000000000001) -> new [colors] (000000000002), model ViT-B-32/x/fp32" in shown
    assert "37 of 1200 known pictures would be judged differently" in shown
    for part in (SHA256, "green in frame 0: green 0.950>=0.900", "[red] rule: red 0.7>=0.6"):
        assert part in shown
    assert "Unreadable" not in shown


def test_a_diff_without_changes_is_nothing_found(file: Path) -> None:
    """Which the shell is told as well."""
    with listening(SAME) as server:
        result = run("diff", file, "--admin", server.url)
    assert result.exit_code == 0
    assert "0 of 1200 known pictures" in words(result)


def test_what_becomes_of_unreadable_files_is_shown_where_it_changes(file: Path) -> None:
    """They have no embeddings that could be judged anew."""
    with listening(SAME | {"new": SAME["new"] | {"unreadable": "allow"}}) as server:
        result = run("diff", file, "--admin", server.url)
    assert "Unreadable files: block -> allow" in words(result)


@pytest.mark.parametrize("command", ["diff", "apply"])
def test_json_is_the_answer_as_it_is(file: Path, command: str) -> None:
    """And nothing beside it."""
    with listening(CHANGED | KEPT) as server:
        result = run(command, file, "--admin", server.url, "--json")
    assert json.loads(result.stdout) == CHANGED | KEPT
    assert result.exit_code == (1 if command == "diff" else 0)


def test_apply_says_that_it_is_in_force_and_where_it_is_kept(file: Path) -> None:
    """Changes are what was wanted, so the shell is told success."""
    with listening(CHANGED | KEPT) as server:
        result = run("apply", file, "--admin", server.url)
    assert result.exit_code == 0
    assert server.received[0][0] == "/api/v1/policy/apply?limit=20"
    shown = words(result)
    assert "37 of 1200 known pictures are now judged differently" in shown
    assert "In force, and kept in /etc/policy.toml." in shown


def test_apply_that_could_not_be_kept_is_an_error_of_the_settings(file: Path) -> None:
    """With the server's words, after what it changed."""
    with listening(SAME | {"file": "", "problem": "Until the next start: do this."}) as server:
        result = run("apply", file, "--admin", server.url)
    assert isinstance(result.exception, ConfigError)
    assert str(result.exception) == "Until the next start: do this."
    assert "0 of 1200" in words(result)


def test_apply_without_evidence_says_so(file: Path) -> None:
    """It is in force all the same."""
    answer = {key: SAME[key] for key in ("model", "old", "new")} | KEPT
    with listening(answer) as server:
        result = run("apply", file, "--admin", server.url)
    assert result.exit_code == 0
    assert "cannot be told" in words(result)


@pytest.mark.parametrize("command", ["diff", "apply"])
def test_what_the_server_refuses_is_an_error_of_the_policy(file: Path, command: str) -> None:
    """In its words."""
    with listening({"msg": "not for this model", "code": "config"}, 400) as server:
        result = run(command, file, "--admin", server.url)
    assert isinstance(result.exception, ConfigError)
    assert str(result.exception) == "not for this model"


def test_a_server_that_cannot_is_unavailable(file: Path) -> None:
    """What is at that address and cannot help is told apart from a wrong file."""
    answer = {"msg": "the model is still loading", "code": "internal"}
    with listening(answer, 503) as server:
        result = run("diff", file, "--admin", server.url)
    assert result.exit_code == ExitCode.UNAVAILABLE
    assert "still loading" in result.output
    assert server.url in result.output


def test_where_no_server_runs_that_is_told(file: Path) -> None:
    """With the address, and what to do."""
    with listening(SAME) as server:
        pass
    result = run("diff", file, "--admin", server.url)
    assert result.exit_code == ExitCode.UNAVAILABLE
    assert server.url in result.output
    assert "safety-proxy serve" in result.output


@pytest.mark.parametrize("admin", ["127.0.0.1:8581", "https://127.0.0.1:1", "http://"])
def test_an_address_that_is_none_is_told(file: Path, admin: str) -> None:
    """With one that is."""
    result = run("diff", file, "--admin", admin)
    assert isinstance(result.exception, ConfigError)
    assert "http://127.0.0.1:8581" in str(result.exception)


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "localhost"])
def test_the_address_comes_from_the_settings(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    """One that stands for all is reached on this machine; no proxy of the environment is asked."""
    config = tmp_path / "settings.toml"
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with listening(SAME) as server:
        port = server.url.rpartition(":")[2]
        config.write_text(f'[server]\nadmin_host = "{host}"\nadmin_port = {port}\n')
        assert run("diff", file, "--config", config).exit_code == 0
        monkeypatch.setenv("SAFETY_PROXY_CONFIG", str(config))
        assert run("diff", file).exit_code == 0
    assert len(server.received) == 2


@pytest.fixture
def stricter(file: Path) -> Path:
    """One that blocks what the server's flags."""
    file.write_text(STRICTER)
    return file


async def test_command_and_server_understand_each_other(stricter: Path, tmp_path: Path) -> None:
    """The real routes: a policy is refused, compared, put in force, and then nothing changes."""
    kept = tmp_path / "kept.toml"
    async with running(tmp_path, file=kept) as server:

        async def answered(command: str) -> Result:
            return await asyncio.to_thread(run, command, stricter, "--admin", server.url)

        found = await answered("diff")
        assert (found.exit_code, server.switched) == (ExitCode.FOUND, [])
        assert "1 of 3 known pictures would be" in words(found)
        applied = await answered("apply")
        assert applied.exit_code == 0
        assert "1 of 3 known pictures are now" in words(applied)
        assert kept.read_text() == STRICTER
        assert (await answered("diff")).exit_code == 0
        server.loaded = False
        assert (await answered("diff")).exit_code == ExitCode.UNAVAILABLE
    assert len(server.switched) == 1
