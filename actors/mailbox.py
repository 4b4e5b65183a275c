"""The bounded queue in front of an actor: counts and bytes, and what to do when it is full. Pure."""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import Any

import msgspec

from .policy import MailboxPolicy, Overflow
from .signature import Method


class Letter(msgspec.Struct, eq=False):
    """One message that waits or runs. Mutable: cancellation and the running task are noted in it."""

    kind: int
    id: int
    method: Method
    origin: Any
    """Where answers go: an `Origin` of a peer, or the node itself."""
    deadline: float
    """On the monotonic clock; infinite for none."""
    body: Any = None
    """Encoded arguments, or None if ``args`` are given (same process)."""
    args: Any = None
    kwargs: Any = None
    buffers: Any = ()
    size: int = 0
    inlet: Any = None
    """Counts what one peer may send to one actor; None for messages of the same process."""
    cell: Any = None
    chain: Any = ()
    """Names of the actors that wait for this message, outermost first."""
    task: Any = None
    cancelled: bool = False
    extra: Any = None
    producer: Any = None


class Admit(Enum):
    """What the mailbox did with a message that was offered."""

    TAKEN = "taken"
    REFUSED = "refused"
    FAIL = "fail"


class Mailbox:
    """A deque with bounds. Cancelled letters stay as husks until they are reached, but no longer count."""

    __slots__ = ("_limit", "_limit_bytes", "bytes", "husks", "overflows", "policy", "queue")

    def __init__(self, policy: MailboxPolicy) -> None:
        self.policy = policy
        self._limit, self._limit_bytes = policy.messages, policy.bytes
        self.queue: deque[Letter] = deque()
        self.bytes = 0
        self.husks = 0
        self.overflows = 0

    def __len__(self) -> int:
        return len(self.queue) - self.husks

    def __repr__(self) -> str:
        limit = self.policy
        return f"<Mailbox {len(self)}/{limit.messages} messages, {self.bytes}/{limit.bytes} bytes>"

    @property
    def full(self) -> bool:
        """True if one more message would overflow."""
        return len(self.queue) - self.husks >= self._limit or self.bytes >= self._limit_bytes

    def has_room(self, reserved: int) -> bool:
        """True if one more message fits beside those that ``reserved`` places are kept for."""
        return len(self.queue) - self.husks + reserved < self._limit and self.bytes < self._limit_bytes

    def accept(self, letter: Letter) -> bool:
        """Put a letter in if the mailbox is not full; the last one may go beyond the byte bound, as with credit."""
        queue = self.queue
        if len(queue) - self.husks < self._limit and self.bytes < self._limit_bytes:
            queue.append(letter)
            self.bytes += letter.size
            return True
        return False

    def overflow(self, letter: Letter) -> tuple[Admit, list[Letter]]:
        """Apply the overflow policy to a letter that was not accepted; who is returned gets `MailboxFull`."""
        policy = self.policy
        self.overflows += 1
        if policy.overflow is Overflow.DROP_OLDEST:
            dropped = []
            while not self.accept(letter):
                oldest = self.take_oldest()
                assert oldest is not None  # an empty mailbox accepts everything
                dropped.append(oldest)
            return Admit.TAKEN, dropped
        if policy.overflow is Overflow.FAIL:
            return Admit.FAIL, [letter]
        if policy.overflow is Overflow.BLOCK:
            self.put(letter)  # bounded by the credit of the senders; no new credit is given while full
            return Admit.TAKEN, []
        return Admit.REFUSED, [letter]

    def put(self, letter: Letter) -> None:
        """Put a letter in regardless of the bounds."""
        self.queue.append(letter)
        self.bytes += letter.size

    def take_oldest(self) -> Letter | None:
        """Take the oldest letter that is not cancelled."""
        while self.queue:
            letter = self.queue.popleft()
            if letter.cancelled:
                self.husks -= 1
                continue
            self.bytes -= letter.size
            return letter
        return None

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
            self.queue.clear()
            self.queue.extend(live)
            self.husks = 0

    def drain(self) -> list[Letter]:
        """Take everything that is not cancelled."""
        letters = [letter for letter in self.queue if not letter.cancelled]
        self.queue.clear()
        self.bytes = self.husks = 0
        return letters
