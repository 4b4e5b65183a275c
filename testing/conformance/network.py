"""Nodes for the conformance suite: a real network each, and a record of everything that a plane reports.

The record itself holds the rule that every test relies on: `link_up` or `connect` once, `link_down` once, and
nothing after it. Breaches are collected, and the fixture fails the test for them.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from time import monotonic
from typing import Any

from callboard.transports.base import Identity, Link, PlaneStatistics
from callboard.transports.errors import TransportError
from callboard.transports.manager import NetworkManager
from callboard.transports.settings import NetworkSettings

from .rig import Rig

PATIENCE_S = 30.0
"""No condition needs so long; it is there so that a test that fails ends."""

_numbers = itertools.count(1)


async def until(condition: Callable[[], object], what: object = "", limit_s: float = PATIENCE_S) -> None:
    """Return when the condition is true."""
    deadline = monotonic() + limit_s
    while not condition():
        assert monotonic() < deadline, f"not within {limit_s} s: {what or condition}"
        await asyncio.sleep(0.001)


class Node:
    """One node: a server, clients, and the handler of both."""

    def __init__(
        self, settings: NetworkSettings, *, name: str, namespace: str, node: str, listen: bool
    ) -> None:
        self.settings = settings
        self.identity = Identity(
            node=node,
            name=name,
            namespace=namespace,
            pid=os.getpid(),
            max_message_bytes=settings.max_message_bytes,
        )
        self.network = NetworkManager(settings, self.identity, self, listen=listen)
        self.up: list[Link] = []
        """Links that peers dialled, as they came."""
        self.received: list[list[bytes]] = []
        self.received_on: list[Link] = []
        self.writable: list[Link] = []
        self.down: list[tuple[Link, TransportError]] = []
        self.on_up: Callable[[Link], None] = _nothing
        self.on_received: Callable[[Link, Sequence[bytes | memoryview]], None] = _nothing
        self.on_writable: Callable[[Link], None] = _nothing
        self.on_down: Callable[[Link], None] = _nothing
        self.is_idle: Callable[[Link], bool] = lambda _: True
        self.keeps = True
        """False: messages are given to `on_received` only."""
        self.breaches: list[str] = []
        self._gone: set[Link] = set()

    @property
    def address(self) -> str:
        """Where others reach it."""
        return self.network.address

    @property
    def counts(self) -> PlaneStatistics:
        """Counters of its server."""
        return self.network.statistics()["server"]

    @property
    def client_counts(self) -> PlaneStatistics:
        """Counters of its only client."""
        (found,) = (counts for name, counts in self.network.statistics().items() if name != "server")
        return found

    async def dial(self, other: Node | str, *, node: str | None = None) -> Link:
        """Return the link to another node, or to an address."""
        return await self.network.connect(other if isinstance(other, str) else other.address, node=node)

    def error_of(self, link: Link) -> TransportError:
        """Return why a link went down; it did so once."""
        (error,) = (error for gone, error in self.down if gone is link)
        return error

    def forget(self) -> None:
        """Let go of the links that went down: each keeps what it has not delivered."""
        self.down.clear()
        self._gone.clear()

    # -- LinkHandler

    def link_up(self, link: Link) -> None:
        """See `LinkHandler`."""
        if link in self.up:
            self.breaches.append(f"{self.identity.name}: a second link_up of {link}")
        self.up.append(link)
        self.on_up(link)

    def link_received(self, link: Link, frames: Sequence[bytes | memoryview]) -> None:
        """See `LinkHandler`."""
        if link in self._gone:
            self.breaches.append(f"{self.identity.name}: a message after link_down of {link}")
        if type(frames[0]) is not bytes:
            self.breaches.append(f"{self.identity.name}: frames {list(map(type, frames))} on {link}")
        if self.keeps:
            self.received.append([bytes(frame) for frame in frames])
            self.received_on.append(link)
        self.on_received(link, frames)

    def link_writable(self, link: Link) -> None:
        """See `LinkHandler`."""
        if link in self._gone:
            self.breaches.append(f"{self.identity.name}: link_writable after link_down of {link}")
        self.writable.append(link)
        self.on_writable(link)

    def link_down(self, link: Link, error: TransportError) -> None:
        """See `LinkHandler`."""
        if link in self._gone:
            self.breaches.append(f"{self.identity.name}: a second link_down of {link}")
        self._gone.add(link)
        self.down.append((link, error))
        self.on_down(link)

    def link_idle(self, link: Link) -> bool:
        """See `LinkHandler`."""
        return self.is_idle(link)


def _nothing(*_: object) -> None:
    pass


class Nodes:
    """Makes the nodes of one test on one plane, and ends them."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.plane = rig.plane
        self.directory = rig.directory
        self.settings: NetworkSettings
        self.made: list[Node] = []
        self.processes: list[PeerProcess] = []

    async def start(self) -> None:
        """Get ready; the rig has been started."""
        self.settings = self.rig.settings()

    async def make(
        self,
        name: str = "",
        *,
        namespace: str = "contract",
        node: str = "",
        listen: bool = True,
        start: bool = True,
        beyond: bool = False,
        **settings: Any,
    ) -> Node:
        """Make a node, and start it unless told not to; ``settings`` are changes of the rig's.

        A node ``beyond`` has the faults of the rig between itself and those whom it dials by `dial_through`.
        """
        number = next(_numbers)
        base = self.rig.beyond() if beyond else self.settings
        made = Node(
            replace(base, **settings),
            name=name or f"node-{number}",
            namespace=namespace,
            node=node or f"{name or 'node'}-{os.getpid()}-{number}",
            listen=listen,
        )
        self.made.append(made)
        if start:
            await made.network.start()
        return made

    async def pair(self, **settings: Any) -> tuple[Node, Node, Link, Link]:
        """Return a server, a client, and the link between them as each of them sees it."""
        server, client = await self.make("server", **settings), await self.make("client", **settings)
        near = await client.dial(server)
        await until(lambda: server.up, "link_up at the server")
        return server, client, near, server.up[0]

    async def pair_through(self, **settings: Any) -> tuple[Node, Node, Link, Link]:
        """The same with the faults of the rig between them."""
        server = await self.make("server", **settings)
        client = await self.make("client", listen=False, beyond=True, **settings)
        near = await self.dial_through(client, server)
        await until(lambda: server.up, "link_up at the server")
        return server, client, near, server.up[-1]

    async def dial_through(self, client: Node, server: Node) -> Link:
        """Return the link from a node beyond the faults, in as many attempts as a busy machine needs."""
        deadline = monotonic() + PATIENCE_S
        while True:
            try:
                return await client.dial(self.rig.through(server.address))
            except TransportError:
                if monotonic() > deadline:
                    raise
            await asyncio.sleep(0.01)

    async def process(self, *, protocol: tuple[int, int] | None = None, **settings: Any) -> PeerProcess:
        """Start a node in a process of its own; ``protocol`` is the version that it speaks, if not ours."""
        process = PeerProcess(replace(self.settings, **settings), protocol)
        self.processes.append(process)
        await process.start()
        return process

    def check(self) -> None:
        """Fail if a plane broke the contract of `LinkHandler`; for the end of a test."""
        breaches = [breach for node in self.made for breach in node.breaches]
        assert breaches == [], "the contract of LinkHandler was broken"

    async def close(self) -> None:
        """End every node and every process."""
        for node in reversed(self.made):
            await node.network.close()
        for process in self.processes:
            await process.close()


class PeerProcess:
    """A node in a process of its own (peer_process.py), which does what it is told, one line at a time."""

    def __init__(self, settings: NetworkSettings, protocol: tuple[int, int] | None = None) -> None:
        self._settings = settings
        self._protocol = protocol
        self._process: asyncio.subprocess.Process
        self._commands: asyncio.StreamWriter
        self._answers: asyncio.StreamReader
        self._killed = False
        self.address = ""
        self.node = ""

    async def start(self) -> None:
        """Start it and return when it listens."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(Path(__file__).with_name("peer_process.py")),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._commands, self._answers = self._process.stdin, self._process.stdout
        self.post("start", settings=asdict(self._settings), protocol=self._protocol)
        hello = await self._answer()
        self.address, self.node = hello["address"], hello["node"]

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    async def call(self, command: str, **arguments: object) -> dict[str, Any]:
        """Let it do something and return what it answers."""
        self.post(command, **arguments)
        return await self._answer()

    def post(self, command: str, **arguments: object) -> None:
        """Let it do something; the answer is not awaited."""
        self._commands.write(json.dumps([command, arguments]).encode() + b"\n")

    async def _answer(self) -> dict[str, Any]:
        async with asyncio.timeout(PATIENCE_S):
            answer: dict[str, Any] = json.loads(await self._answers.readline())
        return answer

    def kill(self) -> None:
        """End it as the kernel does when memory is short."""
        self._killed = True
        os.kill(self.pid, signal.SIGKILL)

    def freeze(self) -> None:
        """Stop it, alive, until it is told to go on."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        os.kill(self.pid, signal.SIGCONT)

    async def close(self) -> None:
        """Let it end, and wait for that."""
        if self._process.returncode is None and not self._killed:
            self.thaw()
        self._commands.close()  # its end, if it is alive
        await self._process.wait()
        if self._killed:  # and could not remove its socket
            Path(self.address.removeprefix("ipc://")).unlink(missing_ok=True)
