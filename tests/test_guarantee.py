"""Bytes that no scan has cleared cannot reach pict-rs: by type, at run time, by construction."""

import ast
import asyncio
import hashlib
import os
import textwrap
from pathlib import Path

import pytest
from aiohttp import ClientSession, web
from multidict import CIMultiDict
from mypy import api as mypy

import safety_proxy
from safety_proxy.deadline import Deadline
from safety_proxy.media.spool import Media
from safety_proxy.proxy import routes
from safety_proxy.proxy.forward import Pictrs
from safety_proxy.proxy.routes import Kind, Route
from safety_proxy.scanner import _SEAL, Cleared
from safety_proxy.settings import UpstreamSettings
from safety_proxy.tasks import spawn
from safety_proxy.verdict import Action, Source, Verdict
from tests.fakes import FakeServer, Running, until, upload
from tests.pictures import RED, plain

PACKAGE = Path(safety_proxy.__file__).parent
SNIPPET_HEAD = """
from multidict import CIMultiDict
from safety_proxy.deadline import Deadline
from safety_proxy.media.spool import Media
from safety_proxy.proxy.forward import Pictrs
from safety_proxy.scanner import Cleared
from safety_proxy.verdict import Verdict

async def bypass(
    pictrs: Pictrs, media: Media, verdict: Verdict, cleared: Cleared, deadline: Deadline
) -> None:
"""


def media_of(folder: Path, body: bytes) -> Media:
    """The media of a file with this body."""
    file = folder / hashlib.sha256(body).hexdigest()
    file.write_bytes(body)
    return Media.from_path(file)


def verdict_on(sha256: str, action: Action = Action.ALLOW) -> Verdict:
    """A verdict as the scanner makes them."""
    return Verdict(action, (), sha256, "model", "policy", Source.POLICY)


def check(folder: Path, *lines: str) -> list[str]:
    """What mypy, with the project's settings, says of a function with this body."""
    snippet = folder / "snippet.py"
    snippet.write_text(SNIPPET_HEAD + textwrap.indent("\n".join(lines), "    ") + "\n")
    config = str(PACKAGE.parent / "pyproject.toml")
    report, trouble, _ = mypy.run(
        ["--config-file", config, "--cache-dir", str(folder / "cache"), str(snippet)]
    )
    assert not trouble
    return [line for line in report.splitlines() if "error:" in line]


def test_type_checker_lets_nothing_but_cleared_be_stored(tmp_path: Path) -> None:
    """Each way round the scanner is an error of the type checker, and the right way is none."""
    errors = check(
        tmp_path,
        "await pictrs.store([cleared], CIMultiDict(), deadline=deadline)",
        "await pictrs.store([media], CIMultiDict(), deadline=deadline)",
        "await pictrs.store([verdict], CIMultiDict(), deadline=deadline)",
        "Cleared(media, verdict)",
        "Cleared(media, verdict, seal=object())",
        "Cleared(media, verdict, seal=None)",
        "cleared.media = media",
    )
    found = [(int(line.split(":")[1]) - SNIPPET_HEAD.count("\n"), line) for line in errors]
    assert [number for number, _ in found] == [2, 3, 4, 5, 6, 7]
    for (_, line), code in zip(
        found,
        ["list-item", "list-item", "call-arg", "arg-type", "arg-type", "misc"],
        strict=True,
    ):
        assert line.endswith(f"[{code}]")


@pytest.mark.parametrize("seal", [None, object(), "seal", type(_SEAL)()])
def test_cleared_is_made_by_the_scanner_alone(tmp_path: Path, seal: object) -> None:
    """Without the one seal there is none, not even with another of its type."""
    with media_of(tmp_path, b"x") as media, pytest.raises(TypeError, match="only Scanner"):
        Cleared(media, verdict_on(media.sha256), seal=seal)  # type: ignore[arg-type]  # the point


def test_verdict_of_other_bytes_clears_nothing(tmp_path: Path) -> None:
    """A verdict holds for the bytes of its digest."""
    with media_of(tmp_path, b"x") as media, pytest.raises(ValueError, match="does not let"):
        Cleared(media, verdict_on("0" * 64), seal=_SEAL)


def test_block_clears_nothing(tmp_path: Path) -> None:
    """A verdict against the bytes does not let them in; the two others do."""
    with media_of(tmp_path, b"x") as media:
        with pytest.raises(ValueError, match="does not let"):
            Cleared(media, verdict_on(media.sha256, Action.BLOCK), seal=_SEAL)
        for action in (Action.ALLOW, Action.FLAG):
            assert Cleared(media, verdict_on(media.sha256, action), seal=_SEAL).media is media


async def test_media_that_was_not_cleared_is_not_stored(tmp_path: Path, pictrs: FakeServer) -> None:
    """Where no type checker looks, the call itself refuses before it connects."""
    media = await asyncio.to_thread(media_of, tmp_path, b"x")
    upstream = Pictrs(UpstreamSettings.model_validate({"url": pictrs.url}))
    with media, pytest.raises(TypeError, match="only cleared media"):
        await upstream.store([media], CIMultiDict(), deadline=Deadline.after(60))  # type: ignore[list-item]  # the point
    await upstream.aclose()
    assert pictrs.received == []


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.PASS])
async def test_storing_routes_are_never_streamed(kind: Kind, pictrs: FakeServer) -> None:
    """`stream` passes bodies on unseen, so it takes no route that stores one."""
    upstream = Pictrs(UpstreamSettings.model_validate({"url": pictrs.url}))
    request = web.BaseRequest  # never looked at
    with pytest.raises(ValueError, match="must not be streamed"):
        await upstream.stream(request, Route(kind, "POST", "/image", ""))  # type: ignore[arg-type]
    await upstream.aclose()
    assert pictrs.received == []


@pytest.mark.parametrize("size", [100, 3_000_000])
async def test_bytes_changed_after_the_verdict_are_not_stored(
    size: int, tmp_path: Path, pictrs: FakeServer
) -> None:
    """The body stays one boundary short, so that pict-rs has nothing complete to store."""
    media = await asyncio.to_thread(media_of, tmp_path, bytes(size))
    cleared = Cleared(media, verdict_on(media.sha256), seal=_SEAL)
    await asyncio.to_thread((tmp_path / media.sha256).write_bytes, bytes(size - 1) + b"!")
    upstream = Pictrs(UpstreamSettings.model_validate({"url": pictrs.url}))
    with media, pytest.raises(safety_proxy.errors.UpstreamUnreachable):
        await upstream.store([cleared], CIMultiDict(), deadline=Deadline.after(60))
    await upstream.aclose()
    await until(lambda: bool(pictrs.received))
    (received,) = pictrs.received
    assert not received.complete
    with pytest.raises(AssertionError):
        received.parts  # noqa: B018 -- reading it is what fails


async def test_bytes_changed_on_disk_during_the_scan_get_an_error_and_are_not_stored(
    client: ClientSession, proxy: Running, pictrs: FakeServer
) -> None:
    """The whole way through the proxy: the client sees JSON, pict-rs nothing complete."""
    clear = proxy.scanner.clear

    async def clear_then_change(media: Media, deadline: Deadline) -> Cleared | Verdict:
        outcome = await clear(media, deadline)
        await asyncio.to_thread(os.pwrite, media._file.fileno(), b"!", 0)
        return outcome

    proxy.scanner.clear = clear_then_change  # type: ignore[method-assign]  # stands for a bad disk
    answer = await upload(client, proxy.url, plain(RED))
    assert answer.status == 502
    assert answer.json.keys() == {"msg", "code"}
    assert pictrs.stored == []


async def test_client_that_leaves_before_the_verdict_stores_nothing(
    client: ClientSession, proxy: Running, pictrs: FakeServer
) -> None:
    """A verdict that nobody waits for forwards nothing."""
    proxy.embedder.go.clear()
    sending = spawn(upload(client, proxy.url, plain(RED)), name="upload")
    await until(proxy.embedder.started.is_set)
    sending.cancel()
    await asyncio.wait([sending])
    proxy.embedder.go.set()
    await until(lambda: proxy.metrics.failures["client_gone"] == 1)
    await until(lambda: proxy.scanner.in_flight == 0)
    assert pictrs.received == []


def _modules() -> dict[str, ast.Module]:
    return {
        file.relative_to(PACKAGE).as_posix(): ast.parse(file.read_text())
        for file in PACKAGE.rglob("*.py")
        if "demo" not in file.parts[len(PACKAGE.parts)]  # its stand-in is the other side
    }


def test_only_the_scanner_knows_the_seal() -> None:
    """No other module names it, and within the scanner one call uses it."""
    named = {
        name
        for name, tree in _modules().items()
        for node in ast.walk(tree)
        if (isinstance(node, ast.Name) and node.id in {"_SEAL", "_Seal"})
        or (isinstance(node, ast.Attribute) and node.attr in {"_SEAL", "_Seal"})
        or (isinstance(node, ast.alias) and node.name in {"_SEAL", "_Seal"})
    }
    assert named == {"scanner.py"}
    calls = [
        node
        for tree in _modules().values()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "Cleared"
    ]
    assert len(calls) == 1


def test_one_place_sends_an_upload() -> None:
    """Of all calls that send a request, one is a `post`, and its body is made of `Cleared` alone.

    The others are a `request` inside `Pictrs.stream`, which refuses storing routes, one that
    deletes, and `get`s. Only `proxy` is looked at: see the next test.
    """
    sends = {"post", "put", "patch", "request", "ws_connect", "_request"}
    found = []
    for name, tree in _modules().items():
        for function in ast.walk(tree) if name.startswith("proxy/") else ():
            if not isinstance(function, ast.AsyncFunctionDef | ast.FunctionDef):
                continue
            found += [
                (name, function.name, node.func.attr)
                for node in ast.walk(function)
                if isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in sends
            ]
    assert sorted(found) == [
        ("proxy/forward.py", "delete", "request"),
        ("proxy/forward.py", "store", "post"),
        ("proxy/forward.py", "stream", "request"),
    ]


def test_only_two_modules_open_connections() -> None:
    """No other module of the server can reach pict-rs: sockets and HTTP clients are made in two.

    The commands, another process, ask the server's own admin listener.
    """
    clients = {"ClientSession", "open_connection", "create_connection", "urlopen", "HTTPConnection"}
    found = {
        name
        for name, tree in _modules().items()
        for node in ast.walk(tree)
        if (isinstance(node, ast.Attribute) and node.attr in clients)
        or (isinstance(node, ast.Name) and node.id in clients)
    }
    assert found == {"commands/admin_client.py", "proxy/fetch.py", "proxy/forward.py"}


def test_every_row_that_stores_is_known_as_such() -> None:
    """The routes where bytes enter pict-rs (its surface, section 1), and no others."""
    storing = {(row.methods, row.path) for row in routes._TABLE if row.kind is not Kind.PASS}
    assert storing == {
        ("POST", "image"),
        ("POST", "image/backgrounded"),
        ("POST", "internal/import"),
        ("GET", "image/download"),
    }
    fetching = {(row.methods, row.path) for row in routes._TABLE if row.by_address is Kind.PROXIED}
    assert fetching == {
        ("GET", "image/original"),
        ("GET", "image/process.*"),
        ("GET", "image/blurhash"),
    }
