"""More and fewer instances while the system runs."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from callboard.actors.errors import ActorNotFound, ActorStopped, ActorUnavailable
from callboard.actors.policy import Executed
from callboard.actors.ref import Ref
from callboard.supervisor.errors import SupervisionError
from callboard.supervisor.system import System
from callboard.testing.cluster import Cluster
from callboard.transports.errors import ConfigError

from .scaled_actors import Counter
from .waiting import until

CONFIG = """
namespace = "scales"
[actor.counter]
class = "scaled_actors:Counter"
replicas = {replicas}
[process.pool]
actors = ["counter"]
count = {count}
env = {{ PLACE = "{{index}}" }}
"""


def up(system: System) -> list[str]:
    return [ref.name for ref in system.ref("counter", Counter).instances()]


@pytest.mark.parametrize("cluster", ["tcp", "nats"], indirect=True)
async def test_instances_come_and_go_and_come_again(cluster: Cluster) -> None:
    system = await cluster.up(CONFIG.format(replicas=1, count=1))
    await system.scale("counter", 3)
    assert up(system) == ["counter.0", "counter.1", "counter.2"]
    assert {process.name for process in system.status().processes} == {"pool.0", "pool.1", "pool.2"}
    await system.kill("pool.2")  # so that its next incarnation is not its first
    await system.wait_ready(20)
    await until(lambda: len(up(system)) == 3)

    await system.scale("counter", 1)
    assert up(system) == ["counter.0"]
    assert [process.name for process in system.status().processes] == ["pool.0"]
    with pytest.raises((ActorUnavailable, ActorNotFound)):
        await system.ref("counter.2", Counter).ask(Counter.add, 0)

    await system.scale("counter", 3)
    assert await system.ref("counter.2", Counter).ask(Counter.add, 0) == 0
    assert system.status().process("pool.2").incarnation > 2
    await system.kill("pool.2")
    await until(lambda: len(up(system)) == 2)
    await system.wait_ready(20)
    await until(lambda: len(up(system)) == 3)


async def test_what_runs_is_finished_before_an_instance_goes(cluster: Cluster, tmp_path: Path) -> None:
    system = await cluster.up(CONFIG.format(replicas=2, count=2))
    last, gate = system.ref("counter.1", Counter), tmp_path / "gate"
    slow = asyncio.create_task(last.ask(Counter.add, 1, str(gate)))
    await until(lambda: last.ask(Counter.adding))
    going = asyncio.create_task(system.scale("counter", 1, grace_s=20))
    await until(lambda: refuses(last))
    gate.touch()
    assert await slow == 1
    await going
    assert len(system.status().processes) == 1


async def refuses(counter: Ref[Counter]) -> bool:
    try:
        await counter.options(retries=0).ask(Counter.add, 0)
    except (ActorStopped, ActorUnavailable) as error:
        return error.executed is Executed.NEVER
    return False


async def test_instances_that_share_a_process_leave_it_to_the_others(cluster: Cluster) -> None:
    system = await cluster.up(CONFIG.format(replicas=4, count=2))
    await system.scale("counter", 1)
    assert up(system) == ["counter.0"]
    assert [process.name for process in system.status().processes] == ["pool.0"]
    await system.kill("pool.0")
    await until(lambda: up(system) == [])
    await until(lambda: up(system) == ["counter.0"])
    await system.scale("counter", 3)
    assert len(up(system)) == 3


async def test_mistakes_are_named_and_change_nothing(cluster: Cluster) -> None:
    system = await cluster.up(CONFIG.format(replicas=1, count=1))
    with pytest.raises(ConfigError, match=r'no component "countr".*did you mean "counter"'):
        await system.scale("countr", 2)
    with pytest.raises(ConfigError, match="replicas is 0"):
        await system.scale("counter", 0)
    first = asyncio.create_task(system.scale("counter", 2))
    await until(lambda: len(system.status().processes) == 2)
    with pytest.raises(SupervisionError, match="being scaled"):
        await system.scale("counter", 3)
    await first
    assert up(system) == ["counter.0", "counter.1"]
