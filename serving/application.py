"""The frontend as an ASGI application: which path does what, and how a generation becomes an answer.

Hot path: `_stream` turns each batch of pieces that arrives into one body message. The status is sent with the
first piece, so that whatever goes wrong before it is a proper HTTP error.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from typing import Any, Protocol

import orjson
from msgspec.structs import asdict

from callboard.transports.errors import did_you_mean

from . import openai_answers as answers
from .choices import requests_of, side_by_side, together
from .errors import EngineFailed, UnknownModel
from .exchange import ClientLeft, Exchange, Receive, Scope, Send, new_id
from .hints import answer_headers, with_hints
from .http_errors import HttpError, as_http_error
from .metrics import CONTENT_TYPE, FrontendMetrics, render
from .openai_pieces import Choice
from .openai_requests import Asked, parse_chat, parse_completion
from .protocol import Finish, FrontendLoad, GenerateRequest, ModelInfo, Piece, Routed

MODELS = "/v1/models"

log = logging.getLogger("callboard.serving")


class Backend(Protocol):
    """What the application needs from behind it."""

    def generate(self, request: GenerateRequest) -> AsyncGenerator[list[Piece], None]:
        """Yield batches of pieces, the last one ending with a `Finish`."""

    async def models(self) -> list[ModelInfo]:
        """Return what is served."""

    async def workers(self) -> dict[str, int]:
        """Return the workers that are up, with the requests outstanding on each."""

    async def statistics(self) -> dict[str, Any]:
        """Return what a router has counted."""


Handler = Callable[[Exchange, str], Awaitable[None]]


class Application:
    """Answers HTTP requests from a `Backend`; ``await application(scope, receive, send)``."""

    def __init__(self, backend: Backend, *, max_body_bytes: int, max_requests: int) -> None:
        self._backend = backend
        self._max_body_bytes, self._max_requests = max_body_bytes, max_requests
        self._running: set[Exchange] = set()
        self._draining = False
        self.finished = self.failed = self.disconnected = self.refused = 0
        self.metrics = FrontendMetrics()
        self._routes: dict[str, tuple[str, Handler]] = {
            "/v1/chat/completions": ("POST", self._chat),
            "/v1/completions": ("POST", self._completion),
            MODELS: ("GET", self._models),
            "/health": ("GET", self._health),
            "/live": ("GET", self._live),
            "/metrics": ("GET", self._metrics),
        }

    def __repr__(self) -> str:
        return f"<Application {len(self._running)} run{', draining' if self._draining else ''}>"

    def load(self) -> FrontendLoad:
        """Return what it is doing and has done."""
        return FrontendLoad(
            running=len(self._running),
            finished=self.finished,
            failed=self.failed,
            disconnected=self.disconnected,
            refused=self.refused,
        )

    def drain(self) -> None:
        """Refuse new generations from now on."""
        self._draining = True

    def abort(self) -> int:
        """End what runs, with an error to its client; returns how much that was."""
        for exchange in self._running:
            exchange.abort(_stopping())
        return len(self._running)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; never raises for what a client does."""
        if scope["type"] != "http":
            return
        exchange = Exchange(scope, receive, send)
        try:
            handler, rest = self._route(scope["method"], scope["path"])
            await handler(exchange, rest)
        except ClientLeft:
            self.disconnected += 1
        except Exception as error:
            await self._refuse(exchange, error)

    def _route(self, method: str, path: str) -> tuple[Handler, str]:
        allowed, handler, rest = "GET", None, ""
        if path in self._routes:
            allowed, handler = self._routes[path]
        elif path.startswith(f"{MODELS}/"):
            handler, rest = self._model, path[len(MODELS) + 1 :]
        if handler is None:
            known = [*self._routes, f"{MODELS}/{{id}}"]
            text = f"there is no {path}; paths are: {', '.join(known)}{did_you_mean(path, known)}"
            raise HttpError(404, text, code="unknown_url")
        if method != allowed and (method, allowed) != ("HEAD", "GET"):
            text = f"{path} takes {allowed}, not {method}"
            raise HttpError(405, text, code="method_not_allowed", allow=allowed)
        return handler, rest

    async def _refuse(self, exchange: Exchange, error: Exception) -> None:
        refusal = as_http_error(error)
        if refusal.status < 500:
            self.refused += 1
        else:
            self.failed += 1
        self.metrics.ended("", refusal.status)
        if refusal.status == 500:
            log.error("request %s failed", exchange.request_id.decode(), exc_info=error)
        elif isinstance(error, EngineFailed):  # its client is not told why
            log.warning("request %s: %s", exchange.request_id.decode(), error)
        await exchange.refuse(refusal)

    # -- generations

    async def _chat(self, exchange: Exchange, _: str) -> None:
        await self._generate(exchange, parse_chat, "chatcmpl-")

    async def _completion(self, exchange: Exchange, _: str) -> None:
        await self._generate(exchange, parse_completion, "cmpl-")

    async def _generate(
        self, exchange: Exchange, parse: Callable[[bytearray, str], Asked], prefix: str
    ) -> None:
        self._admit()
        self._running.add(exchange)
        began_s = time.monotonic()
        try:
            asked = parse(await exchange.body(self._max_body_bytes), prefix + new_id())
            request = with_hints(asked.request, exchange.headers)
            if request.traceparent:
                exchange.extra.append((b"traceparent", request.traceparent.encode()))
            if asked.choices > 1:
                async with exchange.watched():
                    finish = await self._several(exchange, asked, request)
            else:
                async with exchange.watched(), aclosing(self._backend.generate(request)) as batches:
                    answer = self._stream if asked.stream else self._whole
                    finish = await answer(exchange, asked, batches)
        finally:
            self._running.discard(exchange)
        self.finished += 1
        self._count(asked.request.model, exchange, finish, began_s)

    def _count(self, model: str, exchange: Exchange, finish: Finish, began_s: float) -> None:
        metrics = self.metrics
        metrics.ended(model, 200)
        metrics.tokens += finish.completion_tokens
        metrics.prompt_tokens += finish.prompt_tokens
        metrics.cached_tokens += finish.cached_tokens
        metrics.duration.add(time.monotonic() - began_s)
        if exchange.begun_s:
            metrics.first_token.add(exchange.begun_s - began_s)

    def _admit(self) -> None:
        if self._draining:
            raise _stopping()
        if len(self._running) >= self._max_requests:
            raise HttpError(
                429,
                f"{len(self._running)} requests are being answered, which is the limit (max_requests)",
                code="too_many_requests",
                retry_after_s=1,
            )

    async def _stream(
        self, exchange: Exchange, asked: Asked, batches: AsyncGenerator[list[Piece], None]
    ) -> Finish:
        events = answers.Events(asked, int(time.time()))
        begin = events.begin()
        async for batch in batches:
            if isinstance(batch[0], Routed):
                exchange.extra += answer_headers(batch[0])
                if not (batch := batch[1:]):
                    continue
            last = batch[-1]
            if type(last) is Finish:
                await exchange.end(begin + events.pieces(batch[:-1]) + events.end(last))
                return last
            body = begin + events.pieces(batch)
            begin = b""
            if body:
                await exchange.write(body)
        raise _incomplete()

    async def _whole(
        self, exchange: Exchange, asked: Asked, batches: AsyncGenerator[list[Piece], None]
    ) -> Finish:
        pieces: list[Any] = []
        async for batch in batches:
            if isinstance(batch[0], Routed):
                exchange.extra += answer_headers(batch[0])
                pieces += batch[1:]
            else:
                pieces += batch
        if not pieces or type(finish := pieces.pop()) is not Finish:
            raise _incomplete()
        await exchange.answer(200, answers.whole(asked, int(time.time()), pieces, finish))
        return finish

    async def _several(self, exchange: Exchange, asked: Asked, request: GenerateRequest) -> Finish:
        created_s, count = int(time.time()), asked.choices
        events = [answers.Events(asked, created_s, index) for index in range(count)]
        choices = [Choice() for _ in range(count)]
        begun, finishes = [False] * count, dict[int, Finish]()
        source = side_by_side(self._backend.generate, requests_of(request, count))
        async with aclosing(source) as batches:
            async for index, batch in batches:
                shown = [piece for piece in batch if not isinstance(piece, Routed | Finish)]
                if isinstance(batch[0], Routed) and not exchange.begun_s:
                    exchange.extra += answer_headers(batch[0])
                if isinstance(last := batch[-1], Finish):
                    finishes[index] = last
                if not asked.stream:
                    choices[index].take(shown)
                    continue
                body = b"" if begun[index] else events[index].begin()
                begun[index] = True
                body += events[index].pieces(shown)
                if index in finishes:
                    body += events[index].ended(finishes[index])
                if body:
                    await exchange.write(body)
        if len(finishes) < count:
            raise _incomplete()
        counts = together([finishes[index] for index in range(count)])
        if asked.stream:
            await exchange.end(events[0].close(counts))
        else:
            pairs = [(choice, finishes[index]) for index, choice in enumerate(choices)]
            await exchange.answer(200, answers.whole_of(asked, created_s, pairs, counts))
        return counts

    # -- the rest

    async def _models(self, exchange: Exchange, _: str) -> None:
        await exchange.answer(200, orjson.dumps(answers.models(await self._backend.models())))

    async def _model(self, exchange: Exchange, name: str) -> None:
        infos = {info.model: info for info in await self._backend.models()}
        if name not in infos:
            raise UnknownModel(name, infos)
        await exchange.answer(200, orjson.dumps(answers.model(infos[name])))

    async def _health(self, exchange: Exchange, _: str) -> None:
        if self._draining:
            state, why = "draining", "the frontend is stopping"
        else:
            state, why = "unavailable", "no worker is up"
            try:
                workers = await self._backend.workers()
            except Exception as error:  # whatever it is, the router does not answer
                why = as_http_error(error).message
            else:
                if workers:
                    await exchange.answer(200, orjson.dumps({"status": "ready", "workers": workers}))
                    return
        await exchange.answer(503, orjson.dumps({"status": state, "reason": why}), [(b"retry-after", b"1")])

    async def _metrics(self, exchange: Exchange, _: str) -> None:
        router: dict[str, Any] | None = None
        with suppress(Exception):  # whatever it is, the frontend has its own to tell
            router = await self._backend.statistics()
        text = await asyncio.to_thread(render, self.metrics, asdict(self.load()), router)
        await exchange.answer(200, text, kind=CONTENT_TYPE)

    async def _live(self, exchange: Exchange, _: str) -> None:
        await exchange.answer(200, b'{"status":"live"}')


def _stopping() -> HttpError:
    return HttpError(503, "the frontend is stopping", code="draining", retry_after_s=1)


def _incomplete() -> HttpError:
    return HttpError(500, "the engine ended without saying why (no Finish)", code="internal_error")
