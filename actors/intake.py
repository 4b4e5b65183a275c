"""From the store into a mailbox: what one actor takes of the durable messages of its component.

A message is in the mailbox like any other, and asked rather than told: that its handler returned is its
acknowledgement, that it raised is not the end of the actor. An actor takes as many at once as it handles at once, and
beyond that only what it will begin in a moment, for what it has nobody else gets.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any, NoReturn, Protocol

from callboard.transports.durable import Delivery, DurablePolicy, Intake

from .cell import Cell
from .current import DeliveryFacts
from .envelope import ASK
from .errors import ActorStopped, DecodeError, MailboxFull, UnknownMethod
from .mailbox import Letter
from .signature import unknown_method

AHEAD_S = 0.02
"""What waits in the mailbox shall begin within this time, as far as one can know."""
MOST_AHEAD = 256
STOP_S = 0.25
"""At a stop, what waits in the mailbox may begin within this time; it was to take less than `AHEAD_S`."""
GIVE_BACK_S = (0.0, 1.0, 2.0, 4.0, 8.0)
"""Wait after the first, second, ... delivery that is given back: whoever stops next shall not get it again."""

log = logging.getLogger("callboard.actors")


class Stored(Protocol):
    """A decoded message."""

    method: str
    body: Any
    buffers: list[bytes]


class ActorIntake:
    """What one actor has of the store, until each is acknowledged or given back. The origin of its letters."""

    def __init__(self, cell: Cell, policy: DurablePolicy, decode: Callable[[bytes], Stored]) -> None:
        self._cell, self._policy, self._decode = cell, policy, decode
        self._ids = itertools.count(1)
        self._open: dict[int, tuple[Delivery, float]] = {}
        """Each delivery that waits or runs, and when it came."""
        self._letters: dict[int, int] = {}
        """Sequence to letter, for what is delivered again while it is here."""
        self._open_bytes = 0
        self._held: deque[Letter] = deque()
        """What found the mailbox full of other messages."""
        self._waits = False
        self._pace_s = AHEAD_S
        """Between the ends of two handlers, while there is something to do."""
        self._last_end_s = 0.0
        self._intake: Intake | None = None
        self._moved = asyncio.Event()
        """A letter has ended."""
        self._beat: asyncio.TimerHandle | None = None
        self.redelivered = self.handled = self.failed = self.dead = 0

    def __repr__(self) -> str:
        return f"<ActorIntake of {self._cell.location.name}, {len(self._open)} open>"

    def statistics(self) -> dict[str, int]:
        """Counters as plain data."""
        return {
            "open": len(self._open),
            "handled": self.handled,
            "failed": self.failed,
            "redelivered": self.redelivered,
            "dead": self.dead,
        }

    # -- taking

    def begin(self, intake: Intake) -> None:
        """Ask for messages."""
        self._intake = intake
        self._refill()

    def _refill(self) -> None:
        cell = self._cell
        if self._intake is None or not cell.takes_mail:
            return
        if self._held or cell.mailbox.full:
            self._wait_for_room()
            return
        if self._open_bytes >= cell.mailbox.policy.bytes:
            return  # the end of one of them comes here again
        ahead = min(MOST_AHEAD, int(AHEAD_S / self._pace_s) - 1) if self._pace_s < AHEAD_S else 0
        most = min(cell.concurrency + ahead, cell.mailbox.policy.messages)
        self._intake.want(most - len(self._open), most)

    def take(self, delivery: Delivery) -> None:
        """One message has come."""
        cell, policy = self._cell, self._policy
        if self._intake is None or not cell.takes_mail:
            _give_back(delivery)
            return
        if delivery.count > 1:
            self.redelivered += 1
        if self._is_here(delivery):
            return
        if delivery.count > policy.max_deliver:
            why = f"it was delivered {policy.max_deliver} times (max_deliver) and nobody said how it ended"
            self._bury(
                delivery,
                f"{why}: each time its process died, took longer than ack_wait_s, or stopped its actor",
            )
            self._refill()
            return
        try:
            stored = self._decode(delivery.payload)
            method = cell.methods.get(stored.method)
            if method is None or method.streams:
                raise UnknownMethod(unknown_method(cell.cls, stored.method, streams=False))
        except (DecodeError, UnknownMethod) as error:  # another version of the class may know it
            self._failed(delivery, error)
            self._refill()
            return
        size = len(stored.body) + sum(map(len, stored.buffers))
        letter = Letter(
            ASK,
            next(self._ids),
            stored.body,
            method=method,
            origin=self,
            buffers=stored.buffers,
            size=size,
            cell=cell,
            delivery=DeliveryFacts(
                sequence=delivery.sequence,
                count=delivery.count,
                message_id=delivery.message_id,
                stored_at_s=delivery.stored_at_s,
            ),
        )
        self._open[letter.id] = (delivery, monotonic())
        self._letters[delivery.sequence] = letter.id
        self._open_bytes += len(delivery.payload)
        if self._beat is None:
            self._beat_later()
        if self._held or cell.mailbox.full or cell.queued:
            self._held.append(letter)
            self._wait_for_room()
        else:
            cell.deliver(letter)

    def _is_here(self, delivery: Delivery) -> bool:
        """The server could not hear of a message that is here; or it has lost its store, and counts anew."""
        known = self._letters.get(delivery.sequence)
        if known is None:
            return False
        older, came_s = self._open[known]
        if _identity(older) == _identity(delivery):
            self._open[known] = (delivery, came_s)
            return True
        del self._open[known], self._letters[delivery.sequence]  # its end must not end another message
        self._open_bytes -= len(older.payload)
        return False

    def _wait_for_room(self) -> None:
        if not self._waits and self._cell.takes_mail:
            self._waits = True
            self._cell.wait_for_room(self)

    def admit(self, *, open_: bool) -> bool:
        """See `Waiter`: the mailbox has room."""
        self._waits = False
        if not open_:
            self._give_back_held()
        elif self._held:
            self._cell.deliver(self._held.popleft())
            if self._held:
                self._wait_for_room()
        else:
            self._refill()
        return False

    # -- the end of a letter: see `Origin`

    def reply(self, letter: Letter, value: Any) -> None:
        """Its handler returned."""
        if (delivery := self._end(letter)) is not None:
            self.handled += 1
            delivery.done()
            self._refill()

    def fail(self, letter: Letter, error: BaseException, *, ran: bool) -> None:
        """Its handler raised, or never ran."""
        delivery = self._end(letter)
        if delivery is None:
            return
        if not self._cell.takes_mail or (not ran and isinstance(error, ActorStopped)):
            _give_back(delivery)
        elif not ran and isinstance(error, MailboxFull):
            delivery.again(self._policy.backoff(1))
        else:
            self._failed(delivery, error)
        self._refill()

    def forget(self, letter: Letter) -> None:
        """Its handler was cancelled."""
        if (delivery := self._end(letter)) is not None:
            _give_back(delivery)
            self._refill()

    def producer(self, letter: Letter) -> NoReturn:
        """A stream cannot be told."""
        raise UnknownMethod(f"{letter.method.name} streams", actor=self._cell.location.name)

    def _end(self, letter: Letter) -> Delivery | None:
        self._moved.set()
        delivery, came_s = self._open.pop(letter.id, (None, 0.0))
        if delivery is not None:
            if self._letters.get(delivery.sequence) == letter.id:
                del self._letters[delivery.sequence]
            self._open_bytes -= len(delivery.payload)
            now = monotonic()
            took_s = max(now - max(came_s, self._last_end_s), 1e-6)
            self._pace_s += (took_s - self._pace_s) / 4
            self._last_end_s = now
        return delivery

    def _failed(self, delivery: Delivery, error: BaseException) -> None:
        self.failed += 1
        what = f"{type(error).__name__}: {error}"
        if delivery.count >= self._policy.max_deliver:
            self._bury(delivery, f"{what} (delivery {delivery.count} of {self._policy.max_deliver})")
            return
        wait_s = self._policy.backoff(delivery.count)
        log.warning(
            "%s failed at durable message %d, delivery %d of %d; again in %g s: %s",
            self._cell.location.name, delivery.sequence, delivery.count, self._policy.max_deliver, wait_s, what,
        )  # fmt: skip
        delivery.again(wait_s)

    def _bury(self, delivery: Delivery, why: str) -> None:
        self.dead += 1
        log.error(
            "durable message %d (id %s) of %s is dead: %s",
            delivery.sequence, delivery.message_id, self._cell.location.name, why,
        )  # fmt: skip
        delivery.dead(why)

    # -- while it is handled

    def _beat_later(self) -> None:
        wait_s = self._policy.ack_wait_s / 3
        self._beat = asyncio.get_running_loop().call_later(wait_s, self._say_busy)

    def _say_busy(self) -> None:
        self._beat = None
        if self._open:
            for delivery, _ in self._open.values():
                delivery.busy()
            self._beat_later()

    def _give_back_held(self) -> None:
        while self._held:
            letter = self._held.popleft()
            if (delivery := self._end(letter)) is not None:
                _give_back(delivery)

    async def close(self) -> None:
        """Take no more; what has come begins, if it can in a moment. What runs is acknowledged when it ends."""
        intake = self._intake
        if intake is None:
            return
        try:
            await intake.close()
            async with asyncio.timeout(STOP_S):
                while self._cell.takes_mail and self._waits_here():
                    self._moved.clear()
                    await self._moved.wait()
        except TimeoutError:
            pass  # the stop of the actor gives it back
        finally:
            self._intake = None
            if self._waits:
                self._waits = False
                self._cell.rooms.remove(self)
            self._give_back_held()

    def _waits_here(self) -> bool:
        return bool(self._held) or any(letter.origin is self for letter in self._cell.mailbox.queue)


def _identity(delivery: Delivery) -> str | float:
    return delivery.message_id or delivery.stored_at_s  # strangers may give no id


def _give_back(delivery: Delivery) -> None:
    delivery.again(GIVE_BACK_S[min(delivery.count, len(GIVE_BACK_S)) - 1])
