"""The sending side of a stream: items of a tick leave as one record, within the credit of the reader.

Hot path. Each item is encoded when it is yielded, so that the generator may change it afterwards. A record
leaves at the end of the tick, at the end of a turn or at `RECORD_BYTES`. A producer whose credit is used up waits;
one that never waits lets the loop run after its turn. The first turn is short and each next one twice as long, up to
`TURN_ITEMS`: so the first items of a stream do not wait for hundreds of others', and processes in a row work at the
same time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Protocol

from msgspec import Raw

from .codec import Codec
from .envelope import END, ITEMS, array_header, join
from .outbox import Outbox, total_bytes

RECORD_BYTES = 48 * 1024
"""Below the smallest limit of a message, so that a record of several items always fits."""
TURN_ITEMS = 256
FIRST_TURN_ITEMS = 4

WINDOW_ITEMS = 4096
WINDOW_BYTES = 8 * 1024 * 1024
"""What a reader grants at the start of a stream, and keeps granted: it returns half a window at a time."""


class Producer(Protocol):
    """What runs a stream's generator to its end."""

    sent: int

    async def pump(self, source: AsyncIterator[Any]) -> None:
        """Send every item of ``source``, then the end."""

    def more(self, items: int, size: int) -> None:
        """The reader granted more credit."""

    def close(self) -> None:
        """Send what was collected; nothing follows but an error."""

    def abandon(self) -> None:
        """Nobody reads any more: end at the next item, whatever the generator makes of its cancellation."""


class _Credit:
    """Credit in items and bytes, and the producer that waits for it."""

    __slots__ = ("abandoned", "bytes", "items", "waiter")

    def __init__(self, items: int, size: int) -> None:
        self.items = items or WINDOW_ITEMS
        self.bytes = size or WINDOW_BYTES
        self.waiter: asyncio.Future[None] | None = None
        self.abandoned = False

    def more(self, items: int, size: int) -> None:
        """Add credit and wake the producer."""
        self.items += items
        self.bytes += size
        waiter = self.waiter
        if waiter is not None and self.items > 0 and self.bytes > 0:
            self.waiter = None
            if not waiter.done():
                waiter.set_result(None)

    def abandon(self) -> None:
        """There will be no more."""
        self.abandoned = True
        self.items = 0

    async def wait(self) -> None:
        """Return once there is credit for one item; raises CancelledError if there will be none."""
        while self.items <= 0 or self.bytes <= 0:
            if self.abandoned:
                raise asyncio.CancelledError
            self.waiter = asyncio.get_running_loop().create_future()
            await self.waiter


class RemoteProducer:
    """Sends the items of one stream to another process."""

    __slots__ = ("_codec", "_credit", "_dirty", "_id", "_outbox", "_parts", "_size", "sent")

    def __init__(self, outbox: Outbox, codec: Codec, stream_id: int, items: int, size: int) -> None:
        self._outbox = outbox
        self._codec = codec
        self._id = stream_id
        self._parts: list[bytes] = []
        self._size = 0
        self._dirty = False
        self._credit = _Credit(items, size)
        self.sent = 0

    def __repr__(self) -> str:
        return f"<RemoteProducer {self._id} sent {self.sent}, credit {self._credit.items}>"

    async def pump(self, source: AsyncIterator[Any]) -> None:
        """Send every item of ``source``, then the end. Raises what ``source`` raises, and `EncodeError`."""
        credit = self._credit
        encode = self._codec.encode
        turn, limit = 0, FIRST_TURN_ITEMS
        async for item in source:
            part, buffers = encode(item, "an item")
            if buffers is not None:
                self._send_alone(part, buffers)
                await self._pause()
                continue
            size = len(part)
            self._parts.append(part)
            self._size += size
            self.sent += 1
            credit.items -= 1
            credit.bytes -= size
            if not self._dirty:
                self._dirty = True
                self._outbox.dirty(self)
            turn += 1
            if turn >= limit or self._size >= RECORD_BYTES or credit.items <= 0 or credit.bytes <= 0:
                turn, limit = 0, min(2 * limit, TURN_ITEMS)
                self._emit()
                await self._pause()
        self._emit()
        self._outbox.post(self._codec.pack((END, self._id, self.sent)))

    async def _pause(self) -> None:
        if self._credit.items <= 0 or self._credit.bytes <= 0:
            await self._credit.wait()
        else:
            await asyncio.sleep(0)

    def more(self, items: int, size: int) -> None:
        """The reader granted more credit."""
        self._credit.more(items, size)

    def emit(self) -> None:
        """Called by the outbox at the end of a tick."""
        self._dirty = False
        self._emit()

    def close(self) -> None:
        """Send what was collected."""
        self._emit()

    def abandon(self) -> None:
        """See `Producer`."""
        self._credit.abandon()

    def _emit(self) -> None:
        parts = self._parts
        if parts:
            self._parts = []
            if self._size > RECORD_BYTES and len(parts) > 1:
                # A large item goes alone: it may just fit by itself.
                last = parts.pop()
                self._post(parts, self._size - len(last))
                parts, self._size = [last], len(last)
            size, self._size = self._size, 0
            self._post(parts, size)

    def _post(self, parts: list[bytes], size: int) -> None:
        self._outbox.post(self._codec.pack((ITEMS, self._id, Raw(join(parts)), size)))

    def _send_alone(self, part: bytes, buffers: list[Any]) -> None:
        self._emit()
        record = Raw(array_header(1) + part)
        envelope = self._codec.pack((ITEMS, self._id, record, len(part)))
        self._outbox.post_with(envelope, buffers)
        self.sent += 1
        self._credit.items -= 1
        self._credit.bytes -= len(part) + total_bytes(buffers)


_SIZED = frozenset({str, bytes, bytearray})


class Feed(Protocol):
    """The reader of the same process, as its producer sees it."""

    def feed(self, items: list[Any], size: int) -> None:
        """Take a record."""

    def finish(self, error: Exception | None) -> None:
        """The stream is over."""


class LocalProducer:
    """Hands the items of one stream to a reader of the same process, as the same objects."""

    __slots__ = ("_credit", "_reader", "sent")

    def __init__(self, reader: Feed) -> None:
        self._reader = reader
        self._credit = _Credit(WINDOW_ITEMS, WINDOW_BYTES)
        self.sent = 0

    def __repr__(self) -> str:
        return f"<LocalProducer sent {self.sent}, credit {self._credit.items}>"

    async def pump(self, source: AsyncIterator[Any]) -> None:
        """Send every item of ``source``, then the end. Raises what ``source`` raises."""
        feed, credit = self._reader.feed, self._credit
        async for item in source:
            self.sent += 1
            # Nothing is encoded here, so only what has a length of its own counts in bytes.
            size = len(item) if type(item) in _SIZED else 0
            credit.items -= 1
            credit.bytes -= size
            feed([item], size)
            if credit.items <= 0 or credit.bytes <= 0:
                await credit.wait()
            elif not self.sent % TURN_ITEMS:
                await asyncio.sleep(0)
        self._reader.finish(None)

    def more(self, items: int, size: int) -> None:
        """The reader granted more credit."""
        self._credit.more(items, size)

    def close(self) -> None:
        """Nothing is collected here."""

    def abandon(self) -> None:
        """See `Producer`."""
        self._credit.abandon()
