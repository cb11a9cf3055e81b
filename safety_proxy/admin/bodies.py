"""What the admin's routes are sent, and how they say no.

A web page that the admin looks at can send some types of body to any address without asking. The
types here are none of these, and what names an `Origin` comes from a page: both are refused. So is
a `Host` that somebody could own: a page of theirs may let its name lead here, and then reads what
it likes without an `Origin`.

Who connects from the same machine or container needs no more; all others need the token.
"""

import hmac
import ipaddress
import json
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from functools import wraps
from typing import Any, Final
from urllib.parse import urlsplit

from aiohttp import web

from safety_proxy import __version__
from safety_proxy.errors import ConfigError, SafetyProxyError
from safety_proxy.media.spool import Media, Spooler

JSON_TYPE: Final = "application/json"
FILE_TYPE: Final = "application/octet-stream"

# Top-level names that the public name system does not have (RFC 6761, RFC 6762, ICANN).
_PRIVATE: Final = frozenset({"localhost", "local", "internal"})

# Of an application: the name that its listener goes by in the settings, and the token.
HOST: Final = web.AppKey("host", str)
TOKEN: Final = web.AppKey("token", str)

_BEARER: Final = "Bearer "

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def guarded(handler: Handler) -> Handler:
    """The handler, which answers errors of this package as JSON and serves no web page.

    Its answers name the release, since the commands cannot know what else may listen at the port.
    """

    @wraps(handler)
    async def guarded_handler(request: web.Request) -> web.StreamResponse:
        answer = await answer_to(request)
        answer.headers["X-Safety-Proxy"] = __version__
        return answer

    async def answer_to(request: web.Request) -> web.StreamResponse:
        try:
            if not _is_admitted(request):
                raise _TokenNeeded(
                    f"{request.remote} is not this machine: set server.admin_token "
                    "(SAFETY_PROXY_SERVER__ADMIN_TOKEN) to the same here and for the server."
                )
            if "Origin" in request.headers:
                raise ConfigError("This is for the command line, not for a web page.")
            if not _is_own(request):
                raise ConfigError(
                    f"{request.host}: call the admin listener by its IP address, by the name that "
                    "server.admin_host gives, or by one that nobody can register: without a dot, "
                    "or in .local or .internal."
                )
            return await handler(request)
        except web.HTTPRequestEntityTooLarge as error:
            return web.json_response({"msg": error.text, "code": "too_large"}, status=error.status)
        except SafetyProxyError as error:
            status = 400 if isinstance(error, ConfigError) else error.status
            return web.json_response({"msg": str(error), "code": error.reason}, status=status)

    return guarded_handler


class _TokenNeeded(SafetyProxyError):
    status = 401
    reason = "token_needed"


def _is_admitted(request: web.Request) -> bool:
    """Whether it comes from this machine, or shows the token."""
    if _is_loopback(request.remote or ""):
        return True
    token, given = request.app.get(TOKEN, ""), request.headers.get("Authorization", "")
    shown = given.removeprefix(_BEARER) if given.startswith(_BEARER) else ""
    same = hmac.compare_digest(shown.encode(errors="surrogateescape"), token.encode())
    return bool(token) and same


def _is_loopback(address: str) -> bool:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:  # of a socket that is no IP's
        return False
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return (mapped or found).is_loopback


def _is_own(request: web.Request) -> bool:
    """Whether the `Host` is the listener's own name, or one that nobody can register."""
    host = request.headers.get("Host", "")
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:  # a bracket that stays open
        return False
    if name == request.app.get(HOST, "").lower():
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        labels = name.removesuffix(".").split(".")
        return len(labels) == 1 or labels[-1] in _PRIVATE
    return True


async def json_of(request: web.Request) -> dict[str, Any]:
    """The object in the body. Raises ConfigError."""
    if request.content_type != JSON_TYPE:
        raise ConfigError(f"Send a JSON object, with `Content-Type: {JSON_TYPE}`.")
    try:
        body = json.loads(await request.read())
    except (ValueError, RecursionError) as error:
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
    try:
        value.encode()
    except UnicodeEncodeError as error:  # half of a surrogate pair
        raise ConfigError(f"{name} is no text: {error.reason} at {error.start}.") from error
    return value.strip()
