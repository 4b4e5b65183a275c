"""A real vLLM (on a CPU, with a tiny model made here) behind a worker. ``make test-vllm`` makes the environment.

Without ``CALLBOARD_VLLM_PYTHON``, a Python that has vLLM, the tests are skipped.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import openai
import pytest

from callboard.serving import Router, Worker
from callboard.serving.protocol import Load
from callboard.supervisor.system import System
from callboard.testing import tiny_model
from callboard.testing.cluster import Cluster

from .servers import client_of, environment, free_ports, frozen, read, running

PYTHON = os.environ.get("CALLBOARD_VLLM_PYTHON", "")
READY_S = 240.0
BLOCK = 32
LONG = 400
RUNNING = "vllm:num_requests_running"

pytestmark = [
    pytest.mark.skipif(not PYTHON, reason="CALLBOARD_VLLM_PYTHON names no Python with vLLM; make test-vllm"),
    pytest.mark.timeout(600),
]

CONFIG = """
namespace = "vllm"

[actor.frontend]
class = "callboard.serving:Frontend"
args = {{ port = 8000, router = {{ ref = "router" }} }}

[actor.router]
class = "callboard.serving:Router"
args = {{ workers = {{ ref = "worker" }}, mode = "kv" }}

[actor.worker]
class = "callboard.serving:Worker"
replicas = {replicas}
[actor.worker.args.engine]
kind = "openai"
url = "http://127.0.0.1:{http}"
model = "tiny"
input = "tokens"
tokenizer = "{model}"
block_size = {block}
[actor.worker.args.kv_events]
source = "zmq"
endpoint = "tcp://127.0.0.1:{events}"
replay = "tcp://127.0.0.1:{replay}"
"""


@dataclass(frozen=True)
class Vllm:
    """A running server."""

    http: int
    events: int
    replay: int
    model: Path
    group: int = 0
    """Of its processes."""

    def is_up(self) -> bool:
        """True if it answers."""
        try:
            return read(f"http://127.0.0.1:{self.http}/health") is not None
        except OSError:
            return False

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        text = read(f"http://127.0.0.1:{self.http}/metrics").decode()
        return sum(
            float(value) for value in re.findall(rf"^{re.escape(name)}(?:{{.*}})? (\S+)$", text, re.MULTILINE)
        )


@pytest.fixture(scope="module", name="vllm")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vllm]:
    directory = tmp_path_factory.mktemp("vllm")
    model = directory / "model"
    subprocess.run([PYTHON, tiny_model.__file__, str(model), "1"], check=True, capture_output=True)
    http, events, replay = free_ports(3)
    kv = (
        '{"enable_kv_cache_events": true, "publisher": "zmq", "topic": "",'
        f' "endpoint": "tcp://*:{events}", "replay_endpoint": "tcp://*:{replay}"}}'
    )
    command = [
        PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1", "--port", str(http),
        "--model", str(model), "--served-model-name", "tiny", "--dtype", "float32", "--enforce-eager",
        "--block-size", str(BLOCK), "--max-model-len", "2048", "--enable-prompt-tokens-details",
        "--kv-events-config", kv,
    ]  # fmt: skip
    env = environment({"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"})
    found = Vllm(http, events, replay, model)
    with running(command, env, directory / "log", found.is_up, READY_S) as group:
        yield replace(found, group=group)


async def up(cluster: Cluster, vllm: Vllm, replicas: int = 1) -> System:
    text = CONFIG.format(
        http=vllm.http,
        events=vllm.events,
        replay=vllm.replay,
        model=vllm.model,
        block=BLOCK,
        replicas=replicas,
    )
    return await cluster.up(text, plane="tcp")


def prompt_of(number: int, length: int) -> list[int]:
    return [(7 * number + 3 * at) % 900 + 100 for at in range(length)]


async def ask(client: openai.AsyncOpenAI, prompt: list[int], **more: Any) -> Any:
    raw = await client.completions.with_raw_response.create(
        model="tiny",
        prompt=prompt,
        max_tokens=8,
        temperature=0,
        extra_headers={"x-callboard-explain": "1"},
        **more,
    )
    answer: Any = raw.parse()
    (overlap,) = re.findall(r"overlap=(\d+)/", raw.headers["x-callboard-route"])
    return answer, int(overlap)


async def blocks(system: System) -> tuple[list[int], list[int]]:
    router = await system.ref("router", Router).ask(Router.blocks, 0)
    resident = await system.ref("worker.0", Worker).ask(Worker.resident)
    return router, resident.get(0, [])


async def settled(system: System, at_least: int) -> None:
    async with asyncio.timeout(30):
        while True:
            seen, truth = await blocks(system)
            if seen == truth and len(seen) >= at_least:
                return
            await asyncio.sleep(0.05)


async def test_answers_are_streamed_and_prefix_hits_are_what_the_router_predicts(
    cluster: Cluster, vllm: Vllm
) -> None:
    system = await up(cluster, vllm)
    async with client_of(system) as client:
        for number in range(4):
            prompt = prompt_of(number, 4 * BLOCK + 5)
            before = len((await blocks(system))[0])
            answer, overlap = await ask(client, prompt)
            assert overlap == 0
            assert answer.usage.prompt_tokens == len(prompt)
            await settled(system, before + 4)
            again, overlap = await ask(client, [*prompt[: 3 * BLOCK], *prompt_of(99 + number, BLOCK)])
            assert overlap == 3
            assert again.usage.prompt_tokens_details.cached_tokens == overlap * BLOCK
            same, overlap = await ask(client, prompt)
            assert overlap == 4
            assert same.usage.prompt_tokens_details.cached_tokens == overlap * BLOCK
            assert same.choices[0].text == answer.choices[0].text

        hello: Any = [{"role": "user", "content": "hello there"}]
        stream = await client.chat.completions.create(
            model="tiny", messages=hello, max_tokens=40, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        assert len(chunks) > 5
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.completion_tokens <= 40


async def test_a_router_that_comes_late_learns_from_the_replay(cluster: Cluster, vllm: Vllm) -> None:
    async with client_of(first := await up(cluster, vllm)) as client:
        await ask(client, prompt_of(500, 4 * BLOCK))
    await first.stop()
    second = await up(cluster, vllm)
    await settled(second, 4)
    async with client_of(second) as client:
        answer, overlap = await ask(client, prompt_of(500, 4 * BLOCK + 1))
    assert overlap == 4
    assert answer.usage.prompt_tokens_details.cached_tokens == 4 * BLOCK


async def test_a_client_that_leaves_ends_the_request_in_the_engine(cluster: Cluster, vllm: Vllm) -> None:
    system = await up(cluster, vllm)
    async with client_of(system) as client:
        stream = await client.completions.create(
            model="tiny",
            prompt=prompt_of(700, 40),
            max_tokens=1900,
            stream=True,
            extra_body={"ignore_eos": True},
        )
        await anext(stream)
        async with asyncio.timeout(30):
            while await asyncio.to_thread(vllm.metric, RUNNING) < 1:  # noqa: ASYNC110 (it is another process)
                await asyncio.sleep(0.01)
        await stream.close()
        async with asyncio.timeout(30):
            while await asyncio.to_thread(vllm.metric, RUNNING) > 0:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    worker = await system.ref("worker.0", Worker).ask(Worker.load)
    assert (worker.running, worker.cancelled) == (0, 1)


@pytest.mark.parametrize("chat", [True, False], ids=["chat", "completion"])
async def test_an_answer_survives_the_death_of_its_worker(cluster: Cluster, vllm: Vllm, chat: bool) -> None:
    async def begin() -> Any:
        greedy: Any = {"model": "tiny", "max_tokens": LONG, "temperature": 0, "stream": True}
        greedy |= {"extra_body": {"ignore_eos": True}, "stream_options": {"include_usage": True}}
        if chat:
            return await client.chat.completions.create(
                messages=[{"role": "user", "content": "tell"}], **greedy
            )
        return await client.completions.create(prompt=prompt_of(800, 40), **greedy)

    def outcome(chunks: list[Any]) -> tuple[str, list[str], int]:
        choices = [choice for chunk in chunks for choice in chunk.choices]
        texts = [(choice.delta.content if chat else choice.text) or "" for choice in choices]
        reasons = [choice.finish_reason for choice in choices if choice.finish_reason]
        return "".join(texts), reasons, chunks[-1].usage.completion_tokens

    async def load_of(index: int) -> Load:
        return await system.ref(f"worker.{index}", Worker).ask(Worker.load)

    system = await up(cluster, vllm, replicas=2)
    async with client_of(system) as client:
        whole = outcome([chunk async for chunk in await begin()])
        assert whole[1:] == (["length"], LONG)
        victim = None
        while victim is None:  # on a busy machine the answer may be over when its begin is seen
            stream = await begin()
            chunks = [await anext(stream)]
            with frozen(vllm.group):
                before = [await load_of(index) for index in range(2)]
                if victim := next((f"worker.{n}" for n in range(2) if before[n].running), None):
                    await system.kill(victim)
        chunks += [chunk async for chunk in stream]
        assert outcome(chunks) == whole
        other = int(victim == "worker.0")
        after = await load_of(other)
        assert after.finished == before[other].finished + 1
        assert 0 < after.tokens - before[other].tokens < LONG


def test_the_python_is_another_one_than_ours() -> None:
    assert Path(PYTHON) != Path(sys.executable)
