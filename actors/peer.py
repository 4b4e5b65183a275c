"""The asking side of one link: a node that we dial, and what comes back from it.

On a plane where each actor has an address of its own (`Capabilities.endpoints`), each has an outbox of its own, too:
what a tick produces for one actor leaves as one frame, on that actor's lane.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, cast

from callboard.transports.base import LaneLink, Link
from callboard.transports.errors import CallboardError, TransportError

from .directory import Location, split_name
from .envelope import (
    CREDIT,
    END,
    ERROR,
    ITEMS,
    MALFORMED,
    OPEN,
    REPLY,
    TELL,
    Answer,
    split,
)
from .errors import ActorUnavailable, CodecError, DecodeError
from .failure import from_facts
from .outbox import Outbox, total_bytes
from .outcome import note
from .outlet import Host, Outlet
from .policy import Executed
from .stream import Reader

log = logging.getLogger("callboard.actors")


class Peer:
    """A node that we dial when the first message for it comes."""

    __slots__ = ("_lanes", "_outboxes", "address", "host", "link", "loop", "node", "outbox", "outlets")

    def __init__(
        self, host: Host, address: str, node: str, limit_bytes: int, setting: str, *, lanes: bool = False
    ) -> None:
        self.host = host
        self.address = address
        self.node = node
        self.loop = asyncio.get_running_loop()
        self.link: Link | None = None
        self.outbox = Outbox(self.loop, limit_bytes, setting, self._refused)
        self.outlets: dict[int, Outlet] = {}
        self._lanes = lanes
        self._outboxes: dict[int, tuple[Location, Outbox]] = {}
        """Those of single actors, by the actor's number."""

    def __repr__(self) -> str:
        return f"<Peer {self.node} at {self.address}, {'up' if self.link else 'not connected'}>"

    @property
    def idle(self) -> bool:
        """True if nothing waits to be sent and no answer is awaited."""
        return (
            self.outbox.idle
            and all(outbox.idle for _, outbox in self._outboxes.values())
            and all(outlet.idle for outlet in self.outlets.values())
            and not self._calls()
            and not self._readers()
        )

    def outlet(self, location: Location) -> Outlet:
        """The way to one of its actors."""
        outlet = self.outlets.get(location.number)
        if outlet is None:
            outlet = self.outlets[location.number] = Outlet(self, location, self._outbox(location))
        return outlet

    def _outbox(self, location: Location) -> Outbox:
        if not self._lanes:
            return self.outbox
        self._forget_idle()
        outbox = Outbox(self.loop, self.outbox.limit_bytes, self.outbox.setting, self._refused)
        self._outboxes[location.number] = location, outbox
        if self.link is not None:
            self._attach(location, outbox, self.link)
        return outbox

    def _attach(self, location: Location, outbox: Outbox, link: Link) -> None:
        component, index = split_name(location.name)
        outbox.attach(cast(LaneLink, link).lane(component, index))

    def connected(self, link: Link) -> None:
        """The link is up: send what has been collected."""
        self.link = link
        self.outbox.attach(link)
        for location, outbox in list(self._outboxes.values()):
            self._attach(location, outbox, link)

    def writable(self) -> None:
        """The link has room again: outboxes take turns, the one that was served last comes last."""
        self.outbox.flush()
        for number in list(self._outboxes):
            if self.link is None or self.link.full:
                return
            entry = self._outboxes.pop(number)
            self._outboxes[number] = entry
            entry[1].flush()

    def _forget_idle(self) -> None:
        """Drop the outboxes of actors that are gone, once nobody can post there any more."""
        gone = {
            number
            for number, (_, outbox) in self._outboxes.items()
            if number not in self.outlets and outbox.idle
        }
        if gone:
            calls, readers = self.host.pending.calls, self.host.readers
            routes = [calls[i].route for i in self._calls()] + [readers[i].route for i in self._readers()]
            for number in gone - {route.location.number for route in routes}:
                del self._outboxes[number]

    def received(self, frames: Sequence[bytes | memoryview]) -> None:
        """Take one message of the plane; a malformed one ends the link."""
        pending = self.host.pending
        calls = pending.calls
        try:
            answers = self.host.codec.answers(frames)
        except (*MALFORMED, DecodeError):
            self._received_singly(frames)
            return
        for answer in answers:
            if answer.kind == REPLY:
                call = calls.pop(answer.id, None)
                if call is None:
                    pending.late += 1
                    continue
                future = call.future
                if not future.done():
                    future.set_result(answer.body)
            else:
                self._other(answer, frames)

    def _received_singly(self, frames: Sequence[bytes | memoryview]) -> None:
        """Of a batch that cannot be decoded as a whole: the answers that can, and errors for the others."""
        try:
            envelopes = split(frames[0])
        except MALFORMED as error:
            log.warning("closing the link to %s: it sent a malformed batch: %s", self.node, error)
            if self.link is not None:
                self.link.close()
            return
        for envelope in envelopes:
            answer = Answer(envelope.kind, envelope.id, None, envelope.target)
            try:
                answer.body = self.host.codec.decode(envelope.body, frames[1:])
            except DecodeError as error:
                self._unreadable(answer, error)
                continue
            if answer.kind != REPLY:
                self._other(answer, frames)
            elif (call := self.host.pending.calls.pop(answer.id, None)) is None:
                self.host.pending.late += 1
            elif not call.future.done():
                call.future.set_result(answer.body)

    def _other(self, answer: Answer, frames: Sequence[Any]) -> None:
        kind, host, body = answer.kind, self.host, answer.body
        try:
            if kind == ITEMS:
                reader = host.readers.get(answer.id)
                if reader is not None:
                    if type(body) is not list:
                        raise DecodeError("a record that is no list")
                    reader.feed(body, answer.target + (total_bytes(frames[1:]) if len(frames) > 1 else 0))
            elif kind == END:
                reader = host.readers.pop(answer.id, None)
                if reader is not None:
                    reader.finish(_missing(reader, body))
            elif kind == ERROR:
                self._failed(answer.id, from_facts(body))
            elif kind == CREDIT:
                messages, size = body
                outlet = self.outlets.get(answer.target)
                if outlet is not None:
                    outlet.more(int(messages), int(size))
        except (CodecError, TypeError, ValueError, OverflowError) as error:
            self._unreadable(answer, error)

    def _unreadable(self, answer: Answer, error: Exception) -> None:
        log.warning("%s sent an answer that cannot be read: %s", self.node, error)
        if answer.kind in (ITEMS, END):
            reader = self.host.readers.get(answer.id)
            if reader is not None:
                where = reader.route.location
                note(error, where.name, where.incarnation, Executed.YES)
                reader.route.cancel(answer.id)
                reader.finish(error)
        elif answer.kind in (ERROR, REPLY):
            self._failed(answer.id, error, Executed.MAYBE if answer.kind == ERROR else Executed.YES)

    def _failed(self, call_id: int, error: Exception, executed: Executed | None = None) -> None:
        """Fail a call; ``executed`` is given where the error does not say it itself."""
        call = self.host.pending.calls.pop(call_id, None)
        reader = self.host.readers.pop(call_id, None) if call is None else None
        if (waiting := call or reader) is not None:
            where = waiting.route.location
            if executed is not None:
                note(error, where.name, where.incarnation, executed)
            elif isinstance(error, CallboardError) and not error.actor:
                error.of(where.name, where.incarnation, error.executed)
        if call is not None:
            if not call.future.done():
                call.future.set_exception(error)
        elif reader is not None:
            reader.finish(error)
        else:
            self.host.pending.late += 1

    def _refused(self, frames: Sequence[Any], error: TransportError) -> None:
        """The outbox could not send a message, although it was posted."""
        (envelope,) = split(frames[0])
        self.refuse(envelope.id, error)
        outlet = self.outlets.get(envelope.target)
        if outlet is not None:  # it will not be taken from the mailbox
            outlet.more(1, len(envelope.body) + total_bytes(frames[1:]))

    def refuse(self, call_id: int, error: TransportError) -> None:
        """A message that was accepted cannot be sent: fail the call, count the tell."""
        if call_id:
            self._failed(call_id, error, Executed.NEVER)
        else:
            self.host.dropped_tells += 1
            log.warning("dropped a tell to %s: %s", self.node, error)

    def _calls(self) -> list[int]:
        return [i for i, call in self.host.pending.calls.items() if getattr(call.route, "peer", None) is self]

    def _readers(self) -> list[int]:
        return [i for i, reader in self.host.readers.items() if getattr(reader.route, "peer", None) is self]

    def down(self, why: str) -> None:
        """The link is gone, or could not be made: everything outstanding fails now."""
        link, self.link = self.link, None
        never = self._unsent(link)
        for outlet in self.outlets.values():
            never |= outlet.down()
        for call_id in {*self._calls(), *self._readers()}:
            self._unavailable(call_id, why, Executed.NEVER if call_id in never else Executed.MAYBE)

    def actor_down(self, location: Location, why: str) -> None:
        """One of its actors is gone: what waits here for credit fails now; the node answers what it has got."""
        outlet = self.outlets.pop(location.number, None)
        for call_id in outlet.down() if outlet is not None else ():
            self._unavailable(call_id, why, Executed.NEVER)

    def _unsent(self, link: Link | None) -> set[int]:
        """Empty the outboxes; returns the calls that reached nobody, and counts the tells."""
        never: set[int] = set()
        frames = [frame for outbox in self._every_outbox() for frame in outbox.detach()]
        if link is not None:
            frames += [bytes(message[0]) for message in link.undelivered()]
        for frame in frames:
            for envelope in split(frame):
                if envelope.kind == TELL:
                    self.host.dropped_tells += 1
                elif envelope.kind <= OPEN:
                    never.add(envelope.id)
        return never

    def _every_outbox(self) -> list[Outbox]:
        return [self.outbox, *(outbox for _, outbox in self._outboxes.values())]

    def _unavailable(self, call_id: int, why: str, executed: Executed) -> None:
        calls, readers = self.host.pending.calls, self.host.readers
        call = calls.get(call_id) or readers.get(call_id)
        if call is not None:
            where = call.route.location
            error = ActorUnavailable(why, actor=where.name, incarnation=where.incarnation, executed=executed)
            self._failed(call_id, error)


def _missing(reader: Reader, sent: Any) -> DecodeError | None:
    """What is wrong with a stream that has ended after ``sent`` items."""
    if type(sent) is int and sent == reader.received:  # an array would not say whether it is equal
        return None
    where = reader.route.location
    count = sent if type(sent) is int else f"(a {type(sent).__name__})"
    error = DecodeError(f"the stream ended after {count} items, of which {reader.received} arrived")
    return error.of(where.name, where.incarnation, Executed.YES)
