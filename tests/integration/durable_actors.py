"""Actors that receive durable tells, with a ledger that outlives their processes; and the nodes of these tests."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nats

from callboard.actors.actor import Actor
from callboard.actors.node import Node
from callboard.actors.policy import MailboxPolicy
from callboard.actors.ref import Ref
from callboard.transports.durable import DurablePolicy
from callboard.transports.settings import NetworkSettings

QUICK = DurablePolicy(ack_wait_s=0.6, backoff_s=(0.02, 0.04), max_deliver=3)
PATIENT = DurablePolicy(ack_wait_s=600, backoff_s=(0.02,))
"""Nothing is delivered again because of time: what comes back was given back."""


class Ledger(Actor):
    """Writes down what it handles, at the beginning and at the end: ``begin WHAT PID COUNT SEQUENCE ID``."""

    def __init__(self, path: str) -> None:
        self.path = path

    def _note(self, word: str, what: object) -> None:
        delivery = self.context.delivery
        facts = (delivery.count, delivery.sequence, delivery.message_id) if delivery else (0, 0, "-")
        with open(self.path, "a") as file:
            print(word, what, os.getpid(), *facts, file=file)

    async def write(self, what: str) -> None:
        self._note("begin", what)
        self._note("end", what)

    async def write_after(self, what: str, path: str) -> None:
        self._note("begin", what)
        while not Path(path).exists():  # noqa: ASYNC110 - a file cannot be awaited
            await asyncio.sleep(0.01)
        self._note("end", what)

    async def hang_at_first(self, what: str) -> None:
        self._note("begin", what)
        if self.context.delivery is not None and self.context.delivery.count == 1:
            await asyncio.Event().wait()
        self._note("end", what)

    async def die(self, what: str) -> None:
        self._note("begin", what)
        os._exit(17)

    async def fail(self, what: str) -> None:
        self._note("begin", what)
        raise ValueError(f"cannot do {what}")

    async def pass_on(self, to: Ref[Ledger], what: str) -> None:
        await to.tell_wait(Ledger.write, what)


def lines(path: Path, word: str = "end", what: str = "") -> list[list[str]]:
    """What the ledger says: the fields of each line after its first word."""
    if not path.exists():
        return []
    found = [line.split() for line in path.read_text().splitlines()]
    return [fields[1:] for fields in found if fields[0] == word and (not what or fields[1] == what)]


class Worker(Actor):
    """Keeps what it handled, in this process; does it when it is let."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.counts: list[int] = []
        self.sequences: list[int] = []
        self.ids: list[str] = []
        self.running = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.failures = 0
        self.refused: list[Any] = []

    async def work(self, what: Any) -> None:
        self.running += 1
        try:
            await self.gate.wait()
            if what in self.refused:
                raise ValueError("not this one")
            if self.failures:
                self.failures -= 1
                raise ValueError("not now")
            delivery = self.context.delivery
            self.seen.append(what)
            if delivery is not None:
                self.counts.append(delivery.count)
                self.sequences.append(delivery.sequence)
                self.ids.append(delivery.message_id)
        finally:
            self.running -= 1

    async def fail(self, what: Any) -> None:
        self.seen.append(what)
        raise ValueError(f"never {what}")

    async def typed(self, number: int, *, text: str = "") -> None:
        self.seen.append((number, text))

    async def echo(self, what: Any) -> Any:
        return what

    async def count_to(self, last: int) -> AsyncIterator[int]:
        for number in range(last):
            yield number


class Broad(Worker):
    """Handles several at once."""

    concurrency = 4


class Stashing(Worker):
    """Tries to put aside what it gets first."""

    async def later(self, what: Any) -> None:
        delivery = self.context.delivery
        if delivery is not None and delivery.count == 1:
            try:
                self.context.stash()
            except RuntimeError as error:
                self.refused.append(str(error))
                raise
        await self.work(what)


class Nodes:
    """Nodes of one namespace in this process, on NATS."""

    def __init__(self, network: NetworkSettings, namespace: str = "durable") -> None:
        self.network, self.namespace = network, namespace
        self.made: list[Node] = []

    async def node(self, name: str = "n", policy: DurablePolicy = QUICK, component: str = "worker") -> Node:
        """A node that knows that a component is durable."""
        node = Node(name=name, namespace=self.namespace, settings=self.network)
        self.made.append(node)
        await node.start()
        node.durables.declare({component: policy})
        return node

    async def worker(
        self,
        node: Node,
        name: str = "worker.0",
        cls: type[Worker] = Worker,
        mailbox: MailboxPolicy | None = None,
    ) -> Worker:
        """Start a worker and return the object itself."""
        await node.spawn(cls, name=name, mailbox=mailbox)
        return the_actor(node, name)


def the_actor(node: Node, name: str = "worker.0") -> Worker:
    """The object behind an actor of this process."""
    location = node.location(name)
    assert location is not None
    actor: Worker = node.cells[location.number].actor
    return actor


@asynccontextmanager
async def nodes_on(network: NetworkSettings) -> AsyncIterator[Nodes]:
    """Nodes that are closed at the end."""
    nodes = Nodes(network)
    try:
        yield nodes
    finally:
        for node in nodes.made:
            await node.close(grace_s=1)


@asynccontextmanager
async def jetstream(network: NetworkSettings) -> AsyncIterator[Any]:
    """JetStream as a stranger sees it, with nats-py alone."""
    settings = network.nats
    connection = await nats.connect(list(settings.servers), token=settings.token, allow_reconnect=False)
    try:
        yield connection.jetstream()
    finally:
        await connection.close()


def stream_of(nodes: Nodes, component: str = "worker") -> str:
    """Name of the stream, as the documentation has it."""
    return "-".join(
        part.replace("-", "=2D") for part in (nodes.network.nats.prefix, nodes.namespace, component)
    )
