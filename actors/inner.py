"""What an actor has besides its mailbox: watches, timers, a stash. All of it is made when it is first used."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, Protocol

from .directory import Location
from .lifecycle import Hook
from .mailbox import Letter, Mailbox
from .ref import Down, Ref
from .signature import Method, hook_of
from .stash import Stash
from .timers import Timers
from .watches import Watches, Watching


class Owner(Protocol):
    """What this module needs from a cell."""

    host: Any
    cls: Any
    location: Location
    mailbox: Mailbox
    inner: Any

    @property
    def takes_mail(self) -> bool:
        """False once the actor stops or has failed."""

    def post(self, letter: Letter) -> None:
        """Take a letter of the actor itself."""

    def wake(self) -> None:
        """Something waits in the mailbox."""


class Watch(Hook):
    """A watch of an actor: its one `Down` goes to ``on_down``, unless `cancel` comes before."""

    __slots__ = ("_inner", "_watching", "ref")

    def __init__(self, inner: Inner, ref: Ref[Any]) -> None:
        super().__init__(inner.cell)
        self.ref = ref
        self._inner = inner
        self._watching: Watching | None = None

    def __repr__(self) -> str:
        return f"<Watch of {self.ref.name} by {self.cell.location.name}>"

    def begin(self, watches: Watches, hook: Method) -> None:
        """Raises `ValueError` for a component."""
        self._watching = watches.watch(
            self.ref.name, lambda fate: self.run(hook, Down(self.ref, self.ref.name, *fate))
        )

    def cancel(self) -> None:
        """Watch no more: a `Down` that waits for its turn is not delivered either; idempotent."""
        if self._watching is not None:
            self._watching.cancel()
        self.withdraw()
        self.ended()

    def ended(self) -> None:
        """See `Inside`."""
        self._inner.watches.pop(self, None)


class Inner:
    """The watches, timers and stash of one actor."""

    __slots__ = ("cell", "stash", "timers", "watches")

    def __init__(self, cell: Owner) -> None:
        self.cell = cell
        self.timers = Timers(cell)
        self.stash = Stash(cell)
        self.watches: dict[Watch, None] = {}

    def watch(self, ref: Ref[Any]) -> Watch:
        """See `ActorContext.watch`."""
        cell = self.cell
        hook = hook_of(cell.cls, "on_down")
        if hook is None:
            raise TypeError(
                f"{cell.cls.__name__} watches and has no hook for the news: async def on_down(self, down: Down)"
            )
        watch = Watch(self, ref)
        if cell.takes_mail:
            watch.begin(cell.host.watches, hook)
            self.watches[watch] = None
        return watch

    def close(self) -> list[Letter]:
        """End watches and timers; returns what is stashed, to be refused."""
        for watch in list(self.watches):
            watch.cancel()
        self.timers.close()
        return self.stash.take_all()

    def start_timer(
        self, key: Hashable, after_s: float, every_s: float | None, method: Any, args: Any, kwargs: Any
    ) -> None:
        """See `ActorContext.start_timer`."""
        name = method if isinstance(method, str) else method.__name__
        self.timers.start(key, after_s, every_s, name, args, kwargs)


def inner_of(cell: Owner) -> Inner:
    """Return what a cell has of this, made now if it is the first time."""
    inner: Inner | None = cell.inner
    if inner is None:
        inner = cell.inner = Inner(cell)
    return inner
