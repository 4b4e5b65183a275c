"""What dies comes back: what was in flight on it fails at once, the rest goes on, and everybody sees it."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from callboard.actors.errors import ActorUnavailable
from callboard.actors.policy import Executed, OnDown
from callboard.actors.ref import Ref
from callboard.supervisor.errors import SystemFailed
from callboard.supervisor.guardian import start_time
from callboard.supervisor.spec import Limits, RestartKind, RestartPolicy
from callboard.supervisor.status import State
from callboard.supervisor.system import System
from callboard.testing.cluster import Cluster

from .actors_for_tests import DiesAtOnce, Echo, FailsLater, Gate, Patient, Slow
from .terminal import callboard
from .waiting import until

QUICK = RestartPolicy(max_restarts=5, backoff_s=(0.01, 0.05))


async def gates(cluster: Cluster) -> tuple[System, Ref[Gate]]:
    """Two gates, each in a process of its own."""
    system = await cluster.system()
    ref = await system.spawn(Gate, replicas=2, processes=2)
    return system, ref.options(deadline_s=60)


def all_in_flight(ref: Ref[Gate], *counts: int) -> object:
    async def held() -> bool:
        return [await one.ask(Gate.held) for one in ref.instances()] == list(counts)

    return until(held)


def pid_of(system: System, name: str) -> int:
    return system.status().process(name).pid


async def kill_from_outside(system: System, name: str) -> None:
    """As an operator or the kernel does it; returns when the supervisor has noticed."""
    pid = pid_of(system, name)
    os.kill(pid, signal.SIGKILL)
    await until(lambda: pid_of(system, name) != pid)


async def outcome(work: object) -> object:
    try:
        return await work  # type: ignore[misc]
    except ActorUnavailable as error:
        return error


async def test_a_killed_worker_fails_what_is_on_it_at_once_and_nothing_else(cluster: Cluster) -> None:
    system, ref = await gates(cluster)
    asks = [asyncio.create_task(outcome(ref.ask(Gate.hold))) for _ in range(64)]
    await all_in_flight(ref, 32, 32)  # type: ignore[misc]
    os.kill(pid_of(system, "gate.0"), signal.SIGKILL)
    await until(lambda: sum(task.done() for task in asks) == 32)
    lost = [task.result() for task in asks if task.done()]
    others = [task for task in asks if not task.done()]
    for error in lost:
        assert isinstance(error, ActorUnavailable)
        assert (error.actor, error.incarnation, error.executed) == ("gate.0", 1, Executed.MAYBE)
    await ref.instance(1).ask(Gate.open)
    assert [await task for task in others] == [1] * 32


async def test_a_killed_worker_ends_its_streams_and_says_after_which_item(cluster: Cluster) -> None:
    system, ref = await gates(cluster)
    streams = [ref.stream(Gate.hold_stream) for _ in range(64)]
    first = [await anext(stream) for stream in streams]
    await all_in_flight(ref, 32, 32)  # type: ignore[misc]
    rest = [asyncio.create_task(outcome(anext(stream))) for stream in streams]
    os.kill(pid_of(system, "gate.0"), signal.SIGKILL)
    lost = [await task for task, index in zip(rest, first, strict=True) if index == 0]

    assert len(lost) == 32
    for error in lost:
        assert isinstance(error, ActorUnavailable)
        assert (error.actor, error.executed, error.items) == ("gate.0", Executed.MAYBE, 1)
    await ref.instance(1).ask(Gate.open)
    assert [await task for task, index in zip(rest, first, strict=True) if index == 1] == [1] * 32
    for stream in streams:
        await stream.aclose()


async def test_idempotent_asks_of_a_killed_worker_are_answered_by_the_other(cluster: Cluster) -> None:
    system, ref = await gates(cluster)
    asks = [asyncio.create_task(ref.ask(Gate.hold_again)) for _ in range(64)]
    await all_in_flight(ref, 32, 32)  # type: ignore[misc]
    await kill_from_outside(system, "gate.0")
    survivor = ref.instance(1)

    async def taken_over() -> bool:
        return await survivor.ask(Gate.held) == 64

    await until(taken_over)
    await survivor.ask(Gate.open)
    assert await asyncio.gather(*asks) == [1] * 64


async def test_idempotent_asks_of_the_only_worker_wait_for_its_successor(cluster: Cluster) -> None:
    system = await cluster.system()
    ref = (await system.spawn(Gate)).instance(0).options(deadline_s=60)
    asks = [asyncio.create_task(ref.ask(Gate.hold_again)) for _ in range(8)]
    await all_in_flight(ref, 8)  # type: ignore[misc]
    await kill_from_outside(system, "gate.0")
    await system.wait_ready(30)
    await all_in_flight(ref, 8)  # type: ignore[misc]
    await ref.ask(Gate.open)
    assert await asyncio.gather(*asks) == [0] * 8


async def test_a_killed_worker_is_back_and_serving(cluster: Cluster) -> None:
    system, ref = await gates(cluster)
    patient = ref.instance(0).options(on_down=OnDown.WAIT)
    await system.kill("gate.0")
    assert await patient.ask(Gate.incarnation) == 2


async def test_while_a_worker_is_down_its_callers_are_told_at_once_or_wait_as_they_chose(
    cluster: Cluster, tmp_path: Path
) -> None:
    ready = tmp_path / "ready"
    ready.touch()
    system = await cluster.system()
    ref = (await system.spawn(Slow, str(ready))).instance(0)
    ready.unlink()
    await system.kill("slow.0")
    with pytest.raises(ActorUnavailable, match="killed by SIGKILL") as caught:
        await ref.ask("ping")
    assert caught.value.executed is Executed.NEVER
    with pytest.raises(ActorUnavailable, match="killed by SIGKILL"):
        ref.tell("ping")
    waiting = asyncio.create_task(ref.options(on_down=OnDown.WAIT, deadline_s=60).ask(Slow.ping))
    await until(lambda: pid_of(system, "slow.0"))
    assert not waiting.done()
    ready.touch()
    assert await waiting == 2


async def test_a_process_that_starts_while_a_worker_is_down_is_told_so_or_waits(
    cluster: Cluster, tmp_path: Path
) -> None:
    ready = tmp_path / "ready"
    ready.touch()
    system = await cluster.system()
    slow = await system.spawn(Slow, str(ready))
    ready.unlink()
    await system.kill("slow.0")
    patient = await system.spawn(Patient, slow)
    with pytest.raises(ActorUnavailable, match="killed by SIGKILL"):
        await patient.ask(Patient.ping)
    waiting = asyncio.create_task(patient.ask(Patient.ping_when_up))
    await until(lambda: pid_of(system, "slow.0"))
    assert not waiting.done()
    ready.touch()
    assert await waiting == 2


async def test_who_waits_is_answered_by_the_successor_of_a_process_that_nobody_knows_to_be_dead(
    cluster: Cluster,
) -> None:
    system, ref = await gates(cluster)
    pid = pid_of(system, "gate.0")
    os.kill(pid, signal.SIGKILL)
    while start_time(pid) != -1:  # without a turn of the loop: the supervisor has not noticed yet
        pass
    assert await ref.instance(0).options(on_down=OnDown.WAIT).ask(Gate.incarnation) == 2


async def test_incarnations_grow_and_one_reference_follows_them(cluster: Cluster) -> None:
    system = await cluster.system()
    ref = await system.spawn(Gate, restart=QUICK)
    patient = ref.options(on_down=OnDown.WAIT, deadline_s=60)
    for number in range(1, 5):
        assert await patient.ask(Gate.incarnation) == number
        status = system.status().process("gate.0")
        assert (status.incarnation, status.actors[0].incarnation) == (number, number)
        await system.kill("gate.0")


async def test_ps_shows_the_restart_and_the_last_exit(cluster: Cluster) -> None:
    system, _ = await gates(cluster)
    await system.kill("gate.0")
    await system.wait_ready(30)
    shown = await callboard("ps", "-n", system.namespace, "--json")
    killed, other = shown.json()["processes"]
    assert (killed["restarts"], killed["incarnation"]) == (1, 2)
    assert (killed["state"], killed["last_exit"]) == ("ready", "killed by SIGKILL")
    assert killed["actors"][0]["restarts"] == 1
    assert (other["restarts"], other["incarnation"], other["last_exit"]) == (0, 1, "")

    text = (await callboard("ps", "-n", system.namespace)).out.splitlines()
    row = next(line.split() for line in text if line.startswith("gate.0"))
    assert row[2:4] == ["ready", "1"]
    assert row[-3:] == ["killed", "by", "SIGKILL"]


async def test_deaths_beyond_the_budget_stop_the_system_with_the_reason(cluster: Cluster) -> None:
    system = await cluster.system()
    once = RestartPolicy(max_restarts=1, backoff_s=(0.01, 0.01))
    echo = await system.spawn(Echo, restart=once)
    await system.spawn(Gate)
    await echo.ask(Echo.print_line, "last words")
    await system.kill("echo.0")
    await system.wait_ready(30)
    await system.kill("echo.0")
    with pytest.raises(SystemFailed, match=r"because of echo\.0: .*\(1 of 1 restarts in 60 s\)") as caught:
        await system.wait_stopped()
    assert "last words" in caught.value.log_tail
    status = system.status()
    assert status.state is State.FAILED
    assert status.actor("echo.0").state is State.FAILED
    assert [process.pid for process in status.processes] == [0, 0]
    with pytest.raises(SystemFailed, match=r"because of echo\.0: "):
        await system.spawn(Echo, name="more")


async def test_an_actor_that_cannot_start_again_uses_up_its_budget(cluster: Cluster, tmp_path: Path) -> None:
    system = await cluster.system()
    ref = await system.spawn(FailsLater, str(tmp_path / "once"), restart=QUICK)
    with pytest.raises(ActorUnavailable):
        await ref.ask(FailsLater.die)
    with pytest.raises(SystemFailed, match="did not start again: RuntimeError: once is enough"):
        await system.wait_stopped()
    assert system.status().actor("fails_later.0").restarts == QUICK.max_restarts


async def test_the_wait_before_a_restart_doubles_up_to_its_limit(cluster: Cluster) -> None:
    system = await cluster.system()
    await system.spawn(Gate, restart=QUICK)
    waits = []
    for _ in range(QUICK.max_restarts):
        await system.kill("gate.0")
        await system.wait_ready(30)
        waits.append(system.status().actor("gate.0").backoff_s)
    for wait, full in zip(waits, (0.01, 0.02, 0.04, 0.05, 0.05), strict=True):
        assert 0.75 * full - 0.001 <= wait <= full, waits


@pytest.mark.parametrize(
    ("kind", "code", "restarts"),
    [
        (RestartKind.PERMANENT, 0, 1),
        (RestartKind.TRANSIENT, 0, 0),
        (RestartKind.TRANSIENT, 1, 1),
        (RestartKind.TEMPORARY, 0, 0),
        (RestartKind.TEMPORARY, 1, 0),
    ],
    ids=lambda value: value.value if isinstance(value, RestartKind) else str(value),
)
async def test_the_policy_says_after_which_end_a_process_comes_back(
    cluster: Cluster, kind: RestartKind, code: int, restarts: int
) -> None:
    system = await cluster.system()
    echo = await system.spawn(Echo, restart=RestartPolicy(policy=kind, backoff_s=(0.01, 0.01)))
    gate = await system.spawn(Gate)
    with pytest.raises(ActorUnavailable):
        await echo.ask(Echo.exit, code)
    await until(lambda: system.status().process("echo.0").last_exit)
    await system.wait_ready(30)
    status = system.status().process("echo.0")
    assert status.last_exit == f"exited with code {code}"
    assert status.restarts == restarts
    assert status.state is (State.READY if restarts else State.STOPPED)
    if not restarts:
        with pytest.raises(ActorUnavailable, match=f"exited with code {code}"):
            await echo.ask(Echo.where)
    assert await gate.ask(Gate.incarnation) == 1


TWO_IN_ONE = """
[actor.gate]
class = "actors_for_tests:Gate"
[actor.echo]
class = "actors_for_tests:Echo"
restart = { backoff_s = [0.01, 0.01], max_restarts = 2 }
[process.both]
actors = ["gate", "echo"]
"""


async def test_an_actor_that_fails_in_a_tell_starts_again_alone(cluster: Cluster) -> None:
    system = await cluster.up(TWO_IN_ONE)
    echo, gate = system.ref("echo", Echo), system.ref("gate", Gate)
    waiting = asyncio.create_task(gate.ask(Gate.hold))
    before = system.status().process("both.0")
    echo.tell(Echo.fail, "in a tell")
    await until(lambda: system.status().actor("echo.0").restarts)
    await system.wait_ready(30)
    after = system.status().process("both.0")
    assert (after.pid, after.restarts) == (before.pid, 0)
    actor = after.actors[[actor.name for actor in after.actors].index("echo.0")]
    assert (actor.incarnation, actor.restarts, actor.last_error) == (2, 1, "ValueError: in a tell")
    assert (await echo.ask(Echo.where))["incarnation"] == 2
    assert await gate.ask(Gate.incarnation) == 1
    await gate.ask(Gate.open)
    assert await waiting == 0


async def test_an_actor_that_keeps_failing_uses_up_its_budget_too(cluster: Cluster) -> None:
    system = await cluster.up(TWO_IN_ONE)
    echo = system.ref("echo", Echo).options(on_down=OnDown.WAIT)
    for number in (1, 2, 3):
        await system.wait_ready(30)
        assert (await echo.ask(Echo.where))["incarnation"] == number
        echo.tell(Echo.fail, f"number {number}")
        await until(lambda: system.status().actor("echo.0").state is not State.READY)
    with pytest.raises(SystemFailed, match=r"echo\.0 failed: ValueError: number 3; .*\(2 of 2 restarts"):
        await system.wait_stopped()


async def test_an_actor_whose_restart_hangs_is_given_up_and_tried_again(
    cluster: Cluster, tmp_path: Path
) -> None:
    ready = tmp_path / "ready"
    ready.touch()
    system = await cluster.system(limits=Limits(actor_start_s=0.5))
    slow = await system.spawn(
        Slow, str(ready), restart=RestartPolicy(max_restarts=99, backoff_s=(0.01, 0.01))
    )
    pid = pid_of(system, "slow.0")
    ready.unlink()
    slow.tell(Slow.fail)
    await until(lambda: system.status().actor("slow.0").restarts >= 2)
    ready.touch()
    await system.wait_ready(30)
    assert await slow.ask(Slow.ping) == system.status().actor("slow.0").incarnation
    assert pid_of(system, "slow.0") == pid


async def test_a_process_that_dies_as_soon_as_it_is_ready_is_not_taken_for_a_living_one(
    cluster: Cluster, tmp_path: Path
) -> None:
    system = await cluster.system()
    ref = await system.spawn(DiesAtOnce, str(tmp_path / "die"), restart=QUICK)
    (tmp_path / "die").touch()
    await system.kill("dies_at_once.0")
    await until(lambda: system.status().actor("dies_at_once.0").incarnation == 2)
    time.sleep(1)  # noqa: ASYNC251 - so that the supervisor hears of the start and of the death together
    (tmp_path / "die").unlink()
    await until(lambda: system.status().actor("dies_at_once.0").incarnation > 2)
    await system.wait_ready(30)
    assert await ref.ask(DiesAtOnce.incarnation) == system.status().actor("dies_at_once.0").incarnation


FAILS_AT_ONCE = """
[actor.fails]
class = "actors_for_tests:FailsAtOnce"
restart = { policy = "temporary" }
[actor.gate]
class = "actors_for_tests:Gate"
[process.both]
actors = ["fails", "gate"]
"""


async def test_an_actor_that_is_given_up_during_the_start_does_not_keep_its_process_from_being_ready(
    cluster: Cluster,
) -> None:
    system = await cluster.up(FAILS_AT_ONCE)
    await until(lambda: system.status().actor("fails.0").state is State.STOPPED)
    await until(lambda: system.status().process("both.0").state is State.READY)
    await system.kill("both.0")
    await system.wait_ready(30)
    assert await system.ref("gate", Gate).ask(Gate.incarnation) == 2
    status = system.status()
    assert status.process("both.0").state is State.READY
    assert (status.actor("fails.0").state, status.actor("fails.0").restarts) == (State.STOPPED, 0)


async def test_what_a_killed_worker_had_started_is_gone_before_its_successor_starts(cluster: Cluster) -> None:
    system = await cluster.system()
    echo = await system.spawn(Echo, restart=RestartPolicy(backoff_s=(0.0, 0.0)))
    grandchildren = [await echo.ask(Echo.leave_a_grandchild) for _ in range(3)]
    assert all(start_time(pid) > 0 for pid in grandchildren)
    await system.kill("echo.0")
    await until(lambda: system.status().process("echo.0").pid)
    assert [start_time(pid) for pid in grandchildren] == [-1, -1, -1]


async def test_a_process_that_dies_while_its_neighbours_start_comes_back(
    cluster: Cluster, tmp_path: Path
) -> None:
    system = await cluster.system()
    spawning = asyncio.create_task(system.spawn(Slow, f"{tmp_path}/{{index}}", replicas=2, processes=2))
    (tmp_path / "0").touch()
    await until(lambda: [a.state for a in system.status().actors] == [State.READY, State.STARTING])
    await system.kill("slow.0")
    await until(lambda: [a.state for a in system.status().actors] == [State.READY, State.STARTING])
    (tmp_path / "1").touch()
    ref = await spawning
    await system.wait_ready(30)
    assert [await one.ask(Slow.ping) for one in ref.instances()] == [2, 1]
    assert system.status().process("slow.1").restarts == 0
