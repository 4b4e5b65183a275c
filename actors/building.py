"""How an actor object is made: it knows itself before its constructor runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from .actor import Actor, ActorContext
from .directory import Location, split_name
from .ref import Ref

A = TypeVar("A", bound=Actor)


def build(
    cls: type[A],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    location: Location,
    node: str,
    ref: Callable[[], Ref[A]],
    announce: Callable[[str], None],
) -> A:
    """Return a new actor with its context; raises what its constructor raises."""
    component, index = split_name(location.name)
    actor = cls.__new__(cls, *args, **kwargs)
    actor.context = ActorContext(
        name=location.name,
        component=component,
        index=index or 0,
        incarnation=location.incarnation,
        node=node,
        ref=ref,
        announce=announce,
    )
    actor.__init__(*args, **kwargs)  # type: ignore[misc]
    return actor
