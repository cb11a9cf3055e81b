"""`python -m tests.faults.proxy`: the proxy as `serve` runs it, its model and resolver in our hand.

Everything else is the program's own. A line of JSON to the control port sets the model's fault; the
answer tells what the process holds:

    {"fault": "hang"}  ->  {"faults": {"hang": 1}, "lookups": {...}, "tasks": 9, "threads": {...}}
"""

import asyncio
import json
import os
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Self
from unittest.mock import patch

import numpy as np
import torch
from aiohttp.abc import AbstractResolver, ResolveResult

from safety_proxy import app, assembly, cli
from safety_proxy.crops import CropSpec, Float32Array, UInt8Array
from safety_proxy.inference.embedder import Embedder
from safety_proxy.media.spool import Spooler
from safety_proxy.settings import Settings

CONTROL_PORT: Final = "FAULTS_CONTROL_PORT"
HANG_SECONDS: Final = 4.0

NONE: Final = "none"

# Of an open file: one without a name, which an upload is spooled to.
SPOOLED: Final = "spooled"
MODEL_FAULTS: Final = ("raise", "hang", "memory", "cuda", "nan", "same", "few")


class FaultyEmbedder:
    """The demo's model, and a switch."""

    def __init__(self, inner: Embedder) -> None:
        self._inner = inner
        self.fault = NONE
        self.counts: Counter[str] = Counter()
        spec = inner.crop_spec
        # What a model that has gone blind could say of everything: that it is plain gray.
        gray = np.full((spec.height, spec.width, 3), 128, np.uint8)
        self._gray = inner.embed_images([gray])[0]

    @property
    def fingerprint(self) -> str:
        return self._inner.fingerprint

    @property
    def crop_spec(self) -> CropSpec:
        return self._inner.crop_spec

    @property
    def logit_scale(self) -> float:
        return self._inner.logit_scale

    @property
    def logit_bias(self) -> float | None:
        return self._inner.logit_bias

    def embed_texts(self, texts: Sequence[str]) -> Float32Array:
        return self._inner.embed_texts(texts)

    def embed_images(self, crops: Sequence[UInt8Array]) -> Float32Array:
        fault = self.fault
        self.counts[fault] += 1
        match fault:
            case "raise":
                raise RuntimeError("planted: the model failed")
            case "memory":
                raise MemoryError
            case "cuda":
                raise torch.cuda.OutOfMemoryError("planted: CUDA out of memory")
            case "hang":
                time.sleep(HANG_SECONDS)
            case "same":
                return np.repeat(self._gray[np.newaxis], len(crops), axis=0)
        rows = self._inner.embed_images(crops)
        if fault == "nan":
            rows[:, 7] = np.nan
        return rows[1:] if fault == "few" else rows


class Resolver(AbstractResolver):
    """Names below `.test`, by their first label up to a dash; nothing else exists.

    inside: a private address. mixed: a public one first. turned: a public one at every other time.
    """

    def __init__(self) -> None:
        self.lookups: Counter[str] = Counter()
        self._asked: Counter[str] = Counter()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        kind = host.partition(".")[0].partition("-")[0]
        self.lookups[kind] += 1
        self._asked[host] += 1
        if not host.endswith(".test") or kind == "nowhere":
            raise OSError("no such name")
        if kind in {"slow", "silent"}:
            await asyncio.sleep(0.4 if kind == "slow" else 60)
        first = self._asked[host] % 2 == 1
        addresses = {
            "inside": ["127.0.0.2"],
            "inside6": ["::1"],
            "mapped": ["::ffff:127.0.0.2"],
            "mixed": ["127.0.0.1", "127.0.0.2"],
            "turned": ["127.0.0.1" if first else "127.0.0.2"],
        }.get(kind, ["127.0.0.1"])
        if kind == "turned" and not first:
            self.lookups["turned inward"] += 1
        return [_found(host, address, port) for address in addresses]

    async def close(self) -> None:
        pass


def _found(host: str, address: str, port: int) -> ResolveResult:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return ResolveResult(
        hostname=host, host=address, port=port, family=family, proto=0, flags=socket.AI_NUMERICHOST
    )


def _target(file: Path) -> str:
    """What an open file is, without what makes it another one each time."""
    with suppress(FileNotFoundError):  # the one that lists them
        target = str(file.readlink())
        return (
            "spooled" if "safety-proxy-" in target or "/#" in target else target.partition(":")[0]
        )
    return "gone"


class FaultyApp(app.App):
    """The program's own composition, with both put in, and the control port beside it."""

    def __init__(self, settings: Settings) -> None:
        self._fake_resolver = Resolver()
        self._embedder: FaultyEmbedder | None = None
        self._spooler: Spooler | None = None
        super().__init__(settings, load_embedder=self._load, resolver=self._fake_resolver)

    async def __aenter__(self) -> Self:
        with patch.object(app, "Spooler", self._made_spooler):  # which is a local of `_start`
            await super().__aenter__()
        port = int(os.environ[CONTROL_PORT])
        self._control = await asyncio.start_server(self._serve, "127.0.0.1", port)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._control.close()
        await super().__aexit__(*exc_info)

    def _load(self, settings: Settings) -> FaultyEmbedder:
        self._embedder = FaultyEmbedder(assembly.load_clip(settings))
        return self._embedder

    def _made_spooler(self, **options: int) -> Spooler:
        self._spooler = Spooler(**options)
        return self._spooler

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        wanted = json.loads(await reader.readline())
        if self._embedder is not None and "fault" in wanted:
            self._embedder.fault = wanted["fault"]
        writer.write(json.dumps(self._report()).encode() + b"\n")
        writer.close()

    def _report(self) -> dict[str, Any]:
        threads = Counter(thread.name.rpartition("_")[0] for thread in threading.enumerate())
        files = Counter(map(_target, Path("/proc/self/fd").iterdir()))
        return {
            "faults": dict(self._embedder.counts) if self._embedder else {},
            "lookups": dict(self._fake_resolver.lookups),
            "tasks": len(asyncio.all_tasks()),
            "threads": dict(threads),
            "sockets": files.pop("socket", 0),
            "files": files.total(),
            "file_kinds": dict(files),
            "in_flight": self.scanner.in_flight,
            "spooled_bytes": self._spooler.used_bytes if self._spooler else 0,
        }


if __name__ == "__main__":
    sys.argv = ["safety-proxy", "serve"]
    with patch.object(app, "App", FaultyApp):  # `serve` imports it when it starts
        cli.main()
