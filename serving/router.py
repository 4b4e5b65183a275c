"""The actor between frontends and workers: chooses a worker for each request and passes its pieces on."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator
from contextlib import suppress

from callboard.actors.actor import Actor, idempotent, interleave
from callboard.actors.directory import split_name
from callboard.actors.errors import ActorStopped, ActorUnavailable, MailboxFull, Overloaded
from callboard.actors.policy import StopReason
from callboard.actors.ref import Ref
from callboard.transports.errors import ConfigError

from .errors import NoWorkers, UnknownModel
from .protocol import GenerateRequest, ModelInfo, Piece
from .routing import Balance, make_policy
from .worker import Worker

DESCRIBE_S = 1.0
"""Deadline of asking a worker what it serves."""

RETRIED = (ActorUnavailable, ActorStopped, MailboxFull, UnknownModel)
"""Failures after which another worker is tried, as long as no piece has arrived."""


class Router(Actor):
    """Streams each request from one of the workers that serve its model.

    ``mode`` is ``round-robin`` or ``least-loaded`` (by the requests outstanding at this router). A worker
    with ``max_outstanding`` requests gets no further one. Raises `ConfigError`.
    """

    concurrency = 4096

    def __init__(
        self, workers: Ref[Worker], mode: str = "round-robin", *, max_outstanding: int = Worker.concurrency
    ) -> None:
        if max_outstanding < 1:
            raise ConfigError(f"max_outstanding is {max_outstanding}; it must be at least 1")
        self._balance = Balance(make_policy(mode))
        self._max_outstanding = max_outstanding
        self._name = workers.name
        # Retries are made here: a reference to one instance would only try the same one again.
        self._workers = workers.options(retries=0)
        self._described: dict[int, ModelInfo] = {}
        self._known_models: set[str] = set()
        self._asking: asyncio.Task[None] | None = None

    async def on_start(self) -> None:
        """Ask the workers what they serve."""
        await asyncio.shield(self._describe_soon())

    async def on_stop(self, reason: StopReason) -> None:
        """Ask no more."""
        if self._asking is not None:
            self._asking.cancel()
            with suppress(asyncio.CancelledError):
                await self._asking

    @idempotent
    async def generate(self, request: GenerateRequest) -> AsyncIterator[Piece]:
        """Yield the text of each token, then one `Finish`.

        A worker that fails before its first piece is replaced by another one. Raises `UnknownModel`,
        `NoWorkers`, `Overloaded` or `MailboxFull` if every worker is full, and what the worker raises.
        """
        failed: dict[int, Exception] = {}
        while True:
            up = self._up()
            index = self._balance.begin(await self._candidates(request.model, up, failed))
            batches = up[index].stream(Worker.generate, request).batches()
            begun = False
            try:
                async for batch in batches:
                    begun = True
                    for piece in batch:
                        yield piece
                return
            except RETRIED as error:
                if begun:
                    raise
                failed[index] = error
                if isinstance(error, UnknownModel):  # it is another incarnation than the one that was asked
                    self._described.pop(index, None)
            finally:
                self._balance.end(index)
                await batches.aclose()

    @interleave
    async def models(self) -> list[ModelInfo]:
        """Return what the workers that are up serve, each model once."""
        await asyncio.shield(self._describe_soon())
        by_model = {info.model: info for _, info in sorted(self._described.items(), reverse=True)}
        return sorted(by_model.values(), key=lambda info: info.model)

    @interleave
    def load(self) -> dict[str, int]:
        """Return the workers that are up, by name, with the requests outstanding on each."""
        return {ref.name: self._balance.outstanding.get(index, 0) for index, ref in self._up().items()}

    # -- who is there

    def _up(self) -> dict[int, Ref[Worker]]:
        up = {split_name(ref.name)[1] or 0: ref for ref in self._workers.instances()}
        for gone in self._described.keys() - up.keys():
            del self._described[gone]
        return up

    async def _candidates(
        self, model: str, up: dict[int, Ref[Worker]], failed: dict[int, Exception]
    ) -> list[int]:
        """Return the instances that may take a request; raises why there are none."""
        found = self._serving(model, up, failed)
        new = up.keys() - self._described.keys() - failed.keys()
        if found and new:
            self._describe_soon()
        elif not found and (new or not failed):
            # What is known may be old: a worker that came back may serve something else.
            await asyncio.shield(self._describe_soon())
            found = self._serving(model, up, failed)
        if found:
            return self._free(found)
        if failed:
            last = next(reversed(failed.values()))
            if isinstance(last, MailboxFull | UnknownModel):
                raise last
            names = ", ".join(up[index].name for index in failed if index in up)
            raise NoWorkers(f"{names or self._name} failed before the first token")
        if self._known_models and model not in self._known_models:
            raise UnknownModel(model, self._known_models)
        raise NoWorkers(f"no instance of {self._name} that serves {model} is up")

    def _serving(self, model: str, up: dict[int, Ref[Worker]], failed: dict[int, Exception]) -> list[int]:
        described = self._described
        return [
            index
            for index in up
            if index in described and described[index].model == model and index not in failed
        ]

    def _free(self, found: list[int]) -> list[int]:
        limit, outstanding = self._max_outstanding, self._balance.outstanding
        free = [index for index in found if outstanding.get(index, 0) < limit]
        if not free:
            raise Overloaded(
                f"each of {len(found)} workers has {limit} requests outstanding (max_outstanding)",
                actor=self.context.name,
            )
        return free

    def _describe_soon(self) -> asyncio.Task[None]:
        """Return the task that asks every worker what it serves; there is one at a time."""
        if self._asking is None:
            # With a context of its own: the deadline of the message being handled is not the deadline of this.
            self._asking = asyncio.get_running_loop().create_task(
                self._ask_all(), name=f"{self.context.name} asks", context=contextvars.Context()
            )
            self._asking.add_done_callback(self._asked)
        return self._asking

    def _asked(self, task: asyncio.Task[None]) -> None:
        self._asking = None

    async def _ask_all(self) -> None:
        up = self._up()
        asks = [ref.options(deadline_s=DESCRIBE_S).ask(Worker.describe) for ref in up.values()]
        for index, answer in zip(up, await asyncio.gather(*asks, return_exceptions=True), strict=True):
            if isinstance(answer, ModelInfo):
                self._described[index] = answer
                self._known_models.add(answer.model)
            else:  # it may be busy: what it said before stays
                self.context.log.warning("%s.%d does not say what it serves: %s", self._name, index, answer)
