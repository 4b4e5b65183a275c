"""The cluster fixture with real processes: what it gives, and that nothing is left when it is done."""

import os
import signal
from collections.abc import AsyncIterator

import pytest

from callboard import Actor, ActorError

CONFIG = """
namespace = "demo"

[actor.counter]
class = "cluster_actors:Counter"
replicas = 2
args = { start = 5, port = 8000 }

[process.engine]
actors = ["counter"]
count = 2
"""

MODULE = """
from callboard import Actor

class Counter(Actor):
    def __init__(self, start: int, port: int) -> None:
        self.value, self.port = start, port

    async def add(self, number: int) -> int:
        self.value += number
        return self.value

    async def where(self) -> int:
        return self.port
"""


class Counter(Actor):
    def __init__(self, start: int = 0) -> None:
        self.value = start

    async def add(self, number: int) -> int:
        self.value += number
        return self.value

    async def pid(self) -> int:
        return os.getpid()

    async def count(self, to: int) -> AsyncIterator[int]:
        for number in range(to):
            yield number


async def test_an_empty_system_takes_actors(cluster):
    system = await cluster.system()
    counter = await system.spawn(Counter, 40)

    assert await counter.ask(Counter.add, 2) == 42
    assert await counter.ask(Counter.pid) != os.getpid()
    assert [number async for number in counter.stream(Counter.count, 3)] == [0, 1, 2]


async def test_a_config_as_text_starts_with_free_ports_in_a_namespace_of_its_own(cluster, tmp_path):
    (tmp_path / "cluster_actors.py").write_text(MODULE)
    cluster.beside = tmp_path
    system = await cluster.up(CONFIG)

    assert system.namespace.startswith(cluster.token)
    assert await system.ref("counter.1").ask("add", 2) == 7
    assert await system.ref("counter").ask("where") == 0
    assert set(cluster.logs()) == {f"{system.namespace}/engine.{n}" for n in (0, 1)}


async def test_a_config_file_is_found_beside_the_test_and_can_keep_its_ports(cluster, tmp_path):
    (tmp_path / "cluster_actors.py").write_text(MODULE)
    (tmp_path / "cluster.toml").write_text(CONFIG)
    cluster.beside = tmp_path
    system = await cluster.up("cluster.toml", fixed_ports=True)

    assert await system.ref("counter").ask("where") == 8000


async def test_two_systems_of_one_test_do_not_meet(cluster):
    one, two = await cluster.system(), await cluster.system()
    await one.spawn(Counter, 1)
    await two.spawn(Counter, 2)

    assert await one.ref("counter").ask("add", 0) == 1
    assert await two.ref("counter").ask("add", 0) == 2
    assert one.directory != two.directory


async def test_a_killed_process_comes_back_and_the_fixture_cleans_up_after_both(cluster):
    system = await cluster.system()
    counter = await system.spawn(Counter)
    before = await counter.ask(Counter.pid)
    await system.kill("counter.0", signal.SIGKILL)
    await system.wait_ready(20)

    assert await counter.ask(Counter.pid) != before


async def test_a_frozen_process_is_gone_at_the_end_as_well(cluster):
    system = await cluster.system()
    counter = await system.spawn(Counter)
    await system.pause("counter.0")
    with pytest.raises(ActorError):
        await counter.options(deadline_s=0.05, retries=0).ask(Counter.pid)
