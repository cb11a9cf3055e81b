"""`/api/v1/lists`: what the lists hold, and the admin's own decisions, in force with the answer.

| route | body | does |
| --- | --- | --- |
| `GET .../lists` | | all lists, own entries and exclusions |
| `POST .../lists/reload` | `{}` | reads the files of the shared lists anew |
| `POST .../lists/entries` | `{"action", "sha256", "note", "who", "exact"}` | allows or blocks |
| `POST .../lists/entries?action=block&...` | the file | blocks it, and by PDQ what looks the same |
| `DELETE .../lists/entries/{sha256}?action=` | | takes that back |
| `POST .../lists/exclusions` | `{"hash", "note", "who"}` | an entry of others' does not count |
| `DELETE .../lists/exclusions/{hash}` | | it counts again |
"""

import dataclasses
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import Any

from aiohttp import web

from safety_proxy.admin.bodies import FILE_TYPE, file_of, guarded, json_of, text_in
from safety_proxy.errors import ConfigError, SafetyProxyError
from safety_proxy.evidence import Evidence, Pdq
from safety_proxy.logs import get_logger
from safety_proxy.media.spool import Media, Spooler
from safety_proxy.store.hashlist import MIN_QUALITY, HashLists
from safety_proxy.store.listed import Exclusion, OwnEntry, checked_hash, checked_sha256
from safety_proxy.store.shared import ListReport
from safety_proxy.verdict import Action

_logger = get_logger(__name__)

NOT_SEEN = (
    "Only these exact bytes: the server has not seen such a picture. Give the file to block what "
    "looks the same."
)


class ListsAdmin:
    """The routes, and what SIGHUP calls.

    look: what a scan finds out about a file, without a verdict; it may raise UndecodableImage or
    ScanError. known: what an earlier scan found out about these bytes, if there was one.
    """

    def __init__(
        self,
        lists: HashLists,
        *,
        spooler: Spooler,
        look: Callable[[Media], Awaitable[Evidence]],
        known: Callable[[str], Awaitable[Evidence | None]],
    ) -> None:
        self._lists = lists
        self._spooler = spooler
        self._look = look
        self._known = known
        base = "/api/v1/lists"
        self.routes = [
            web.get(base, guarded(self._all)),
            web.post(f"{base}/reload", guarded(self._reload)),
            web.post(f"{base}/entries", guarded(self._put)),
            web.delete(base + "/entries/{sha256}", guarded(self._remove)),
            web.post(f"{base}/exclusions", guarded(self._exclude)),
            web.delete(base + "/exclusions/{hash}", guarded(self._include)),
        ]

    async def reload(self) -> list[ListReport]:
        """Reads the shared lists anew; what is wrong is logged. Raises StoreUnavailable."""
        reports = await self._lists.reload()
        for report in reports:
            if report.error:
                _logger.error("a list stays as it was", list=report.name, detail=report.error)
        _logger.info("lists", version=self._lists.version)
        return reports

    async def _all(self, request: web.Request) -> web.Response:
        del request
        exclusions = await self._lists.exclusions()
        return web.json_response(
            {
                "version": self._lists.version,
                "lists": [_report(report) for report in self._lists.reports()],
                "own": [_entry(entry) for entry in self._lists.entries.values()],
                "excluded": [dataclasses.asdict(exclusion) for exclusion in exclusions],
            }
        )

    async def _reload(self, request: web.Request) -> web.Response:
        await json_of(request)
        return web.json_response({"lists": [_report(report) for report in await self.reload()]})

    async def _put(self, request: web.Request) -> web.Response:
        if request.content_type == FILE_TYPE:
            entry, problem = await self._entry_of_file(request)
        else:
            entry, problem = await self._entry_of_digest(await json_of(request))
        await self._lists.put(entry)
        _logger.info("listed", sha256=entry.sha256[:16], action=entry.action.value, who=entry.who)
        return web.json_response({"entry": _entry(entry), "problem": problem})

    async def _entry_of_file(self, request: web.Request) -> tuple[OwnEntry, str]:
        fields = request.query
        action, exact = _action(fields), text_in(fields, "exact") == "true"
        pdq: tuple[Pdq, ...] = ()
        problem = ""
        with ExitStack() as opened:
            media = await file_of(request, self._spooler, opened)
            if action is Action.BLOCK and not exact:
                try:
                    pdq = (await self._look(media)).pdq
                    problem = _spread_problem(pdq)
                except SafetyProxyError as error:  # it is blocked all the same
                    problem = f"Only these exact bytes: no picture could be read: {error}."
            sha256 = media.sha256
        entry = OwnEntry(sha256, action, text_in(fields, "note"), text_in(fields, "who"), pdq)
        return entry, problem

    async def _entry_of_digest(self, fields: dict[str, Any]) -> tuple[OwnEntry, str]:
        sha256 = checked_sha256(text_in(fields, "sha256"))
        action = _action(fields)
        pdq: tuple[Pdq, ...] = ()
        problem = ""
        if action is Action.BLOCK and not fields.get("exact"):
            known = await self._known(sha256)
            pdq = known.pdq if known else ()
            problem = _spread_problem(pdq) if known else NOT_SEEN
        entry = OwnEntry(sha256, action, text_in(fields, "note"), text_in(fields, "who"), pdq)
        return entry, problem

    async def _remove(self, request: web.Request) -> web.Response:
        sha256, action = checked_sha256(request.match_info["sha256"]), _action(request.query)
        removed = await self._lists.remove(sha256, action)
        _logger.info("taken back", sha256=sha256[:16], action=action.value, was_there=removed)
        return web.json_response({"removed": removed})

    async def _exclude(self, request: web.Request) -> web.Response:
        fields = await json_of(request)
        hash_ = checked_hash(text_in(fields, "hash"))
        exclusion = Exclusion(hash_, text_in(fields, "note"), text_in(fields, "who"))
        await self._lists.exclude(exclusion)
        _logger.info("excluded", hash=hash_[:16], who=exclusion.who)
        return web.json_response({"excluded": dataclasses.asdict(exclusion)})

    async def _include(self, request: web.Request) -> web.Response:
        hash_ = checked_hash(request.match_info["hash"])
        return web.json_response({"removed": await self._lists.include(hash_)})


def _action(fields: Any) -> Action:
    named = text_in(fields, "action")
    if named not in {Action.ALLOW, Action.BLOCK}:
        raise ConfigError(f"action must be allow or block, not {named!r}.")
    return Action(named)


def _spread_problem(pdq: tuple[Pdq, ...]) -> str:
    """Why a block reaches no more than its bytes; "" if it does."""
    if any(one.quality >= MIN_QUALITY for one in pdq):
        return ""
    return "Only these exact bytes: the picture has too few features to recognize copies of it."


def _entry(entry: OwnEntry) -> dict[str, Any]:
    return {
        "sha256": entry.sha256,
        "action": entry.action.value,
        "note": entry.note,
        "who": entry.who,
        "at": entry.at,
        "pdq": [{"hash": pdq.bits.hex(), "quality": pdq.quality} for pdq in entry.pdq],
    }


def _report(report: ListReport) -> dict[str, Any]:
    return dataclasses.asdict(report)
