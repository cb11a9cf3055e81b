"""Tests of safety_proxy/errors.py: each error has a status, a code, a reason and a fit message."""

import json
from collections.abc import Iterator

import pytest

from safety_proxy import errors
from safety_proxy.errors import RequestError, SafetyProxyError, ScanError, UpstreamError
from safety_proxy.proxy import replies

INTERNAL = "cuda out of memory at /srv/secret: concept fire 0.812>=0.500"

TABLE: dict[type[SafetyProxyError], tuple[int, str, str]] = {
    errors.SafetyProxyError: (500, "safety-proxy-error", "internal"),
    errors.ConfigError: (500, "safety-proxy-error", "config"),
    errors.UndecodableImage: (500, "damaged", "undecodable"),
    errors.DecoderLost: (500, "too-large", "decoder_lost"),
    errors.RequestError: (400, "safety-proxy-error", "request"),
    errors.MalformedRequest: (400, "file-upload-error", "malformed"),
    errors.BodyTooLarge: (413, "validate-file-size", "too_large"),
    errors.UnknownRoute: (404, "not-found", "unknown_route"),
    errors.NotProxied: (404, "proxy-not-found", "not_proxied"),
    errors.DeadlineExceeded: (408, "request-timeout", "deadline"),
    errors.NotOffered: (501, "not-implemented", "not_offered"),
    errors.DownloadFailed: (500, "download-file-error", "download"),
    errors.Busy: (503, "busy", "busy"),
    errors.StoreUnavailable: (503, "busy", "store"),
    errors.ScanError: (503, "scan-unavailable", "scan"),
    errors.QueueFull: (503, "scan-unavailable", "queue_full"),
    errors.ScanTimeout: (503, "scan-unavailable", "timeout"),
    errors.DecodersUnavailable: (503, "scan-unavailable", "decoders"),
    errors.EmbedderUnavailable: (503, "scan-unavailable", "model"),
    errors.UpstreamError: (500, "upstream-error", "upstream"),
    errors.UpstreamUnreachable: (502, "upstream-error", "upstream_unreachable"),
    errors.UpstreamTimeout: (504, "upstream-error", "upstream_timeout"),
    errors.UpstreamRefused: (502, "upstream-error", "upstream_refused"),
}


def tree(root: type[SafetyProxyError] = SafetyProxyError) -> Iterator[type[SafetyProxyError]]:
    """The class and all below it that are errors of the whole program, not of one module."""
    yield root
    for child in root.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from tree(child)


def test_every_error_is_in_the_table_and_in_the_drawn_tree() -> None:
    """Whoever adds a class decides on its status, code and reason here."""
    assert set(tree()) == TABLE.keys()
    drawn = (errors.__doc__ or "").partition("A picture that was judged")[0]
    missing = [kind.__name__ for kind in tree() if kind.__name__ not in drawn]
    assert missing == ["UndecodableImage", "DecoderLost"]  # which the text below it is about


@pytest.mark.parametrize("kind", TABLE)
def test_every_error_has_its_status_code_and_reason(kind: type[SafetyProxyError]) -> None:
    """As pict-rs has them where it has such an error."""
    error = kind(INTERNAL)
    assert (error.status, error.code, error.reason) == TABLE[kind]


def test_every_leaf_has_a_reason_of_its_own() -> None:
    """Metrics tell all errors apart."""
    reasons = [kind.reason for kind in tree()]
    assert len(set(reasons)) == len(reasons)


# Their text is pict-rs' or ours, and meant for the client.
TOLD = (RequestError, errors.UpstreamRefused)


@pytest.mark.parametrize("kind", [k for k in TABLE if not issubclass(k, TOLD)])
def test_no_internal_text_reaches_a_client(kind: type[SafetyProxyError]) -> None:
    """What went wrong inside, and what a decoder or a model said of it, is for the log."""
    error = kind(INTERNAL)
    assert str(error) == INTERNAL
    words = error.public_message.split()
    assert len(words) > 3
    assert not set(words) & set(INTERNAL.split())


@pytest.mark.parametrize("parent", [ScanError, UpstreamError])
def test_errors_of_one_kind_tell_a_client_the_same(parent: type[SafetyProxyError]) -> None:
    """A client cannot tell a full queue from a failing model, nor needs to."""
    kinds = [kind for kind in tree(parent) if kind is not errors.UpstreamRefused]
    assert len({kind(INTERNAL).public_message for kind in kinds}) == 1


@pytest.mark.parametrize("kind", list(tree(RequestError)))
def test_what_a_client_did_wrong_is_told_as_it_is(kind: type[SafetyProxyError]) -> None:
    """The text is written for the client."""
    assert kind("Too many files").public_message == "Too many files"


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (errors.MalformedRequest("m", code="invalid-query"), 400, "invalid-query"),
        (errors.DownloadFailed("m", status=400), 400, "download-file-error"),
    ],
)
def test_some_errors_are_narrowed_where_they_are_raised(
    error: SafetyProxyError, status: int, code: str
) -> None:
    """And the class stays as it was."""
    assert (error.status, error.code) == (status, code)
    kind = type(error)
    assert (kind("m").status, kind("m").code) == TABLE[kind][:2]


@pytest.mark.parametrize("kind", TABLE)
def test_an_answer_is_json_as_pictrs_has_it(kind: type[SafetyProxyError]) -> None:
    """`msg` and `code` and no more; only a scan that may succeed later asks to come back."""
    error = kind(INTERNAL)
    answer = replies.failed(error)
    body = answer.text
    assert body is not None
    assert answer.status == error.status
    assert json.loads(body) == {"msg": error.public_message, "code": error.code}
    assert ("Retry-After" in answer.headers) is issubclass(kind, ScanError | errors.Busy)
