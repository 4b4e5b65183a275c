"""An OpenAI-compatible server as an engine: our own, and one that misbehaves in every way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
from aiohttp import web

from callboard.actors.policy import Executed
from callboard.serving.engines.upstream import UpstreamEngine, UpstreamSettings
from callboard.serving.errors import EngineAway, EngineBusy, EngineFailed, RequestRefused
from callboard.serving.protocol import Delta, Finish, FinishReason, GenerateRequest, Message, Token
from callboard.testing.cluster import Cluster
from callboard.transports.errors import ConfigError

from .http_for_tests import url_of
from .test_serving import client_of, config
from .waiting import until


def event(**fields: Any) -> bytes:
    return b"data: " + orjson.dumps(fields) + b"\n\n"


def choice(**fields: Any) -> dict[str, Any]:
    return {"index": 0, "finish_reason": None, **fields}


class Server:
    """Answers every generation with what the test says, and remembers what it was asked."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.status = 200
        self.answer_headers: dict[str, str] = {}
        self.parts: list[bytes] = []
        self.hold = False
        self.left = 0
        self.peers: set[Any] = set()

        self.model: dict[str, Any] = {"id": "theirs", "max_model_len": 99}
        self.takes_ids = True

    async def models(self, request: web.Request) -> web.Response:
        if not self.takes_ids and "x-request-id" in request.headers:
            return web.Response(status=400)
        return web.json_response({"object": "list", "data": [self.model]})

    async def generate(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(orjson.loads(await request.read()))
        assert request.transport is not None
        self.peers.add(request.transport.get_extra_info("peername"))
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        if self.status != 200:
            text = orjson.dumps({"error": {"message": "because"}}).decode()
            return web.Response(status=self.status, text=text, headers=self.answer_headers)
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for part in self.parts:
            await response.write(part)
        try:
            while self.hold:
                await asyncio.sleep(0.01)
                await response.write(b": still here\n\n")
        except (ConnectionError, asyncio.CancelledError):
            self.left += 1
            raise
        return response


@asynccontextmanager
async def serving() -> AsyncIterator[Server]:
    server = Server()
    application = web.Application()
    application.router.add_get("/v1/models", server.models)
    application.router.add_post("/v1/completions", server.generate)
    application.router.add_post("/v1/chat/completions", server.generate)
    runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield server
    finally:
        server.hold = False
        await runner.cleanup()


@asynccontextmanager
async def engine_at(url: str, **options: Any) -> AsyncIterator[UpstreamEngine]:
    engine = UpstreamEngine(UpstreamSettings(url=url, model="ours", **options))
    await engine.start()
    try:
        yield engine
    finally:
        await engine.close()


def ask(**fields: Any) -> GenerateRequest:
    return GenerateRequest(**{"request_id": "r", "model": "ours", "prompt": "x", "max_tokens": 5} | fields)


async def pieces(engine: UpstreamEngine, **fields: Any) -> list[Any]:
    return [piece async for piece in engine.generate(ask(**fields))]


USAGE = {"prompt_tokens": 7, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}}
DONE = b"data: [DONE]\n\n"


async def test_text_comes_in_pieces_with_the_servers_counts() -> None:
    async with serving() as server, engine_at(server.url) as engine:
        assert engine.describe().context_tokens == 99
        server.parts = [
            event(choices=[choice(text="one")]),
            event(choices=[choice(text=" two")]) + event(choices=[choice(text="", finish_reason="length")]),
            event(choices=[], usage=USAGE) + DONE,
        ]
        *texts, finish = await pieces(engine, extra={"top_k": 3}, stop=["z"])
        assert texts == ["one", " two"]
        assert finish == Finish(
            reason=FinishReason.LENGTH, prompt_tokens=7, completion_tokens=2, cached_tokens=4
        )
        asked = server.asked[0]
        assert (asked["model"], asked["prompt"], asked["top_k"], asked["stop"]) == ("theirs", "x", 3, ["z"])
        assert "seed" not in asked


async def test_an_answer_of_text_goes_on_where_another_left_it() -> None:
    async with serving() as server, engine_at(server.url) as engine:
        server.parts = [event(choices=[choice(text="!", finish_reason="stop")]) + DONE]
        await pieces(engine, done=["one", " two"])
        assert server.asked[-1]["prompt"] == "xone two"
        server.parts = [event(choices=[choice(text="!", finish_reason="stop")], usage=USAGE) + DONE]
        *_, finish = await pieces(engine, done=["one", " two"])
        assert finish.prompt_tokens == 5  # the server counts the pieces that it was given, too
        server.parts = [event(choices=[choice(delta={"content": "!"}, finish_reason="stop")]) + DONE]
        await pieces(engine, prompt="", messages=[Message("user", "hi")], done=["one", " two"])
        asked = server.asked[-1]
        assert asked["messages"][-1] == {"role": "assistant", "content": "one two"}
        assert asked["continue_final_message"] is True
        assert asked["add_generation_prompt"] is False
        *texts, finish = await pieces(engine, max_tokens=0, done=["one"])
        assert texts == []
        assert finish.completion_tokens == 0
    async with serving() as server, engine_at(server.url, continuation="none") as engine:
        with pytest.raises(RequestRefused, match="continuation is none"):
            await pieces(engine, prompt="", messages=[Message("user", "hi")], done=["one"])


async def test_token_ids_go_and_come(tmp_path: Any) -> None:
    options = {"input": "tokens", "tokenizer": str(tmp_path)}
    async with serving() as server, engine_at(server.url, **options) as engine:
        server.parts = [
            event(choices=[choice(text="ab", token_ids=[5, 6])]),
            event(choices=[choice(text="c", token_ids=[7], finish_reason="stop")]),
            event(choices=[], usage={"prompt_tokens": 4, "completion_tokens": 3}) + DONE,
        ]
        tokens = b"\x01\0\0\0\x02\0\0\0"
        *ids, finish = await pieces(engine, prompt="", tokens=tokens, done=[8, 9])
        assert ids == [5, 6, 7]
        assert (finish.prompt_tokens, finish.completion_tokens) == (2, 3)
        assert server.asked[0]["prompt"] == [1, 2, 8, 9]
        assert server.asked[0]["return_token_ids"] is True
        server.parts = [event(choices=[choice(text="ab")])]
        with pytest.raises(RequestRefused, match="input = text"):
            await pieces(engine, prompt="", tokens=tokens)


async def test_calls_of_tools_and_probabilities_are_passed_on() -> None:
    async with serving() as server, engine_at(server.url) as engine:
        call = [{"index": 0, "id": "c", "function": {"name": "f", "arguments": "{}"}}]
        content = [{"token": "hi", "logprob": -0.5, "top_logprobs": [{"token": "ho", "logprob": -0.9}]}]
        server.parts = [
            event(choices=[choice(delta={"role": "assistant", "content": ""})]),
            event(choices=[choice(delta={"content": "hi"}, logprobs={"content": content})]),
            event(choices=[choice(delta={"tool_calls": call}, finish_reason="tool_calls")]) + DONE,
        ]
        first, second, finish = await pieces(
            engine,
            prompt="",
            messages=[Message("user", "hi", {"name": "bob"})],
            logprobs=1,
            extra={"tools": [{}]},
        )
        assert first == Token(-1, "hi", -0.5, [(-1, "ho", -0.9)])
        assert second == Delta({"tool_calls": call})
        assert finish.reason is FinishReason.TOOL_CALLS
        assert server.asked[0]["messages"] == [{"role": "user", "content": "hi", "name": "bob"}]
        assert server.asked[0]["tools"] == [{}]


async def test_tokens_that_are_parts_of_a_character_are_kept() -> None:
    async with serving() as server, engine_at(server.url) as engine:
        part = {"content": [{"token": "\\xe2", "logprob": -0.5, "top_logprobs": []}]}
        whole = {"content": [{"token": "\\x82\\xac", "logprob": -0.25, "top_logprobs": []}]}
        server.parts = [
            event(choices=[choice(delta={"content": ""}, logprobs=part)]),
            event(choices=[choice(delta={"content": "\u20ac"}, logprobs=whole, finish_reason="stop")]) + DONE,
        ]
        *tokens, finish = await pieces(engine, prompt="", messages=[Message("user", "hi")], logprobs=0)
        assert tokens == [Token(-1, "", -0.5, []), Token(-1, "\u20ac", -0.25, [])]
        assert finish.completion_tokens == 2


async def test_an_error_that_begins_a_stream_and_blames_the_request_is_the_clients() -> None:
    async with serving() as server, engine_at(server.url) as engine:
        server.parts = [event(error={"message": "Token id 99999 is out of vocabulary", "code": 400}) + DONE]
        with pytest.raises(RequestRefused, match="out of vocabulary") as caught:
            await pieces(engine)
        assert caught.value.status == 400
        server.parts = [event(choices=[choice(text="x")]) + event(error={"message": "?", "code": 400}) + DONE]
        with pytest.raises(EngineFailed):
            await pieces(engine)


async def test_a_server_that_is_not_there_has_run_nothing() -> None:
    async with serving() as server, engine_at(server.url) as engine:
        engine._url = "http://127.0.0.1:1"
        with pytest.raises(EngineAway, match="cannot be reached") as caught:
            await pieces(engine)
        assert caught.value.executed is Executed.NEVER


async def test_what_a_client_has_not_set_is_not_sent(tmp_path: Any) -> None:
    async with serving() as server, engine_at(server.url) as engine:
        server.parts = [event(choices=[choice(text="x", finish_reason="stop")]) + DONE]
        await pieces(engine)
        await pieces(engine, temperature=0.0, top_p=0.5)
        assert not {"temperature", "top_p"} & set(server.asked[0])
        assert (server.asked[1]["temperature"], server.asked[1]["top_p"]) == (0.0, 0.5)
    async with serving() as server, engine_at(server.url, input="tokens", tokenizer=str(tmp_path)) as engine:
        with pytest.raises(RequestRefused, match="tools need a worker with input = text"):
            await pieces(engine, prompt="", tokens=b"\x01\0\0\0", extra={"tools": [{}]})


async def test_a_connection_is_used_again() -> None:
    async with serving() as server, engine_at(server.url) as engine:
        server.parts = [event(choices=[choice(text="x", finish_reason="stop")], error=None) + DONE]
        for _ in range(5):
            await pieces(engine)
        assert len(server.peers) == 1


async def test_a_request_names_its_data_parallel_rank_as_vllm_reads_it() -> None:
    async with serving() as server, engine_at(server.url, dp_ranks=2) as engine:
        server.parts = [event(choices=[choice(text="x", finish_reason="stop")]) + DONE]
        assert engine.describe().dp_ranks == 2
        await pieces(engine, dp_rank=1)
        await pieces(engine)
        assert [headers.get("x-data-parallel-rank") for headers in server.headers] == ["1", None]
    with pytest.raises(ConfigError, match=r"engine\.dp_ranks is 0; it must be a whole number, at least 1"):
        UpstreamSettings(url="http://127.0.0.1:1", model="m", dp_ranks=0)
    with pytest.raises(ConfigError, match=r"engine\.block_size is '16'"):
        UpstreamSettings(url="http://127.0.0.1:1", model="m", block_size="16")  # type: ignore[arg-type]


@pytest.mark.parametrize("status", [401, 403, 404, 405])
async def test_a_worker_that_is_refused_itself_is_a_failed_engine(status: int) -> None:
    async with serving() as server, engine_at(server.url) as engine:
        server.status = status
        with pytest.raises(EngineFailed, match=f"HTTP {status}") as caught:
            await pieces(engine)
        assert "because" not in str(caught.value)  # it may quote the key


@pytest.mark.parametrize(
    ("status", "headers", "error"),
    [
        (400, {}, RequestRefused), (422, {}, RequestRefused), (429, {"retry-after": "7"}, EngineBusy),
        (503, {}, EngineBusy), (500, {}, EngineFailed), (502, {}, EngineFailed),
    ],
)  # fmt: skip
async def test_a_refusal_says_whose_fault_it_is(
    status: int, headers: dict[str, str], error: type[Exception]
) -> None:
    async with serving() as server, engine_at(server.url) as engine:
        server.status, server.answer_headers = status, headers
        with pytest.raises(error, match=f"because .HTTP {status}.") as caught:
            await pieces(engine)
        if isinstance(caught.value, EngineBusy):
            assert caught.value.retry_after_s == int(headers.get("retry-after", 1))
        assert (engine.running, engine.failed) == (0, 1)


@pytest.mark.parametrize(
    "parts",
    [
        [event(choices=[choice(text="one")])],
        [b"data: {not json}\n\n"],
        [b"data: " + b"x" * (9 * 1024 * 1024) + b"\n\n"],
        [event(error={"message": "out of memory"})],
        [DONE],
        [event(choices=[choice(text="one", finish_reason="abort")]) + DONE],
        [event(choices=5) + DONE],
        [event(choices=["one"]) + DONE],
        [event(choices=[choice(text=5, finish_reason="stop")]) + DONE],
        [event(choices=[choice(delta={"content": {}}, finish_reason=[])]) + DONE],
    ],
    ids=[
        "breaks off", "garbage", "endless line", "error", "nothing", "abort", "no list", "no choice", "no text",
        "no reason",
    ],
)  # fmt: skip
async def test_a_stream_that_goes_wrong_is_a_failed_engine(parts: list[bytes]) -> None:
    async with serving() as server, engine_at(server.url) as engine:
        server.parts = parts
        with pytest.raises(EngineFailed):
            await pieces(engine)
        assert (engine.running, engine.failed) == (0, 1)


async def test_closing_a_generation_closes_its_connection() -> None:
    async with serving() as server, engine_at(server.url) as engine:
        server.parts, server.hold = [event(choices=[choice(text="one")])], True
        generation = engine.generate(ask(traceparent="00-a", tracestate="b=c"))
        assert await anext(generation) == "one"
        await generation.aclose()
        await until(lambda: server.left == 1)
        assert engine.cancelled == 1
        assert server.headers[0]["traceparent"] == "00-a"


async def test_a_key_is_sent_and_shown_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="KEY_FOR_TEST, which is not set"):
        UpstreamEngine(UpstreamSettings(url="http://127.0.0.1:1", model="m", api_key_env="KEY_FOR_TEST"))
    monkeypatch.setenv("KEY_FOR_TEST", "s3cret")
    async with serving() as server, engine_at(server.url, api_key_env="KEY_FOR_TEST") as engine:
        server.parts = [event(choices=[choice(text="x", finish_reason="stop")]) + DONE]
        await pieces(engine)
        assert server.headers[0]["authorization"] == "Bearer s3cret"
        assert "s3cret" not in repr(engine.settings) + repr(engine)


async def test_a_server_that_does_not_come_up_or_serves_another_model_is_named() -> None:
    engine = UpstreamEngine(UpstreamSettings(url="http://127.0.0.1:1", model="m", start_timeout_s=0.1))
    with pytest.raises(EngineFailed, match=r"http://127\.0\.0\.1:1/v1/models did not answer in 0\.1 s"):
        await engine.start()
    async with serving() as server:
        with pytest.raises(ConfigError, match='serves: theirs; did you mean "theirs"'):
            async with engine_at(server.url, upstream_model="their"):
                pass


async def test_a_server_that_refuses_the_ids_of_requests_gets_none() -> None:
    async with serving() as server:
        server.parts = [event(choices=[choice(text="!", finish_reason="stop")]) + DONE]
        for takes_ids in (True, False):
            server.takes_ids = takes_ids
            async with engine_at(server.url) as engine:
                await pieces(engine)
            assert ("x-request-id" in server.headers[-1]) == takes_ids


@pytest.mark.parametrize(
    ("says", "context_tokens"),
    [({"meta": {"n_ctx": 77}}, 77), ({"meta": None}, 131_072), ({"meta": {"n_ctx": "1"}}, 131_072)],
)
async def test_the_context_is_what_llama_cpp_says(says: dict[str, Any], context_tokens: int) -> None:
    async with serving() as server:
        server.model = {"id": "theirs", **says}
        async with engine_at(server.url) as engine:
            assert engine.describe().context_tokens == context_tokens


async def test_each_replica_has_a_server_of_its_own(cluster: Cluster) -> None:
    async with serving() as one, serving() as other:
        one.parts = [event(choices=[choice(text="one", finish_reason="stop")]) + DONE]
        other.parts = [event(choices=[choice(text="other", finish_reason="stop")]) + DONE]
        engine = '{ kind = "openai", model = "front" }'
        servers = f'[{{ engine = {{ url = "{one.url}" }} }}, {{ engine = {{ url = "{other.url}" }} }}]'
        text = config(workers=2, engine=engine).replace(
            "engine = {", f"instances = {servers}, engine = {{", 1
        )
        system = await cluster.up(text, plane="tcp")
        async with client_of(system) as client:
            answers = [await client.completions.create(model="front", prompt="x") for _ in range(4)]
        assert sorted(answer.choices[0].text for answer in answers) == ["one", "one", "other", "other"]


async def test_one_callboard_behind_another_answers_the_same(cluster: Cluster) -> None:
    behind = await cluster.up(config(workers=1), plane="tcp")
    engine = f'{{ kind = "openai", url = "{url_of(behind)}", model = "front" }}'
    front = await cluster.up(config(workers=1, engine=engine), plane="tcp")
    hello: Any = [{"role": "user", "content": "Hello"}]
    async with client_of(behind) as inner, client_of(front) as outer:
        for more in ({}, {"max_tokens": 40, "seed": 7}, {"stop": ["e"]}):
            one = await inner.chat.completions.create(model="simulated", messages=hello, **more)  # type: ignore[call-overload]
            two = await outer.chat.completions.create(model="front", messages=hello, **more)  # type: ignore[call-overload]
            assert two.choices[0].message.content == one.choices[0].message.content
            assert two.choices[0].finish_reason == one.choices[0].finish_reason
            assert two.usage == one.usage
