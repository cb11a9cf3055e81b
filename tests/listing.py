"""The admin's routes for lists and explanations, over a scan of pictures by their mean color."""

import asyncio
import hashlib
import io
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from aiohttp import web
from PIL import Image

from safety_proxy.admin.explain import ExplainAdmin, Explaining
from safety_proxy.admin.lists import ListsAdmin
from safety_proxy.errors import DownloadFailed, UndecodableImage
from safety_proxy.evidence import Evidence
from safety_proxy.media.pdq import pdq_of
from safety_proxy.media.spool import Media, Spooler
from safety_proxy.policy.explain import Explanation
from safety_proxy.policy.judge import Judge
from safety_proxy.store.database import Database
from safety_proxy.store.hashlist import HashLists
from safety_proxy.store.pictures import Known
from safety_proxy.store.shared import ListSource
from safety_proxy.verdict import Action
from tests.fakes import FakeEmbedder, bytes_of, color_policy

ADDRESS = "http://example.org/picture"


def evidence_of(body: bytes) -> Evidence:
    """What a scan would find out. Raises UndecodableImage."""
    try:
        image = Image.open(io.BytesIO(body)).convert("RGB")
    except OSError as error:
        raise UndecodableImage("not a picture of a known format") from error
    return Evidence(
        hashlib.sha256(body).hexdigest(),
        hashlib.sha1(body).hexdigest(),
        hashlib.md5(body).hexdigest(),
        "image/png",
        "fake/fp32",
        FakeEmbedder().embed_images([np.asarray(image)]),
        ("frame 0",),
        (pdq_of(image),),
    )


@dataclass
class Listing:
    """The routes over lists.

    seen, recorded: what earlier scans have seen, and have said. online: what lies at ADDRESS.
    """

    lists: HashLists
    seen: dict[str, Evidence] = field(default_factory=dict)
    recorded: dict[str, Known] = field(default_factory=dict)
    online: bytes | None = None
    looks: int = 0

    def app(self) -> web.Application:
        spooler = Spooler(file_bytes=10**6, total_bytes=10**7)
        judge = Judge(color_policy(), FakeEmbedder().embed_texts, logit_scale=10.0, logit_bias=None)

        def explain(evidence: Evidence) -> Explanation:
            return judge.explain(evidence.embeddings, evidence.places)

        async def fetch(url: str, opened: ExitStack) -> Media:
            if url != ADDRESS or self.online is None:
                raise DownloadFailed("Unable to download image, the server said 404")
            spool = spooler.open(opened)
            await spool.write(self.online)
            return await spool.finish()

        explaining = Explaining(
            look=self.look,
            known=self.known,
            recorded=self.known_verdict,
            fetch=fetch,
            explain=explain,
            unreadable=lambda: Action.BLOCK,
        )
        app = web.Application()
        app.add_routes(
            ListsAdmin(self.lists, spooler=spooler, look=self.look, known=self.known).routes
        )
        app.add_routes(ExplainAdmin(self.lists, explaining, spooler=spooler).routes)
        return app

    async def look(self, media: Media) -> Evidence:
        self.looks += 1
        return evidence_of(bytes_of(media))

    async def known(self, sha256: str) -> Evidence | None:
        return self.seen.get(sha256)

    async def known_verdict(self, sha256: str) -> Known | None:
        return self.recorded.get(sha256)


@asynccontextmanager
async def serving(folder: Path, *sources: ListSource) -> AsyncIterator[tuple[Listing, str]]:
    """The routes at an address, over the database in `folder`."""
    database = Database(folder)
    await database.open()
    try:
        lists = HashLists(sources, database=database)
        await lists.load()
        listing = Listing(lists)
        runner = web.AppRunner(listing.app(), access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield listing, f"http://127.0.0.1:{runner.addresses[0][1]}"
        await runner.cleanup()
    finally:
        await database.aclose()


@contextmanager
def serving_beside(folder: Path, *sources: ListSource) -> Iterator[tuple[Listing, str]]:
    """As `serving`, on a thread: for commands, which have an event loop of their own."""
    started, stop = threading.Event(), asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []
    found: list[tuple[Listing, str]] = []

    async def serve() -> None:
        async with serving(folder, *sources) as served:
            loops.append(asyncio.get_running_loop())
            found.append(served)
            started.set()
            await stop.wait()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        assert started.wait(30)
        yield found[0]
    finally:
        loops[0].call_soon_threadsafe(stop.set)
        thread.join()
