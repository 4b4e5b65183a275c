"""Messages that outlive processes: the seam between the runtime and a plane that can store them.

A *component* has a log of its messages. `DurableStore.store` appends to it, `DurableStore.receive` deals what is in it
to the instances of the component, each message to one of them until one says that it is done, and
`DurableStore.history` reads it again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Protocol, Self, runtime_checkable

from .base import Identity, Plane
from .errors import ConfigError
from .settings import NetworkSettings

DAY_S = 86_400.0
SHORTEST_S = 0.1
"""JetStream takes no shorter age and no shorter window."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DurablePolicy:
    """How the messages of a component are kept and delivered; durations in seconds."""

    max_age_s: float = 7 * DAY_S
    """Messages older than this are gone, handled or not."""
    max_bytes: int = 0
    """Size of the log; above it the oldest handled messages make room, and without any a tell is refused. 0: no limit
    of its own."""
    max_deliver: int = 5
    """After so many deliveries that did not end well a message is dead."""
    ack_wait_s: float = 30.0
    """A delivery of which nothing was heard for so long was lost, and the message is delivered again."""
    backoff_s: tuple[float, ...] = (1.0, 5.0, 30.0)
    """Wait after the first, second, ... exception of its handler; the last one repeats."""
    duplicate_window_s: float = 120.0
    """Within this time two messages of the same id are one."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "backoff_s", tuple(map(float, self.backoff_s)))
        problems = []
        for name in ("max_age_s", "ack_wait_s", "duplicate_window_s"):
            if not SHORTEST_S <= getattr(self, name) < float("inf"):
                problems.append(
                    f"durable.{name} is {getattr(self, name):g}; it must be at least {SHORTEST_S:g}"
                )
        if self.max_bytes < 0:
            problems.append(
                f"durable.max_bytes is {self.max_bytes}; it must be at least 1, or 0 for no limit"
            )
        if self.max_deliver < 1:
            problems.append(f"durable.max_deliver is {self.max_deliver}; it must be at least 1")
        if not all(0 <= wait < float("inf") for wait in self.backoff_s):
            problems.append(
                f"durable.backoff_s is {list(self.backoff_s)}; it must be waits in seconds, such as [1, 5, 30]"
            )
        if self.duplicate_window_s > self.max_age_s:
            problems.append(
                f"durable.duplicate_window_s is {self.duplicate_window_s:g}; it must not exceed max_age_s"
                f" ({self.max_age_s:g})"
            )
        if problems:
            raise ConfigError(problems)

    def backoff(self, count: int) -> float:
        """The wait after the exception of delivery number ``count`` (from 1).

        >>> DurablePolicy(backoff_s=(1, 5)).backoff(7)
        5.0
        """
        return self.backoff_s[min(count, len(self.backoff_s)) - 1] if self.backoff_s else 0.0

    def to_wire(self) -> dict[str, Any]:
        """The policy as plain data."""
        return {entry.name: getattr(self, entry.name) for entry in fields(self)}

    @classmethod
    def from_wire(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_wire`; unknown keys are ignored."""
        return cls(**{entry.name: values[entry.name] for entry in fields(cls) if entry.name in values})


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredMessage:
    """One message of the log, as `DurableStore.history` gives it."""

    payload: bytes
    sequence: int
    """Its place in the log, from 1."""
    instance: int | None
    """The instance that it is for, None for whichever is free."""
    message_id: str
    stored_at_s: float
    """When it was stored, by the clock of the store, in seconds since 1970."""


class Delivery(Protocol):
    """One message given to one instance. One of `done`, `again` and `dead` ends it."""

    payload: bytes
    sequence: int
    count: int
    """Which delivery of this message it is, from 1."""
    message_id: str
    stored_at_s: float

    def done(self) -> None:
        """It was handled: nobody gets it again."""

    def again(self, delay_s: float) -> None:
        """Give it back; it is delivered again after ``delay_s`` seconds."""

    def busy(self) -> None:
        """It is still being handled: begin to wait anew."""

    def dead(self, why: str) -> None:
        """It will never be handled: keep it as a dead letter with the reason, and deliver it no more."""


class Intake(Protocol):
    """One instance's way to its messages."""

    def want(self, free: int, most: int) -> None:
        """Up to ``free`` messages may come now, of ``most`` that this instance has at once; replaces what was said."""

    async def close(self) -> None:
        """Take no more; what arrives until this returns is delivered. Idempotent."""


class DurableStore(Protocol):
    """The logs of one system, as one node sees them."""

    def declare(self, component: str, policy: DurablePolicy) -> None:
        """This component is durable; its log is made when it is first needed."""

    def store(
        self, component: str, instance: int | None, payload: bytes, message_id: str, deadline: float
    ) -> asyncio.Future[int]:
        """Append a message; the future gets its sequence when it is stored.

        Messages of one component are stored in the order of these calls. While the store is away they are sent again
        until ``deadline`` (monotonic clock); a message that is sent again is stored once. Raises `StoredTooLarge` at
        once if the limit is known, else the future does, and `NotStored` for all else, after `close` at once, too.
        Cancelling it gives up.
        """

    async def receive(self, component: str, instance: int | None, take: Callable[[Delivery], None]) -> Intake:
        """Make what is needed to receive, and call ``take`` for each message; none comes before it is wanted.

        ``instance`` gets what is for it alone beside what is for whichever is free. Raises `TransportError`.
        """

    async def bounds(self, component: str) -> tuple[int, int]:
        """First and last sequence of the log; (1, 0) if nothing was ever stored. Raises `TransportError`."""

    async def sequence_at(self, component: str, since_s: float) -> int:
        """Sequence of the first message stored at or after a time (seconds since 1970). Raises `TransportError`."""

    def history(
        self, component: str, first: int, last: int, *, dead: bool = False
    ) -> AsyncIterator[StoredMessage]:
        """The messages with these sequences in order, or the dead letters. Raises `TransportError`."""

    def statistics(self) -> dict[str, int]:
        """Counters since the start."""

    async def close(self) -> None:
        """Wait (within the linger limit) for what is to be stored, then leave; idempotent."""


@runtime_checkable
class DurablePlane(Plane, Protocol):
    """A plane with `Capabilities.durable`."""

    def durable_store(self, identity: Identity, settings: NetworkSettings) -> DurableStore:
        """Build the store of a node; connects to nothing yet."""
