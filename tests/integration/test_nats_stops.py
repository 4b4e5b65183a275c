"""What strangers and peers notice when an actor on NATS stops, fails or dies: nothing that could be spared them."""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.aio.msg import Msg
from nats.errors import NoRespondersError

from callboard.actors.errors import ActorError
from callboard.actors.node import Node
from callboard.actors.policy import Executed, StopReason
from callboard.supervisor.nats_server import NatsServer
from callboard.testing.cluster import Cluster
from callboard.testing.nats_session import NatsForTest
from callboard.transports.nats_client import confirm, connect, drain
from callboard.transports.nats_settings import NatsSettings
from callboard.transports.settings import NetworkSettings

from .strangers_for_tests import PATIENCE_S, Sequential, Worker, actor_in, at, request
from .waiting import until


async def test_a_rolling_stop_loses_no_request(nats_server: NatsForTest) -> None:
    async with at(nats_server) as place:
        nodes = [await place.node(), await place.node()]
        for index, node in enumerate(nodes):
            await node.spawn(Sequential, name=f"worker.{index}")
        subject, over = place.subject("worker"), False
        names: Counter[str] = Counter()

        async def caller() -> None:
            while not over:
                names[await place.ask(subject, "pause")] += 1

        callers = [asyncio.ensure_future(caller()) for _ in range(50)]
        for turn in range(6):
            index, before = turn % 2, names.total()
            await until(lambda before=before: names.total() > before + 200 or any(c.done() for c in callers))
            await nodes[index].stop_actor(f"worker.{index}", StopReason.RESTART, grace_s=PATIENCE_S)
            await nodes[index].spawn(Sequential, name=f"worker.{index}", incarnation=turn + 2)
        over = True
        await asyncio.gather(*callers)
        assert set(names) == {"worker.0", "worker.1"}


async def test_what_was_asked_before_a_stop_is_answered_and_what_comes_after_goes_elsewhere(
    nats_server: NatsForTest,
) -> None:
    async with at(nats_server) as place:
        first, second = await place.node(), await place.node()
        await first.spawn(Sequential, name="worker.0")
        queued = [asyncio.ensure_future(place.ask(place.subject("worker"), "wait")) for _ in range(5)]
        await until(lambda: first.statistics()["actors"]["worker.0"]["mailbox"] == 4)
        await second.spawn(Sequential, name="worker.1")
        actor = actor_in(first, "worker.0")
        stop = asyncio.ensure_future(first.stop_actor("worker.0", StopReason.COMMANDED, grace_s=PATIENCE_S))
        await until(lambda: len(first._network._server._endpoints) == 0)  # type: ignore[union-attr]
        for _ in range(20):
            assert await place.ask(place.subject("worker"), "name") == "worker.1"
        assert not stop.done()
        actor.gate.set()
        assert await asyncio.gather(*queued) == ["worker.0"] * 5
        await stop


async def test_taking_back_an_address_costs_no_message_of_a_peer_and_no_link(
    nats_server: NatsForTest,
) -> None:
    """What the peer has sent to the subject of the actor is read before nobody listens there."""
    async with at(nats_server) as place:
        server, client = await place.node(), await place.node()
        asked, failures = Counter[str](), Counter[Executed]()

        async def caller(name: str) -> None:
            ref = client.ref(name, Worker).options(deadline_s=PATIENCE_S)
            try:
                while True:
                    asked[await ref.ask(Worker.pause)] += 1
            except ActorError as error:
                failures[error.executed] += 1

        callers = []
        for index in range(10):
            await server.spawn(Worker, name=f"worker.{index}")
            client.add_location(server.location(f"worker.{index}"))
            callers += [asyncio.ensure_future(caller(f"worker.{index}")) for _ in range(10)]
        for index in range(10):
            before = asked.total()
            await until(lambda before=before: asked.total() > before + 100)
            await server.stop_actor(f"worker.{index}", StopReason.COMMANDED, grace_s=PATIENCE_S)
        await asyncio.gather(*callers)
        assert failures == {Executed.NEVER: 100}
        assert (place.counts()["links_broken"], place.counts()["links_opened"]) == (0, 1)


async def test_everything_sent_to_a_subject_that_is_given_up_is_handled_or_known_to_have_reached_nobody(
    nats_server: NatsForTest,
) -> None:
    """A regression: nats-py believes that nothing more comes while its command still waits to be written."""
    listener = await connect(nats_server.network(), "listener", limit_s=PATIENCE_S)
    sender = await nats.connect(nats_server.url, token=nats_server.token)
    subject, inbox = f"{nats_server.prefix}.given.up", sender.new_inbox()
    handled, refused, sent = 0, 0, 0

    async def handle(message: Msg) -> None:
        nonlocal handled
        handled += 1

    async def hear(message: Msg) -> None:
        nonlocal refused
        refused += 1

    await sender.subscribe(inbox, cb=hear)
    for _ in range(300):
        subscription = await listener.subscribe(subject, cb=handle)
        await confirm(listener)
        leaving = asyncio.ensure_future(drain(listener, subscription))
        while not leaving.done():
            await sender.publish(subject, b"x", reply=inbox)
            sent += 1
            await asyncio.sleep(0)
        await leaving
        await until(lambda sent=sent: refused + handled >= sent)
    assert handled > 0
    assert refused + handled == sent
    await listener.close()
    await sender.close()


async def test_without_the_right_to_the_service_protocol_actors_are_called_all_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rights = """
    authorization { users: [
        { user: any, password: any },
        { user: actor, password: secret, permissions: {
            publish: { allow: ["callboard.>"] }, subscribe: { allow: ["callboard.>"] }, allow_responses: true } }
    ] }"""
    server = NatsServer(tmp_path / "nats", token="", extra_config=rights)
    await server.start()
    try:
        changes = server.settings() | {"username": "actor", "password": "secret"}
        node = Node(
            name="actor",
            namespace="ns",
            settings=NetworkSettings(request_plane="nats", nats=NatsSettings(**changes)),
        )
        await node.start()
        await node.spawn(Worker, name="worker.0")
        stranger = await nats.connect(server.url, user="any", password="any")
        answer = await stranger.request("callboard.ns.worker", request("name"), timeout=PATIENCE_S)
        assert answer.data == b'"worker.0"'
        with pytest.raises(NoRespondersError):
            await stranger.request("$SRV.PING.worker", b"", timeout=PATIENCE_S)
        assert 'permissions violation for subscription to "$srv' in caplog.text.lower()
        await stranger.close()
        await node.close()
    finally:
        await server.stop()


async def test_an_actor_that_fails_is_called_no_more(nats_server: NatsForTest) -> None:
    async with at(nats_server) as place:
        node = await place.node()
        for index in range(2):
            await node.spawn(Worker, name=f"worker.{index}")
        await place.stranger.publish(place.subject("worker", 0), request("fails"))
        await until(lambda: "worker.0" not in node.statistics()["actors"])
        with pytest.raises(NoRespondersError):
            await place.request(place.subject("worker", 0), request("name"))
        assert {await place.ask(place.subject("worker"), "name") for _ in range(5)} == {"worker.1"}


async def test_when_one_of_two_processes_is_killed_the_other_answers(cluster: Cluster) -> None:
    system = await cluster.up(
        """
        [actor.echo]
        class = "actors_for_tests:Echo"
        replicas = 2
        restart = { policy = "temporary" }
        [process.e]
        actors = ["echo"]
        count = 2
        """,
        plane="nats",
    )
    server = await cluster.nats()
    stranger = await nats.connect(server.url, token=server.token)
    namespace = system.status().namespace
    subject = f"{server.prefix}.{namespace}.echo"

    async def where() -> Any:
        return json.loads((await stranger.request(subject, request("where"), timeout=PATIENCE_S)).data)

    pids: set[int] = set()

    async def both() -> bool:
        pids.add((await where())["pid"])
        return len(pids) == 2

    await until(both)
    assert os.getpid() not in pids
    await system.kill("echo.0")
    survivors = {(await where())["name"] for _ in range(20)}
    assert survivors == {"echo.1"}
    with pytest.raises(NoRespondersError):
        await stranger.request(f"{subject}.0", request("where"), timeout=PATIENCE_S)
    found = json.loads((await stranger.request("$SRV.PING.echo", b"", timeout=PATIENCE_S)).data)
    assert found["name"] == "echo"
    await stranger.close()


async def test_strangers_find_everybody_again_after_the_nats_server_was_killed(tmp_path: Path) -> None:
    server = NatsServer(tmp_path / "nats")
    await server.start()
    try:
        async with at(server) as place:
            node = await place.node()
            await node.spawn(Worker, name="worker.0")
            before = await place.sweep("$SRV.PING", 1)
            await server.kill()
            await server.start()

            async def answers() -> bool:
                try:
                    return bool(await place.ask(place.subject("worker"), "name") == "worker.0")
                except (nats.errors.Error, OSError):
                    return False

            await until(answers)
            assert await place.ask(place.subject("worker", 0), "name") == "worker.0"
            assert await place.sweep("$SRV.PING", 1) == before
    finally:
        await server.stop()
