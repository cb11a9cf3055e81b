"""The commands; those that are a file of their own are in `commands`."""

import asyncio
import gc
import resource
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from safety_proxy import __version__
from safety_proxy.bench import open_bench
from safety_proxy.commands import ExitCode, evaluation, explain, lists, policy
from safety_proxy.errors import ConfigError
from safety_proxy.logs import configure, get_logger
from safety_proxy.settings import Settings, load_settings
from safety_proxy.store.hashlist import test_picture
from safety_proxy.tasks import spawn

cli = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
_logger = get_logger(__name__)


def main() -> None:
    """Runs a command; wrong configuration ends with its message and code 2, not a traceback."""
    try:
        cli()
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(ExitCode.CONFIG)


@cli.callback()
def _common() -> None:
    """Scans every picture with CLIP before the image server pict-rs stores it."""


@cli.command()
def serve(
    config: Annotated[
        Path | None,
        typer.Option(envvar="SAFETY_PROXY_CONFIG", help="TOML file; docs/settings.md has its keys"),
    ] = None,
) -> None:
    """Run the proxy in front of pict-rs until SIGTERM or SIGINT."""
    # Until `_serve` handles it, a reload must not end the program that is starting.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    settings = load_settings(config)
    configure(settings.log_level, settings.log_format)
    asyncio.run(_serve(settings))


@cli.command()
def demo(
    upstream: Annotated[
        str | None, typer.Option(help="Address of a pict-rs to stand in front of")
    ] = None,
    *,
    once: Annotated[
        bool, typer.Option("--once", help="End after the table instead of staying up")
    ] = False,
) -> None:
    """Show what the proxy does, with a small model, sample pictures and a pict-rs of any kind."""
    from safety_proxy.demo.run import run_demo  # noqa: PLC0415 -- as in _serve

    configure("error", "console")
    try:
        sys.exit(asyncio.run(run_demo(upstream, once=once)))
    except KeyboardInterrupt:
        sys.exit(0)


@cli.command(name="test-picture")
def write_test_picture() -> None:
    """Write the harmless picture that is always blocked to standard output, to check a set-up."""
    if sys.stdout.isatty():
        raise ConfigError("That is a PNG; send it to a file: safety-proxy test-picture > t.png")
    sys.stdout.buffer.write(test_picture())


@cli.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


lists.register(cli)
explain.register(cli)
evaluation.register(cli, open_bench)
cli.add_typer(policy.commands, name="policy")


async def _serve(settings: Settings) -> None:
    # The small commands do without a second of imports.
    from safety_proxy.app import App  # noqa: PLC0415

    # Most services begin with 1,024 files; a request takes up to five, and a server has many.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    stop = asyncio.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    app = App(settings)
    # Before anything else: until it is handled, this signal ends the process.
    asyncio.get_running_loop().add_signal_handler(
        signal.SIGHUP, lambda: spawn(app.reload(), name="reload")
    )
    async with app:
        _logger.info(
            "listening",
            public=f"{settings.server.host}:{app.port}",
            admin=f"{settings.server.admin_host}:{app.admin_port}",
            # Not the whole address, which may hold a password.
            pictrs=f"{settings.upstream.url.host}:{settings.upstream.url.port}",
        )
        ready = spawn(app.ready(), name="ready")
        stopped = spawn(stop.wait(), name="stop")
        await asyncio.wait({ready, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if ready.done():
            ready.result()  # raises ConfigError if the model cannot be loaded
            # Of the 430,000 objects of torch none becomes garbage: looking through them for it
            # would stop every request for a third of a second now and then.
            gc.collect()
            gc.freeze()
        await stopped
