"""Requests of strangers: those who speak JSON over a plane's native protocol, and know nothing of envelopes.

    {"method": "load", "args": [1], "kwargs": {"b": 2}, "deadline_s": 0.5}

All but the method may be missing. The answer is the result in JSON, or ``{"error": {"type", "message", "executed"}}``
and a code as in HTTP.
"""

from __future__ import annotations

import inspect
from typing import Any, Protocol

import msgspec
import orjson

from callboard.transports.base import Answer, Endpoint
from callboard.transports.errors import CallboardError

from .cell import Cell
from .directory import split_name
from .errors import (
    ActorNotFound,
    ActorStopped,
    ActorUnavailable,
    BadArguments,
    DeadlineExceeded,
    MailboxFull,
    UnknownMethod,
)
from .signature import unknown_method

CODES: dict[type[BaseException], int] = {
    BadArguments: 400,
    UnknownMethod: 404,
    ActorNotFound: 404,
    MailboxFull: 429,
    ActorStopped: 503,
    ActorUnavailable: 503,
    DeadlineExceeded: 504,
}
"""Errors that are not the handler's, and what they are called in HTTP; everything else is 500."""


class Request(msgspec.Struct, forbid_unknown_fields=True):
    """What a stranger asks for."""

    method: str
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    deadline_s: float | None = None


class Host(Protocol):
    """What this module needs from its node."""

    def ref(self, name: str, cls: Any = ...) -> Any:
        """Return a reference to an actor."""


_decode = msgspec.json.Decoder(Request).decode


def endpoint_of(host: Host, cell: Cell) -> Endpoint:
    """Return an actor as a plane shows it to strangers."""
    name = cell.location.name
    component, index = split_name(name)

    async def ask(body: bytes) -> Answer:
        return await answer(host, cell, body)

    return Endpoint(
        name=name,
        component=component,
        index=index,
        incarnation=cell.location.incarnation,
        methods={method: _signature(cell.cls, method) for method in cell.methods},
        statistics=cell.statistics,
        ask=ask,
    )


def _signature(cls: type, method: str) -> str:
    try:
        return str(inspect.signature(getattr(cls, method)))
    except (TypeError, ValueError):
        return "(...)"


async def answer(host: Host, cell: Cell, body: bytes) -> Answer:
    """Let the actor handle one request; whatever goes wrong is in the answer."""
    try:
        request = _decode(body)
    except (msgspec.DecodeError, RecursionError) as error:
        return _error(400, "BadRequest", f"not a request in JSON: {error}")
    method = cell.methods.get(request.method)
    if method is None:
        return _error(404, "UnknownMethod", unknown_method(cell.cls, request.method, streams=False))
    if method.streams:
        return _error(
            400,
            "UnknownMethod",
            f"{request.method} answers with a stream; only single answers are given here",
        )
    ref = host.ref(cell.location.name, cell.cls)
    if request.deadline_s is not None:
        try:
            ref = ref.options(deadline_s=request.deadline_s)
        except (CallboardError, ValueError) as error:
            return _error(400, "BadRequest", str(error))
    try:
        value = await ref.ask(request.method, *request.args, **request.kwargs)
        return Answer(body=orjson.dumps(msgspec.to_builtins(value)))
    except Exception as error:
        code = next((code for kind, code in CODES.items() if isinstance(error, kind)), 500)
        executed = getattr(getattr(error, "executed", None), "value", "yes")
        return _error(code, type(error).__name__, str(error), executed)


def _error(code: int, kind: str, message: str, executed: str = "never") -> Answer:
    line = " ".join(f"{kind}: {message}".split())
    facts = {"type": kind, "message": message, "executed": executed}
    return Answer(body=orjson.dumps({"error": facts}), code=code, error=line)
