"""Answers of our own, in pict-rs' shape: Lemmy shows `msg` and needs it to be there."""

import math

from aiohttp import web

from safety_proxy.errors import Busy, SafetyProxyError, ScanError
from safety_proxy.proxy.headers import SERVER
from safety_proxy.verdict import Verdict

# Where nothing is known of when there will be room.
RETRY_AFTER_SECONDS = 5


def reply(status: int, message: str, code: str, **headers: str) -> web.Response:
    """`{"msg": ..., "code": ...}`, as every error of pict-rs is."""
    return web.json_response(
        {"msg": message, "code": code}, status=status, headers={"Server": SERVER, **headers}
    )


def refused(verdict: Verdict, number: int, count: int) -> web.Response:
    """What pict-rs itself answers when its validator refuses.

    Says which file of several, never which concept: that would be an oracle to train against.
    """
    which = f"File {number} of {count}: " if count > 1 else ""
    return reply(400, which + verdict.public_message, verdict.code)


def failed(error: SafetyProxyError) -> web.Response:
    """The answer for an error that ended a request."""
    headers = {}
    if isinstance(error, Busy | ScanError):
        wanted = error.retry_after if isinstance(error, ScanError) else None
        seconds = RETRY_AFTER_SECONDS if wanted is None else max(1, math.ceil(wanted))
        headers["Retry-After"] = str(seconds)
    return reply(error.status, error.public_message, error.code, **headers)
