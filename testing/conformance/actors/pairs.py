"""Two nodes in one event loop, one that calls and one that has actors, on any plane; or one node that does both.

What a supervisor would push, who is where, a `Pair` tells them by hand.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Awaitable
from typing import Any

from callboard.actors.cell import Cell
from callboard.actors.mailbox import Letter
from callboard.actors.node import Node
from callboard.actors.origin import Origin
from callboard.actors.policy import StopReason
from callboard.actors.producer import LocalProducer, RemoteProducer
from callboard.actors.ref import Ref

from ..network import PATIENCE_S, until
from ..rig import Rig

DEADLINES_S = (0.05, 0.3, 2.0, 10.0)
"""For tests of deadlines: one that this machine is too busy to reach in time is tried again with the next."""

LOCAL = "local"
"""Not a plane: caller and actor are in the same process."""


class Pair:
    """``near`` calls, ``far`` has the actors; both are the same node where the plane is `LOCAL`."""

    def __init__(self, rig: Rig, *, remote: bool, faulty: bool = False) -> None:
        self.rig = rig
        self.plane = rig.plane if remote else LOCAL
        self.remote = remote
        self.faulty = faulty
        """The near node has the faults of the rig between itself and the others."""
        self.nodes: list[Node] = []
        self.near: Node
        self.far: Node

    async def start(self) -> None:
        """Start both nodes; the rig has been started."""
        self.near = await self.node("near", beyond=self.faulty)
        self.far = await self.node("far") if self.remote else self.near

    def check(self) -> None:
        """Fail if anything is left in a node that was closed; for the end of a test."""
        for node in self.nodes:
            assert not node.pending.calls
            assert not node.readers
            assert not node.cells

    async def close(self) -> None:
        """End every node."""
        for node in self.nodes:
            await node.close(grace_s=0.1)

    async def node(self, name: str, *, beyond: bool = False, **changes: Any) -> Node:
        """Start one more node, behind the faults of the rig if ``beyond``; ``changes`` are settings."""
        settings = self.rig.beyond() if beyond else self.rig.settings()
        changes = {"linger_s": 0.2, "request_timeout_s": PATIENCE_S} | changes
        node = Node(name=name, settings=dataclasses.replace(settings, **changes))
        self.nodes.append(node)
        await node.start()
        return node

    async def spawn(
        self, cls: type, *args: Any, name: str = "a.0", on: Node | None = None, **more: Any
    ) -> Ref[Any]:
        """Start an actor on ``on`` (else the far node), tell everybody, return the near node's reference."""
        home = on or self.far
        await home.spawn(cls, *args, name=name, **more)
        self.publish(name, home)
        return self.near.ref(name, cls)

    def publish(self, name: str, home: Node | None = None) -> None:
        """Tell everybody where an actor is."""
        location = (home or self.far).location(name)
        assert location is not None
        for node in self.nodes:
            if node is self.near and self.faulty:
                through = self.rig.through(location.address)
                node.add_location(dataclasses.replace(location, address=through))
            elif node is not (home or self.far):
                node.add_location(location)

    async def stop(self, name: str, *, grace_s: float = 5.0) -> None:
        """Stop an actor as a supervisor does, which tells the others afterwards."""
        location = self.far.location(name)
        assert location is not None
        await self.far.stop_actor(name, StopReason.COMMANDED, grace_s=grace_s)
        for node in self.nodes:
            node.remove_location(name, location.incarnation, "it was stopped")

    def cell(self, name: str = "a.0") -> Cell:
        """The runtime's side of an actor."""
        (cell,) = (cell for node in self.nodes for cell in node.cells.values() if cell.location.name == name)
        return cell

    def actor(self, name: str = "a.0") -> Any:
        """The actor itself."""
        return self.cell(name).actor

    def origins(self) -> list[Origin]:
        """The far node's side of each link."""
        return [session for session in self.far._sessions.values() if isinstance(session, Origin)]

    def letters(self) -> list[Letter]:
        """Every ask and stream that waits or runs at the far node."""
        origins: list[Any] = [self.far._local, *self.origins()]
        return [letter for origin in origins for letter in origin.calls.values()]

    async def blocked(self) -> RemoteProducer | LocalProducer:
        """Return the producer of the only stream there is, when it waits for credit."""
        (letter,) = self.letters()
        producer: RemoteProducer | LocalProducer = letter.producer
        await until(lambda: producer._credit.waiter is not None, producer)
        return producer

    async def quiet(self, name: str = "a.0") -> None:
        """Return when an actor has nothing to do and nobody waits for it."""
        cell = self.cell(name)
        await until(
            lambda: (
                not len(cell.mailbox)
                and not cell.running
                and not self.near.pending.calls
                and not any(origin.calls for origin in self.origins())
            ),
            cell,
        )


async def turns(count: int) -> None:
    """Let the event loop run a few times."""
    for _ in range(count):
        await asyncio.sleep(0)


async def drain(stream: AsyncIterator[Any]) -> tuple[list[Any], Exception | None]:
    """Read a stream to its end; returns its items and how it ended."""
    items = []
    try:
        async for item in stream:
            items.append(item)
    except Exception as error:
        return items, error
    return items, None


async def in_time(awaitable: Awaitable[Any]) -> Any:
    """Await something that could hang."""
    async with asyncio.timeout(PATIENCE_S):
        return await awaitable


async def outcomes(*awaitables: Awaitable[Any]) -> list[Any]:
    """Await all of them; returns results and exceptions."""
    found: list[Any] = await in_time(asyncio.gather(*awaitables, return_exceptions=True))
    return found
