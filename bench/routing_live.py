"""A trace through a real system: a router, workers with simulated engines, and the event plane between them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import orjson

from callboard.actors.ref import Ref
from callboard.serving.kv.hashing import TOKEN_BYTES, pack
from callboard.serving.protocol import Finish, GenerateRequest
from callboard.serving.router import Router
from callboard.serving.simulation.routing import ORACLES, ROUTINGS, RoutingResult, RoutingTrial
from callboard.serving.simulation.trace import Arrival
from callboard.serving.worker import Worker
from callboard.supervisor.config import parse
from callboard.supervisor.system import System

from .rig import Rig

CONFIG = """
event_plane = "{events}"

[actor.router]
class = "callboard.serving:Router"
args = {{ workers = {{ ref = "worker" }}, min_initial_workers = {engines}, {options} }}

[actor.worker]
class = "callboard.serving:Worker"
replicas = {engines}
args = {{ engine = {{ kind = "simulated", {engine} }} }}
"""
EVENTS = {"tcp": "zmq", "ipc": "zmq", "nats": "nats"}
"""The event plane beside each request plane."""


def playable(routings: Sequence[str]) -> list[str]:
    """Return those of `ROUTINGS` that a router can do: all but the oracles."""
    return [name for name in routings if name not in ORACLES]


async def run_live(name: str, trace: Sequence[Arrival], trial: RoutingTrial, plane: str) -> RoutingResult:
    """Return the figures of one of `ROUTINGS`, measured where the requests come from.

    Each request is sent when the trace says, or when the answer before it in its session is whole, if that is later; it
    repeats what the engine really answered.
    """
    async with Rig(plane) as rig:
        text = CONFIG.format(
            events=EVENTS[plane],
            engines=trial.engines,
            options=_toml({**trial.options, **ROUTINGS[name]}),
            engine=_toml({key: value for key, value in asdict(trial.engine).items() if key != "dp_ranks"}),
        )
        config = parse(text, file=Path("routing.toml"), namespace=f"routing-{rig.system.namespace}")
        async with System.from_config(replace(config, network=rig.settings)) as system:
            return await _drive(name, system, trace, trial)


def _toml(values: dict[str, object]) -> str:
    """Simple values are the same in JSON."""
    return ", ".join(
        f"{key} = {orjson.dumps(value).decode()}" for key, value in values.items() if value is not None
    )


async def _drive(name: str, system: System, trace: Sequence[Arrival], trial: RoutingTrial) -> RoutingResult:
    router = system.ref("router", Router)
    sessions: dict[int, list[Arrival]] = {}
    for arrival in trace:
        sessions.setdefault(arrival.session, []).append(arrival)
    waits: list[float] = []
    finishes: list[Finish] = []
    begin_s = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for number, arrivals in sessions.items():
            group.create_task(_session(router, number, arrivals, begin_s, waits, finishes))
    loads = [await system.ref(f"worker.{index}", Worker).ask(Worker.load) for index in range(trial.engines)]
    computed = [load.prompt_tokens - load.cached_tokens + load.tokens for load in loads]
    waits.sort()
    prompts = sum(finish.prompt_tokens for finish in finishes)
    return RoutingResult(
        routing=name,
        requests=len(finishes),
        hit_rate=sum(finish.cached_tokens for finish in finishes) / prompts,
        mean_ttft_s=sum(waits) / len(waits),
        p95_ttft_s=waits[-(-95 * len(waits) // 100) - 1],
        load_spread=max(computed) * len(computed) / sum(computed),
        computed_tokens=sum(computed),
    )


async def _session(
    router: Ref[Router],
    number: int,
    arrivals: Sequence[Arrival],
    begin_s: float,
    waits: list[float],
    finishes: list[Finish],
) -> None:
    prompt, before = b"", 0
    for turn, arrival in enumerate(arrivals):
        prompt += arrival.prompt[before:]
        before = len(arrival.prompt) + len(arrival.answer)
        await asyncio.sleep(begin_s + arrival.arrival_s - time.monotonic())
        request = GenerateRequest(
            request_id=f"{number}.{turn}",
            model="simulated",
            tokens=prompt,
            max_tokens=len(arrival.answer) // TOKEN_BYTES,
        )
        asked_s = time.monotonic()
        ids: list[int] = []
        async for piece in router.stream(Router.generate, request):
            if isinstance(piece, Finish):
                finishes.append(piece)
            elif isinstance(piece, int):
                if not ids:
                    waits.append(time.monotonic() - asked_s)
                ids.append(piece)
        prompt += pack(ids)
