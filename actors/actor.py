"""What a user derives from, and what an actor knows about itself."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Hashable
from inspect import iscoroutinefunction, unwrap
from types import FunctionType
from typing import Any, ClassVar, Concatenate, NoReturn, ParamSpec, Protocol, TypeVar, overload

from .current import DeliveryFacts, delivery, is_cancelled
from .directory import split_name
from .events import ActorEvents, NodeEvents
from .inner import Inner, Owner, Watch, inner_of
from .policy import StopReason
from .ref import Down, Ref
from .signature import HOOKS
from .stash import leave

F = TypeVar("F", bound=Callable[..., Any])
P = ParamSpec("P")

log = logging.getLogger("callboard.actors")


class Home(Protocol):
    """What an actor's context needs from its node."""

    name: str
    events: NodeEvents
    on_announce: Callable[[str, str], None] | None
    """Shows a line of the actor of that name to whoever started the system."""

    def ref(self, name: str, cls: Any) -> Ref[Any]:
        """A reference to an actor."""


class ActorContext:
    """What an actor knows about itself; ``self.context``, there before ``__init__`` runs."""

    __slots__ = ("_cell", "_home")

    def __init__(self, cell: Owner, home: Home) -> None:
        self._cell, self._home = cell, home

    def __repr__(self) -> str:
        return f"<ActorContext {self.name} incarnation {self.incarnation} in {self.node}>"

    @property
    def name(self) -> str:
        """Name of the instance, for example ``worker.3``."""
        return self._cell.location.name

    @property
    def component(self) -> str:
        """Name of the component that it is an instance of."""
        return split_name(self.name)[0]

    @property
    def index(self) -> int:
        """Number of the instance in its component; 0 if its name has none."""
        return split_name(self.name)[1] or 0

    @property
    def incarnation(self) -> int:
        """How often it has been started, from 1."""
        return self._cell.location.incarnation

    @property
    def node(self) -> str:
        """Name of the process, for people."""
        return self._home.name

    @property
    def log(self) -> logging.Logger:
        """The logger ``callboard.actor.NAME``; made when it is first used, for idle actors are many."""
        return logging.getLogger(f"callboard.actor.{self.name}")

    @property
    def ref(self) -> Ref[Any]:
        """A reference to this actor, to be given to others."""
        return self._home.ref(self.name, self._cell.cls)

    @property
    def events(self) -> ActorEvents:
        """Publish and subscribe over the system's event plane."""
        return ActorEvents(self._home.events, self.name, self.incarnation)

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
        if self._home.on_announce is not None:
            self._home.on_announce(self.name, text)
        else:
            log.info("%s: %s", self.name, text)

    # -- death watch, timers, stash: on the event loop, not in the thread of a blocking method

    def watch(self, ref: Ref[Any]) -> Watch:
        """Watch the current incarnation of an instance: ``on_down`` gets exactly one `Down`.

        It comes at once if none is up, and never after ``cancel()`` of what this returns. Each watch has its own.
        A watch ends with this actor. Raises `ValueError` for a component (watch its ``instances()``), and
        `TypeError` if this class has no ``on_down``.
        """
        return self._inner().watch(ref)

    @overload
    def start_timer(
        self,
        key: Hashable,
        after_s: float,
        method: Callable[Concatenate[Any, P], Any],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> None: ...
    @overload
    def start_timer(
        self, key: Hashable, after_s: float, method: str, /, *args: Any, **kwargs: Any
    ) -> None: ...
    def start_timer(self, key: Hashable, after_s: float, method: Any, /, *args: Any, **kwargs: Any) -> None:
        """Have a message of this class handled in ``after_s`` seconds, like a tell of the actor to itself.

        A key stands for one timer: starting it again replaces it, and what the old one has sent and is not being
        handled yet is never handled. All end when the actor stops. Raises `ValueError`, `UnknownMethod`,
        `BadArguments`, and `Overloaded` beyond 1,000 timers.
        """
        self._inner().start_timer(key, after_s, None, method, args, kwargs)

    @overload
    def start_periodic_timer(
        self,
        key: Hashable,
        every_s: float,
        method: Callable[Concatenate[Any, P], Any],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> None: ...
    @overload
    def start_periodic_timer(
        self, key: Hashable, every_s: float, method: str, /, *args: Any, **kwargs: Any
    ) -> None: ...
    def start_periodic_timer(
        self, key: Hashable, every_s: float, method: Any, /, *args: Any, **kwargs: Any
    ) -> None:
        """The same every ``every_s`` seconds, first after as many; left out while the last one waits or runs."""
        self._inner().start_timer(key, every_s, every_s, method, args, kwargs)

    def cancel_timer(self, key: Hashable) -> bool:
        """End a timer, and take out what it has sent and is not being handled; False if there is nothing to end."""
        return self._inner().timers.cancel(key)

    def stash(self) -> NoReturn:
        """Put the message that is being handled aside, until `unstash`; its caller goes on waiting.

        Never returns. The handler runs again from its beginning, so what it does before this must be harmless
        twice: a message that is stashed counts as not begun. Call it in the handler itself, of an ask or a tell.

        If ``stash_limit`` are stashed, or half of what one sender may have here, the caller gets `StashFull` (a
        tell is dropped, counted and logged). Raises `RuntimeError` for a stream, an interleaving method or a
        durable message.
        """
        inner_of(self._cell)
        leave(self._cell)

    def unstash(self) -> None:
        """Let all that is stashed be handled next, in its order, ahead of everything else that waits."""
        self._inner().stash.put_back()

    def _inner(self) -> Inner:
        try:
            asyncio.get_running_loop()
        except RuntimeError:  # in a thread, where none of this is safe
            raise RuntimeError(
                "watches, timers and unstash are for the event loop, and this is the thread of a blocking method:"
                " tell the actor itself (self.context.ref.tell) what shall happen"
            ) from None
        return inner_of(self._cell)


class Actor:
    """Base of all actors: a plain class whose public methods are its messages.

    ``async def`` and plain methods are asked or told, generators are streamed. One message is handled at
    a time unless ``concurrency`` says otherwise. A plain method runs on the event loop: mark it `blocking`
    if it takes longer than a moment.

    A class may have a classmethod ``check_args(cls, **args) -> None``, which raises `ConfigError` with every problem
    of the arguments that a config file has for its constructor; ``check`` and ``up`` call it before anything starts.
    """

    concurrency: ClassVar[int] = 1
    stash_limit: ClassVar[int] = 128
    """Messages that it may put aside with ``self.context.stash()``."""
    context: ActorContext

    async def on_start(self) -> None:
        """Called before the first message; the actor is ready when it returns."""

    async def on_ready(self) -> None:
        """Called when others can reach the actor, like a message before all others; what it raises fails the actor."""

    async def on_down(self, down: Down) -> None:
        """Called like a message, before those that wait, for each actor watched that went down."""

    async def on_drain(self) -> None:
        """Called first when a stop with grace begins, beside the handlers and while messages still come.

        The place to sign off from others. It is part of the grace; what it raises is logged.
        """

    async def on_stop(self, reason: StopReason) -> None:
        """Called after the last message."""


def objection(cls: Any) -> str:
    """What keeps a class from being started as an actor; empty if nothing does."""
    if not (isinstance(cls, type) and issubclass(cls, Actor)):
        return f"{cls!r} is not a class that derives from callboard.Actor"
    if type(cls.concurrency) is not int or cls.concurrency < 1:
        return f"{cls.__name__}.concurrency is {cls.concurrency!r}; it must be a whole number above 0"
    if type(cls.stash_limit) is not int or cls.stash_limit < 0:
        return f"{cls.__name__}.stash_limit is {cls.stash_limit!r}; it must be a whole number, 0 or above"
    for name in sorted(HOOKS):
        hook = getattr(cls, name)
        if isinstance(hook, FunctionType) and not iscoroutinefunction(unwrap(hook)):
            return f"{cls.__name__}.{name} is a plain method; a hook is awaited: async def {name}"
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
