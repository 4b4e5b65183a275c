"""The root of every callboard error, and the errors of the transport layer.

Two words carry the model: *closed* means that we ended it, *broken* that the world did.
Every class takes the facts, builds its own message, and survives pickling.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from enum import Enum
from typing import Any, Self

LONGEST_WORD = 200
"""Nobody mistypes more, and to compare what a peer sends could take long."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``'; did you mean "x"?'`` for the nearest known word, or an empty string."""
    if len(word) > LONGEST_WORD:
        return ""
    near = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f'; did you mean "{near[0]}"?' if near else ""


class Executed(Enum):
    """Whether the handler of a failed message ran. Only `NEVER` makes a retry safe for every method."""

    NEVER = "never"
    MAYBE = "maybe"
    YES = "yes"


class CallboardError(Exception):
    """Root of all errors that callboard raises on purpose.

    One that a message failed with says what became of it: ``actor`` is the name of its target, ``incarnation`` its
    incarnation (0 if unknown), ``executed`` whether its handler ran. Errors of anything else have the values below.
    """

    actor: str = ""
    incarnation: int = 0
    executed: Executed = Executed.NEVER

    @property
    def retry_is_safe(self) -> bool:
        """True if the handler certainly did not run."""
        return self.executed is Executed.NEVER

    def of(self, actor: str, incarnation: int, executed: Executed) -> Self:
        """Note which message failed, unless that is known already, and whether its handler ran; returns itself."""
        if not self.actor:
            self.actor, self.incarnation = actor, incarnation
        self.executed = executed
        return self

    def __reduce_ex__(self, protocol: Any) -> Any:
        made = self.__reduce__()
        facts = {
            name: vars(self)[name] for name in ("actor", "incarnation", "executed") if name in vars(self)
        }
        return (*made, facts) if isinstance(made, tuple) and len(made) == 2 and facts else made


class ConfigError(CallboardError, ValueError):
    """A setting or a config file is wrong; ``problems`` lists every mistake found, one line each."""

    def __init__(self, problems: str | Iterable[str]) -> None:
        self.problems: tuple[str, ...] = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))

    def __reduce__(self) -> tuple[type[ConfigError], tuple[list[str]]]:
        return type(self), (list(self.problems),)  # a list: plain data, which travels in messages


class TransportError(CallboardError):
    """Root of what can go wrong between two addresses."""


class BadAddress(TransportError, ValueError):
    """An address cannot be parsed."""

    def __init__(self, address: str, why: str) -> None:
        self.address, self.why = address, why
        super().__init__(f"bad address {address!r}: {why}")

    def __reduce__(self) -> tuple[type[BadAddress], tuple[str, str]]:
        return type(self), (self.address, self.why)


class UnknownScheme(TransportError, LookupError):
    """No plane is registered under this scheme."""

    def __init__(self, scheme: str, known: Iterable[str]) -> None:
        self.scheme, self.known = scheme, tuple(sorted(known))
        super().__init__(
            f"unknown request plane {scheme!r}; known: {', '.join(self.known)}{did_you_mean(scheme, self.known)}"
        )

    def __reduce__(self) -> tuple[type[UnknownScheme], tuple[str, tuple[str, ...]]]:
        return type(self), (self.scheme, self.known)


class MissingExtra(TransportError, ImportError):
    """The plane is known, but the package that drives it is not installed."""

    def __init__(self, scheme: str, extra: str, missing: str) -> None:
        self.scheme, self.extra, self.missing = scheme, extra, missing
        super().__init__(
            f"the {scheme} plane needs {missing}, which is not installed; pip install 'callboard[{extra}]'"
        )

    def __reduce__(self) -> tuple[type[MissingExtra], tuple[str, str, str]]:
        return type(self), (self.scheme, self.extra, self.missing)


class BadPlane(TransportError, ImportError):
    """A plane is registered, and it is none: its module, its class or what it says of itself is wrong."""

    def __init__(
        self, scheme: str, where: str, why: str, kind: str = "", group: str = "callboard.planes"
    ) -> None:
        self.scheme, self.where, self.why, self.kind, self.group = scheme, where, why, kind, group
        plane = f"{scheme} {kind} plane" if kind else f"{scheme} plane"
        super().__init__(
            f"the {plane} ({where}, named by an entry point in the group {group}) cannot be used: {why}"
        )

    def __reduce__(self) -> tuple[type[BadPlane], tuple[str, str, str, str, str]]:
        return type(self), (self.scheme, self.where, self.why, self.kind, self.group)


class _AtAddress(TransportError):
    """An error about one address, with the reason in words."""

    verb = "failed"

    def __init__(self, address: str, why: str) -> None:
        self.address, self.why = address, why
        super().__init__(f"{address} {self.verb}: {why}")

    def __reduce__(self) -> tuple[type[_AtAddress], tuple[str, str]]:
        return type(self), (self.address, self.why)


class Closed(_AtAddress):
    """This side closed the link, the client or the server."""

    verb = "is closed"


class Broken(_AtAddress):
    """The link went down under us: the peer died, the network was cut, or a heartbeat went unanswered."""

    verb = "broke"


class NoRoute(_AtAddress):
    """Nobody answers at the address."""

    verb = "cannot be reached"


class ConnectTimeout(NoRoute, TimeoutError):
    """No handshake was completed within the connect timeout."""

    verb = "did not answer in time"


class HandshakeRefused(NoRoute):
    """The peer answered and refused: version, namespace or node differ; the text says what."""

    verb = "refused the handshake"


class AddressInUse(_AtAddress):
    """The address that the server should bind is taken."""

    verb = "cannot be bound"


class TooLarge(TransportError, ValueError):
    """A message exceeds the limit; nothing was sent."""

    def __init__(self, size_bytes: int, limit_bytes: int, setting: str) -> None:
        self.size_bytes, self.limit_bytes, self.setting = size_bytes, limit_bytes, setting
        super().__init__(
            f"message of {size_bytes:,} bytes exceeds the limit of {limit_bytes:,} bytes; "
            f"raise {setting} on both sides, or send it in pieces (a stream)"
        )

    def __reduce__(self) -> tuple[type[TooLarge], tuple[int, int, str]]:
        return type(self), (self.size_bytes, self.limit_bytes, self.setting)


class StoredTooLarge(TooLarge):
    """A durable message exceeds what the store takes as one message; nothing was sent."""

    def __init__(self, size_bytes: int, limit_bytes: int, setting: str) -> None:
        super().__init__(size_bytes, limit_bytes, setting)
        self.args = (
            f"durable message of {size_bytes:,} bytes exceeds the limit of {limit_bytes:,} bytes; it is stored whole:"
            f" raise {setting}, or ask instead of tell",
        )


class NotStored(TransportError):
    """A durable message was not stored, or nobody knows whether it was (``maybe``)."""

    def __init__(self, component: str, why: str, maybe: bool = False) -> None:
        self.component, self.why, self.maybe = component, why, maybe
        if maybe:
            self.executed = Executed.MAYBE
        super().__init__(
            f"a durable message to {component} was {'perhaps ' if maybe else ''}not stored: {why}"
        )

    def __reduce__(self) -> tuple[type[NotStored], tuple[str, str, bool]]:
        return type(self), (self.component, self.why, self.maybe)


class LinkFull(TransportError):
    """The bounded queue of a link is full; wait for ``link_writable``. Nothing was sent."""

    def __init__(self, address: str, queued: int) -> None:
        self.address, self.queued = address, queued
        super().__init__(f"{address} is backed up: {queued} messages wait; nothing was sent")

    def __reduce__(self) -> tuple[type[LinkFull], tuple[str, int]]:
        return type(self), (self.address, self.queued)
