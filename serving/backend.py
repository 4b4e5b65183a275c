"""The routers, as the HTTP application sees them: one that goes away in the middle of an answer is replaced."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from callboard.actors.directory import split_name
from callboard.actors.errors import ActorError, ActorStopped, ActorUnavailable, DeadlineExceeded
from callboard.actors.policy import OnDown
from callboard.actors.ref import Ref

from .errors import OtherTokenizer
from .migration import given, resume, whole
from .protocol import Finish, GenerateRequest, ModelInfo, Piece
from .router import Router

PROBE_S = 2.0
"""Deadline of what is asked for ``/health`` and ``/v1/models``."""

MOVES = 3
"""How often a request may go on at another router, or at its successor."""


class RouterBackend:
    """Streams from one of the routers of a component."""

    def __init__(self, router: Ref[Router]) -> None:
        self._router = router
        self._probe = router.options(deadline_s=PROBE_S)
        self._waiting = router.options(on_down=OnDown.WAIT)
        self.moved = 0
        self.outdated = False
        """Set when a worker turned out to take something else than what `models` had said."""

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[list[Piece], None]:
        """Yield batches of pieces; the last one ends with a `Finish` that counts the whole answer.

        A router that goes away, or is not there, is waited for as long as an ask may take (``request_timeout_s``).
        Raises what the router raises, and `ActorError` if none comes.
        """
        kept, before, moves = list[Piece](), 0, 0
        while True:
            batches = self._router.stream(Router.generate, request).batches()
            try:
                async for batch in batches:
                    kept += batch
                    if before and type(batch[-1]) is Finish:
                        batch[-1] = whole(batch[-1], before)
                    yield batch
                return
            except (ActorUnavailable, ActorStopped) as error:
                done = given(kept)
                if done is None or moves >= MOVES or not self._is_router(error):
                    raise
                lost = error
                moves += 1
                self.moved += 1
                before += len(done)
                request, kept = resume(request, done), []
            except OtherTokenizer:
                self.outdated = True
                raise
            finally:
                await batches.aclose()
            # Not by a deadline of the stream: that would be one of the rest of the answer.
            try:
                await self._waiting.ask(Router.load)
            except DeadlineExceeded:  # one is there and says nothing
                raise lost from None

    def _is_router(self, error: ActorError) -> bool:
        """False if it is the router's own news of a worker."""
        return split_name(error.actor)[0] == split_name(self._router.name)[0]

    async def models(self, *, wait: bool = False) -> list[ModelInfo]:
        """Return what is served; with ``wait`` a router that is not there is waited for."""
        return await (self._waiting if wait else self._probe).ask(Router.models)

    async def workers(self) -> dict[str, int]:
        """Return the workers that are up, with the requests outstanding on each."""
        return await self._probe.ask(Router.load)

    async def statistics(self) -> dict[str, Any]:
        """Return what a router has counted."""
        return await self._probe.ask(Router.statistics)
