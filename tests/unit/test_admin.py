"""The admin socket: what a client is told, in which order."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from callboard.actors.directory import Location
from callboard.supervisor.admin import AdminClient, AdminServer, Follow, Reply, Welcome
from callboard.supervisor.control import Channel, DirectoryAdd, DirectoryRemove, encode_frame
from callboard.supervisor.errors import AdminError, NotRunning
from callboard.supervisor.roster import Roster
from callboard.supervisor.status import SystemStatus
from callboard.transports.settings import NetworkSettings

LOCATION = Location("a.0", "node", "tcp://127.0.0.1:1", 1)


class Served:
    """A server on a roster of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.roster = Roster()
        self.stops: list[float | None] = []
        self.server = AdminServer(
            namespace="demo",
            settings=NetworkSettings(),
            roster=self.roster,
            status=self._status,
            stop=self._stop,
        )

    async def _status(self) -> SystemStatus:
        raise ZeroDivisionError("no status")

    def _stop(self, grace_s: float | None) -> float:
        self.stops.append(grace_s)
        return 7.0 if grace_s is None else grace_s

    async def __aenter__(self) -> Served:
        await self.server.start(self.path / "admin.sock")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.server.close()


async def test_who_is_welcome_knows_every_actor_already(tmp_path: Path) -> None:
    async with Served(tmp_path) as served:
        served.roster.add(LOCATION)
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "admin.sock"))
        received: list[Any] = []
        welcome = asyncio.Event()

        def take(reply: Reply) -> None:
            received.append(reply)
            if isinstance(reply, Welcome):
                welcome.set()

        channel = Channel(msgspec.msgpack.Decoder(Reply), take, lambda _: None)
        writer.write(encode_frame(Follow(1)))
        while not welcome.is_set():
            channel.data_received(await reader.read(65536))
        assert [type(reply) for reply in received] == [DirectoryAdd, Welcome]
        writer.close()
        await writer.wait_closed()


async def test_a_follower_hears_every_change(tmp_path: Path) -> None:
    async with Served(tmp_path) as served:
        pushes: list[Any] = []
        changed = asyncio.Event()
        client = AdminClient(pushed=lambda push: (pushes.append(push), changed.set()))  # type: ignore[func-returns-value, arg-type, return-value]
        await client.connect(tmp_path)
        assert (await client.follow()).namespace == "demo"
        served.roster.add(LOCATION)
        served.roster.remove("a.0", 1, "it died")
        while len(pushes) < 2:
            changed.clear()
            await changed.wait()
        assert pushes == [DirectoryAdd([LOCATION.to_wire()]), DirectoryRemove("a.0", 1, "it died")]
        assert await client.resolve("a") == []
        await client.close()


@pytest.mark.parametrize(("asked", "granted"), [(None, 7.0), (0.0, 0.0), (3.0, 3.0)])
async def test_a_stop_without_a_grace_takes_that_of_the_config(
    tmp_path: Path, asked: float | None, granted: float
) -> None:
    async with Served(tmp_path) as served:
        client = AdminClient()
        await client.connect(tmp_path)
        assert await client.stop(asked) == granted
        assert served.stops == [asked]
        await client.close()


async def test_a_question_that_fails_is_answered_with_the_reason(tmp_path: Path) -> None:
    async with Served(tmp_path):
        client = AdminClient()
        await client.connect(tmp_path)
        with pytest.raises(AdminError, match="ZeroDivisionError: no status"):
            await client.status()
        await client.close()


async def test_a_system_that_goes_away_fails_what_was_asked(tmp_path: Path) -> None:
    served = Served(tmp_path)
    served.server._status = lambda: asyncio.sleep(600)  # type: ignore[assignment]
    async with served:
        client = AdminClient()
        await client.connect(tmp_path)
        asked = asyncio.create_task(client.status())
        await asyncio.sleep(0)
    with pytest.raises(AdminError, match="went away before it answered"):
        await asked
    with pytest.raises(AdminError, match="the system is gone"):
        await client.status()
    with pytest.raises(NotRunning):
        await AdminClient().connect(tmp_path / "nowhere")
