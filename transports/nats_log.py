"""The log of one component: a JetStream stream, and what this process has written to it and not yet heard of.

Messages leave in the order given. What is not acknowledged is sent again in that order, under the same message id,
after a new connection, a full stream or a long silence; within the duplicate window the server stores it once.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from time import monotonic
from typing import Any, Protocol

import nats.errors
from nats.aio.client import Client
from nats.js import JetStreamContext, api
from nats.js.errors import APIError, NotFoundError, ServiceUnavailableError

from .durable import DurablePolicy
from .errors import NotStored, StoredTooLarge, TransportError

WINDOW = 512
WINDOW_BYTES = 8 * 1024 * 1024
"""What is on its way to the server and not acknowledged."""
RESEND_S = 5.0
API_S = 5.0
DEAD = "_dead"
"""Last token of the subject of dead letters."""
MAX_PAYLOAD = "max_payload of the NATS server"
FULL = (10077, 10023, 10047)
"""Error codes of JetStream: maximum bytes, insufficient resources, storage exceeded."""
NO_JETSTREAM = (
    "JetStream is off there: start the nats-server with -js, or put a jetstream block into its config"
)

log = logging.getLogger("callboard.transports.nats")


class Writer(Protocol):
    """What a log needs from its store."""

    @property
    def is_up(self) -> bool:
        """True while messages can be sent."""

    @property
    def client(self) -> Client:
        """The client of the moment. Raises `Broken` while there is none."""

    def publish(
        self, subject: str, payload: bytes, reply: str, headers: dict[str, str] | None = None
    ) -> None:
        """Send one message. Raises `Broken`."""

    def forget_said(self) -> None:
        """A stream is new: what was acknowledged before was of another, and must not be said again."""

    def later(self, work: Any) -> asyncio.Task[None]:
        """Run a coroutine beside; it is cancelled when the store is closed."""


class Item:
    """One message on its way into the log."""

    __slots__ = (
        "deadline",
        "future",
        "headers",
        "maybe",
        "number",
        "payload",
        "reply",
        "sent_s",
        "size",
        "subject",
        "was_sent",
    )

    def __init__(
        self, number: int, subject: str, payload: bytes, headers: dict[str, str], reply: str, deadline: float
    ) -> None:
        self.number = number
        self.subject = subject
        self.payload = payload
        self.headers = headers
        self.reply = reply
        self.deadline = deadline
        self.size = wire_size(payload, headers)
        self.sent_s = 0.0
        """When it was sent and may yet be acknowledged; 0 while it waits."""
        self.was_sent = self.maybe = False
        """``maybe``: it was sent before, and nobody heard what came of it."""
        self.future: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def fail(self, error: TransportError) -> None:
        """Tell whoever waits for it, if anybody does."""
        if not self.future.done():
            self.future.set_exception(error)


def wire_size(payload: bytes, headers: dict[str, str]) -> int:
    """The bytes that count for the server's limit: the headers are part of them."""
    return len(payload) + 14 + sum(len(name) + len(value.encode()) + 4 for name, value in headers.items())


class NatsLog:
    """Writes to the stream of one component, and makes it."""

    def __init__(
        self, writer: Writer, component: str, stream: str, subject: str, policy: DurablePolicy
    ) -> None:
        self.component, self.stream, self.policy = component, stream, policy
        self._writer = writer
        self._subject = subject
        """All of its subjects."""
        self._items: dict[int, Item] = {}
        """All that is not settled, in order."""
        self._waiting: deque[Item] = deque()
        self._out = self._out_bytes = 0
        self._ready = False
        self._work: asyncio.Task[None] | None = None
        self._why = ""

    def __repr__(self) -> str:
        return f"<NatsLog {self.stream} {'ready' if self._ready else 'not ready'}, {len(self._items)} open>"

    @property
    def open(self) -> list[asyncio.Future[int]]:
        """What has not been settled."""
        return [item.future for item in self._items.values()]

    def add(self, item: Item) -> asyncio.Future[int]:
        """Write a message."""
        self._items[item.number] = item
        self._waiting.append(item)
        item.future.add_done_callback(lambda _: self._settled(item))
        self._pump()
        return item.future

    def _settled(self, item: Item) -> None:
        del self._items[item.number]
        self._taken_back(item)
        self._pump()

    def _taken_back(self, item: Item) -> None:
        if item.sent_s:
            item.sent_s = 0.0
            self._out -= 1
            self._out_bytes -= item.size

    def opened(self) -> None:
        """There is a new connection: nothing that is on its way will be acknowledged."""
        self._ready = False
        self._unheard()

    def _unheard(self) -> None:
        for item in self._items.values():
            item.maybe = item.was_sent
        self._again()

    def _again(self) -> None:
        """Send everything once more, in order."""
        for item in self._items.values():
            self._taken_back(item)
        self._waiting = deque(item for item in self._items.values() if not item.future.done())
        self._pump()

    def _pump(self) -> None:
        if not self._waiting or self._work is not None or not self._writer.is_up:
            return
        if not self._ready:
            self._begin(self._prepare_and_note())
            return
        waiting, now = self._waiting, monotonic()
        while waiting and self._out < WINDOW and self._out_bytes < WINDOW_BYTES:
            item = waiting.popleft()
            if item.future.done():
                continue
            try:
                self.check(item.size)
                self._writer.publish(item.subject, item.payload, item.reply, item.headers)
            except StoredTooLarge as error:
                item.fail(error)
                continue
            except TransportError as error:
                self._why = str(error)
                waiting.appendleft(item)
                return
            item.sent_s, item.was_sent = now, True
            self._out += 1
            self._out_bytes += item.size

    def check(self, size: int) -> None:
        """Raise `StoredTooLarge` if one message of so many bytes cannot be stored, as far as that is known."""
        if self.policy.max_bytes and size > self.policy.max_bytes:  # no room that could be made would do
            raise StoredTooLarge(size, self.policy.max_bytes, "durable.max_bytes")
        if self._writer.is_up and size > (limit := self._writer.client.max_payload):
            raise StoredTooLarge(size, limit, MAX_PAYLOAD)

    def acknowledged(self, number: int, data: bytes, is_nobody: bool) -> None:
        """The server has answered to a message; ``is_nobody``: there is no stream."""
        item = self._items.get(number)
        if item is None or item.future.done():
            return
        try:
            answer = {} if is_nobody else json.loads(data)
            error = answer.get("error")
            if error is None and not is_nobody:
                item.future.set_result(int(answer["seq"]))
                return
        except (ValueError, KeyError, TypeError, AttributeError):
            item.fail(NotStored(self.component, f"the server answered {data[:200]!r}", maybe=True))
            return
        code, text = (
            (error or {}).get("err_code"),
            str((error or {}).get("description", "there is no stream")),
        )
        if not item.sent_s:
            return  # it waits to be sent again already
        self._why = text
        if code in FULL:
            self._begin(self._make_room())
        elif is_nobody or (error or {}).get("code") == 503:
            self._ready = False
            self._taken_back(item)  # the next tick tries again
        else:
            item.fail(NotStored(self.component, f"JetStream: {text}", maybe=item.maybe))

    def tick(self, now: float) -> None:
        """Look for what is too late."""
        oldest = now
        for item in list(self._items.values()):
            if item.deadline < now:
                why = f"no acknowledgement before its deadline{f' ({self._why})' if self._why else ''}"
                item.fail(NotStored(self.component, why, maybe=item.was_sent))
            elif item.sent_s:
                oldest = min(oldest, item.sent_s)
        if oldest < now - RESEND_S:
            self._unheard()
        elif self._items and not self._ready and self._work is None:
            self._again()

    # -- the stream

    def _begin(self, work: Any) -> None:
        if self._work is not None:
            work.close()
            return
        self._work = self._writer.later(work)
        self._work.add_done_callback(self._worked)

    def _worked(self, task: asyncio.Task[None]) -> None:
        self._work = None
        if not task.cancelled() and task.exception() is None and self._ready:
            self._again()

    async def _prepare_and_note(self) -> None:
        try:
            await self.prepare()
        except NotStored as error:  # it will not be better the next time
            for item in list(self._items.values()):
                item.fail(NotStored(self.component, error.why, maybe=item.was_sent))
        except TransportError as error:
            self._why = str(error)
            await asyncio.sleep(0.1)

    async def prepare(self) -> None:
        """Make the stream, or make the one that is there fit the policy. Raises `TransportError`."""
        policy, js = self.policy, self._writer.client.jetstream(timeout=API_S)
        wanted: dict[str, Any] = {
            "subjects": [self._subject],
            "retention": api.RetentionPolicy.LIMITS,
            "storage": api.StorageType.FILE,
            "discard": api.DiscardPolicy.NEW,
            "max_age": policy.max_age_s,
            "max_bytes": policy.max_bytes or -1,
            "duplicate_window": policy.duplicate_window_s,
        }
        try:
            try:
                there = (await js.stream_info(self.stream)).config
            except NotFoundError:
                await js.add_stream(api.StreamConfig(name=self.stream, **wanted))
                self._writer.forget_said()
            else:  # replicas and placement are the administrator's
                fitting = there.evolve(**wanted)
                if fitting != there:
                    await js.update_stream(fitting)
        except APIError as error:
            raise self.judged(error) from None
        except (nats.errors.Error, OSError, TimeoutError) as error:
            raise NotReady(self.stream, str(error) or type(error).__name__) from None
        self._ready = True

    def judged(self, error: APIError) -> TransportError:
        """What an answer of JetStream means: `NotStored` if there is no use in trying again."""
        if isinstance(error, ServiceUnavailableError):
            return NotReady(self.stream, error.description or NO_JETSTREAM)
        return NotStored(self.component, f"JetStream refuses the stream {self.stream}: {error.description}")

    async def _make_room(self) -> None:
        """Drop the older half of what was handled, and old dead letters; without any, refuse what was to be written."""
        js = self._writer.client.jetstream(timeout=API_S)
        try:
            dropped = await self._drop_handled(js)
            dropped = await self._drop_dead(js, dropped) or dropped
        except (nats.errors.Error, OSError, TimeoutError) as error:
            self._why = str(error)
            return
        if not dropped:
            for item in [item for item in self._items.values() if item.sent_s]:
                item.fail(LogFull(self.component, self._full(), maybe=item.maybe))

    def _full(self) -> str:
        limit = f"max_bytes is {self.policy.max_bytes:,}" if self.policy.max_bytes else self._why
        return (
            f"its log is full ({limit}) and nothing in it was handled that lies before the oldest message that is not;"
            " have that one handled, or raise durable.max_bytes"
        )

    async def _drop_handled(self, js: JetStreamContext) -> bool:
        dropped, seen = False, 0
        while page := await js.consumers_info(self.stream, offset=seen):
            seen += len(page)
            for consumer in page:  # the server tells no more than where the first unacknowledged one lies
                done = consumer.ack_floor.stream_seq if consumer.ack_floor else 0
                subject = consumer.config.filter_subject
                first = await first_sequence(js, self.stream, subject)
                if first is not None and first <= done:
                    await js.purge_stream(self.stream, seq=(first + done) // 2 + 1, subject=subject)
                    dropped = True
        return dropped

    async def _drop_dead(self, js: JetStreamContext, has_room: bool) -> bool:
        """Those in the older half of the log; without room the older half of them, wherever they lie."""
        subject = self._subject.removesuffix(">") + DEAD
        first = await first_sequence(js, self.stream, subject)
        if first is None:
            return False
        state = (await js.stream_info(self.stream)).state
        middle = ((state.first_seq if has_room else first) + state.last_seq) // 2
        if first > middle:
            return False
        await js.purge_stream(self.stream, seq=middle + 1, subject=subject)
        log.warning(
            "the log of %s is full: dead letters up to number %d were dropped", self.component, middle
        )
        return True


class LogFull(NotStored):
    """There is no room in a log, and none can be made."""


class NotReady(TransportError):
    """A stream cannot be used now; it may be later."""

    def __init__(self, stream: str, why: str) -> None:
        self.stream, self.why = stream, why
        super().__init__(f"the JetStream stream {stream} cannot be used: {why}")

    def __reduce__(self) -> tuple[type[NotReady], tuple[str, str]]:
        return type(self), (self.stream, self.why)


def judged(stream: str, error: Exception) -> TransportError:
    """What an error of a request to JetStream means to who may try again."""
    if isinstance(error, ServiceUnavailableError):
        return NotReady(stream, error.description or NO_JETSTREAM)
    if isinstance(error, APIError):
        return NotReady(stream, error.description or str(error))
    return NotReady(stream, str(error) or type(error).__name__)


async def first_sequence(js: JetStreamContext, stream: str, subject: str | None) -> int | None:
    """Sequence of the first message of a subject, None without one."""
    try:
        return (await js.get_msg(stream, seq=1, subject=subject, next=True)).seq
    except NotFoundError:
        return None
