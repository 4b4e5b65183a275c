"""Unpickled references: which node they belong to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_RESOLVER: ContextVar[Callable[[str, type | None], Any] | None] = ContextVar(
    "callboard_resolver", default=None
)


@contextmanager
def resolving(resolver: Callable[[str, type | None], Any]) -> Iterator[None]:
    """Within this block, pickled references become references of the node behind ``resolver``."""
    token = _RESOLVER.set(resolver)
    try:
        yield
    finally:
        _RESOLVER.reset(token)


def unpickled(name: str, cls: type | None) -> Any:
    """Return the reference; raises `RuntimeError` outside a `resolving` block."""
    resolver = _RESOLVER.get()
    if resolver is None:
        raise RuntimeError(
            f"the reference to {name} was unpickled outside a callboard node; send it in a message"
        )
    return resolver(name, cls)
