"""The nats-server that runs beside one system: started before its processes, kept alive, stopped after them."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from callboard.transports.settings import NetworkSettings

from .budget import Budget
from .errors import SupervisionError
from .guardian import VARIABLE, mark
from .nats_server import NatsServer
from .spec import RestartPolicy
from .status import Announcement

NAME = "nats-server"


class EmbeddedNats:
    """Owns a `NatsServer` in the runtime directory of a system; what it stores is gone with the system.

    One that dies comes back on its port with its store. ``failed`` (name, reason) is told once if it does so
    too often, ``event`` gets a line about every death.
    """

    def __init__(
        self,
        directory: Path,
        tree: str,
        program: bool | str | os.PathLike[str],
        event: Callable[[str], None],
        failed: Callable[[str, str], None],
    ) -> None:
        """Start nothing yet; ``program`` is the path of the nats-server, or true for the installed one."""
        binary = None if isinstance(program, bool) else program
        outer = os.environ.get(VARIABLE, "")
        self.server = NatsServer(directory, binary=binary, mark=mark(tree, NAME, 1, outer))
        self._event, self._failed = event, failed
        self._keeper: asyncio.Task[None] | None = None

    async def start(self, settings: NetworkSettings) -> NetworkSettings:
        """Start it; returns the settings that lead to it. Raises `NatsServerMissing`, `NatsServerFailed`."""
        await self.server.start()
        self._keeper = asyncio.get_running_loop().create_task(self._keep())
        return replace(settings, nats=replace(settings.nats, **self.server.settings()))

    @property
    def announcements(self) -> list[Announcement]:
        """What people should know about it, once it listens."""
        where, config = self.server.url, self.server.directory / "nats-server.conf"
        text = f"nats-server at {where}, its token in {config}"
        return [Announcement(actor=NAME, text=text)] if where else []

    async def stop(self) -> None:
        """Stop it; idempotent."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait((self._keeper,))
            self._keeper = None
        await self.server.stop()

    async def _keep(self) -> None:
        budget = Budget(RestartPolicy())
        reason = await self.server.exited()
        while True:
            budget, wait_s = budget.spend(time.monotonic(), random.random())
            if wait_s is None:
                self._failed(NAME, f"{reason}; {budget}")
                return
            how, *_ = reason.split(":")
            self._event(f"nats-server {how}; it starts again on its port in {wait_s:.1f} s")
            await asyncio.sleep(wait_s)
            try:
                await self.server.start()
            except (SupervisionError, OSError) as error:  # its program, or room on the disk, may come back
                self._event(str(error))
                reason = f"did not start: {getattr(error, 'why', '') or error}"
                continue
            self._event(f"nats-server is back at {self.server.url}")
            reason = await self.server.exited()

    def __repr__(self) -> str:
        return f"<EmbeddedNats {self.server!r}>"
