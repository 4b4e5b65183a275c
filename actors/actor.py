"""What a user derives from, and what an actor knows about itself."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

from .current import DeliveryFacts, delivery, is_cancelled
from .policy import StopReason
from .ref import Ref

F = TypeVar("F", bound=Callable[..., Any])


class ActorContext:
    """What an actor knows about itself; ``self.context``, there before ``__init__`` runs."""

    __slots__ = ("_announce", "_ref", "component", "incarnation", "index", "name", "node")

    def __init__(
        self,
        *,
        name: str,
        component: str,
        index: int,
        incarnation: int,
        node: str,
        ref: Callable[[], Ref[Any]],
        announce: Callable[[str], None],
    ) -> None:
        self.name = name
        self.component = component
        self.index = index
        self.incarnation = incarnation
        self.node = node
        """Name of the process, for people."""
        self._ref = ref
        self._announce = announce

    def __repr__(self) -> str:
        return f"<ActorContext {self.name} incarnation {self.incarnation} in {self.node}>"

    @property
    def log(self) -> logging.Logger:
        """The logger ``callboard.actor.NAME``; made when it is first used, for idle actors are many."""
        return logging.getLogger(f"callboard.actor.{self.name}")

    @property
    def ref(self) -> Ref[Any]:
        """A reference to this actor, to be given to others."""
        return self._ref()

    @property
    def cancelled(self) -> bool:
        """True if the caller of the message being handled has left; for blocking handlers to look at."""
        return is_cancelled()

    @property
    def delivery(self) -> DeliveryFacts | None:
        """Sequence, count and id of the durable message being handled; None while another one is."""
        return delivery()

    def announce(self, text: str) -> None:
        """Show a line to whoever started the system, for example the URL where this actor listens."""
        self._announce(text)


class Actor:
    """Base of all actors: a plain class whose public methods are its messages.

    ``async def`` and plain methods are asked or told, generators are streamed. One message is handled at
    a time unless ``concurrency`` says otherwise. A plain method runs on the event loop: mark it `blocking`
    if it takes longer than a moment.
    """

    concurrency: ClassVar[int] = 1
    context: ActorContext

    async def on_start(self) -> None:
        """Called before the first message; the actor is ready when it returns."""

    async def on_stop(self, reason: StopReason) -> None:
        """Called after the last message."""


def objection(cls: Any) -> str:
    """What keeps a class from being started as an actor; empty if nothing does."""
    if not (isinstance(cls, type) and issubclass(cls, Actor)):
        return f"{cls!r} is not a class that derives from callboard.Actor"
    if type(cls.concurrency) is not int or cls.concurrency < 1:
        return f"{cls.__name__}.concurrency is {cls.concurrency!r}; it must be a whole number above 0"
    return ""


def blocking(function: F) -> F:
    """Mark a plain method or generator that blocks: it runs in a thread."""
    function.__callboard_blocking__ = True  # type: ignore[attr-defined]
    return function


def interleave(function: F) -> F:
    """Mark a method that runs at once, beside whatever the actor is handling."""
    function.__callboard_interleave__ = True  # type: ignore[attr-defined]
    return function


def idempotent(function: F) -> F:
    """Mark a method that may run twice for one ask: it is retried when its process dies."""
    function.__callboard_idempotent__ = True  # type: ignore[attr-defined]
    return function
