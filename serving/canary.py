"""Is the engine well? Judged by progress, not by the first sign of life.

While pieces come, all is well. When requests run and none of them has got a piece for ``stall_s``, or when nothing has
run for ``idle_s``, a small generation is tried that must give *all* its tokens within ``timeout_s``. If it does not,
the engine is sick: the worker fails and is started again, or only says so.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass
from typing import Any

from callboard.transports.errors import ConfigError, did_you_mean

from .options import settings_of, table

log = logging.getLogger("callboard.serving")


@dataclass(frozen=True, slots=True, kw_only=True)
class CanarySettings:
    """The keys of a worker's ``canary``. Raises `ConfigError` with every problem."""

    stall_s: float = 30.0
    """Running requests without any piece for so long make the engine suspect; 0: never."""
    idle_s: float = 0.0
    """After so long without requests the engine is tried; 0: never."""
    timeout_s: float = 3.0
    tokens: int = 4
    on_stall: str = "restart"
    """``restart``: the worker fails; ``report``: it says so in its log."""

    def __post_init__(self) -> None:
        problems = [
            f"canary.{name} is {value!r}; it must be a number, 0 or above"
            for name in ("stall_s", "idle_s", "timeout_s")
            if type(value := getattr(self, name)) not in (int, float) or not value >= 0
        ]
        if self.timeout_s == 0:
            problems.append("canary.timeout_s is 0; it must be above 0: no engine gives a token at once")
        if type(self.tokens) is not int or self.tokens < 1:
            problems.append(f"canary.tokens is {self.tokens!r}; it must be a whole number, at least 1")
        if self.on_stall not in ("restart", "report"):
            near = did_you_mean(str(self.on_stall), ("restart", "report"))
            problems.append(f'canary.on_stall is "{self.on_stall}"; it must be one of restart, report{near}')
        if problems:
            raise ConfigError(problems)


def canary_settings(options: Mapping[str, Any] | None) -> CanarySettings:
    """Return settings from a table of a config; None is an empty one. Raises `ConfigError` with every problem."""
    return settings_of(
        CanarySettings, {} if options is None else table(options, "canary", "{ idle_s = 60 }"), "canary"
    )


def suspicion(
    settings: CanarySettings, *, running: int, silent_s: float, paused: bool
) -> tuple[float, str] | None:
    """Return in how many seconds the engine is to be tried and why; None: not as things are. Pure."""
    if paused:
        return None
    if running and settings.stall_s:
        return max(0.0, settings.stall_s - silent_s), f"{running} requests got nothing for {silent_s:.1f} s"
    if not running and settings.idle_s:
        return max(0.0, settings.idle_s - silent_s), f"nothing ran for {silent_s:.1f} s"
    return None


class Canary:
    """Watches the pieces that an engine gives, and tries it when there are none."""

    LOOK_S = 0.5
    """Longest pause between two looks, so that what begins to run is seen."""

    def __init__(
        self,
        settings: CanarySettings,
        attempt: Callable[[int], Awaitable[None]],
        sick: Callable[[str], object],
    ) -> None:
        self._settings, self._attempt, self._sick = settings, attempt, sick
        self.pieces = 0
        """Counted up by whoever passes pieces on."""
        self.running = 0
        self.paused = False
        self.healthy = True
        self.tries = 0
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Canary {'well' if self.healthy else 'sick'}, {self.running} run, {self.tries} tries>"

    def begin(self) -> None:
        """A request begins."""
        self.running += 1
        self.pieces += 1  # so that the time is counted from now

    def end(self) -> None:
        """A request is over."""
        self.running -= 1
        self.pieces += 1

    def start(self) -> None:
        """Begin to watch."""
        if self._settings.stall_s or self._settings.idle_s:
            self._task = asyncio.get_running_loop().create_task(
                self._watch(), name="canary", context=Context()
            )

    async def close(self) -> None:
        """Watch no more."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _watch(self) -> None:
        seen, since_s = self.pieces, time.monotonic()
        while True:
            now_s = time.monotonic()
            if self.pieces != seen or self.paused:
                seen, since_s = self.pieces, now_s
            found = suspicion(
                self._settings, running=self.running, silent_s=now_s - since_s, paused=self.paused
            )
            if found is not None and found[0] <= 0:
                await self._try(found[1], seen)
                since_s = time.monotonic()
                continue
            await asyncio.sleep(min(self.LOOK_S, max(0.01, found[0])) if found is not None else self.LOOK_S)

    async def _try(self, why: str, seen: int) -> None:
        settings = self._settings
        self.tries += 1
        try:
            async with asyncio.timeout(settings.timeout_s):
                await self._attempt(settings.tokens)
        except TimeoutError:
            what = f"a health check of {settings.tokens} tokens was not done in {settings.timeout_s:g} s"
        except Exception as error:
            what = f"a health check failed: {type(error).__name__}: {error}"
        else:
            self.healthy = True
            return
        if self.pieces != seen or self.paused:  # it works after all, or somebody works on it
            return
        self.healthy = False
        text = f"{why}, and {what}"
        if settings.on_stall == "restart":
            self._sick(text)
        else:
            log.error("the engine is not well: %s", text)
