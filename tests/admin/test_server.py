"""Tests of safety_proxy/admin/server.py: health, readiness, statistics, metrics."""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, web

from safety_proxy import __version__
from safety_proxy.admin.server import AdminServer
from safety_proxy.inference.batcher import Batcher
from safety_proxy.store.hashlist import test_picture as harmless_picture
from safety_proxy.tasks import spawn
from tests.fakes import FakeServer, Received, Running, ask, until, upload
from tests.pictures import BLUE, GREEN, PURPLE, RED, animation, plain

README = Path(__file__).resolve().parents[2] / "README.md"


@pytest.fixture
async def admin(proxy: Running) -> AsyncIterator[str]:
    """The address of the admin listener beside `proxy`."""
    proxy.scanner.proven = True
    server = AdminServer(
        proxy.scanner,
        proxy.cache,
        proxy.metrics,
        unscanned=proxy.unscanned,
        decoders=proxy.decoders,
        queue_limit=64,
        upstream_alive=proxy.pictrs.is_alive,
    )
    runner = web.AppRunner(server.app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def stats_of(client: ClientSession, admin: str) -> Any:
    answer = await ask(client, "GET", admin, "/stats")
    assert answer.status == 200
    return answer.json


async def ready(client: ClientSession, admin: str) -> tuple[int, Any]:
    answer = await ask(client, "GET", admin, "/readyz")
    return answer.status, answer.json


async def test_healthz_says_that_the_process_works(
    client: ClientSession, proxy: Running, admin: str, pictrs: FakeServer
) -> None:
    """Also while nothing else does: a restart would not help then."""
    proxy.scanner.model = None
    await pictrs.stop()
    answer = await ask(client, "GET", admin, "/healthz")
    assert (answer.status, answer.json) == (200, {"status": "alive"})


async def test_ready_when_the_model_is_there_and_pictrs_answers(
    client: ClientSession, admin: str
) -> None:
    """An upload would be judged and stored."""
    assert await ready(client, admin) == (200, {"model": True, "decoders": True, "pictrs": True})


async def test_not_ready_before_the_model_has_loaded(
    client: ClientSession, proxy: Running, admin: str
) -> None:
    """The answer says what is missing."""
    model, proxy.scanner.model = proxy.scanner.model, None
    assert await ready(client, admin) == (503, {"model": False, "decoders": True, "pictrs": True})
    proxy.scanner.model = model
    assert await ready(client, admin) == (200, {"model": True, "decoders": True, "pictrs": True})


async def test_not_ready_while_the_model_fails(
    client: ClientSession, proxy: Running, admin: str
) -> None:
    """And ready again when it works again."""
    proxy.embedder.error = RuntimeError("on purpose")
    assert (await upload(client, proxy.url, plain(RED))).status == 503
    assert await ready(client, admin) == (503, {"model": False, "decoders": True, "pictrs": True})
    proxy.embedder.error = None
    assert (await upload(client, proxy.url, plain(RED))).status == 201
    assert await ready(client, admin) == (200, {"model": True, "decoders": True, "pictrs": True})


async def test_not_ready_while_pictrs_is_ill_or_gone(
    client: ClientSession, admin: str, pictrs: FakeServer
) -> None:
    """Asked by its own health check."""

    async def ill(request: web.BaseRequest, received: Received) -> web.StreamResponse:
        return web.Response(status=500)

    pictrs.answer = ill
    assert await ready(client, admin) == (503, {"model": True, "decoders": True, "pictrs": False})
    assert [r.target for r in pictrs.received] == ["/healthz"]
    await pictrs.stop()
    assert await ready(client, admin) == (503, {"model": True, "decoders": True, "pictrs": False})


async def test_not_ready_while_the_model_is_unproven_or_stuck(
    client: ClientSession, proxy: Running, admin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that loaded is not yet one that works."""
    proxy.scanner.proven = False
    assert await ready(client, admin) == (503, {"model": False, "decoders": True, "pictrs": True})
    proxy.scanner.proven = True
    assert await ready(client, admin) == (200, {"model": True, "decoders": True, "pictrs": True})
    monkeypatch.setattr(Batcher, "stuck", property(lambda self: True))
    assert await ready(client, admin) == (503, {"model": False, "decoders": True, "pictrs": True})


async def test_stats_of_a_proxy_that_has_done_nothing(
    client: ClientSession, proxy: Running, admin: str
) -> None:
    """All keys are there from the start."""
    model = proxy.scanner.model
    assert model is not None
    stats = await stats_of(client, admin)
    assert stats.pop("uptime_seconds") >= 0
    assert stats == {
        "version": __version__,
        "model": "fake/fp32",
        "policy": {"name": "colors", "version": model.judge.version},
        "cache": {
            "hits": 0,
            "misses": 0,
            "coalesced": 0,
            "evictions": 0,
            "hit_rate": 0.0,
            "entries": 0,
            "capacity": 200_000,
        },
        "verdicts": {"by_action": {}, "by_source": {}},
        "scans": {"by_action": {}},
        "failures": {},
        "blocked_by_client": {},
        "unscanned": 0,
        "queue": {"scans_in_flight": 0, "limit": 64, "frames_waiting": 0},
        "decoders": {"healthy": True, "lost": 0},
        "batches": {"count": 0, "frames": 0, "mean_frames": 0, "largest": 0},
        "latency_seconds": {},
    }


async def test_stats_before_the_model_has_loaded(
    client: ClientSession, proxy: Running, admin: str
) -> None:
    """Neither a model nor a policy yet."""
    proxy.scanner.model = None
    stats = await stats_of(client, admin)
    assert (stats["model"], stats["policy"]) == (None, None)
    assert stats["queue"]["frames_waiting"] == 0


async def test_stats_count_what_became_of_uploads(
    client: ClientSession, proxy: Running, admin: str
) -> None:
    """Allowed thrice, one of these known; flagged; blocked by policy, by list; unreadable."""
    for body in (
        plain(RED),
        plain(RED),
        animation([RED, BLUE, (9, 200, 200)]),
        plain(GREEN),
        plain(PURPLE),
        harmless_picture(),
        b"no picture",
    ):
        await upload(client, proxy.url, body)
    proxy.embedder.error = RuntimeError("on purpose")
    await upload(client, proxy.url, plain(BLUE))
    stats = await stats_of(client, admin)
    assert stats["verdicts"] == {
        "by_action": {"allow": 3, "flag": 1, "block": 3},
        "by_source": {"policy": 5, "block_list": 1, "unreadable": 1},
    }
    assert stats["scans"]["by_action"] == {"allow": 2, "flag": 1, "block": 1}
    assert stats["failures"] == {"model": 1}
    assert stats["cache"] == {
        "hits": 1,
        "misses": 6,
        "coalesced": 0,
        "evictions": 0,
        "hit_rate": round(1 / 7, 4),
        "entries": 4,
        "capacity": 200_000,
    }
    assert stats["batches"] == {"count": 4, "frames": 6, "mean_frames": 1.5, "largest": 3}
    counts = {stage: latency["count"] for stage, latency in stats["latency_seconds"].items()}
    assert counts == {
        "request": 8,
        "receive": 8,
        "scan": 8,
        "decode": 6,
        "embed": 5,
        "forward_pass": 5,
        "upstream": 4,
    }
    assert stats["latency_seconds"]["scan"].keys() == {"p50", "p90", "p99", "count"}


async def test_stats_show_the_queue(client: ClientSession, proxy: Running, admin: str) -> None:
    """One picture in the model, four frames of two others waiting for it, one asker joined."""
    proxy.embedder.go.clear()
    bodies = [plain(RED), plain(BLUE), animation([RED, BLUE, (9, 200, 200)]), plain(RED)]
    uploads = [spawn(upload(client, proxy.url, bodies[0]), name="upload")]
    await until(proxy.embedder.started.is_set)
    uploads += [spawn(upload(client, proxy.url, body), name="upload") for body in bodies[1:]]
    model = proxy.scanner.model
    assert model is not None
    await until(lambda: model.batcher.frames_waiting == 4 and proxy.cache.counts.coalesced == 1)
    stats = await stats_of(client, admin)
    assert stats["queue"] == {"scans_in_flight": 3, "limit": 64, "frames_waiting": 4}
    assert "safety_proxy_scans_in_flight 3.0" in await scrape(client, admin)
    proxy.embedder.go.set()
    assert {answer.status for answer in await asyncio.gather(*uploads)} == {201}
    stats = await stats_of(client, admin)
    assert stats["queue"] == {"scans_in_flight": 0, "limit": 64, "frames_waiting": 0}
    assert stats["batches"] == {"count": 2, "frames": 5, "mean_frames": 2.5, "largest": 4}


async def scrape(client: ClientSession, admin: str) -> str:
    """What Prometheus gets."""
    answer = await ask(client, "GET", admin, "/metrics")
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    return answer.body.decode()


async def test_metrics_say_what_stats_say(
    client: ClientSession, proxy: Running, admin: str
) -> None:
    """In Prometheus' form, read anew each time."""
    await upload(client, proxy.url, plain(RED))
    await scrape(client, admin)
    await upload(client, proxy.url, plain(RED))
    await upload(client, proxy.url, plain(PURPLE))
    lines = (await scrape(client, admin)).splitlines()
    for line in (
        'safety_proxy_verdicts_total{action="allow",source="policy"} 2.0',
        'safety_proxy_verdicts_total{action="block",source="policy"} 1.0',
        'safety_proxy_scans_total{action="allow"} 1.0',
        'safety_proxy_stage_duration_seconds_count{stage="scan"} 3.0',
        "safety_proxy_batch_frames_count 2.0",
        "safety_proxy_cache_hits_total 1.0",
        "safety_proxy_cache_misses_total 2.0",
        "safety_proxy_cache_coalesced_total 0.0",
        "safety_proxy_cache_evictions_total 0.0",
        "safety_proxy_cache_entries 2.0",
        "safety_proxy_scans_in_flight 0.0",
    ):
        assert line in lines


async def test_metrics_have_every_name_of_the_readme(
    client: ClientSession, proxy: Running, admin: str
) -> None:
    """And the README has every name of theirs."""
    proxy.embedder.error = RuntimeError("on purpose")
    await upload(client, proxy.url, plain(RED))
    text = await scrape(client, admin)
    families = set(
        re.findall(r"^# TYPE (safety_proxy_\w+) (?:counter|gauge|histogram)", text, re.MULTILINE)
    )
    created = {name for name in families if name.endswith("_created")}
    promised: set[str] = set()
    for name in re.findall(r"`(safety_proxy_[^`]+)`", README.read_text()):
        several = re.fullmatch(r"(\w+)\{([\w,]+)\}(_\w+)", name)
        if several:
            start, middles, end = several.groups()
            promised.update(f"{start}{middle}{end}" for middle in middles.split(","))
        else:
            promised.add(name.partition("{")[0])
    assert promised == families - created


@pytest.mark.parametrize("path", ["/", "/image", "/image/original/a.png", "/statsx"])
async def test_nothing_else_is_served(client: ClientSession, admin: str, path: str) -> None:
    """The admin listener is no way to pict-rs."""
    assert (await ask(client, "GET", admin, path)).status == 404


async def test_nothing_can_be_changed(client: ClientSession, admin: str) -> None:
    """It is read only."""
    for path in ("/healthz", "/readyz", "/stats", "/metrics"):
        assert (await ask(client, "POST", admin, path)).status == 405
