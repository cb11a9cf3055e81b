"""Tests of safety_proxy/proxy/replies.py: answers of the proxy's own."""

import json

import pytest
from aiohttp import web

from safety_proxy.errors import DownloadFailed, QueueFull, UnknownRoute
from safety_proxy.proxy import replies
from safety_proxy.verdict import Action, ConceptScore, Reason, Source, Verdict


def body_of(response: web.Response) -> dict[str, str]:
    """The JSON of an answer."""
    assert isinstance(response.body, bytes)
    answer: dict[str, str] = json.loads(response.body)
    return answer


@pytest.mark.parametrize(
    ("source", "count", "expected"),
    [
        (Source.POLICY, 1, "The picture was refused by the safety check"),
        (Source.BLOCK_LIST, 1, "The picture was refused by the safety check"),
        (Source.UNREADABLE, 1, "The picture could not be read"),
        (Source.POLICY, 3, "File 2 of 3: The picture was refused by the safety check"),
        (Source.UNREADABLE, 2, "File 2 of 2: The picture could not be read"),
    ],
)
def test_refusal_names_the_file_and_never_the_concept(
    source: Source, count: int, expected: str
) -> None:
    """Who decided by what is for the log."""
    reason = Reason(
        "rule", (ConceptScore("concept", 0.9, 0.5, 1),), where="frame 4", detail="detail"
    )
    verdict = Verdict(Action.BLOCK, (reason,), "0" * 64, "model", "policy", source)
    answer = replies.refused(verdict, 2, count)
    assert answer.status == 400
    assert body_of(answer) == {"msg": expected, "code": "failed-external-validation"}


def test_scan_that_failed_may_be_tried_again() -> None:
    """503 with a time to wait; an error of another kind has none."""
    answer = replies.failed(QueueFull("64 waiting"))
    assert answer.status == 503
    assert answer.headers["Retry-After"] == "5"
    assert "64" not in body_of(answer)["msg"]
    assert "Retry-After" not in replies.failed(UnknownRoute("No such route")).headers


def test_error_of_a_request_is_told_in_its_own_words() -> None:
    """Status, message and code are the error's."""
    answer = replies.failed(DownloadFailed("Unable to download image", status=400))
    assert answer.status == 400
    assert body_of(answer) == {"msg": "Unable to download image", "code": "download-file-error"}
    assert answer.headers["Server"] == "safety-proxy"
