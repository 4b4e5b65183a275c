"""Events over zmq: a PUB and a ROUTER socket per process, which discovery makes known to subscribers.

Publishing is an XPUB socket, whose messages are ``[source id, frame]``. A SUB socket that has just connected misses
what is sent before its subscription has arrived; so it also subscribes to a word of its own, which the publisher
answers on the same connection: when the answer is there, so is the subscription. What high-water marks drop is noticed
by the numbers, and fetched over the ROUTER socket: ``[request and part, what, frame]`` for ``[request, source id,
after]``, where *what* is ``more`` or ``last``, or ``gone``, or ``failed`` (then the frame says why).

Between processes of one host the sockets are unix sockets in the 0700 directory of the system; tcp ones are bound only
if the request plane listens beyond loopback, and there they are as open as that.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from struct import Struct, error
from typing import Any

import zmq

from ..address import is_loopback
from ..errors import TransportError
from ..host import bracketed, places
from ..ipc import EVENTS, REPLAY, host_id, remove_socket, socket_path
from ..settings import NetworkSettings
from ..zmq_sockets import NOBLOCK, SNDMORE, Watched, acquire_context, release_context
from .base import Answer, EventCapabilities, EventPlaneContext, Frame, Source
from .errors import LONGEST_WHY, PART_LOST, SnapshotFailed, SourceGone
from .frames import EVENT_BYTES

ID = Struct("<Q")
REQUEST = Struct("<QQq")
PART = Struct("<QI")
WELCOME = b"?"
SUBSCRIBED = 1
QUEUED_FRAMES = 4096
"""High-water mark of PUB and SUB; what is beyond it is fetched. A frame may have 256 KiB and more, and a subscriber
that is frozen may stay so: this is all that it costs each publisher."""

ANSWERED_FRAMES = 4096
FOLLOW_S = 5.0
ANSWER_S = 5.0
"""Until the next frame of an answer."""

MOST_ANSWERS = 64
"""Answers under way at a time; further requests are not answered, and come again."""


def _configure(socket: zmq.Socket[Any], hwm: int) -> None:
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.MAXMSGSIZE, 2 * EVENT_BYTES)
    socket.setsockopt(zmq.SNDHWM, hwm)
    socket.setsockopt(zmq.RCVHWM, hwm)
    socket.setsockopt_string(zmq.ZAP_DOMAIN, "callboard")


class ZmqEvents:
    """The plane ``zmq``."""

    def __init__(self, context: EventPlaneContext) -> None:
        self._context = context
        self._zmq = acquire_context()
        self._outlet: _Outlet | None = None
        self._inlet: _Inlet | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"<ZmqEvents {self._outlet}, {self._inlet}>"

    @property
    def capabilities(self) -> EventCapabilities:
        """What this plane can do."""
        return EventCapabilities(
            scheme="zmq", summary="PUB and SUB sockets, found by discovery", between_processes=True
        )

    async def publisher(self, source: Source, answer: Answer, snapshot_every: int) -> ZmqPublisher:
        """Open a publisher. Raises `TransportError`."""
        if self._outlet is None:
            self._outlet = _Outlet(self._zmq, self._context)
        outlet = self._outlet
        outlet.answers[source.id] = answer
        return ZmqPublisher(outlet, replace(source, address=outlet.address))

    async def subscriber(self, topic: str, received: Callable[[Source, Frame], None]) -> ZmqSubscriber:
        """Open a subscriber."""
        if self._inlet is None:
            self._inlet = _Inlet(self._zmq)
        return ZmqSubscriber(self._inlet, received)

    async def close(self) -> None:
        """Close the sockets; idempotent."""
        if self._closed:
            return
        self._closed = True
        if self._outlet is not None:
            await self._outlet.close()
        if self._inlet is not None:
            self._inlet.close()
        await asyncio.to_thread(release_context)


class ZmqPublisher:
    """One source of the process's PUB socket."""

    def __init__(self, outlet: _Outlet, source: Source) -> None:
        self._outlet, self.source = outlet, source
        self._topic = ID.pack(source.id)

    def send(self, frame: Frame) -> None:
        """Give a frame to whoever follows."""
        self._outlet.send(self._topic, frame)

    def statistics(self) -> Mapping[str, int]:
        """A PUB socket does not say what it drops."""
        return {"dropped": self._outlet.dropped}

    async def close(self) -> None:
        """Leave."""
        self._outlet.answers.pop(self.source.id, None)


class _Outlet:
    """The sockets of all publishers of a process."""

    def __init__(self, context: zmq.Context[Any], own: EventPlaneContext) -> None:
        self.answers: dict[int, Answer] = {}
        self.dropped = self.unanswered = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._paths: list[str] = []
        publish, reply = context.socket(zmq.XPUB), context.socket(zmq.ROUTER)
        _configure(publish, QUEUED_FRAMES)
        _configure(reply, ANSWERED_FRAMES)
        try:
            self.address = "|".join(
                [host_id(), *self._bind_ipc(publish, reply, own), *_bind_tcp(publish, reply, own.settings)]
            )
        except (zmq.ZMQError, TransportError) as problem:
            publish.close(0)
            reply.close(0)
            self._remove_files()
            if isinstance(problem, TransportError):
                raise
            raise TransportError(f"the event plane cannot bind its sockets: {problem}") from None
        self._publish = Watched(publish, self._subscribed)
        self._reply = Watched(reply, self._asked)

    def __repr__(self) -> str:
        return f"<publishes {len(self.answers)} sources>"

    def _bind_ipc(
        self, publish: zmq.Socket[Any], reply: zmq.Socket[Any], own: EventPlaneContext
    ) -> tuple[str, str]:
        paths = [socket_path(own.directory, own.node + kind) for kind in (EVENTS, REPLAY)]
        for socket, path in zip((publish, reply), paths, strict=True):
            socket.bind(f"ipc://{path}")
            self._paths.append(path)
        return paths[0], paths[1]

    def send(self, topic: bytes, frame: Frame) -> None:
        """Publish a frame."""
        socket = self._publish.socket
        try:
            socket.send(topic, SNDMORE | NOBLOCK)
            socket.send(frame, NOBLOCK)
        except zmq.Again:
            self.dropped += 1
        self._publish.after_send()

    def _subscribed(self) -> None:
        """Somebody subscribes to something, or no longer; a word of its own comes back."""
        message = self._publish.socket.recv(NOBLOCK)
        if message[:1] == b"\x01" and message[1:2] == WELCOME:
            with suppress(zmq.Again):
                self._publish.socket.send_multipart([message[1:], b""], NOBLOCK)

    def _asked(self) -> None:
        frames = self._reply.socket.recv_multipart(NOBLOCK)
        try:
            peer, body = frames
            request, source, after = REQUEST.unpack(body)
        except (ValueError, error):
            return
        answer = self.answers.get(source)
        if answer is None or len(self._tasks) >= MOST_ANSWERS:
            self.unanswered += 1
            if answer is None:
                self._say(peer, request, 0, b"gone", b"")
            return
        task = asyncio.get_running_loop().create_task(self._answer(peer, request, after, answer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, peer: bytes, request: int, after: int, answer: Answer) -> None:
        try:
            frames = await answer(after)
        except SnapshotFailed as problem:
            self._say(peer, request, 0, b"failed", problem.why.encode()[:LONGEST_WHY])
            return
        for number, frame in enumerate(frames):
            self._say(peer, request, number, b"last" if number == len(frames) - 1 else b"more", frame)

    def _say(self, peer: bytes, request: int, part: int, what: bytes, frame: bytes) -> None:
        with suppress(zmq.Again):  # who does not read asks again
            self._reply.socket.send_multipart([peer, PART.pack(request, part), what, frame], NOBLOCK)
        self._reply.after_send()

    async def close(self) -> None:
        """Close the sockets and remove their files."""
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._publish.close(0)
        self._reply.close(0)
        self._remove_files()

    def _remove_files(self) -> None:
        for path in self._paths:
            remove_socket(path)


def _bind_tcp(publish: zmq.Socket[Any], reply: zmq.Socket[Any], settings: NetworkSettings) -> tuple[str, str]:
    if is_loopback(settings.host):
        return "", ""
    bound, told = places(settings.host)
    ports = [socket.bind_to_random_port(f"tcp://{bracketed(bound)}") for socket in (publish, reply)]
    return f"tcp://{bracketed(told or bound)}:{ports[0]}", f"tcp://{bracketed(told or bound)}:{ports[1]}"


class ZmqSubscriber:
    """Follows sources over the process's SUB socket."""

    def __init__(self, inlet: _Inlet, received: Callable[[Source, Frame], None]) -> None:
        self._inlet, self._received = inlet, received
        self._following: dict[int, Source] = {}

    async def follow(self, source: Source) -> None:
        """Begin to receive. Raises `SourceGone`."""
        self._following[source.id] = source
        await self._inlet.follow(source, self._received)

    def unfollow(self, source: Source) -> None:
        """Receive no more of it."""
        if self._following.pop(source.id, None) is not None:
            self._inlet.unfollow(source, self._received)

    async def fetch(self, source: Source, after: int) -> AsyncIterator[Frame]:
        """Yield what the source answers. Raises `SourceGone`."""
        async for frame in self._inlet.fetch(source, after):
            yield frame

    def statistics(self) -> Mapping[str, int]:
        """Counters of the process's sockets."""
        return {"strays": self._inlet.strays}

    async def close(self) -> None:
        """Leave."""
        for source in list(self._following.values()):
            self.unfollow(source)


@dataclass(slots=True)
class _Publisher:
    """The process at one address."""

    events: str
    replay: str
    sources: dict[int, tuple[Source, list[Callable[[Source, Frame], None]]]] = field(default_factory=dict)
    dealer: Watched | None = None


class _Inlet:
    """The sockets of all subscribers of a process."""

    def __init__(self, context: zmq.Context[Any]) -> None:
        self._context = context
        self._publishers: dict[str, _Publisher] = {}
        self._listeners: dict[bytes, tuple[Source, list[Callable[[Source, Frame], None]]]] = {}
        self._welcomes: dict[bytes, asyncio.Future[None]] = {}
        self._answers: dict[int, asyncio.Queue[tuple[int, bytes, bytes]]] = {}
        self._requests = itertools.count(1)
        self.strays = 0
        socket = context.socket(zmq.SUB)
        _configure(socket, QUEUED_FRAMES)
        self._subscribe = Watched(socket, self._receive)

    def __repr__(self) -> str:
        return f"<follows {len(self._listeners)} sources>"

    async def follow(self, source: Source, received: Callable[[Source, Frame], None]) -> None:
        """Receive the frames of a source; returns when the subscription is there."""
        publisher = self._publisher(source)
        topic, socket = ID.pack(source.id), self._subscribe.socket
        entry = publisher.sources.get(source.id)
        if entry is None:
            entry = publisher.sources[source.id] = self._listeners[topic] = (source, [])
            socket.setsockopt(zmq.SUBSCRIBE, topic)
        if received not in entry[1]:
            entry[1].append(received)
        word = WELCOME + secrets.token_bytes(12)
        welcome = self._welcomes[word] = asyncio.get_running_loop().create_future()
        socket.setsockopt(zmq.SUBSCRIBE, word)
        self._subscribe.after_send()
        try:
            async with asyncio.timeout(FOLLOW_S):
                await welcome
        except TimeoutError:
            raise SourceGone(source.name, f"no connection to {publisher.events} in {FOLLOW_S:g} s") from None
        finally:
            del self._welcomes[word]
            if not self._subscribe.closed:
                socket.setsockopt(zmq.UNSUBSCRIBE, word)

    def unfollow(self, source: Source, received: Callable[[Source, Frame], None]) -> None:
        """Receive them no more; the last one takes the connection along."""
        publisher = self._publishers.get(source.address)
        entry = None if publisher is None else publisher.sources.get(source.id)
        if publisher is None or entry is None or received not in entry[1]:
            return
        entry[1].remove(received)
        if entry[1]:
            return
        topic = ID.pack(source.id)
        del publisher.sources[source.id], self._listeners[topic]
        if self._subscribe.closed:
            return
        self._subscribe.socket.setsockopt(zmq.UNSUBSCRIBE, topic)
        if not publisher.sources:
            del self._publishers[source.address]
            # libzmq may hold the first part of a message; without the others the socket would be readable for ever.
            self._subscribe.drain(1)
            with suppress(zmq.ZMQError):
                self._subscribe.socket.disconnect(publisher.events)
            if publisher.dealer is not None:
                publisher.dealer.close(0)

    async def fetch(self, source: Source, after: int) -> AsyncIterator[Frame]:
        """Ask a source for what is after a number."""
        publisher = self._publisher(source)
        if publisher.dealer is None:
            socket = self._context.socket(zmq.DEALER)
            _configure(socket, ANSWERED_FRAMES)
            socket.connect(publisher.replay)
            dealer = publisher.dealer = Watched(socket, lambda: self._answered(dealer))
        request = next(self._requests)
        answers: asyncio.Queue[tuple[int, bytes, bytes]] = asyncio.Queue()
        self._answers[request] = answers
        try:
            publisher.dealer.socket.send(REQUEST.pack(request, source.id, after), NOBLOCK)
            publisher.dealer.after_send()
            what, expected = b"more", 0
            while what == b"more":
                async with asyncio.timeout(ANSWER_S):
                    part, what, frame = await answers.get()
                if what == b"gone":
                    raise SourceGone(source.name, "it was closed")
                if what == b"failed":
                    raise SnapshotFailed(source.topic, frame.decode(errors="replace"))
                if part != expected:  # the high-water mark of a ROUTER drops without a word
                    raise SourceGone(source.name, PART_LOST)
                expected += 1
                yield frame
        except TimeoutError:
            raise SourceGone(source.name, f"nothing came for {ANSWER_S:g} s") from None
        except zmq.Again:
            raise SourceGone(source.name, "it takes no requests") from None
        finally:
            del self._answers[request]

    def _publisher(self, source: Source) -> _Publisher:
        found = self._publishers.get(source.address)
        if found is not None:
            return found
        try:
            host, ipc_events, ipc_replay, tcp_events, tcp_replay = source.address.split("|")
        except ValueError:
            raise SourceGone(
                source.name, f"{source.address!r} is no address of the zmq event plane"
            ) from None
        here = host == host_id()
        events = f"ipc://{ipc_events}" if here else tcp_events
        replay = f"ipc://{ipc_replay}" if here else tcp_replay
        if not events or not replay:
            raise SourceGone(source.name, "it is on another host and listens on loopback only")
        publisher = self._publishers[source.address] = _Publisher(events, replay)
        try:
            self._subscribe.socket.connect(events)
        except zmq.ZMQError as problem:
            del self._publishers[source.address]
            raise SourceGone(source.name, f"{events}: {problem}") from None
        return publisher

    def _receive(self) -> None:
        frames = self._subscribe.socket.recv_multipart(NOBLOCK)
        if len(frames) != 2:
            self.strays += 1
            return
        topic, frame = frames
        welcome = self._welcomes.get(topic)
        if welcome is not None:
            if not welcome.done():
                welcome.set_result(None)
            return
        entry = self._listeners.get(topic)
        if entry is None:
            self.strays += 1
            return
        for received in tuple(entry[1]):
            received(entry[0], frame)

    def _answered(self, dealer: Watched) -> None:
        frames = dealer.socket.recv_multipart(NOBLOCK)
        if len(frames) != 3 or len(frames[0]) != PART.size:
            self.strays += 1
            return
        request, part = PART.unpack(frames[0])
        answers = self._answers.get(request)
        if answers is None:
            self.strays += 1
        else:
            answers.put_nowait((part, frames[1], frames[2]))

    def close(self) -> None:
        """Close the sockets."""
        for publisher in self._publishers.values():
            if publisher.dealer is not None:
                publisher.dealer.close(0)
        self._publishers.clear()
        self._listeners.clear()
        self._subscribe.close(0)
