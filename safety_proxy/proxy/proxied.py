"""`?proxy=`: pictures that pict-rs holds on behalf of foreign addresses.

pict-rs itself never fetches one: it could be sent other bytes than the scanner was. So the proxy
fetches, scans, imports under an alias of its own choosing, and asks pict-rs by that alias. What
stands for which address is in `store.proxied`, with all that is needed to remove it again.
"""

import asyncio
import time
from contextlib import ExitStack, suppress
from functools import partial
from typing import Final
from uuid import uuid4

from safety_proxy.deadline import Deadline
from safety_proxy.errors import (
    DownloadFailed,
    SafetyProxyError,
    StoreUnavailable,
    UpstreamError,
    UpstreamRefused,
)
from safety_proxy.logs import get_logger
from safety_proxy.metrics import Metrics
from safety_proxy.proxy.fetch import Fetched, Fetcher, Validators, canonical
from safety_proxy.proxy.forward import RESERVE_SECONDS, Pictrs
from safety_proxy.scanner import Scanner
from safety_proxy.settings import ProxiedSettings
from safety_proxy.store.proxied import Entry, ProxiedTable
from safety_proxy.tasks import SingleFlight, spawn
from safety_proxy.verdict import Verdict

_logger = get_logger(__name__)

# By which an admin knows them in pict-rs.
_ALIAS_PREFIX: Final = "safety-proxy-"

_SWEEP_SECONDS: Final = 60.0

# Of pict-rs, upon which a sweep ends until the next.
_REFUSALS: Final = 10

# Asking origins anew must not take the place of readers.
_REVALIDATIONS: Final = 4

_DAY_SECONDS: Final = 86_400.0


class Proxied:
    """Address -> alias: known ones from the table, new ones fetched, judged and imported."""

    def __init__(
        self,
        settings: ProxiedSettings,
        *,
        table: ProxiedTable,
        fetcher: Fetcher,
        scanner: Scanner,
        pictrs: Pictrs,
        metrics: Metrics,
        seconds: float,
    ) -> None:
        self._settings = settings
        self._table = table
        self._fetcher = fetcher
        self._scanner = scanner
        self._pictrs = pictrs
        self._metrics = metrics
        self._seconds = seconds  # for one fetch, scan and import
        self._arrivals: SingleFlight[str, str | Verdict] = SingleFlight("proxied picture")
        self._revalidating: dict[str, asyncio.Task[None]] = {}
        self._to_remove = asyncio.Event()

    async def find(self, address: str) -> str | None:
        """The alias that is known for an address; nothing is fetched.

        Raises DownloadFailed for what is no address, StoreUnavailable.
        """
        entry = await self._table.find(canonical(address))
        return entry.alias if entry else None

    async def bring(self, address: str, deadline: Deadline) -> str | Verdict:
        """The alias of the picture at an address, or the verdict against it.

        Simultaneous askers share one fetch. An old entry is shown while its origin is asked anew.
        Raises DownloadFailed, Busy, ScanError, UpstreamError.
        """
        key = canonical(address)
        try:
            async with asyncio.timeout(deadline.left):
                entry = await self._table.find(key)
                if entry is not None:
                    self._revalidate_if_old(entry, address)
                    return entry.alias
                return await self._arrivals.run(key, partial(self._arrive, key, address))
        except TimeoutError as error:
            raise DownloadFailed("Unable to download image, it took too long") from error

    async def forget(self, alias: str) -> None:
        """pict-rs has removed this alias. Raises StoreUnavailable."""
        await self._table.remove(alias)

    async def drop(self, alias: str) -> None:
        """This alias is not to be shown any more, and pict-rs is to remove it."""
        with suppress(StoreUnavailable):
            await self._table.doom(alias)
        self._to_remove.set()

    async def _arrive(self, key: str, address: str) -> str | Verdict:
        # Not the deadline of whoever came first: others may have more time.
        deadline = Deadline.after(self._seconds)
        with ExitStack() as opened:
            with self._metrics.stage("fetch"):
                fetched = await self._fetcher.fetch(address, opened, deadline=deadline)
            assert fetched is not None  # which only a conditional request can bring
            return await self._store(key, fetched, deadline)

    async def _store(self, key: str, fetched: Fetched, deadline: Deadline) -> str | Verdict:
        media, validators = fetched
        outcome = await self._scanner.clear(media, deadline.before(RESERVE_SECONDS))
        if isinstance(outcome, Verdict):
            return outcome
        entry = Entry(
            alias=f"{_ALIAS_PREFIX}{uuid4().hex}",
            address=key,
            sha256=media.sha256,
            etag=validators.etag,
            last_modified=validators.last_modified,
            checked_at=time.time(),
        )
        await self._table.begin(entry)
        # Whatever goes wrong here, pict-rs may have it: the row is kept, and swept in time.
        with self._metrics.stage("upstream"):
            await self._pictrs.store_as(entry.alias, outcome, deadline)
        await self._table.finish(entry)
        self._to_remove.set()  # it may have replaced another
        return entry.alias

    def _revalidate_if_old(self, entry: Entry, address: str) -> None:
        if (
            time.time() - entry.checked_at > self._settings.revalidate_seconds
            and entry.address not in self._revalidating
            and len(self._revalidating) < _REVALIDATIONS
        ):
            revalidating = spawn(self._revalidate(entry, address), name="revalidate")
            self._revalidating[entry.address] = revalidating

    async def _revalidate(self, entry: Entry, address: str) -> None:
        """Asks the origin: unchanged keeps, changed is judged and replaces, gone is dropped."""
        try:
            await self._ask_origin(entry, address)
        except DownloadFailed as error:
            if error.gone:
                await self.drop(entry.alias)
            else:
                await self._keep(entry)
        except SafetyProxyError as error:
            # Not known whether it has changed into what may not be shown; asked again next time.
            _logger.warning("revalidation failed", reason=error.reason)
        finally:
            self._revalidating.pop(entry.address, None)

    async def _ask_origin(self, entry: Entry, address: str) -> None:
        deadline = Deadline.after(self._seconds)
        known = Validators(entry.etag, entry.last_modified)
        with ExitStack() as opened:
            fetched = await self._fetcher.fetch(address, opened, deadline=deadline, known=known)
            if fetched is None or fetched.media.sha256 == entry.sha256:
                await self._keep(entry)
            elif isinstance(await self._store(entry.address, fetched, deadline), Verdict):
                await self.drop(entry.alias)

    async def _keep(self, entry: Entry) -> None:
        with suppress(StoreUnavailable):
            await self._table.checked(entry.alias)

    async def aclose(self) -> None:
        """Gives up what asks origins anew; they are asked at the next reading."""
        revalidating = list(self._revalidating.values())
        for task in revalidating:
            task.cancel()
        await asyncio.gather(*revalidating, return_exceptions=True)

    async def sweep_forever(self) -> None:
        """Removes from pict-rs what is not shown any more, now and then and when there is some."""
        while True:
            try:
                await self._sweep()
            except (StoreUnavailable, UpstreamError) as error:
                _logger.warning("cannot remove proxied pictures yet", reason=error.reason)
            with suppress(TimeoutError):
                async with asyncio.timeout(_SWEEP_SECONDS):
                    await self._to_remove.wait()
            self._to_remove.clear()

    async def _sweep(self) -> None:
        keep_seconds = self._settings.keep_days * _DAY_SECONDS
        refused: set[str] = set()
        while aliases := set(await self._table.doomed(keep_seconds=keep_seconds)) - refused:
            for alias in aliases:
                try:
                    await self._pictrs.delete(alias)
                except UpstreamRefused as error:
                    # One that pict-rs stumbles over must not keep the others; a wrong key does.
                    refused.add(alias)
                    if len(refused) >= _REFUSALS:
                        raise
                    _logger.warning("a proxied picture cannot be removed", status=error.status)
                else:
                    await self._table.remove(alias)
