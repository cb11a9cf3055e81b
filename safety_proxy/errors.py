"""What can go wrong, as one tree.

    SafetyProxyError
      ConfigError             wrong settings, policy or model; the command ends with exit code 2
      RequestError            the client's doing
        MalformedRequest        400
        BodyTooLarge            413
        UnknownRoute            404
        NotProxied              404  an address that no picture is known for
        NotOffered              501  a way of storing that the settings leave closed
        DeadlineExceeded        408
        DownloadFailed          400/500  the address in `?url=` or `?proxy=` gave no picture
      ScanError               no verdict could be reached: 503, and nothing is forwarded
        QueueFull
        ScanTimeout
        DecodersUnavailable
        EmbedderUnavailable
      Busy                    503  no room for another request just now
        StoreUnavailable        the database of this proxy cannot be used just now
      UpstreamError           pict-rs' doing
        UpstreamUnreachable     502
        UpstreamTimeout         504
        UpstreamRefused         as pict-rs says: a proxied picture that it would not take

A picture that was judged and blocked is a `Verdict`, never an exception. A picture that cannot be
decoded is `UndecodableImage`, or `DecoderLost` where it ended its decoder; the scanner turns it
into the action that the policy names.

Every error that reaches a client becomes pict-rs' own JSON, `{"msg": ..., "code": ...}`, of its
`public_message` and `code`: Lemmy shows only `msg`. `reason` is the label in logs and metrics.
"""

from typing import ClassVar


class SafetyProxyError(Exception):
    """Base of all errors that this package raises on purpose."""

    status: int = 500
    code: str = "safety-proxy-error"
    reason: ClassVar[str] = "internal"

    @property
    def public_message(self) -> str:
        """What the client is told; the error's own text stays in the log."""
        return "Something went wrong in the safety proxy"


class ConfigError(SafetyProxyError):
    """Settings, policy or model cannot be used; the message says what, where and what to do."""

    reason = "config"


class UndecodableImage(SafetyProxyError):
    """No picture could be read from the bytes; `str(error)` says why, for the log only.

    code: one of `media.bounds.Code`, which the client is told.
    """

    code = "damaged"
    reason = "undecodable"


class DecoderLost(UndecodableImage):
    """The file ended the processes that it was given to; it is not given to another."""

    code = "too-large"
    reason = "decoder_lost"


class RequestError(SafetyProxyError):
    """The request cannot be served as it is."""

    status = 400
    reason = "request"

    @property
    def public_message(self) -> str:
        """The error's own text, which is written for the client."""
        return str(self)


class MalformedRequest(RequestError):
    """The body or the query is not what this route takes."""

    code = "file-upload-error"
    reason = "malformed"

    def __init__(self, message: str, *, code: str = code) -> None:
        super().__init__(message)
        self.code = code


class BodyTooLarge(RequestError):
    """The body is over the configured limit."""

    status = 413
    code = "validate-file-size"
    reason = "too_large"


class UnknownRoute(RequestError):
    """Not a route of pict-rs; never passed on."""

    status = 404
    code = "not-found"
    reason = "unknown_route"


class NotProxied(RequestError):
    """No picture is known for this address."""

    status = 404
    code = "proxy-not-found"
    reason = "not_proxied"


class DeadlineExceeded(RequestError):
    """The time that the client gave is over."""

    status = 408
    code = "request-timeout"
    reason = "deadline"


class NotOffered(RequestError):
    """A way of storing pictures that cannot be guarded with the settings as they are."""

    status = 501
    code = "not-implemented"
    reason = "not_offered"


class DownloadFailed(RequestError):
    """The address of a `download` or a proxied picture gave none.

    pict-rs answers 500 for what the origin did wrong and 400 for an address that it will not ask.
    """

    status = 500
    code = "download-file-error"
    reason = "download"

    def __init__(self, message: str, *, status: int = status, gone: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.gone = gone  # the origin says that there is no such picture any more: 404, 410


class Busy(SafetyProxyError):
    """No room for another request just now; the next one may well find some."""

    status = 503
    code = "busy"
    reason = "busy"

    @property
    def public_message(self) -> str:
        return "The image server is busy just now, try again in a moment"


class StoreUnavailable(Busy):
    """The database cannot be read or written just now; `str(error)` says why, for the log only."""

    reason = "store"


class ScanError(SafetyProxyError):
    """No verdict could be reached; the same picture may well pass a moment later.

    retry_after: seconds after which another attempt makes sense, where that is known.
    """

    status = 503
    code = "scan-unavailable"
    reason = "scan"

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after

    @property
    def public_message(self) -> str:
        return "The picture could not be checked just now, try again in a moment"


class QueueFull(ScanError):
    """More scans are waiting than the queue takes, or than would end in time."""

    reason = "queue_full"


class ScanTimeout(ScanError):
    """The scan did not end within its budget."""

    reason = "timeout"


class DecodersUnavailable(ScanError):
    """No decoder process can be had just now."""

    reason = "decoders"


class EmbedderUnavailable(ScanError):
    """The model is not loaded, or failed on this picture."""

    reason = "model"


class UpstreamError(SafetyProxyError):
    """pict-rs did not answer."""

    code = "upstream-error"
    reason = "upstream"

    @property
    def public_message(self) -> str:
        return "The image server cannot be reached just now, try again in a moment"


class UpstreamUnreachable(UpstreamError):
    """No connection, or it broke before the answer."""

    status = 502
    reason = "upstream_unreachable"


class UpstreamTimeout(UpstreamError):
    """Connected, but no answer in time."""

    status = 504
    reason = "upstream_timeout"


class UpstreamRefused(UpstreamError):
    """pict-rs would not store a picture that the proxy brought: its own status, text and code."""

    reason = "upstream_refused"

    status = 502

    def __init__(
        self, message: str, *, status: int = status, code: str = UpstreamError.code
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code

    @property
    def public_message(self) -> str:
        """pict-rs' own text."""
        return str(self)
