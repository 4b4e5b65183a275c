"""Death watch in a system of real processes: each death is heard once, with its reason, as soon as it is known."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from callboard.actors.policy import DownKind
from callboard.actors.ref import Down, Ref
from callboard.supervisor.spec import Limits, RestartPolicy
from callboard.supervisor.system import System
from callboard.testing.cluster import Cluster

from .actors_for_tests import Caller, Gate, Mourner, Slow
from .waiting import until

QUICK = RestartPolicy(max_restarts=50, backoff_s=(0.01, 0.05))
LIMITS = Limits(heartbeat_s=0.05, silence_s=0.3)


async def mourners(cluster: Cluster, ref: Ref[Gate], system: System) -> Ref[Mourner]:
    """Two in processes of their own, who watch the first instance of ``ref``."""
    watching = await system.spawn(Mourner, replicas=2, processes=2)
    for one in watching.instances():
        await one.ask(Mourner.watch, ref.instance(0))
    return watching


def heard(watching: Ref[Mourner], count: int) -> object:
    async def all_heard() -> bool:
        return [len(await one.ask(Mourner.heard)) for one in watching.instances()] == [count] * 2

    return until(all_heard)


async def test_a_killed_process_is_told_to_all_who_watch_and_its_successor_is_not(cluster: Cluster) -> None:
    system = await cluster.system()
    ref = await system.spawn(Gate, restart=QUICK)
    watching = await mourners(cluster, ref, system)
    watch = ref.instance(0).watch()
    os.kill(system.status().process("gate.0").pid, signal.SIGKILL)
    killed_s = time.monotonic()
    down = await watch
    noticed_s = time.monotonic() - killed_s
    assert (down.name, down.incarnation, down.kind) == ("gate.0", 1, DownKind.KILLED)
    assert "SIGKILL" in down.reason
    assert noticed_s < 10, "by push, not by a deadline"
    await heard(watching, 1)
    await system.wait_ready(20)
    second = ref.instance(0).watch()
    await system.kill("gate.0")
    assert (await second).incarnation == 2
    for one in watching.instances():
        assert await one.ask(Mourner.heard) == [["gate.0", 1, "killed"]]


async def test_a_frozen_process_is_down_as_unreachable_and_can_be_watched_again(cluster: Cluster) -> None:
    system = await cluster.system(limits=LIMITS)
    ref = await system.spawn(Gate)
    watching = await mourners(cluster, ref, system)
    await system.pause("gate.0")
    await heard(watching, 1)
    down = await ref.instance(0).watch()  # of one that is down already
    assert (down.kind, down.incarnation) == (DownKind.UNREACHABLE, 1)
    assert "is frozen" in down.reason
    await system.resume("gate.0")
    await until(lambda: system.status().process("gate.0").health == "alive")
    again = ref.instance(0).watch()
    await system.kill("gate.0")
    assert (await again).kind is DownKind.KILLED
    for one in watching.instances():
        assert await one.ask(Mourner.heard) == [["gate.0", 1, "unreachable"]]


async def test_an_actor_that_fails_is_told_with_its_error_and_its_process_lives(
    cluster: Cluster, tmp_path: Path
) -> None:
    system = await cluster.system()
    ready = tmp_path / "ready"
    ready.touch()
    ref = await system.spawn(Slow, str(ready), restart=QUICK)
    watch = ref.instance(0).watch()
    ref.tell(Slow.fail)
    down = await watch
    assert (down.kind, down.incarnation) == (DownKind.FAILED, 1)
    assert "asked to" in down.reason
    await system.wait_ready(20)
    assert system.status().process("slow.0").restarts == 0


async def test_a_stop_of_the_system_tells_who_still_watches(cluster: Cluster) -> None:
    system = await cluster.system()
    ref = await system.spawn(Gate, replicas=2)
    watches = [one.watch() for one in ref.instances()]
    await system.stop()
    downs: list[Down] = [await watch for watch in watches]
    assert [(down.name, down.kind) for down in downs] == [
        ("gate.0", DownKind.STOPPED),
        ("gate.1", DownKind.STOPPED),
    ]


async def test_who_is_stopped_later_hears_of_those_stopped_before(cluster: Cluster, tmp_path: Path) -> None:
    """The one that refers to the other is stopped first, and is watched by it."""
    path = tmp_path / "heard"
    system = await cluster.up(
        f'''
        [actor.later]
        class = "actors_for_tests:Mourner"
        args = {{ path = "{path}" }}
        [actor.sooner]
        class = "actors_for_tests:Caller"
        args = {{ targets = {{ echo = [{{ ref = "later" }}] }} }}
        '''
    )
    await system.ref("later.0", Mourner).ask(Mourner.watch, system.ref("sooner.0", Caller))
    await system.stop()
    assert path.read_text().splitlines() == ["sooner.0 1 stopped"]


async def test_a_process_that_comes_later_knows_who_is_down_and_why(cluster: Cluster) -> None:
    system = await cluster.system()
    ref = await system.spawn(Gate, restart=RestartPolicy(max_restarts=5, backoff_s=(60.0, 60.0)))
    await system.kill("gate.0")
    late = await system.spawn(Mourner)
    await late.ask(Mourner.watch, ref.instance(0))
    await until(lambda: late.ask(Mourner.heard))
    assert await late.ask(Mourner.heard) == [["gate.0", 1, "killed"]]


@pytest.mark.parametrize("cluster", ["tcp", "nats"], indirect=True)
async def test_watches_begun_around_the_moment_of_a_death_hear_once(cluster: Cluster) -> None:
    system = await cluster.system()
    ref = await system.spawn(Gate, restart=QUICK)
    one = ref.instance(0)
    for incarnation in range(1, 6):
        watches = [one.watch()]
        killing = asyncio.create_task(system.kill("gate.0"))
        while not killing.done():
            watches.append(one.watch())
            await asyncio.sleep(0.001)
        await killing
        downs = await asyncio.gather(*watches)
        assert {down.incarnation for down in downs} == {incarnation}
        await system.wait_ready(20)
