"""A reference spelled as an object: its methods are asks when they are awaited, streams when they are iterated over."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Generator
from typing import Any, Protocol


class Verbs(Protocol):
    """What a proxy needs of a reference."""

    async def ask(self, method: str, /, *args: Any, **kwargs: Any) -> Any:
        """See `Ref.ask`."""

    def stream(self, method: str, /, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        """See `Ref.stream`."""


class Proxy:
    """What `Ref.proxy` returns; a type checker takes it for the actor's own class."""

    __slots__ = ("_ref",)

    def __init__(self, ref: Verbs) -> None:
        self._ref = ref

    def __getattr__(self, name: str) -> Callable[..., ProxyCall]:
        return lambda *args, **kwargs: ProxyCall(self._ref, name, args, kwargs)


class ProxyCall:
    """An ask if awaited, a stream if iterated over."""

    __slots__ = ("_args", "_kwargs", "_name", "_ref")

    def __init__(self, ref: Verbs, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._ref, self._name, self._args, self._kwargs = ref, name, args, kwargs

    def __await__(self) -> Generator[Any, None, Any]:
        return self._ref.ask(self._name, *self._args, **self._kwargs).__await__()

    def __aiter__(self) -> AsyncIterator[Any]:
        return aiter(self._ref.stream(self._name, *self._args, **self._kwargs))
