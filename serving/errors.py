"""What the serving actors raise, besides what any actor may raise."""

from __future__ import annotations

from collections.abc import Iterable

from callboard.actors.policy import Executed
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
    """What serving needs is not installed."""

    def __init__(self, missing: str, extra: str = "serving") -> None:
        self.missing, self.extra = missing, extra
        who = "the frontend" if extra == "serving" else "this"
        super().__init__(f"{who} needs {missing}, which is not installed; pip install 'callboard[{extra}]'")

    def __reduce__(self) -> tuple[type[MissingServingExtra], tuple[str, str]]:
        return type(self), (self.missing, self.extra)


class BadTokenizer(ServingError):
    """A tokenizer directory cannot be used."""

    def __init__(self, directory: str, why: str) -> None:
        self.directory, self.why = directory, why
        super().__init__(
            f"the tokenizer in {directory} cannot be used: {why}; it needs tokenizer.json and, for chats, a template"
        )

    def __reduce__(self) -> tuple[type[BadTokenizer], tuple[str, str]]:
        return type(self), (self.directory, self.why)


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


class EmptyPrompt(ServingError, ValueError):
    """There is nothing that an answer could follow."""

    def __init__(self) -> None:
        super().__init__("the prompt has 0 tokens; it must have at least 1")

    def __reduce__(self) -> tuple[type[EmptyPrompt], tuple[()]]:
        return type(self), ()


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


class WrongRole(ServingError):
    """A worker was asked for the part of a generation that it does not do."""

    def __init__(self, role: str, asked: str) -> None:
        self.role, self.asked = role, asked
        super().__init__(
            f'the worker\'s role is "{role}", and it was asked to {asked}; give the router prefill workers as'
            " prefill and the others as workers"
        )

    def __reduce__(self) -> tuple[type[WrongRole], tuple[str, str]]:
        return type(self), (self.role, self.asked)


class OtherTokenizer(ServingError):
    """The worker takes other token ids than the request has, or text, or no text: it is another one than was known."""

    def __init__(self, model: str) -> None:
        self.model = model
        super().__init__(f"{model} is served with another tokenizer than before; ask again")

    def __reduce__(self) -> tuple[type[OtherTokenizer], tuple[str]]:
        return type(self), (self.model,)


class EngineFailed(ServingError):
    """The engine behind a worker failed, not the request: another worker may do it."""

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(f"the engine failed: {why}")

    def __reduce__(self) -> tuple[type[EngineFailed], tuple[str]]:
        return type(self), (self.why,)


class EngineAway(EngineFailed):
    """The engine behind a worker cannot be reached: nothing of the request was run."""

    executed = Executed.NEVER


class WorkersLost(ServingError):
    """Several workers in a row failed while they had the request, before they gave a piece; it may be its fault."""

    def __init__(self, count: int, why: str) -> None:
        self.count, self.why = count, why
        super().__init__(
            f"{count} times in a row a worker failed while it had this request, which may be its fault"
            f" (migration_limit); the last: {why}"
        )

    def __reduce__(self) -> tuple[type[WorkersLost], tuple[int, str]]:
        return type(self), (self.count, self.why)


class EngineBusy(ServingError):
    """The engine behind a worker takes nothing more now; another worker may. Retry after ``retry_after_s`` seconds."""

    def __init__(self, why: str, retry_after_s: int = 1) -> None:
        self.why, self.retry_after_s = why, retry_after_s
        super().__init__(f"the engine is busy: {why}")

    def __reduce__(self) -> tuple[type[EngineBusy], tuple[str, int]]:
        return type(self), (self.why, self.retry_after_s)


class RequestRefused(ServingError, ValueError):
    """The engine does not take this request; no other worker would. ``status`` is what it would be in HTTP."""

    def __init__(self, why: str, status: int = 400) -> None:
        self.why, self.status = why, status
        super().__init__(why)

    def __reduce__(self) -> tuple[type[RequestRefused], tuple[str, int]]:
        return type(self), (self.why, self.status)
