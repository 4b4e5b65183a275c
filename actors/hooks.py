"""Hooks for metrics and traces: what is installed here is told of every message of this process.

Nothing is installed by default. Then a message costs one look at `HOOKS.on` where it is sent, and one where it is
handled, and nothing is made for it.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

TRACE = "t"
"""Key of the headers in ``extra`` of an envelope."""

Headers = dict[str, str]
"""What a trace puts into a message, for example ``traceparent`` of W3C Trace Context."""


class Metrics(Protocol):
    """Counts what is handled. Called on the event loop: it must return at once, and not raise."""

    def handled(self, actor: str, method: str, seconds: float, error: BaseException | None) -> None:
        """A handler of ``actor`` has ended after ``seconds``; ``error`` is what it raised, also its cancellation."""


class Tracing(Protocol):
    """Follows messages from process to process. Called on the event loop: it must return at once, and not raise."""

    def sending(self, target: str, method: str) -> Headers:
        """Return what shall travel with a message; called in the context of the sender."""

    def handling(self, actor: str, method: str, headers: Headers) -> AbstractContextManager[object]:
        """Return a context that is entered before the handler runs and left when it has ended, or raised.

        ``headers`` is what `sending` returned where the message came from; empty if it said nothing.
        """


class Hooks:
    """What is installed in this process."""

    __slots__ = ("metrics", "on", "tracing")

    def __init__(self) -> None:
        self.metrics: Metrics | None = None
        self.tracing: Tracing | None = None
        self.on = False

    def __repr__(self) -> str:
        return f"<Hooks metrics={self.metrics!r} tracing={self.tracing!r}>"


HOOKS = Hooks()


def install_hooks(*, metrics: Metrics | None = None, tracing: Tracing | None = None) -> None:
    """Install hooks for all actors of this process, in place of those before; None takes them out.

    Each process has its own: call it at the import of a module of the actors, or in ``on_start``.
    """
    HOOKS.metrics, HOOKS.tracing = metrics, tracing
    HOOKS.on = metrics is not None or tracing is not None


def with_trace(extra: dict[str, Any] | None, target: str, method: str) -> dict[str, Any] | None:
    """Return what a message carries besides its arguments, with its trace."""
    headers = HOOKS.tracing.sending(target, method) if HOOKS.tracing is not None else None
    return {**(extra or {}), TRACE: headers} if headers else extra


def trace_of(actor: str, method: str, extra: dict[str, Any] | None) -> AbstractContextManager[object]:
    """Return the context in which a message is handled that carries ``extra``."""
    tracing = HOOKS.tracing
    if tracing is None:
        return nullcontext()
    sent = extra.get(TRACE) if extra else None
    headers = {k: v for k, v in sent.items() if type(k) is type(v) is str} if type(sent) is dict else {}
    return tracing.handling(actor, method, headers)
