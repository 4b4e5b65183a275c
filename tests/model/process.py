"""One process of the model: a node, and the callers that live in it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from callboard.actors.actor import Actor
from callboard.actors.node import Node
from callboard.actors.ref import Ref
from callboard.transports import memory
from callboard.transports.errors import NoRoute
from callboard.transports.settings import NetworkSettings

from .reference import Message, Run

if TYPE_CHECKING:
    from .world import World

SETTINGS = NetworkSettings(request_plane="memory", channel_buffer=3, idle_close_s=20.0)


class Process:
    """One process: a node, and the callers that live in it. It is the witness of its actors, until it is dead."""

    def __init__(self, world: World, name: str, incarnation: int) -> None:
        self.world = world
        self.name = name
        self.node = Node(name=name, incarnation=incarnation, settings=SETTINGS)
        self.node.on_actor_failed = self._failed
        self.alive = True
        self.gates = world.gates
        self.callers: dict[asyncio.Task[None], Message] = {}
        """Open asks, streams and waiting tells, in the order they were made."""

    def __repr__(self) -> str:
        return f"<Process {self.name} {self.node}>"

    @property
    def server(self) -> memory.MemoryServer:
        """Its server, which has the faults of all links that others dialled to it."""
        server = self.node._network._server
        assert isinstance(server, memory.MemoryServer)
        return server

    def clients(self) -> list[Any]:
        """What it dials with."""
        return list(self.node._network._clients.values())

    def links(self) -> list[memory.MemoryLink]:
        """Its end of every link."""
        sides = [self.server.side, *(client.side for client in self.clients())]
        return [link for side in sides for link in side.links]

    @property
    def faulty(self) -> bool:
        """True while something on the links to it does not arrive at once, or somebody still dials into silence."""
        faults, dialled = self.server.faults, self.server.address
        return bool(
            faults.blackhole
            or faults.stalled
            or faults.delay_s
            or any(link._queue or link.far._queue for link in self.server.side.links)
            or any(
                dialled in client._dialler._attempts
                for other in self.world.living()
                for client in other.clients()
            )
        )

    def die(self) -> None:
        """End without a word: nobody is told, and nothing that still happens here is seen anywhere."""
        self.alive = False
        memory._servers.pop(self.server.address, None)
        self.node._network.connect = _dead  # type: ignore[method-assign]
        for client in self.clients():
            for attempt, _ in client._dialler._attempts.values():
                attempt.cancel()
        for link in self.links():
            link.cut()
        for task in self.callers:
            task.cancel()

    def began(self, number: int, actor: Actor, *, keeps_order: bool) -> Run:
        """See `Witness`."""
        where = actor.context
        run = Run(where.name, where.incarnation, keeps_order)
        if self.alive:
            self.world.report(self.world.reference.began, number, run)
        return run

    def ends(self, number: int, run: Run, how: str) -> None:
        """See `Witness`."""
        if self.alive:
            self.world.report(self.world.reference.ends, number, run, how)

    async def nested(self, ref: Ref[Any], number: int, path: list[Ref[Any]]) -> None:
        """See `Witness`."""
        if not self.alive:
            raise asyncio.CancelledError
        outer = self.world.reference.messages[number]
        run = outer.runs[-1]
        chain = outer.chain
        (life,) = (x for x in self.world.reference.lives[run.actor] if x.incarnation == run.incarnation)
        if life.concurrency == 1:
            chain = (*chain, run.actor)
        message = self.world.message(
            "ask", self.name, ref.name, "via" if path else "gated",
            deadline_s=min(outer.deadline_s, self.world.clock.now_s + SETTINGS.request_timeout_s), chain=chain,
            nested=True,
        )  # fmt: skip
        arguments = (path,) if path else ()
        try:
            await self.world.ask(self, message, self.node.ref(ref.name), arguments)
        except asyncio.CancelledError:
            message.cancelled = True  # with the handler that waits for it
            self.world.report(self.world.reference.left, message.number)
            raise

    def _failed(self, name: str, incarnation: int, error: BaseException) -> None:
        if self.alive:
            self.world.down(name, incarnation, f"it failed: {error}")


async def _dead(address: str, *, node: str | None = None) -> Any:
    raise NoRoute(address, "the process that dials is dead")
