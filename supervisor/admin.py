"""The admin socket of a running system: status, stop, and who is where, for other processes of the same user.

It lies in the private runtime directory and is framed like the control channel. Every question has a number;
a follower also gets each change of the directory, as children do.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import socket
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec

from callboard.transports.settings import NetworkSettings

from .control import Channel, Message, WireLocation
from .errors import AdminError, NotRunning
from .roster import Push, Roster
from .status import SystemStatus

log = logging.getLogger("callboard.supervisor")


class GetStatus(Message, frozen=True):
    """Answered by `StatusReply`."""

    number: int


class StopSystem(Message, frozen=True):
    """Answered by `Stopping` when the stop begins; it is over when the lock of the directory is free.

    Without a grace the system takes that of its config.
    """

    number: int
    grace_s: float | None


class Follow(Message, frozen=True):
    """Answered by all that is known of the directory, `Welcome`, and every change from then on."""

    number: int


class Resolve(Message, frozen=True):
    """Answered by `Resolved`: what a name of an actor or component stands for now."""

    number: int
    name: str


class Join(Message, frozen=True):
    """The client calls actors as ``node``: if it hangs up before it has said `Leave`, nobody waits for its answers."""

    node: str


class Leave(Message, frozen=True):
    """The client's node is closed, and has said so to whom it spoke to."""


Request = GetStatus | StopSystem | Follow | Resolve | Join | Leave


class StatusReply(Message, frozen=True):
    """What the system looks like now."""

    number: int
    status: SystemStatus


class Stopping(Message, frozen=True):
    """What still runs after ``grace_s`` seconds is killed."""

    number: int
    grace_s: float


class Failed(Message, frozen=True):
    """The request is refused."""

    number: int
    error: str


class Welcome(Message, frozen=True):
    """What a node needs to talk to the actors of the system."""

    number: int
    namespace: str
    settings: NetworkSettings
    joins: bool = False
    """True if `Join` and `Leave` are understood."""


class Resolved(Message, frozen=True):
    """Answer to `Resolve`; empty if nothing of that name is up."""

    number: int
    locations: list[WireLocation]


Reply = StatusReply | Stopping | Failed | Welcome | Resolved | Push

_requests: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
_replies: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)


class AdminServer:
    """Answers on the admin socket for as long as the system runs."""

    def __init__(
        self,
        *,
        namespace: str,
        settings: NetworkSettings,
        roster: Roster,
        status: Callable[[], Coroutine[Any, Any, SystemStatus]],
        stop: Callable[[float | None], float],
    ) -> None:
        self._namespace, self._settings = namespace, settings
        self._roster, self._status, self._stop = roster, status, stop
        self._server: asyncio.Server | None = None
        self._sessions: set[_Session] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, path: Path) -> None:
        """Listen at ``path``."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(self._accept, str(path))

    async def close(self) -> None:
        """End every session; idempotent."""
        for task in self._tasks:
            task.cancel()
        if self._server is not None:
            self._server.close()
        for session in list(self._sessions):
            await session.channel.close()

    def _accept(self) -> Channel[Request]:
        session = _Session()
        session.channel = Channel(
            _requests, lambda request: self._received(session, request), lambda _: self._lost(session)
        )
        self._sessions.add(session)
        return session.channel

    def _lost(self, session: _Session) -> None:
        session.unfollow()
        self._sessions.discard(session)
        # The kernel says it at once; on a plane with a broker between, links would take seconds to notice.
        if session.node and not self._roster.on_node(session.node):
            self._roster.node_down(session.node, "the process of this client is gone")

    def _received(self, session: _Session, request: Request) -> None:
        channel = session.channel
        match request:
            case GetStatus(number):
                task = asyncio.get_running_loop().create_task(self._answer(channel, number))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            case StopSystem(number, grace_s):
                channel.send(Stopping(number, self._stop(grace_s)))
            case Resolve(number, name):
                found = self._roster.instances(name)
                channel.send(Resolved(number, [location.to_wire() for location in found]))
            case Follow(number):
                session.unfollow()
                # Welcome comes last: whoever has it knows every actor.
                session.unfollow = self._roster.follow(channel.send)
                channel.send(Welcome(number, self._namespace, self._settings, True))
            case Join(node):
                session.node = node
            case Leave():
                session.node = ""

    async def _answer(self, channel: Channel[Request], number: int) -> None:
        try:
            channel.send(StatusReply(number, await self._status()))
        except Exception as error:
            log.exception("the status cannot be told")
            channel.send(Failed(number, f"{type(error).__name__}: {error}"))

    def __repr__(self) -> str:
        return f"<AdminServer {self._namespace}, {len(self._sessions)} sessions>"


class _Session:
    """One client."""

    channel: Channel[Request]

    def __init__(self) -> None:
        self.unfollow: Callable[[], None] = lambda: None
        self.node = ""


class AdminClient:
    """Asks a running system. ``pushed`` gets the changes of the directory, ``lost`` the end of the system."""

    def __init__(
        self, *, pushed: Callable[[Push], None] | None = None, lost: Callable[[], None] | None = None
    ) -> None:
        self._pushed, self._on_lost = pushed, lost
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._channel: Channel[Reply] | None = None
        self._joins = False

    async def connect(self, directory: Path) -> None:
        """Connect to the system in a runtime directory. Raises `NotRunning`."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(sock, str(directory / "admin.sock"))
            self._channel = await Channel.over(sock, _replies, self._received, self._lost)
        except OSError as error:
            sock.close()
            raise NotRunning(directory) from error

    async def follow(self, limit_s: float = 5.0) -> Welcome:
        """Get the directory and every change of it from now on."""
        reply = await self._ask(Follow, limit_s)
        assert isinstance(reply, Welcome)
        self._joins = reply.joins
        return reply

    def join(self, node: str) -> None:
        """Say as which node this process calls actors, so that they hear of its end at once."""
        if self._joins and self._channel is not None:
            self._channel.send(Join(node))

    def leave(self) -> None:
        """Say that the node is closed: what it had sent last still counts."""
        if self._joins and self._channel is not None:
            self._channel.send(Leave())

    async def status(self, limit_s: float = 5.0) -> SystemStatus:
        """What the system looks like, with the counters of its actors."""
        reply = await self._ask(GetStatus, limit_s)
        assert isinstance(reply, StatusReply)
        return reply.status

    async def stop(self, grace_s: float | None, limit_s: float = 5.0) -> float:
        """Begin to stop the system; returns the seconds after which it kills what is left."""
        reply = await self._ask(lambda number: StopSystem(number, grace_s), limit_s)
        assert isinstance(reply, Stopping)
        return reply.grace_s

    async def resolve(self, name: str, limit_s: float = 5.0) -> list[WireLocation]:
        """What a name stands for now."""
        reply = await self._ask(lambda number: Resolve(number, name), limit_s)
        assert isinstance(reply, Resolved)
        return reply.locations

    async def close(self) -> None:
        """Hang up; idempotent."""
        if self._channel is not None:
            await self._channel.close()

    async def _ask(self, request: Callable[[int], Request], limit_s: float) -> Reply:
        """Raises `AdminError` if the system refuses or goes away, `TimeoutError` if it does not answer."""
        number = next(self._numbers)
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        try:
            if self._channel is None or not self._channel.send(request(number)):
                raise AdminError("the system is gone")
            async with asyncio.timeout(limit_s):
                reply = await future
        except TimeoutError:
            raise TimeoutError(
                f"the system has not answered within {limit_s:g} s: it is frozen or busy"
            ) from None
        finally:
            del self._waiting[number]
        if isinstance(reply, Failed):
            raise AdminError(reply.error)
        return reply

    def _received(self, reply: Reply) -> None:
        if isinstance(reply, Push):
            if self._pushed is not None:
                self._pushed(reply)
            return
        future = self._waiting.get(reply.number)
        if future is not None and not future.done():
            future.set_result(reply)

    def _lost(self, error: Exception | None) -> None:
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(AdminError("the system went away before it answered"))
        with contextlib.suppress(Exception):
            if self._on_lost is not None:
                self._on_lost()
