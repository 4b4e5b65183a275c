"""The reference plane: nodes of one process, and faults on request.

It keeps the contract of base.py with nothing in between, so it shows what a plane has to do, and tests of the
layers above can cut, delay, drop and reorder at will through `Faults`.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .address import Address
from .base import Capabilities, Frames, Identity, LinkHandler, PlaneStatistics
from .dialler import Dialler
from .errors import (
    BadAddress,
    Broken,
    Closed,
    ConnectTimeout,
    HandshakeRefused,
    LinkFull,
    NoRoute,
    TooLarge,
    TransportError,
)
from .handshake import Hello, objection
from .idle import IdleCloser
from .settings import NetworkSettings

LIMIT_SETTING = "network.max_message_bytes"

_servers: dict[str, MemoryServer] = {}
_names = itertools.count(1)


@dataclass(slots=True)
class Faults:
    """What goes wrong on one server's links, in both directions; change it at any time."""

    delay_s: float = 0.0
    """Every message takes so much longer; the order stays."""
    drop: Callable[[Frames], bool] | None = None
    """Messages for which this is true vanish. A plane must never do that by itself."""
    reorder: bool = False
    """Messages of one turn of the loop arrive in reverse order. A plane must never do that either."""
    blackhole: bool = False
    """Nobody answers who dials, and nothing arrives."""
    stalled: bool = False
    """Nothing is taken from the queues, so that they fill up."""


class MemoryLink:
    """One end of a pair of queues."""

    def __init__(self, side: _Side, peer: Identity, address: str, faults: Faults) -> None:
        self.peer = peer
        self.address = address
        self._side = side
        self._faults = faults
        self._queue: deque[tuple[float, list[bytes | memoryview]]] = deque()
        """When each message is due, by the loop's clock, and the message."""
        self._unsent: Sequence[Frames] = ()
        self._error: TransportError | None = None
        self._scheduled = False
        self._was_full = False
        self._limit = min(
            side.settings.max_message_bytes, peer.max_message_bytes or side.settings.max_message_bytes
        )
        self.far: MemoryLink
        side.links.add(self)
        side.statistics.links += 1
        side.statistics.links_opened += 1

    def __repr__(self) -> str:
        state = f"down: {self._error}" if self._error else "full" if self.full else "up"
        return f"<MemoryLink to {self.peer.name} at {self.address}, {state}, {len(self._queue)} wait>"

    @property
    def full(self) -> bool:
        """See `Link.full`."""
        return len(self._queue) >= self._side.settings.channel_buffer

    @property
    def is_up(self) -> bool:
        """False from the moment that its end was decided."""
        return self._error is None

    def send(self, frames: Frames) -> None:
        """See `Link.send`."""
        if self._error is not None:
            raise type(self._error)(self.address, getattr(self._error, "why", str(self._error)))
        if not frames:
            raise ValueError("a message has at least one frame")
        copies: list[bytes | memoryview] = [
            frame if type(frame) is bytes else memoryview(frame).tobytes() for frame in frames
        ]
        size = sum(map(len, copies))
        if size > self._limit:
            raise TooLarge(size, self._limit, LIMIT_SETTING)
        if self.full:
            raise LinkFull(self.address, len(self._queue))
        self._side.statistics.messages_sent += 1
        self._side.statistics.bytes_sent += size
        if self._faults.drop is not None and self._faults.drop(frames):
            return
        self._queue.append((self._side.loop.time() + self._faults.delay_s, copies))
        if self.full:
            self._was_full = True
            self._side.statistics.stalls += 1
        self.pump()

    def pump(self) -> None:
        """Carry on with what waits; to be called after ``stalled`` was taken back."""
        if not self._scheduled and self._queue:
            self._scheduled = True
            loop, due = self._side.loop, self._queue[0][0]
            if due > loop.time():
                loop.call_at(due, self._deliver)
            else:
                loop.call_soon(self._deliver)

    def _deliver(self) -> None:
        self._scheduled = False
        if self._error is not None or self._faults.stalled or self._faults.blackhole:
            return
        now = self._side.loop.time()
        batch: list[list[bytes | memoryview]] = []
        while self._queue and self._queue[0][0] <= now:
            batch.append(self._queue.popleft()[1])
        for frames in reversed(batch) if self._faults.reorder else batch:
            self.far.take(frames)
        if self._was_full and not self.full and self._error is None:
            self._was_full = False
            self._side.handler.link_writable(self)
        self.pump()

    def take(self, frames: list[bytes | memoryview]) -> None:
        """A message from the far end."""
        if self._error is None:
            self._side.statistics.messages_received += 1
            self._side.statistics.bytes_received += sum(map(len, frames))
            self._side.handler.link_received(self, frames)
        else:
            self._side.statistics.stray_messages += 1

    def close(self) -> None:
        """See `Link.close`."""
        if self._error is None:
            lost = self._faults.stalled or self._faults.blackhole
            rest = [] if lost else [frames for _, frames in self._queue]
            self.end(Closed(self.address, "this side closed the link"))
            self._side.loop.call_soon(self._say_goodbye, rest)

    def _say_goodbye(self, rest: list[list[bytes | memoryview]]) -> None:
        for frames in rest:
            self.far.take(frames)
        self.far.end(Broken(self.far.address, "the peer closed the link"))

    def undelivered(self) -> Sequence[Frames]:
        """See `Link.undelivered`."""
        return self._unsent

    def cut(self) -> None:
        """Fault: both ends break, what waits is lost."""
        self.end(Broken(self.address, "the link was cut"))
        self.far.end(Broken(self.far.address, "the link was cut"))

    def end(self, error: TransportError) -> None:
        """The link is over; only the first call counts."""
        if self._error is not None:
            return
        self._error = error
        if not isinstance(error, Closed):
            self._unsent = [frames for _, frames in self._queue]
        self._queue.clear()
        side = self._side
        side.links.discard(self)
        side.statistics.links -= 1
        if isinstance(error, Closed):
            side.statistics.links_closed += 1
        else:
            side.statistics.links_broken += 1
        side.handler.link_down(self, error)


class _Side:
    """What a server and a client have in common."""

    def __init__(self, identity: Identity, handler: LinkHandler, settings: NetworkSettings) -> None:
        self.identity = identity
        self.handler = handler
        self.settings = settings
        self.statistics = PlaneStatistics()
        self.links: set[MemoryLink] = set()
        self.loop: asyncio.AbstractEventLoop

    def close_links(self) -> None:
        """End every link."""
        for link in list(self.links):
            link.close()


class MemoryServer:
    """Accepts links of clients of the same process."""

    def __init__(self, identity: Identity, handler: LinkHandler, settings: NetworkSettings) -> None:
        self.side = _Side(identity, handler, settings)
        self.faults = Faults()
        self.address = ""

    def __repr__(self) -> str:
        return f"<MemoryServer {self.address or 'not started'}, {len(self.side.links)} links>"

    async def start(self) -> None:
        """See `RequestPlaneServer.start`."""
        self.side.loop = asyncio.get_running_loop()
        self.address = f"memory://{self.side.identity.name}-{next(_names)}"
        _servers[self.address] = self

    def statistics(self) -> PlaneStatistics:
        """See `RequestPlaneServer.statistics`."""
        return self.side.statistics

    async def close(self) -> None:
        """See `RequestPlaneServer.close`."""
        _servers.pop(self.address, None)
        self.side.close_links()

    def cut(self) -> None:
        """Fault: break every link."""
        for link in list(self.side.links):
            link.cut()

    def resume(self) -> None:
        """Take back ``stalled`` and ``blackhole``, and carry on with what waits."""
        self.faults.stalled = self.faults.blackhole = False
        for link in self.side.links:
            link.pump()
            link.far.pump()


class MemoryClient:
    """Dials servers of the same process."""

    def __init__(self, identity: Identity, handler: LinkHandler, settings: NetworkSettings) -> None:
        self.side = _Side(identity, handler, settings)
        self._dialler = Dialler(self._find, self._dial)
        self._idle = IdleCloser(settings, lambda: self.side.links, handler.link_idle)

    def __repr__(self) -> str:
        return f"<MemoryClient {len(self.side.links)} links, {len(self._dialler)} attempts>"

    def statistics(self) -> PlaneStatistics:
        """See `RequestPlaneClient.statistics`."""
        return self.side.statistics

    async def connect(self, address: str, *, node: str | None = None) -> MemoryLink:
        """See `RequestPlaneClient.connect`."""
        if Address.parse(address).scheme != "memory":
            raise BadAddress(address, "this plane dials memory://")
        self.side.loop = asyncio.get_running_loop()
        return await self._dialler.connect(address, node)

    def _find(self, address: str) -> MemoryLink | None:
        return next((link for link in self.side.links if link.address == address), None)

    async def _dial(self, address: str, node: str | None) -> MemoryLink:
        await asyncio.sleep(0)
        server = _servers.get(address)
        if server is None:
            raise NoRoute(address, "nobody listens there")
        if server.faults.blackhole:
            await asyncio.sleep(self.side.settings.connect_timeout_s)
            raise ConnectTimeout(address, f"no handshake within {self.side.settings.connect_timeout_s} s")
        far = server.side
        why = objection(far.identity, Hello(self.side.identity, expects=node or ""))
        if why:
            far.statistics.handshakes_refused += 1
            self.side.statistics.handshakes_refused += 1
            raise HandshakeRefused(address, why)
        near_end = MemoryLink(self.side, far.identity, address, server.faults)
        far_end = MemoryLink(far, self.side.identity, f"memory://{self.side.identity.node}", server.faults)
        near_end.far, far_end.far = far_end, near_end
        self._idle.opened(near_end)
        far.handler.link_up(far_end)
        return near_end

    async def close(self) -> None:
        """See `RequestPlaneClient.close`."""
        self._idle.close()
        await self._dialler.close()
        self.side.close_links()


class MemoryPlane:
    """Nodes of one process."""

    capabilities = Capabilities(
        scheme="memory",
        summary="within one process, for tests",
        between_processes=False,
        between_hosts=False,
        notices_death=True,
    )

    def server(self, identity: Identity, handler: LinkHandler, settings: NetworkSettings) -> MemoryServer:
        """See `Plane.server`."""
        return MemoryServer(identity, handler, settings)

    def client(self, identity: Identity, handler: LinkHandler, settings: NetworkSettings) -> MemoryClient:
        """See `Plane.client`."""
        return MemoryClient(identity, handler, settings)
