"""The bounded queue in front of an actor: counts and bytes, and what to do when it is full. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import msgspec

from .envelope import NIL, Kind, split
from .inside import Inside
from .pending import INFINITE
from .policy import MailboxPolicy, Overflow

if TYPE_CHECKING:
    Body: TypeAlias = Any
    Local: TypeAlias = Any
else:
    Body = msgspec.Raw

    class Local:
        """What a peer cannot send: a value for such a field is nonsense to the decoder."""


class Letter(msgspec.Struct, eq=False, array_like=True):
    """One message that waits or runs. Mutable: cancellation and the running task are noted in it.

    The envelope of a request is decoded into it (`split_letters`), so that nothing is copied. The first fields are
    those of the wire, the others are set here.
    """

    kind: Kind
    id: int
    body: Body = NIL
    """Encoded arguments; None if ``args`` are given (same process), or once they are decoded."""
    target: int = 0
    name: str = ""
    budget_s: float = 0.0
    extra: dict[str, Any] | None = None
    method: Local = None
    """The `Method` of that name."""
    origin: Local = None
    """Where answers go: an `Origin` of a peer, or the node itself."""
    deadline: Local = INFINITE
    """On the monotonic clock; infinite for none."""
    args: Local = None
    kwargs: Local = None
    buffers: Local = ()
    size: Local = 0
    inlet: Local = None
    """Counts what one peer may send to one actor; None for messages of the same process."""
    cell: Local = None
    chain: Local = ()
    """Names of the actors that wait for this message, outermost first."""
    task: Local = None
    cancelled: Local = False
    producer: Local = None
    delivery: Local = None
    """What is known of a durable message."""


_decode = msgspec.msgpack.Decoder(list[Letter]).decode


def split_letters(frame: bytes | memoryview) -> list[Letter]:
    """Decode a frame of the asking side, bodies not; raises one of `MALFORMED`."""
    try:
        return _decode(frame)
    except msgspec.ValidationError:  # a newer peer, perhaps, which sends more fields than are known here
        return [
            Letter(one.kind, one.id, one.body, one.target, one.method, one.budget_s, one.extra)
            for one in split(frame)
        ]


class Admit(Enum):
    """What the mailbox did with a message that was offered."""

    TAKEN = "taken"
    REFUSED = "refused"
    FAIL = "fail"


class Waiter(Protocol):
    """Who waits for room in a mailbox."""

    def admit(self, *, open_: bool) -> bool:
        """There is room, or the actor has closed; returns True if it takes a place."""


NO_QUEUE: deque[Letter] = deque(maxlen=0)
"""The queue of every mailbox in which nothing waits; nothing can be put into it."""
MOST_SPARE = 64
_SPARE: list[deque[Letter]] = []


class Mailbox:
    """A deque with bounds. Cancelled letters stay as husks until they are reached, but no longer count.

    Stashed letters count although they are not in the queue: as so many husks less.

    What runs beside the queue (interleaving methods) has as many places of its own: ``lent`` are taken. So such a
    message comes through although the queue is full, and yet there is a bound.
    """

    __slots__ = ("bytes", "husks", "lent", "limit", "limit_bytes", "overflows", "policy", "queue")

    def __init__(self, policy: MailboxPolicy) -> None:
        self.policy = policy
        self.limit, self.limit_bytes = policy.messages, policy.bytes
        self.queue = NO_QUEUE
        self.bytes = 0
        self.husks = 0
        self.lent = 0
        self.overflows = 0

    def __len__(self) -> int:
        return len(self.queue) - self.husks

    def __repr__(self) -> str:
        limit = self.policy
        return f"<Mailbox {len(self)}/{limit.messages} messages, {self.bytes}/{limit.bytes} bytes>"

    @property
    def full(self) -> bool:
        """True if one more message would overflow, or one more of those that run beside the queue."""
        limit = self.limit
        waiting = len(self.queue) - self.husks
        return waiting >= limit or self.bytes >= self.limit_bytes or self.lent >= limit

    def has_room(self, reserved: int) -> bool:
        """True if one more message fits beside those that ``reserved`` places are kept for."""
        most = max(len(self.queue) - self.husks, self.lent) + reserved
        return most < self.limit and self.bytes < self.limit_bytes

    def accept(self, letter: Letter) -> bool:
        """Put a letter in if the mailbox is not full; the last one may go beyond the byte bound, as with credit."""
        if len(self.queue) - self.husks < self.limit and self.bytes < self.limit_bytes:
            self.put(letter)
            return True
        return False

    def open_queue(self) -> deque[Letter]:
        """Take a queue, before the first letter goes into it; see `rest`."""
        queue = self.queue = _SPARE.pop() if _SPARE else deque()
        return queue

    def rest(self) -> None:
        """Give the queue away while nothing waits: it is larger than all else of an idle actor."""
        queue = self.queue
        if not queue and queue is not NO_QUEUE:
            self.queue = NO_QUEUE
            if len(_SPARE) < MOST_SPARE:
                _SPARE.append(queue)

    def lend(self) -> bool:
        """Give a place to a message that runs beside the queue, until `give_back`; False if there is none."""
        if self.lent >= self.limit:
            return False
        self.lent += 1
        return True

    def give_back(self) -> None:
        """A message that ran beside the queue has ended."""
        self.lent -= 1

    def overflow(self, letter: Letter, *, beside: bool = False) -> tuple[Admit, list[Letter]]:
        """Apply the overflow policy to a letter that was not accepted; who is returned gets `MailboxFull`.

        ``beside`` says that it runs beside the queue.
        """
        policy = self.policy
        self.overflows += 1
        if policy.overflow is Overflow.DROP_OLDEST and not beside:  # what runs is not dropped
            dropped = []
            while not self.accept(letter):
                oldest = self.take_oldest()
                if oldest is None:  # only letters of the actor itself wait
                    self.put(letter)
                    break
                dropped.append(oldest)
            return Admit.TAKEN, dropped
        if policy.overflow is Overflow.FAIL:
            return Admit.FAIL, [letter]
        if policy.overflow is Overflow.BLOCK:
            self.put(
                letter, beside=beside
            )  # bounded by the credit of the senders; no new credit is given while full
            return Admit.TAKEN, []
        return Admit.REFUSED, [letter]

    def put(self, letter: Letter, *, beside: bool = False) -> None:
        """Put a letter in, or lend it a place, regardless of the bounds."""
        if beside:
            self.lent += 1
            return
        queue = self.queue
        if queue is NO_QUEUE:
            queue = self.open_queue()
        queue.append(letter)
        self.bytes += letter.size

    def take_oldest(self) -> Letter | None:
        """Take the oldest letter that is not cancelled, and not from the actor itself."""
        own: list[Letter] = []
        found = None
        while self.queue and found is None:
            letter = self.queue.popleft()
            if letter.cancelled:
                self.husks -= 1
            elif isinstance(letter.origin, Inside):
                own.append(letter)
            else:
                self.bytes -= letter.size
                found = letter
        self.queue.extendleft(reversed(own))
        return found

    def put_first(self, letters: Sequence[Letter]) -> None:
        """Put letters ahead of all others but the urgent ones, regardless of the bounds; the caller counts bytes."""
        queue = self.queue
        if queue is NO_QUEUE:
            queue = self.open_queue()
        # Not one by one: thousands of those who are watched may go down at once.
        urgent = bisect_left(queue, True, key=_is_not_urgent)
        if urgent == len(queue):
            queue.extend(letters)
            return
        queue.rotate(-urgent)
        queue.extendleft(reversed(letters))
        queue.rotate(urgent)

    def set_aside(self, letter: Letter) -> None:
        """A letter that was taken goes into the stash: it counts again."""
        self.husks -= 1
        self.bytes += letter.size

    def put_back(self, letters: Sequence[Letter]) -> None:
        """What was set aside and not cancelled goes ahead of what waits."""
        self.husks += len(letters)
        self.put_first(letters)

    def cancel(self, letter: Letter) -> None:
        """Take a waiting letter out: it no longer counts and holds no data."""
        letter.cancelled = True
        self.bytes -= letter.size
        letter.size = 0
        letter.body = letter.args = letter.kwargs = None
        letter.buffers = ()
        self.husks += 1
        if self.husks > 64 and self.husks * 2 > len(self.queue):
            live = [waiting for waiting in self.queue if not waiting.cancelled]
            self.husks -= len(self.queue) - len(live)
            self.queue.clear()
            self.queue.extend(live)

    def take_from_peers(self) -> list[Letter]:
        """Take what came from other nodes; what is from this process, strangers and the store stays, in its order."""
        taken = [letter for letter in self.queue if letter.inlet is not None and not letter.cancelled]
        stays = [letter for letter in self.queue if letter.inlet is None and not letter.cancelled]
        self.husks -= len(self.queue) - len(taken) - len(stays)  # what is stashed goes on counting
        self.queue.clear()
        self.queue.extend(stays)
        self.bytes -= sum(letter.size for letter in taken)
        return taken

    def drain(self) -> list[Letter]:
        """Take everything that is not cancelled."""
        letters = [letter for letter in self.queue if not letter.cancelled]
        self.queue.clear()
        self.bytes = self.husks = 0
        return letters


def _is_not_urgent(letter: Letter) -> bool:
    return not (isinstance(letter.origin, Inside) and letter.origin.urgent)
