"""The NATS plane: a subject for each actor, a queue group for each component, an inbox for each process.

Processes need not reach each other, only a NATS server. A link is made by a handshake on the subject of the node that
is dialled; nats_link.py says what travels on it.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from time import monotonic

from nats.aio.msg import Msg

from .address import Address
from .base import Capabilities, Endpoint, Identity, LinkHandler, PlaneStatistics
from .dialler import Dialler
from .errors import BadAddress, Broken, Closed, ConnectTimeout, HandshakeRefused, NoRoute, TransportError
from .handshake import (
    ACCEPTED,
    HELLO,
    REFUSED,
    Hello,
    Nonsense,
    decode_hello,
    decode_reason,
    encode_goodbye,
    encode_hello,
    encode_refusal,
    objection,
)
from .idle import IdleCloser
from .nats_connection import RETURN_S, NatsConnection, acquire, release
from .nats_durable import NatsDurableStore
from .nats_endpoints import Endpoints
from .nats_frames import GOODBYE, pack, pack_marks
from .nats_link import NatsLink
from .nats_subjects import Subjects, is_inbox
from .settings import NetworkSettings
from .shared_memory import announced

TRY_AGAIN_S = 0.05
SUBJECT = re.compile(r"[^\s.*>]+(\.[^\s.*>]+)*")

log = logging.getLogger("callboard.transports.nats")


class _Side:
    """What the server and the client of a node have in common: links on the shared connection."""

    def __init__(self, identity: Identity, handler: LinkHandler, settings: NetworkSettings) -> None:
        self._identity = announced(identity, settings)
        self._handler = handler
        self._settings = settings
        self._statistics = PlaneStatistics()
        self._connection: NatsConnection | None = None
        self._up: set[NatsLink] = set()
        self._lingering: dict[NatsLink, asyncio.Future[None]] = {}
        """Links that are down and have something left to send."""
        self._closing: asyncio.Task[None] | None = None

    def statistics(self) -> PlaneStatistics:
        """Counters since the start."""
        if self._connection is not None:
            self._statistics.extra["reconnects"] = self._connection.reconnects
            self._statistics.extra["strays"] = self._connection.links.strays
        return self._statistics

    def _link(
        self, connection: NatsConnection, key: int, peer: Identity, address: str, subject: str
    ) -> NatsLink:
        link = NatsLink(
            connection,
            self._handler,
            self._statistics,
            key=key,
            peer=peer,
            address=address,
            subject=subject,
            replies=connection.links.inbox,
            settings=self._settings,
            forget=self._ended,
        )
        connection.links.add(link)
        self._up.add(link)
        return link

    def _ended(self, link: NatsLink) -> None:
        """A link is down; called once more when it has sent what it held."""
        self._up.discard(link)
        self._forget(link)
        if not link.is_done:
            loop = asyncio.get_running_loop()
            self._lingering[link] = loop.create_future()
            loop.call_later(self._settings.linger_s, self._give_up, link)
            return
        lingers = self._lingering.pop(link, None)
        if lingers is not None:
            lingers.set_result(None)
        assert self._connection is not None
        self._connection.links.remove(link)

    def _give_up(self, link: NatsLink) -> None:
        if link in self._lingering:
            link.give_up()

    def _forget(self, link: NatsLink) -> None:
        raise NotImplementedError

    async def close(self) -> None:
        """End every link; idempotent; leaves nothing."""
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        raise NotImplementedError

    async def _close_links(self) -> None:
        for link in list(self._up):
            link.close()
        if self._lingering:
            await asyncio.wait(list(self._lingering.values()))


class NatsServer(_Side):
    """Accepts links on the subject of its node, and makes actors known by subjects of their own."""

    def __init__(self, identity: Identity, handler: LinkHandler, settings: NetworkSettings) -> None:
        super().__init__(identity, handler, settings)
        self._links: dict[str, NatsLink] = {}
        """By the node of the peer: each has one at most."""
        self._endpoints = Endpoints(identity, settings.nats.prefix, self._statistics)
        self._subject = Subjects(settings.nats.prefix, identity.namespace).node(identity.node)
        self.address = ""

    def __repr__(self) -> str:
        return f"<NatsServer {self.address or 'not started'}, {len(self._links)} links>"

    async def start(self) -> None:
        """See `RequestPlaneServer.start`. Raises `NoRoute` and its children if NATS cannot be reached."""
        connection = self._connection = acquire(self._identity, self._settings)
        try:
            await connection.open_within(self._settings.nats.startup_connect_timeout_s)
            await connection.listen(self._subject, self._received)
        except BaseException:
            self._connection = None
            await release(connection)
            raise
        self.address = f"nats://{self._subject}"

    async def expose(self, endpoint: Endpoint) -> None:
        """See `EndpointServer.expose`."""
        connection = self._connection
        if connection is None:
            raise Closed(self._subject, "the server was not started")
        await self._endpoints.expose(connection, endpoint)

    async def withdraw(self, name: str, grace_s: float = 0.0) -> None:
        """See `EndpointServer.withdraw`."""
        if self._connection is not None:
            await self._endpoints.withdraw(self._connection, name, grace_s)

    def _received(self, message: Msg) -> None:
        """Something came to the subject of this node."""
        connection = self._connection
        if connection is None or connection.links.take(message):
            return
        if message.data[:2] != HELLO or not is_inbox(connection.subjects, message.reply):
            self._statistics.garbage_connections += 1
            return
        try:
            hello = decode_hello(message.data)
            key = int(message.reply.rpartition(".")[2], 16)
        except ValueError as error:
            self._statistics.garbage_connections += 1
            self._answer(message.reply, encode_refusal(str(error)))
            return
        why = objection(self._identity, hello) or ("it is closing" if self._closing else "")
        if connection.links.knows(key):
            why = "there is a link of this key already"
        if why:
            self._statistics.handshakes_refused += 1
            self._answer(message.reply, encode_refusal(why))
            log.info("refused a link: %s", why)
        elif self._answer(message.reply, encode_hello(ACCEPTED, Hello(self._identity))):
            self._accept(connection, key, hello.identity, message.reply)

    def _answer(self, subject: str, frame: bytes) -> bool:
        assert self._connection is not None
        try:
            self._connection.publish(subject, frame)
        except TransportError:
            return False
        return True

    def _accept(self, connection: NatsConnection, key: int, peer: Identity, subject: str) -> None:
        before = self._links.get(peer.node)
        if before is not None and not before.is_leaving:  # it dials again because it has lost that one
            before.fail("the peer has dialled anew")
        address = peer.address or f"nats://{connection.subjects.node(peer.node)}"
        link = self._link(connection, key, peer, address, subject)
        self._links[peer.node] = link
        self._handler.link_up(link)

    def _forget(self, link: NatsLink) -> None:
        if self._links.get(link.peer.node) is link:
            del self._links[link.peer.node]

    async def _close(self) -> None:
        connection = self._connection
        if connection is not None:
            await self._endpoints.close(connection)
        await self._close_links()
        if connection is not None:
            connection.ignore(self._subject)  # not before: until then peers acknowledge what we send
            await release(connection)


class NatsClient(_Side):
    """Dials links; at most one per address."""

    def __init__(self, identity: Identity, handler: LinkHandler, settings: NetworkSettings) -> None:
        super().__init__(identity, handler, settings)
        self._links: dict[str, NatsLink] = {}
        self._dialler = Dialler(self._links.get, self._dial)
        self._idle = IdleCloser(settings, self._links.values, handler.link_idle)

    def __repr__(self) -> str:
        return f"<NatsClient {len(self._links)} links, {len(self._dialler)} attempts>"

    async def connect(self, address: str, *, node: str | None = None) -> NatsLink:
        """See `RequestPlaneClient.connect`."""
        if Address.parse(address).scheme != "nats":
            raise BadAddress(address, "this plane dials nats://")
        if not SUBJECT.fullmatch(Address.parse(address).place):
            raise BadAddress(address, "the subject of a node follows the scheme")
        return await self._dialler.connect(address, node)

    async def _dial(self, address: str, node: str | None) -> NatsLink:
        limit_s = self._settings.connect_timeout_s
        until_s = monotonic() + limit_s
        if self._connection is None:
            self._connection = acquire(self._identity, self._settings)
        connection = self._connection
        while True:
            try:
                await connection.open_within(max(0.001, until_s - monotonic()))
                link = await self._say_hello(connection, address, node, until_s)
            except Broken as error:  # the connection went while we waited: there will be another
                if monotonic() > until_s:
                    raise NoRoute(address, error.why) from None
            else:
                if link is not None:
                    return link
                if monotonic() > min(connection.returned_s + RETURN_S, until_s):
                    raise NoRoute(address, "nobody listens there")
            await asyncio.sleep(TRY_AGAIN_S)

    async def _say_hello(
        self, connection: NatsConnection, address: str, node: str | None, until_s: float
    ) -> NatsLink | None:
        """Return the link, or None if nobody listens at the address."""
        key = secrets.randbits(64)
        made: asyncio.Future[NatsLink | None] = asyncio.get_running_loop().create_future()

        def take(answer: bytes) -> None:  # at once: the peer may speak right behind its acceptance
            try:
                link = self._judge(connection, address, node, key, answer) if answer else None
            except TransportError as error:
                if not made.done():
                    made.set_exception(error)
                return
            if not made.done():
                made.set_result(link)
            elif link is not None:
                link.close()

        connection.links.dials[key] = take
        try:
            hello = encode_hello(HELLO, Hello(self._identity, expects=node or ""))
            connection.publish(Address.parse(address).place, hello, f"{connection.links.inbox}.{key:x}")
            async with asyncio.timeout(until_s - monotonic()):
                return await made
        except TimeoutError:
            if made.done() and not made.cancelled() and made.exception() is None:
                return made.result()  # it was in time, and this task is late
            limit_s = self._settings.connect_timeout_s
            raise ConnectTimeout(
                address,
                f"no handshake within {limit_s} s (network.connect_timeout_s, DYN_TCP_CONNECT_TIMEOUT)",
            ) from None
        finally:
            connection.links.dials.pop(key, None)

    def _judge(
        self, connection: NatsConnection, address: str, node: str | None, key: int, answer: bytes
    ) -> NatsLink:
        """Make the link of what came back to a hello. Raises `HandshakeRefused`."""
        if answer[:2] == REFUSED:
            self._statistics.handshakes_refused += 1
            raise HandshakeRefused(address, decode_reason(answer))
        try:
            if answer[:2] != ACCEPTED:
                raise Nonsense("neither an acceptance nor a refusal")
            hello = decode_hello(answer)
        except Nonsense as error:
            raise HandshakeRefused(address, str(error)) from None
        why = objection(self._identity, hello)
        if node and hello.identity.node != node:
            why = f"node {hello.identity.node} answered, {node} was expected"
        subject = Address.parse(address).place
        if why:
            self._statistics.handshakes_refused += 1
            farewell = pack_marks({})[0] + encode_goodbye(why)
            connection.publish(subject, pack(GOODBYE, 0, 0, 0, key, 0) + farewell)
            raise HandshakeRefused(address, why)
        link = self._link(connection, key, hello.identity, address, subject)
        before = self._links.get(address)
        self._links[address] = link
        if before is not None:
            before.close()
        self._idle.opened(link)
        return link

    def _forget(self, link: NatsLink) -> None:
        self._idle.closed(link)
        if self._links.get(link.address) is link:
            del self._links[link.address]

    async def _close(self) -> None:
        self._idle.close()
        await self._dialler.close()
        await self._close_links()
        if self._connection is not None:
            await release(self._connection)


class NatsPlane:
    """NATS: every process talks to a server, none to another process."""

    capabilities = Capabilities(
        scheme="nats",
        summary="NATS, one subject per actor",
        between_processes=True,
        between_hosts=True,
        notices_death=True,
        endpoints=True,
        durable=True,
    )

    def server(self, identity: Identity, handler: LinkHandler, settings: NetworkSettings) -> NatsServer:
        """See `Plane.server`."""
        return NatsServer(identity, handler, settings)

    def client(self, identity: Identity, handler: LinkHandler, settings: NetworkSettings) -> NatsClient:
        """See `Plane.client`."""
        return NatsClient(identity, handler, settings)

    def durable_store(self, identity: Identity, settings: NetworkSettings) -> NatsDurableStore:
        """See `DurablePlane`."""
        return NatsDurableStore(identity, settings)
