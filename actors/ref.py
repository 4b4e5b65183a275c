"""References: what a caller holds of an actor.

A reference is a name and a few options. It can be sent in messages; whoever receives it uses it from there. Which
process the actor is in is looked up per message, so a reference outlives restarts.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, overload

from .current import CURRENT
from .directory import Directory
from .durable import Durables, check_message_id
from .errors import ActorError, ActorStopped, ActorUnavailable, CallCycle, DeadlineExceeded
from .first_items import FirstItems
from .mailbox import Letter
from .marks import interleaves, is_idempotent, spelt
from .pending import INFINITE
from .policy import DownKind, Executed, OnDown, check_options
from .proxy import Proxy
from .resolving import unpickled
from .retry import Attempts
from .stream import Opening, Reader, Stream
from .target import Route, Target
from .watches import AwaitableWatch, Watches

A_co = TypeVar("A_co", covariant=True)
P = ParamSpec("P")
R = TypeVar("R")

DEFAULT_RETRIES = 2
"""For component references, where another instance can take over, and for idempotent methods."""


class Host(Protocol):
    """What references need from their node."""

    directory: Directory
    durables: Durables
    first_items: FirstItems
    watches: Watches

    @property
    def ask_deadline_s(self) -> float:
        """Deadline of an ask that names none."""

    def target(self, name: str) -> Target:
        """What a name stands for."""


class Ref(Generic[A_co]):
    """A reference to an actor, or to a component: then each message goes to one of its instances in turn."""

    __slots__ = ("_cls", "_deadline_s", "_host", "_message_id", "_on_down", "_retries", "_target", "name")

    def __init__(self, host: Host, name: str, cls: type | None = None) -> None:
        self._host = host
        self._target = host.target(name)
        self._cls = cls
        self._deadline_s: float | None = None
        self._retries: int | None = None
        self._on_down = OnDown.FAIL
        self._message_id: str | None = None
        self.name = name

    def __repr__(self) -> str:
        kind = self._cls.__name__ if self._cls else "?"
        return f"<Ref {self.name}: {kind}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ref) and other.name == self.name and other._host is self._host

    def __hash__(self) -> int:
        return hash(self.name)

    def __reduce__(self) -> tuple[Any, ...]:
        return unpickled, (self.name, self._cls)

    # -- verbs

    @overload
    async def ask(
        self,
        method: Callable[Concatenate[A_co, P], Coroutine[Any, Any, R]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> R: ...
    @overload
    async def ask(
        self, method: Callable[Concatenate[A_co, P], R], /, *args: P.args, **kwargs: P.kwargs
    ) -> R: ...
    @overload
    async def ask(self, method: str, /, *args: Any, **kwargs: Any) -> Any: ...
    async def ask(self, method: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Send a message and return the answer of its handler, or raise what became of it.

        Raises what the handler raised, and `ActorError`: its ``executed`` says whether the handler ran.
        Cancelling the ask cancels the handler.
        """
        name = method if type(method) is str else method.__name__
        start = monotonic()
        budget, extra = self._deadline_s, None
        if budget is None:
            budget = self._host.ask_deadline_s
        letter = CURRENT.get()
        if letter is not None and letter.task is not None:
            budget, extra = self._nested(letter, method, budget, start)
        deadline = start + budget
        try:
            route = self._target.pick() if extra is None else self._pick(extra["c"], method)
            if route.crowded:
                route = await self._with_room(route, deadline, method, extra)
                budget = deadline - monotonic()
        except ActorUnavailable:
            if self._on_down is not OnDown.WAIT:
                raise
            route = await self._when_up(deadline, method, extra)
            budget = deadline - monotonic()
        call_id, future = route.ask(name, args, kwargs, _on_wire(budget), deadline, extra)
        try:
            return await future
        except asyncio.CancelledError:
            _leave(route, call_id, future)
            raise
        except ActorError as error:
            if not self._may_retry(error, method):
                raise
            attempts = self._attempts(route, error)
        return await self._ask_again(method, name, args, kwargs, deadline, extra, attempts)

    @overload
    def tell(
        self, method: Callable[Concatenate[A_co, P], Any], /, *args: P.args, **kwargs: P.kwargs
    ) -> None: ...
    @overload
    def tell(self, method: str, /, *args: Any, **kwargs: Any) -> None: ...
    def tell(self, method: Any, /, *args: Any, **kwargs: Any) -> None:
        """Send a message that nobody answers; it is handled at most once, or at least once if the target is durable.

        Raises at once if the target is known to be down (`ActorUnavailable`; not if it is durable), or if as many
        messages wait for it as its mailbox may hold (`MailboxFull`).
        """
        name = method if type(method) is str else method.__name__
        if self._target.durable or self._message_id:
            self._host.durables.tell(self.name, name, args, kwargs, self._message_id, self._deadline_s)
        else:
            self._target.pick().tell(name, args, kwargs, None)

    @overload
    async def tell_wait(
        self, method: Callable[Concatenate[A_co, P], Any], /, *args: P.args, **kwargs: P.kwargs
    ) -> None: ...
    @overload
    async def tell_wait(self, method: str, /, *args: Any, **kwargs: Any) -> None: ...
    async def tell_wait(self, method: Any, /, *args: Any, **kwargs: Any) -> None:
        """Like `tell`, but wait until there is room; raises `DeadlineExceeded` if there is none in time.

        If the target is durable it returns when the message is stored, and may raise `NotStored`, too.
        """
        name = method if isinstance(method, str) else method.__name__
        budget = self._host.ask_deadline_s if self._deadline_s is None else self._deadline_s
        deadline = monotonic() + budget
        letter = CURRENT.get()
        if letter is not None and letter.task is not None:
            deadline = min(deadline, letter.deadline)
        if self._target.durable or self._message_id:
            await self._host.durables.tell_wait(self.name, name, args, kwargs, self._message_id, deadline)
            return
        try:
            route = await self._with_room(self._target.pick(), deadline, method)
        except ActorUnavailable:
            if self._on_down is not OnDown.WAIT:
                raise
            route = await self._when_up(deadline, method)
        route.put(name, args, kwargs)

    @overload
    def stream(
        self, method: Callable[Concatenate[A_co, P], AsyncIterator[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Stream[R]: ...
    @overload
    def stream(
        self, method: Callable[Concatenate[A_co, P], Iterator[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Stream[R]: ...
    @overload
    def stream(self, method: str, /, *args: Any, **kwargs: Any) -> Stream[Any]: ...
    def stream(self, method: Any, /, *args: Any, **kwargs: Any) -> Stream[Any]:
        """Return the items of a streaming method; nothing is sent before the first step."""
        return Stream(_RefOpening(self, method, args, kwargs))

    # -- other references

    def options(
        self,
        *,
        deadline_s: float | None = None,
        retries: int | None = None,
        on_down: OnDown | None = None,
        message_id: str | None = None,
    ) -> Ref[A_co]:
        """Return the same reference with other options; what is not given stays.

        ``deadline_s`` may be ``math.inf``. ``retries`` counts further tries after failures that ran
        nothing, or of methods declared idempotent; they prefer instances that have not failed. ``message_id`` is
        for tells to a durable actor: of those with one id within its window, one is stored. Raises `ValueError`.
        """
        check_options(deadline_s, retries, on_down)
        new = self._named(self.name)
        new._deadline_s = self._deadline_s if deadline_s is None else deadline_s
        new._retries = self._retries if retries is None else retries
        new._on_down = on_down or self._on_down
        new._message_id = self._message_id if message_id is None else check_message_id(message_id)
        return new

    def instance(self, index: int) -> Ref[A_co]:
        """Return the reference to one instance of this component."""
        return self._named(f"{self.name}.{index}")

    def instances(self) -> list[Ref[A_co]]:
        """Return references to the instances that are up now, in the order of their index."""
        return [self._named(location.name) for location in self._target.locations()]

    @property
    def incarnation(self) -> int:
        """The incarnation of the instance that is up; 0 if none is, or the name is a component's."""
        return next((at.incarnation for at in self._target.locations() if at.name == self.name), 0)

    def on_change(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call ``listener`` when `instances` may have changed, on the event loop; returns the function that ends it."""
        return self._host.directory.on_change(listener)

    def _named(self, name: str) -> Ref[A_co]:
        new = Ref[A_co](self._host, name, self._cls)
        new._deadline_s, new._retries = self._deadline_s, self._retries
        new._on_down, new._message_id = self._on_down, self._message_id
        return new

    def watch(self) -> AwaitableWatch[Down]:
        """Watch the current incarnation of an instance: await the result for the one `Down`, or cancel it.

        If none is up that comes at once. Raises `ValueError` for a component: watch its `instances`. An actor uses
        ``self.context.watch(ref)``, which goes on while it handles messages.
        """
        return AwaitableWatch(self._host.watches, self.name, lambda fate: Down(self, self.name, *fate))

    @property
    def proxy(self) -> A_co:
        """An object whose methods are asks (await them) and streams (iterate over them)."""
        return Proxy(self)  # type: ignore[return-value]

    # -- the slow ways

    def _nested(
        self, letter: Letter, method: Any, budget: float, now: float
    ) -> tuple[float, dict[str, Any] | None]:
        """Deadline and chain of an ask that a handler makes."""
        if letter.deadline != INFINITE:
            budget = min(budget, letter.deadline - now)
            if budget <= 0:
                why = "the deadline of the message being handled has passed"
                raise DeadlineExceeded(why, actor=self.name, executed=Executed.NEVER)
        chain = letter.chain
        cell = letter.cell
        if cell.sequential and not letter.method.interleave:
            chain = (*chain, cell.location.name)
        return budget, {"c": list(chain)} if chain else None

    def _pick(self, chain: Sequence[str], method: Any) -> Route:
        """Return the way to take; raises `CallCycle` if all lead to who waits for this message already."""
        route = self._target.pick_outside(chain)
        where = route.location
        if where.name in chain and not interleaves(self._cls, method):
            raise CallCycle.through(chain, where.name, where.incarnation, spelt(method))
        return route

    def _may_retry(self, error: ActorError, method: Any) -> bool:
        if not isinstance(error, ActorUnavailable | ActorStopped):
            return False
        idempotent = is_idempotent(self._cls, method)
        if not (error.retry_is_safe or idempotent):
            return False
        return self._tries(idempotent=idempotent) > 0

    def _tries(self, *, idempotent: bool) -> int:
        if self._retries is not None:
            return self._retries
        waits = self._on_down is OnDown.WAIT
        return DEFAULT_RETRIES if idempotent or waits or self._target.is_component else 0

    def _attempts(self, route: Route, error: ActorError) -> Attempts:
        attempts = Attempts(self._tries(idempotent=True), patient=self._on_down is OnDown.WAIT)
        attempts.failed(route.location, error)
        return attempts

    async def _ask_again(
        self,
        method: Any,
        name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        deadline: float,
        extra: Any,
        attempts: Attempts,
    ) -> Any:
        avoid = extra["c"] if extra and not interleaves(self._cls, method) else ()
        while True:
            route = await attempts.way(self._target, deadline - monotonic(), avoid)
            if route.crowded and not await self._room_at(route, deadline):
                continue
            budget = deadline - monotonic()
            if budget <= 0 and attempts.error is not None:
                raise attempts.error
            call_id, future = route.ask(name, args, kwargs, _on_wire(budget), deadline, extra)
            try:
                return await future
            except asyncio.CancelledError:
                _leave(route, call_id, future)
                raise
            except ActorError as error:
                if not self._may_retry(error, method):
                    raise
                attempts.failed(route.location, error)

    async def _when_up(self, deadline: float, method: Any, extra: Any = None) -> Route:
        """Return a way with a place once the target is up."""
        try:
            async with asyncio.timeout(_left(deadline)):
                await self._target.up()
        except TimeoutError:
            raise self._target.missing() from None
        route = self._pick(extra["c"] if extra else (), method)
        return await self._with_room(route, deadline, method, extra)

    async def _with_room(self, route: Route, deadline: float, method: Any, extra: Any = None) -> Route:
        """Return ``route``, or another way, with a place for a message that is sent at once."""
        while route.full or route.crowded:
            if await self._room_at(route, deadline):
                break
            route = self._pick(extra["c"] if extra else (), method)
        return route

    async def _room_at(self, route: Route, deadline: float) -> bool:
        """Wait for a place there; False if that way has gone meanwhile."""
        try:
            async with asyncio.timeout(_left(deadline)):
                return await route.room()
        except TimeoutError:
            raise DeadlineExceeded.without_room(route.location.name, route.location.incarnation) from None


@dataclass(frozen=True, slots=True)
class Down:
    """The news of a watch: one incarnation is down."""

    ref: Ref[Any]
    name: str
    incarnation: int
    """0 if none was ever known."""
    kind: DownKind
    reason: str
    """For people."""


def _left(deadline: float) -> float | None:
    return None if deadline == INFINITE else max(0.0, deadline - monotonic())


def _on_wire(budget: float) -> float:
    return 0.0 if budget == INFINITE else budget


def _leave(route: Route, call_id: int, future: asyncio.Future[Any]) -> None:
    if future.done() and not future.cancelled():
        future.exception()  # it came together with the cancellation: nobody will look at it
    route.cancel(call_id)


class _RefOpening(Opening):
    """Opens a stream through a reference."""

    def __init__(self, ref: Ref[Any], method: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._ref = ref
        self._method = method
        self._args, self._kwargs = args, kwargs
        self._deadline = 0.0
        self._route: Route | None = None
        self._attempts: Attempts | None = None
        self._call_id = 0

    async def open(self) -> Reader:
        ref = self._ref
        name = self._method if isinstance(self._method, str) else self._method.__name__
        start = monotonic()
        budget = INFINITE if ref._deadline_s is None else ref._deadline_s
        extra = None
        letter = CURRENT.get()
        if letter is not None and letter.task is not None:
            budget, extra = ref._nested(letter, self._method, budget, start)
        if self._attempts is None:
            self._deadline = start + budget
            route = await self._first(extra)
        else:
            # A stream has no deadline by itself, and waits for ever only where somebody asked it to.
            limit = INFINITE if ref._on_down is OnDown.WAIT else ref._host.ask_deadline_s
            avoid = extra["c"] if extra and not interleaves(ref._cls, self._method) else ()
            route = await self._attempts.way(ref._target, min(self._deadline - start, limit), avoid)
        budget = self._deadline - monotonic()
        self._route = route
        reader = Reader()
        call_id = self._call_id = route.open(reader, name, self._args, self._kwargs, _on_wire(budget), extra)
        if budget != INFINITE:
            reader.expire_after(budget, call_id)
        return reader

    async def _first(self, extra: dict[str, Any] | None) -> Route:
        ref, method = self._ref, self._method
        try:
            route = ref._pick(extra["c"] if extra else (), method)
            if route.crowded:
                return await ref._with_room(route, self._deadline, method, extra)
            return route
        except ActorUnavailable:
            if ref._on_down is not OnDown.WAIT:
                raise
            return await ref._when_up(self._deadline, method, extra)

    def may_retry(self, error: Exception) -> bool:
        if not isinstance(error, ActorError) or not self._ref._may_retry(error, self._method):
            return False
        assert self._route is not None
        if self._attempts is None:
            self._attempts = self._ref._attempts(self._route, error)
        else:
            self._attempts.failed(self._route.location, error)
        return True

    def began(self, seconds: float) -> None:
        self._ref._host.first_items.note(seconds)

    def cancel(self, reader: Reader) -> None:
        reader.route.cancel(self._call_id)
