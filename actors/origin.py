"""The answering side of one link: messages of one peer go in, answers, items and credit go out.

A peer may have as many messages waiting in one mailbox as the window of that actor says. What leaves the mailbox
gives credit back, half a window at a time, but not while the mailbox is over its bounds. So a message that
arrives has a place, and a peer that sends more is at fault.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from time import monotonic
from typing import Any, Protocol

from msgspec import Raw

from callboard.transports.base import Link
from callboard.transports.errors import TransportError

from .cell import Cell
from .codec import Codec, decode_plain
from .envelope import CANCEL, CREDIT, ERROR, MALFORMED, MORE, OPEN, REPLY, TELL, Envelope, split
from .errors import ActorStopped, CodecError, EncodeError, UnknownMethod
from .failure import shortened, to_facts
from .mailbox import Letter
from .outbox import Outbox, total_bytes
from .pending import INFINITE
from .producer import RemoteProducer
from .signature import unknown_method

log = logging.getLogger("callboard.actors")


class Host(Protocol):
    """What an origin needs from its node."""

    codec: Codec
    cells: dict[int, Cell]
    dropped_tells: int


class Inlet:
    """One peer's way into one mailbox: counts what was taken, to give credit back."""

    __slots__ = ("bytes", "cell", "count", "half", "half_bytes", "origin", "withheld")

    def __init__(self, origin: Origin, cell: Cell) -> None:
        self.origin = origin
        self.cell = cell
        self.count = self.bytes = 0
        self.half = max(1, cell.location.window // 2)
        self.half_bytes = cell.location.window_bytes // 2
        self.withheld = False

    def taken(self, size: int) -> None:
        """A message of ``size`` bytes left the mailbox."""
        self.count += 1
        self.bytes += size
        if self.count >= self.half or self.bytes >= self.half_bytes:
            if not self.cell.mailbox.full:
                self.give()
            elif not self.withheld:
                self.withheld = True
                self.cell.rooms.append(self)

    def admit(self, *, open_: bool) -> bool:
        """See `Waiter`: the mailbox has room again, so return what was withheld."""
        self.withheld = False
        self.give()
        return False

    def give(self) -> None:
        """Return the credit collected so far."""
        if self.count:
            self.origin.post_plain((CREDIT, 0, [self.count, self.bytes], self.cell.location.number))
            self.count = self.bytes = 0


class Origin:
    """A peer that dialled us."""

    __slots__ = ("calls", "host", "inlets", "link", "outbox")

    def __init__(self, host: Host, link: Link, outbox: Outbox) -> None:
        self.host = host
        self.link = link
        self.outbox = outbox
        self.calls: dict[int, Letter] = {}
        """Every ask and stream that waits or runs here, by the caller's id."""
        self.inlets: dict[int, Inlet] = {}

    def __repr__(self) -> str:
        return f"<Origin {self.link.peer.name} {len(self.calls)} open>"

    @property
    def idle(self) -> bool:
        """True if nothing is owed to this peer."""
        return not self.calls and self.outbox.idle

    # -- from the peer

    def received(self, frames: Sequence[bytes | memoryview]) -> None:
        """Take one message of the plane; a malformed one ends the link."""
        try:
            envelopes = split(frames[0])
        except MALFORMED as error:
            log.warning("closing the link from %s: it sent a malformed batch: %s", self.link.peer.name, error)
            self.link.close()
            return
        buffers = frames[1:] if len(frames) > 1 else ()
        now = monotonic()
        inlets = self.inlets
        for envelope in envelopes:
            kind = envelope.kind
            if kind <= OPEN:
                inlet = inlets.get(envelope.target) or self._inlet(envelope, buffers)
                if inlet is not None:
                    self._take(envelope, inlet, now, buffers)
            elif kind == MORE:
                letter = self.calls.get(envelope.id)
                if letter is not None and letter.producer is not None:
                    self._more(letter, envelope.body)
            elif kind == CANCEL:
                letter = self.calls.pop(envelope.id, None)
                if letter is not None:
                    letter.cell.cancel(letter)

    def _inlet(self, envelope: Envelope, buffers: Any) -> Inlet | None:
        cell = self.host.cells.get(envelope.target)
        if cell is None:
            error = ActorStopped("it has been stopped")
            self._refuse(envelope, error, "an actor that has been stopped", 0)
            # What waits at the sender has to come out, too, to be refused.
            self.post_plain((CREDIT, 0, [1, len(envelope.body) + total_bytes(buffers)], envelope.target))
            return None
        inlet = self.inlets[envelope.target] = Inlet(self, cell)
        return inlet

    def _take(self, envelope: Envelope, inlet: Inlet, now: float, buffers: Any) -> None:
        cell = inlet.cell
        method = cell.methods.get(envelope.method)
        kind = envelope.kind
        body = envelope.body
        size = len(body)
        for buffer in buffers:
            size += memoryview(buffer).nbytes
        if method is None or method.streams is not (kind == OPEN):
            inlet.taken(size)
            why = unknown_method(cell.cls, envelope.method, streams=kind == OPEN)
            self._refuse(envelope, UnknownMethod(why), cell.location.name, cell.location.incarnation)
            return
        letter = Letter(
            kind,
            envelope.id,
            method,
            self,
            now + envelope.budget_s if envelope.budget_s else INFINITE,
            body,
            None,
            None,
            buffers,
            size,
            inlet,
            cell,
        )
        if envelope.extra is not None:
            chain = envelope.extra.get("c")
            letter.chain = tuple(chain) if type(chain) is list else ()
            letter.extra = envelope.extra
        if kind != TELL:
            self.calls[envelope.id] = letter
        cell.deliver(letter)

    def _more(self, letter: Letter, body: Raw) -> None:
        try:
            items, size = decode_plain(body)
            letter.producer.more(int(items), int(size))
        except (CodecError, TypeError, ValueError, OverflowError):
            log.warning("%s sent a credit that cannot be read", self.link.peer.name)

    def _refuse(self, envelope: Envelope, error: Exception, actor: str, incarnation: int) -> None:
        if envelope.kind == TELL:
            self.host.dropped_tells += 1
            log.warning("dropped a tell of %s to %s: %s", envelope.method, actor, error)
        else:
            self.post_plain((ERROR, envelope.id, to_facts(error, actor, incarnation, ran=False)))

    # -- to the peer

    def reply(self, letter: Letter, value: Any) -> None:
        """Answer an ask; what cannot be sent becomes the error."""
        if self.calls.pop(letter.id, None) is None:
            return  # the caller has left
        codec = self.host.codec
        try:
            body, buffers = codec.encode(value, "the result")
            part = codec.pack((REPLY, letter.id, Raw(body)))
            if buffers is None:
                self.outbox.post(part)
            else:
                self.outbox.post_with(part, buffers)
        except (EncodeError, TransportError) as error:
            self._post_error(letter, error, ran=True)

    def fail(self, letter: Letter, error: BaseException, *, ran: bool) -> None:
        """Answer with an error; for a tell this does nothing."""
        if letter.kind != TELL and self.calls.pop(letter.id, None) is not None:
            self._post_error(letter, error, ran=ran)

    def _post_error(self, letter: Letter, error: BaseException, *, ran: bool) -> None:
        location = letter.cell.location
        facts = to_facts(error, location.name, location.incarnation, ran=ran)
        if letter.producer is not None:
            facts["n"] = letter.producer.sent
        self.post_plain((ERROR, letter.id, facts))

    def finish(self, letter: Letter, items: int) -> None:
        """End a stream after ``items`` items; its END is posted by the producer."""
        self.calls.pop(letter.id, None)

    def producer(self, letter: Letter) -> RemoteProducer:
        """Make the sending side of a stream."""
        granted = (letter.extra or {}).get("w")
        items, size = granted if type(granted) is list and len(granted) == 2 else (0, 0)
        if type(items) is not int or type(size) is not int:
            items = size = 0
        return RemoteProducer(self.outbox, self.host.codec, letter.id, items, size)

    def forget(self, letter: Letter) -> None:
        """Nobody waits for this letter any more."""
        self.calls.pop(letter.id, None)

    def post_plain(self, envelope: tuple[Any, ...]) -> None:
        """Post an envelope of plain data; an error that is too large for a message is shortened."""
        pack = self.host.codec.pack
        try:
            self.outbox.post(pack(envelope))
        except TransportError:
            self.outbox.post(pack((ERROR, envelope[1], shortened(envelope[2]))))

    def writable(self) -> None:
        """The link has room again."""
        self.outbox.flush()

    def down(self) -> None:
        """The link is gone: nobody waits for any of it."""
        calls, self.calls = self.calls, {}
        self.outbox.detach()
        for letter in calls.values():
            letter.cell.cancel(letter)
        for inlet in self.inlets.values():
            if inlet.withheld:
                inlet.cell.rooms.remove(inlet)
        self.inlets.clear()
