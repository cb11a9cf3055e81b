"""What the admin's routes are sent, and how they say no.

A web page that the admin looks at can send some types of body to any address without asking. The
types here are none of these, and what names an `Origin` comes from a page: both are refused.
"""

import json
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from functools import wraps
from typing import Any, Final

from aiohttp import web

from safety_proxy.errors import ConfigError, SafetyProxyError
from safety_proxy.media.spool import Media, Spooler

JSON_TYPE: Final = "application/json"
FILE_TYPE: Final = "application/octet-stream"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def guarded(handler: Handler) -> Handler:
    """The handler, which answers errors of this package as JSON and serves no web page."""

    @wraps(handler)
    async def guarded_handler(request: web.Request) -> web.StreamResponse:
        try:
            if "Origin" in request.headers:
                raise ConfigError("This is for the command line, not for a web page.")
            return await handler(request)
        except SafetyProxyError as error:
            status = 400 if isinstance(error, ConfigError) else error.status
            return web.json_response({"msg": str(error), "code": error.reason}, status=status)

    return guarded_handler


async def json_of(request: web.Request) -> dict[str, Any]:
    """The object in the body. Raises ConfigError."""
    if request.content_type != JSON_TYPE:
        raise ConfigError(f"Send a JSON object, with `Content-Type: {JSON_TYPE}`.")
    try:
        body = json.loads(await request.read())
    except ValueError as error:
        raise ConfigError(f"The body is no JSON: {error}.") from error
    if not isinstance(body, dict):
        raise ConfigError("The body is not a JSON object.")
    return body


async def file_of(request: web.Request, spooler: Spooler, opened: ExitStack) -> Media:
    """The file in the body, which `opened` closes. Raises BodyTooLarge, Busy."""
    spool = spooler.open(opened)
    async for chunk in request.content.iter_any():
        await spool.write(chunk)
    return await spool.finish()


def text_in(fields: Any, name: str) -> str:
    """A field that is text, "" if it is not there. Raises ConfigError."""
    value = fields.get(name, "")
    if not isinstance(value, str):
        raise ConfigError(f"{name} must be text, not {value!r}.")
    return value.strip()
