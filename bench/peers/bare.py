"""The best bare design: all envelopes of a turn of the loop as one encoded list, sent at once when 64 wait.

No supervision, deadlines, credit of asks or errors: what is left when everything but the work itself is taken away.
The transport below it sends and receives frames: a head, and for large messages a body that is not copied.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from time import perf_counter
from typing import Any

import msgspec

from ..measuring import Client
from ..payloads import MESSAGES

ASK, REPLY, TELL, COUNT, OPEN, ITEMS, END, BIG, CREDIT = range(9)
CHUNK = 64
RECORD_ITEMS = 256
WINDOW_ITEMS = 4096

encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder().decode

Send = Callable[[bytes, Any], None]
Record = list[Any]


class Side:
    """What both ends share: the outbox."""

    def __init__(self, send: Send) -> None:
        self.loop = asyncio.get_running_loop()
        self.send = send
        self.out: list[tuple[int, int, Any]] = []
        self.is_due = False

    def post(self, kind: int, number: int, body: Any) -> None:
        """Send with the others of this turn of the loop."""
        self.out.append((kind, number, body))
        if not self.is_due:
            self.is_due = True
            self.loop.call_soon(self._flush)
        elif len(self.out) >= CHUNK:
            self._send_out()

    def _flush(self) -> None:
        self.is_due = False
        if self.out:
            self._send_out()

    def _send_out(self) -> None:
        out, self.out = self.out, []
        self.send(encode(out), None)


class Server(Side):
    """One actor: a task with a deque and one wake-up."""

    def __init__(self, send: Send) -> None:
        super().__init__(send)
        self.told = 0
        self.mail: deque[Record] = deque()
        self.waiter: asyncio.Future[None] | None = None
        self.credits: dict[int, Credit] = {}
        self.streams: set[asyncio.Task[None]] = set()
        self.task = self.loop.create_task(self._run())

    def received(self, head: bytes, body: Any) -> None:
        """Take a frame."""
        if body is not None:
            ((_, number, _),) = decode(head)
            self.send(encode([(REPLY, number, None)]), body)
            return
        for record in decode(head):
            kind, number, what = record
            if kind == OPEN:
                task = self.loop.create_task(self._stream(number, what))
                self.streams.add(task)
                task.add_done_callback(self.streams.discard)
            elif kind == CREDIT:
                if number in self.credits:
                    self.credits[number].give(what)
            else:
                self.mail.append(record)
        if self.mail and self.waiter is not None:
            self.waiter.set_result(None)
            self.waiter = None

    async def _run(self) -> None:
        mail = self.mail
        while True:
            while mail:
                kind, number, body = mail.popleft()
                if kind == ASK:
                    self.post(REPLY, number, await self.echo(body))
                elif kind == TELL:
                    await self.note(body)
                else:
                    self.post(REPLY, number, self.told)
            self.waiter = self.loop.create_future()
            await self.waiter

    async def echo(self, message: Any) -> Any:
        """The handler of asks."""
        return message

    async def note(self, message: Any) -> None:
        """The handler of tells."""
        self.told += 1

    async def items(self, count: int) -> AsyncIterator[Any]:
        """The handler of streams."""
        for index in range(count):
            yield {"i": index, "token": "hello", "done": False, "score": 0.5}

    async def _stream(self, number: int, count: int) -> None:
        credit = self.credits[number] = Credit()
        record: list[Any] = []
        async for item in self.items(count):
            record.append(item)
            if len(record) == RECORD_ITEMS:
                self.post(ITEMS, number, record)
                record = []
                await credit.take(RECORD_ITEMS)
        if record:
            self.post(ITEMS, number, record)
        self.post(END, number, None)
        del self.credits[number]


class Credit:
    """How many items a stream may still send."""

    def __init__(self) -> None:
        self.left = WINDOW_ITEMS
        self.waiter: asyncio.Future[None] | None = None

    def give(self, items: int) -> None:
        """The reader has read so many."""
        self.left += items
        if self.waiter is not None and self.left > 0:
            self.waiter.set_result(None)
            self.waiter = None

    async def take(self, items: int) -> None:
        """Count what was sent, let others run, and wait for credit if there is none."""
        self.left -= items
        if self.left > 0:
            await asyncio.sleep(0)
            return
        self.waiter = asyncio.get_running_loop().create_future()
        await self.waiter


class Reader:
    """Items of one stream: a deque that is filled record by record, and one wake-up for each."""

    def __init__(self) -> None:
        self.items: deque[Any] = deque()
        self.waiter: asyncio.Future[None] | None = None
        self.is_over = False
        self.owed = 0

    def wake(self) -> None:
        """There is something new."""
        if self.waiter is not None:
            self.waiter.set_result(None)
            self.waiter = None


class BareClient(Side, Client):
    """The other end."""

    def __init__(self, send: Send, pid: int) -> None:
        super().__init__(send)
        self.pid = pid
        self.last = 0
        self.pending: dict[int, asyncio.Future[Any]] = {}
        self.readers: dict[int, Reader] = {}

    def received(self, head: bytes, body: Any) -> None:
        """Take a frame."""
        for kind, number, what in decode(head):
            if kind == REPLY:
                self.pending.pop(number).set_result(what if body is None else body)
                continue
            reader = self.readers[number]
            if kind == END:
                reader.is_over = True
                del self.readers[number]
            else:
                reader.items.extend(what)
                reader.owed += len(what)
                if reader.owed >= WINDOW_ITEMS // 2:
                    self.post(CREDIT, number, reader.owed)
                    reader.owed = 0
            reader.wake()

    def _numbered(self) -> tuple[int, asyncio.Future[Any]]:
        self.last = number = self.last + 1
        future = self.pending[number] = self.loop.create_future()
        return number, future

    async def ask(self, message: dict[str, Any]) -> Any:
        """Ask the actor."""
        number, future = self._numbered()
        self.post(ASK, number, message)
        return await future

    async def big(self, data: bytes) -> Any:
        """Ask with a buffer beside the envelope."""
        number, future = self._numbered()
        self.send(encode([(BIG, number, None)]), data)
        return await future

    async def tell_for(self, seconds: float) -> int:
        """256 a turn."""
        sent = 0
        end = perf_counter() + seconds
        while perf_counter() < end:
            for message in MESSAGES[(sent & 4095) : (sent & 4095) + 256]:
                self.post(TELL, 0, message)
            sent += 256
            if sent % 16384:
                await asyncio.sleep(0)
            else:  # nothing else holds the sender back, and memory has an end
                await self.told()
        return sent

    async def told(self) -> int:
        """Ask the actor how many."""
        number, future = self._numbered()
        self.post(COUNT, number, None)
        count: int = await future
        return count

    async def stream(self, count: int) -> AsyncIterator[Any]:
        """Read a stream."""
        self.last = number = self.last + 1
        reader = self.readers[number] = Reader()
        self.post(OPEN, number, count)
        items = reader.items
        while True:
            while items:
                yield items.popleft()
            if reader.is_over:
                return
            reader.waiter = self.loop.create_future()
            await reader.waiter

    async def server_pid(self) -> int:
        """The process of the actor."""
        return self.pid
