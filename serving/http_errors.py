"""What an HTTP client is told when it gets no answer: a status and an error object as OpenAI's. Pure."""

from __future__ import annotations

from typing import Any

import orjson

from callboard.actors.errors import (
    ActorStopped,
    ActorUnavailable,
    DeadlineExceeded,
    EncodeError,
    MailboxFull,
    Overloaded,
    RemoteError,
)
from callboard.transports.errors import TooLarge

from .errors import (
    BadTokenizer,
    ContextTooLong,
    EmptyPrompt,
    EngineBusy,
    EngineFailed,
    NoWorkers,
    OtherTokenizer,
    RequestRefused,
    ServingError,
    UnknownModel,
    WorkersLost,
)

OVERLOADED = 529
"""Status for "everybody is busy", apart from 503 for "nobody is there"."""


class HttpError(ServingError):
    """An answer that is an error; ``param`` is the place in the request, ``code`` a word for programs."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: int | None = None,
        allow: str | None = None,
    ) -> None:
        self.status, self.message, self.code, self.param = status, message, code, param
        self.retry_after_s, self.allow = retry_after_s, allow
        super().__init__(f"HTTP {status}: {message}")

    @property
    def kind(self) -> str:
        """The error's ``type``."""
        if self.status == 429:
            return "rate_limit_error"
        return "invalid_request_error" if self.status < 500 else "server_error"

    def body(self) -> bytes:
        """Return ``{"error": {...}}`` as JSON."""
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return orjson.dumps({"error": error})

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Return the headers that belong to the status."""
        headers = []
        if self.retry_after_s is not None:
            headers.append((b"retry-after", b"%d" % self.retry_after_s))
        if self.allow is not None:
            headers.append((b"allow", self.allow.encode()))
        return headers

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (
            self.status, self.message, self.code, self.param, self.retry_after_s, self.allow,
        )  # fmt: skip


def _rebuild(
    status: int,
    message: str,
    code: str | None,
    param: str | None,
    retry_after_s: int | None,
    allow: str | None,
) -> HttpError:
    return HttpError(status, message, code=code, param=param, retry_after_s=retry_after_s, allow=allow)


def as_http_error(error: Exception) -> HttpError:
    """Return what a client is told of ``error``: no addresses, paths or tracebacks."""
    match error:
        case HttpError():
            return error
        case UnknownModel():
            return HttpError(404, str(error), code="model_not_found", param="model")
        case EmptyPrompt():
            return HttpError(400, str(error), code="empty_prompt", param="prompt")
        case ContextTooLong():
            return HttpError(400, str(error), code="context_length_exceeded")
        case NoWorkers():
            return HttpError(503, str(error), code="no_workers", retry_after_s=error.retry_after_s)
        case EngineBusy():
            return HttpError(OVERLOADED, str(error), code="overloaded", retry_after_s=error.retry_after_s)
        case EngineFailed():
            # Its reason may hold the address of an upstream, or a path: it is in the log.
            return HttpError(503, "the engine of a worker failed", code="engine_failed", retry_after_s=1)
        case BadTokenizer():
            return HttpError(500, "the tokenizer of this model cannot be used", code="internal_error")
        case WorkersLost():
            text = f"{error.count} times in a row a worker failed while it had this request"
            return HttpError(500, text, code="workers_lost")
        case OtherTokenizer():
            return HttpError(503, str(error), code="other_tokenizer", retry_after_s=1)
        case RequestRefused():
            return HttpError(error.status, str(error), code="request_refused")
        case MailboxFull() | Overloaded():
            return HttpError(OVERLOADED, f"overloaded: {error.why}", code="overloaded", retry_after_s=1)
        case ActorUnavailable() | ActorStopped() if error.items:
            text = f"the answer was cut off: {error.actor} went away"
            return HttpError(503, text, code="worker_lost", retry_after_s=1)
        case ActorUnavailable() | ActorStopped():
            return HttpError(503, f"{error.actor} is not available", code="unavailable", retry_after_s=1)
        case DeadlineExceeded():
            return HttpError(504, str(error), code="timeout")
        case TooLarge():
            return HttpError(413, str(error), code="request_too_large")
        case EncodeError():
            return HttpError(400, str(error), code="invalid_value")
        case RemoteError():
            return HttpError(500, f"{error.actor} failed: {error.kind}: {error.why}", code="internal_error")
    return HttpError(500, f"{type(error).__name__}: {error}", code="internal_error")
