"""The event plane between real processes: who comes late, who dies, who comes back."""

from __future__ import annotations

import os
from typing import Any

import pytest

from callboard import Ref
from callboard.supervisor.system import System
from callboard.testing.cluster import Cluster

from .event_actors import Listener, Speaker
from .waiting import nats_servers, until

CONFIG = """
namespace = "talk"
event_plane = "{events}"

[actor.speaker]
class = "event_actors:Speaker"
replicas = 2

[actor.listener]
class = "event_actors:Listener"
"""

PLANES = [(plane, events) for plane in ("tcp", "nats") for events in ("zmq", "nats", "jetstream")]


MIXES = pytest.mark.parametrize(("plane", "events"), PLANES)
BROKERED = pytest.mark.parametrize("events", ["nats", "jetstream"])
EVENTS = pytest.mark.parametrize(("plane", "events"), [pair for pair in PLANES if pair[0] == "tcp"])


async def up(cluster: Cluster, plane: str, events: str) -> System:
    return await cluster.up(CONFIG.format(events=events), plane=plane)


def listener(system: System) -> Ref[Listener]:
    return system.ref("listener", Listener)


async def hears(system: System, wanted: dict[str, int]) -> bool:
    heard = await listener(system).ask(Listener.heard)
    return heard == {name: list(range(count)) for name, count in wanted.items()}


async def came_back(system: System) -> bool:
    return bool((await listener(system).ask(Listener.statistics))["returns"])


async def say(system: System, name: str, count: int) -> Any:
    return await system.ref(name, Speaker).ask(Speaker.say, count)


def sockets(system: System) -> int:
    assert system.directory is not None
    return len(list((system.directory / "ipc").iterdir()))


@MIXES
async def test_every_event_of_every_source_is_heard_in_order(
    cluster: Cluster, plane: str, events: str
) -> None:
    system = await up(cluster, plane, events)
    await say(system, "speaker.0", 5)
    await say(system, "speaker.1", 20_000)
    await say(system, "speaker.0", 5)
    await until(lambda: hears(system, {"speaker.0": 10, "speaker.1": 20_000}))


@EVENTS
async def test_who_dies_leaves_and_who_comes_back_is_another(
    cluster: Cluster, plane: str, events: str
) -> None:
    system = await up(cluster, plane, events)
    for name in ("speaker.0", "speaker.1"):
        await say(system, name, 3)
    await until(lambda: hears(system, {"speaker.0": 3, "speaker.1": 3}))
    before = sockets(system)
    await system.kill("speaker.1")
    await system.wait_ready(20)
    await until(lambda: hears(system, {"speaker.0": 3, "speaker.1": 0}))
    assert sockets(system) == before, "a process that was killed leaves none"
    await say(system, "speaker.1", 2)
    await until(lambda: hears(system, {"speaker.0": 3, "speaker.1": 2}))


@EVENTS
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


@EVENTS
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


@EVENTS
async def test_what_is_lost_on_the_way_is_fetched(
    cluster: Cluster, plane: str, events: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CALLBOARD_EVENT_LOSS", "0.3")
    system = await up(cluster, plane, events)
    # Who follows later misses nothing on the way.
    await until(lambda: hears(system, {"speaker.0": 0, "speaker.1": 0}))
    for count in range(1, 41):
        for name in ("speaker.0", "speaker.1"):
            await say(system, name, count)
    await until(lambda: hears(system, {"speaker.0": 820, "speaker.1": 820}))
    lost = [
        (await system.ref(name, Speaker).ask(Speaker.statistics))["lost_on_purpose"]
        for name in ("speaker.0", "speaker.1")
    ]
    assert min(lost) > 0
    assert (await listener(system).ask(Listener.statistics))["gaps"] > 0


@BROKERED
async def test_a_nats_server_that_is_killed_and_comes_back_costs_no_event(
    cluster: Cluster, events: str
) -> None:
    system = await cluster.up(CONFIG.format(events=events), plane="tcp", nats_embedded=True)
    (server,) = nats_servers(os.getpid())
    await say(system, "speaker.0", 5)
    await until(lambda: hears(system, {"speaker.0": 5, "speaker.1": 0}))
    server.kill()
    said = {"speaker.0": 5, "speaker.1": 0}
    while not (back := nats_servers(os.getpid())) or back[0].pid == server.pid:
        for name in said:
            said[name] = await say(system, name, 3)
    await until(lambda: hears(system, said))
    for name in said:
        said[name] = await say(system, name, 1)
    await until(lambda: hears(system, said))
    # A speaker that is back first is heard while the listener still asks the server for what else it needs.
    await until(lambda: came_back(system))


async def test_jetstream_tells_who_comes_back_what_a_frozen_source_said(cluster: Cluster) -> None:
    # A source that counts as frozen is gone; here it must not, however long the listener takes to come back.
    config = CONFIG.format(events="jetstream") + "[supervisor]\nsilence_s = 3600\n"
    system = await cluster.up(config, plane="tcp")
    await say(system, "speaker.0", 3000)
    for _ in range(10):
        await say(system, "speaker.0", 1)
    await until(lambda: hears(system, {"speaker.0": 3010, "speaker.1": 0}))
    await system.pause("speaker.0")
    await system.kill("listener.0")
    await system.wait_ready(20)
    await until(lambda: hears(system, {"speaker.0": 3010, "speaker.1": 0}))
    await system.resume("speaker.0")
    await say(system, "speaker.0", 1)
    await until(lambda: hears(system, {"speaker.0": 3011, "speaker.1": 0}))


@pytest.mark.parametrize("plane", ["tcp", "nats"])
async def test_without_an_event_plane_nothing_is_sent_and_nothing_is_missed(
    cluster: Cluster, plane: str
) -> None:
    system = await up(cluster, plane, "none")
    assert await say(system, "speaker.0", 3) == 3
    assert await listener(system).ask(Listener.synced)
    assert await listener(system).ask(Listener.heard) == {}
