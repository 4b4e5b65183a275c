"""Actors as stock NATS tools see them: found, called and watched by a client that knows nothing of callboard."""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import NoRespondersError
from nats.micro.service import ServiceInfo, ServicePing, ServiceStats

from callboard.actors.actor import Actor
from callboard.actors.errors import ActorError, StartFailed
from callboard.actors.node import Node
from callboard.actors.policy import Executed, MailboxPolicy, StopReason
from callboard.supervisor.nats_server import NatsServer
from callboard.testing.cluster import Cluster
from callboard.testing.nats_session import NatsForTest
from callboard.transports.nats_client import confirm, connect, drain
from callboard.transports.nats_endpoints import MOST_REQUESTS
from callboard.transports.nats_settings import NatsSettings
from callboard.transports.settings import NetworkSettings

from .waiting import until

PATIENCE_S = 30.0
"""No answer takes so long; it is there so that a test that fails ends."""


class Worker(Actor):
    """Works for strangers."""

    concurrency = 2000

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.gate = asyncio.Event()

    async def note(self, value: object) -> object:
        self.seen.append(value)
        return value

    async def wait(self) -> str:
        await self.gate.wait()
        return self.context.name

    async def name(self) -> str:
        return self.context.name

    async def pause(self) -> str:
        await asyncio.sleep(0.001)
        return self.context.name

    async def long(self, size: int) -> str:
        return "x" * size

    async def fails(self) -> None:
        raise ValueError("first line\r\nInjected: header")


class Sequential(Worker):
    concurrency = 1


class Place:
    """Nodes of this process, a stranger, and the subjects between them."""

    def __init__(self, network: NetworkSettings, stranger: Client) -> None:
        self.network = network
        self.stranger = stranger
        self.nodes: list[Node] = []

    async def node(self) -> Node:
        """Start one more; each has a connection of its own, as processes have."""
        node = Node(name=f"process.{len(self.nodes)}", namespace="ns", settings=self.network)
        self.nodes.append(node)
        await node.start()
        return node

    def subject(self, *tokens: object) -> str:
        return ".".join([self.network.nats.prefix, "ns", *map(str, tokens)])

    async def ask(self, subject: str, method: str, *args: object, **more: object) -> Any:
        """Return the value; fails for an error."""
        answer = await self.request(subject, request(method, *args, **more))
        assert answer.headers is None, (answer.headers, answer.data)
        return json.loads(answer.data)

    async def request(self, subject: str, body: bytes = b"") -> Msg:
        return await self.stranger.request(subject, body, timeout=PATIENCE_S)

    async def sweep(self, verb: str, count: int) -> list[dict[str, Any]]:
        """Ask every service, as `nats micro` does, and return what ours have answered as soon as these are all."""
        found: list[dict[str, Any]] = []
        inbox = self.stranger.new_inbox()
        subscription = await self.stranger.subscribe(inbox)
        await self.stranger.publish(verb, b"", reply=inbox)
        while len(found) < count:
            facts = json.loads((await subscription.next_msg(PATIENCE_S)).data)
            if facts["metadata"].get("node") in {node.id for node in self.nodes}:
                found.append(facts)
        await subscription.unsubscribe()
        return found

    def counts(self) -> Any:
        """Counters of the server of the first node."""
        return self.nodes[0].statistics()["network"]["server"]


def request(method: str, *args: object, **more: object) -> bytes:
    return json.dumps({"method": method, "args": args, **more}).encode()


def actor_in(node: Node, name: str) -> Any:
    (cell,) = (cell for cell in node.cells.values() if cell.location.name == name)
    return cell.actor


@asynccontextmanager
async def at(server: NatsForTest | NatsServer) -> AsyncIterator[Place]:
    base = NetworkSettings(request_plane="nats", connect_timeout_s=10)
    network = (
        server.network(base)
        if isinstance(server, NatsForTest)
        else NetworkSettings(request_plane="nats", nats=NatsSettings(**server.settings()))
    )
    stranger = await nats.connect(
        server.url, token=server.token, allow_reconnect=True, reconnect_time_wait=0.05
    )
    place = Place(network, stranger)
    try:
        yield place
    finally:
        for node in place.nodes:
            await node.close(grace_s=0.2)
        await stranger.close()
    left = asyncio.all_tasks() - {asyncio.current_task()}
    await until(lambda: all(task.done() for task in left))


# -- calling


async def test_an_actor_is_called_by_its_own_subject_and_by_that_of_its_component(
    nats_server: NatsForTest,
) -> None:
    async with at(nats_server) as place:
        node = await place.node()
        for index in range(3):
            await node.spawn(Worker, name=f"worker.{index}")
        await node.spawn(Worker, name="single")
        assert [await place.ask(place.subject("worker", i), "name") for i in range(3)] == [
            "worker.0",
            "worker.1",
            "worker.2",
        ]
        assert await place.ask(place.subject("single", "_"), "name") == "single"
        assert await place.ask(place.subject("single"), "name") == "single"
        taken = Counter([await place.ask(place.subject("worker"), "name") for _ in range(9)])
        assert taken == {"worker.0": 3, "worker.1": 3, "worker.2": 3}


async def test_who_asks_for_an_actor_that_is_not_there_is_told_so_at_once(nats_server: NatsForTest) -> None:
    async with at(nats_server) as place:
        node = await place.node()
        await node.spawn(Worker, name="worker.0")
        for subject in ("worker.7", "wörker", "nobody", "nobody.0"):
            with pytest.raises(NoRespondersError):
                await place.request(place.subject(subject), request("name"))
        for subject in ("$SRV.PING.nobody", "$SRV.INFO.worker.nobody"):
            with pytest.raises(NoRespondersError):
                await place.request(subject)
        await node.stop_actor("worker.0", StopReason.COMMANDED)
        for subject in ("worker", "worker.0"):
            with pytest.raises(NoRespondersError):
                await place.request(place.subject(subject), request("name"))


async def test_an_error_has_the_headers_of_the_service_protocol(nats_server: NatsForTest) -> None:
    async with at(nats_server) as place:
        await (await place.node()).spawn(Worker, name="worker.0")
        for method, code, text in (
            ("nam", "404", "UnknownMethod"),
            ("fails", "500", "ValueError: first line"),
        ):
            answer = await place.request(place.subject("worker"), request(method))
            assert answer.headers is not None
            assert answer.headers["Nats-Service-Error-Code"] == code
            assert text in answer.headers["Nats-Service-Error"]
            assert answer.headers.keys() == {"Nats-Service-Error-Code", "Nats-Service-Error"}
            assert json.loads(answer.data)["error"]["executed"] == ("never" if code == "404" else "yes")


async def test_a_request_without_a_subject_for_the_answer_is_a_tell(
    nats_server: NatsForTest, caplog: pytest.LogCaptureFixture
) -> None:
    async with at(nats_server) as place:
        node = await place.node()
        await node.spawn(Sequential, name="worker.0")
        subject = place.subject("worker", 0)
        for number in range(100):
            await place.stranger.publish(subject, request("note", number))
        await place.stranger.publish(subject, b"nonsense")
        assert await place.ask(subject, "note", "asked") == "asked"
        assert actor_in(node, "worker.0").seen == [*range(100), "asked"], "in the order sent"
        assert node.statistics()["dropped_tells"] == 1
        assert "dropped a tell of a stranger to worker.0: BadRequest" in caplog.text


async def test_a_component_s_request_goes_to_whom_the_fewest_wait_for(nats_server: NatsForTest) -> None:
    async with at(nats_server) as place:
        node = await place.node()
        for index in range(2):
            await node.spawn(Sequential, name=f"worker.{index}")
        busy = [asyncio.ensure_future(place.ask(place.subject("worker", 0), "wait")) for _ in range(5)]
        await until(lambda: node.statistics()["actors"]["worker.0"]["mailbox"] == 4)
        assert {await place.ask(place.subject("worker"), "name") for _ in range(10)} == {"worker.1"}
        actor_in(node, "worker.0").gate.set()
        assert await asyncio.gather(*busy) == ["worker.0"] * 5


async def test_an_answer_above_max_payload_is_an_error_that_names_both_sizes_and_harms_nobody(
    nats_server: NatsForTest,
) -> None:
    async with at(nats_server) as place:
        await (await place.node()).spawn(Worker, name="worker.0")
        limit = place.stranger.max_payload
        assert len(await place.ask(place.subject("worker"), "long", limit - 2)) == limit - 2
        answer = await place.request(place.subject("worker"), request("long", limit - 1))
        assert answer.headers is not None
        assert answer.headers["Nats-Service-Error-Code"] == "500"
        assert f"{limit + 1:,} bytes" in answer.headers["Nats-Service-Error"]
        assert f"{limit:,}" in answer.headers["Nats-Service-Error"]
        assert json.loads(answer.data)["error"]["executed"] == "yes"
        assert place.counts()["extra"]["reconnects"] == 0


async def test_strangers_beyond_the_limit_are_refused_at_once_and_all_others_answered(
    nats_server: NatsForTest,
) -> None:
    async with at(nats_server) as place:
        node = await place.node()
        for index in range(2):
            await node.spawn(Worker, name=f"worker.{index}", mailbox=MailboxPolicy(messages=5000))
        subject = place.subject("worker")
        waiting = [
            asyncio.ensure_future(place.request(subject, request("wait"))) for _ in range(MOST_REQUESTS)
        ]
        await until(
            lambda: sum(actor["running"] for actor in node.statistics()["actors"].values()) == MOST_REQUESTS
        )
        refused = await place.request(subject, request("name"))
        assert refused.headers is not None
        assert refused.headers["Nats-Service-Error-Code"] == "429"
        assert f"{MOST_REQUESTS:,}" in refused.headers["Nats-Service-Error"]
        await place.stranger.publish(place.subject("worker", 0), request("note", "a tell still comes in"))
        for index in range(2):
            actor_in(node, f"worker.{index}").gate.set()
        answers = await asyncio.gather(*waiting)
        assert all(answer.headers is None for answer in answers)
        assert actor_in(node, "worker.0").seen == ["a tell still comes in"]
        assert await place.ask(subject, "name") in {"worker.0", "worker.1"}


# -- stopping and dying


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


# -- the service protocol


async def test_stock_tools_find_every_actor_and_read_what_it_is_and_does(nats_server: NatsForTest) -> None:
    async with at(nats_server) as place:
        node = await place.node()
        for name in ("worker.0", "worker.1", "router.0"):
            await node.spawn(Worker, name=name)
        pings = [ServicePing.from_dict(facts) for facts in await place.sweep("$SRV.PING", 3)]
        assert sorted(ping.metadata["actor"] for ping in pings) == ["router.0", "worker.0", "worker.1"]
        assert len({ping.id for ping in pings}) == 3
        workers = [ServiceInfo.from_dict(facts) for facts in await place.sweep("$SRV.INFO.worker", 2)]
        for info in workers:
            subjects = {endpoint.name: endpoint for endpoint in info.endpoints}
            assert await place.ask(subjects["instance"].subject, "name") == info.metadata["actor"]
            assert subjects["component"].subject == place.subject("worker")
            assert subjects["component"].queue_group == "worker"
            assert subjects["component"].metadata["long"] == "(size: int) -> str"
            assert info.description == "Worker: Works for strangers."
        for _ in range(3):
            await place.ask(place.subject("router"), "pause")
        await place.request(place.subject("router", 0), request("fails"))
        (router,) = (ping for ping in pings if ping.name == "router")
        answer = await place.request(f"$SRV.STATS.router.{router.id}")
        stats = ServiceStats.from_dict(json.loads(answer.data))
        by_name = {endpoint.name: endpoint for endpoint in stats.endpoints}
        queue, own = by_name["component"], by_name["instance"]
        assert (queue.num_requests, queue.num_errors, queue.last_error) == (3, 0, "")
        assert queue.processing_time >= 3 * 1_000_000, "nanoseconds, and each took a millisecond at least"
        assert queue.average_processing_time == queue.processing_time // 3
        assert (own.num_requests, own.num_errors) == (1, 1)
        assert own.last_error is not None
        assert own.last_error.startswith("ValueError: ")
        assert own.data is not None
        assert (own.data["handled"], own.data["failed"], own.data["mailbox"]) == (3, 1, 0)
        assert own.data["incarnation"] == 1


async def test_the_next_incarnation_is_another_service(nats_server: NatsForTest) -> None:
    async with at(nats_server) as place:
        node = await place.node()
        await node.spawn(Worker, name="worker.0")
        (before,) = await place.sweep("$SRV.PING.worker", 1)
        await node.stop_actor("worker.0", StopReason.RESTART)
        await node.spawn(Worker, name="worker.0", incarnation=2)
        (after,) = await place.sweep("$SRV.PING.worker", 1)
        assert (before["metadata"]["incarnation"], after["metadata"]["incarnation"]) == ("1", "2")
        assert before["id"] != after["id"]
        with pytest.raises(NoRespondersError):
            await place.request(f"$SRV.PING.worker.{before['id']}")


async def test_fifty_services_of_two_processes_answer_one_ping(nats_server: NatsForTest) -> None:
    async with at(nats_server) as place:
        for _ in range(2):
            await place.node()
        for number in range(50):
            await place.nodes[number % 2].spawn(Worker, name=f"many.{number}")
        pings = await place.sweep("$SRV.PING", 50)
        assert {ping["metadata"]["actor"] for ping in pings} == {f"many.{number}" for number in range(50)}
        assert len({ping["id"] for ping in pings}) == 50
        assert len(await place.sweep("$SRV.STATS.many", 50)) == 50


# -- hostile strangers

ODD_NAMES = [
    "a.b",
    "*",
    ">",
    "a b",
    "line\r\nPUB x 1\r\ny\r\n",
    "$SRV.PING",
    "_node",
    "_inbox.x",
    "é",
    "=2E",
    "\t\0",
]


@pytest.mark.parametrize("component", ODD_NAMES, ids=ascii)
async def test_a_component_of_any_name_is_one_token_and_reached_by_it(
    nats_server: NatsForTest, component: str
) -> None:
    async with at(nats_server) as place:
        node = await place.node()
        await node.spawn(Worker, name="worker.0")
        await node.spawn(Worker, name=f"{component}.0")
        infos = {info["metadata"]["component"]: info for info in await place.sweep("$SRV.INFO", 2)}
        info = ServiceInfo.from_dict(infos[component])
        for endpoint in info.endpoints:
            tokens = endpoint.subject.removeprefix(place.subject("")).split(".")
            assert len(tokens) == (2 if endpoint.name == "instance" else 1)
            assert await place.ask(endpoint.subject, "name") == f"{component}.0"
        assert await place.ask(place.subject("worker"), "name") == "worker.0"


async def test_a_name_too_long_for_a_subject_fails_the_start_and_not_the_connection(
    nats_server: NatsForTest,
) -> None:
    async with at(nats_server) as place:
        node = await place.node()
        await node.spawn(Worker, name="worker.0")
        with pytest.raises(StartFailed, match="the limit is 1,000"):
            await node.spawn(Worker, name=f"{'x' * 5000}.0")
        assert await place.ask(place.subject("worker"), "name") == "worker.0"
        assert place.counts()["extra"]["reconnects"] == 0


BOMBS: dict[str, bytes] = {
    "deep": b'{"method": "note", "args": ' + b"[" * 500_000,
    "not UTF-8": b'{"method": "note", "args": ["\xff"]}',
    "a huge integer": b'{"method": "note", "args": [' + b"9" * 100_000 + b"]}",
    "binary": bytes(range(256)) * 100,
    "half a handshake": b"\xc1H\x82",
    "empty": b"",
}


@pytest.mark.parametrize("body", BOMBS.values(), ids=BOMBS.keys())
async def test_a_hostile_request_is_answered_400_and_nobody_notices(
    nats_server: NatsForTest, body: bytes
) -> None:
    async with at(nats_server) as place:
        node = await place.node()
        await node.spawn(Worker, name="worker.0")
        for subject in (place.subject("worker"), place.subject("worker", 0)):
            answer = await place.request(subject, body)
            assert answer.headers is not None
            assert answer.headers["Nats-Service-Error-Code"] == "400"
            await place.stranger.publish(subject, body)
            assert await place.ask(subject, "note", 1) == 1
        assert actor_in(node, "worker.0").seen == [1, 1]
        assert place.counts()["extra"]["reconnects"] == 0


async def test_no_stranger_has_us_publish_to_the_server_or_to_our_own_subjects(
    nats_server: NatsForTest,
) -> None:
    """Whoever may only ask an actor must not act with the rights of its process."""
    async with at(nats_server) as place:
        node = await place.node()
        await node.spawn(Worker, name="worker.0")
        heard: list[str] = []
        targets = ["$JS.API.STREAM.DELETE.precious", "$SYS.REQ.SERVER.PING", place.subject("worker", 1)]

        async def hear(message: Msg) -> None:
            heard.append(message.subject)

        for target in targets:
            await place.stranger.subscribe(target, cb=hear)
        await place.stranger.flush()
        for target in targets:
            for subject in (place.subject("worker"), "$SRV.PING.worker"):
                await place.stranger.publish(subject, request("note", 1), reply=target)
        assert await place.ask(place.subject("worker"), "note", 2) == 2
        assert place.counts()["garbage_connections"] >= len(targets)
        await until(lambda: place.counts()["garbage_connections"] == 2 * len(targets))
        await place.stranger.flush()
        assert heard == []
        assert actor_in(node, "worker.0").seen == [2]
