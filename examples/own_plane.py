"""A request plane of one's own in one file: asyncio streams over TCP, with addresses ``own://host:port``.

Named by an entry point of an installed package (``[callboard.planes]``, ``own = own_plane:OwnPlane``), it is used as
any other. docs/planes.md says how to run the conformance suite on it, with the rig in own_plane_rig.py.

All reading, writing and probing is done in a thread with an event loop of its own (the *wire*), so that a process whose
own loop is busy is not taken for dead. Everything that the runtime above is told, it is told on its own loop (*home*).
A message is the number of its frames, the length of each, and the frames; one without frames is a probe.
"""

from __future__ import annotations

import asyncio
import struct
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from callboard.transports import errors
from callboard.transports import handshake as hs
from callboard.transports.address import Address
from callboard.transports.base import Capabilities, Frames, Identity, LinkHandler, PlaneStatistics
from callboard.transports.dialler import Dialler
from callboard.transports.idle import IdleCloser
from callboard.transports.settings import NetworkSettings

PROBE = struct.pack("!I", 0)
MOST_FRAMES = 100_000
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


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

    def __init__(self, side: OwnSide, streams: Streams, peer: Identity, address: str) -> None:
        self.peer, self.address, self.full = peer, address, False
        self._side, (self._reader, self._writer) = side, streams
        self._own_limit = side.settings.max_message_bytes
        self._limit_bytes = min(self._own_limit, peer.max_message_bytes or self._own_limit)
        self._error: errors.TransportError | None = None
        self._waiting = 0
        self._outgoing: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._untaken = asyncio.Semaphore(side.settings.channel_buffer)
        self._task = asyncio.get_running_loop().create_task(self._run())

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
        self._side.post(self._outgoing.put_nowait, packed(frames))

    def close(self) -> None:
        self.end(errors.Closed(self.address, "this side closed the link"), "the peer closed the link")

    def undelivered(self) -> tuple[Frames, ...]:
        return ()

    def end(self, error: errors.TransportError, goodbye: str = "") -> None:
        """The link is down; only the first call counts."""
        if self._error is None:
            self._error = error
            self._side.ended(self, error)
            if goodbye:
                self._side.post(self._outgoing.put_nowait, packed([hs.encode_goodbye(goodbye)]))
            self._side.post(self._outgoing.put_nowait, None)

    def _sent(self) -> None:
        self._waiting -= 1
        if self.full and self._error is None and self._waiting < self._side.settings.channel_buffer:
            self.full = False
            self._side.handler.link_writable(self)

    def _received(self, frames: list[bytes | memoryview]) -> None:
        self._side.post(self._untaken.release)
        if self._error is not None:
            self._side.counts.stray_messages += 1
        elif hs.is_own_frame(frames[0]):
            self.end(errors.Broken(self.address, hs.decode_reason(frames[0])))
        else:
            self._side.counts.messages_received += 1
            self._side.counts.bytes_received += sum(map(len, frames))
            self._side.handler.link_received(self, frames)

    async def _run(self) -> None:
        """Until the link is over; what is queued then is written within the linger limit."""
        tasks = [asyncio.create_task(work) for work in (self._write(), self._read(), self._probe())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for error in filter(None, (task.exception() for task in done)):
                goodbye = str(error) if isinstance(error, Gone) else ""
                self._side.tell(self.end, errors.Broken(self.address, goodbye or "the peer is gone"), goodbye)
            with suppress(TimeoutError, OSError):
                async with asyncio.timeout(self._side.settings.linger_s):
                    await tasks[0]
                    self._writer.close()
                    await self._writer.wait_closed()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._writer.transport.abort()

    async def _write(self) -> None:
        while (message := await self._outgoing.get()) is not None:
            self._writer.write(message)
            await self._writer.drain()
            self._side.tell(self._sent)

    async def _read(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._side.settings.heartbeat_timeout_s):
                    frames = await read(self._reader, self._own_limit)
            except TimeoutError:
                raise Gone("nothing was heard for too long") from None
            if frames:
                await self._untaken.acquire()
                self._side.tell(self._received, frames)

    async def _probe(self) -> None:
        while True:
            await asyncio.sleep(self._side.settings.heartbeat_interval_s)
            if not self._writer.transport.get_write_buffer_size():  # else something is under way already
                self._writer.write(PROBE)


class OwnSide:
    """A server or a client: the same, of which the one listens and the other dials."""

    def __init__(self, identity: Identity, handler: LinkHandler, settings: NetworkSettings) -> None:
        self.identity, self.handler, self.settings = identity, handler, settings
        self.address = ""
        self.counts = PlaneStatistics()
        self._links: list[OwnLink] = []
        self._shaking: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self._dialler = Dialler(self._find, self._dial)
        self._idle = IdleCloser(settings, lambda: self._links, handler.link_idle)
        self._home: asyncio.AbstractEventLoop
        self._wire: asyncio.AbstractEventLoop
        self._thread: threading.Thread | None = None
        self._closing: asyncio.Future[None] | None = None

    def statistics(self) -> PlaneStatistics:
        return self.counts

    async def start(self) -> None:
        host, port = self.settings.host, self.settings.port
        try:
            self._server = await self._call(asyncio.start_server(self._accept, host, port))
        except OSError as error:
            await self.close()
            raise errors.AddressInUse(f"own://{host}:{port}", str(error)) from None
        self.address = "own://{}:{}".format(*self._server.sockets[0].getsockname()[:2])

    async def connect(self, address: str, *, node: str | None = None) -> OwnLink:
        return await self._dialler.connect(address, node)

    async def close(self) -> None:
        self._idle.close()
        await self._dialler.close()
        for link in list(self._links):
            link.close()
        if self._thread is not None:
            self._closing = self._closing or asyncio.ensure_future(self._finish(self._thread))
            await asyncio.shield(self._closing)

    async def _call(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine on the wire and return what it returns."""
        if self._thread is None:
            self._home, self._wire = asyncio.get_running_loop(), asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._wire.run_forever, name="own plane", daemon=True)
            self._thread.start()
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._wire))

    def post(self, function: Callable[..., object], *args: object) -> None:
        """Call a function on the wire, some time soon, if that is not closed."""
        with suppress(RuntimeError):
            self._wire.call_soon_threadsafe(function, *args)

    def tell(self, function: Callable[..., object], *args: object) -> None:
        """Call a function at home, some time soon."""
        self._home.call_soon_threadsafe(function, *args)

    def _find(self, address: str) -> OwnLink | None:
        return next((link for link in self._links if link.address == address), None)

    async def _dial(self, address: str, node: str | None) -> OwnLink:
        host, port = Address.parse(address).host_port()
        link: OwnLink = await self._call(self._shake(address, host, port, node or ""))
        self._idle.opened(link)
        return link

    def _opened(self, link: OwnLink, up: bool) -> None:
        self._links.append(link)
        self.counts.links += 1
        self.counts.links_opened += 1
        if up:
            self.handler.link_up(link)
        if self._closing is not None:
            link.close()

    def ended(self, link: OwnLink, error: errors.TransportError) -> None:
        """A link is down."""
        self._links.remove(link)
        self.counts.links -= 1
        self.counts.links_closed += isinstance(error, errors.Closed)
        self.counts.links_broken += not isinstance(error, errors.Closed)
        self.handler.link_down(link, error)

    async def _finish(self, thread: threading.Thread) -> None:
        await self._call(self._end())
        self.post(self._wire.stop)
        await asyncio.to_thread(thread.join)
        self._wire.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._shaking.add(writer)
        try:
            async with asyncio.timeout(self.settings.connect_timeout_s):
                frame = (await read(reader, hs.LIMIT_BYTES))[0]
            hello = hs.decode_hello(frame if frame[:2] == hs.HELLO else b"")
            if why := hs.objection(self.identity, hello):
                self.counts.handshakes_refused += 1
                writer.write(packed([hs.encode_refusal(why)]))
                writer.close()
                return
            writer.write(packed([hs.encode_hello(hs.ACCEPTED, hs.Hello(self.identity))]))
            link = OwnLink(self, (reader, writer), hello.identity, f"own://peer/{hello.identity.node}")
            self.tell(self._opened, link, True)
        except (OSError, EOFError, ValueError, IndexError):
            self.counts.garbage_connections += 1
            writer.transport.abort()
        finally:
            self._shaking.discard(writer)

    async def _shake(self, address: str, host: str, port: int, expects: str) -> OwnLink:
        writer = None
        try:
            async with asyncio.timeout(self.settings.connect_timeout_s):
                reader, writer = await asyncio.open_connection(host, port)
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
            if isinstance(error, OSError | EOFError | ValueError):
                raise errors.NoRoute(address, str(error)) from None
            raise
        self.tell(self._opened, link, False)
        return link

    async def _end(self) -> None:
        if self._server is not None:
            self._server.close()
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            for writer in self._shaking:
                writer.transport.abort()
            await asyncio.wait(others)


class OwnPlane:
    """What the entry point names."""

    capabilities = Capabilities(
        scheme="own", summary="an example", between_processes=True, between_hosts=True, notices_death=True
    )
    server = client = OwnSide
