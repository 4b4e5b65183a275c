"""Actors of the tests of scaling."""

from __future__ import annotations

import asyncio
from pathlib import Path

from callboard import Actor, interleave


class Counter(Actor):
    """Adds, at once or when a file is there."""

    concurrency = 8

    def __init__(self) -> None:
        self._total, self._adding = 0, 0

    async def add(self, number: int, gate: str = "") -> int:
        self._adding += 1
        while gate and not Path(gate).exists():  # noqa: ASYNC110 (a file has no event)
            await asyncio.sleep(0.005)
        self._adding -= 1
        self._total += number
        return self._total

    @interleave
    def adding(self) -> int:
        return self._adding
