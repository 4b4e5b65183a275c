"""What can go wrong between actors. Every failed ask says whether its handler ran.

=====================  ========  ==========================================================
error                  executed  the caller may
=====================  ========  ==========================================================
`ActorNotFound`        never     check the name
`ActorUnavailable`     varies    retry if ``executed`` is never, or the method is idempotent
`ActorStopped`         varies    the same
`MailboxFull`          never     slow down, retry later
`StashFull`            never     the same
`Overloaded`           never     the same
`DeadlineExceeded`     varies    give it more time
`BadArguments`         never     correct the call
`UnknownMethod`        never     correct the call
`CallCycle`            never     break the cycle, or raise ``concurrency``
`RemoteError`          yes       read ``remote_traceback``
=====================  ========  ==========================================================
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Self

from callboard.transports.errors import CallboardError, did_you_mean

from .policy import Executed


class CodecError(CallboardError, ValueError):
    """Root of what cannot be encoded or decoded."""


class EncodeError(CodecError, TypeError):
    """A value cannot be sent; ``path`` says where in the arguments or the result it is. Nothing was sent."""

    def __init__(self, path: str, why: str) -> None:
        self.path, self.why = path, why
        super().__init__(f"cannot send {path}: {why}")

    def __reduce__(self) -> tuple[type[EncodeError], tuple[str, str]]:
        return type(self), (self.path, self.why)


class DecodeError(CodecError):
    """Bytes from a peer are not a value that this process can build."""


class ActorError(CallboardError):
    """Root of what an ask, a tell or a stream can fail with.

    Besides what every `CallboardError` says, ``items`` is how many items of a stream had arrived.
    """

    code = "error"
    default_executed = Executed.NEVER

    def __init__(
        self,
        why: str,
        *,
        actor: str = "",
        incarnation: int = 0,
        executed: Executed | None = None,
        items: int = 0,
    ) -> None:
        self.why, self.actor, self.incarnation, self.items = why, actor, incarnation, items
        self.executed = self.default_executed if executed is None else executed
        super().__init__(self._text())

    def of(self, actor: str, incarnation: int, executed: Executed) -> Self:
        """See `CallboardError`; the text says it, too."""
        super().of(actor, incarnation, executed)
        self.args = (self._text(),)
        return self

    def _text(self) -> str:
        who = f"{self.actor}: " if self.actor else ""
        tail = f"executed={self.executed.value}"
        if self.items:
            tail += f", after {self.items} items"
        return f"{who}{self.why} ({tail})"

    def facts(self) -> dict[str, Any]:
        """The error as plain data, for the wire."""
        return {
            "w": self.why,
            "a": self.actor,
            "i": self.incarnation,
            "x": self.executed.value,
            "n": self.items,
        }

    @classmethod
    def from_facts(cls, facts: dict[str, Any]) -> ActorError:
        """The inverse of `facts`; unknown keys are ignored."""
        return cls(
            str(facts.get("w", "")),
            actor=str(facts.get("a", "")),
            incarnation=int(facts.get("i", 0)),
            executed=Executed(facts.get("x", "maybe")),
            items=int(facts.get("n", 0)),
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.facts())


def _rebuild(cls: type[ActorError], facts: dict[str, Any]) -> ActorError:
    return cls.from_facts(facts)


class ActorNotFound(ActorError, LookupError):
    """No actor of this name was ever known here."""

    code = "not_found"

    @classmethod
    def named(cls, name: str, known: Iterable[str]) -> ActorNotFound:
        """Build the error with the names that are known."""
        names = sorted(set(known))
        shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "") or "none"
        return cls(f"no such actor; actors are: {shown}{did_you_mean(name, names)}", actor=name)


class ActorUnavailable(ActorError):
    """The actor is known, but its process or the way to it is down."""

    code = "unavailable"


class ActorStopped(ActorError):
    """The actor was stopped, or is stopping."""

    code = "stopped"


class MailboxFull(ActorError):
    """The mailbox, or the credit and the outbox for it, is used up."""

    code = "mailbox_full"


class StashFull(ActorError):
    """The actor wanted to put the message aside until later, and holds as many as it may."""

    code = "stash_full"


class Overloaded(ActorError):
    """The actor or the runtime refuses more work for now."""

    code = "overloaded"


class DeadlineExceeded(ActorError, TimeoutError):
    """The deadline passed before an answer came."""

    code = "deadline"
    default_executed = Executed.MAYBE

    @classmethod
    def without_room(cls, actor: str, incarnation: int) -> DeadlineExceeded:
        """Build the error of a message that waited for a place until its deadline."""
        why = "there was no room in its mailbox in time"
        return cls(why, actor=actor, incarnation=incarnation, executed=Executed.NEVER)


class BadArguments(ActorError, TypeError):
    """The arguments do not fit the method; the text names the parameter, what it takes, and what came."""

    code = "bad_arguments"


class UnknownMethod(ActorError, AttributeError):
    """The actor has no such message, or it is of the other kind (a stream, not an ask)."""

    code = "unknown_method"


class CallCycle(ActorError):
    """The ask would wait for itself: an actor that handles one message at a time asks itself, or a cycle does."""

    code = "cycle"

    @classmethod
    def through(cls, chain: Sequence[str], actor: str, incarnation: int, method: str) -> CallCycle:
        """Build the error of a message to ``actor``, which is in the chain of those that wait for it."""
        way = " -> ".join((*chain[list(chain).index(actor) :], actor))
        why = f"{way}.{method} would wait for itself; use tell, or raise concurrency"
        return cls(why, actor=actor, incarnation=incarnation)


class RemoteError(ActorError):
    """The handler raised an exception whose class is unknown here.

    ``kind`` is the name of its type, ``remote_traceback`` the traceback as text.
    """

    code = "remote"
    default_executed = Executed.YES

    def __init__(self, why: str, *, kind: str = "", remote_traceback: str = "", **facts: Any) -> None:
        self.kind, self.remote_traceback = kind, remote_traceback
        super().__init__(why, **facts)

    def _text(self) -> str:
        head = f"{self.kind}: " if self.kind else ""
        body = f"\n--- remote traceback ---\n{self.remote_traceback}" if self.remote_traceback else ""
        return f"{self.actor + ': ' if self.actor else ''}{head}{self.why}{body}"

    def facts(self) -> dict[str, Any]:
        """The error as plain data, for the wire."""
        return super().facts() | {"k": self.kind, "t": self.remote_traceback}

    @classmethod
    def from_facts(cls, facts: dict[str, Any]) -> RemoteError:
        """The inverse of `facts`."""
        return cls(
            str(facts.get("w", "")),
            kind=str(facts.get("k", "")),
            remote_traceback=str(facts.get("t", "")),
            actor=str(facts.get("a", "")),
            incarnation=int(facts.get("i", 0)),
            executed=Executed(facts.get("x", "yes")),
            items=int(facts.get("n", 0)),
        )


class StartFailed(ActorError):
    """An actor could not be built or its ``on_start`` raised; ``remote_traceback`` says where."""

    code = "start_failed"
    default_executed = Executed.YES

    def __init__(self, why: str, *, remote_traceback: str = "", **facts: Any) -> None:
        self.remote_traceback = remote_traceback
        super().__init__(why, **facts)

    def facts(self) -> dict[str, Any]:
        """The error as plain data, for the wire."""
        return super().facts() | {"t": self.remote_traceback}

    @classmethod
    def from_facts(cls, facts: dict[str, Any]) -> StartFailed:
        """The inverse of `facts`."""
        return cls(
            str(facts.get("w", "")),
            remote_traceback=str(facts.get("t", "")),
            actor=str(facts.get("a", "")),
            incarnation=int(facts.get("i", 0)),
        )


BY_CODE: dict[str, type[ActorError]] = {
    cls.code: cls
    for cls in (
        ActorError, ActorNotFound, ActorUnavailable, ActorStopped, MailboxFull, StashFull, Overloaded,
        DeadlineExceeded, BadArguments, UnknownMethod, CallCycle, RemoteError, StartFailed,
    )
}  # fmt: skip
