"""A request plane of one's own in one file: asyncio streams over TCP, with addresses ``own://host:port``.

Registered by an entry point of whatever is installed, it is used as any other: ``request_plane = "own"``.

    [options.entry_points]
    callboard.planes =
        own = own_plane:OwnPlane

It passes ``pytest --pyargs callboard.testing.conformance --plane-rig own_plane:OwnRig``; docs/planes.md says more.

All reading, writing and probing is done in a thread with an event loop of its own (the *wire*), so that a process whose
own loop is busy is not taken for dead. Everything that the runtime above is told, it is told on its own loop (*home*).
A message is the number of its frames, the length of each, and the frames; one without frames is a probe.
"""

from __future__ import annotations

import asyncio
import struct
import threading
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any, TypeVar

from callboard.testing.conformance.rigs import StreamRig
from callboard.transports import errors
from callboard.transports import handshake as hs
from callboard.transports.address import Address
from callboard.transports.base import Capabilities, Frames, Identity, LinkHandler, PlaneStatistics
from callboard.transports.dialler import Dialler
from callboard.transports.idle import IdleCloser
from callboard.transports.settings import NetworkSettings

PROBE = struct.pack("!I", 0)
MOST_FRAMES = 100_000
T = TypeVar("T")


class Gone(ConnectionError):
    """The link is over; says why."""


def packed(frames: Frames) -> bytes:
    """Return a message as it travels."""
    views = [memoryview(frame) for frame in frames]
    sizes = [view.nbytes for view in views]
    return struct.pack(f"!I{len(sizes)}Q", len(sizes), *sizes) + b"".join(views)


async def read(reader: asyncio.StreamReader, limit_bytes: int) -> list[bytes | memoryview]:
    """Return the frames of the next message; raises `Gone` for one over the limit, before it takes memory."""
    (count,) = struct.unpack("!I", await reader.readexactly(4))
    if count > MOST_FRAMES:
        raise Gone(f"sent {count:,} frames; the limit here is {MOST_FRAMES:,}")
    sizes = struct.unpack(f"!{count}Q", await reader.readexactly(8 * count))
    if sum(sizes) > limit_bytes:
        raise Gone(f"sent {sum(sizes):,} bytes; the limit here is {limit_bytes:,}")
    return [await reader.readexactly(size) for size in sizes]


class OwnLink:
    """One connection. ``_run`` and what it calls happen on the wire, everything else at home."""

    def __init__(
        self,
        side: Side,
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        peer: Identity,
        address: str,
    ) -> None:
        self.peer, self.address, self.full = peer, address, False
        self._side, (self._reader, self._writer) = side, streams
        limit = side.settings.max_message_bytes
        self._limit_bytes = min(limit, peer.max_message_bytes or limit)
        self._error: errors.TransportError | None = None
        self._waiting = 0
        self._outgoing: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._untaken = asyncio.Semaphore(side.settings.channel_buffer)
        self._heard_s = monotonic()
        self.task = asyncio.get_running_loop().create_task(self._run())

    def __repr__(self) -> str:
        state = f"down: {self._error}" if self._error else "full" if self.full else "up"
        return f"<OwnLink to {self.peer.name} at {self.address}, {state}>"

    @property
    def is_up(self) -> bool:
        return self._error is None

    def send(self, frames: Frames) -> None:
        if self._error is not None:
            raise type(self._error)(self.address, getattr(self._error, "why", ""))
        if not frames or not all(memoryview(frame).c_contiguous for frame in frames):
            raise ValueError("a message has at least one frame, and all are contiguous")
        size = sum(memoryview(frame).nbytes for frame in frames)
        if size > self._limit_bytes:
            raise errors.TooLarge(size, self._limit_bytes, "network.max_message_bytes")
        if self.full:
            raise errors.LinkFull(self.address, self._waiting)
        self._waiting += 1
        self._side.counts.messages_sent += 1
        self._side.counts.bytes_sent += size
        if self._waiting >= self._side.settings.channel_buffer:
            self.full = True
            self._side.counts.stalls += 1
        self._side.wire.post(self._outgoing.put_nowait, packed(frames))

    def close(self) -> None:
        self.end(errors.Closed(self.address, "this side closed the link"), "the peer closed the link")

    def undelivered(self) -> Sequence[Frames]:
        return ()

    def end(self, error: errors.TransportError, goodbye: str = "") -> None:
        """The link is down; only the first call counts."""
        if self._error is None:
            self._error = error
            self._side.ended(self, error)
            if goodbye:
                self._side.wire.post(self._outgoing.put_nowait, packed([hs.encode_goodbye(goodbye)]))
            self._side.wire.post(self._outgoing.put_nowait, None)

    def _sent(self) -> None:
        self._waiting -= 1
        if self.full and self._error is None and self._waiting < self._side.settings.channel_buffer:
            self.full = False
            self._side.handler.link_writable(self)

    def _received(self, frames: list[bytes | memoryview]) -> None:
        self._side.wire.post(self._untaken.release)
        if self._error is not None:
            self._side.counts.stray_messages += 1
        elif hs.is_own_frame(frames[0]):
            self.end(errors.Broken(self.address, hs.decode_reason(frames[0])))
        else:
            self._side.counts.messages_received += 1
            self._side.counts.bytes_received += sum(map(len, frames))
            self._side.handler.link_received(self, frames)

    async def _run(self) -> None:
        """Read, write and probe until the link is over; what is queued then is written within the linger limit."""
        writing = asyncio.create_task(self._write())
        others = [asyncio.create_task(work) for work in (self._read(), self._probe())]
        try:
            await asyncio.wait([writing, *others], return_when=asyncio.FIRST_COMPLETED)
            for task in (*others, writing):
                if task.done() and (error := task.exception()):
                    is_ours = isinstance(error, Gone)
                    why, goodbye = (str(error), str(error)) if is_ours else ("the peer is gone", "")
                    self._side.tell(self.end, errors.Broken(self.address, why), goodbye)
            with suppress(TimeoutError, OSError):
                async with asyncio.timeout(self._side.settings.linger_s):
                    await writing
                    self._writer.close()
                    await self._writer.wait_closed()
        finally:
            for task in (writing, *others):
                task.cancel()
            await asyncio.gather(writing, *others, return_exceptions=True)
            self._writer.transport.abort()

    async def _write(self) -> None:
        while (message := await self._outgoing.get()) is not None:
            self._writer.write(message)
            await self._writer.drain()
            self._side.tell(self._sent)

    async def _read(self) -> None:
        while True:
            frames = await read(self._reader, self._side.settings.max_message_bytes)
            self._heard_s = monotonic()
            if frames:
                await self._untaken.acquire()
                self._heard_s = monotonic()
                self._side.tell(self._received, frames)

    async def _probe(self) -> None:
        while True:
            await asyncio.sleep(self._side.settings.heartbeat_interval_s)
            if not self._writer.transport.get_write_buffer_size():  # else something is under way already
                self._writer.write(PROBE)
            silent_s = monotonic() - self._heard_s
            if silent_s > self._side.settings.heartbeat_timeout_s and not self._untaken.locked():
                raise Gone(f"nothing was heard for {silent_s:.1f} s")


class Wire(threading.Thread):
    """An event loop in a thread."""

    def __init__(self) -> None:
        super().__init__(name="own plane", daemon=True)
        self.loop = asyncio.new_event_loop()
        self.start()

    def run(self) -> None:
        self.loop.run_forever()
        self.loop.close()

    def post(self, function: Callable[..., object], *args: object) -> None:
        """Call a function on the wire, some time soon."""
        with suppress(RuntimeError):  # it was closed
            self.loop.call_soon_threadsafe(function, *args)

    async def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the wire and return what it returns."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self.loop))


class Side:
    """What a server and a client have in common: a wire, links, counters."""

    def __init__(self, identity: Identity, handler: LinkHandler, settings: NetworkSettings) -> None:
        self.identity, self.handler, self.settings = identity, handler, settings
        self.counts = PlaneStatistics()
        self.links: list[OwnLink] = []
        self.handshakes: set[asyncio.Task[None]] = set()
        self.wire: Wire
        self._home: asyncio.AbstractEventLoop | None = None
        self._closing: asyncio.Future[None] | None = None

    def statistics(self) -> PlaneStatistics:
        return self.counts

    def begin(self) -> None:
        """Start the wire, if it does not run."""
        if self._home is None:
            self._home, self.wire = asyncio.get_running_loop(), Wire()

    def tell(self, function: Callable[..., object], *args: object) -> None:
        """Call a function at home, some time soon; from the wire."""
        assert self._home is not None
        self._home.call_soon_threadsafe(function, *args)

    def opened(self, link: OwnLink) -> None:
        self.links.append(link)
        self.counts.links += 1
        self.counts.links_opened += 1

    def ended(self, link: OwnLink, error: errors.TransportError) -> None:
        self.links.remove(link)
        self.counts.links -= 1
        self.counts.links_closed += isinstance(error, errors.Closed)
        self.counts.links_broken += not isinstance(error, errors.Closed)
        self.handler.link_down(link, error)

    async def close(self) -> None:
        for link in list(self.links):
            link.close()
        if self._home is not None:
            if self._closing is None:
                self._closing = asyncio.ensure_future(self._finish())
            await asyncio.shield(self._closing)

    async def _finish(self) -> None:
        await self.wire.call(self._ended())
        self.wire.post(self.wire.loop.stop)
        await asyncio.to_thread(self.wire.join)

    async def _ended(self) -> None:
        for handshake in self.handshakes:
            handshake.cancel()
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others)


class OwnServer(Side):
    """Accepts links."""

    address = ""
    _server: asyncio.Server

    async def start(self) -> None:
        host, port = self.settings.host, self.settings.port
        self.begin()
        try:
            self._server = await self.wire.call(asyncio.start_server(self._accept, host, port))
        except OSError as error:
            await self.close()
            raise errors.AddressInUse(f"own://{host}:{port}", str(error)) from None
        self.address = "own://{}:{}".format(*self._server.sockets[0].getsockname()[:2])

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.handshakes.add(task)
        try:
            async with asyncio.timeout(self.settings.connect_timeout_s):
                frame = (await read(reader, hs.LIMIT_BYTES))[0]
            if frame[:2] != hs.HELLO:
                raise hs.Nonsense("a hello must come first")
            hello = hs.decode_hello(frame)
            if why := hs.objection(self.identity, hello):
                self.counts.handshakes_refused += 1
                writer.write(packed([hs.encode_refusal(why)]))
                writer.close()
                return
            writer.write(packed([hs.encode_hello(hs.ACCEPTED, hs.Hello(self.identity))]))
            link = OwnLink(self, (reader, writer), hello.identity, f"own://peer/{hello.identity.node}")
            self.tell(self._up, link)
        except (OSError, EOFError, ValueError, IndexError, asyncio.CancelledError):
            self.counts.garbage_connections += 1
            writer.transport.abort()
        finally:
            self.handshakes.discard(task)

    def _up(self, link: OwnLink) -> None:
        self.opened(link)
        self.handler.link_up(link)
        if self._closing is not None:
            link.close()

    async def _ended(self) -> None:
        if self.address:
            self._server.close()
        await super()._ended()


class OwnClient(Side):
    """Dials links."""

    def __init__(self, identity: Identity, handler: LinkHandler, settings: NetworkSettings) -> None:
        super().__init__(identity, handler, settings)
        self._dialler = Dialler(self._find, self._dial)
        self._idle = IdleCloser(settings, lambda: self.links, handler.link_idle)

    async def connect(self, address: str, *, node: str | None = None) -> OwnLink:
        return await self._dialler.connect(address, node)

    def _find(self, address: str) -> OwnLink | None:
        return next((link for link in self.links if link.address == address), None)

    async def _dial(self, address: str, node: str | None) -> OwnLink:
        self.begin()
        link = await self.wire.call(self._shake(address, node or ""))
        self._idle.opened(link)
        return link

    async def _shake(self, address: str, expects: str) -> OwnLink:
        writer = None
        try:
            async with asyncio.timeout(self.settings.connect_timeout_s):
                reader, writer = await asyncio.open_connection(*Address.parse(address).host_port())
                writer.write(packed([hs.encode_hello(hs.HELLO, hs.Hello(self.identity, expects=expects))]))
                (frame,) = await read(reader, hs.LIMIT_BYTES)
            if frame[:2] == hs.REFUSED:
                self.counts.handshakes_refused += 1
                raise errors.HandshakeRefused(address, hs.decode_reason(frame))
            link = OwnLink(self, (reader, writer), hs.decode_hello(frame).identity, address)
        except BaseException as error:
            if writer is not None:
                writer.transport.abort()
            if isinstance(error, TimeoutError):
                why = f"no handshake within {self.settings.connect_timeout_s} s"
                raise errors.ConnectTimeout(address, why) from None
            if isinstance(error, OSError | EOFError | ValueError) and not isinstance(
                error, errors.BadAddress
            ):
                raise errors.NoRoute(address, str(error)) from None
            raise
        self.tell(self.opened, link)
        return link

    async def close(self) -> None:
        self._idle.close()
        await self._dialler.close()
        await super().close()


class OwnPlane:
    """What the entry point names."""

    capabilities = Capabilities(
        scheme="own", summary="an example", between_processes=True, between_hosts=True, notices_death=True
    )
    server, client = OwnServer, OwnClient


class OwnRig(StreamRig):
    """Lets the conformance suite cut, delay and silence connections of this plane."""

    scheme = "own"
