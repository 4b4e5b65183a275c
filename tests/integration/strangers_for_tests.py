"""Actors on NATS and a client that knows nothing of callboard, for the tests of both."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg

from callboard.actors.actor import Actor
from callboard.actors.node import Node
from callboard.supervisor.nats_server import NatsServer
from callboard.testing.nats_session import NatsForTest
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
