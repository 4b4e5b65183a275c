"""How an actor object is made: it knows itself before its constructor runs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from .actor import Actor, ActorContext
from .cell import Cell
from .directory import split_name
from .errors import ActorStopped
from .policy import State
from .ref import Ref

A = TypeVar("A", bound=Actor)

log = logging.getLogger("callboard.actors")


class Host(Protocol):
    """What this module needs from the node."""

    name: str
    on_announce: Callable[[str, str], None] | None

    def ref(self, name: str, cls: type[A]) -> Ref[A]:
        """A reference to an actor."""


def build(host: Host, cls: type[A], args: Sequence[Any], kwargs: Mapping[str, Any], cell: Cell) -> A:
    """Return a new actor with its context; raises what its constructor raises."""
    location = cell.location
    name = location.name
    component, index = split_name(name)
    actor = cls.__new__(cls, *args, **kwargs)
    actor.context = ActorContext(
        name=name,
        component=component,
        index=index or 0,
        incarnation=location.incarnation,
        node=host.name,
        ref=lambda: host.ref(name, cls),
        announce=lambda text: _announce(host, name, text),
        cell=cell,
    )
    actor.__init__(*args, **kwargs)  # type: ignore[misc]
    return actor


def _announce(host: Host, name: str, text: str) -> None:
    if host.on_announce is not None:
        host.on_announce(name, text)
    else:
        log.info("%s: %s", name, text)


def must_be_starting(cell: Cell) -> None:
    """Raises `ActorStopped` if somebody has stopped an actor while it started."""
    if cell.state is not State.STARTING:
        raise ActorStopped("it was stopped while it started")
