"""The stand-in answers as pict-rs does, as far as the demo and its curl lines need it."""

from collections.abc import AsyncIterator

import pytest
from aiohttp import ClientSession, FormData
from aiohttp.test_utils import TestServer

from safety_proxy.demo.stand_in import StandIn


@pytest.fixture
async def url() -> AsyncIterator[str]:
    async with TestServer(StandIn().app) as server:
        yield str(server.make_url("")).rstrip("/")


@pytest.fixture
async def client() -> AsyncIterator[ClientSession]:
    async with ClientSession() as session:
        yield session


def _form(name: str = "images[]", body: bytes = b"bytes") -> FormData:
    form = FormData()
    form.add_field(name, body, filename="a.png")
    return form


async def test_what_was_stored_comes_back_until_it_is_deleted(
    url: str, client: ClientSession
) -> None:
    """An upload can be read, described, and deleted with its own token alone."""
    async with client.post(f"{url}/image", data=_form()) as answer:
        assert answer.status == 201
        file = (await answer.json())["files"][0]
    original = f"{url}/image/original/{file['file']}"
    async with client.get(original) as answer:
        assert await answer.read() == b"bytes"
    async with client.get(f"{url}/image/details/original/{file['file']}") as answer:
        assert (await answer.json())["content_type"] == "image/png"
    async with client.get(f"{url}/image/delete/wrong/{file['file']}") as answer:
        assert answer.status == 403
    async with client.delete(f"{url}/image/delete/{file['delete_token']}/{file['file']}") as answer:
        assert answer.status == 204
    async with client.get(original) as answer:
        assert answer.status == 404


async def test_unknown_field_is_refused(url: str, client: ClientSession) -> None:
    """As pict-rs refuses it."""
    async with client.post(f"{url}/image", data=_form("other")) as answer:
        assert (answer.status, (await answer.json())["code"]) == (400, "file-upload-error")


async def test_health_is_answered(url: str, client: ClientSession) -> None:
    """The proxy's readiness rests on it."""
    async with client.get(f"{url}/healthz") as answer:
        assert answer.status == 200
