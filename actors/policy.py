"""The choices that a user makes about an actor, as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from callboard.transports.errors import ConfigError, Executed

__all__ = ["MIB", "DownKind", "Executed", "MailboxPolicy", "OnDown", "Overflow", "State", "StopReason"]

MIB = 1024 * 1024


class Overflow(Enum):
    """What a full mailbox does with one more message."""

    REJECT = "reject"
    """The sender gets `MailboxFull`."""
    BLOCK = "block"
    """The message waits, without being counted, until there is room or its deadline has passed."""
    DROP_OLDEST = "drop-oldest"
    """The oldest waiting message is answered `MailboxFull` and makes room."""
    DROP_NEWEST = "drop-newest"
    """The new message is dropped; an ask is answered `MailboxFull`, a tell is counted."""
    FAIL = "fail"
    """The actor fails and its supervisor decides."""


class State(Enum):
    """Where an actor is in its life."""

    STARTING = "starting"
    READY = "ready"
    FAILED = "failed"
    """A tell raised; nothing more is handled."""
    STOPPING = "stopping"
    STOPPED = "stopped"


class StopReason(Enum):
    """Why an actor stops; given to ``on_stop``."""

    COMMANDED = "commanded"
    FAILED = "failed"
    RESTART = "restart"
    SHUTDOWN = "shutdown"


class DownKind(Enum):
    """How an actor that is watched went down."""

    STOPPED = "stopped"
    """By command."""
    FAILED = "failed"
    """A tell, a timer or a hook of it raised."""
    KILLED = "killed"
    """Its process ended, whatever ended it."""
    UNREACHABLE = "unreachable"
    """Its process is frozen, or there is no way to it; it may live and come back."""
    UNKNOWN = "unknown"
    """Nothing is known of the name, or of how it ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MailboxPolicy:
    """Bounds of a mailbox. ``bytes`` counts encoded bodies of messages that came from another process."""

    messages: int = 4096
    bytes: int = 64 * MIB
    overflow: Overflow = Overflow.REJECT

    @property
    def rejects(self) -> bool:
        """True if a full mailbox answers `MailboxFull`."""
        return self.overflow is Overflow.REJECT

    @property
    def waits(self) -> bool:
        """True if a sender may wait for room."""
        return self.overflow is Overflow.REJECT or self.overflow is Overflow.BLOCK

    def __post_init__(self) -> None:
        problems = []
        for name in ("messages", "bytes"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                problems.append(f"mailbox.{name} is {value!r}; it must be a whole number, at least 1")
        if not isinstance(self.overflow, Overflow):
            problems.append(f"mailbox.overflow is {self.overflow!r}; it must be {_members(Overflow)}")
        if problems:
            raise ConfigError(problems)


class OnDown(Enum):
    """What a reference does when its target is known to be down."""

    FAIL = "fail"
    """Raise `ActorUnavailable` at once."""
    WAIT = "wait"
    """Wait for the next incarnation until the deadline."""


def check_options(deadline_s: object, retries: object, on_down: object) -> None:
    """Raise `ValueError` for an option of a reference that is none; None is one that was not given."""
    if deadline_s is not None and not (isinstance(deadline_s, int | float) and deadline_s > 0):
        raise ValueError(f"deadline_s is {deadline_s!r}; it must be a number above 0 (math.inf for none)")
    if retries is not None and (type(retries) is not int or retries < 0):
        raise ValueError(f"retries is {retries!r}; it must be a whole number, 0 or more")
    if on_down is not None and not isinstance(on_down, OnDown):
        raise ValueError(f"on_down is {on_down!r}; it must be {_members(OnDown)}")


def _members(kind: type[Enum]) -> str:
    return " or ".join(str(member) for member in kind)
