"""Requests of strangers: those who speak JSON over a plane's native protocol, and know nothing of envelopes.

    {"method": "load", "args": [1], "kwargs": {"b": 2}, "deadline_s": 0.5}

All but the method may be missing. The answer is the result in JSON, or ``{"error": {"type", "message", "executed"}}``
and a code as in HTTP. A request goes to this incarnation and no other, whatever the directory says of its name.
"""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import logging
from collections.abc import Awaitable
from time import monotonic
from typing import Any, Protocol

import msgspec
import orjson

from callboard.transports.base import Answer, Endpoint
from callboard.transports.setting_rules import LONGEST_S
from callboard.transports.settings import NetworkSettings

from .cell import Cell
from .directory import Location, split_name
from .errors import (
    ActorError,
    ActorNotFound,
    ActorStopped,
    ActorUnavailable,
    BadArguments,
    DeadlineExceeded,
    MailboxFull,
    RemoteError,
    StashFull,
    UnknownMethod,
)
from .policy import Executed
from .target import Route

CODES: dict[type[BaseException], int] = {
    BadArguments: 400,
    UnknownMethod: 404,
    ActorNotFound: 404,
    MailboxFull: 429,
    StashFull: 429,
    ActorStopped: 503,
    ActorUnavailable: 503,
    DeadlineExceeded: 504,
}
"""Errors that are not the handler's, and what they are called in HTTP; everything else is 500."""

log = logging.getLogger("callboard.actors")


class Request(msgspec.Struct, forbid_unknown_fields=True):
    """What a stranger asks for."""

    method: str
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    deadline_s: float | None = None


class BadRequest(Exception):
    """What a stranger has sent is no request."""


class Host(Protocol):
    """What this module needs from its node."""

    settings: NetworkSettings
    dropped_tells: int

    @property
    def ask_deadline_s(self) -> float:
        """Deadline of an ask that names none."""

    def route(self, location: Location) -> Route:
        """The way to one actor incarnation."""


_decode = msgspec.json.Decoder(Request).decode


def endpoint_of(host: Host, cell: Cell) -> Endpoint:
    """Return an actor as a plane shows it to strangers."""
    name, cls = cell.location.name, cell.cls
    component, index = split_name(name)
    entrance = Entrance(host, cell)
    about = inspect.cleandoc(cls.__doc__ or "").partition("\n")[0]  # not what it inherits
    return Endpoint(
        name=name,
        component=component,
        index=index,
        incarnation=cell.location.incarnation,
        actor_class=f"{cls.__module__}:{cls.__qualname__}",
        summary=f"{cls.__name__}: {about}" if about else cls.__name__,
        methods={method.name: spelt(method.signature) for method in cell.methods.values()},
        statistics=cell.statistics,
        waiting=lambda: len(cell.mailbox) + cell.running,
        ask=entrance.ask,
        tell=entrance.tell,
    )


class _Bare(str):
    """Text that `inspect` shows without quotes."""

    __slots__ = ()
    __repr__ = str.__str__


def spelt(signature: inspect.Signature) -> str:
    """Return a signature as it is written, with annotations that are texts (PEP 563) without quotes."""

    def bare(annotation: Any) -> Any:
        return _Bare(annotation) if isinstance(annotation, str) else annotation

    parameters = [one.replace(annotation=bare(one.annotation)) for one in signature.parameters.values()]
    shown = signature.replace(parameters=parameters, return_annotation=bare(signature.return_annotation))
    return str(shown)


class Entrance:
    """Where the requests of strangers to one actor come in; whatever goes wrong with one is in its answer."""

    __slots__ = ("_cell", "_host")

    def __init__(self, host: Host, cell: Cell) -> None:
        self._host = host
        self._cell = cell

    def __repr__(self) -> str:
        return f"<Entrance to {self._cell.location.name}>"

    def ask(self, body: bytes) -> Awaitable[Answer]:
        """See `Endpoint.ask`."""
        try:
            request = self._read(body)
            budget_s = self._host.ask_deadline_s if request.deadline_s is None else request.deadline_s
            deadline = monotonic() + budget_s
            route = self._host.route(self._cell.location)
            if route.crowded:
                return _ask_with_room(route, request, deadline)
            return _ask(route, request, deadline)
        except Exception as error:
            return _already(refusal(error))

    def tell(self, body: bytes) -> Answer:
        """See `Endpoint.tell`."""
        try:
            request = self._read(body)
            if request.deadline_s is not None:
                raise BadRequest("nobody waits for an answer to this request, so it takes no deadline_s")
            route = self._host.route(self._cell.location)
            route.tell(request.method, tuple(request.args), request.kwargs, None)
        except Exception as error:
            answer = refusal(error)
            self._host.dropped_tells += 1
            log.warning("dropped a tell of a stranger to %s: %s", self._cell.location.name, answer.error)
            return answer
        return Answer(body=b"")

    def _read(self, body: bytes) -> Request:
        limit = self._host.settings.max_message_bytes
        if len(body) > limit:
            raise BadRequest(
                f"it has {len(body):,} bytes; the limit is {limit:,} (network.max_message_bytes)"
            )
        try:
            request = _decode(body)
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            raise BadRequest(f"not a request in JSON: {error}") from None
        if request.deadline_s is not None and not 0 < request.deadline_s <= LONGEST_S:
            raise BadRequest(
                f"deadline_s is {request.deadline_s}; it must be above 0 and at most {LONGEST_S:,.0f}"
            )
        method = self._cell.methods.get(request.method)
        if method is not None and method.streams:
            raise BadRequest(
                f"{request.method} answers with a stream; strangers get single answers only. Give the actor a "
                "method that returns a list"
            )
        return request


def _ask(route: Route, request: Request, deadline: float) -> Awaitable[Answer]:
    args = tuple(request.args)
    call_id, future = route.ask(
        request.method, args, request.kwargs, max(0.001, deadline - monotonic()), deadline, None
    )
    return _outcome(route, call_id, future)


async def _outcome(route: Route, call_id: int, future: asyncio.Future[Any]) -> Answer:
    try:
        value = await future
    except asyncio.CancelledError:
        route.cancel(call_id)
        raise
    except Exception as error:
        return refusal(error)
    return result(value)


async def _ask_with_room(route: Route, request: Request, deadline: float) -> Answer:
    where = route.location
    try:
        async with asyncio.timeout(deadline - monotonic()):
            has_room = await route.room()
    except TimeoutError:
        late = DeadlineExceeded("there was no room in its mailbox in time", executed=Executed.NEVER)
        return refusal(late)
    if not has_room:
        return refusal(ActorStopped("it is stopping", actor=where.name, incarnation=where.incarnation))
    try:
        waiting = _ask(route, request, deadline)
    except Exception as error:
        return refusal(error)
    return await waiting


async def _already(answer: Answer) -> Answer:
    return answer


def result(value: Any) -> Answer:
    """Return what a handler returned as JSON, or an answer that says why there is none for it."""
    try:
        plain = msgspec.to_builtins(_whole(value), str_keys=True, enc_hook=_plain)
        return Answer(body=orjson.dumps(plain))
    except Exception as error:  # of a model's own code, too
        return Answer.failure(
            500, type(error).__name__, f"the result cannot be written as JSON: {_text(error)}", "yes"
        )


def refusal(error: Exception) -> Answer:
    """Return what a stranger is told of an error, and the code for it."""
    if isinstance(error, BadRequest):
        return Answer.failure(400, "BadRequest", _text(error))
    executed = getattr(getattr(error, "executed", None), "value", "yes")
    code = next((code for kind, code in CODES.items() if isinstance(error, kind)), 500)
    if executed == "yes" and code < 500:  # of something that the handler itself has asked
        code = 500
    kind, message = type(error).__name__, _text(error)
    if isinstance(error, ActorError):  # without the traceback: it is not for strangers
        message = f"{error.actor}: {error.why}" if error.actor else error.why
    if isinstance(error, RemoteError) and error.kind:
        kind = error.kind.rpartition(":")[2]
    return Answer.failure(code, kind, _sendable(message), executed)


def _whole(value: Any) -> Any:
    """Dataclasses with all their fields: one that msgspec makes has its defaults in the class, JSON none of them."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _whole(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if type(value) is dict:
        return {key: _whole(inner) for key, inner in value.items()}
    if type(value) in (list, tuple):
        return [_whole(inner) for inner in value]
    return value


def _plain(value: Any) -> Any:
    """What msgspec calls for a class that it does not know: models of pydantic, arrays, numbers of numpy."""
    for name in ("model_dump", "tolist"):
        convert = getattr(value, name, None)
        if convert is not None and not isinstance(value, type):
            return convert()
    raise TypeError(f"a {type(value).__name__} has no form in JSON")


def _text(error: Exception) -> str:
    try:
        text = str(error)
    except Exception:  # of a class derived by a user
        return "its text cannot be had"
    return _sendable(text)


def _sendable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
