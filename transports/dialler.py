"""How the clients of every plane dial: callers that want the same node at an address share one attempt."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, Protocol, TypeVar

from .base import Link
from .errors import Closed, NoRoute


class Dialled(Link, Protocol):
    """A link that tells whether it is up."""

    @property
    def is_up(self) -> bool:
        """False from the moment that its end was decided."""


L = TypeVar("L", bound=Dialled)


class Dialler(Generic[L]):
    """Finds the link to an address, or dials; at most one attempt per address at a time.

    ``find`` returns the link that is up. ``dial`` makes one to the expected node, or to any; it is cancelled when the
    client closes.
    """

    def __init__(
        self,
        find: Callable[[str], L | None],
        dial: Callable[[str, str | None], Coroutine[Any, Any, L]],
    ) -> None:
        self._find = find
        self._dial = dial
        self._attempts: dict[str, tuple[asyncio.Task[L], str | None]] = {}
        self._closed = False

    def __len__(self) -> int:
        return len(self._attempts)

    def __repr__(self) -> str:
        return f"<Dialler {', '.join(self._attempts) or 'idle'}>"

    async def connect(self, address: str, node: str | None) -> L:
        """See `RequestPlaneClient.connect`."""
        while True:
            if self._closed:
                raise Closed(address, "the client was closed")
            link = self._find(address)
            if link is not None and node in (None, link.peer.node):
                return link
            if address not in self._attempts:
                self._start(address, node)
            attempt, wanted = self._attempts[address]
            if node == wanted:
                return await self._share(attempt, address)
            # Somebody else expects another node there: a link would do for us too, a refusal would decide nothing.
            await asyncio.wait([attempt])

    def _start(self, address: str, node: str | None) -> None:
        attempt = asyncio.get_running_loop().create_task(self._dial(address, node))
        self._attempts[address] = (attempt, node)
        attempt.add_done_callback(lambda _: self._over(address, attempt))

    def _over(self, address: str, attempt: asyncio.Task[L]) -> None:
        del self._attempts[address]
        if not attempt.cancelled():
            attempt.exception()  # whoever waited has it; nobody may have

    async def _share(self, attempt: asyncio.Task[L], address: str) -> L:
        try:
            link = await asyncio.shield(attempt)
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if attempt.cancelled() and not (caller and caller.cancelling()):
                raise Closed(address, "the client was closed") from None
            raise
        if not link.is_up:  # the caller would wait for a link_down that is already over
            raise NoRoute(address, "the link broke as soon as it was up")
        return link

    async def close(self) -> None:
        """End every attempt; whoever waits for one gets `Closed`."""
        self._closed = True
        attempts = [attempt for attempt, _ in self._attempts.values()]
        for attempt in attempts:
            attempt.cancel()
        if attempts:
            await asyncio.wait(attempts)
