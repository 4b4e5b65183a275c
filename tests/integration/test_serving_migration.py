"""Answers whose workers die, hang, or are not there yet: each is complete and the same as if nothing had happened."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from callboard.serving import Router, Worker
from callboard.serving.errors import WorkersLost
from callboard.serving.protocol import Finish, GenerateRequest, Piece
from callboard.supervisor.system import System
from callboard.testing.cluster import Cluster

from .waiting import until

CONFIG = """
namespace = "migration"

[actor.router]
class = "callboard.serving:Router"
args = {{ workers = {{ ref = "worker" }}, mode = "kv", wait_s = 30, {router} }}

[actor.worker]
class = "callboard.serving:Worker"
replicas = {workers}
args = {{ engine = {engine}, {worker} }}
restart = {{ max_restarts = 100 }}
"""

PACED = '{ kind = "simulated", blocks = 512, block_size = 4, decode_ms = 5 }'
PROMPT = " ".join(f"w{n}" for n in range(40))


async def up(
    cluster: Cluster,
    engine: str = PACED,
    workers: int = 2,
    router: str = "temperature = 0.0",
    worker: str = "canary = {}",
) -> System:
    text = CONFIG.format(engine=engine, workers=workers, router=router, worker=worker)
    return await cluster.up(text, plane="tcp")


def troubled(tmp_path: Path) -> str:
    return (
        f'{{ kind = "troubled_engines:TroubledEngine", trouble = "{tmp_path / "trouble"}",'
        " blocks = 512, block_size = 4 }"
    )


def stream_of(system: System, **fields: Any) -> Any:
    request = GenerateRequest(
        **{"request_id": "r", "model": "simulated", "prompt": PROMPT, "max_tokens": 60} | fields
    )
    return system.ref("router", Router).stream(Router.generate, request)


async def answer(system: System, **fields: Any) -> list[Piece]:
    return [piece async for piece in stream_of(system, **fields)]


async def home_of(system: System) -> str:
    """The worker that has the only request."""
    load = await system.ref("router", Router).ask(Router.load)
    (name,) = [name for name, count in load.items() if count]
    return name


async def migrations(system: System) -> int:
    seen = await system.ref("router", Router).ask(Router.statistics)
    return int(seen["migrations"])


async def test_an_answer_outlives_two_workers_and_is_the_same(cluster: Cluster) -> None:
    system = await up(cluster)
    undisturbed = await answer(system)
    stream = stream_of(system)
    pieces = [await anext(stream)]
    for _ in range(2):
        await system.kill(await home_of(system))
        before = len(pieces)
        while len(pieces) < before + 4:  # so many that some came from another worker
            pieces.append(await anext(stream))
    pieces += [piece async for piece in stream]
    assert pieces[:-1] == undisturbed[:-1]
    first, last = undisturbed[-1], pieces[-1]
    assert isinstance(first, Finish)
    assert isinstance(last, Finish)
    assert (last.reason, last.prompt_tokens, last.completion_tokens) == (
        first.reason, first.prompt_tokens, first.completion_tokens,
    )  # fmt: skip
    assert await migrations(system) == 2


async def test_the_only_worker_dies_and_its_successor_ends_the_answer(cluster: Cluster) -> None:
    system = await up(cluster, workers=1)
    undisturbed = await answer(system)
    stream = stream_of(system)
    pieces = [await anext(stream)]
    await system.kill("worker.0")
    pieces += [piece async for piece in stream]
    assert pieces[:-1] == undisturbed[:-1]


async def test_a_worker_whose_engine_hangs_is_started_again_and_its_answers_go_on(
    cluster: Cluster, tmp_path: Path
) -> None:
    canary = "canary = { stall_s = 0.2, timeout_s = 0.2 }"
    system = await up(cluster, troubled(tmp_path), worker=canary)
    prompt = f"stall {PROMPT}"
    hung = await answer(system, prompt=prompt)
    assert await migrations(system) == 1
    assert (tmp_path / "trouble").read_text().count("\n") == 2  # nobody else hung
    assert hung[:-1] == (await answer(system, prompt=prompt))[:-1]
    await system.wait_ready(20)
    incarnations = [system.ref(f"worker.{index}", Worker).incarnation for index in range(2)]
    assert sorted(incarnations) == [1, 2]


async def test_a_worker_whose_engine_hangs_fails_although_its_mailbox_is_full(
    cluster: Cluster, tmp_path: Path
) -> None:
    text = CONFIG.format(
        engine=troubled(tmp_path),
        workers=1,
        router="temperature = 0.0",
        worker="canary = { stall_s = 0.2, timeout_s = 0.2 }",
    )
    text = text.replace("callboard.serving:Worker", "engines_for_tests:NarrowWorker")
    system = await cluster.up(f"{text}mailbox = {{ messages = 1 }}\n", plane="tcp")
    hung = stream_of(system, prompt=f"stall {PROMPT}")
    await anext(hung)
    answers = await asyncio.gather(rest(hung), answer(system))  # the second waits in the mailbox
    assert [len(pieces) for pieces in answers] == [60, 61]


async def rest(stream: Any) -> list[Piece]:
    return [piece async for piece in stream]


async def test_a_request_that_kills_workers_fails_and_others_are_answered(
    cluster: Cluster, tmp_path: Path
) -> None:
    system = await up(cluster, troubled(tmp_path), router="migration_limit = 1")
    with pytest.raises(WorkersLost):
        await answer(system, prompt="poison")
    assert (tmp_path / "trouble").read_text().count("\n") == 2
    assert len(await answer(system)) == 61


async def test_a_router_waits_for_its_first_workers_before_it_is_ready(cluster: Cluster) -> None:
    system = await up(cluster, workers=3, router="min_initial_workers = 3")
    assert len(await system.ref("router", Router).ask(Router.load)) == 3


async def test_with_predictions_a_burst_of_one_prompt_stays_together(cluster: Cluster) -> None:
    router = (
        "temperature = 0.0, predicted_ttl_s = 30.0, track_prefill_tokens = false, track_active_blocks = false"
    )
    system = await up(cluster, router=router)
    for number in range(2):  # so that both are known to tell what they have
        await answer(system, prompt=f"{number} is known to tell now", worker=number)
        await until(lambda number=number: knows(system, number))  # type: ignore[misc]
    burst = [stream_of(system, explain=True, max_tokens=2) for _ in range(6)]
    firsts = await asyncio.gather(*(anext(stream) for stream in burst))
    assert len({routed.worker for routed in firsts}) == 1
    assert sorted(routed.overlap_blocks for routed in firsts) == [0, 10, 10, 10, 10, 10]


async def knows(system: System, number: int) -> bool:
    return bool(await system.ref("router", Router).ask(Router.blocks, number))
