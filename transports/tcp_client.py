"""The dialling side: one DEALER socket per address. It never reconnects by itself: what was queued for a dead peer
must not reach its successor, so a broken link is reported, and the layer above dials again.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from functools import partial
from time import monotonic
from typing import Any

import zmq

from . import cutting
from .address import Address, is_numeric
from .base import Frames, Identity, LinkHandler, PlaneStatistics
from .dialler import Dialler
from .errors import BadAddress, ConnectTimeout, HandshakeRefused, NoRoute, TransportError
from .handshake import (
    ACCEPTED,
    GOODBYE,
    HELLO,
    REFUSED,
    Hello,
    Nonsense,
    decode_hello,
    decode_reason,
    encode_hello,
    is_own_frame,
    objection,
)
from .idle import IdleCloser
from .ipc import short_cut
from .settings import NetworkSettings
from .shared_memory import announced
from .tcp_link import ZmqLink
from .tcp_unfinished import Unfinished
from .zmq_sockets import (
    EVENT_CLOSED,
    EVENT_CONNECTED,
    EVENT_DISCONNECTED,
    EVENT_HANDSHAKE_SUCCEEDED,
    NOBLOCK,
    RCVMORE,
    Monitor,
    TooManyFrames,
    Watched,
    acquire_context,
    configure,
    receive_rest,
    release_context,
    send_frames,
    tune_allocator,
    wire_bytes,
)

NEVER_MS = 1_000_000_000
"""With libzmq's own word for never, -1, it throws away what came in and was not read when the connection ends."""


TAKEN_AT_ONCE = 256
"""Of what a peer that is gone has left; then others have their turn."""


class Connection:
    """One DEALER socket: the handshake, then the link over it."""

    def __init__(self, client: TcpClient, address: str, endpoint: str, node: str | None) -> None:
        self._client = client
        self._address = address
        self._expects = node or ""
        self._ready: asyncio.Future[ZmqLink] = asyncio.get_running_loop().create_future()
        self._lingers_until_s = 0.0
        self._patience: asyncio.TimerHandle | None = None
        """Runs while the link may be full."""
        self._fd = -1
        """Of the connection, once there is one."""
        self.link: ZmqLink | None = None
        try:
            dealer = client.context.socket(zmq.DEALER)
        except zmq.ZMQError as error:
            raise NoRoute(address, f"this process can open no more sockets: {error}") from None
        configure(dealer, client.settings)
        dealer.setsockopt(zmq.ROUTING_ID, b"c" + secrets.token_bytes(15))
        dealer.setsockopt(zmq.RECONNECT_IVL, NEVER_MS)
        dealer.setsockopt(zmq.IPV6, int("[" in endpoint))
        self._monitor = Monitor(dealer, self._event)
        self._watched = Watched(dealer, self._receive, self._writable)
        try:
            dealer.connect(endpoint)
        except zmq.ZMQError as error:
            self.abandon()
            raise BadAddress(address, str(error)) from None

    async def ready(self, timeout_s: float) -> ZmqLink:
        """Return the link when the handshake is done; raises `NoRoute` and its children."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self._ready
        except TimeoutError:
            if self.link is not None:  # it was in time, and this task is late
                return self.link
            raise too_late(self._address, self._client.settings.connect_timeout_s) from None
        finally:
            if self.link is None:
                self.abandon()

    def abandon(self) -> None:
        """Close the socket without sending what it holds."""
        self._client.unfinished.remove(self._fd)
        self._monitor.close()
        self._watched.close(0)

    def _refuse(self, error: TransportError) -> None:
        if not self._ready.done():
            self._ready.set_exception(error)

    def _event(self, kind: int, value: int) -> None:
        if kind == EVENT_CONNECTED:
            self._fd = value
            self._client.unfinished.add(value, partial(self._watched.drain, 1), self._cut)
        elif kind == EVENT_HANDSHAKE_SUCCEEDED:
            hello = Hello(self._client.identity, expects=self._expects)
            try:
                send_frames(self._watched.socket, (encode_hello(HELLO, hello),))
            except zmq.Again:
                return  # the peer has gone already, as the next event says
            self._watched.after_send()
        elif kind == EVENT_CLOSED:
            self._refuse(NoRoute(self._address, "the connection was refused"))
        elif kind == EVENT_DISCONNECTED:
            self._bury()

    def _bury(self) -> None:
        """Take what the peer sent before it went, a refusal perhaps, then report that it has gone."""
        done = True
        try:
            done = self._watched.drain(TAKEN_AT_ONCE)
        finally:
            if not done:
                asyncio.get_running_loop().call_soon(self._bury)
            elif self.link is None:
                self._refuse(NoRoute(self._address, "the connection was closed during the handshake"))
            else:
                self.link.fail("the peer is gone")

    def _receive(self) -> None:
        dealer = self._watched.socket
        first = dealer.recv(NOBLOCK)
        size = len(first)
        frames: list[bytes | memoryview] = [first]
        if dealer.getsockopt(RCVMORE):
            try:
                frames += receive_rest(dealer)
            except TooManyFrames as error:
                self._cut(str(error))
                return
            size = sum(map(len, frames))
        link = self.link
        if link is not None:
            link.taken += 1
            link.taken_bytes += wire_bytes(frames, size)
        if is_own_frame(first):
            if link is None or not link.is_up or not link.received_own(frames):
                self._own_frame(first)
        elif link is None or not link.is_up:
            self._client.statistics().stray_messages += 1
        elif size > self._client.settings.max_message_bytes:
            self._client.statistics().oversized += 1
            link.reject(f"sent {size:,} bytes; the limit here is {self._client.settings.max_message_bytes:,}")
        else:
            link.received(frames, size)

    def _own_frame(self, frame: bytes) -> None:
        kind = frame[:2]
        if kind == GOODBYE and self.link is not None:
            self.link.fail(decode_reason(frame))
        elif kind == REFUSED and self.link is None:
            self._client.statistics().handshakes_refused += 1
            self._refuse(HandshakeRefused(self._address, decode_reason(frame)))
        elif kind == ACCEPTED and self.link is None and not self._ready.done():
            try:
                hello = decode_hello(frame)
            except Nonsense as error:
                self._refuse(HandshakeRefused(self._address, str(error)))
                return
            why = objection(self._client.identity, hello)
            if self._expects and hello.identity.node != self._expects:
                why = f"node {hello.identity.node} answered, {self._expects} was expected"
            if why:
                self._client.statistics().handshakes_refused += 1
                self._refuse(HandshakeRefused(self._address, why))
                return
            self.link = self._client.opened(self, hello.identity, self._address)
            self._client.unfinished.linked(self._fd, self.link, self._client.settings.max_message_bytes)
            self._ready.set_result(self.link)

    def _cut(self, why: str) -> None:
        """End the connection at once: the peer would not read a goodbye."""
        self._client.statistics().oversized += 1
        if self.link is None:
            self._refuse(NoRoute(self._address, f"the peer {why}"))
            self.abandon()
        elif self.link.is_up:
            self.link.fail(f"the peer {why}")
        else:
            self._leave()

    def _writable(self) -> None:
        link = self.link
        if link is not None and link.full and link.resume() and not link.is_up:
            self._leave()

    # -- Carrier

    def transmit(self, link: ZmqLink, frames: Frames) -> None:
        """See `Carrier`."""
        send_frames(self._watched.socket, frames)
        self._watched.after_send()

    def stalled(self, link: ZmqLink) -> None:
        """See `Carrier`; the socket says by itself when it is writable."""
        self._watched.after_stall()
        if self._patience is None:
            self._patience = asyncio.get_running_loop().call_later(
                self._client.settings.heartbeat_timeout_s, self._look
            )

    def _look(self) -> None:
        self._patience = None
        left_s = self.link.fail_if_stalled(self._client.settings.heartbeat_timeout_s) if self.link else 0.0
        if left_s:
            self._patience = asyncio.get_running_loop().call_later(left_s, self._look)

    def ended(self, link: ZmqLink, *, flush: bool) -> None:
        """See `Carrier`."""
        self._client.closed(link)
        self._monitor.close()
        linger_s = self._client.settings.linger_s if flush else 0.0
        self._lingers_until_s = monotonic() + linger_s
        if not flush or link.resume():
            self._leave()
        else:
            loop = asyncio.get_running_loop()
            self._client.lingering[self] = loop.create_future()
            loop.call_later(linger_s, self._leave)

    def _leave(self) -> None:
        """Close the socket; zmq sends what it holds in the time that is left."""
        if self._patience is not None:
            self._patience.cancel()
        self._client.unfinished.remove(self._fd)
        self._watched.close(max(0, int((self._lingers_until_s - monotonic()) * 1000)))
        lingers = self._client.lingering.pop(self, None)
        if lingers is not None:
            lingers.set_result(None)


class TcpClient:
    """Dials links; at most one per address."""

    def __init__(self, identity: Identity, handler: LinkHandler, settings: NetworkSettings) -> None:
        tune_allocator(settings.shrink_message_bytes)
        self.identity = announced(identity, settings, cutting.FEATURE)
        self.settings = settings
        self.context: zmq.Context[Any] = acquire_context()
        self.lingering: dict[Connection, asyncio.Future[None]] = {}
        """Connections of closed links that still have something to send."""
        self.unfinished = Unfinished(settings.heartbeat_interval_s)
        self._handler = handler
        self._statistics = PlaneStatistics()
        self._links: dict[str, ZmqLink] = {}
        self._dialler = Dialler(self._links.get, self._dial)
        self._idle = IdleCloser(settings, self._links.values, handler.link_idle)
        self._closing: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<TcpClient {len(self._links)} links, {len(self._dialler)} attempts>"

    def statistics(self) -> PlaneStatistics:
        """See `RequestPlaneClient.statistics`."""
        return self._statistics

    async def connect(self, address: str, *, node: str | None = None) -> ZmqLink:
        """See `RequestPlaneClient.connect`."""
        return await self._dialler.connect(address, node)

    async def _dial(self, address: str, node: str | None) -> ZmqLink:
        limit_s = self.settings.connect_timeout_s
        until_s = monotonic() + limit_s
        try:
            async with asyncio.timeout(limit_s):
                endpoint = await endpoint_of(address, ipc=self.settings.ipc)
        except TimeoutError:
            raise too_late(address, limit_s) from None
        return await Connection(self, address, endpoint, node).ready(until_s - monotonic())

    def opened(self, connection: Connection, peer: Identity, address: str) -> ZmqLink:
        """A handshake is done."""
        link = ZmqLink(
            connection,
            self._handler,
            self._statistics,
            peer=peer,
            address=address,
            settings=self.settings,
        )
        before = self._links.get(address)
        self._links[address] = link
        if before is not None:  # to the node that was there before, and has lost its address
            before.close()
        self._idle.opened(link)
        return link

    def closed(self, link: ZmqLink) -> None:
        """A link is down."""
        self._idle.closed(link)
        if self._links.get(link.address) is link:
            del self._links[link.address]

    async def close(self) -> None:
        """See `RequestPlaneClient.close`."""
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        self._idle.close()
        await self._dialler.close()
        for link in list(self._links.values()):
            link.close()
        if self.lingering:
            await asyncio.wait(list(self.lingering.values()))
        self.unfinished.close()
        await asyncio.get_running_loop().run_in_executor(None, release_context)


def too_late(address: str, limit_s: float) -> ConnectTimeout:
    """The error for a handshake that took too long."""
    return ConnectTimeout(
        address, f"no handshake within {limit_s} s (network.connect_timeout_s, DYN_TCP_CONNECT_TIMEOUT)"
    )


async def endpoint_of(text: str, *, ipc: bool) -> str:
    """Return what zmq should dial: the unix socket if the node is on this host and it is there.

    A name is resolved here, because zmq would do it in the thread that serves all links. Raises `NoRoute` if that
    fails, and `BadAddress`.
    """
    address = Address.parse(text)
    if address.scheme == "ipc":
        return f"ipc://{address.place}"
    if address.scheme != "tcp":
        raise BadAddress(text, f"this plane dials tcp and ipc, not {address.scheme}")
    host, port = address.host_port()
    path = short_cut(address) if ipc else ""
    if path:
        return f"ipc://{path}"
    if not is_numeric(host):
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise NoRoute(text, f"the name {host!r} cannot be resolved: {error}") from None
        host = str(found[0][4][0])
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"
