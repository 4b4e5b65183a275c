"""The way to one actor incarnation in another process.

It spends the credit of that actor's window; what exceeds it waits in a backlog of the same size, and when that is
full too, the caller is told. Bytes of credit are those of the body and its buffers: what both sides know exactly, so
that what is spent comes back.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from msgspec import Raw

from callboard.transports.errors import CallboardError, TooLarge, TransportError
from callboard.transports.stable import stable

from .codec import Codec
from .directory import Location
from .envelope import ASK, CANCEL, MORE, OPEN, TELL, array_header
from .errors import EncodeError, MailboxFull
from .hooks import HOOKS, with_trace
from .outbox import Outbox, total_bytes
from .pending import Call, PendingTable
from .policy import Executed
from .producer import WINDOW_BYTES, WINDOW_ITEMS
from .stream import Reader

E = TypeVar("E", bound=CallboardError)


TELL_HEAD = array_header(7) + bytes((TELL, 0))
"""What comes before the body of every tell. Between such bytes, a body is not encoded once more."""
MOST_TAILS = 64


class Host(Protocol):
    """What an outlet needs from its node."""

    codec: Codec
    pending: PendingTable
    readers: dict[int, Reader]
    dropped_tells: int

    @property
    def next_id(self) -> Callable[[], int]:
        """Returns an id that no open call has."""


class Way(Protocol):
    """What an outlet needs from its peer."""

    host: Host
    loop: asyncio.AbstractEventLoop

    def refuse(self, call_id: int, error: TransportError) -> None:
        """A message that was accepted cannot be sent: fail the call, count the tell."""


class Outlet:
    """The way to one actor incarnation in another process."""

    __slots__ = (
        "_backlog", "_bytes", "_create_future", "_credit", "_encode", "_gone", "_next_id", "_number", "_pack",
        "_pending", "_reserved", "_rooms", "_tails", "_waiting_bytes", "crowded", "location", "outbox", "peer",
    )  # fmt: skip

    def __init__(self, peer: Way, location: Location, outbox: Outbox) -> None:
        self.peer = peer
        self.outbox = outbox
        self.location = location
        self._number = location.number
        self._tails: dict[str, bytes] = {}
        self._pending, self._next_id = peer.host.pending, peer.host.next_id
        self._create_future = peer.loop.create_future
        self._encode, self._pack = peer.host.codec.encode, peer.host.codec.pack
        self._credit = location.window
        self._bytes = location.window_bytes
        self._backlog: deque[tuple[int, bytes, Sequence[Any], int]] = deque()
        """Call id (0 for a tell), envelope, buffers behind it, bytes of credit that it takes."""
        self._gone, self._waiting_bytes = False, 0
        self._rooms: deque[asyncio.Future[bool]] = deque()
        self._reserved = 0
        """Places in the backlog that are kept for those who waited for them."""
        self.crowded = False
        """True while the backlog is full or somebody waits already: a tell raises, an ask waits for `room`."""

    def __repr__(self) -> str:
        return f"<Outlet {self.location.name} credit {self._credit}, {len(self._backlog)} wait>"

    @property
    def full(self) -> bool:
        """True if a tell would raise."""
        return self.crowded

    def ask(
        self,
        method: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        budget_s: float,
        deadline: float,
        extra: Any,
    ) -> tuple[int, asyncio.Future[Any]]:
        """Send an ask; returns its id and the future of its answer."""
        call_id = self._next_id()
        future: asyncio.Future[Any] = self._create_future()
        pending = self._pending
        # Before it is sent: the link may break of that.
        pending.calls[call_id] = Call(future, self, deadline, method)
        if deadline < pending.nearest:
            pending.nearest = deadline
            pending.arm(deadline)
        try:
            if kwargs or extra is not None or HOOKS.on:
                self._encode_and_send(ASK, call_id, method, args, kwargs, budget_s, extra)
                return call_id, future
            try:
                body, buffers = self._encode(list(args), "arguments")
            except EncodeError as error:
                raise self._of_argument(error, method) from None
            part = self._pack((ASK, call_id, Raw(body), self._number, method, budget_s, None))
            if buffers is None and self._credit > 0 and self._bytes > 0 and not self._backlog:
                self.outbox.post(part)
                self._bytes -= len(body)
                self._credit -= 1
            else:
                self._send(call_id, part, len(body), buffers)
        except BaseException as error:
            pending.calls.pop(call_id, None)
            if isinstance(error, TooLarge):
                self._of(error)
            raise
        return call_id, future

    def tell(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], extra: Any) -> None:
        """Send a tell; raises `MailboxFull` if credit and backlog are used up."""
        if self.crowded:
            raise MailboxFull(
                f"{len(self._backlog)} messages wait here for room in its mailbox; use tell_wait",
                actor=self.location.name,
                incarnation=self.location.incarnation,
            )
        if kwargs or extra is not None or HOOKS.on:
            self._encode_and_send(TELL, 0, method, args, kwargs, 0, extra)
            return
        try:
            body, buffers = self._encode(list(args), "arguments")
        except EncodeError as error:
            raise self._of_argument(error, method) from None
        tail = self._tails.get(method) or self._tail(method)
        part = TELL_HEAD + body + tail
        if buffers is None and self._credit > 0 and self._bytes > 0 and not self._backlog:
            try:
                self.outbox.post(part)
            except TooLarge as error:
                raise self._of(error) from None
            self._bytes -= len(body)
            self._credit -= 1
        else:
            self._send(0, part, len(body), buffers)

    def _tail(self, method: str) -> bytes:
        """What follows the body in every plain tell of ``method``."""
        tail = self._pack((self._number, method, 0, None))[1:]
        if len(self._tails) < MOST_TAILS:
            self._tails[method] = tail
        return tail

    def put(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Send a tell for which there is a place: see `room`."""
        self._encode_and_send(TELL, 0, method, args, kwargs, 0, None)

    def open(
        self,
        reader: Reader,
        method: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        budget_s: float,
        extra: Any,
    ) -> int:
        """Open a stream that feeds ``reader``; returns its id."""
        call_id = self.peer.host.next_id()
        granted = (extra or {}) | {"w": [WINDOW_ITEMS, WINDOW_BYTES]}
        reader.route = self
        reader.more = lambda items, size: self._post_plain((MORE, call_id, [items, size]))
        self.peer.host.readers[call_id] = reader
        try:
            self._encode_and_send(OPEN, call_id, method, args, kwargs, budget_s, granted)
        except BaseException:
            self.peer.host.readers.pop(call_id, None)
            raise
        return call_id

    def cancel(self, call_id: int) -> None:
        """Forget a call and tell the peer, unless it never left."""
        host = self.peer.host
        host.pending.calls.pop(call_id, None)
        host.readers.pop(call_id, None)
        if not self.forget_waiting(call_id):
            self._post_plain((CANCEL, call_id, None))

    def _post_plain(self, envelope: tuple[Any, ...]) -> None:
        """Post what needs no credit, behind the call that it is about."""
        self.outbox.post(self._pack(envelope))

    def forget_waiting(self, call_id: int) -> bool:
        """Take a call out of the backlog; False if it is not there: it has been sent."""
        for entry in self._backlog:
            if entry[0] == call_id:
                self._backlog.remove(entry)
                self._waiting_bytes -= entry[3]
                self._let_in()
                return True
        return False

    async def room(self) -> bool:
        """Return True when there is a place for a message that is sent at once, in the order of those who wait.

        False if the way is gone: look for another.
        """
        future: asyncio.Future[bool] = self.peer.loop.create_future()
        self._rooms.append(future)
        self.crowded = True
        try:
            return await future and not self._gone
        finally:
            if future.done() and not future.cancelled() and future.result():
                self._reserved -= 1
            self.peer.loop.call_soon(self._let_in)  # after the message, if there is one

    def _encode_and_send(
        self,
        kind: int,
        call_id: int,
        method: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        budget_s: float,
        extra: Any,
    ) -> None:
        try:
            body, buffers = self._encode(
                list(args) if not kwargs else {"a": list(args), "k": kwargs}, "arguments"
            )
        except EncodeError as error:
            raise self._of_argument(error, method) from None
        if HOOKS.on:
            extra = with_trace(extra, self.location.name, method)
        part = self._pack((kind, call_id, Raw(body), self._number, method, budget_s, extra))
        self._send(call_id, part, len(body), buffers)

    def _send(self, call_id: int, part: bytes, size: int, buffers: Sequence[Any] | None) -> None:
        """Post an envelope with a body of ``size`` bytes, or keep it until there is credit."""
        if buffers is not None:
            size += total_bytes(buffers)
        try:
            if self._credit > 0 and self._bytes > 0 and not self._backlog:
                if buffers is None:
                    self.outbox.post(part)
                else:
                    self.outbox.post_with(part, buffers)
                self._bytes -= size
                self._credit -= 1
            else:
                self.outbox.check(len(part) + (0 if buffers is None else total_bytes(buffers)))
                self._backlog.append((call_id, part, stable(buffers) if buffers else (), size))
                self._waiting_bytes += size
                self.crowded = self.crowded or not self._has_room()
        except TooLarge as error:
            raise self._of(error) from None

    def _of(self, error: E) -> E:
        """The error of a message that did not leave."""
        return error.of(self.location.name, self.location.incarnation, Executed.NEVER)

    def _of_argument(self, error: EncodeError, method: str) -> EncodeError:
        path = f"{self.location.name}.{method}: {argument_path(error.path)}"
        return self._of(EncodeError(path, error.why))

    def more(self, messages: int, size: int) -> None:
        """The actor gave credit back."""
        self._credit += messages
        self._bytes += size
        backlog = self._backlog
        while backlog and self._credit > 0 and self._bytes > 0:
            call_id, part, buffers, length = backlog.popleft()
            self._waiting_bytes -= length
            try:
                if buffers:
                    self.outbox.post_with(part, buffers)
                else:
                    self.outbox.post(part)
            except TooLarge as error:  # it was put here before the peer had said its limit
                self.peer.refuse(call_id, error)
                continue
            self._credit -= 1
            self._bytes -= length
        self._let_in()

    def _has_room(self) -> bool:
        location = self.location
        waiting = len(self._backlog) + self._reserved
        return waiting < location.window and self._waiting_bytes < location.window_bytes

    def _let_in(self) -> None:
        rooms = self._rooms
        while rooms and self._has_room():
            future = rooms.popleft()
            if not future.done():
                future.set_result(True)
                self._reserved += 1
        self.crowded = bool(rooms or self._reserved) or not self._has_room()

    @property
    def idle(self) -> bool:
        """True if nothing waits here for credit."""
        return not self._backlog

    def down(self) -> set[int]:
        """The way is gone: drop the backlog and return the ids in it, which were never sent."""
        self._gone = True
        never = {entry[0] for entry in self._backlog}
        self.peer.host.dropped_tells += sum(not entry[0] for entry in self._backlog)
        self._backlog.clear()
        while self._rooms:
            future = self._rooms.popleft()
            if not future.done():
                future.set_result(False)
        return never


def argument_path(path: str) -> str:
    """Turn the path in the encoded body into one that the caller knows.

    >>> argument_path("arguments['k']['prompt'].x"), argument_path("arguments[0]['a']")
    ("argument 'prompt'.x", "argument 0['a']")
    """
    for prefix in ("arguments['k'][", "arguments['a'][", "arguments["):
        if path.startswith(prefix):
            name, _, rest = path[len(prefix) :].partition("]")
            return f"argument {name}{rest}"
    return path
