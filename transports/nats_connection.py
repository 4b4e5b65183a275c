"""The connection of one process to NATS, shared by its server and its clients.

It carries links, and a lost connection ends all of them: what was sent may have arrived or not, and nothing of it is
sent again. A new connection is made at once and listens on the same subjects; who dials meanwhile waits for it.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
from collections.abc import Callable, Coroutine
from time import monotonic
from typing import Any

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from . import nats_frames as wire
from .backoff import Backoff
from .base import Identity
from .errors import Broken, Closed, ConnectTimeout, NoRoute, TransportError
from .nats_beat import Beat
from .nats_client import Refused, abort, close, confirm, connect, drain, host_of, publish_now, where
from .nats_link import NatsLink
from .nats_links import NatsLinks
from .nats_subjects import Subjects
from .settings import NetworkSettings

ROOM_BYTES = 1024 * 1024
"""Waiting for the socket; links hold back what exceeds it."""
MOST_PIECE_BYTES = 1024 * 1024
LISTENS = 3
"""So often a subject is tried, if the connection is lost each time."""
# nats-py gives the text in lower case, subject included.
DENIED = re.compile(r'permissions violation for publish to "([^"]+)"')
LEAST_S = 0.05
"""No attempt to connect is given less."""
PENDING_LIMIT_BYTES = 256 * 1024 * 1024
"""Of one subscription, read and not yet handled. Links stay far below; strangers may not fill the memory."""
RETURN_S = 2.0
"""After a lost connection is back, a peer that nobody finds yet may be on its way back, too."""

log = logging.getLogger("callboard.transports.nats")

Handler = Callable[[Msg], None]


class NatsConnection:
    """One connection, and the subjects and links on it. Made by `acquire`, given back by `release`."""

    def __init__(self, identity: Identity, settings: NetworkSettings) -> None:
        self.identity = identity
        self.settings = settings
        self.subjects = Subjects(settings.nats.prefix, identity.namespace)
        self.links = NatsLinks(self, identity, self.subjects, settings)
        self.users = 0
        self.reconnects = 0
        self.returned_s = 0.0
        self.on_open: list[Callable[[], None]] = []
        """Called each time that a connection has been made, on the event loop."""
        self._most_bytes = 0
        self._client: Client | None = None
        self._loop = asyncio.get_running_loop()
        self._handlers: dict[str, tuple[str, Handler]] = {}
        """What we listen on: subject to queue group and handler; survives the connection."""
        self._subscriptions: dict[str, Subscription] = {}
        self._ready = asyncio.Event()
        self._opening: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._stalled: dict[NatsLink, None] = {}
        """Links that wait for room, in the order of their turns."""
        self._flushing = False
        self._beat: Beat | None = None
        self._closed = False

    def __repr__(self) -> str:
        state = f"to {host_of(self._client)}" if self.is_up and self._client else "down"
        return f"<NatsConnection of {self.identity.name} {state}, {len(self.links)} links>"

    @property
    def is_up(self) -> bool:
        """True while messages can be sent."""
        return self._client is not None and self._client.is_connected and not self._closed

    @property
    def client(self) -> Client:
        """The client of the moment. Raises `Broken` while there is none."""
        if self._client is None or not self.is_up:
            raise Broken(where(self.settings.nats), "the connection to NATS was lost")
        return self._client

    # -- life

    async def open(self, limit_s: float) -> None:
        """Return when there is a connection, making one if need be. Raises `NoRoute` and its children."""
        if self._closed:
            raise Closed(where(self.settings.nats), "the network of this process was closed")
        if self.is_up and self._ready.is_set():
            return
        if self._opening is None:
            self._opening = self._loop.create_task(self._open(limit_s))
            self._opening.add_done_callback(self._opened)
        try:
            async with asyncio.timeout(limit_s):
                await asyncio.shield(self._opening)
        except TimeoutError:
            raise ConnectTimeout(
                where(self.settings.nats), f"no connection to NATS within {limit_s:.3g} s"
            ) from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise Closed(where(self.settings.nats), "the network of this process was closed") from None

    async def open_within(self, limit_s: float) -> None:
        """Do what `open` does, and try again until ``limit_s`` is over: a NATS server may be about to start.

        Raises `Refused` at once, because that does not change by itself.
        """
        until_s = monotonic() + limit_s
        backoff, attempt = Backoff(0.05, 0.5), 0
        while True:
            try:
                return await self.open(max(0.001, until_s - monotonic()))
            except (Refused, Closed):
                raise
            except NoRoute as error:
                wait_s = backoff.delay_s(attempt, random.random())
                if until_s - monotonic() < wait_s + LEAST_S:
                    raise
                if not attempt:
                    log.warning("%s; trying for %.3g s", error, limit_s)
            attempt += 1
            await asyncio.sleep(wait_s)

    def _opened(self, task: asyncio.Task[None]) -> None:
        self._opening = None
        if not task.cancelled():
            task.exception()  # who waited has it

    async def _open(self, limit_s: float) -> None:
        client: Client | None = None

        async def lost() -> None:
            if client is not None and self._client is client:
                self.lose("the connection to NATS was lost")

        until_s = monotonic() + limit_s
        client = await connect(
            self.settings,
            self.identity.name,
            limit_s=limit_s,
            inbox=self.subjects.own(self.identity.node),
            closed=lost,
            failed=self._failed,
        )
        self._client = client
        self._most_bytes = min(client.max_payload, MOST_PIECE_BYTES) - wire.HEADER_BYTES
        try:
            self._handlers.setdefault(f"{self.links.inbox}.>", ("", self.links.answered))
            async with asyncio.timeout(max(LEAST_S, until_s - monotonic())):
                for subject, (queue, handler) in list(self._handlers.items()):
                    await self._subscribe(client, subject, queue, handler)
                await confirm(client)
        except (nats.errors.Error, OSError, TimeoutError) as error:
            self._client = None
            self._subscriptions.clear()
            await close(client)
            raise NoRoute(where(self.settings.nats), f"the connection broke at once: {error}") from None
        if self._beat is None:
            self._beat = Beat(self.settings, self.identity.name, self.subjects.alive(self.identity.node))
            self._beat.start()
            self.links.start()
        self._ready.set()
        for call in list(self.on_open):
            call()

    async def _failed(self, error: Exception) -> None:
        if isinstance(error, nats.errors.SlowConsumerError):
            log.error("messages were lost: this process was too slow for %s", error.subject)
            if self.subjects.carries_links(error.subject or ""):
                self.links.fail("messages were lost: this process was too slow to read them")
        else:
            log.warning("NATS: %s", str(error).removeprefix("nats: ") or type(error).__name__)
            if denied := DENIED.search(str(error)):
                self.links.denied(denied.group(1))

    def lose(self, why: str) -> None:
        """End all links, and make a new connection."""
        if not self._ready.is_set() or self._closed:
            return
        self._ready.clear()
        self._subscriptions.clear()
        client, self._client = self._client, None
        log.warning("%s (%s)", why, where(self.settings.nats))
        if client is not None:
            if client.is_connected:
                self.later(close(client))
            else:
                abort(client)
        self.links.fail(why)
        self.later(self._return())

    async def _return(self) -> None:
        backoff, attempt = Backoff(0.05, 0.5), 0
        while not self._closed:
            try:
                await self.open(max(1.0, self.settings.connect_timeout_s))
            except Exception as error:  # whatever it is, nobody else would try again
                if attempt % 20 == 5:
                    log.warning("still no connection to NATS: %s", error)
            else:
                self.reconnects += 1
                self.returned_s = monotonic()
                log.warning("connected to NATS again")
                return
            await asyncio.sleep(backoff.delay_s(attempt, random.random()))
            attempt += 1

    async def close(self) -> None:
        """Send what is queued, and disconnect."""
        self._closed = True
        self.links.stop()
        tasks = [task for task in (*self._tasks, self._opening) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        client, self._client = self._client, None
        if client is not None:
            await self._let_go(client)
            await close(client)
        if self._beat is not None:
            await self._beat.stop()

    async def _let_go(self, client: Client) -> None:
        """Wait until the server has what was sent: a socket that is closed with something unread takes it back."""
        try:
            await confirm(client, max(self.settings.linger_s, LEAST_S))
        except (nats.errors.Error, OSError) as error:
            log.debug("not sure that everything was sent: %s", error)

    def check(self) -> None:
        """See `Carrier`: nats-py says so only when it has closed, and it cannot while the server does not read."""
        if self._client is not None and not self._client.is_connected:
            self.lose("the connection to NATS was lost")

    def later(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine beside; it is cancelled when the connection is closed."""
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.debug("given up, because the connection went: %s", error)

    # -- in

    def hear(self, subject: str, handler: Handler) -> None:
        """See `Carrier`."""
        self._handlers[subject] = ("", handler)
        self.later(self._listen(subject))

    async def listen(self, subject: str, handler: Handler, *, queue: str = "") -> None:
        """Listen on a subject, on this connection and on those that follow; returns when the server knows it.

        Without a connection it waits for one, as long as a dial does. Raises `TransportError`.
        """
        self._handlers[subject] = (queue, handler)
        await self._listen(subject)

    async def _listen(self, subject: str) -> None:
        why = ""
        for _ in range(LISTENS):
            if not (self.is_up and self._ready.is_set()):
                await self.open_within(self.settings.connect_timeout_s)
            if subject in self._subscriptions or subject not in self._handlers:
                return
            client = self.client
            try:
                await self._subscribe(client, subject, *self._handlers[subject])
                await confirm(client)
                return
            except (nats.errors.Error, OSError) as error:  # it went meanwhile: the next one listens again
                why = str(error) or type(error).__name__
                self._subscriptions.pop(subject, None)
        raise Broken(where(self.settings.nats), f"{subject} could not be listened to: {why}")

    async def _subscribe(self, client: Client, subject: str, queue: str, handler: Handler) -> None:
        async def handle(message: Msg) -> None:
            try:
                handler(message)
            except Exception:
                log.exception("a message on %s could not be handled", message.subject)

        subscription = await client.subscribe(
            subject, queue=queue, cb=handle, pending_bytes_limit=PENDING_LIMIT_BYTES
        )
        if self._handlers.get(subject) == (queue, handler):
            self._subscriptions[subject] = subscription
        else:  # given up meanwhile
            await _unsubscribe(subscription)

    def ignore(self, subject: str) -> None:
        """Listen no more on a subject."""
        self._handlers.pop(subject, None)
        subscription = self._subscriptions.pop(subject, None)
        if subscription is not None and self.is_up:
            self.later(_unsubscribe(subscription))

    async def leave(self, subject: str, limit_s: float) -> None:
        """Listen no more on a subject; returns when what has come there was handled, or the server does not answer."""
        self._handlers.pop(subject, None)
        subscription = self._subscriptions.pop(subject, None)
        if subscription is None or not self.is_up:
            return
        try:
            async with asyncio.timeout(limit_s):
                await drain(self.client, subscription)
        except (nats.errors.Error, OSError, TimeoutError, TransportError) as error:
            log.debug("not sure that nothing more comes on %s: %s", subject, error)

    # -- out: Wire (and ``subjects``)

    @property
    def has_room(self) -> bool:
        """See `Wire`."""
        return self._client is None or self._client.pending_data_size < ROOM_BYTES

    @property
    def most_bytes(self) -> int:
        """See `Wire`."""
        return self._most_bytes

    def publish(
        self, subject: str, payload: bytes, reply: str = "", headers: dict[str, str] | None = None
    ) -> None:
        """See `Wire`."""
        client = self._client
        if client is None or not client.is_connected:
            raise Broken(where(self.settings.nats), "the connection to NATS was lost")
        try:
            publish_now(client, subject, payload, reply, headers)
        except nats.errors.Error as error:
            raise Broken(where(self.settings.nats), f"NATS: {error}") from None

    def stalled(self, link: NatsLink) -> None:
        """See `Wire`."""
        self._stalled[link] = None
        if not self._flushing:
            self._flushing = True
            self.later(self._make_room())

    async def _make_room(self) -> None:
        try:
            while self._stalled and self.is_up:
                try:
                    await confirm(self.client)
                except (nats.errors.Error, OSError, TransportError) as error:
                    log.debug("the NATS server does not read: %s", error)
                    await asyncio.sleep(0.05)
                for link in list(self._stalled):
                    if not self.has_room:
                        break
                    del self._stalled[link]  # it comes back at the end, if it has more
                    link.pump()
        finally:
            self._flushing = False


async def _unsubscribe(subscription: Subscription) -> None:
    try:
        await subscription.unsubscribe()
    except nats.errors.Error as error:
        log.debug("a subscription ended with its connection: %s", error)


_connections: dict[tuple[asyncio.AbstractEventLoop, str], NatsConnection] = {}


def acquire(identity: Identity, settings: NetworkSettings) -> NatsConnection:
    """Return the connection of a node, making it (unopened) for the first who asks."""
    key = (asyncio.get_running_loop(), identity.node)
    connection = _connections.get(key)
    if connection is None:
        connection = _connections[key] = NatsConnection(identity, settings)
    connection.users += 1
    return connection


async def release(connection: NatsConnection) -> None:
    """Give a connection back; the last one closes it."""
    connection.users -= 1
    if connection.users == 0:
        _connections.pop((asyncio.get_running_loop(), connection.identity.node), None)
        await connection.close()
