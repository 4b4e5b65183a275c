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
from .dropped import note_dropped
from .envelope import CANCEL, CREDIT, ERROR, MALFORMED, MORE, OPEN, REPLY, TELL, array_header
from .errors import ActorStopped, CodecError, EncodeError, UnknownMethod
from .extension import brief
from .failure import shortened, to_facts
from .mailbox import Letter, split_letters
from .outbox import Outbox, total_bytes
from .producer import RemoteProducer
from .signature import unknown_method

REPLY_HEAD = array_header(3) + bytes((REPLY,))

log = logging.getLogger("callboard.actors")


class Host(Protocol):
    """What an origin needs from its node."""

    codec: Codec
    cells: dict[int, Cell]
    dropped_tells: int


class Inlet:
    """One peer's way into one mailbox: counts what was taken, to give credit back."""

    __slots__ = (
        "bytes", "cell", "count", "half", "half_bytes", "methods", "origin", "over", "over_bytes", "withheld",
    )  # fmt: skip

    def __init__(self, origin: Origin, cell: Cell) -> None:
        self.origin = origin
        self.cell = cell
        self.methods = cell.methods
        self.count = self.bytes = 0
        self.half = max(1, cell.location.window // 2)
        self.half_bytes = cell.location.window_bytes // 2
        self.over = self.over_bytes = 0
        """What came since credit was given last, and found the mailbox full."""
        self.withheld = False

    def overflows(self, size: int) -> bool:
        """A message of ``size`` bytes finds the mailbox full; False if it came without credit.

        With credit, no more than a window can come before credit is given again.
        """
        location = self.cell.location
        if self.over >= location.window or self.over_bytes >= location.window_bytes:
            return False
        self.over += 1
        self.over_bytes += size
        return True

    def reject(self) -> None:
        """A message came without credit: the link ends."""
        self.origin.reject(f"sent more to {self.cell.location.name} than it had credit for")

    def taken(self, size: int) -> None:
        """A message of ``size`` bytes left the mailbox."""
        self.count += 1
        self.bytes += size
        if self.count >= self.half or self.bytes >= self.half_bytes:
            self.settle()

    def settle(self) -> None:
        """Half a window was taken: return it, or as soon as the mailbox has room again."""
        if not self.cell.mailbox.full:
            self.give()
        elif not self.withheld:
            self.withheld = True
            self.cell.wait_for_room(self)

    def returned(self, size: int) -> None:
        """A message that was taken is stashed, so it holds its place again; its credit may have been given already."""
        self.count -= 1
        self.bytes -= size

    def admit(self, *, open_: bool) -> bool:
        """See `Waiter`: the mailbox has room again, so return what was withheld."""
        self.withheld = False
        self.give()
        return False

    def give(self) -> None:
        """Return the credit collected so far."""
        if self.count > 0 or self.bytes > 0:
            self.origin.post_plain((CREDIT, 0, [self.count, self.bytes], self.cell.location.number))
            self.count = self.bytes = self.over = self.over_bytes = 0


class Origin:
    """A peer that dialled us."""

    __slots__ = ("calls", "host", "inlets", "is_down", "link", "outbox")

    def __init__(self, host: Host, link: Link, outbox: Outbox) -> None:
        self.host = host
        self.link = link
        self.outbox = outbox
        self.calls: dict[int, Letter] = {}
        """Every ask and stream that waits or runs here, by the caller's id."""
        self.inlets: dict[int, Inlet] = {}
        self.is_down = False

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
            letters = split_letters(frames[0])
        except MALFORMED as error:
            self.reject(f"sent a malformed batch: {error}")
            return
        buffers = frames[1:] if len(frames) > 1 else ()
        now = monotonic()
        inlet, target, calls = None, -1, self.calls
        for letter in letters:
            kind = letter.kind
            if kind > OPEN:
                self._control(letter)
                continue
            size = len(letter.body) if not buffers else len(letter.body) + total_bytes(buffers)
            if inlet is None or letter.target != target:
                target = letter.target
                inlet = self.inlets.get(target) or self._inlet(letter, size)
                if inlet is None:
                    continue
                methods, cell = inlet.methods, inlet.cell
            method = methods.get(letter.name)
            if method is None or method.streams is not (kind == OPEN):
                self._refuse_method(letter, inlet, size)
                continue
            letter.method = method
            letter.origin = self
            letter.inlet = inlet
            letter.cell = cell
            letter.size = size
            if letter.budget_s:
                letter.deadline = now + letter.budget_s
            if letter.extra is not None:
                chain = letter.extra.get("c")
                letter.chain = tuple(chain) if type(chain) is list else ()
            if buffers:
                letter.buffers = buffers
            if kind != TELL:
                calls[letter.id] = letter
            cell.deliver(letter)
        if self.is_down:  # what was delivered has ended the link, and nobody waits for the rest either
            self.down()

    def reject(self, fault: str) -> None:
        """End the link of a peer that does what no peer may."""
        if not self.is_down:
            log.warning("closing the link from %s: it %s", self.link.peer.name, fault)
            self.link.close()

    def _control(self, letter: Letter) -> None:
        kind = letter.kind
        if kind == MORE:
            stream = self.calls.get(letter.id)
            if stream is not None and stream.producer is not None:
                self._more(stream, letter.body)
        elif kind == CANCEL:
            call = self.calls.pop(letter.id, None)
            if call is not None:
                call.cell.cancel(call)

    def _inlet(self, letter: Letter, size: int) -> Inlet | None:
        cell = self.host.cells.get(letter.target)
        if cell is None:
            error = ActorStopped("it has been stopped")
            self._refuse(letter, error, "", 0)  # its caller knows whom it asked
            # What waits at the sender has to come out, too, to be refused.
            self.post_plain((CREDIT, 0, [1, size], letter.target))
            return None
        inlet = self.inlets[letter.target] = Inlet(self, cell)
        return inlet

    def _refuse_method(self, letter: Letter, inlet: Inlet, size: int) -> None:
        inlet.taken(size)
        cell = inlet.cell
        why = unknown_method(cell.cls, brief(letter.name), streams=letter.kind == OPEN)
        self._refuse(letter, UnknownMethod(why), cell.location.name, cell.location.incarnation)

    def _more(self, letter: Letter, body: Raw) -> None:
        try:
            items, size = decode_plain(body)
            letter.producer.more(int(items), int(size))
        except (CodecError, TypeError, ValueError, OverflowError):
            log.warning("%s sent a credit that cannot be read", self.link.peer.name)

    def _refuse(self, letter: Letter, error: Exception, actor: str, incarnation: int) -> None:
        if letter.kind == TELL:
            self.host.dropped_tells += 1
            note_dropped(brief(letter.name), actor or "an actor that is gone", error)
        else:
            self.post_plain((ERROR, letter.id, to_facts(error, actor, incarnation, ran=False)))

    # -- to the peer

    def reply(self, letter: Letter, value: Any) -> None:
        """Answer an ask; what cannot be sent becomes the error."""
        if self.calls.pop(letter.id, None) is None:
            return  # the caller has left
        codec = self.host.codec
        try:
            body, buffers = codec.encode(value, "the result")
            part = REPLY_HEAD + codec.pack(letter.id) + body
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
        self.is_down = True
        letters = list(self.calls.values())
        self.calls.clear()
        self.outbox.detach()
        for letter in letters:
            letter.cell.cancel(letter)
        for inlet in self.inlets.values():
            if inlet.withheld:
                inlet.cell.rooms.remove(inlet)
                inlet.cell.let_in()  # nobody else would, if it was the last that waited
        self.inlets.clear()
