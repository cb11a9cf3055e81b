"""`/api/v1/explain`: all that is known of a picture, and what would change its action.

| route | body | the picture |
| --- | --- | --- |
| `POST .../explain` | the file | that file; it is looked at, and not stored |
| `POST .../explain` | `{"url": "..."}` | what lies there, fetched as for `image/download` |
| `GET .../explain/{sha256}` | | one that an earlier scan has seen |
"""

import asyncio
import dataclasses
import math
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from aiohttp import web

from safety_proxy.admin.bodies import FILE_TYPE, file_of, guarded, json_of, text_in
from safety_proxy.errors import ConfigError, SafetyProxyError, UndecodableImage
from safety_proxy.evidence import Evidence
from safety_proxy.media.spool import Media, Spooler
from safety_proxy.policy.explain import Explanation, RuleFinding, ThresholdChange
from safety_proxy.store.hashlist import TEST_PICTURE_LIST, HashLists, Match
from safety_proxy.store.listed import checked_sha256
from safety_proxy.store.pictures import Known
from safety_proxy.verdict import Action, Verdict


@dataclass(frozen=True, slots=True)
class Explaining:
    """What the running server does for an explanation.

    look: what a scan finds out about a file; raises UndecodableImage, ScanError.
    known: what an earlier scan found out about these bytes; None if none has seen them.
    recorded: the latest verdict on them that was more than a look-up; None if there is none.
    fetch: the file at an address, which the stack closes; raises DownloadFailed, Busy.
    explain: what the policy in force says; raises ScanError while there is no model. Called on a
        thread: a video takes seconds.
    unreadable: the policy's action for a file that no picture can be read from.
    """

    look: Callable[[Media], Awaitable[Evidence]]
    known: Callable[[str], Awaitable[Evidence | None]]
    recorded: Callable[[str], Awaitable[Known | None]]
    fetch: Callable[[str, ExitStack], Awaitable[Media]]
    explain: Callable[[Evidence], Explanation]
    unreadable: Callable[[], Action]


class _NotSeen(SafetyProxyError):
    status = 404
    reason = "not_seen"


class ExplainAdmin:
    """The routes."""

    def __init__(self, lists: HashLists, explaining: Explaining, *, spooler: Spooler) -> None:
        self._lists = lists
        self._explaining = explaining
        self._spooler = spooler
        self.routes = [
            web.post("/api/v1/explain", guarded(self._sent)),
            web.get("/api/v1/explain/{sha256}", guarded(self._known)),
        ]

    async def _sent(self, request: web.Request) -> web.Response:
        with ExitStack() as opened:
            if request.content_type == FILE_TYPE:
                media = await file_of(request, self._spooler, opened)
            else:
                url = text_in(await json_of(request), "url")
                if not url:
                    raise ConfigError(f'Send {{"url": ...}}, or a file as `{FILE_TYPE}`.')
                media = await self._explaining.fetch(url, opened)
            try:
                evidence = await self._explaining.look(media)
            except UndecodableImage as error:
                return web.json_response(self._unreadable(media, error))
            return web.json_response(await self._explained(evidence))

    async def _known(self, request: web.Request) -> web.Response:
        sha256 = checked_sha256(request.match_info["sha256"])
        evidence = await self._explaining.known(sha256)
        if evidence is not None:
            return web.json_response(await self._explained(evidence))
        match = self._lists.match_exact(sha256)
        if match is not None:
            head = {"sha256": sha256, "action": match.action.value}
            return web.json_response(head | _listed(match, sha256))
        known = await self._explaining.recorded(sha256)
        if known is not None and known.verdict is not None:
            return web.json_response(_recorded(known, known.verdict))
        raise _NotSeen(
            f"{sha256}: on no list, and no scan has seen it, or so long ago that it is "
            "forgotten. Give the file itself, or its address."
        )

    def _unreadable(self, media: Media, error: UndecodableImage) -> dict[str, Any]:
        match = self._lists.match_exact(media.sha256)
        action = match.action if match else self._explaining.unreadable()
        why = f"{error.code}: {error}"
        head = {"sha256": media.sha256, "action": action.value, "unreadable": why}
        answer = head | _listed(match, media.sha256)
        if match is None and action is not Action.ALLOW:
            answer["changes"] = as_json([_allowing(media.sha256)])
        return answer

    async def _explained(self, evidence: Evidence) -> dict[str, Any]:
        """The whole of it; a list that decides leaves the policy's say to be read as well."""
        match = await asyncio.to_thread(
            self._lists.match,
            evidence.sha256,
            sha1=evidence.sha1,
            md5=evidence.md5,
            pdq=evidence.pdq,
        )
        explanation = await asyncio.to_thread(self._explaining.explain, evidence)
        listed = _listed(match, evidence.sha256)
        return {
            "sha256": evidence.sha256,
            "sha1": evidence.sha1,
            "md5": evidence.md5,
            "media_type": evidence.media_type,
            "model": evidence.model,
            "pdq": [{"hash": pdq.bits.hex(), "quality": pdq.quality} for pdq in evidence.pdq],
            "action": (match.action if match else explanation.action).value,
            "match": listed["match"],
            "policy": as_json(explanation),
            "changes": listed["changes"]
            if match
            else as_json(list(policy_changes(evidence.sha256, explanation))),
        }


@dataclass(frozen=True, slots=True)
class Change:
    """What would give the picture another action, and the command that does it, if one does."""

    text: str
    command: str = ""


def _listed(match: Match | None, sha256: str) -> dict[str, Any]:
    return {"match": as_json(match), "changes": as_json(list(list_changes(match, sha256)))}


def _recorded(known: Known, verdict: Verdict) -> dict[str, Any]:
    """Of a file that a list had by its look, or that could not be read: there are no scores."""
    assert known.decided_at is not None  # it has a verdict
    allowed = verdict.action is Action.ALLOW
    return {
        "sha256": known.sha256,
        "action": verdict.action.value,
        "model": known.model,
        "match": None,
        "recorded": {
            "at": datetime.fromtimestamp(known.decided_at, UTC).isoformat(timespec="seconds"),
            "reasons": [str(reason) for reason in verdict.reasons],
        },
        "changes": [] if allowed else as_json([_allowing(known.sha256)]),
    }


def list_changes(match: Match | None, sha256: str) -> Iterator[Change]:
    """What takes a list's decision back."""
    if match is None:
        return
    if match.origin:
        ends = f"safety-proxy {match.action} --remove {match.origin}"
        yield Change(f"Take the {match.action} back.", ends)
    elif match.list != TEST_PICTURE_LIST:
        yield Change(
            "Let this entry not count on this server.", f"safety-proxy lists exclude {match.entry}"
        )
    if match.action is Action.BLOCK and match.list != TEST_PICTURE_LIST:
        yield _allowing(sha256)


def policy_changes(sha256: str, explanation: Explanation) -> Iterator[Change]:
    """An entry of one's own, the severity, and single numbers of the policy."""
    allowed = explanation.action is Action.ALLOW
    if not allowed:
        yield _allowing(sha256)
    severities = {severity: action for action, severity in explanation.severities}
    for severity, action in severities.items():  # where flag and block begin at one, only block
        if math.isfinite(severity):
            yield Change(_severity_change(action, severity, explanation.severity))
    for rule in explanation.rules:
        if rule.change is not None and rule.is_held != allowed:
            yield Change(_threshold_change(rule, rule.change))


def _allowing(sha256: str) -> Change:
    return Change("Let exactly these bytes in.", f"safety-proxy allow {sha256} --note WHY")


_DONE: Final = {Action.FLAG: "flagged", Action.BLOCK: "blocked"}


def _severity_change(action: Action, least: float, now: float) -> str:
    """least: the severity from which on the policy does that. Rounded to the side that tells."""
    if least > now:
        return f"At severity {math.ceil(100 * least) / 100:g} it is {_DONE[action]}; now {now:g}."
    below = math.ceil(100 * least - 1) / 100
    return f"At severity {below:g} it is not {_DONE[action]} any more; now {now:g}."


def _threshold_change(rule: RuleFinding, change: ThresholdChange) -> str:
    ends = "no longer holds" if rule.is_held else "holds"
    return (
        f"Rule {rule.rule} {ends} with {change.bound} = {change.needed:g} (now {change.written:g}) "
        f'for "{change.prompt}" of {change.concept}; the action is then {change.action}.'
    )


def as_json(value: Any) -> Any:
    """Dataclasses as objects; what is infinite, which JSON cannot say, as null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: as_json(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
    if isinstance(value, (list, tuple)):
        return [as_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
