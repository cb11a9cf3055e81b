"""A stand-in for pict-rs, in memory: enough of its API to try the proxy without installing it.

It stores what it gets without looking at it, and forgets it when it ends. Not for use.
"""

import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from aiohttp import BodyPartReader, web

MAX_BODY_BYTES = 64 * 1024 * 1024

_NOT_FOUND = {"msg": "Alias not found", "code": "alias-not-found"}


@dataclass(frozen=True, slots=True)
class _Stored:
    body: bytes
    delete_token: str = field(default_factory=lambda: str(uuid.uuid4()))
    created_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat())

    @property
    def details(self) -> dict[str, Any]:
        # As pict-rs' own dummy mode: it does not look into the picture either.
        return {
            "blurhash": "LGF5?xYk^6AAAAAAAAAAAAAAAAAA",
            "width": 0,
            "height": 0,
            "frames": None,
            "content_type": "image/png",
            "created_at": self.created_at,
            "format": "Image",
        }


class StandIn:
    """An aiohttp application that answers the routes that the demo and its curl lines use."""

    def __init__(self) -> None:
        self._stored: dict[str, _Stored] = {}
        self.app = web.Application(client_max_size=MAX_BODY_BYTES)
        self.app.add_routes(
            [
                web.get("/healthz", self._healthz),
                web.post("/image", self._upload),
                web.get("/image/original/{alias}", self._original),
                web.get("/image/details/original/{alias}", self._details),
                web.route("*", "/image/delete/{token}/{alias}", self._delete),
            ]
        )

    async def _healthz(self, request: web.Request) -> web.Response:
        del request
        return web.Response()

    async def _upload(self, request: web.Request) -> web.Response:
        files = []
        async for part in await request.multipart():
            if not isinstance(part, BodyPartReader) or part.name != "images[]":
                return web.json_response(
                    {"msg": "Found field with unexpected name", "code": "file-upload-error"},
                    status=400,
                )
            alias, stored = f"{uuid.uuid4()}.png", _Stored(bytes(await part.read()))
            self._stored[alias] = stored
            files.append(
                {"file": alias, "delete_token": stored.delete_token, "details": stored.details}
            )
        return web.json_response({"msg": "ok", "files": files}, status=201)

    async def _original(self, request: web.Request) -> web.Response:
        stored = self._stored.get(request.match_info["alias"])
        if stored is None:
            return web.Response(status=404)
        return web.Response(body=stored.body, content_type="image/png")

    async def _details(self, request: web.Request) -> web.Response:
        stored = self._stored.get(request.match_info["alias"])
        if stored is None:
            return web.json_response(_NOT_FOUND, status=404)
        return web.json_response(stored.details)

    async def _delete(self, request: web.Request) -> web.Response:
        alias = request.match_info["alias"]
        stored = self._stored.get(alias)
        if stored is not None and stored.delete_token != request.match_info["token"]:
            return web.json_response(
                {
                    "msg": "Provided token did not match expected token",
                    "code": "invalid-delete-token",
                },
                status=403,
            )
        self._stored.pop(alias, None)
        return web.Response(status=204)
