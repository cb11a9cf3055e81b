"""`/api/v1/policy/diff` and `/apply`: another policy is tried, or put in force, without a restart.

The body is the policy file. A policy in force by `apply` is written to `policy.file`, whose old
content it replaces as a whole; where that cannot be, the answer says that it lasts until the next
start. Whoever is being judged meanwhile is judged to the end by the policy that it began with.
"""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, Final

from aiohttp import web

from safety_proxy.admin.bodies import FILE_TYPE, guarded
from safety_proxy.errors import ConfigError, SafetyProxyError, StoreUnavailable
from safety_proxy.logs import get_logger
from safety_proxy.policy.judge import Judge, Judgment
from safety_proxy.policy.policy import Policy, load_policy, parse_policy
from safety_proxy.rejudge import Diff, compare
from safety_proxy.settings import PolicySettings
from safety_proxy.store.database import Database

_logger = get_logger(__name__)

_CONTENT_TYPES: Final = ("application/toml", FILE_TYPE)

DEFAULT_LIMIT: Final = 20
MOST_SHOWN: Final = 500


@dataclass(frozen=True, slots=True)
class Active:
    """The policy in force, and the fingerprint of the model it is for."""

    model: str
    judge: Judge


class PolicyAdmin:
    """The routes, and what SIGHUP calls. One policy is dealt with at a time.

    active: what is in force; None while the model loads.
    build_judge: makes a policy ready for the model; it may raise ConfigError or ScanError.
    switch: from its return on, every new scan uses this judge.
    settings: where the policy's file is, and what stands over every policy that is read or sent.
    """

    def __init__(
        self,
        database: Database,
        *,
        active: Callable[[], Active | None],
        build_judge: Callable[[Policy], Awaitable[Judge]],
        switch: Callable[[Judge], None],
        settings: PolicySettings,
    ) -> None:
        self._database = database
        self._active = active
        self._build_judge = build_judge
        self._switch = switch
        self._file = settings.file.expanduser() if settings.file else None
        self._load = partial(load_policy, severity=settings.severity, dry_run=settings.dry_run)
        self._parse = partial(
            parse_policy, where=_SENT, severity=settings.severity, dry_run=settings.dry_run
        )
        self._turn = asyncio.Lock()
        self.routes = [
            web.post("/api/v1/policy/diff", guarded(self._diff)),
            web.post("/api/v1/policy/apply", guarded(self._apply)),
        ]

    async def reload(self) -> None:
        """Puts `policy.file` in force as it is now; if it is wrong, that is logged, and no more."""
        async with self._turn:
            try:
                if self._file is None:
                    raise ConfigError("policy.file is not set: there is no file to read again.")
                await self._put_in_force(await asyncio.to_thread(self._load, self._file))
            except SafetyProxyError as error:
                _logger.warning("the policy stays as it was", detail=str(error))

    async def _diff(self, request: web.Request) -> web.Response:
        policy, limit = self._parse(await _text(request)), _limit(request)
        async with self._turn:
            active, judge = self._in_force(), await self._build_judge(policy)
            return web.json_response(await self._compare(active, judge, limit))

    async def _apply(self, request: web.Request) -> web.Response:
        text = await _text(request)
        policy, limit = self._parse(text), _limit(request)
        async with self._turn:
            before, judge = self._in_force(), await self._put_in_force(policy)
            problem = await self._keep(text)
            answer = {"file": str(self._file or ""), "problem": problem}
            try:
                answer |= await self._compare(before, judge, limit)
            except StoreUnavailable as error:
                _logger.warning("what the policy changes is not known", detail=str(error))
                answer |= _head(before, judge)
            return web.json_response(answer)

    def _in_force(self) -> Active:
        active = self._active()
        if active is None:
            raise _Loading("the model is still loading; try again when /readyz answers 200")
        return active

    async def _put_in_force(self, policy: Policy) -> Judge:
        self._in_force()  # before the model has loaded there is nothing to switch
        judge = await self._build_judge(policy)
        self._switch(judge)
        _logger.info("policy", name=policy.name, version=judge.version)
        if policy.note:
            _logger.warning("policy", name=policy.name, note=policy.note)
        return judge

    async def _compare(self, active: Active, judge: Judge, limit: int) -> dict[str, Any]:
        start = time.perf_counter()
        judges = (active.judge, judge)
        diff = await compare(self._database, active.model, judges, limit)
        seconds = round(time.perf_counter() - start, 3)
        return _head(active, judge) | _as_json(diff) | {"seconds": seconds}

    async def _keep(self, text: str) -> str | None:
        """What is wrong with the file, if the policy in force could not be written to it."""
        if self._file is None:
            return (
                "The policy is in force until the next start. To keep it, save it as a file that "
                "the program can read, and set policy.file (SAFETY_PROXY_POLICY__FILE) to its path."
            )
        try:
            await asyncio.to_thread(_replace, self._file, text)
        except (OSError, RuntimeError) as error:  # the latter where links lead round in a ring
            why = getattr(error, "strerror", error)
            return (
                f"The policy is in force until the next start: {self._file} cannot be replaced "
                f"({why}). Write it there yourself, or let policy.file name a file in a "
                "folder that the program may write to; a single file mounted into a container "
                "cannot be replaced, its folder can."
            )
        return None


class _Loading(SafetyProxyError):
    status = 503


_SENT: Final = "that was sent"


async def _text(request: web.Request) -> str:
    if request.content_type not in _CONTENT_TYPES:
        raise ConfigError(
            f"Send the policy file as the body, with `Content-Type: {_CONTENT_TYPES[0]}`."
        )
    try:
        return (await request.read()).decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"Policy {_SENT}: not UTF-8: {error}.") from error


def _limit(request: web.Request) -> int:
    value = request.query.get("limit", str(DEFAULT_LIMIT))
    is_short = value.isascii() and value.isdigit() and len(value) <= len(str(MOST_SHOWN))
    if not (is_short and int(value) <= MOST_SHOWN):
        raise ConfigError(f"limit={value!r}: give a whole number from 0 to {MOST_SHOWN}.")
    return int(value)


def _head(active: Active, judge: Judge) -> dict[str, Any]:
    return {
        "model": active.model,
        **{
            age: {
                "name": policy.name,
                "version": policy.version,
                "unreadable": policy.unreadable.value,
            }
            for age, policy in (("old", active.judge.policy), ("new", judge.policy))
        },
    }


def _as_json(diff: Diff) -> dict[str, Any]:
    return {
        "pictures": diff.pictures,
        "changes": diff.changes,
        "counts": [
            {"old": old.value, "new": new.value, "pictures": count}
            for (old, new), count in diff.counts.items()
        ],
        "changed": [
            {
                "sha256": change.sha256,
                "old": _judgment(change.old),
                "new": _judgment(change.new),
            }
            for change in diff.changed
        ],
    }


def _judgment(judgment: Judgment) -> dict[str, Any]:
    return {"action": judgment.action.value, "reasons": [str(r) for r in judgment.reasons]}


def _replace(file: Path, text: str) -> None:
    """Old or new, whole, whatever happens meanwhile; links and mode stay as they are."""
    file = file.resolve()
    mode = file.stat().st_mode & 0o777 if file.exists() else 0o644
    with NamedTemporaryFile("wb", dir=file.parent, prefix=f".{file.name}.", delete=False) as new:
        try:
            new.write(text.encode())
            new.flush()
            os.fchmod(new.fileno(), mode)
            os.fsync(new.fileno())
            Path(new.name).replace(file)
        except BaseException:
            with suppress(OSError):
                Path(new.name).unlink()
            raise
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
