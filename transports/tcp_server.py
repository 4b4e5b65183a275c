"""The accepting side: one ROUTER socket, bound to a port and, as a short cut, to a unix socket.

A ROUTER never says that a peer has gone. The monitor does, by the descriptor of the connection; the hello, whose
descriptor zmq remembers, says which link that is. Events that are older than a hello are taken before it, because
the number of a closed descriptor is used again at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from typing import Any

import zmq

from .address import Address
from .base import Frames, Identity, LinkHandler, PlaneStatistics
from .errors import AddressInUse, BadAddress
from .handshake import (
    ACCEPTED,
    GOODBYE,
    HELLO,
    Hello,
    Nonsense,
    decode_hello,
    decode_reason,
    encode_goodbye,
    encode_hello,
    encode_refusal,
    is_own_frame,
    objection,
)
from .ipc import host_id, remove_socket, socket_path
from .settings import NetworkSettings
from .tcp_link import ZmqLink
from .zmq_sockets import (
    EVENT_ACCEPTED,
    EVENT_DISCONNECTED,
    EVENTS_FAILED,
    NOBLOCK,
    RCVMORE,
    SRCFD,
    ZERO_COPY_BYTES,
    Monitor,
    Watched,
    acquire_context,
    configure,
    receive_rest,
    release_context,
    send_frames,
    tune_allocator,
)

RETRY_S = 0.002
"""A ROUTER does not say when one of its peers has room again; a full link asks this often."""

log = logging.getLogger("callboard.transports.tcp")


class TcpServer:
    """Accepts links by tcp and ipc."""

    def __init__(
        self, identity: Identity, handler: LinkHandler, settings: NetworkSettings, *, tcp: bool, ipc: bool
    ) -> None:
        self._identity = identity
        self._handler = handler
        self._settings = settings
        self._tcp, self._ipc = tcp, ipc
        self._statistics = PlaneStatistics()
        self._links: dict[bytes, ZmqLink] = {}
        self._by_fd: dict[int, ZmqLink] = {}
        self._silent: set[int] = set()
        """Connections that have not said hello yet."""
        self._stalled: set[ZmqLink] = set()
        self._retry: asyncio.TimerHandle | None = None
        self._router: Watched | None = None
        self._monitor: Monitor | None = None
        self._socket_path = ""
        self.address = ""

    def __repr__(self) -> str:
        return f"<TcpServer {self.address or 'not started'}, {len(self._links)} links>"

    async def start(self) -> None:
        """See `RequestPlaneServer.start`."""
        tune_allocator(self._settings.shrink_message_bytes)
        socket = acquire_context().socket(zmq.ROUTER)
        try:
            configure(socket, self._settings)
            socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
            self._monitor = Monitor(socket, self._event)
            self.address = self._bind(socket)
        except BaseException:
            if self._monitor is not None:
                self._monitor.close()
            socket.close(0)
            remove_socket(self._socket_path)
            release_context()
            raise
        self._router = Watched(socket, self._receive)

    def _bind(self, socket: zmq.Socket[Any]) -> str:
        settings = self._settings
        options: dict[str, str] = {}
        place = ""
        if self._tcp:
            wanted = f"tcp://{settings.host}:{settings.port or '*'}"
            try:
                socket.bind(wanted)
            except zmq.ZMQError as error:
                raise _bind_error(settings, error) from None
            bound = socket.getsockopt(zmq.LAST_ENDPOINT)
            place = bytes(bound).rstrip(b"\0").decode().removeprefix("tcp://")
        if self._ipc:
            self._socket_path = socket_path(settings.ipc_directory, self._identity.node)
            socket.bind(f"ipc://{self._socket_path}")
            if not self._tcp:
                return str(Address("ipc", self._socket_path))
            options = {"ipc": self._socket_path, "host": host_id()}
        return str(Address("tcp", place, options))

    def statistics(self) -> PlaneStatistics:
        """See `RequestPlaneServer.statistics`."""
        return self._statistics

    async def close(self) -> None:
        """See `RequestPlaneServer.close`."""
        if self._router is None or self._router.closed:
            return
        for link in list(self._links.values()):
            link.close()
        if self._retry is not None:
            self._retry.cancel()
        if self._monitor is not None:
            self._monitor.close()
        self._router.close()
        remove_socket(self._socket_path)
        await asyncio.get_running_loop().run_in_executor(None, release_context)

    # -- in

    def _receive(self) -> None:
        assert self._router is not None
        socket = self._router.socket
        key = socket.recv(NOBLOCK)
        link = self._links.get(key)
        if link is None:
            self._stranger(key, socket)
            return
        if not socket.getsockopt(RCVMORE):
            return
        first = socket.recv(NOBLOCK)
        size = len(first)
        frames: list[bytes | memoryview] = [first]
        if socket.getsockopt(RCVMORE):
            frames += receive_rest(socket)
            size = sum(map(len, frames))
        if is_own_frame(first):
            link.fail(decode_reason(first) if first[:2] == GOODBYE else "the peer spoke out of turn")
        elif size > self._settings.max_message_bytes:
            self._statistics.oversized += 1
            link.fail(
                f"it sent a message of {size:,} bytes; the limit is {self._settings.max_message_bytes:,}"
            )
        else:
            link.received(frames, size)

    def _stranger(self, key: bytes, socket: zmq.Socket[Any]) -> None:
        if not socket.getsockopt(RCVMORE):
            return
        frame = socket.recv(NOBLOCK, copy=False)
        first = frame.bytes if len(frame) < ZERO_COPY_BYTES else b""
        more = receive_rest(socket)
        if first[:2] != HELLO:
            self._statistics.stray_messages += 1
            if first[:2] != GOODBYE:
                self._refuse(key, "a hello must come first")
            return
        try:
            fd = frame.get(SRCFD)
            hello = decode_hello(first)
            if more:
                raise Nonsense("a handshake has one frame")
        except Nonsense as error:
            self._statistics.garbage_connections += 1
            self._refuse(key, str(error))
            return
        assert self._monitor is not None
        self._monitor.drain()
        why = objection(self._identity, hello)
        if why:
            self._statistics.handshakes_refused += 1
            self._refuse(key, why)
            return
        self._silent.discard(fd)
        peer = hello.identity
        link = ZmqLink(
            self,
            self._handler,
            self._statistics,
            peer=peer,
            address=peer.address or f"tcp://{peer.host or 'peer'}/{peer.node}",
            limit_bytes=self._settings.max_message_bytes,
            key=key,
        )
        self._links[key] = self._by_fd[fd] = link
        self._send_own(key, encode_hello(ACCEPTED, Hello(self._identity)))
        self._handler.link_up(link)

    def _refuse(self, key: bytes, why: str) -> None:
        log.info("refused a connection: %s", why)
        self._send_own(key, encode_refusal(why))

    def _send_own(self, key: bytes, frame: bytes) -> None:
        assert self._router is not None
        with contextlib.suppress(zmq.ZMQError):
            send_frames(self._router.socket, (frame,), key)

    def _event(self, kind: int, value: int) -> None:
        if kind == EVENT_ACCEPTED:
            self._silent.add(value)
        elif kind == EVENT_DISCONNECTED or kind & EVENTS_FAILED:
            link = self._by_fd.pop(value, None)
            if link is not None:
                if link.is_up and self._router is not None:
                    link.fail("the peer is gone")
            elif value in self._silent:
                self._silent.discard(value)
                self._statistics.garbage_connections += 1
                log.info("dropped a connection that did not speak the protocol")

    # -- out: Carrier

    def transmit(self, link: ZmqLink, frames: Frames) -> None:
        """See `Carrier`."""
        router = self._router
        assert router is not None
        send_frames(router.socket, frames, link.key)
        router.after_send()

    def stalled(self, link: ZmqLink) -> None:
        """See `Carrier`."""
        self._stalled.add(link)
        if self._retry is None:
            self._retry = asyncio.get_running_loop().call_later(RETRY_S, self._resume)

    def _resume(self) -> None:
        self._retry = None
        for link in list(self._stalled):
            if link.resume() and not link.full:
                self._stalled.discard(link)
        if self._stalled and self._retry is None:
            self._retry = asyncio.get_running_loop().call_later(RETRY_S, self._resume)

    def ended(self, link: ZmqLink, *, flush: bool) -> None:
        """See `Carrier`."""
        self._links.pop(link.key, None)
        self._stalled.discard(link)
        for fd in [fd for fd, known in self._by_fd.items() if known is link]:
            del self._by_fd[fd]
        self._send_own(link.key, encode_goodbye("the peer closed the link"))


def _bind_error(settings: NetworkSettings, error: zmq.ZMQError) -> Exception:
    address = f"tcp://{settings.host}:{settings.port}"
    if error.errno == zmq.EADDRINUSE:
        return AddressInUse(
            address,
            f"port {settings.port} is taken; set network.port (DYN_TCP_RPC_PORT) to another one, or to 0 so that the "
            "system chooses",
        )
    if error.errno == zmq.EADDRNOTAVAIL or error.errno == getattr(os, "ENODEV", 19):
        return BadAddress(address, f"this machine has no address {settings.host}")
    return BadAddress(address, os.strerror(error.errno) if error.errno else str(error))
