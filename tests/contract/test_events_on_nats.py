"""Events over a NATS server that dies and comes back, forgets, or takes little at a time."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from callboard.supervisor.nats_server import NatsServer
from callboard.testing.conformance.events.stage import Speaker, Stage
from callboard.transports.nats_settings import NatsSettings
from callboard.transports.settings import NetworkSettings

PLANES = pytest.mark.parametrize("plane", ["nats", "jetstream"])


class Venue:
    """A nats-server of the test's own, and a stage on it."""

    def __init__(self, directory: Path, plane: str, options: dict[str, Any]) -> None:
        self.server = NatsServer(directory, **options)
        rig: Any = SimpleNamespace(settings=self._settings, directory=directory)
        self.stage = Stage(rig, plane)

    def _settings(self) -> NetworkSettings:
        return NetworkSettings(nats=NatsSettings(**self.server.settings(), prefix=f"t{secrets.token_hex(4)}"))


@asynccontextmanager
async def venue(directory: Path, plane: str, **options: Any) -> AsyncIterator[Venue]:
    made = Venue(directory, plane, options)
    await made.server.start()
    settings = made._settings()
    made._settings = made.stage.rig.settings = lambda: settings  # type: ignore[method-assign]
    try:
        await made.stage.start()
        yield made
        made.stage.check()
    finally:
        await made.stage.close()
        await made.server.kill()


def down(*speakers: Speaker) -> Callable[[], bool]:
    return lambda: all(speaker.publisher._plane._plane.client.is_closed for speaker in speakers)  # type: ignore[union-attr]


@PLANES
async def test_what_was_said_while_the_server_was_away_is_heard_when_it_is_back(
    tmp_path: Path, plane: str
) -> None:
    async with venue(tmp_path, plane) as at:
        speaker = await at.stage.speaker()
        reader = await at.stage.reader(speaker)
        speaker.say(3)
        await at.stage.until(lambda: reader.knows(speaker))
        await at.server.kill()
        await at.stage.until(down(speaker))
        speaker.say(4)  # and nothing after it, which would show the gap
        await asyncio.sleep(0)
        await at.server.start()
        await at.stage.until(lambda: reader.knows(speaker))
        speaker.say(1)
        await at.stage.until(lambda: reader.knows(speaker))


@PLANES
async def test_events_that_flow_while_the_server_dies_are_all_heard(tmp_path: Path, plane: str) -> None:
    async with venue(tmp_path, plane) as at:
        speakers = [await at.stage.speaker(f"speaker.{number}") for number in range(2)]
        reader = await at.stage.reader(*speakers)
        flowing = True

        async def flow() -> None:
            while flowing:
                for speaker in speakers:
                    speaker.say(7)
                await asyncio.sleep(0.001)

        task = asyncio.get_running_loop().create_task(flow())
        for _ in range(2):
            said = [len(speaker.said) for speaker in speakers]
            await at.stage.until(lambda: all(reader.numbers[s.id] > n for s, n in zip(speakers, said)))  # noqa: B023, B905
            await at.server.kill()
            await at.stage.until(down(*speakers))
            await at.server.start()
        flowing = False
        await task
        await at.stage.until(lambda: reader.knows(*speakers))
