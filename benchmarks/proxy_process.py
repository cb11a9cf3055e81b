"""The proxy, as `safety-proxy serve` runs it but with a model of the benchmark's choice.

Started by `servers.Proxy`; writes its two ports as JSON to standard output once it is ready.
"""

import asyncio
import json
import logging
import signal
import sys

from benchmarks.models import load_embedder, model_settings
from safety_proxy.app import App
from safety_proxy.settings import Settings


async def _serve(settings: Settings) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with App(settings, load_embedder=load_embedder) as app:
        await app.ready()
        print(json.dumps({"port": app.port, "admin_port": app.admin_port}), flush=True)
        await stop.wait()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    asyncio.run(_serve(model_settings(sys.argv[1])))
