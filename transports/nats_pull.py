"""What one instance takes from a stream: pull requests on its behalf, and the messages that come back.

The reader asks for as many messages as it has room for, and asks again as it gets room. A request that nothing is heard
of (not even a heartbeat) is forgotten and made anew, and so is everything after a new connection.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Protocol

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error

from .durable import Delivery
from .errors import TransportError
from .nats_client import drain

EXPIRES_S = 30.0
HEARTBEAT_S = 5.0
SILENCE_S = 12.0
CLOSE_S = 1.0
GONE = ("404", "503")
"""No such consumer, and nobody to answer for it."""
AGAIN_S = 0.25
"""Before the next request after one that was refused."""

log = logging.getLogger("callboard.transports.nats")


class Reader(Protocol):
    """What a pull needs from its store."""

    @property
    def is_up(self) -> bool:
        """True while messages can be sent."""

    @property
    def client(self) -> Client:
        """The client of the moment. Raises `Broken` while there is none."""

    def publish(self, subject: str, payload: bytes, reply: str) -> None:
        """Send one message. Raises `Broken`."""

    def say(self, subject: str, payload: bytes) -> None:
        """Send one message now, or as soon as there is a connection."""

    def bury(self, message: NatsDelivery, why: str) -> None:
        """Store a dead letter, then end the delivery."""


class NatsDelivery:
    """One message from a stream: see `Delivery`."""

    __slots__ = (
        "_ack", "_reader", "component", "count", "message_id", "payload", "sequence", "stored_at_s", "subject",
    )  # fmt: skip

    def __init__(self, reader: Reader, component: str, message: Msg) -> None:
        """Raises `nats.errors.Error` if it is not from a stream."""
        facts = message.metadata
        self.component = component
        self.payload = message.data
        self.sequence = facts.sequence.stream
        self.count = facts.num_delivered
        self.message_id = (message.headers or {}).get("Nats-Msg-Id", "")
        self.stored_at_s = facts.timestamp.timestamp()
        self.subject = message.subject
        self._ack = message.reply
        self._reader = reader

    def __repr__(self) -> str:
        return f"<NatsDelivery {self.count} of message {self.sequence} to {self.component}>"

    def done(self) -> None:
        """See `Delivery`."""
        self._reader.say(self._ack, Msg.Ack.Ack)

    def again(self, delay_s: float) -> None:
        """See `Delivery`."""
        delay = b' {"delay": %d}' % int(delay_s * 1e9) if delay_s > 0 else b""
        self._reader.say(self._ack, Msg.Ack.Nak + delay)

    def busy(self) -> None:
        """See `Delivery`."""
        with suppress(TransportError):  # it is worth nothing later
            self._reader.publish(self._ack, Msg.Ack.Progress, "")

    def dead(self, why: str) -> None:
        """See `Delivery`."""
        self._reader.bury(self, why)

    def end(self) -> None:
        """It is kept elsewhere: deliver it no more."""
        self._reader.say(self._ack, Msg.Ack.Term)


class NatsPull:
    """Pulls from one consumer."""

    def __init__(
        self,
        reader: Reader,
        component: str,
        next_subject: str,
        inbox: str,
        take: Callable[[Delivery], None],
        lost: Callable[[bool], None],
    ) -> None:
        """``lost`` is called when the server serves no more requests, with True if the consumer is gone."""
        self._reader = reader
        self._component = component
        self._next = next_subject
        self._inbox = inbox
        self._take, self._lost = take, lost
        self._numbers = itertools.count(1)
        self._open: dict[int, int] = {}
        """Requests that the server has, and how many messages each may still bring."""
        self._free, self._most = 0, 1
        self._heard_s = self._refused_s = 0.0
        self._subscription: Subscription | None = None
        self._client: Client | None = None
        """Whose subscription it is."""
        self._closed = self._is_lost = False
        self.failures = 0
        """Attempts to open it that failed since the last one that did not."""

    def __repr__(self) -> str:
        return f"<NatsPull {self._next} wants {self._free}, asked for {sum(self._open.values())}>"

    async def open(self) -> None:
        """Begin to listen, or begin anew. Raises `nats.errors.Error`, `TransportError`."""
        self._open.clear()
        self._refused_s = 0.0
        self._is_lost = False
        client = self._reader.client
        if not self._closed and client is not self._client:
            self._client = client
            self._subscription = await client.subscribe(f"{self._inbox}.*", cb=self._received)
        self.want(self._free, self._most)

    def want(self, free: int, most: int) -> None:
        """See `Intake`."""
        self._free, self._most = free, most
        missing = free - sum(self._open.values())
        if self._closed or self._subscription is None or missing <= 0 or not self._reader.is_up:
            return
        if self._is_lost:
            return  # it asks when it has been opened again
        if self._open and missing * 2 < most:
            return  # few requests for many messages, rather than one for each
        if monotonic() - self._refused_s < AGAIN_S:
            return  # the next tick asks
        number = next(self._numbers)
        request = {
            "batch": missing,
            "expires": int(EXPIRES_S * 1e9),
            "idle_heartbeat": int(HEARTBEAT_S * 1e9),
        }
        try:
            self._reader.publish(self._next, json.dumps(request).encode(), f"{self._inbox}.{number}")
        except TransportError:
            return  # the next connection asks
        self._open[number] = missing
        self._heard_s = monotonic()

    async def _received(self, message: Msg) -> None:
        self._heard_s = monotonic()
        headers = message.headers or {}
        if (status := headers.get("Status")) is not None:
            number = message.subject.rpartition(".")[2]  # a message from the stream keeps its own subject
            self._ended(int(number), status, headers.get("Description", ""))
            return
        for request, left in self._open.items():  # they are served in turn
            if left > 1:
                self._open[request] = left - 1
            else:
                del self._open[request]
            break
        self._free -= 1
        try:
            delivery = NatsDelivery(self._reader, self._component, message)
        except Error:
            log.warning("a message on %s is from no stream", message.subject)
            return
        try:
            self._take(delivery)
        except Exception:  # it will be delivered again
            log.exception("message %d to %s could not be taken", delivery.sequence, self._component)

    def _ended(self, number: int, status: str, why: str) -> None:
        if status == "100":  # a heartbeat
            return
        self._open.pop(number, None)
        if status != "408":  # not just its time
            self._refused_s = monotonic()
            log.warning("deliveries to %s stopped: %s %s", self._component, status, why or "no such consumer")
            self._is_lost = True
            self._lost(status in GONE or "deleted" in why.lower())
        self.want(self._free, self._most)

    def tick(self, now: float) -> None:
        """Forget requests that nothing is heard of, and ask anew."""
        if self._open and now - self._heard_s > SILENCE_S:
            self._open.clear()
        if not self._open:
            self.want(self._free, self._most)

    async def close(self) -> None:
        """Take no more; what the server had sent before is delivered when this returns."""
        self._closed = True
        subscription, self._subscription = self._subscription, None
        if subscription is None or not self._reader.is_up:
            return
        try:
            async with asyncio.timeout(CLOSE_S):
                await drain(self._reader.client, subscription)
        except (Error, OSError, TimeoutError, TransportError) as error:
            log.debug("a pull ended with its connection: %s", error)


class Intake:
    """One instance's way to its messages: those for whichever is free, and its own. See `durable.Intake`."""

    def __init__(self, forget: Callable[[NatsPull], None]) -> None:
        self._forget = forget
        self.pulls: list[NatsPull] = []

    def want(self, free: int, most: int) -> None:
        """See `durable.Intake`: each of both may bring so many; who receives has room for twice that."""
        for pull in self.pulls:
            pull.want(free, most)

    async def close(self) -> None:
        """See `durable.Intake`."""
        pulls, self.pulls = self.pulls, []
        await asyncio.gather(*(pull.close() for pull in pulls))
        for pull in pulls:
            self._forget(pull)
