"""Frontend, router and workers in processes of their own, as the real OpenAI client sees them."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path
from typing import Any

import openai
import orjson
import pytest

from callboard.serving import Frontend, Router, Worker
from callboard.serving.protocol import FrontendLoad, Load
from callboard.serving.simulation.chain import start_of, words_from
from callboard.supervisor.system import System
from callboard.testing.cluster import Cluster

from .http_for_tests import http, parsed, request, send, url_of
from .waiting import until

pytestmark = pytest.mark.parametrize("cluster", ["tcp", "nats"], indirect=True)

HELLO: list[Any] = [{"role": "user", "content": "Hello"}]
ANSWER = list(itertools.islice(words_from(start_of(b"user: Hello", None), True), 16))

CONFIG = """
[actor.frontend]
class = "callboard.serving:Frontend"
args = {{ port = 8000, router = {{ ref = "router" }}, {frontend} }}

[actor.router]
class = "callboard.serving:Router"
args = {{ workers = {{ ref = "worker" }}, {router} }}

[actor.worker]
class = "callboard.serving:Worker"
replicas = {workers}
args = {{ engine = {engine} }}
{restart}
"""

SIMULATED = '{ kind = "simulated" }'


def config(
    *,
    frontend: str = "",
    router: str = 'mode = "round-robin"',
    workers: int = 2,
    engine: str = SIMULATED,
    restart: str = "",
) -> str:
    return CONFIG.format(
        frontend=frontend or "insecure = false",
        router=router,
        workers=workers,
        engine=engine,
        restart=restart,
    )


def gated(gate: Path) -> str:
    return f'{{ kind = "engines_for_tests:GatedEngine", gate = "{gate}" }}'


def client_of(system: System, **options: Any) -> openai.AsyncOpenAI:
    settings = {"base_url": f"{url_of(system)}/v1", "api_key": "none", "max_retries": 0}
    return openai.AsyncOpenAI(**settings | options)


async def ends(stream: Any) -> bool:
    """Read a stream to its end; it has to be a regular one."""
    *_, last = [chunk async for chunk in stream]
    return bool(last.choices[0].finish_reason == "stop")


async def load_of(system: System, name: str) -> Load:
    return await system.ref(name, Worker).ask(Worker.load)


# -- answers


async def test_a_chat_streams_through_three_processes(cluster: Cluster) -> None:
    system = await cluster.up(config())
    async with client_of(system) as client:
        stream = await client.chat.completions.create(model="simulated", messages=HELLO, stream=True)
        chunks = [chunk async for chunk in stream]
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert deltas[0].role == "assistant"
    assert [delta.content for delta in deltas if delta.content] == ANSWER
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * 17 + ["stop"]
    assert len({chunk.id for chunk in chunks}) == 1


async def test_a_chat_in_one_piece_is_the_same_text_with_its_usage(cluster: Cluster) -> None:
    system = await cluster.up(config())
    async with client_of(system) as client:
        answer = await client.chat.completions.create(model="simulated", messages=HELLO)
    assert answer.choices[0].message.content == "".join(ANSWER)
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (
        2,
        16,
        18,
    )


async def test_a_text_completion_comes_streamed_and_whole(cluster: Cluster) -> None:
    system = await cluster.up(config())
    wanted = list(itertools.islice(words_from(start_of(b"Hello", 7), True), 5))
    async with client_of(system) as client:
        ask: dict[str, Any] = {"model": "simulated", "prompt": "Hello", "max_tokens": 5, "seed": 7}
        whole = await client.completions.create(**ask)
        stream = await client.completions.create(**ask, stream=True)
        chunks = [chunk async for chunk in stream]
    assert whole.choices[0].text == "".join(wanted)
    assert whole.choices[0].finish_reason == "length"
    assert [chunk.choices[0].text for chunk in chunks] == [*wanted, ""]
    assert chunks[-1].choices[0].finish_reason == "length"


async def test_usage_comes_at_the_end_of_a_stream_that_asks_for_it(cluster: Cluster) -> None:
    system = await cluster.up(config())
    async with client_of(system) as client:
        stream = await client.chat.completions.create(
            model="simulated", messages=HELLO, stream=True, stream_options={"include_usage": True}
        )
        *chunks, last = [chunk async for chunk in stream]
    assert all(chunk.usage is None for chunk in chunks)
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.total_tokens == 18


async def test_stop_strings_and_limits_reach_the_engine(cluster: Cluster) -> None:
    system = await cluster.up(config())
    async with client_of(system) as client:
        short = await client.chat.completions.create(model="simulated", messages=HELLO, max_tokens=3)
        stopped = await client.chat.completions.create(model="simulated", messages=HELLO, stop=ANSWER[4])
    assert short.choices[0].message.content == "".join(ANSWER[:3])
    assert stopped.choices[0].message.content == "".join(ANSWER[:4])


async def test_the_models_of_the_workers_are_listed(cluster: Cluster) -> None:
    system = await cluster.up(
        config(engine='{ kind = "simulated", model = "org/tiny", context_tokens = 99 }')
    )
    async with client_of(system) as client:
        models = [model async for model in client.models.list()]
        one = await client.models.retrieve("org/tiny")
        with pytest.raises(openai.NotFoundError, match=r"did you mean \\?\"org/tiny"):
            await client.models.retrieve("org/tyni")
    assert [model.id for model in models] == ["org/tiny"]
    assert one.to_dict().items() >= {"id": "org/tiny", "object": "model", "max_model_len": 99}.items()


async def test_a_stream_is_made_of_well_formed_events_and_an_end_mark(cluster: Cluster) -> None:
    system = await cluster.up(config(engine='{ kind = "simulated", per_token_ms = 1 }'))
    body = {"model": "simulated", "messages": HELLO, "stream": True}
    # As curl -d sends it: the content type says something else.
    extra = "Content-Type: application/x-www-form-urlencoded\r\nX-Request-Id: mine-1\r\n"
    seen = await http(url_of(system), "POST", "/v1/chat/completions", body, extra)
    assert (seen.status, seen.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    assert (seen.headers["x-request-id"], seen.headers["cache-control"]) == ("mine-1", "no-cache")
    assert seen.body.endswith(b"data: [DONE]\n\n")
    events = seen.body[:-2].split(b"\n\n")
    assert all(event.startswith(b"data: ") and b"\n" not in event for event in events)
    texts = [orjson.loads(event[6:])["choices"][0]["delta"].get("content") for event in events[:-1]]
    assert texts == ["", *ANSWER, None]


async def test_requests_on_one_connection_are_answered_in_turn(cluster: Cluster) -> None:
    system = await cluster.up(config())
    body = {"model": "simulated", "prompt": "Hello", "max_tokens": 2}
    keep = request("POST", "/v1/completions", body).replace(b"Connection: close\r\n", b"")
    reader, writer = await send(url_of(system), keep)
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    first = orjson.loads(await reader.readexactly(length))
    writer.write(request("POST", "/v1/completions", body))
    second = parsed(await reader.read()).json()
    writer.close()
    await writer.wait_closed()
    assert first["choices"] == second["choices"]
    assert first["id"] != second["id"]


# -- refusals


async def test_an_unknown_model_is_not_found_and_the_nearest_is_named(cluster: Cluster) -> None:
    system = await cluster.up(config())
    async with client_of(system) as client:
        for stream in (False, True):
            with pytest.raises(openai.NotFoundError, match="did you mean") as caught:
                await client.chat.completions.create(model="simulatd", messages=HELLO, stream=stream)
            assert caught.value.code == "model_not_found"
            assert caught.value.param == "model"


async def test_a_bad_request_is_refused_with_its_place(cluster: Cluster) -> None:
    system = await cluster.up(config())
    async with client_of(system) as client:
        with pytest.raises(openai.BadRequestError, match="temperature is 3") as caught:
            await client.chat.completions.create(
                model="simulated", messages=HELLO, temperature=3, stream=True
            )
        tool: Any = {"type": "function", "function": {"name": "f"}}
        with pytest.raises(openai.BadRequestError, match="tools: simulated does not support this"):
            await client.chat.completions.create(model="simulated", messages=HELLO, tools=[tool])
    assert caught.value.param == "temperature"
    seen = await http(url_of(system), "POST", "/v1/chat/completions", b'{"model": nope}')
    assert (seen.status, seen.error["code"]) == (400, "invalid_json")
    assert "line 1 column 11" in seen.error["message"]


async def test_a_prompt_that_fills_the_context_is_refused(cluster: Cluster) -> None:
    system = await cluster.up(config(engine='{ kind = "simulated", context_tokens = 5 }'))
    async with client_of(system) as client:
        with pytest.raises(openai.BadRequestError, match="the model's context holds 5") as caught:
            await client.completions.create(model="simulated", prompt="one two three four five", stream=True)
    assert caught.value.code == "context_length_exceeded"


async def test_paths_and_methods_that_do_not_exist_are_said(cluster: Cluster) -> None:
    system = await cluster.up(config())
    url = url_of(system)
    seen = await http(url, "POST", "/chat/completions", b"{}")
    assert seen.status == 404
    assert 'did you mean "/v1/chat/completions"?' in seen.error["message"]
    seen = await http(url, "GET", "/v1/completions")
    assert (seen.status, seen.headers["allow"], seen.error["code"]) == (405, "POST", "method_not_allowed")
    seen = await http(url, "DELETE", "/v1/models/x")
    assert (seen.status, seen.headers["allow"]) == (405, "GET")
    seen = await http(url, "HEAD", "/health")
    assert (seen.status, seen.body) == (200, b"")


async def test_a_body_beyond_the_limit_is_refused_before_it_is_read(cluster: Cluster) -> None:
    system = await cluster.up(config(frontend="max_body_bytes = 1000"))
    url = url_of(system)
    body = {"model": "simulated", "prompt": "x" * 2000}
    assert (await http(url, "POST", "/v1/completions", body)).status == 413
    # Announced, and never sent: the answer does not wait for it.
    announced = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\n\r\n"
    reader, writer = await send(url, announced)
    seen = parsed(await reader.read())
    writer.close()
    assert (seen.status, seen.error["code"]) == (413, "request_too_large")
    assert "max_body_bytes" in seen.error["message"]
    # Not announced: it is counted as it comes.
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    reader, writer = await send(url, head + b"3e9\r\n" + b"x" * 1001 + b"\r\n")
    assert parsed(await reader.read()).status == 413
    writer.close()
    assert (await http(url, "POST", "/v1/completions", body | {"prompt": "x"})).status == 200


async def test_a_request_beyond_the_limit_of_the_plane_is_too_large_as_well(cluster: Cluster) -> None:
    limits = '[network]\nmax_message_bytes = "1MiB"\nshrink_message_bytes = "1MiB"\n'
    system = await cluster.up(limits + config(workers=1))
    body = {"model": "simulated", "prompt": "x" * 1_100_000}
    for stream in (False, True):
        seen = await http(url_of(system), "POST", "/v1/completions", body | {"stream": stream})
        assert (seen.status, seen.error["code"]) == (413, "request_too_large")
        assert "1,048,576 bytes" in seen.error["message"]
    assert (await http(url_of(system), "POST", "/v1/completions", body | {"prompt": "x"})).status == 200


async def test_a_compressed_body_is_refused(cluster: Cluster) -> None:
    system = await cluster.up(config())
    seen = await http(url_of(system), "POST", "/v1/completions", b"x", "Content-Encoding: gzip\r\n")
    assert (seen.status, seen.error["code"]) == (415, "unsupported_encoding")


async def test_requests_above_the_limit_are_told_to_come_back(cluster: Cluster, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    system = await cluster.up(config(frontend="max_requests = 1", engine=gated(gate)))
    async with client_of(system) as client:
        stream = await client.completions.create(model="gated", prompt="open", stream=True)
        await anext(stream)
        with pytest.raises(openai.RateLimitError, match="max_requests") as caught:
            await client.completions.create(model="gated", prompt="open")
        gate.touch()
        assert await ends(stream)
        assert (await client.completions.create(model="gated", prompt="open")).choices
    assert caught.value.response.headers["retry-after"] == "1"


async def test_when_every_worker_is_full_the_answer_is_overloaded(cluster: Cluster, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    router = 'mode = "least-loaded", max_outstanding = 1'
    system = await cluster.up(config(router=router, engine=gated(gate)))
    async with client_of(system) as client:
        streams = [
            await client.completions.create(model="gated", prompt="open", stream=True) for _ in range(2)
        ]
        pids = {(await anext(stream)).choices[0].text for stream in streams}
        assert len(pids) == 2
        body = {"model": "gated", "prompt": "open"}
        seen = await http(url_of(system), "POST", "/v1/completions", body)
        assert (seen.status, seen.headers["retry-after"]) == (529, "1")
        assert seen.error["code"] == "overloaded"
        gate.touch()
        for stream in streams:
            assert await ends(stream)


# -- operating


async def test_health_shows_the_workers_and_what_each_has_to_do(cluster: Cluster, tmp_path: Path) -> None:
    system = await cluster.up(config(engine=gated(tmp_path / "gate")))
    url = url_of(system)
    async with client_of(system) as client:
        stream = await client.completions.create(model="gated", prompt="open", stream=True)
        await anext(stream)
        seen = await http(url, "GET", "/health")
        assert (seen.status, seen.json()["status"]) == (200, "ready")
        assert sorted(seen.json()["workers"].items()) == [("worker.0", 1), ("worker.1", 0)]
        await stream.close()
    seen = await http(url, "GET", "/live")
    assert (seen.status, seen.json()) == (200, {"status": "live"})


async def test_two_workers_share_the_load(cluster: Cluster) -> None:
    system = await cluster.up(config(router='mode = "round-robin"'))
    async with client_of(system) as client:
        ask = client.completions.create
        await asyncio.gather(*(ask(model="simulated", prompt="x") for _ in range(20)))
    assert [(await load_of(system, f"worker.{i}")).finished for i in range(2)] == [10, 10]


async def test_the_least_loaded_worker_takes_the_next_request(cluster: Cluster, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    system = await cluster.up(config(router='mode = "least-loaded"', workers=3, engine=gated(gate)))
    async with client_of(system) as client:
        ask: dict[str, Any] = {"model": "gated", "prompt": "open", "stream": True}
        streams = [await client.completions.create(**ask) for _ in range(9)]
        pids = [(await anext(stream)).choices[0].text for stream in streams]
        assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [3, 3, 3]
        for stream, pid in zip(streams, pids, strict=True):
            if pid == pids[0]:
                await stream.close()
        router = system.ref("router", Router)
        await until(lambda: _is(router.ask(Router.load), {"worker.0": 0, "worker.1": 3, "worker.2": 3}))
        through = ask | {"prompt": "through"}
        for _ in range(3):
            chunks = [chunk async for chunk in await client.completions.create(**through)]
            assert chunks[0].choices[0].text == pids[0]
        gate.touch()
        for stream, pid in zip(streams, pids, strict=True):
            if pid != pids[0]:
                assert await ends(stream)


async def _is(answer: Any, wanted: object) -> bool:
    return bool(await answer == wanted)


async def test_a_client_that_leaves_a_stream_cancels_the_work_of_the_engine(cluster: Cluster) -> None:
    system = await cluster.up(config(workers=1, engine='{ kind = "simulated", per_token_ms = 10 }'))
    async with client_of(system) as client:
        stream = await client.chat.completions.create(
            model="simulated", messages=HELLO, max_tokens=100_000, stream=True
        )
        await anext(stream)
        await stream.close()
    await until(lambda: _cancelled(system, 1))
    assert (await load_of(system, "worker.0")).running == 0
    router, frontend = system.ref("router", Router), system.ref("frontend", Frontend)
    assert await router.ask(Router.load) == {"worker.0": 0}
    assert await frontend.ask(Frontend.load) == FrontendLoad(
        running=0, finished=0, failed=0, disconnected=1, refused=0
    )


async def test_a_client_that_leaves_before_the_first_token_cancels_the_work_too(cluster: Cluster) -> None:
    system = await cluster.up(config(workers=1, engine='{ kind = "simulated", first_token_ms = 600000 }'))
    for stream in (True, False):
        body = {"model": "simulated", "prompt": "x", "stream": stream}
        _, writer = await send(url_of(system), request("POST", "/v1/completions", body))
        await until(lambda: _running(system, 1))
        writer.close()
        await until(lambda: _running(system, 0))
    assert (await load_of(system, "worker.0")).cancelled == 2


async def _cancelled(system: System, count: int) -> bool:
    return (await load_of(system, "worker.0")).cancelled == count


async def _running(system: System, count: int) -> bool:
    return (await load_of(system, "worker.0")).running == count
