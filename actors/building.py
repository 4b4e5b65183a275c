"""How an actor object is made: it knows itself before its constructor runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from .actor import Actor, ActorContext, Home
from .cell import Cell
from .errors import ActorStopped
from .policy import State

A = TypeVar("A", bound=Actor)


def build(home: Home, cls: type[A], args: Sequence[Any], kwargs: Mapping[str, Any], cell: Cell) -> A:
    """Return a new actor with its context; raises what its constructor raises."""
    actor = cls.__new__(cls, *args, **kwargs)
    actor.context = ActorContext(cell, home)
    actor.__init__(*args, **kwargs)  # type: ignore[misc]
    return actor


def must_be_starting(cell: Cell) -> None:
    """Raises `ActorStopped` if somebody has stopped an actor while it started."""
    if cell.state is not State.STARTING:
        raise ActorStopped("it was stopped while it started")
