"""The way to an actor of the same process: no encoding, the same objects arrive, the rest is as elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Any, Protocol

from callboard.transports.errors import CallboardError

from .cell import Cell
from .directory import Location
from .envelope import ASK, OPEN, TELL
from .errors import ActorStopped, MailboxFull, UnknownMethod
from .failure import from_facts, to_facts
from .hooks import HOOKS, with_trace
from .mailbox import Letter
from .outcome import note
from .pending import INFINITE, Call, PendingTable
from .policy import Executed, Overflow
from .producer import LocalProducer
from .signature import Method, unknown_method
from .stream import Reader


class Host(Protocol):
    """What local messages need from their node."""

    pending: PendingTable
    readers: dict[int, Reader]

    @property
    def next_id(self) -> Callable[[], int]:
        """Returns an id that no open call has."""


class LocalOrigin:
    """Takes the answers to messages of the same process."""

    __slots__ = ("calls", "host")

    def __init__(self, host: Host) -> None:
        self.host = host
        self.calls: dict[int, Letter] = {}

    def route(self, cell: Cell) -> LocalRoute:
        """The way to one actor."""
        return LocalRoute(self, cell)

    def reply(self, letter: Letter, value: Any) -> None:
        """Answer an ask."""
        self.calls.pop(letter.id, None)
        call = self.host.pending.calls.pop(letter.id, None)
        if call is None:
            self.host.pending.late += 1
        elif not call.future.done():
            call.future.set_result(value)

    def fail(self, letter: Letter, error: BaseException, *, ran: bool) -> None:
        """Answer with an error; for a tell this does nothing."""
        if letter.kind == TELL:
            return
        self.calls.pop(letter.id, None)
        location = letter.cell.location
        # The same facts as between processes, so that errors do not depend on where an actor runs. The
        # handler's own exception is passed on as it is, with its traceback.
        known: Exception = from_facts(to_facts(error, location.name, location.incarnation, ran=ran))
        if (
            ran
            and isinstance(error, Exception)
            and type(known) is type(error)
            and not isinstance(error, CallboardError)
        ):
            note(error, location.name, location.incarnation, Executed.YES)
            known = error
        call = self.host.pending.calls.pop(letter.id, None)
        if call is not None:
            if not call.future.done():
                call.future.set_exception(known)
            return
        reader = self.host.readers.pop(letter.id, None)
        if reader is not None:
            reader.finish(known)

    def forget(self, letter: Letter) -> None:
        """Nobody waits for this letter any more."""
        self.calls.pop(letter.id, None)
        self.host.readers.pop(letter.id, None)

    def producer(self, letter: Letter) -> LocalProducer:
        """Make the sending side of a stream."""
        reader = self.host.readers[letter.id]
        producer = LocalProducer(reader)
        reader.more = producer.more
        return producer


class _Room:
    """A sender of this process that waits for room."""

    __slots__ = ("future",)

    def __init__(self, future: asyncio.Future[bool]) -> None:
        self.future = future

    def admit(self, *, open_: bool) -> bool:
        """See `Waiter`."""
        if self.future.done():
            return False
        self.future.set_result(open_)
        return open_


class LocalRoute:
    """The way to one actor incarnation of this process."""

    __slots__ = ("cell", "location", "origin")

    def __init__(self, origin: LocalOrigin, cell: Cell) -> None:
        self.origin = origin
        self.cell = cell
        self.location: Location = cell.location

    def __repr__(self) -> str:
        return f"<LocalRoute {self.location.name}>"

    @property
    def crowded(self) -> bool:
        """True if an ask has to wait for room."""
        cell = self.cell
        return cell.mailbox.policy.overflow is Overflow.BLOCK and (cell.mailbox.full or cell.queued)

    @property
    def full(self) -> bool:
        """True if a tell would raise."""
        cell = self.cell
        return cell.mailbox.policy.waits and (cell.mailbox.full or cell.queued)

    def ask(
        self,
        method: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        budget_s: float,
        deadline: float,
        extra: Any,
    ) -> tuple[int, asyncio.Future[Any]]:
        """Deliver an ask; returns its id and the future of its answer."""
        found = self._method(method, streams=False)
        host = self.origin.host
        call_id = host.next_id()
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        host.pending.add(call_id, Call(future, self, deadline, method))
        self._deliver(ASK, call_id, found, args, kwargs, deadline, extra)
        return call_id, future

    def tell(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], extra: Any) -> None:
        """Deliver a tell; raises `MailboxFull` or `ActorStopped` where an ask would be answered so."""
        found = self._method(method, streams=False)
        cell = self.cell
        if cell.takes_mail and self.full:
            limit = cell.mailbox.policy
            raise MailboxFull(
                f"its mailbox is full ({limit.messages} messages or {limit.bytes:,} bytes); use tell_wait",
                actor=self.location.name,
                incarnation=self.location.incarnation,
            )
        self._tell(found, args, kwargs, extra)

    def put(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Deliver a tell for which there is a place: see `room`."""
        self._tell(self._method(method, streams=False), args, kwargs, None)

    def _tell(self, method: Method, args: tuple[Any, ...], kwargs: dict[str, Any], extra: Any) -> None:
        if not self.cell.takes_mail:
            where = self.location
            raise ActorStopped("it is stopping", actor=where.name, incarnation=where.incarnation)
        self._deliver(TELL, 0, method, args, kwargs, INFINITE, extra)

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
        found = self._method(method, streams=True)
        host = self.origin.host
        call_id = host.next_id()
        reader.route = self
        host.readers[call_id] = reader
        # As between processes: what the handler asks has no more time than is left of the stream's.
        deadline = monotonic() + budget_s if budget_s else INFINITE
        self._deliver(OPEN, call_id, found, args, kwargs, deadline, extra)
        return call_id

    def cancel(self, call_id: int) -> None:
        """Forget a call and cancel its handler."""
        host = self.origin.host
        host.pending.calls.pop(call_id, None)
        host.readers.pop(call_id, None)
        letter = self.origin.calls.pop(call_id, None)
        if letter is not None:
            letter.cell.cancel(letter)

    def forget_waiting(self, call_id: int) -> bool:
        """True if the call waits in the mailbox: its handler will not run."""
        letter = self.origin.calls.get(call_id)
        return letter is not None and letter.task is None

    async def room(self) -> bool:
        """Return True when there is a place for a message that is sent at once, in the order of those who wait.

        False if the actor has stopped.
        """
        cell, loop = self.cell, asyncio.get_running_loop()
        if not cell.takes_mail:
            await asyncio.sleep(0)
            return False
        room = _Room(loop.create_future())
        cell.wait_for_room(room)
        cell.queued = True
        future = room.future
        try:
            return await future
        finally:
            if future.done() and not future.cancelled() and future.result():
                cell.reserved -= 1
            loop.call_soon(cell.let_in)  # after the message, if there is one

    def _method(self, name: str, *, streams: bool) -> Method:
        method = self.cell.methods.get(name)
        if method is None or method.streams is not streams:
            why = unknown_method(self.cell.cls, name, streams=streams)
            raise UnknownMethod(why, actor=self.location.name, incarnation=self.location.incarnation)
        return method

    def _deliver(
        self,
        kind: int,
        call_id: int,
        method: Method,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        deadline: float,
        extra: Any,
    ) -> None:
        if HOOKS.on:
            extra = with_trace(extra, self.location.name, method.name)
        letter = Letter(
            kind,
            call_id,
            None,
            extra=extra,
            method=method,
            origin=self.origin,
            deadline=deadline,
            args=list(args),
            kwargs=dict(kwargs) or None,
            cell=self.cell,
        )
        if extra is not None:
            letter.chain = tuple(extra.get("c", ()))
        if kind != TELL:
            self.origin.calls[call_id] = letter
        self.cell.deliver(letter)
