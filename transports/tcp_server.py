"""The accepting side: one ROUTER socket, bound to a port and, as a short cut, to a unix socket.

A ROUTER never says that a peer has gone. The monitor does, by the descriptor of the connection; the hello, whose
descriptor zmq remembers, says which link that is. Events that are older than a hello are taken before it, because
the number of a closed descriptor is used again at once. What a peer had sent is taken before the end of its link is
reported.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import resource
from functools import partial
from time import monotonic
from typing import Any

import zmq

from . import cutting
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
    encode_hello,
    encode_refusal,
    is_own_frame,
    objection,
)
from .host import bracketed, places
from .ipc import host_id, remove_socket, socket_path
from .settings import NetworkSettings
from .shared_memory import announced
from .tcp_link import ZmqLink
from .tcp_scissors import Scissors
from .tcp_strangers import Strangers
from .tcp_unfinished import Unfinished
from .zmq_sockets import (
    EVENT_ACCEPTED,
    EVENT_DISCONNECTED,
    EVENTS,
    NOBLOCK,
    RCVMORE,
    SRCFD,
    ZERO_COPY_BYTES,
    Monitor,
    TooManyFrames,
    Watched,
    acquire_context,
    configure,
    receive_rest,
    release_context,
    send_frames,
    skip_frames,
    tune_allocator,
    wire_bytes,
)

RETRY_S = 0.002
"""A ROUTER does not say when one of its peers has room again; a full link asks this often."""

FAREWELL_S = 0.25
"""How long a peer may keep a connection after it was told why there is no link."""

RESERVED_DESCRIPTORS = 64
"""What strangers may not take of the descriptors of this process: who has waited longest must go for the next."""

TURN_ROOM = 64
"""Connections that are gone, with messages that nobody has read yet."""

log = logging.getLogger("callboard.transports.tcp")


class TcpServer:
    """Accepts links by tcp and ipc."""

    def __init__(
        self, identity: Identity, handler: LinkHandler, settings: NetworkSettings, *, tcp: bool, ipc: bool
    ) -> None:
        self._identity = announced(identity, settings, cutting.FEATURE)
        self._handler = handler
        self._settings = settings
        self._tcp, self._ipc = tcp, ipc
        self._statistics = PlaneStatistics()
        self._links: dict[bytes, ZmqLink] = {}
        self._by_fd: dict[int, ZmqLink] = {}
        self._going: list[ZmqLink] = []
        """Links whose connection is gone, and whose last messages may still be unread."""
        self._scissors = Scissors()
        self._strangers = Strangers(self._take_news, self._scissors)
        self._unfinished = Unfinished(settings.heartbeat_interval_s)
        self._skipping = False
        """The rest of a message is still to be dropped."""
        self._stalled: set[ZmqLink] = set()
        """Links that wait for room; those that have ended leave when they are empty or the peer is dropped."""
        self._retry: asyncio.TimerHandle | None = None
        self._closing: asyncio.Task[None] | None = None
        self._flushed: asyncio.Future[None] | None = None
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
            self._scissors.open()
            configure(socket, self._settings)
            socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
            self._monitor = Monitor(socket, self._event)
            self.address = self._bind(socket)
        except BaseException:
            if self._monitor is not None:
                self._monitor.close()
            socket.close(0)
            self._scissors.close()
            remove_socket(self._socket_path)
            release_context()
            raise
        self._router = Watched(socket, self._receive)

    def _bind(self, socket: zmq.Socket[Any]) -> str:
        settings = self._settings
        options: dict[str, str] = {}
        place = ""
        if self._tcp:
            host, reached = places(settings.host)
            if ":" in host:
                socket.setsockopt(zmq.IPV6, 1)
            try:
                socket.bind(f"tcp://{bracketed(host)}:{settings.port or '*'}")
            except zmq.ZMQError as error:
                raise _bind_error(settings, error) from None
            bound = socket.getsockopt(zmq.LAST_ENDPOINT)
            place = bytes(bound).rstrip(b"\0").decode().removeprefix("tcp://")
            if reached:
                place = f"{bracketed(reached)}:{place.rpartition(':')[2]}"
        if self._ipc:
            self._bind_ipc(socket)
            if not self._tcp:
                return str(Address("ipc", self._socket_path))
            options = {"ipc": self._socket_path, "host": host_id()}
        return str(Address("tcp", place, options))

    def _bind_ipc(self, socket: zmq.Socket[Any]) -> None:
        for last in (False, False, True):
            self._socket_path = socket_path(self._settings.ipc_directory, self._identity.node)
            try:
                socket.bind(f"ipc://{self._socket_path}")
            except zmq.ZMQError as error:
                # Whoever closes last removes the shared directory, perhaps just before this bind.
                if error.errno == errno.ENOENT and not last:
                    continue
                raise BadAddress(f"ipc://{self._socket_path}", str(error)) from None
            return

    def statistics(self) -> PlaneStatistics:
        """See `RequestPlaneServer.statistics`."""
        return self._statistics

    async def close(self) -> None:
        """See `RequestPlaneServer.close`."""
        if self._router is None:
            return
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._close(self._router))
        await asyncio.shield(self._closing)

    async def _close(self, router: Watched) -> None:
        for link in list(self._links.values()):
            link.close()
        until_s = monotonic() + self._settings.linger_s
        if self._stalled:
            self._flushed = asyncio.get_running_loop().create_future()
            await asyncio.wait([self._flushed], timeout=self._settings.linger_s)
        if self._retry is not None:
            self._retry.cancel()
        self._strangers.close()
        self._scissors.close()
        self._unfinished.close()
        if self._monitor is not None:
            self._monitor.close()
        router.close(max(0, int((until_s - monotonic()) * 1000)))
        remove_socket(self._socket_path)
        await asyncio.get_running_loop().run_in_executor(None, release_context)

    # -- in

    def _receive(self) -> None:
        assert self._router is not None
        socket = self._router.socket
        if self._skipping:
            self._skipping = not skip_frames(socket)
            return
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
            try:
                frames += receive_rest(socket)
            except TooManyFrames as error:
                self._skipping = True
                self._cut_link(link, str(error))
                return
            size = sum(map(len, frames))
        link.taken += 1
        link.taken_bytes += wire_bytes(frames, size)
        if is_own_frame(first):
            if first[:2] == GOODBYE:
                link.fail(decode_reason(first))
            elif not link.received_own(frames):
                link.reject("got a second handshake")
        elif size > self._settings.max_message_bytes:
            self._statistics.oversized += 1
            link.reject(f"sent {size:,} bytes; the limit here is {self._settings.max_message_bytes:,}")
        else:
            link.received(frames, size)

    def _stranger(self, key: bytes, socket: zmq.Socket[Any]) -> None:
        if not socket.getsockopt(RCVMORE):
            return
        frame = socket.recv(NOBLOCK, copy=False)
        first = frame.bytes if len(frame) < ZERO_COPY_BYTES else b""
        fd = int(frame.get(SRCFD))
        try:
            more = receive_rest(socket)
        except TooManyFrames as error:
            self._skipping = True
            self._statistics.stray_messages += 1
            if fd not in self._by_fd:  # else its own connection is gone, and this one is somebody else's
                self._cut(fd, str(error))
            return
        self._take_news()
        self._unfinished.spoke(fd)
        known = self._strangers.get(fd)
        if first[:2] != HELLO or (known is None and fd not in self._by_fd):
            self._statistics.stray_messages += 1
            if known is not None and not known.answered:
                self._refuse(key, fd, "a hello must come first")
            return
        try:
            hello = decode_hello(first)
            if more:
                raise Nonsense("a handshake has one frame")
        except Nonsense as error:
            self._refuse(key, fd, str(error))
            return
        why = objection(self._identity, hello) or ("it is closing" if self._closing else "")
        if why:
            if self._refuse(key, fd, why):
                self._statistics.handshakes_refused += 1
                if known is not None:
                    known.garbage = False
        elif self._send_own(key, encode_hello(ACCEPTED, Hello(self._identity))):
            self._accept(key, fd, hello.identity)

    def _accept(self, key: bytes, fd: int, peer: Identity) -> None:
        before = self._by_fd.pop(fd, None)
        if before is not None:  # its connection is closed, or there would be no other one of this number
            before.fail("the peer is gone")
        self._strangers.remove(fd)
        link = ZmqLink(
            self,
            self._handler,
            self._statistics,
            peer=peer,
            address=peer.address or f"tcp://{peer.host or 'peer'}/{peer.node}",
            settings=self._settings,
            key=key,
            fd=fd,
        )
        self._links[key] = self._by_fd[fd] = link
        self._unfinished.linked(fd, link, self._settings.max_message_bytes)
        self._handler.link_up(link)

    def _refuse(self, key: bytes, fd: int, why: str) -> bool:
        """Say why; False if the peer is gone, and ``fd`` perhaps somebody else's."""
        if not self._send_own(key, encode_refusal(why)):
            return False
        log.info("refused a connection: %s", why)
        if self._strangers.get(fd) is not None:
            self._strangers.answered(fd, FAREWELL_S)
        return True

    def _send_own(self, key: bytes, frame: bytes) -> bool:
        router = self._router
        assert router is not None
        router.socket.getsockopt(EVENTS)  # lets the socket see who has gone
        try:
            send_frames(router.socket, (frame,), key)
        except zmq.ZMQError:
            return False
        finally:
            router.after_stall()
        return True

    def _take_news(self) -> None:
        if self._monitor is not None:
            self._monitor.drain()

    def _event(self, kind: int, value: int) -> None:
        if kind == EVENT_ACCEPTED:
            self._strangers.add(value, self._settings.connect_timeout_s, garbage=True)
            self._unfinished.add(value, self._drain, partial(self._cut, value))
            if value >= most_descriptors() - RESERVED_DESCRIPTORS:
                self._strangers.drop_oldest()
        elif kind == EVENT_DISCONNECTED:
            self._unfinished.remove(value)
            link = self._by_fd.pop(value, None)
            stranger = self._strangers.remove(value)
            if link is not None:
                self._gone(link)
            elif stranger is not None and stranger.garbage:
                self._statistics.garbage_connections += 1
                log.info("dropped a connection that did not speak the protocol")

    def _gone(self, link: ZmqLink) -> None:
        if not self._going:
            asyncio.get_running_loop().call_soon(self._bury)
        if link not in self._going:
            self._going.append(link)

    def _bury(self) -> None:
        """Take what the peers had sent before they went, then report that they have gone; some of it per turn."""
        going, self._going = [(link, link.taken) for link in self._going], []
        empty, undecided = False, True
        try:
            empty = self._drain()
            undecided = self._skipping
        finally:
            for link, before in going:
                if empty or (link.taken == before and not undecided):
                    link.fail("the peer is gone")
                elif link.is_up:
                    self._gone(link)

    def _drain(self) -> bool:
        """Take so much that each connection that had a whole message has given one; True if nothing is left.

        A ROUTER reads its connections in turn. Others may have come to turns between, but none twice.
        """
        if self._router is None:
            return True
        return self._router.drain(2 * (len(self._links) + len(self._strangers)) + TURN_ROOM)

    def _cut(self, fd: int, why: str) -> None:
        """End a connection at once: its peer would not read a goodbye."""
        log.warning("ending a connection: it %s", why)
        self._statistics.oversized += 1
        link = self._by_fd.get(fd)
        if link is not None:
            link.fail(f"the peer {why}")
        self._strangers.drop(fd)

    def _cut_link(self, link: ZmqLink, why: str) -> None:
        """Do so with that of a link; the number of one that is gone may be somebody else's."""
        if self._by_fd.get(link.fd) is link:
            self._cut(link.fd, why)
        else:
            link.fail(f"the peer {why}")

    # -- out: Carrier

    def transmit(self, link: ZmqLink, frames: Frames) -> None:
        """See `Carrier`."""
        router = self._router
        assert router is not None
        try:
            send_frames(router.socket, frames, link.key)
        except zmq.Again:
            raise
        except zmq.ZMQError as error:
            if error.errno != errno.EHOSTUNREACH:
                raise
            self._gone(link)  # the message is as lost as one that was under way
        router.after_send()

    def stalled(self, link: ZmqLink) -> None:
        """See `Carrier`."""
        self._stalled.add(link)
        if self._router is not None:
            self._router.after_stall()
        if self._retry is None:
            self._retry = asyncio.get_running_loop().call_later(RETRY_S, self._resume)

    def _resume(self) -> None:
        self._retry = None
        for link in list(self._stalled):
            self._stalled.discard(link)
            link.resume()
            link.fail_if_stalled(self._settings.heartbeat_timeout_s)
        if self._flushed is not None and not self._stalled and not self._flushed.done():
            self._flushed.set_result(None)

    def ended(self, link: ZmqLink, *, flush: bool) -> None:
        """See `Carrier`."""
        self._links.pop(link.key, None)
        self._stalled.discard(link)
        if self._by_fd.get(link.fd) is link:
            del self._by_fd[link.fd]
            self._strangers.add(link.fd, self._settings.linger_s + FAREWELL_S, garbage=False)
        if flush:
            link.resume()


def most_descriptors() -> int:
    """Return how many descriptors this process may have."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


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
