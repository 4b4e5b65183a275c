"""Kills and freezes processes of a system, one a second, as its random generator says."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from contextlib import suppress
from typing import NamedTuple

from callboard.supervisor.status import State
from callboard.supervisor.system import System


class Blow(NamedTuple):
    """What was done to a process: ``signal`` at ``begin_ns``; a stop lasts until ``end_ns``."""

    pid: int
    signal: signal.Signals
    begin_ns: int
    end_ns: int


class Chaos:
    """SIGKILL, short stops that nobody should notice, and stops longer than the heartbeat timeout."""

    def __init__(self, system: System, victims: list[str], seed: int, *, interval_s: float = 1.0) -> None:
        self._system, self._victims = system, victims
        self._rng = random.Random(f"{seed} chaos")
        self._interval_s = interval_s
        self._frozen: dict[int, asyncio.Task[None]] = {}
        self.blows: list[Blow] = []

    async def run(self) -> None:
        """Strike until cancelled; then every frozen process goes on."""
        try:
            while True:
                await asyncio.sleep(self._interval_s)
                self._strike()
        finally:
            for task in self._frozen.values():
                task.cancel()
            if self._frozen:
                await asyncio.wait(self._frozen.values())

    def _strike(self) -> None:
        process = self._system.status().process(self._rng.choice(self._victims))
        kind = self._rng.random()
        seconds = self._rng.uniform(0.02, 0.9) if kind < 0.8 else self._rng.uniform(1.5, 5.0)
        if not process.pid or process.state is not State.READY or process.pid in self._frozen:
            return  # on its way back already
        if kind < 0.45:
            self._send(process.pid, signal.SIGKILL)
            now = time.monotonic_ns()
            self.blows.append(Blow(process.pid, signal.SIGKILL, now, now))
        elif not self._frozen:
            self._frozen[process.pid] = asyncio.create_task(self._freeze(process.pid, seconds))

    async def _freeze(self, pid: int, seconds: float) -> None:
        begin = time.monotonic_ns()
        self._send(pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            self._send(pid, signal.SIGCONT)
            self.blows.append(Blow(pid, signal.SIGSTOP, begin, time.monotonic_ns()))
            del self._frozen[pid]

    def _send(self, pid: int, number: signal.Signals) -> None:
        with suppress(
            ProcessLookupError
        ):  # it is our own child, so its number is its own until it was reaped
            os.kill(pid, number)
