"""How a system stops: drain, stop, SIGTERM, SIGKILL, in reverse start order; a failed start stops the same way."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from callboard.actors.errors import ActorStopped, ActorUnavailable
from callboard.actors.policy import Executed
from callboard.supervisor.errors import StartInterrupted, StartupFailed, SupervisionError, SystemFailed
from callboard.supervisor.guardian import start_time
from callboard.supervisor.spec import Limits
from callboard.supervisor.status import State, SystemStatus
from callboard.supervisor.system import System
from callboard.testing.cluster import Cluster

from .actors_for_tests import Echo, Gate, OneByOne, Recorder, Slow
from .waiting import children, until

FOREVER = Limits(stop_grace_s=60.0)
QUICK = Limits(heartbeat_s=0.05, silence_s=0.3)


def exits(system: System) -> list[str]:
    return [process.last_exit for process in system.status().processes]


async def running(system: System, name: str) -> int:
    return int((await system.fetch_status()).actor(name).counters.get("running", 0))


async def test_a_running_handler_finishes_and_its_caller_gets_the_answer(
    cluster: Cluster, tmp_path: Path
) -> None:
    system = await cluster.system(limits=FOREVER)
    gate = await system.spawn(Gate)
    asks = [asyncio.create_task(gate.options(deadline_s=60).ask(Gate.hold)) for _ in range(8)]
    stream = gate.stream(Gate.hold_stream)
    assert await anext(stream) == 0
    await until(lambda: running(system, "gate.0"))
    await until(lambda: holds(gate, 8))
    opening = asyncio.create_task(gate.options(deadline_s=60).ask(Gate.open_when, str(tmp_path / "open")))
    await until(lambda: holds(gate, 9))
    await stop_and_touch(system, tmp_path / "open")
    assert await asyncio.gather(*asks) == [0] * 8
    assert [item async for item in stream] == [0]
    await opening
    assert exits(system) == ["exited with code 0"]


async def stop_and_touch(system: System, path: Path) -> None:
    """Make the file appear when the stop is under way."""
    stop = asyncio.create_task(system.stop())
    await until(lambda: {actor.state for actor in system.status().actors} == {State.STOPPING})
    path.touch()
    await stop


async def holds(gate: object, count: int) -> bool:
    return await gate.ask(Gate.held) >= count  # type: ignore[attr-defined, no-any-return]


async def test_what_waits_in_a_mailbox_is_told_that_it_never_ran(cluster: Cluster, tmp_path: Path) -> None:
    system = await cluster.system(limits=FOREVER)
    one = (await system.spawn(OneByOne)).options(deadline_s=60)
    path = str(tmp_path / "go on")
    first = asyncio.create_task(one.ask(OneByOne.wait_for, path))
    await until(lambda: running(system, "one_by_one.0"))
    queued = [asyncio.create_task(one.ask(OneByOne.wait_for, path)) for _ in range(8)]

    async def all_queued() -> bool:
        counters = (await system.fetch_status()).actor("one_by_one.0").counters
        return bool(counters["mailbox"] == 8)

    await until(all_queued)
    await stop_and_touch(system, Path(path))
    assert await first == "waited"
    for task in queued:
        with pytest.raises(ActorStopped) as caught:
            await task
        assert caught.value.executed is Executed.NEVER
    with pytest.raises(ActorUnavailable):
        await one.ask(OneByOne.wait_for, path)


async def test_a_handler_that_outlasts_the_grace_is_cancelled_and_its_process_ends_in_peace(
    cluster: Cluster,
) -> None:
    system = await cluster.system()
    gate = await system.spawn(Gate)
    ask = asyncio.create_task(gate.options(deadline_s=60).ask(Gate.hold))
    await until(lambda: running(system, "gate.0"))
    await system.stop(0.2)
    with pytest.raises(ActorStopped):
        await ask
    assert exits(system) == ["exited with code 0"]


async def test_a_handler_that_ignores_its_cancellation_dies_with_its_process(cluster: Cluster) -> None:
    system = await cluster.system()
    echo = await system.spawn(Echo)
    ask = asyncio.create_task(echo.options(deadline_s=60).ask(Echo.hold_on))
    await until(lambda: running(system, "echo.0"))
    await system.stop(0.2)
    with pytest.raises((ActorUnavailable, ActorStopped)) as caught:
        await ask
    assert caught.value.executed is not Executed.NEVER
    assert exits(system)[0].startswith(("killed by SIGKILL", "exited with code 143"))
    assert children() == []


async def test_a_blocked_process_gets_sigterm_and_then_sigkill(cluster: Cluster) -> None:
    system = await cluster.system(limits=QUICK)
    blocked, deaf = await system.spawn(Echo, name="blocked"), await system.spawn(Echo, name="deaf")
    await deaf.ask(Echo.ignore_sigterm)
    grandchild = await deaf.ask(Echo.leave_a_grandchild)
    for echo in (blocked, deaf):
        echo.tell(Echo.block, 600)
    await until(lambda: {process.health for process in system.status().processes} == {"stalled"})
    await system.stop(0.2)
    assert exits(system) == ["killed by SIGKILL", "killed by SIGKILL"]
    assert start_time(grandchild) == -1


async def test_a_frozen_process_is_not_waited_for(cluster: Cluster) -> None:
    system = await cluster.system(limits=replace(QUICK, stop_grace_s=600))
    await system.spawn(Gate, replicas=2, processes=2)
    await system.pause("gate.0")
    await system.stop()
    assert exits(system) == ["killed by SIGKILL", "exited with code 0"]


async def test_a_stop_with_no_grace_kills_at_once_and_also_ends_one_that_is_under_way(
    cluster: Cluster, tmp_path: Path
) -> None:
    system = await cluster.system()
    await system.spawn(Recorder, str(tmp_path / "book"))
    await system.stop(0)
    assert exits(system) == ["killed by SIGKILL"]
    assert "stop" not in (tmp_path / "book").read_text()

    other = await cluster.system(limits=FOREVER)
    gate = await other.spawn(Gate)
    ask = asyncio.create_task(gate.options(deadline_s=60).ask(Gate.hold))
    await until(lambda: running(other, "gate.0"))
    slowly = asyncio.create_task(other.stop())
    await until(lambda: other.status().actor("gate.0").state is State.STOPPING)
    await other.stop(0)
    await slowly
    with pytest.raises(ActorUnavailable):
        await ask
    assert exits(other) == ["killed by SIGKILL"]


async def test_a_commanded_stop_is_no_failure_and_everything_says_stopped(cluster: Cluster) -> None:
    system = await cluster.system()
    events: list[str] = []
    system.on_event = events.append
    gate = await system.spawn(Gate, replicas=3, processes=2)
    await system.stop()
    await system.stop()
    await system.wait_stopped()
    status: SystemStatus = system.status()
    assert events == []
    assert status.state is State.STOPPED
    assert {process.state for process in status.processes} == {State.STOPPED}
    assert {actor.state for actor in status.actors} == {State.STOPPED}
    assert sum(process.restarts for process in status.processes) == 0
    with pytest.raises((ActorUnavailable, ActorStopped)):
        await gate.ask(Gate.held)
    with pytest.raises(SupervisionError, match="the system is stopped; start it first"):
        await system.spawn(Gate, name="more")


async def test_a_stop_during_a_restart_ends_the_restart(cluster: Cluster, tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    ready.touch()
    system = await cluster.system(limits=FOREVER)
    await system.spawn(Slow, str(ready))
    ready.unlink()
    await system.kill("slow.0")
    await until(lambda: system.status().process("slow.0").incarnation == 2)
    await system.stop()
    assert children() == []


@pytest.mark.parametrize("grace_s", [0.0, 60.0])
async def test_a_stop_during_a_spawn_ends_it_and_says_so(
    cluster: Cluster, tmp_path: Path, grace_s: float
) -> None:
    system = await cluster.system()
    spawning = asyncio.create_task(system.spawn(Slow, str(tmp_path / "never")))
    await until(lambda: system.status().actors and system.status().process("slow.0").address)
    await system.stop(grace_s)
    with pytest.raises(StartInterrupted):
        await spawning
    assert children() == []


async def test_a_cancelled_spawn_leaves_nothing_of_it(cluster: Cluster, tmp_path: Path) -> None:
    system = await cluster.system()
    gate = await system.spawn(Gate)
    spawning = asyncio.create_task(system.spawn(Slow, str(tmp_path / "never"), replicas=2, processes=2))
    await until(lambda: len(system.status().processes) == 3 and system.status().process("slow.1").address)
    spawning.cancel()
    with pytest.raises(asyncio.CancelledError):
        await spawning
    assert [process.name for process in system.status().processes] == ["gate.0"]
    (tmp_path / "never").touch()
    slow = await system.spawn(Slow, str(tmp_path / "never"))
    assert await slow.ask(Slow.ping) == 1
    assert await gate.ask(Gate.incarnation) == 1


async def test_a_cancelled_start_stops_what_was_started(cluster: Cluster, tmp_path: Path) -> None:
    book = tmp_path / "book"
    starting = asyncio.create_task(
        cluster.up(f"""
            [actor.recorder]
            class = "actors_for_tests:Recorder"
            args = {{ path = "{book}" }}
            [actor.slow]
            class = "actors_for_tests:Slow"
            args = {{ ready = "{tmp_path}/never" }}
        """)
    )
    await until(book.exists)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert book.read_text().splitlines() == ["start recorder.0", "stop:shutdown recorder.0"]
    assert children() == []


async def test_a_failed_start_stops_what_was_ready_in_reverse_order(cluster: Cluster, tmp_path: Path) -> None:
    book = tmp_path / "book"
    with pytest.raises(StartupFailed, match="the hook failed"):
        await cluster.up(f"""
            [actor.back]
            class = "actors_for_tests:Recorder"
            args = {{ path = "{book}" }}
            [actor.front]
            class = "actors_for_tests:Recorder"
            args = {{ path = "{book}", needs = {{ ref = "back" }} }}
            [actor.broken]
            class = "actors_for_tests:Broken"
            args = {{ where = "hook", after = {{ ref = "front" }} }}
        """)
    assert book.read_text().splitlines() == [
        "start back.0",
        "start front.0",
        "stop:shutdown front.0",
        "stop:shutdown back.0",
    ]
    assert children() == []


async def test_a_budget_used_up_during_the_start_is_why_the_start_failed(
    cluster: Cluster, tmp_path: Path
) -> None:
    with pytest.raises(SystemFailed, match=r"because of fails\.0: fails\.0 failed: ValueError: at once"):
        await cluster.up(f"""
            [actor.fails]
            class = "actors_for_tests:FailsAtOnce"
            restart = {{ max_restarts = 0 }}
            [actor.slow]
            class = "actors_for_tests:Slow"
            args = {{ ready = "{tmp_path}/never" }}
        """)
    assert children() == []


async def test_an_error_in_the_body_stops_the_system_and_is_raised(cluster: Cluster, tmp_path: Path) -> None:
    book = tmp_path / "book"
    system = System(namespace="body")

    async def body() -> None:
        async with system:
            await system.spawn(Recorder, str(book))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await body()
    assert system.status().state is State.STOPPED
    assert book.read_text().splitlines() == ["start recorder.0", "stop:shutdown recorder.0"]
    assert children() == []


async def test_a_listener_that_fails_harms_nobody(cluster: Cluster) -> None:
    system = await cluster.system()

    def fails(*_: object) -> None:
        raise ZeroDivisionError

    system.on_event = system.on_change = fails
    gate = await system.spawn(Gate)
    await system.kill("gate.0")
    await system.wait_ready(30)
    assert await gate.ask(Gate.incarnation) == 2
