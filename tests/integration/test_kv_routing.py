"""The router's view of the caches against the truth of the workers, and what it makes of it."""

from __future__ import annotations

from typing import Any

import pytest

from callboard.serving import Router, Worker
from callboard.serving.protocol import Finish, GenerateRequest, Piece, Routed
from callboard.supervisor.system import System
from callboard.testing.cluster import Cluster

from .waiting import until

CONFIG = """
namespace = "kv"
event_plane = "{events}"

[actor.router]
class = "callboard.serving:Router"
args = {{ workers = {{ ref = "worker" }}, mode = "kv", {router} }}

[actor.worker]
class = "callboard.serving:Worker"
replicas = {workers}
args = {{ engine = {{ kind = "simulated", blocks = {blocks}, block_size = 4, dp_ranks = 2 }} }}
restart = {{ max_restarts = 100 }}
{more}
"""

LONG = " ".join(f"w{n}" for n in range(40))
PLANES = [("tcp", "zmq"), ("nats", "nats")]


async def up(
    cluster: Cluster,
    plane: str,
    events: str,
    workers: int = 2,
    blocks: int = 64,
    router: str = "",
    more: str = "",
) -> System:
    text = CONFIG.format(
        events=events, workers=workers, blocks=blocks, router=router or "temperature = 0.0", more=more
    )
    return await cluster.up(text, plane=plane)


async def generate(system: System, prompt: str, **fields: Any) -> tuple[Routed, Finish, list[Piece]]:
    request = GenerateRequest(
        **{"request_id": "r", "model": "simulated", "prompt": prompt, "max_tokens": 8, "explain": True}
        | fields
    )
    stream = system.ref("router", Router).stream(Router.generate, request)
    routed, *pieces, finish = [piece async for piece in stream]
    assert isinstance(routed, Routed)
    assert isinstance(finish, Finish)
    return routed, finish, pieces


async def agrees(system: System, workers: int) -> bool:
    """True if the router knows every block of every rank, and no other."""
    router = system.ref("router", Router)
    for index in range(workers):
        truth = await system.ref(f"worker.{index}", Worker).ask(Worker.resident)
        for rank in range(2):
            if await router.ask(Router.blocks, index, rank) != truth.get(rank, []):
                return False
    return True


@pytest.mark.parametrize(("plane", "events"), PLANES)
async def test_a_prompt_goes_where_its_beginning_is(cluster: Cluster, plane: str, events: str) -> None:
    system = await up(cluster, plane, events)
    first, finish, _ = await generate(system, LONG)
    assert (first.overlap_blocks, first.prompt_blocks, finish.cached_tokens) == (0, 10, 0)
    await until(lambda: agrees(system, 2))
    for number in range(3):
        again, finish, _ = await generate(system, f"{LONG} and more {number}")
        assert (again.worker, again.dp_rank) == (first.worker, first.dp_rank)
        assert again.overlap_blocks == 10
        assert finish.cached_tokens == again.overlap_blocks * 4
    assert min(again.costs.values()) == again.cost
    other, _, _ = await generate(system, "something else " * 12)
    assert other.overlap_blocks == 0
    await until(lambda: agrees(system, 2))


@pytest.mark.parametrize(("plane", "events"), PLANES)
async def test_the_view_is_the_truth_when_workers_and_routers_come_and_go(
    cluster: Cluster, plane: str, events: str
) -> None:
    system = await up(cluster, plane, events, blocks=24)
    for number in range(12):
        await generate(system, f"{number} {LONG}"[: 60 + 5 * number])
    await until(lambda: agrees(system, 2))
    for victim in ("worker.0", "router.0", "worker.1"):
        await system.kill(victim)
        await system.wait_ready(20)
        for number in range(4):
            prompt = f"{victim} {number} {LONG}"
            await until(lambda prompt=prompt: answered(system, prompt))  # type: ignore[misc]
        await until(lambda: agrees(system, 2))


@pytest.mark.parametrize("events", ["zmq", "nats", "jetstream"])
async def test_the_view_is_the_truth_although_events_are_lost(
    cluster: Cluster, events: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CALLBOARD_EVENT_LOSS", "0.05")
    system = await up(cluster, "tcp", events, blocks=24)
    for number in range(60):
        await generate(system, f"{number} {LONG}"[: 60 + 2 * number])
    await until(lambda: agrees(system, 2))
    for victim in ("worker.0", "router.0"):
        await system.kill(victim)
        await system.wait_ready(20)
        for number in range(10):
            prompt = f"{victim} {number} {LONG}"
            await until(lambda prompt=prompt: answered(system, prompt))  # type: ignore[misc]
        await until(lambda: agrees(system, 2))


async def answered(system: System, prompt: str) -> bool:
    try:
        await generate(system, prompt)
    except Exception:
        return False
    return True


async def test_without_events_the_router_goes_by_what_it_has_sent(cluster: Cluster) -> None:
    system = await up(cluster, "tcp", "none")
    first, _, _ = await generate(system, LONG)
    again, finish, _ = await generate(system, f"{LONG} and more")
    assert (again.worker, again.overlap_blocks) == (first.worker, 10)
    assert finish.cached_tokens == 40


async def test_two_routers_know_what_the_other_has_placed(cluster: Cluster) -> None:
    text = CONFIG.format(events="zmq", workers=2, blocks=64, router="temperature = 0.0", more="")
    text = text.replace("temperature = 0.0 }", "temperature = 0.0 }\nreplicas = 2")
    text = text.replace("dp_ranks = 2", "decode_ms = 20")
    system = await cluster.up(text, plane="tcp")
    routers = [system.ref(f"router.{n}", Router) for n in range(2)]
    request = GenerateRequest(request_id="r", model="simulated", prompt=LONG, max_tokens=200)
    stream = routers[0].stream(Router.generate, request)
    await anext(stream)

    async def remote() -> bool:
        seen = await routers[1].ask(Router.statistics)
        return seen["decode"]["remote"] == 1

    await until(remote)
    await stream.aclose()

    async def over() -> bool:
        seen = await routers[1].ask(Router.statistics)
        return seen["decode"]["remote"] == 0

    await until(over)


async def test_long_prompts_are_computed_by_the_prefill_pool_and_handed_over(cluster: Cluster) -> None:
    more = """
[actor.prefill]
class = "callboard.serving:Worker"
replicas = 2
args = { engine = { kind = "simulated", blocks = 64, block_size = 4, role = "prefill" } }
"""
    system = await up(
        cluster,
        "tcp",
        "zmq",
        workers=1,
        router='prefill = { ref = "prefill" }, eff_isl_threshold = 20',
        more=more,
    )
    routed, _, pieces = await generate(system, LONG)
    assert routed.prefill_worker.startswith("prefill.")
    await until(lambda: hears_of_prefill(system))
    short, _, _ = await generate(system, "short")
    assert short.prefill_worker == ""
    await system.kill("prefill.0")
    await system.kill("prefill.1")
    alone, _, same = await generate(system, LONG, seed=None)
    assert alone.worker == "worker.0"
    assert same == pieces


async def hears_of_prefill(system: System) -> bool:
    """True if the router knows from events what the prefill pool has."""
    seen = await system.ref("router", Router).ask(Router.statistics)
    return bool(seen["events"]["follower of prefill"]["blocks"])


async def test_who_connects_from_outside_bears_with_sources_of_events_that_come_and_go(
    cluster: Cluster,
) -> None:
    system = await up(cluster, "tcp", "zmq")
    async with await System.connect(namespace=system.namespace) as outside:
        router = outside.ref("router", Router)
        assert set(await router.ask(Router.load)) == {"worker.0", "worker.1"}
        await system.kill("worker.0")
        await system.wait_ready(20)
        await until(lambda: router.ask(Router.load))
        assert (await outside.status()).namespace == system.namespace
