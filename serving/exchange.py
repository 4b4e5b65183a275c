"""One HTTP request and its answer over ASGI: the body within a limit, the answer, and a client that leaves."""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import Awaitable, Callable, MutableMapping
from types import TracebackType
from typing import Any

from .http_errors import HttpError
from .openai_answers import error_event

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

JSON = b"application/json"
EVENTS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]
BODY_S = 60.0
"""How long a client may take to send a body: until then it has a place among ``max_requests``."""

_PLAIN_ID = re.compile(rb"[!-~]{1,128}")


def new_id() -> str:
    """Return an identifier that nobody else has; not a secret (the system's random source costs ten times as much)."""
    return f"{random.getrandbits(128):032x}"


class ClientLeft(Exception):
    """The client closed the connection before the answer was complete."""


class Exchange:
    """A request, and what was answered so far."""

    __slots__ = (
        "_aborted",
        "_begun",
        "_gone",
        "_receive",
        "_send",
        "_task",
        "begun_s",
        "ended",
        "extra",
        "headers",
        "request_id",
    )

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        given = self.headers.get(b"x-request-id", b"")
        self.request_id = given if _PLAIN_ID.fullmatch(given) else new_id().encode()
        self._begun = False
        self._gone = False
        self._aborted: HttpError | None = None
        self._task: asyncio.Task[Any] | None = None
        self.ended = False
        self.begun_s = 0.0
        """When the answer began to leave; 0 before."""
        self.extra: list[tuple[bytes, bytes]] = []
        """Headers of the answer, besides those that every answer has."""

    def __repr__(self) -> str:
        state = "ended" if self.ended else "streams" if self._begun else "works"
        return f"<Exchange {self.request_id.decode()} {state}>"

    # -- in

    async def body(self, limit_bytes: int) -> bytearray:
        """Return the request's body. Raises `HttpError` (408, 413, 415) and `ClientLeft`."""
        self._check_encoding()
        announced = self.headers.get(b"content-length", b"")
        if announced.isdigit() and int(announced) > limit_bytes:
            raise _too_large(int(announced), limit_bytes)
        try:
            async with asyncio.timeout(BODY_S):
                return await self._read(limit_bytes)
        except TimeoutError:
            text = f"the body did not come within {BODY_S:g} s"
            raise HttpError(408, text, code="request_timeout") from None

    async def _read(self, limit_bytes: int) -> bytearray:
        body = bytearray()
        while True:
            message = await self._receive()
            if message["type"] != "http.request":
                raise ClientLeft
            body += message.get("body", b"")
            if len(body) > limit_bytes:
                raise _too_large(len(body), limit_bytes)
            if not message.get("more_body", False):
                return body

    def _check_encoding(self) -> None:
        encoding = self.headers.get(b"content-encoding", b"identity").decode("latin-1")
        if encoding.lower() != "identity":
            raise HttpError(
                415, f"the body is encoded with {encoding}; send it as it is", code="unsupported_encoding"
            )

    # -- out

    async def answer(
        self,
        status: int,
        body: bytes,
        headers: list[tuple[bytes, bytes]] | None = None,
        *,
        kind: bytes = JSON,
    ) -> None:
        """Send a whole answer, of JSON unless said otherwise."""
        length = (b"content-length", b"%d" % len(body))
        await self._start(status, [(b"content-type", kind), length, *(headers or ())])
        await self.end(body)

    async def refuse(self, error: HttpError) -> None:
        """Send an error: as the answer, or as the last event of a stream that has begun."""
        if self.ended:
            return
        if self._begun:
            await self.end(error_event(error))
            return
        headers = error.headers()
        if error.status in (408, 413):
            # The rest of the body is not read: the connection cannot be used again.
            headers.append((b"connection", b"close"))
        await self.answer(error.status, error.body(), headers)

    async def write(self, events: bytes) -> None:
        """Send a part of a stream; waits while the client does not read."""
        if not self._begun:
            await self._start(200, EVENTS)
        await self._send({"type": "http.response.body", "body": events, "more_body": True})

    async def end(self, body: bytes) -> None:
        """Send the last part."""
        if not self._begun:
            await self._start(200, EVENTS)
        self.ended = True
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def _start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self._begun = True
        self.begun_s = time.monotonic()
        headers = [*headers, *self.extra, (b"x-request-id", self.request_id)]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    # -- the end that somebody else decides

    def abort(self, error: HttpError) -> None:
        """End the work for this request, from another task; the client is told ``error``."""
        if self._task is not None and self._aborted is None:
            self._aborted = error
            self._task.cancel()

    def watched(self) -> Watch:
        """Return a block that ends with `ClientLeft` when the client leaves, and with what `abort` was given."""
        return Watch(self)


class Watch:
    """The block of `Exchange.watched`; the body must have been read before."""

    __slots__ = ("_exchange", "_task", "_watcher")

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    async def __aenter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = self._exchange._task = task
        self._watcher = asyncio.get_running_loop().create_task(self._watch(), name="http watch")

    async def _watch(self) -> None:
        exchange = self._exchange
        while (await exchange._receive())["type"] != "http.disconnect":
            pass
        if not exchange.ended:
            exchange._gone = True
            self._task.cancel()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        exchange = self._exchange
        exchange._task = None
        self._watcher.cancel()
        if not exchange._gone and exchange._aborted is None:
            return
        # The cancellation was ours. It is taken back also where the work was over when it came.
        if self._task.cancelling():
            self._task.uncancel()
        if exchange._gone:
            raise ClientLeft from None
        if exchange._aborted is not None and not exchange.ended:
            raise exchange._aborted from None


def _too_large(size: int, limit_bytes: int) -> HttpError:
    return HttpError(
        413,
        f"the body has {size:,} bytes or more; the frontend takes {limit_bytes:,} (its argument max_body_bytes)",
        code="request_too_large",
    )
