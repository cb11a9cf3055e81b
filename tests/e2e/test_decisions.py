"""What an admin decides by the commands, with the server running: at once, and on every road."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from hashlib import sha256
from io import BytesIO
from pathlib import Path

import pytest
from aiohttp import ClientSession
from PIL import Image

from safety_proxy.tasks import spawn
from tests.e2e.conftest import StartPictRs, StartSafetyProxy
from tests.e2e.harness import ROOT, Origin, PictRs, SafetyProxy, free_port, upload
from tests.e2e.samples import SAMPLES, bodies, fresh
from tests.e2e.test_roads import DOWNLOADS, PROXIED, UPLOADS, Road, travel
from tests.e2e.test_validator import asking
from tests.pictures import plain

POLICY = ROOT / "safety_proxy" / "demo" / "policy.toml"

# One of each kind: an upload, in the background, an import, two ways by address.
ROADS = [UPLOADS[0], UPLOADS[3], UPLOADS[5], DOWNLOADS[0], PROXIED[0]]


async def command(*arguments: str | Path) -> tuple[int, str]:
    """Exit code and standard output of `safety-proxy ...`."""
    line = [sys.executable, "-m", "safety_proxy", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"}
    done = await asyncio.to_thread(
        subprocess.run, line, capture_output=True, text=True, check=False, env=environment
    )
    return done.returncode, done.stdout


def jpeg(body: bytes, quality: int = 60) -> bytes:
    """The same picture in other bytes, as somebody sends it on."""
    with Image.open(BytesIO(body)) as image:
        copy = BytesIO()
        image.convert("RGB").save(copy, "JPEG", quality=quality)
    return copy.getvalue()


async def lets_in(proxy: SafetyProxy, origin: Origin, road: Road, body: bytes) -> bool:
    """Whether a picture gets through on this road; what stands in its place is not it."""
    address = origin.put(f"/{sha256(body).hexdigest()}.png", body)
    reply = await travel(proxy.url, road, body, address)
    if road is not DOWNLOADS[0]:
        assert reply.status in {*road.accepted, 400}
        return reply.status != 400
    assert reply.status == 201  # also for the placeholder
    shown = await travel(proxy.url, Road(f"/image/original/{reply.json['files'][0]['file']}"), b"")
    return shown.body == body


async def test_an_allow_counts_at_once_on_every_road_and_so_does_taking_it_back(
    proxy: SafetyProxy, origin: Origin, tmp_path: Path
) -> None:
    """Refused by the model before, and after."""
    pictures = [fresh("block", 700 + number) for number in range(len(ROADS))]
    for number, (road, body) in enumerate(zip(ROADS, pictures, strict=True)):
        file = tmp_path / f"{number}.png"
        file.write_bytes(body)
        admin = ("--admin", proxy.admin_url)
        assert not await lets_in(proxy, origin, road, body)
        code, _ = await command("allow", file, "--note", "a drawing of our own", *admin)
        assert code == 0
        assert await lets_in(proxy, origin, road, body), road
        near = jpeg(body)
        assert not await lets_in(proxy, origin, UPLOADS[0], near)  # an allow never spreads
        code, _ = await command("allow", file, "--remove", *admin)
        assert code == 0
        other = UPLOADS[0] if road is PROXIED[0] else road  # what was shown stays a while
        assert not await lets_in(proxy, origin, other, body), road


async def test_an_allow_covers_what_pictrs_shows_its_validator(
    client: ClientSession, start_pictrs: StartPictRs, start_proxy: StartSafetyProxy, tmp_path: Path
) -> None:
    """Other bytes, since metadata is stripped, and exactly the same picture."""
    if not PictRs.can_be_real():
        pytest.skip("pict-rs changes no bytes without its programs")
    with Image.open(BytesIO(fresh("block", 720))) as image:
        body = BytesIO()
        exif = Image.Exif()
        exif[0x010E] = "a description"
        image.save(body, "JPEG", quality=90, exif=exif)
    file = tmp_path / "a.jpg"
    file.write_bytes(body.getvalue())
    port = free_port()
    pictrs = start_pictrs(real=True, **asking(port))
    proxy = start_proxy(pictrs.url, SAFETY_PROXY_VALIDATOR__PORT=str(port))
    assert (await upload(client, proxy.url, file.read_bytes()))[0] == 400
    assert (await command("allow", file, "--admin", proxy.admin_url))[0] == 0
    assert (await upload(client, proxy.url, file.read_bytes()))[0] == 201
    assert (await proxy.stats())["verdicts"]["by_source"]["allow_list"] == 2


async def test_a_blocked_picture_is_known_again_in_other_bytes(
    proxy: SafetyProxy, client: ClientSession, tmp_path: Path
) -> None:
    """By PDQ, with no run of the model; what looks different is not."""
    file = tmp_path / "a.png"
    file.write_bytes(bodies("allow")[3])
    assert (await upload(client, proxy.url, file.read_bytes()))[0] == 201
    code, _ = await command("block", file, "--note", "spam", "--admin", proxy.admin_url)
    assert code == 0
    passes = await proxy.forward_passes()
    for copy in (file.read_bytes(), jpeg(file.read_bytes(), 90), jpeg(file.read_bytes(), 40)):
        status, answer = await upload(client, proxy.url, copy)
        assert (status, answer["code"]) == (400, "failed-external-validation")
    assert await proxy.forward_passes() == passes
    for other in bodies("allow")[4:8]:
        assert (await upload(client, proxy.url, other))[0] == 201
    code, told = await command("explain", file, "--admin", proxy.admin_url)
    assert code == 1
    assert "spam" in told
    code, _ = await command("block", file, "--remove", "--admin", proxy.admin_url)
    assert code == 0
    assert (await upload(client, proxy.url, jpeg(file.read_bytes(), 40)))[0] == 201


async def test_known_pictures_cost_no_scan_after_a_restart(
    client: ClientSession, start_pictrs: StartPictRs, start_proxy: StartSafetyProxy
) -> None:
    """What was flagged, blocked and clean is so again, also after kill -9."""
    pictrs = start_pictrs()
    proxy = start_proxy(pictrs.url)
    pictures = [body for action in ("allow", "flag", "block") for body in bodies(action)[:4]]
    before = [(await upload(client, proxy.url, body))[0] for body in pictures]
    await asyncio.sleep(0.5)
    proxy.kill()
    proxy.start()
    passes = await proxy.forward_passes()
    assert [(await upload(client, proxy.url, body))[0] for body in pictures] == before
    assert await proxy.forward_passes() == passes
    stats = await proxy.stats()
    assert stats["scans"]["by_action"] == {}
    assert {"allow", "flag", "block"} <= stats["verdicts"]["by_action"].keys()


async def test_a_policy_is_switched_in_the_running_server_without_a_lost_request(
    client: ClientSession, start_pictrs: StartPictRs, start_proxy: StartSafetyProxy, tmp_path: Path
) -> None:
    """Tried first, applied then, by the command and by a signal; known pictures need no scan."""
    pictrs = start_pictrs()
    policy, stricter = tmp_path / "policy.toml", tmp_path / "stricter.toml"
    text = POLICY.read_text()
    policy.write_text(text)
    stricter.write_text(text.replace('action = "flag"', 'action = "block"'))
    proxy = start_proxy(pictrs.url, SAFETY_PROXY_POLICY__FILE=str(policy))
    pizza = bodies("flag")[0]
    assert (await upload(client, proxy.url, pizza))[0] == 201
    statuses: list[int] = []

    done = asyncio.Event()

    async def go_on() -> None:
        while not done.is_set():
            body = plain((len(statuses) % 256, 7, 7))
            statuses.append((await upload(client, proxy.url, body))[0])
            await asyncio.sleep(0.05)  # pict-rs' database has been seen to spin without a pause

    going_on = spawn(go_on(), name="uploads")
    admin = ("--admin", proxy.admin_url)
    code, told = await command("policy", "diff", stricter, "--json", *admin)
    answer = json.loads(told)
    assert code == 1
    assert {"old": "flag", "new": "block", "pictures": 1} in answer["counts"]
    assert (await upload(client, proxy.url, pizza))[0] == 201
    code, _ = await command("policy", "apply", stricter, *admin)
    assert code == 0
    assert (await upload(client, proxy.url, pizza))[0] == 400
    assert policy.read_text() == stricter.read_text()
    policy.write_text(text)
    os.kill(proxy.pid, signal.SIGHUP)
    async with asyncio.timeout(10):
        while (await upload(client, proxy.url, pizza))[0] == 400:
            pass
    done.set()
    await going_on
    assert len(statuses) > 5
    assert set(statuses) == {201}
    assert (await proxy.stats())["failures"] == {}


async def test_a_wrong_policy_changes_nothing(proxy: SafetyProxy, tmp_path: Path) -> None:
    """Neither one with a mistake, which is told with its line, nor one that blocks everything."""
    before = (await proxy.stats())["policy"]
    wrong = tmp_path / "wrong.toml"
    wrong.write_text(POLICY.read_text().replace("threshold = 0.1", "treshold = 0.1"))
    assert (await command("policy", "check", wrong))[0] == 2
    assert (await command("policy", "apply", wrong, "--admin", proxy.admin_url))[0] == 2
    wrong.write_text(
        POLICY.read_text()
        .replace("threshold = 0.1\n", "threshold = 0.0000001\n")
        .replace("threshold = 0.01\n", "threshold = 0.0000001\n")
    )
    assert (await command("policy", "apply", wrong, "--admin", proxy.admin_url))[0] == 2
    assert (await proxy.stats())["policy"] == before


async def test_evaluate_and_calibrate_run_on_the_samples(tmp_path: Path) -> None:
    """From pictures to a policy that `check` takes, and a report."""
    environment = {
        "SAFETY_PROXY_MODEL__NAME": "demo",
        "SAFETY_PROXY_POLICY__FILE": str(POLICY),
        "HF_HUB_OFFLINE": "1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        report, policy = tmp_path / "report.html", tmp_path / "policy.toml"
        code, told = await command("evaluate", SAMPLES, "--json", "--report", report)
        assert code == 0
        assert json.loads(told)["harmless"]["pictures"] == 24
        assert report.read_text().startswith("<!doctype html>")
        arguments = ("--rate", "0.2", "--point-estimate", "--out", policy)
        assert (await command("calibrate", SAMPLES, *arguments))[0] == 0
        code, told = await command("policy", "check", policy)
        assert code == 0
        assert "fire-and-water" in told
