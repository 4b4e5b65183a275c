"""Durable messages on JetStream: a stream for each component, pulled by its instances.

Of a component ``c``, below ``{prefix}.{namespace}._durable.{c}``, in the stream ``{prefix}-{namespace}-{c}``:

==========  ========================================  ============================
subject     what is in it                             consumer
==========  ========================================  ============================
``._``      messages for whichever instance is free   ``any``, shared by all
``.{i}``    messages for one instance                 ``only-{i}``, of its own
``._dead``  dead letters                              none; for people and replay
==========  ========================================  ============================

Consumers have no limit of deliveries: the server would drop a message beyond it without a trace. The limit of the
policy is held by who receives: it stores a dead letter, and then ends the message.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from time import monotonic
from typing import Any

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext, api

from .backoff import Backoff
from .base import Identity
from .durable import Delivery, DurablePolicy, StoredMessage
from .errors import Closed, NotStored, TransportError
from .nats_connection import NatsConnection, acquire, release
from .nats_history import NatsHistory
from .nats_log import API_S, DEAD, Item, LogFull, NatsLog, judged, wire_size
from .nats_pull import Intake, NatsDelivery, NatsPull
from .nats_subjects import Subjects, token
from .settings import NetworkSettings

TICK_S = 0.1
AGAIN = Backoff(0.1, 5.0)
"""Between attempts to make a consumer."""
QUIET_S = 30.0
"""Between two lines that say that it could not be made."""
BURY_S = 60.0
BURY_AGAIN_S = 5.0
MOST_UNACKED = 65_536
MOST_REQUESTS = 8_192
WHY_CHARS = 500
SAID = 4096
SURE_S = 1.0
"""Beyond the time after which a silent connection counts as lost."""
ENDINGS = (Msg.Ack.Ack, Msg.Ack.Term)

log = logging.getLogger("callboard.transports.nats")


class NatsDurableStore:
    """The logs of a system, as one node sees them; on the node's one connection to NATS."""

    def __init__(self, identity: Identity, settings: NetworkSettings) -> None:
        self._identity, self._settings = identity, settings
        self._subjects = Subjects(settings.nats.prefix, identity.namespace)
        self._inbox = self._subjects.stored(identity.node)
        self._connection: NatsConnection | None = None
        self._policies: dict[str, DurablePolicy] = {}
        self._logs: dict[str, NatsLog] = {}
        self._logs_by_token: dict[str, NatsLog] = {}
        self._pulls: dict[NatsPull, Callable[[], Any]] = {}
        """Each with what makes its consumer."""
        self._lost: set[NatsPull] = set()
        self._numbers = itertools.count(1)
        self._unsaid: list[tuple[str, bytes]] = []
        self._said: deque[tuple[float, str, bytes]] = deque(maxlen=SAID)
        """The last endings that were sent, and when: a connection that breaks may not have carried them."""
        self._up_s = 0.0
        self._seen: Client | None = None
        """When the connection was up last, and which it was."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._opening: asyncio.Task[None] | None = None
        self._was_up = False
        self._closed = self._ended = False
        self._dead = 0
        self._quiet_until_s = 0.0
        self._history = NatsHistory(self._subjects, self._js)

    def __repr__(self) -> str:
        return (
            f"<NatsDurableStore of {self._identity.name}, {len(self._logs)} logs, {len(self._pulls)} pulls>"
        )

    def statistics(self) -> dict[str, int]:
        """See `DurableStore`."""
        waiting = sum(len(entry.open) for entry in self._logs.values())
        return {"not_stored_yet": waiting, "dead_letters": self._dead, "unsaid": len(self._unsaid)}

    # -- the connection

    @property
    def is_up(self) -> bool:
        """See `Writer`."""
        return self._connection is not None and self._connection.is_up

    @property
    def client(self) -> Client:
        """See `Writer`."""
        return self._used().client

    def publish(
        self, subject: str, payload: bytes, reply: str, headers: dict[str, str] | None = None
    ) -> None:
        """See `Writer`."""
        self._used().publish(subject, payload, reply, headers)

    def say(self, subject: str, payload: bytes) -> None:
        """See `Reader`: an acknowledgement is as good on the next connection, and no worse when it comes twice."""
        try:
            self._used().publish(subject, payload)
        except TransportError:
            self._unsaid.append((subject, payload))
        else:
            if payload in ENDINGS:
                self._said.append((monotonic(), subject, payload))

    def forget_said(self) -> None:
        """See `Writer`."""
        self._said.clear()

    def later(self, work: Any) -> asyncio.Task[None]:
        """See `Writer`."""
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _used(self) -> NatsConnection:
        if self._connection is None:
            if self._closed:
                raise Closed(self._inbox, "this node was closed")
            self._connection = acquire(self._identity, self._settings)
            self._connection.on_open.append(self._opened)
            self.later(self._run(self._connection))
        return self._connection

    async def _run(self, connection: NatsConnection) -> None:
        with suppress(
            nats.errors.Error, OSError, TimeoutError, TransportError
        ):  # the next connection listens
            await connection.listen(f"{self._inbox}.*", self._acknowledged)
        if connection.is_up:
            self._opened()
        while not self._ended:  # a cancellation may be lost in nats-py, as it is in asyncio.wait_for
            if (
                not connection.is_up and self._opening is None and not self._was_up
            ):  # then it comes back by itself
                self._opening = self.later(self._open(connection))
            now = monotonic()
            if connection.is_up and connection.client is self._seen:
                self._up_s = now
            for entry in self._logs.values():
                entry.tick(now)
            for pull in list(self._pulls):
                if pull in self._lost and connection.is_up:
                    self._lost.discard(pull)
                    self.later(self._reopen(pull, self._pulls[pull]))
                pull.tick(now)
            await asyncio.sleep(TICK_S)

    async def _open(self, connection: NatsConnection) -> None:
        try:
            with suppress(TransportError):  # the next tick tries again
                await connection.open(max(1.0, self._settings.connect_timeout_s))
        finally:
            self._opening = None

    def _opened(self) -> None:
        self._was_up = True
        least_s = self._up_s - self._settings.heartbeat_timeout_s - SURE_S  # what was said before has arrived
        recent = [(subject, payload) for said_s, subject, payload in self._said if said_s >= least_s]
        unsaid, self._unsaid = [*recent, *self._unsaid], []
        self._said.clear()
        self._up_s, self._seen = monotonic(), self.client if self.is_up else None
        for subject, payload in unsaid:
            self.say(subject, payload)
        for entry in self._logs.values():
            entry.opened()
        for pull, prepare in self._pulls.items():
            self.later(self._reopen(pull, prepare))

    async def _reopen(self, pull: NatsPull, prepare: Callable[[], Any]) -> None:
        """The server may have come back without its store, or without this consumer."""
        try:
            await prepare()
            await pull.open()
            pull.failures = 0
        except (nats.errors.Error, OSError, TimeoutError, TransportError) as error:
            if monotonic() > self._quiet_until_s:  # all instances have the same to say
                self._quiet_until_s = monotonic() + QUIET_S
                log.warning("no deliveries yet: %s", error)
            await asyncio.sleep(AGAIN.delay_s(pull.failures, random.random()))
            pull.failures += 1
            if pull in self._pulls:
                self._lost.add(pull)

    async def _js(self) -> JetStreamContext:
        """JetStream, waiting for a connection if need be. Raises `TransportError`."""
        connection = self._used()
        await connection.open(max(1.0, self._settings.nats.startup_connect_timeout_s))
        return connection.client.jetstream(timeout=API_S)

    # -- writing

    def declare(self, component: str, policy: DurablePolicy) -> None:
        """See `DurableStore`."""
        self._policies[component] = policy
        if component in self._logs:
            self._logs[component].policy = policy

    def store(
        self, component: str, instance: int | None, payload: bytes, message_id: str, deadline: float
    ) -> asyncio.Future[int]:
        """See `DurableStore`."""
        return self._add(component, instance, payload, {"Nats-Msg-Id": message_id}, deadline)

    def _add(
        self,
        component: str,
        place: int | str | None,
        payload: bytes,
        headers: dict[str, str],
        deadline: float,
    ) -> asyncio.Future[int]:
        if self._closed:  # nobody would say that its deadline has passed
            raise NotStored(component, "this node was closed")
        entry = self._log(component)
        entry.check(wire_size(payload, headers))
        number = next(self._numbers)
        reply = f"{self._inbox}.{number}-{token(component)}"
        subject = self._subjects.durable(component, place)
        return entry.add(Item(number, subject, payload, headers, reply, deadline))

    def _log(self, component: str) -> NatsLog:
        self._used()
        found = self._logs.get(component)
        if found is None:
            subjects = self._subjects
            found = self._logs[component] = self._logs_by_token[token(component)] = NatsLog(
                self,
                component,
                subjects.stream(component),
                subjects.durable(component, ">"),
                self._policies.get(component, DurablePolicy()),
            )
        return found

    def _acknowledged(self, message: Msg) -> None:
        number, _, name = message.subject.rpartition(".")[2].partition("-")
        is_nobody = (message.headers or {}).get("Status") == "503"
        entry = self._logs_by_token.get(name)
        if entry is not None and number.isdecimal():
            entry.acknowledged(int(number), message.data, is_nobody)

    def bury(self, message: NatsDelivery, why: str) -> None:
        """See `Reader`."""
        self.later(self._bury(message, why))

    async def _bury(self, message: NatsDelivery, why: str) -> None:
        headers = {
            "Nats-Msg-Id": f"dead-{message.sequence}",
            "Callboard-Subject": message.subject,
            "Callboard-Sequence": str(message.sequence),
            "Callboard-Message-Id": message.message_id,
            "Callboard-Deliveries": str(message.count),
            "Callboard-Reason": " ".join(why.split())[:WHY_CHARS]
            .encode("ascii", "backslashreplace")
            .decode(),
        }
        deadline = monotonic() + BURY_S
        try:
            try:
                stored = self._add(message.component, DEAD, message.payload, headers, deadline)
            except TransportError:  # too large with these headers: its sequence says where it is
                stored = self._add(message.component, DEAD, b"", headers, deadline)
            await stored
        except LogFull as error:  # coming again, it would hold fast all that was handled after it
            log.error("message %d is dead and has no copy, only itself: %s", message.sequence, error)
        except TransportError as error:
            log.error("a dead letter could not be stored: %s", error)
            message.again(BURY_AGAIN_S)
            return
        self._dead += 1
        message.end()

    # -- reading

    async def receive(self, component: str, instance: int | None, take: Callable[[Delivery], None]) -> Intake:
        """See `DurableStore`."""
        await self._js()
        places = [None] if instance is None else [None, instance]
        intake = Intake(self.forget)
        try:
            for place in places:
                await self._pull(component, place, take, intake.pulls)
        except BaseException:
            await intake.close()
            raise
        return intake

    async def _pull(
        self,
        component: str,
        instance: int | None,
        take: Callable[[Delivery], None],
        pulls: list[NatsPull],
    ) -> None:
        stream, name = self._subjects.stream(component), "any" if instance is None else f"only-{instance}"

        async def prepare() -> None:
            await self._prepare(component, stream, name, self._subjects.durable(component, instance))

        await prepare()
        pull = NatsPull(
            self,
            component,
            f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{name}",
            f"{self._subjects.pull(self._identity.node)}.{next(self._numbers)}",
            take,
            lost=lambda is_gone: self._consumer_lost(pull, is_gone),
        )
        self._pulls[pull] = prepare
        pulls.append(pull)
        await pull.open()

    async def _prepare(self, component: str, stream: str, name: str, subject: str) -> None:
        entry = self._log(component)
        js = await self._js()
        await entry.prepare()
        config = api.ConsumerConfig(
            name=name,
            durable_name=name,
            deliver_policy=api.DeliverPolicy.ALL,
            ack_policy=api.AckPolicy.EXPLICIT,
            ack_wait=entry.policy.ack_wait_s,
            max_deliver=-1,
            filter_subject=subject,
            max_ack_pending=MOST_UNACKED,
            max_waiting=MOST_REQUESTS,
        )
        try:
            await js.add_consumer(stream, config)
        except (nats.errors.Error, OSError, TimeoutError) as error:
            raise judged(stream, error) from None

    def _consumer_lost(self, pull: NatsPull, is_gone: bool) -> None:
        self._lost.add(pull)
        if is_gone:
            self.forget_said()

    def forget(self, pull: NatsPull) -> None:
        """This pull is closed."""
        self._pulls.pop(pull, None)
        self._lost.discard(pull)

    # -- history

    async def bounds(self, component: str) -> tuple[int, int]:
        """See `DurableStore`."""
        return await self._history.bounds(component)

    async def sequence_at(self, component: str, since_s: float) -> int:
        """See `DurableStore`."""
        return await self._history.sequence_at(component, since_s)

    def history(
        self, component: str, first: int, last: int, *, dead: bool = False
    ) -> AsyncIterator[StoredMessage]:
        """See `DurableStore`."""
        return self._history.messages(component, first, last, dead=dead)

    # -- the end

    async def close(self) -> None:
        """See `DurableStore`."""
        if self._closed:
            return
        self._closed = True
        connection = self._connection
        if connection is None:
            return
        if waiting := [future for entry in self._logs.values() for future in entry.open]:
            await asyncio.wait(waiting, timeout=self._settings.linger_s)
        for future in [future for entry in self._logs.values() for future in entry.open]:
            if not future.done():
                future.set_exception(
                    NotStored("a closed process", "it ended before the message was stored", True)
                )
        self._ended = True
        await asyncio.gather(*(pull.close() for pull in self._pulls))
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        connection.on_open.remove(self._opened)
        connection.ignore(f"{self._inbox}.*")
        self._connection = None
        await release(connection)
