"""Actors whose processes are killed, or hold many messages, in processes of their own."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

from callboard.actors.actor import Actor


class Victim(Actor):
    """Handles one message at a time, and says in a file when it has begun."""

    async def hold(self, path: str) -> None:
        Path(path).touch()
        await asyncio.Event().wait()

    async def note(self) -> None:
        """Waits behind the one that holds."""

    async def last(self) -> str:
        asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGKILL)
        return "an answer that is made, and never leaves"

    async def some(self) -> AsyncIterator[int]:
        yield 0
        yield 1
        await asyncio.Event().wait()
