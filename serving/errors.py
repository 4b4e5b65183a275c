"""What the serving actors raise, besides what any actor may raise."""

from __future__ import annotations

from collections.abc import Iterable

from callboard.transports.errors import CallboardError, did_you_mean


class ServingError(CallboardError):
    """Root of the errors of frontend, router and worker."""


class UnknownModel(ServingError, LookupError):
    """No worker serves this model."""

    def __init__(self, model: str, known: Iterable[str]) -> None:
        self.model, self.known = model, sorted(known)
        names = ", ".join(self.known) or "none"
        super().__init__(
            f"no worker serves the model {model!r}; models are: {names}{did_you_mean(model, self.known)}"
        )

    def __reduce__(self) -> tuple[type[UnknownModel], tuple[str, list[str]]]:
        return type(self), (self.model, self.known)


class NoWorkers(ServingError):
    """There is no worker that could take the request; it was not run. Retry after ``retry_after_s`` seconds."""

    def __init__(self, why: str, retry_after_s: int = 1) -> None:
        self.why, self.retry_after_s = why, retry_after_s
        super().__init__(f"no worker is available: {why}")

    def __reduce__(self) -> tuple[type[NoWorkers], tuple[str, int]]:
        return type(self), (self.why, self.retry_after_s)


class MissingServingExtra(ServingError, ImportError):
    """The HTTP server is not installed."""

    def __init__(self, missing: str) -> None:
        self.missing = missing
        super().__init__(
            f"the frontend needs {missing}, which is not installed; pip install 'callboard[serving]'"
        )

    def __reduce__(self) -> tuple[type[MissingServingExtra], tuple[str]]:
        return type(self), (self.missing,)


class PortTaken(ServingError):
    """The port of the frontend cannot be bound."""

    def __init__(self, host: str, port: int, why: str) -> None:
        self.host, self.port, self.why = host, port, why
        super().__init__(
            f"cannot listen on {host}:{port}: {why}; give the frontend another port, port = 0 for a free one, "
            f"or stop what uses it (ss -ltnp 'sport = :{port}')"
        )

    def __reduce__(self) -> tuple[type[PortTaken], tuple[str, int, str]]:
        return type(self), (self.host, self.port, self.why)


class ContextTooLong(ServingError, ValueError):
    """The prompt leaves no room for an answer."""

    def __init__(self, prompt_tokens: int, context_tokens: int) -> None:
        self.prompt_tokens, self.context_tokens = prompt_tokens, context_tokens
        super().__init__(
            f"the prompt has {prompt_tokens} tokens; the model's context holds {context_tokens}, and the answer "
            "needs at least 1 of them"
        )

    def __reduce__(self) -> tuple[type[ContextTooLong], tuple[int, int]]:
        return type(self), (self.prompt_tokens, self.context_tokens)
