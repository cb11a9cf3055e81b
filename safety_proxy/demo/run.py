"""The demo: sends samples through a real proxy and prints what became of them."""

import asyncio
import time
import tomllib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory

import aiohttp
from rich.console import Console
from rich.table import Table

from safety_proxy.app import App
from safety_proxy.deadline import Deadline
from safety_proxy.demo.upstream import demo_upstream, free_port
from safety_proxy.media.spool import Spooler
from safety_proxy.settings import Settings, load_settings
from safety_proxy.store.hashlist import TEST_PICTURE_LIST, test_picture
from safety_proxy.verdict import Action, Verdict

FOLDER = Path(str(resources.files("safety_proxy.demo")))

# For a verdict that is known already.
_SCAN_SECONDS = 30.0
SAMPLES = FOLDER / "samples"

_STYLE = {Action.ALLOW: "green", Action.FLAG: "yellow", Action.BLOCK: "red"}


@dataclass(frozen=True, slots=True)
class Sample:
    """A picture, and what the demo's policy should make of it."""

    name: str
    expected: Action
    body: bytes


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a sample: pict-rs' or the proxy's status, the verdict, and its cost."""

    sample: Sample
    status: int
    verdict: Verdict
    milliseconds: float
    forward_passes: int

    @property
    def is_right(self) -> bool:
        stored = self.status == 201  # noqa: PLR2004 -- Created, as pict-rs answers
        wanted = self.sample.expected
        return self.verdict.action is wanted and stored is (wanted is not Action.BLOCK)


def samples() -> Iterator[Sample]:
    """The samples of the package, one of them again, and the test picture."""
    manifest = tomllib.loads((SAMPLES / "manifest.toml").read_text(encoding="utf-8"))
    listed = [
        Sample(entry["file"], Action(entry["action"]), (SAMPLES / entry["file"]).read_bytes())
        for entry in manifest["samples"]
    ]
    yield from listed
    yield Sample(f"{listed[0].name} again", listed[0].expected, listed[0].body)
    yield Sample(TEST_PICTURE_LIST, Action.BLOCK, test_picture())


def demo_settings(upstream: str, folder: Path) -> Settings:
    """The small model and its policy, on the usual ports where they are free."""
    return load_settings(
        server={"port": free_port(8580), "admin_port": free_port(8581)},
        upstream={"url": upstream},
        model={"name": "demo"},
        # The harmless pictures would be counted among the forward passes of the samples.
        policy={"file": FOLDER / "policy.toml", "harmless_limit": 1},
        store={"folder": folder},
    )


async def run_demo(upstream: str | None, *, once: bool) -> int:
    """Prints the table and stays up unless `once`; 0 if every sample was judged as expected."""
    console = Console()
    console.print("The demo's model knows emoji-like drawings and nothing else: no safety tool.")
    with TemporaryDirectory(prefix="safety-proxy-demo-") as folder:
        return await _run(console, upstream, Path(folder), once=once)


async def _run(console: Console, upstream: str | None, folder: Path, *, once: bool) -> int:
    async with (
        demo_upstream(upstream) as (address, description),
        App(demo_settings(address, folder)) as app,
    ):
        console.print(f"Storing in {description}.")
        with console.status("Loading the model"):
            await app.ready()
        async with aiohttp.ClientSession() as session:
            outcomes = [await _send(sample, app, session) for sample in samples()]
        console.print(_table(outcomes))
        right = sum(outcome.is_right for outcome in outcomes)
        console.print(f"{right} of {len(outcomes)} as expected.")
        if not once:
            console.print(_invitation(app), highlight=False, soft_wrap=True)
            await asyncio.Event().wait()
    return 0 if right == len(outcomes) else 1


async def _send(sample: Sample, app: App, session: aiohttp.ClientSession) -> Outcome:
    passes_before = app.metrics.batches
    form = aiohttp.FormData()
    form.add_field("images[]", sample.body, filename=sample.name)
    start = time.perf_counter()
    async with session.post(f"http://127.0.0.1:{app.port}/image", data=form) as answer:
        await answer.read()
    milliseconds = (time.perf_counter() - start) * 1000
    passes = app.metrics.batches - passes_before
    return Outcome(sample, answer.status, await _verdict(sample, app), milliseconds, passes)


async def _verdict(sample: Sample, app: App) -> Verdict:
    """The verdict that the answer keeps to itself; it is known by now and costs no scan."""
    spooler = Spooler(file_bytes=len(sample.body), total_bytes=len(sample.body))
    with ExitStack() as opened:
        spool = spooler.open(opened)
        await spool.write(sample.body)
        return await app.scanner.scan(await spool.finish(), Deadline.after(_SCAN_SECONDS))


def _table(outcomes: Iterable[Outcome]) -> Table:
    table = Table(caption="A picture whose bytes are known needs no forward pass of the model.")
    for heading in ("picture", "verdict", "as expected", "status", "reason or highest scores"):
        table.add_column(heading)
    for heading in ("ms", "forward passes"):
        table.add_column(heading, justify="right")
    for outcome in outcomes:
        verdict = outcome.verdict
        table.add_row(
            outcome.sample.name,
            f"[{_STYLE[verdict.action]}]{verdict.action}[/]",
            "yes" if outcome.is_right else f"[red]no, {outcome.sample.expected}[/]",
            str(outcome.status),
            "; ".join(map(str, verdict.reasons)) or _scores(verdict),
            f"{outcome.milliseconds:.0f}",
            "known" if not outcome.forward_passes else str(outcome.forward_passes),
        )
    return table


def _scores(verdict: Verdict) -> str:
    return ", ".join(f"{score.concept} {score.score:.3f}" for score in verdict.scores)


def _invitation(app: App) -> str:
    url = f"http://127.0.0.1:{app.port}"
    return f"""
Still running; stop with Ctrl-C. To try in another terminal:
  curl -F 'images[]=@picture.png' {url}/image
  curl -o back.png {url}/image/original/FILE_FROM_THE_ANSWER
  curl http://127.0.0.1:{app.admin_port}/stats
Samples to send: {SAMPLES}"""
