"""Two signs of life: a frozen process counts as down until it goes on, a blocked one is only reported."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from callboard.actors.errors import ActorUnavailable, DeadlineExceeded
from callboard.actors.policy import Executed, OnDown
from callboard.actors.ref import Ref
from callboard.supervisor.spec import Limits
from callboard.supervisor.system import System
from callboard.testing.cluster import Cluster

from .actors_for_tests import Caller, Echo, Gate
from .terminal import callboard
from .waiting import until

LIMITS = Limits(heartbeat_s=0.05, silence_s=0.3)


async def gates(cluster: Cluster) -> tuple[System, Ref[Gate], list[str]]:
    system = await cluster.system(limits=LIMITS)
    events: list[str] = []
    system.on_event = events.append
    return system, await system.spawn(Gate, replicas=2, processes=2), events


def health(system: System, name: str) -> str:
    return system.status().process(name).health


async def test_a_frozen_process_counts_as_down_until_it_goes_on(cluster: Cluster) -> None:
    system, ref, events = await gates(cluster)
    first = ref.instance(0).options(deadline_s=60)
    await first.ask(Gate.held)
    in_flight = asyncio.create_task(first.ask(Gate.hold))
    stream = first.stream(Gate.hold_stream)
    assert await anext(stream) == 0
    pid = system.status().process("gate.0").pid
    await system.pause("gate.0")
    for lost in (in_flight, asyncio.ensure_future(anext(stream))):
        with pytest.raises(ActorUnavailable, match=r"gate\.0 is frozen") as caught:
            await lost
        assert caught.value.executed is Executed.MAYBE
    with pytest.raises(ActorUnavailable, match="is frozen") as caught:
        await first.ask(Gate.held)
    assert caught.value.executed is Executed.NEVER
    assert [await ref.ask(Gate.incarnation) for _ in range(4)] == [1] * 4
    assert "frozen" in (await callboard("ps", "-n", system.namespace)).out

    patient = asyncio.create_task(first.options(on_down=OnDown.WAIT).ask(Gate.incarnation))
    await system.resume("gate.0")
    assert await patient == 1
    await until(lambda: health(system, "gate.0") == "alive")
    status = system.status().process("gate.0")
    assert (status.pid, status.restarts) == (pid, 0)
    frozen = events.index("gate.0 is frozen: it was stopped by a signal")
    assert "gate.0 answers again" in events[frozen:]
    await first.ask(Gate.open)


async def test_an_idempotent_ask_leaves_a_frozen_process_for_another(cluster: Cluster) -> None:
    system, ref, _ = await gates(cluster)
    asks = [asyncio.create_task(ref.options(deadline_s=60).ask(Gate.hold_again)) for _ in range(8)]

    async def held(index: int, count: int) -> bool:
        return await ref.instance(index).ask(Gate.held) == count

    await until(lambda: held(0, 4))
    await system.pause("gate.0")
    await until(lambda: held(1, 8))
    await ref.instance(1).ask(Gate.open)
    assert await asyncio.gather(*asks) == [1] * 8


async def test_another_process_is_told_of_the_frozen_one_as_well(cluster: Cluster) -> None:
    system, _, _ = await gates(cluster)
    echo = await system.spawn(Echo)
    caller = await system.spawn(Caller, {"echo": [echo]})
    assert await caller.ask(Caller.ask_hello, "you") == "hello you"
    await system.pause("echo.0")
    await until(lambda: health(system, "echo.0") == "frozen")
    with pytest.raises(ActorUnavailable, match=r"echo\.0 is frozen"):
        await caller.ask(Caller.ask_hello, "you")
    await system.resume("echo.0")
    await until(lambda: health(system, "echo.0") == "alive")
    assert await caller.ask(Caller.ask_hello, "again") == "hello again"


async def test_a_frozen_process_can_be_killed_and_comes_back(cluster: Cluster) -> None:
    system, ref, _ = await gates(cluster)
    await system.pause("gate.0")
    await until(lambda: health(system, "gate.0") == "frozen")
    await system.kill("gate.0")
    await system.wait_ready(30)
    assert await ref.instance(0).ask(Gate.incarnation) == 2
    assert health(system, "gate.0") == "alive"


async def test_a_blocked_handler_is_reported_and_what_waits_for_it_is_answered(
    cluster: Cluster, tmp_path: Path
) -> None:
    go_on = tmp_path / "go on"
    system = await cluster.system(limits=LIMITS)
    events: list[str] = []
    system.on_event = events.append
    echo = await system.spawn(Echo)
    pid = system.status().process("echo.0").pid
    echo.tell(Echo.block_until, str(go_on))
    await until(lambda: health(system, "echo.0") == "stalled")
    assert "stalled" in (await callboard("ps", "-n", system.namespace)).out
    waiting = asyncio.create_task(echo.options(deadline_s=60).ask(Echo.hello, "you"))
    with pytest.raises(DeadlineExceeded):
        await echo.options(deadline_s=0.2).ask(Echo.hello, "you")
    go_on.touch()
    assert await waiting == "hello you"
    await until(lambda: health(system, "echo.0") == "alive")
    status = system.status().process("echo.0")
    assert (status.pid, status.restarts) == (pid, 0)
    assert [text.partition(" for ")[0] for text in events][-2:] == [
        "echo.0 has not answered",
        "echo.0 answers again",
    ]


async def test_a_child_does_not_hear_an_interrupt_but_what_it_starts_can_be_interrupted(
    cluster: Cluster,
) -> None:
    system = await cluster.system()
    echo = await system.spawn(Echo)
    pid = system.status().process("echo.0").pid
    os.kill(pid, signal.SIGINT)
    assert (await echo.ask(Echo.where))["pid"] == pid
    assert await echo.ask(Echo.interrupt_a_grandchild) == -signal.SIGINT
