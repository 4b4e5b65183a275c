"""Hooks for metrics and traces: what is installed here is told of every message of this process.

Nothing is installed by default. Then a message costs one look at `HOOKS.on` where it is sent, and one where it is
handled, and nothing is made for it.
"""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from time import monotonic
from types import TracebackType
from typing import Any, Protocol

log = logging.getLogger("callboard.actors")

TRACE = "t"
"""Key of the headers in ``extra`` of an envelope."""

Headers = dict[str, str]
"""What a trace puts into a message, for example ``traceparent`` of W3C Trace Context."""


class Metrics(Protocol):
    """Counts what is handled. Called on the event loop: it must return at once; what it raises is logged."""

    def handled(self, actor: str, method: str, seconds: float, error: BaseException | None) -> None:
        """A handler of ``actor`` has ended after ``seconds``; ``error`` is what it raised, also its cancellation."""


class Tracing(Protocol):
    """Follows messages from process to process. Called on the event loop, like `Metrics`."""

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

    Each process has its own: call it at the import of a module of the actors, or in ``on_start``. Raises
    `TypeError` for what is not `Metrics` or not `Tracing`.
    """
    for hook, kind, methods in (
        (metrics, "metrics", ("handled",)),
        (tracing, "tracing", ("sending", "handling")),
    ):
        for name in methods if hook is not None else ():
            if not callable(getattr(hook, name, None)):
                raise TypeError(f"{kind} is {hook!r}, which has no method {name}; see callboard.actors.hooks")
    HOOKS.metrics, HOOKS.tracing = metrics, tracing
    HOOKS.on = metrics is not None or tracing is not None


def with_trace(extra: dict[str, Any] | None, target: str, method: str) -> dict[str, Any] | None:
    """Return what a message carries besides its arguments, with its trace."""
    if HOOKS.tracing is None:
        return extra
    try:
        headers = HOOKS.tracing.sending(target, method)
    except Exception:
        log.exception("the tracing hook failed as %s.%s was sent", target, method)
        return extra
    return {**(extra or {}), TRACE: headers} if headers else extra


class Observed:
    """Around one handler: calls the hooks, and lets nothing that they raise reach the message."""

    __slots__ = ("_actor", "_context", "_extra", "_method", "_start_s")

    def __init__(self, actor: str, method: str, extra: dict[str, Any] | None) -> None:
        self._actor, self._method, self._extra = actor, method, extra
        self._context: AbstractContextManager[object] | None = None
        self._start_s = 0.0

    def __enter__(self) -> None:
        self._start_s = monotonic()
        if HOOKS.tracing is None:
            return
        sent = self._extra.get(TRACE) if self._extra else None
        headers = {k: v for k, v in sent.items() if type(k) is type(v) is str} if type(sent) is dict else {}
        try:
            context = HOOKS.tracing.handling(self._actor, self._method, headers)
            context.__enter__()
            self._context = context
        except Exception:
            self._log("before")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        seconds = monotonic() - self._start_s
        try:
            if self._context is not None:
                self._context.__exit__(kind, error, trace)
        except Exception as raised:
            if raised is not error:  # a context that lets the error of the handler through has not failed
                self._log("after")
        try:
            if HOOKS.metrics is not None:
                HOOKS.metrics.handled(self._actor, self._method, seconds, error)
        except Exception:
            self._log("after")

    def _log(self, when: str) -> None:
        log.exception("a hook failed %s %s.%s was handled", when, self._actor, self._method)
