"""From a name to the way there."""

import asyncio
import collections

import pytest

from callboard.actors.directory import Directory, Location
from callboard.actors.errors import ActorNotFound, ActorUnavailable
from callboard.actors.policy import Executed
from callboard.actors.target import Target


class Way:
    def __init__(self, location):
        self.location = location


class Host:
    """What a target knows of its node."""

    def __init__(self):
        self.directory = Directory()
        self.directory.on_change(self.changed)
        self.epoch = 0
        self.made = []
        self.gone = set()

    def changed(self):
        self.epoch += 1

    def route(self, location):
        if location.name in self.gone:
            raise ActorUnavailable("it has just been stopped", actor=location.name)
        self.made.append(location)
        return Way(location)


@pytest.fixture
def host():
    return Host()


def add(host, name, incarnation=1):
    location = Location(name, "node", "memory://x", 1, incarnation)
    host.directory.add(location)
    return location


def component(host):
    return Target(host, "w", is_component=True)


def test_ways_are_looked_up_again_only_after_a_change(host):
    add(host, "w.0")
    target = component(host)
    for _ in range(10):
        assert target.pick().location.name == "w.0"
    assert len(host.made) == 1
    add(host, "other.0")
    target.pick()
    assert len(host.made) == 2


def test_a_component_takes_turns(host):
    for index in range(3):
        add(host, f"w.{index}")
    target = component(host)
    assert collections.Counter(target.pick().location.name for _ in range(9)) == {
        "w.0": 3,
        "w.1": 3,
        "w.2": 3,
    }


def test_those_who_wait_already_are_passed_by_if_there_is_another(host):
    for index in range(3):
        add(host, f"w.{index}")
    target = component(host)
    for _ in range(6):
        assert target.pick_outside(["w.0", "x.0", "w.2"]).location.name == "w.1"
    assert target.pick_outside(["w.0", "w.1", "w.2"]).location.name in ("w.0", "w.1", "w.2")


def test_an_instance_that_is_gone_already_does_not_keep_the_others_from_serving(host):
    for index in range(2):
        add(host, f"w.{index}")
    host.gone = {"w.0"}
    target = component(host)
    assert {target.pick().location.name for _ in range(4)} == {"w.1"}
    with pytest.raises(ActorUnavailable, match="it has just been stopped") as caught:
        Target(host, "w.0", is_component=False).pick()
    assert caught.value.executed is Executed.NEVER


def test_a_name_that_leads_nowhere_is_down_or_unknown(host):
    target = component(host)
    with pytest.raises(ActorNotFound, match="actors are: none"):
        target.pick()
    add(host, "w.0")
    host.directory.remove("w.0", 1, "its process was killed")
    with pytest.raises(ActorUnavailable, match="its process was killed"):
        target.pick()
    with pytest.raises(ActorUnavailable):
        Target(host, "w.0", is_component=False).pick()


def test_a_name_without_index_is_an_actor_if_there_is_one(host):
    add(host, "single")
    assert Target(host, "single", is_component=True).pick().location.name == "single"


async def test_who_waits_for_a_name_is_woken_by_its_next_incarnation(host):
    target = component(host)
    with pytest.raises(ActorNotFound):
        await target.up()
    add(host, "w.0")
    host.directory.remove("w.0", 1, "killed")
    waiting = [asyncio.create_task(target.up()) for _ in range(3)]
    await asyncio.sleep(0)
    add(host, "other.0")
    await asyncio.sleep(0)
    assert not any(task.done() for task in waiting)
    waiting[0].cancel()
    add(host, "w.0", 2)
    await asyncio.gather(*waiting[1:])
    with pytest.raises(asyncio.CancelledError):
        await waiting[0]
    assert len(host.directory._listeners) == 1  # nobody listens any more but the host
