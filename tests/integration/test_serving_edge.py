"""What a client can ask of the frontend besides the answer: why, where, for whom; and what operators see."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from callboard.serving import Router
from callboard.serving.kv.hashing import unpack
from callboard.serving.protocol import Message
from callboard.serving.simulation.chain import start_of, words_from
from callboard.serving.tokenizer import Tokenizer
from callboard.testing.cluster import Cluster
from callboard.testing.tiny_model import make_tiny_tokenizer

from .http_for_tests import Response, url_of
from .http_for_tests import http as plain_http
from .test_serving import client_of, config
from .waiting import until

KV = 'mode = "kv"'


async def http(
    url: str, method: str, path: str, body: object = b"", headers: dict[str, str] | None = None
) -> Response:
    lines = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
    return await plain_http(url, method, path, body, lines)


BLOCKS = '{ kind = "simulated", blocks = 64, block_size = 4 }'
PROMPT = " ".join(f"w{n}" for n in range(40))


def words(prompt: str, count: int) -> str:
    source = words_from(start_of(prompt.encode(), None), True)
    return "".join(next(source) for _ in range(count))


async def test_a_request_says_why_its_worker_was_chosen(cluster: Cluster) -> None:
    system = await cluster.up(config(router=KV, engine=BLOCKS), plane="tcp")
    body = {"model": "simulated", "prompt": PROMPT}
    headers = {"x-callboard-explain": "1"}
    first = await http(url_of(system), "POST", "/v1/completions", body, headers=headers)
    home = first.headers["x-callboard-worker"]
    assert home in ("worker.0", "worker.1")
    assert "mode=kv" in first.headers["x-callboard-route"]
    assert "overlap=0/10" in first.headers["x-callboard-route"]

    async def cached() -> bool:
        again = await http(url_of(system), "POST", "/v1/completions", body, headers=headers)
        return (
            again.headers["x-callboard-worker"] == home
            and "overlap=10/10" in again.headers["x-callboard-route"]
        )

    await until(cached)
    plain = await http(url_of(system), "POST", "/v1/completions", body)
    assert "x-callboard-worker" not in plain.headers
    async with client_of(system) as client:
        raw = await client.completions.with_raw_response.create(
            model="simulated", prompt=PROMPT, extra_headers=headers, stream=True
        )
        assert raw.headers["x-callboard-worker"] == home


async def test_a_request_can_name_its_worker_and_its_session(cluster: Cluster) -> None:
    router = 'mode = "round-robin", session_affinity_ttl_s = 60'
    system = await cluster.up(config(router=router, workers=3), plane="tcp")
    body = {"model": "simulated", "prompt": "x"}

    async def worker_of(**headers: str) -> str:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        named["x-callboard-explain"] = "1"
        seen = await http(url_of(system), "POST", "/v1/completions", body, headers=named)
        assert seen.status == 200, seen.body
        return seen.headers["x-callboard-worker"]

    assert await worker_of(x_callboard_worker_id="2") == "worker.2"
    assert await worker_of(x_dynamo_worker_instance_id="1") == "worker.1"
    home = await worker_of(x_callboard_session_id="alice")
    assert {await worker_of(x_dynamo_session_id="alice") for _ in range(4)} == {home}
    assert {await worker_of() for _ in range(3)} == {"worker.0", "worker.1", "worker.2"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x-callboard-worker-id", "two"),
        ("x-callboard-priority", "9" * 11),
        ("x-callboard-session-id", "s" * 257),
    ],
)
async def test_a_header_that_makes_no_sense_is_refused_by_its_name(
    cluster: Cluster, name: str, value: str
) -> None:
    system = await cluster.up(config(workers=1), plane="tcp")
    body = {"model": "simulated", "prompt": "x"}
    seen = await http(url_of(system), "POST", "/v1/completions", body, headers={name: value})
    assert (seen.status, seen.error["code"]) == (400, "invalid_header")
    assert name in seen.error["message"]


async def test_a_trace_goes_on_with_a_span_of_its_own(cluster: Cluster) -> None:
    system = await cluster.up(config(workers=1), plane="tcp")
    body = {"model": "simulated", "prompt": "x"}
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    seen = await http(url_of(system), "POST", "/v1/completions", body, headers={"traceparent": trace})
    answered = seen.headers["traceparent"]
    assert answered.startswith(trace[:36])
    assert answered.endswith("-01")
    assert answered != trace
    for wrong in ("00-" + "0" * 32 + "-00f067aa0ba902b7-01", "nonsense"):
        seen = await http(url_of(system), "POST", "/v1/completions", body, headers={"traceparent": wrong})
        assert "traceparent" not in seen.headers


async def test_metrics_count_requests_tokens_and_what_the_router_knows(cluster: Cluster) -> None:
    system = await cluster.up(config(router=KV, engine=BLOCKS), plane="tcp")
    for _ in range(3):
        await http(url_of(system), "POST", "/v1/completions", {"model": "simulated", "prompt": PROMPT})
    await http(url_of(system), "POST", "/v1/completions", {"model": "nobody", "prompt": PROMPT})
    seen = await http(url_of(system), "GET", "/metrics")
    assert seen.headers["content-type"].startswith("text/plain")
    found: dict[Any, float] = {}
    for family in text_string_to_metric_families(seen.body.decode()):
        assert family.documentation
        for sample in family.samples:
            found[sample.name, tuple(sorted(sample.labels.values()))] = sample.value
    assert found["callboard_frontend_requests_total", ("200", "simulated")] == 3
    assert found["callboard_frontend_requests_total", ("", "404")] == 1
    assert found["callboard_frontend_output_tokens_total", ()] == 48
    assert found["callboard_frontend_input_tokens_total", ()] == 120
    assert found["callboard_frontend_request_duration_seconds_count", ()] == 3
    assert found["callboard_router_requests_total", ()] == 3
    assert found["callboard_router_prompt_blocks_total", ()] == 30
    assert found["callboard_router_worker_active_requests", ("0", "0")] == 0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def test_two_frontends_share_a_port_and_one_that_dies_is_not_missed(cluster: Cluster) -> None:
    port = free_port()
    text = config(frontend="share_port = true").replace("port = 8000", f"port = {port}")
    text = text.replace("[actor.router]", "replicas = 2\n\n[actor.router]")
    system = await cluster.up(text, plane="tcp", fixed_ports=True)
    assert len({process.pid for process in system.status().processes if "frontend" in process.name}) == 2
    body = {"model": "simulated", "prompt": "x"}
    url = f"http://127.0.0.1:{port}"
    for _ in range(8):
        assert (await http(url, "POST", "/v1/completions", body)).status == 200
    await system.kill("frontend.0")
    for _ in range(8):
        assert (await http(url, "POST", "/v1/completions", body)).status == 200


async def test_an_answer_outlives_its_router(cluster: Cluster) -> None:
    engine = '{ kind = "simulated", per_token_ms = 20 }'
    system = await cluster.up(config(engine=engine), plane="tcp")
    async with client_of(system) as client:
        stream = await client.completions.create(model="simulated", prompt="go", max_tokens=60, stream=True)
        text = (await anext(stream)).choices[0].text
        await system.kill("router.0")
        async for chunk in stream:
            text += chunk.choices[0].text
    assert text == words("go", 60)


async def test_a_client_that_leaves_while_its_worker_is_away_is_forgotten(cluster: Cluster) -> None:
    system = await cluster.up(config(workers=1, router="wait_s = 60"), plane="tcp")
    url = url_of(system)
    async with client_of(system) as client:
        assert (await client.completions.create(model="simulated", prompt="x")).choices
        await system.pause("worker.0")
        with pytest.raises(openai.APITimeoutError):
            await client.completions.create(model="simulated", prompt="x", timeout=0.3)
        await system.resume("worker.0")
    assert (await http(url, "GET", "/live")).status == 200


async def test_a_model_of_tokens_is_asked_with_text_and_answers_with_text(
    cluster: Cluster, tmp_path: Path
) -> None:
    size = make_tiny_tokenizer(tmp_path)
    engine = (
        f'{{ kind = "simulated", input = "tokens", vocabulary = {size}, tokenizer = "{tmp_path}",'
        " blocks = 64, block_size = 4, decode_ms = 5 }"
    )
    system = await cluster.up(config(router=KV, engine=engine), plane="tcp")
    tokenizer = Tokenizer(str(tmp_path))
    async with client_of(system) as client:
        hello: Any = [{"role": "user", "content": "hello there"}]
        chat = await client.chat.completions.create(model="simulated", messages=hello, max_tokens=50)
        assert chat.usage is not None
        prompt = tokenizer.encode_chat([Message("user", "hello there")], {})
        assert (chat.usage.prompt_tokens, chat.usage.completion_tokens) == (len(prompt) // 4, 50)
        text = chat.choices[0].message.content
        assert text

        ids = list(unpack(prompt))
        same = await client.completions.create(model="simulated", prompt=ids, max_tokens=50)
        assert same.choices[0].text == text
        stop = text[20:26]
        cut = await client.completions.create(model="simulated", prompt=ids, max_tokens=50, stop=[stop])
        assert cut.choices[0].text == text[: text.index(stop)]
        assert cut.choices[0].finish_reason == "stop"

        stream = await client.completions.create(model="simulated", prompt=ids, max_tokens=50, stream=True)
        first = (await anext(stream)).choices[0].text
        load = await system.ref("router", Router).ask(Router.load)
        await system.kill(next(name for name, count in load.items() if count))
        rest = [chunk.choices[0].text async for chunk in stream]
        assert first + "".join(rest) == text


async def test_token_ids_for_a_model_of_text_are_refused(cluster: Cluster) -> None:
    system = await cluster.up(config(workers=1), plane="tcp")
    seen = await http(url_of(system), "POST", "/v1/completions", {"model": "simulated", "prompt": [1, 2]})
    assert (seen.status, seen.error["code"]) == (400, "request_refused")


async def test_what_an_engine_would_ignore_is_refused(cluster: Cluster) -> None:
    system = await cluster.up(config(workers=1), plane="tcp")
    for more in (
        {"tools": [{"type": "function"}]},
        {"messages": [{"role": "tool", "content": "3", "name": "f"}]},
    ):
        body = {"model": "simulated", "messages": [{"role": "user", "content": "x"}], **more}
        seen = await http(url_of(system), "POST", "/v1/chat/completions", body)
        assert (seen.status, seen.error["code"]) == (400, "unsupported_parameter")
        assert "its engine is simulated" in seen.error["message"]


async def test_several_answers_come_side_by_side(cluster: Cluster) -> None:
    system = await cluster.up(config(), plane="tcp")
    hello: Any = [{"role": "user", "content": "x"}]
    async with client_of(system) as client:
        chat = await client.chat.completions.create(
            model="simulated", messages=hello, n=3, seed=5, max_tokens=9
        )
        texts = [choice.message.content for choice in chat.choices]
        assert [choice.index for choice in chat.choices] == [0, 1, 2]
        assert len(set(texts)) == 3
        source = words_from(start_of(b"user: x", 5), True)
        assert texts[0] == "".join(next(source) for _ in range(9))
        assert chat.usage is not None
        assert (chat.usage.prompt_tokens, chat.usage.completion_tokens) == (2, 27)

        stream = await client.chat.completions.create(
            model="simulated",
            messages=hello,
            n=3,
            seed=5,
            max_tokens=9,
            stream=True,
            stream_options={"include_usage": True},
        )
        parts: dict[int, str] = {}
        reasons: dict[int, str] = {}
        usage = None
        async for chunk in stream:
            usage = chunk.usage or usage
            for choice in chunk.choices:
                parts[choice.index] = parts.get(choice.index, "") + (choice.delta.content or "")
                if choice.finish_reason:
                    reasons[choice.index] = choice.finish_reason
        assert [parts[index] for index in range(3)] == texts
        assert reasons == {0: "length", 1: "length", 2: "length"}
        assert usage is not None
        assert usage.completion_tokens == 27
        with pytest.raises(openai.BadRequestError, match="n is 17"):
            await client.chat.completions.create(model="simulated", messages=hello, n=17)
        with pytest.raises(openai.NotFoundError):
            await client.chat.completions.create(model="nobody", messages=hello, n=2)


TOOLS: Any = [{"type": "function", "function": {"name": "say", "parameters": {"type": "object"}}}]


async def test_tools_go_to_the_engine_and_its_calls_come_back(cluster: Cluster) -> None:
    engine = '{ kind = "engines_for_tests:ToolEngine" }'
    system = await cluster.up(config(workers=1, engine=engine), plane="tcp")
    hello: list[Any] = [{"role": "user", "content": "hi"}]
    async with client_of(system) as client:
        ask: dict[str, Any] = {"model": "tools", "messages": hello, "tools": TOOLS}
        whole = await client.chat.completions.create(**ask)
        message, reason = whole.choices[0].message, whole.choices[0].finish_reason
        assert (message.content, reason) == (None, "tool_calls")
        assert message.tool_calls
        call: Any = message.tool_calls[0]
        assert (call.id, call.function.name, call.function.arguments) == ("call-1", "say", '{"said": "hi"}')

        arguments = ""
        async for chunk in await client.chat.completions.create(**ask, stream=True):
            for part in chunk.choices[0].delta.tool_calls or ():
                assert part.function is not None
                arguments += part.function.arguments or ""
        assert arguments == '{"said": "hi"}'

        answer: Any = [
            *hello,
            message.model_dump(exclude_none=True),
            {"role": "tool", "tool_call_id": call.id, "content": "42"},
        ]
        after = await client.chat.completions.create(**ask | {"messages": answer})
        assert after.choices[0].message.content == "call-1 gave 42"


async def test_probabilities_come_with_their_tokens_where_the_engine_has_them(cluster: Cluster) -> None:
    engine = '{ kind = "engines_for_tests:ToolEngine" }'
    system = await cluster.up(config(workers=1, engine=engine), plane="tcp")
    ask: dict[str, Any] = {
        "model": "tools",
        "messages": [{"role": "user", "content": "hi"}],
        "logprobs": True,
    }
    async with client_of(system) as client:
        whole = (await client.chat.completions.create(**ask, top_logprobs=2, n=2)).choices
        for choice in whole:
            assert choice.message.content == "yes"
            assert choice.logprobs is not None
            content = choice.logprobs.content or []
            assert [(one.token, one.logprob) for one in content] == [("ye", -0.25), ("s", -0.25)]
            assert [[top.token for top in one.top_logprobs] for one in content] == [["ye", "no"], ["s", "no"]]
        stream = await client.chat.completions.create(**ask, stream=True)
        seen = [chunk.choices[0].logprobs async for chunk in stream]
    assert ["".join(one.token for one in (part.content or [])) for part in seen if part] == ["ye", "s"]


async def test_probabilities_of_an_engine_without_any_are_refused(cluster: Cluster) -> None:
    system = await cluster.up(config(workers=1), plane="tcp")
    body = {"model": "simulated", "prompt": "x", "logprobs": 1}
    seen = await http(url_of(system), "POST", "/v1/completions", body)
    assert (seen.status, seen.error["param"]) == (400, "logprobs")
