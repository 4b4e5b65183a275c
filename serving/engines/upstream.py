"""A server with an OpenAI-compatible interface as an engine: vLLM, SGLang, TensorRT-LLM, llama.cpp, Ollama, ourselves.

With ``input = "tokens"`` prompts go as token ids to ``/v1/completions`` and token ids come back (vLLM's
``return_token_ids``), so that the router knows the blocks of a prompt and an answer can be continued anywhere to the
token. With ``input = "text"`` chats and prompts go as they are.

Closing a generation closes its connection, by which these servers abort the request.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from callboard.transports.errors import ConfigError, did_you_mean

from ..errors import EngineAway, EngineBusy, EngineFailed, MissingServingExtra, RequestRefused
from ..kv.hashing import unpack
from ..protocol import GenerateRequest, Input, Load, ModelInfo, Piece
from .upstream_answer import TEXT_BYTES, UpstreamAnswer

if TYPE_CHECKING:
    from aiohttp import ClientResponse, ClientSession

END_S = 0.1
"""How long the end of a body may come after its end mark."""
LINE_BYTES = 4 * 1024 * 1024
"""Longest event of a stream."""

COUNTS = {
    "context_tokens": 0, "block_size": 0, "total_blocks": 0, "max_running": 0, "max_batch_tokens": 0, "dp_ranks": 1,
}  # fmt: skip
BUSY = (429, 503, 529)
MISPLACED = (401, 403, 404, 405)
"""The worker's key, model or address is wrong, which is no fault of the request."""
AGAIN_S = 0.25
TELL_S = 3.0
"""How long a server may come up before its silence is told."""

log = logging.getLogger("callboard.serving")


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamSettings:
    """The keys of ``engine = { kind = "openai", ... }``. Raises `ConfigError` with every problem."""

    url: str
    """Where the server is, without ``/v1``: ``http://127.0.0.1:8000``."""
    model: str
    """Name of the model here."""
    upstream_model: str = ""
    """Its name there; empty: the first that it lists."""
    input: str = "text"
    tokenizer: str = ""
    """Directory of the model's tokenizer; for ``input = "tokens"``."""
    api_key_env: str = ""
    """Environment variable with the key; the key itself is written nowhere."""
    context_tokens: int = 0
    """0: what the server says (``max_model_len``), else 131072."""
    block_size: int = 0
    """Tokens per KV block, if the server's events are followed (the worker's ``kv_events``)."""
    total_blocks: int = 0
    max_running: int = 0
    max_batch_tokens: int = 0
    dp_ranks: int = 1
    """Data-parallel ranks behind the server's address; above 1 each request names its own, in vLLM's header."""
    continuation: str = "vllm"
    """How a chat that another worker has begun goes on: ``vllm`` (also SGLang), ``prefill`` (llama.cpp, Ollama: they
    continue the last message), or ``none``: it fails."""
    start_timeout_s: float = 300.0
    """How long the server may take to come up."""
    connect_timeout_s: float = 3.0
    stall_s: float = 600.0
    """Silence after which an answer counts as lost."""

    def __post_init__(self) -> None:
        problems = []
        if not str(self.url).startswith(("http://", "https://")):
            problems.append(f'engine.url is "{self.url}"; it must begin with http:// or https://')
        for name, known in (("input", ("text", "tokens")), ("continuation", ("vllm", "prefill", "none"))):
            if (value := getattr(self, name)) not in known:
                near = did_you_mean(str(value), known)
                problems.append(f'engine.{name} is "{value}"; it must be one of {", ".join(known)}{near}')
        if self.input == "tokens" and not self.tokenizer:
            problems.append(
                'engine.tokenizer is missing; input = "tokens" needs the directory of the tokenizer'
            )
        problems += [
            f"engine.{name} is {value!r}; it must be a text"
            for name in ("model", "upstream_model", "tokenizer", "api_key_env")
            if not isinstance(value := getattr(self, name), str)
        ]
        problems += [
            f"engine.{name} is {value!r}; it must be a number above 0"
            for name in ("start_timeout_s", "connect_timeout_s", "stall_s")
            if type(value := getattr(self, name)) not in (int, float) or not value > 0
        ]
        problems += [
            f"engine.{name} is {value!r}; it must be a whole number, at least {least}"
            for name, least in COUNTS.items()
            if type(value := getattr(self, name)) is not int or value < least
        ]
        if problems:
            raise ConfigError(problems)


class UpstreamEngine:
    """Passes requests on over HTTP, and what comes back as pieces."""

    Settings = UpstreamSettings

    def __init__(self, settings: UpstreamSettings) -> None:
        # Here, not in the settings: only the worker's own process has the environment that its config gives it.
        if settings.api_key_env and settings.api_key_env not in os.environ:
            raise ConfigError(f"engine.api_key_env names {settings.api_key_env}, which is not set")
        self.settings = settings
        self._url = settings.url.rstrip("/").removesuffix("/v1")
        self._session: ClientSession | None = None
        self._upstream_model = settings.upstream_model
        self._context_tokens = settings.context_tokens
        self._created_s = int(time.time())
        self._names_requests = True
        """False for a server that takes only ids of its own kind: llama-cpp-python's refuses all but UUIDs."""
        self.running = self.finished = self.cancelled = self.failed = 0
        self.tokens = self.prompt_tokens = self.cached_tokens = 0

    def __repr__(self) -> str:
        return f"<UpstreamEngine {self._url} {self._upstream_model}, {self.running} run>"

    async def start(self) -> None:
        """Wait until the server lists its models. Raises `EngineFailed`, `ConfigError`, `MissingServingExtra`."""
        try:
            import aiohttp
        except ImportError as error:
            raise MissingServingExtra(error.name or "aiohttp", extra="llm") from None
        key = os.environ.get(self.settings.api_key_env, "") if self.settings.api_key_env else ""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30),
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=self.settings.connect_timeout_s, sock_read=self.settings.stall_s
            ),
            headers={"authorization": f"Bearer {key}"} if key else {},
            read_bufsize=LINE_BYTES,
        )
        try:
            models = await self._wait_for_models()
        except BaseException:
            await self._session.close()
            raise
        names = [str(entry.get("id")) for entry in models]
        wanted = self.settings.upstream_model or (names[0] if names else "")
        if wanted not in names:
            await self._session.close()
            raise ConfigError(
                f'engine.upstream_model is "{wanted}"; {self._url} serves: {", ".join(names) or "nothing"}'
                f"{did_you_mean(wanted, names)}"
            )
        self._upstream_model = wanted
        if not self._context_tokens:
            model = models[names.index(wanted)]
            meta = model.get("meta")  # llama.cpp
            said = meta.get("n_ctx") if isinstance(meta, dict) else model.get("max_model_len")
            self._context_tokens = said if type(said) is int and said > 0 else 131_072

    async def _wait_for_models(self) -> list[dict[str, Any]]:
        begun_s, why, is_told = time.monotonic(), "", False
        until_s, tell_s = begun_s + self.settings.start_timeout_s, begun_s + TELL_S
        assert self._session is not None
        while True:
            headers = {"x-request-id": "callboard-start"} if self._names_requests else {}
            try:
                async with self._session.get(f"{self._url}/v1/models", headers=headers) as response:
                    if response.status == 400 and self._names_requests:
                        self._names_requests = False
                        continue
                    if response.status == 200:
                        listed = orjson.loads(await response.read())
                        return [entry for entry in listed.get("data", []) if isinstance(entry, dict)]
                    why = f"HTTP {response.status}"
                    if response.status in (401, 403):
                        raise EngineFailed(f"{self._url} wants another key ({why}): set engine.api_key_env")
            except _failures() as error:
                why = str(error) or type(error).__name__
            if not is_told and time.monotonic() >= tell_s:
                is_told = True
                log.warning("%s does not answer yet (%s); it has %g s", self._url, why, until_s - tell_s)
            if time.monotonic() >= until_s:
                limit = self.settings.start_timeout_s
                raise EngineFailed(f"{self._url}/v1/models did not answer in {limit:g} s: {why}")
            await asyncio.sleep(AGAIN_S)

    async def close(self) -> None:
        """Close every connection."""
        if self._session is not None:
            await self._session.close()

    def describe(self) -> ModelInfo:
        """Return what is served."""
        settings = self.settings
        return ModelInfo(
            model=settings.model,
            engine="openai",
            context_tokens=self._context_tokens,
            created_s=self._created_s,
            input=Input(settings.input),
            takes_extra=True,
            gives_logprobs=self.settings.input == "text",
            tokenizer=settings.tokenizer,
            block_size=settings.block_size,
            total_blocks=settings.total_blocks,
            max_running=settings.max_running,
            max_batch_tokens=settings.max_batch_tokens,
            dp_ranks=settings.dp_ranks,
        )

    def load(self) -> Load:
        """Return the counters."""
        return Load(
            running=self.running,
            finished=self.finished,
            cancelled=self.cancelled,
            failed=self.failed,
            tokens=self.tokens,
            prompt_tokens=self.prompt_tokens,
            cached_tokens=self.cached_tokens,
        )

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Piece, None]:
        """Yield text or ids as they come, then a `Finish`.

        Raises `RequestRefused` for what the server says is wrong with the request, `EngineBusy`, and `EngineFailed`
        when it cannot be reached, breaks off, or fails.
        """
        path, body = self._body(request)
        answer = UpstreamAnswer(request, self.settings.input == "tokens")
        self.running += 1
        ended = failed = False
        try:
            async with aclosing(self._events(path, body, request)) as events:
                async for event in events:
                    for piece in answer.take(event):
                        yield piece
            if answer.reason is None:
                raise EngineFailed("the upstream's answer broke off")
            ended = True
        except (EngineFailed, EngineBusy, RequestRefused):
            failed = True
            raise
        finally:
            self.running -= 1
            self.tokens += answer.count
            self.finished += ended
            self.failed += failed
            self.cancelled += not (ended or failed)
        finish = answer.finish()
        self.prompt_tokens += finish.prompt_tokens
        self.cached_tokens += finish.cached_tokens
        yield finish

    def _body(self, request: GenerateRequest) -> tuple[str, bytes]:
        body: dict[str, Any] = dict(request.extra)
        body |= {
            "model": self._upstream_model,
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": request.temperature,
            "top_p": request.top_p,
            "max_tokens": request.max_tokens if request.max_tokens is None else max(1, request.max_tokens),
            "stop": request.stop or None,
            "frequency_penalty": request.frequency_penalty or None,
            "presence_penalty": request.presence_penalty or None,
            "seed": request.seed,
        }
        if self.settings.input == "tokens":
            if request.extra.get("tools"):
                raise RequestRefused(
                    "tools need a worker with input = text: with token ids the server does not look for calls of tools"
                )
            ids = unpack(request.tokens)
            ids.extend(piece for piece in request.done if isinstance(piece, int))
            body |= {"prompt": ids.tolist(), "return_token_ids": True, "logprobs": request.logprobs}
            path = "/v1/completions"
        elif request.messages:
            body["messages"] = [{"role": m.role, "content": m.content, **m.fields} for m in request.messages]
            if request.done:
                body |= self._continued(body["messages"], request)
            if request.logprobs is not None:
                body |= {"logprobs": True, "top_logprobs": request.logprobs}
            path = "/v1/chat/completions"
        else:
            body |= {"prompt": request.prompt + "".join(map(str, request.done)), "logprobs": request.logprobs}
            path = "/v1/completions"
        return path, orjson.dumps({name: value for name, value in body.items() if value is not None})

    def _continued(self, messages: list[dict[str, Any]], request: GenerateRequest) -> dict[str, Any]:
        if self.settings.continuation == "none":
            raise RequestRefused("the worker that began this answer is gone (continuation is none)", 503)
        messages.append({"role": "assistant", "content": "".join(map(str, request.done))})
        if self.settings.continuation == "vllm":
            return {"continue_final_message": True, "add_generation_prompt": False}
        return {}

    async def _events(
        self, path: str, body: bytes, request: GenerateRequest
    ) -> AsyncGenerator[dict[str, Any], None]:
        assert self._session is not None
        headers = {"content-type": "application/json"}
        if self._names_requests:
            headers["x-request-id"] = request.request_id
        if self.settings.dp_ranks > 1 and request.dp_rank is not None:
            headers["x-data-parallel-rank"] = str(request.dp_rank)
        if request.traceparent:
            headers |= {"traceparent": request.traceparent, "tracestate": request.tracestate}
        try:
            async with self._session.post(f"{self._url}{path}", data=body, headers=headers) as response:
                if response.status != 200:
                    raise await _judged(response)
                async for event in _read(response):
                    yield event
        except _failures() as error:
            if isinstance(error, RequestRefused):
                raise
            if _is_away(error):
                raise EngineAway(f"{self._url} cannot be reached: {error}") from None
            raise EngineFailed(f"{self._url}: {str(error) or type(error).__name__}") from None


async def _read(response: ClientResponse) -> AsyncIterator[dict[str, Any]]:
    """Yield the events of a stream until its end mark."""
    async for line in response.content:
        if not line.startswith(b"data:"):
            continue
        data = line[5:].strip()
        if data == b"[DONE]":
            with contextlib.suppress(TimeoutError):  # a connection that is read to its end is used again
                async with asyncio.timeout(END_S):
                    await response.content.read()
            return
        event = orjson.loads(data)
        if isinstance(event, dict):
            yield event


async def _judged(response: ClientResponse) -> Exception:
    if response.status in MISPLACED:  # and the text may quote the key
        return EngineFailed(f"the upstream refuses this worker (HTTP {response.status})")
    text = (await response.content.read(64 * 1024)).decode("utf-8", "replace")
    try:
        error = orjson.loads(text).get("error")
        message = error.get("message") if isinstance(error, dict) else str(error or text)
    except (ValueError, AttributeError):
        message = text
    why = f"the upstream says: {str(message)[:TEXT_BYTES]} (HTTP {response.status})"
    if response.status in BUSY:
        after = response.headers.get("retry-after", "")
        return EngineBusy(why, int(after) if after.isdigit() else 1)
    if response.status >= 500:
        return EngineFailed(why)
    return RequestRefused(why, response.status)


def _is_away(error: Exception) -> bool:
    """True if there never was a connection."""
    from aiohttp import ClientConnectorError, ConnectionTimeoutError

    return isinstance(error, ClientConnectorError | ConnectionTimeoutError)


def _failures() -> tuple[type[Exception], ...]:
    """What may be raised by a connection that is not there, breaks, or brings nonsense."""
    from aiohttp import ClientError, http_exceptions

    return OSError, TimeoutError, ValueError, ClientError, http_exceptions.HttpProcessingError
