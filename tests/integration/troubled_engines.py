"""A simulated engine that gets into trouble when a prompt says so."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

from callboard.serving.engines.simulated import SimulatedEngine
from callboard.serving.protocol import GenerateRequest, Piece
from callboard.serving.simulation.settings import SimulatedSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class TroubledSettings(SimulatedSettings):
    trouble: str
    """A file with a line for each process that got into trouble."""


class TroubledEngine(SimulatedEngine):
    """A prompt with "stall" stops the first engine that gets it for good, after three pieces; health checks hang, too.

    One with "poison" kills every process that gets it.
    """

    Settings = TroubledSettings
    settings: TroubledSettings
    stalled = False

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Piece, None]:
        count = 0
        if "poison" in request.prompt:
            self.note()
            os.kill(os.getpid(), signal.SIGKILL)
        async for piece in super().generate(request):
            count += 1
            if self.stalled or (count == 4 and "stall" in request.prompt and self.note() == 1):
                self.stalled = True
                await asyncio.Event().wait()
            yield piece

    def note(self) -> int:
        """Say that this process is in trouble; returns how many have been."""
        with Path(self.settings.trouble).open("a+") as file:
            file.write(f"{os.getpid()}\n")
            file.seek(0)
            return len(file.readlines())
