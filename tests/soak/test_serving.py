"""Streamed answers while workers die, come and go: each complete, and the same as if nothing had happened.

``make soak-serving REQUESTS=1000 PLANE=tcp`` runs it long; in the suite it is short.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import socket
import time
from contextlib import suppress

import openai
import pytest

from callboard.serving.simulation.chain import start_of, words_from
from callboard.supervisor.errors import StartupFailed, UnknownPlace
from callboard.supervisor.system import System
from callboard.testing.cluster import Cluster

REQUESTS = int(os.environ.get("SOAK_REQUESTS") or 120)
PLANES = [os.environ["SOAK_PLANE"]] if os.environ.get("SOAK_PLANE") else ["tcp", "nats"]
KILL_EVERY_S = float(os.environ.get("SOAK_KILL_EVERY_S") or 1.0)
DECODE_MS = float(os.environ.get("SOAK_DECODE_MS") or 20.0)
AT_ONCE = 48
TOKENS = 40

CONFIG = """
[actor.frontend]
class = "callboard.serving:Frontend"
replicas = {frontends}
args = {{ port = {port}, share_port = true, router = {{ ref = "router" }} }}
[actor.router]
class = "callboard.serving:Router"
replicas = {frontends}
args = {{ workers = {{ ref = "worker" }}, mode = "kv", wait_s = 30, migration_limit = 20 }}
[actor.worker]
class = "callboard.serving:Worker"
replicas = 3
args = {{ engine = {{ kind = "simulated", blocks = 2048, block_size = 16, decode_ms = {decode_ms} }} }}
restart = {{ policy = "permanent", max_restarts = 100000, window_s = 60, backoff_s = [0.05, 0.2] }}
"""

pytestmark = pytest.mark.timeout(600)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def undisturbed(prompt: str) -> str:
    return "".join(itertools.islice(words_from(start_of(prompt.encode(), None), True), TOKENS))


async def answered(client: openai.AsyncOpenAI, number: int, left: asyncio.Semaphore) -> tuple[str, str]:
    """The text of one streamed answer, and what it should have been."""
    prompt = f"{number % 7} tell me about the stage and its {number} actors"
    async with left:
        stream = await client.completions.create(
            model="simulated",
            prompt=prompt,
            max_tokens=TOKENS,
            stream=True,
            stream_options={"include_usage": True},
        )
        texts, usage, reason = [], None, ""
        async for chunk in stream:
            usage = chunk.usage or usage
            for choice in chunk.choices:
                texts.append(choice.text)
                reason = choice.finish_reason or reason
    assert usage is not None, prompt
    assert (usage.prompt_tokens, usage.completion_tokens, reason) == (len(prompt.split()), TOKENS, "length")
    return "".join(texts), undisturbed(prompt)


async def kill_now_and_then(system: System, kills: list[str]) -> None:
    rng = random.Random(7)
    while True:
        await asyncio.sleep(KILL_EVERY_S)
        victim = f"worker.{rng.randrange(3)}"
        with suppress(UnknownPlace):  # it was drained meanwhile
            await system.kill(victim)
            kills.append(victim)


async def add_and_drain(system: System, changes: list[int]) -> None:
    for replicas in itertools.cycle((5, 3, 4, 2, 3)):
        with suppress(StartupFailed):  # it was killed while it started
            await system.scale("worker", replicas, grace_s=20)
            changes.append(replicas)


async def complete_answers(port: int, count: int) -> None:
    left = asyncio.Semaphore(AT_ONCE)
    url = f"http://127.0.0.1:{port}/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=120) as client:
        pairs = await asyncio.gather(*(answered(client, number, left) for number in range(count)))
    assert [text for text, _ in pairs] == [wanted for _, wanted in pairs]
    assert len(pairs) == count


@pytest.mark.parametrize("plane", PLANES)
async def test_every_answer_is_complete_and_the_same_while_workers_are_killed(
    cluster: Cluster, plane: str
) -> None:
    port = free_port()
    system = await cluster.up(
        CONFIG.format(port=port, frontends=1, decode_ms=DECODE_MS), plane=plane, fixed_ports=True
    )
    kills: list[str] = []
    killing = asyncio.create_task(kill_now_and_then(system, kills))
    began_s = time.monotonic()
    try:
        await complete_answers(port, REQUESTS)
    finally:
        killing.cancel()
    print(f"{REQUESTS} answers, {len(kills)} workers killed, {time.monotonic() - began_s:.1f} s on {plane}")
    assert kills


@pytest.mark.parametrize("plane", PLANES)
async def test_two_frontends_and_two_routers_lose_nothing_while_workers_are_added_drained_and_killed(
    cluster: Cluster, plane: str
) -> None:
    port = free_port()
    system = await cluster.up(
        CONFIG.format(port=port, frontends=2, decode_ms=DECODE_MS), plane=plane, fixed_ports=True
    )
    kills: list[str] = []
    changes: list[int] = []
    tasks = [
        asyncio.create_task(kill_now_and_then(system, kills)),
        asyncio.create_task(add_and_drain(system, changes)),
    ]
    try:
        await complete_answers(port, REQUESTS)
    finally:
        for task in tasks:
            task.cancel()
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        assert isinstance(outcome, asyncio.CancelledError), outcome
    print(f"{REQUESTS} answers, {len(kills)} killed, {len(changes)} changes of size on {plane}")
    assert changes
