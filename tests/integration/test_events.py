"""The event plane between real processes: who comes late, who dies, who comes back."""

from __future__ import annotations

from typing import Any

import pytest

from callboard import Ref
from callboard.supervisor.system import System
from callboard.testing.cluster import Cluster

from .event_actors import Listener, Speaker
from .waiting import until

CONFIG = """
namespace = "talk"
event_plane = "{events}"

[actor.speaker]
class = "event_actors:Speaker"
replicas = 2

[actor.listener]
class = "event_actors:Listener"
"""

PLANES = [(plane, events) for plane in ("tcp", "nats") for events in ("zmq", "nats")]

pytestmark = pytest.mark.parametrize(("plane", "events"), PLANES)


async def up(cluster: Cluster, plane: str, events: str) -> System:
    return await cluster.up(CONFIG.format(events=events), plane=plane)


def listener(system: System) -> Ref[Listener]:
    return system.ref("listener", Listener)


async def hears(system: System, wanted: dict[str, int]) -> bool:
    heard = await listener(system).ask(Listener.heard)
    return heard == {name: list(range(count)) for name, count in wanted.items()}


async def say(system: System, name: str, count: int) -> Any:
    return await system.ref(name, Speaker).ask(Speaker.say, count)


async def test_every_event_of_every_source_is_heard_in_order(
    cluster: Cluster, plane: str, events: str
) -> None:
    system = await up(cluster, plane, events)
    await say(system, "speaker.0", 5)
    await say(system, "speaker.1", 20_000)
    await say(system, "speaker.0", 5)
    await until(lambda: hears(system, {"speaker.0": 10, "speaker.1": 20_000}))


async def test_who_dies_leaves_and_who_comes_back_is_another(
    cluster: Cluster, plane: str, events: str
) -> None:
    system = await up(cluster, plane, events)
    for name in ("speaker.0", "speaker.1"):
        await say(system, name, 3)
    await until(lambda: hears(system, {"speaker.0": 3, "speaker.1": 3}))
    await system.kill("speaker.1")
    await system.wait_ready(20)
    await until(lambda: hears(system, {"speaker.0": 3, "speaker.1": 0}))
    await say(system, "speaker.1", 2)
    await until(lambda: hears(system, {"speaker.0": 3, "speaker.1": 2}))


async def test_a_subscriber_that_comes_late_or_comes_back_knows_everything(
    cluster: Cluster, plane: str, events: str
) -> None:
    system = await up(cluster, plane, events)
    await say(system, "speaker.0", 30_000)
    await until(lambda: hears(system, {"speaker.0": 30_000, "speaker.1": 0}))
    await system.kill("listener.0")
    await system.wait_ready(20)
    await until(lambda: hears(system, {"speaker.0": 30_000, "speaker.1": 0}))
    await say(system, "speaker.1", 1)
    await until(lambda: hears(system, {"speaker.0": 30_000, "speaker.1": 1}))


async def test_a_frozen_source_goes_and_comes_back_with_all_it_said(
    cluster: Cluster, plane: str, events: str
) -> None:
    system = await up(cluster, plane, events)
    await say(system, "speaker.0", 3)
    await until(lambda: hears(system, {"speaker.0": 3, "speaker.1": 0}))
    await system.pause("speaker.0")
    await until(lambda: hears(system, {"speaker.1": 0}))
    await system.resume("speaker.0")
    await until(lambda: hears(system, {"speaker.0": 3, "speaker.1": 0}))
    await say(system, "speaker.0", 1)
    await until(lambda: hears(system, {"speaker.0": 4, "speaker.1": 0}))
