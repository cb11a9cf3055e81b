"""The pict-rs that the demo stands in front of: a given one, one on PATH, or the stand-in."""

import asyncio
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
from aiohttp import web

from safety_proxy.demo.stand_in import StandIn
from safety_proxy.errors import ConfigError

_START_SECONDS = 20

# pict-rs' own needs for looking into pictures; without them it runs in its dummy mode.
_TOOLS = ("magick", "ffprobe", "exiftool")


@asynccontextmanager
async def demo_upstream(given: str | None) -> AsyncIterator[tuple[str, str]]:
    """Address of a pict-rs, and what it is in words; ends what it started."""
    if given is not None:
        yield given, f"pict-rs at {given}"
    elif (binary := await asyncio.to_thread(shutil.which, "pict-rs")) is not None:
        async with _own_pictrs(binary) as running:
            yield running
    else:
        async with _stand_in() as address:
            yield (
                address,
                "NO pict-rs: an in-memory stand-in that stores without looking (none on PATH)",
            )


@asynccontextmanager
async def _stand_in() -> AsyncIterator[str]:
    runner = web.AppRunner(StandIn().app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def _own_pictrs(binary: str) -> AsyncIterator[tuple[str, str]]:
    real = all(shutil.which(tool) for tool in _TOOLS)
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="safety-proxy-demo-") as name:
        folder = Path(name)
        command = [binary, "--old-repo-path", folder / "old", "run", "-a", f"127.0.0.1:{port}"]
        command += ["--temporary-directory", folder / "tmp"]
        command += [] if real else ["--danger-dummy-mode"]
        command += ["filesystem", "-p", folder / "files", "sled", "-p", folder / "repo"]
        process = await asyncio.create_subprocess_exec(
            *map(str, command),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            address = f"http://127.0.0.1:{port}"
            await _answers(address, process)
            mode = (
                "" if real else ", in its dummy mode (ImageMagick, ffmpeg or exiftool is missing)"
            )
            yield address, f"real pict-rs ({binary}){mode}"
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


async def _answers(address: str, process: asyncio.subprocess.Process) -> None:
    async with aiohttp.ClientSession() as session:
        for _ in range(_START_SECONDS * 10):
            if process.returncode is not None:
                break
            try:
                async with session.get(f"{address}/healthz") as answer:
                    if answer.ok:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.1)
    raise ConfigError(
        "pict-rs was found on PATH but did not start; name a running one with --upstream"
    )


def free_port(wanted: int = 0) -> int:
    """`wanted` if it is free on loopback, else any free port."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            return free_port()
        port: int = probe.getsockname()[1]
        return port
