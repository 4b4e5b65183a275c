"""The dialling side: one DEALER socket per address. It never reconnects by itself: what was queued for a dead peer
must not reach its successor, so a broken link is reported, and the layer above dials again.
"""

from __future__ import annotations

import asyncio
import secrets
from time import monotonic
from typing import Any

import zmq

from .address import Address
from .base import Frames, Identity, LinkHandler, PlaneStatistics
from .errors import BadAddress, Closed, ConnectTimeout, HandshakeRefused, NoRoute, TransportError
from .handshake import (
    ACCEPTED,
    GOODBYE,
    HELLO,
    REFUSED,
    Hello,
    Nonsense,
    decode_hello,
    decode_reason,
    encode_goodbye,
    encode_hello,
    is_own_frame,
    objection,
)
from .ipc import host_id
from .pool import to_close
from .settings import NetworkSettings
from .tcp_link import ZmqLink
from .zmq_sockets import (
    EVENT_DISCONNECTED,
    EVENT_HANDSHAKE_SUCCEEDED,
    NOBLOCK,
    RCVMORE,
    Monitor,
    Watched,
    acquire_context,
    configure,
    receive_rest,
    release_context,
    send_frames,
    tune_allocator,
)


class Connection:
    """One DEALER socket: the handshake, then the link over it."""

    def __init__(self, client: TcpClient, address: str, endpoint: str, node: str | None) -> None:
        self._client = client
        self._address = address
        self._expects = node or ""
        self._ready: asyncio.Future[ZmqLink] = asyncio.get_running_loop().create_future()
        self.link: ZmqLink | None = None
        settings = client.settings
        socket = client.context.socket(zmq.DEALER)
        configure(socket, settings)
        socket.setsockopt(zmq.ROUTING_ID, b"c" + secrets.token_bytes(15))
        socket.setsockopt(zmq.RECONNECT_IVL, -1)
        socket.setsockopt(zmq.CONNECT_TIMEOUT, int(settings.connect_timeout_s * 1000))
        self._monitor = Monitor(socket, self._event)
        self._watched = Watched(socket, self._receive, self._writable)
        try:
            socket.connect(endpoint)
        except zmq.ZMQError as error:
            self.abandon()
            raise BadAddress(address, str(error)) from None

    async def ready(self, timeout_s: float) -> ZmqLink:
        """Return the link when the handshake is done; raises `NoRoute` and its children."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self._ready
        except TimeoutError:
            self.abandon()
            raise ConnectTimeout(
                self._address,
                f"no handshake within {timeout_s} s (network.connect_timeout_s, DYN_TCP_CONNECT_TIMEOUT)",
            ) from None
        except BaseException:
            self.abandon()
            raise

    def abandon(self) -> None:
        """Close the socket without sending what it holds."""
        self._monitor.close()
        self._watched.close(0)

    def _refuse(self, error: TransportError) -> None:
        if not self._ready.done():
            self._ready.set_exception(error)

    def _event(self, kind: int, value: int) -> None:
        if kind == EVENT_HANDSHAKE_SUCCEEDED:
            hello = Hello(self._client.identity, expects=self._expects)
            send_frames(self._watched.socket, (encode_hello(HELLO, hello),))
            self._watched.after_send()
        elif self.link is None:
            if kind == EVENT_DISCONNECTED:
                self._watched.drain()  # a refusal may have come before
                self._refuse(NoRoute(self._address, "the connection was closed during the handshake"))
            else:
                self._refuse(NoRoute(self._address, "the connection was refused"))
        elif kind == EVENT_DISCONNECTED:
            self._watched.drain()  # what the peer sent before it went
            self.link.fail("the peer is gone")

    def _receive(self) -> None:
        socket = self._watched.socket
        first = socket.recv(NOBLOCK)
        size = len(first)
        frames: list[bytes | memoryview] = [first]
        if socket.getsockopt(RCVMORE):
            frames += receive_rest(socket)
            size = sum(map(len, frames))
        link = self.link
        if is_own_frame(first):
            self._own_frame(first)
        elif link is None or not link.is_up:
            self._client.statistics().stray_messages += 1
        elif size > self._client.settings.max_message_bytes:
            self._client.statistics().oversized += 1
            link.fail(f"it sent {size:,} bytes; the limit is {self._client.settings.max_message_bytes:,}")
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
                self._refuse(HandshakeRefused(self._address, why))
                return
            self.link = self._client.opened(self, hello.identity, self._address)
            self._ready.set_result(self.link)

    def _writable(self) -> None:
        if self.link is not None and self.link.full:
            self.link.resume()

    # -- Carrier

    def transmit(self, link: ZmqLink, frames: Frames) -> None:
        """See `Carrier`."""
        send_frames(self._watched.socket, frames)
        self._watched.after_send()

    def stalled(self, link: ZmqLink) -> None:
        """See `Carrier`; the socket says by itself when it is writable."""

    def ended(self, link: ZmqLink, *, flush: bool) -> None:
        """See `Carrier`."""
        if flush:
            try:
                send_frames(self._watched.socket, (encode_goodbye("the peer closed the link"),))
            except zmq.ZMQError:
                flush = False
        self._client.closed(self)
        self._monitor.close()
        self._watched.close(None if flush else 0)


class TcpClient:
    """Dials links; at most one per address."""

    def __init__(self, identity: Identity, handler: LinkHandler, settings: NetworkSettings) -> None:
        tune_allocator(settings.shrink_message_bytes)
        self.identity = identity
        self.settings = settings
        self.context: zmq.Context[Any] = acquire_context()
        self._handler = handler
        self._statistics = PlaneStatistics()
        self._links: dict[str, ZmqLink] = {}
        self._attempts: dict[str, asyncio.Task[ZmqLink]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"<TcpClient {len(self._links)} links, {len(self._attempts)} attempts>"

    def statistics(self) -> PlaneStatistics:
        """See `RequestPlaneClient.statistics`."""
        return self._statistics

    async def connect(self, address: str, *, node: str | None = None) -> ZmqLink:
        """See `RequestPlaneClient.connect`."""
        if self._closed:
            raise Closed(address, "the client was closed")
        link = self._links.get(address)
        if link is not None and (node is None or link.peer.node == node):
            return link
        attempt = self._attempts.get(address)
        if attempt is None:
            attempt = asyncio.get_running_loop().create_task(self._dial(address, node))
            self._attempts[address] = attempt
            attempt.add_done_callback(lambda done: self._attempt_over(address, done))
        link = await asyncio.shield(attempt)
        if node is not None and link.peer.node != node:
            raise HandshakeRefused(address, f"node {link.peer.node} is there, {node} was expected")
        return link

    def _attempt_over(self, address: str, attempt: asyncio.Task[ZmqLink]) -> None:
        self._attempts.pop(address, None)
        if not attempt.cancelled():
            attempt.exception()  # whoever waited has it; nobody may have

    async def _dial(self, address: str, node: str | None) -> ZmqLink:
        endpoint = endpoint_of(address, ipc=self.settings.ipc)
        return await Connection(self, address, endpoint, node).ready(self.settings.connect_timeout_s)

    def opened(self, connection: Connection, peer: Identity, address: str) -> ZmqLink:
        """A handshake is done."""
        link = ZmqLink(
            connection,
            self._handler,
            self._statistics,
            peer=peer,
            address=address,
            limit_bytes=self.settings.max_message_bytes,
        )
        self._links[address] = link
        if self._timer is None:
            self._arm()
        return link

    def closed(self, connection: Connection) -> None:
        """A link is down."""
        link = connection.link
        if link is not None and self._links.get(link.address) is link:
            del self._links[link.address]

    def _arm(self) -> None:
        wait_s = min(self.settings.idle_close_s / 4, 5.0)
        self._timer = asyncio.get_running_loop().call_later(wait_s, self._close_idle)

    def _close_idle(self) -> None:
        self._timer = None
        now = monotonic()
        idle_since: dict[ZmqLink, float] = {}
        for link in self._links.values():
            if self._handler.link_idle(link) and link.is_up:
                link.used_at_s = link.used_at_s or now
                idle_since[link] = link.used_at_s
            else:
                link.used_at_s = 0.0
        for link in to_close(
            idle_since,
            now,
            total=len(self._links),
            limit=self.settings.pool_size,
            idle_s=self.settings.idle_close_s,
        ):
            link.close()
        if self._links and not self._closed:
            self._arm()

    async def close(self) -> None:
        """See `RequestPlaneClient.close`."""
        if self._closed:
            return
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for attempt in list(self._attempts.values()):
            attempt.cancel()
        if self._attempts:
            await asyncio.wait(list(self._attempts.values()))
        for link in list(self._links.values()):
            link.close()
        await asyncio.get_running_loop().run_in_executor(None, release_context)


def endpoint_of(text: str, *, ipc: bool) -> str:
    """Return what zmq should dial: the unix socket if the node is on this host and it is there."""
    address = Address.parse(text)
    if address.scheme == "ipc":
        return f"ipc://{address.place}"
    if address.scheme != "tcp":
        raise BadAddress(text, f"this plane dials tcp and ipc, not {address.scheme}")
    host, port = address.host_port()
    path = address.options.get("ipc", "")
    if ipc and path and address.options.get("host") == host_id() and _exists(path):
        return f"ipc://{path}"
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"


def _exists(path: str) -> bool:
    import os

    return os.path.exists(path)
