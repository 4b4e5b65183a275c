"""KV events of TensorRT-LLM: its server hands them out when it is asked, so it is asked all the time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass
from typing import Any

from callboard.transports.errors import ConfigError

from ..errors import MissingServingExtra
from .changes import AllCleared, EngineChange
from .engine_events import BadEvents, TensorRtEvents

PAUSES_S = (0.005, 0.02)
"""First and longest pause while there is nothing; it grows by half each time, as Dynamo's reader does."""

AWAY_S = 1.0
"""Pause after a server that does not answer."""

log = logging.getLogger("callboard.serving")


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorRtSourceSettings:
    """Where a server of TensorRT-LLM is. Raises `ConfigError` with every problem."""

    url: str
    """For example ``http://127.0.0.1:8000``."""
    block_size: int = 32

    def __post_init__(self) -> None:
        problems = []
        if not str(self.url).startswith(("http://", "https://")):
            problems.append(f'kv_events.url is "{self.url}"; it must begin with http:// or https://')
        if type(self.block_size) is not int or self.block_size < 1:
            problems.append(
                f"kv_events.block_size is {self.block_size!r}; it must be a whole number, at least 1"
            )
        if problems:
            raise ConfigError(problems)


class TensorRtSource:
    """Polls ``/kv_cache_events`` and tells ``listener`` what changed."""

    def __init__(
        self, settings: TensorRtSourceSettings, listener: Callable[[Sequence[EngineChange]], None]
    ) -> None:
        self._settings, self._listener = settings, listener
        self._events = TensorRtEvents(settings.block_size)
        self._task: asyncio.Task[None] | None = None
        self.messages = self.bad = self.failures = 0

    def __repr__(self) -> str:
        return f"<TensorRtSource {self._settings.url}, {self.messages} events>"

    async def start(self) -> None:
        """Begin to poll. Raises `MissingServingExtra`."""
        try:
            import aiohttp
        except ImportError as error:
            raise MissingServingExtra(error.name or "aiohttp", extra="llm") from None
        session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10))
        self._task = asyncio.get_running_loop().create_task(
            self._poll(session), name="KV events of TensorRT-LLM", context=Context()
        )

    async def _poll(self, session: Any) -> None:
        pause_s = PAUSES_S[0]
        async with session:
            while True:
                try:
                    async with session.post(f"{self._settings.url}/kv_cache_events") as response:
                        response.raise_for_status()
                        events = await response.json()
                except (OSError, ValueError, TimeoutError, _client_error()) as error:
                    self.failures += 1
                    log.debug("no KV events from %s: %s", self._settings.url, error)
                    await asyncio.sleep(AWAY_S)
                    continue
                self._take(events if isinstance(events, list) else [])
                pause_s = PAUSES_S[0] if events else min(PAUSES_S[1], pause_s * 1.5)
                await asyncio.sleep(pause_s)

    def _take(self, events: list[Any]) -> None:
        changes: list[EngineChange] = []
        for event in events:
            self.messages += 1
            try:
                changes += self._events.read(event if isinstance(event, dict) else {})
            except BadEvents as error:
                self.bad += 1
                log.warning("KV events of %s: %s", self._settings.url, error)
                changes.append(AllCleared())
        if changes:
            self._listener(changes)

    async def close(self) -> None:
        """Poll no more; idempotent."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def statistics(self) -> dict[str, int]:
        """Counters since the start."""
        return {
            "messages": self.messages, "bad": self.bad, "failures": self.failures,
            "gaps": self._events.gaps, "unknown": self._events.unknown,
        }  # fmt: skip


def _client_error() -> type[Exception]:
    import aiohttp

    error: type[Exception] = aiohttp.ClientError
    return error
