"""The control channel between the supervisor and one child: what they say, and how it is framed.

It is a socket pair whose far end the child inherits. It never shares a socket with the request plane, so
a full plane cannot delay a stop, and its end of file means that the other side is gone. A frame is a
4-byte big-endian length and one msgpack value, decoded into the message classes below.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any, Generic, TypeVar, cast

import msgspec

from callboard.actors.policy import DownKind

LENGTH_BYTES = 4
LIMIT_BYTES = 256 * 1024 * 1024
"""No frame may be longer; checked before memory is taken for it."""

M = TypeVar("M")

WireLocation = list[Any]
"""`callboard.actors` location as a list, see ``Location.to_wire``."""


class Message(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Base of all control messages; the class name is the tag."""


# ---- supervisor to child


class StartActor(Message, frozen=True):
    """Start one actor.

    Either ``class_path`` ("module:qualname") with plain ``args`` and ``kwargs`` in which a reference is
    ``{"ref": name}``, or ``payload``: the pickled triple (class, args, kwargs) of a script.
    """

    name: str
    incarnation: int
    class_path: str = ""
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    payload: bytes = b""
    mailbox: dict[str, Any] | None = None


class StopActor(Message, frozen=True):
    """Stop one actor; ``reason`` is a value of ``StopReason``. Answered by `ActorStopped`."""

    name: str
    reason: str
    grace_s: float


class DirectoryAdd(Message, frozen=True):
    """These instances can be reached now."""

    locations: list[WireLocation]


class DirectoryRemove(Message, frozen=True):
    """One instance can no longer be reached."""

    name: str
    incarnation: int
    reason: str
    kind: DownKind = DownKind.UNKNOWN


class NodeDown(Message, frozen=True):
    """A whole node is gone: everything outstanding on it fails now."""

    node: str
    reason: str
    kind: DownKind = DownKind.UNKNOWN


class SourceAdd(Message, frozen=True):
    """These publish events, see ``Source.to_wire``."""

    sources: list[list[Any]]


class SourceRemove(Message, frozen=True):
    """One publishes no more."""

    id: int
    reason: str


class DeclareDurable(Message, frozen=True):
    """Tells to these components are stored; each with its policy, see ``DurablePolicy.to_wire``."""

    components: dict[str, dict[str, Any]]


class Stop(Message, frozen=True):
    """Close the node within ``grace_s`` seconds and exit with code 0."""

    grace_s: float


class Ping(Message, frozen=True):
    """Is the event loop alive? Answered by `Pong` with the same number."""

    number: int


class AskStatistics(Message, frozen=True):
    """Answered by `Statistics` with the same number."""

    number: int


ToChild = (
    StartActor
    | StopActor
    | DirectoryAdd
    | DirectoryRemove
    | NodeDown
    | SourceAdd
    | SourceRemove
    | DeclareDurable
    | Stop
    | Ping
    | AskStatistics
)


# ---- child to supervisor


class Hello(Message, frozen=True):
    """The node listens at ``address``; the child is ready for actors."""

    pid: int
    node: str
    address: str


class ActorInitialising(Message, frozen=True):
    """The class was imported; its constructor and ``on_start`` run now."""

    name: str
    incarnation: int


class ActorReady(Message, frozen=True):
    """``on_start`` returned; the actor can be reached at ``location``."""

    name: str
    incarnation: int
    location: WireLocation


class ActorStartFailed(Message, frozen=True):
    """Import, constructor or ``on_start`` failed; ``traceback`` is its text."""

    name: str
    incarnation: int
    error: str
    traceback: str


class ActorFailed(Message, frozen=True):
    """A ready actor failed (in a tell or a timer) and was stopped; the supervisor decides what follows."""

    name: str
    incarnation: int
    error: str
    traceback: str


class ActorStopped(Message, frozen=True):
    """A commanded stop is done."""

    name: str
    incarnation: int


class Announce(Message, frozen=True):
    """A line that an actor wants people to see, for example the URL where it listens."""

    name: str
    text: str


class Publishes(Message, frozen=True):
    """A source of events begins, see ``Source.to_wire``."""

    source: list[Any]


class PublishesNoMore(Message, frozen=True):
    """A source of events of this process ended."""

    id: int


class ProcessFailed(Message, frozen=True):
    """The child cannot go on: its node did not start, or its loop failed. It exits after this."""

    error: str
    traceback: str


class Pong(Message, frozen=True):
    """Answer to `Ping`."""

    number: int


class Statistics(Message, frozen=True):
    """Answer to `AskStatistics`."""

    number: int
    data: dict[str, Any]


FromChild = (
    Hello
    | ActorInitialising
    | ActorReady
    | ActorStartFailed
    | ActorFailed
    | ActorStopped
    | Announce
    | Publishes
    | PublishesNoMore
    | ProcessFailed
    | Pong
    | Statistics
)

_encoder = msgspec.msgpack.Encoder(enc_hook=repr)


def sendable(text: str) -> str:
    """Return the text with escapes for what UTF-8 cannot carry: an exception may speak of any file name."""
    return text.encode("utf-8", "backslashreplace").decode()


def encode_frame(message: object) -> bytes:
    """Return ``message`` with its length in front. Values that msgpack does not know travel as their repr."""
    body = _encoder.encode(message)
    if len(body) > LIMIT_BYTES:
        raise ValueError(f"control message of {len(body):,} bytes exceeds the limit of {LIMIT_BYTES:,} bytes")
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


class FrameDecoder(Generic[M]):
    """Turns the bytes of a stream into messages of one type.

    Raises ``msgspec.DecodeError`` (of which ``ValidationError`` is one) for what is not such a message,
    and `ValueError` for a length above the limit; the stream is of no use after either.
    """

    def __init__(self, decoder: msgspec.msgpack.Decoder[M]) -> None:
        self._decoder = decoder
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[M]:
        """Return the messages that ``data`` completes."""
        buffer = self._buffer
        buffer += data
        messages: list[M] = []
        start = 0
        while len(buffer) - start >= LENGTH_BYTES:
            length = int.from_bytes(buffer[start : start + LENGTH_BYTES], "big")
            if length > LIMIT_BYTES:
                raise ValueError(f"frame of {length:,} bytes exceeds the limit of {LIMIT_BYTES:,} bytes")
            end = start + LENGTH_BYTES + length
            if len(buffer) < end:
                break
            messages.append(self._decoder.decode(bytes(buffer[start + LENGTH_BYTES : end])))
            start = end
        del buffer[:start]
        return messages


class Channel(asyncio.Protocol, Generic[M]):
    """One end of a stream of messages on an event loop.

    ``received`` is called for each message and ``lost`` exactly once, when the other side is gone (None)
    or spoke nonsense (the error); neither may block.
    """

    def __init__(
        self,
        inbound: msgspec.msgpack.Decoder[M],
        received: Callable[[M], None],
        lost: Callable[[Exception | None], None],
    ) -> None:
        self._frames = FrameDecoder(inbound)
        self._received = received
        self._lost = lost
        self._transport: asyncio.Transport | None = None
        self._error: Exception | None = None
        self._gone = asyncio.get_running_loop().create_future()

    @classmethod
    async def over(
        cls,
        sock: socket.socket,
        inbound: msgspec.msgpack.Decoder[M],
        received: Callable[[M], None],
        lost: Callable[[Exception | None], None],
    ) -> Channel[M]:
        """Make a channel over a connected stream socket; ``received`` may be called before this returns."""
        channel = cls(inbound, received, lost)
        await channel.take(sock)
        return channel

    async def take(self, sock: socket.socket) -> None:
        """Begin to listen and speak over a connected stream socket."""
        sock.setblocking(False)
        await asyncio.get_running_loop().create_unix_connection(lambda: self, sock=sock)

    @property
    def is_connected(self) -> bool:
        """True once `take` has begun to listen, also after the end."""
        return self._transport is not None

    @property
    def is_open(self) -> bool:
        """True until the other side is gone or `close` was called."""
        return self._transport is not None and not self._transport.is_closing()

    def send(self, message: object) -> bool:
        """Queue one message; False if the other side is gone, which ``lost`` reports by itself."""
        if self._transport is None or self._transport.is_closing():
            return False
        self._transport.write(encode_frame(message))
        return True

    @property
    def backlog_bytes(self) -> int:
        """How much waits for the other side to read it."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    async def close(self) -> None:
        """Send what is queued, then end the stream; returns when it is closed."""
        if self._transport is not None:
            self._transport.close()
            await asyncio.shield(self._gone)

    def abort(self) -> None:
        """End the stream at once; what is queued is lost."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        # uvloop's transports do not derive from asyncio's, so this cannot be an isinstance check.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        try:
            messages = self._frames.feed(data)
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            self._error = error
            self.abort()
            return
        for message in messages:
            self._received(message)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop."""
        if not self._gone.done():
            self._gone.set_result(None)
        self._lost(self._error or exc)

    def __repr__(self) -> str:
        state = "open" if self.is_open else "closed"
        return f"<Channel {state}, {self.backlog_bytes} bytes wait>"
