"""What JetStream keeps of one source, as a subscriber needs it.

`read` gets messages of a stream many at a time; `Reading` decides, purely, which frames of a snapshot and of the stream
lead on from what a subscriber has.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable, Mapping
from struct import Struct
from struct import error as StructError

from nats.aio.client import Client

from ..errors import NoRoute
from ..nats_client import next_message
from .errors import BadFrame
from .frames import Frame, Kind, decode
from .outflow import NOTHING

STEP_S = 5.0
"""Until the next message of the server."""

BATCH, BATCH_BYTES = 1024, 8 * 1024 * 1024
NOT_FOUND, END = "404", "204"
SIZE = Struct("<I")


async def read(client: Client, stream: str, subject: str) -> AsyncIterator[tuple[bytes, Mapping[str, str]]]:
    """Yield the messages of a subject in a stream, oldest first, with their headers.

    Raises `NoRoute` for what the server refuses, and `nats.errors.Error`.
    """
    inbox = client.new_inbox()
    subscription = await client.subscribe(inbox, pending_bytes_limit=4 * BATCH_BYTES)
    try:
        sequence, pending = 1, 1
        while pending > 0:
            question = {"seq": sequence, "next_by_subj": subject, "batch": BATCH, "max_bytes": BATCH_BYTES}
            await client.publish(f"$JS.API.DIRECT.GET.{stream}", json.dumps(question).encode(), reply=inbox)
            while True:
                message = await next_message(subscription, STEP_S)
                headers = message.headers or {}
                status = headers.get("Status", "")
                if status == NOT_FOUND:
                    return
                if status == END:
                    pending = int(headers.get("Nats-Num-Pending", "0"))
                    break
                if status:
                    raise NoRoute(stream, f"JetStream says {status} {headers.get('Description', '')}".strip())
                sequence = int(headers["Nats-Sequence"]) + 1
                yield message.data, headers
    finally:
        await subscription.unsubscribe()


def pack(frames: Iterable[bytes]) -> bytes:
    """Return the frames of a snapshot as one object."""
    return b"".join(part for frame in frames for part in (SIZE.pack(len(frame)), frame))


def unpack(data: bytes) -> list[bytes] | None:
    """Return the frames of an object; None if it is no whole snapshot."""
    frames, at = list[bytes](), 0
    try:
        while at < len(data):
            (size,) = SIZE.unpack_from(data, at)
            at += SIZE.size
            frames.append(data[at : at + size])
            at += size
        kinds = [decode(frame).kind for frame in frames]
    except (StructError, BadFrame):
        return None
    return frames if kinds and kinds == [*[Kind.STATE] * (len(kinds) - 1), Kind.STATE_END] else None


class Reading:
    """One way from what a subscriber has to what is kept; never over a gap."""

    def __init__(self, source: int, after: int) -> None:
        self._source = source
        self.has = after
        """Number of the last event by now."""
        self.broken = False
        """There are later events than those that are kept."""

    def state(self, snapshot: list[bytes] | None) -> list[bytes]:
        """Return the frames of a snapshot if it leads on."""
        if snapshot is None:
            return []
        end = decode(snapshot[-1])
        if end.source != self._source or end.first <= self.has:
            return []
        self.has = end.first
        return snapshot

    def look(self, data: bytes) -> Frame | None:
        """Return a frame of the stream; None if it is not the source's."""
        try:
            frame = decode(data)
        except BadFrame:
            return None
        return frame if frame.source == self._source and frame.kind is Kind.EVENTS else None

    def lacks(self, frame: Frame) -> bool:
        """True if there is a gap before this frame; one without events tells, too, how far its source is."""
        return self.has == NOTHING or frame.first > self.has + 1

    def take(self, frame: Frame) -> bool:
        """True if a frame that follows brings anything."""
        is_news = frame.last > self.has
        self.has = max(self.has, frame.last)
        return is_news
