"""Events over a NATS server that dies and comes back, forgets, or takes little at a time."""

from __future__ import annotations

import asyncio
import secrets
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from callboard.supervisor.nats_server import NatsServer
from callboard.testing.conformance.events.stage import Speaker, Stage
from callboard.transports.errors import NoRoute
from callboard.transports.events.errors import ServerTakesTooLittle
from callboard.transports.events.frames import EVENT_BYTES
from callboard.transports.events.outflow import KEPT_EVENTS
from callboard.transports.events.pieces import LEAST_PAYLOAD_BYTES
from callboard.transports.events.publisher import SNAPSHOT_EVERY
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


@pytest.mark.parametrize("most_bytes", [LEAST_PAYLOAD_BYTES, 16 * 1024])
@PLANES
async def test_frames_larger_than_the_server_takes_travel_in_pieces(
    tmp_path: Path, plane: str, most_bytes: int
) -> None:
    async with venue(tmp_path, plane, max_payload_bytes=most_bytes) as at:
        speaker = await at.stage.speaker()
        early = await at.stage.reader(speaker)
        speaker.say(3, size_bytes=EVENT_BYTES - 10)
        await at.stage.until(lambda: early.knows(speaker))
        late = await at.stage.reader(speaker)  # a state in pieces
        speaker.say(1)
        await at.stage.until(lambda: early.knows(speaker) and late.knows(speaker))
        assert early.states[0] == late.states[0] == speaker.id
        if plane == "jetstream":
            await at.stage.until(lambda: snapshots(speaker) > 0)
            await silence(at, speaker)
            assert (await at.stage.reader(speaker)).knows(speaker)


@PLANES
async def test_a_server_that_takes_too_little_is_refused_by_name_limit_and_way_out(
    tmp_path: Path, plane: str
) -> None:
    least = LEAST_PAYLOAD_BYTES
    async with venue(tmp_path, plane, max_payload_bytes=least - 1) as at:
        said = (
            rf"{at.server.port} takes {least - 1:,} bytes .*max_payload.* needs {least:,}: raise max_payload"
        )
        with pytest.raises(ServerTakesTooLittle, match=said):
            await at.stage.speaker()
        with pytest.raises(ServerTakesTooLittle, match=said):
            await at.stage.reader()


async def test_a_server_without_jetstream_is_refused_with_the_way_out(tmp_path: Path) -> None:
    async with venue(tmp_path, "jetstream", jetstream=False) as at:
        for opening in (at.stage.speaker, at.stage.reader):
            with pytest.raises(
                NoRoute, match=f"{at.server.port}.*JetStream is off there: .*event_plane to nats"
            ):
                await opening()


@PLANES
async def test_a_server_that_comes_back_and_takes_too_little_is_complained_of_until_it_takes_enough(
    tmp_path: Path, plane: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with venue(tmp_path, plane) as at:
        speaker = await at.stage.speaker()
        reader = await at.stage.reader(speaker)
        for most_bytes in (2048, 8192):
            await at.server.kill()
            await at.stage.until(down(speaker))
            speaker.say(2)
            at.server._max_payload_bytes = most_bytes
            await at.server.start()
            if most_bytes < LEAST_PAYLOAD_BYTES:
                await at.stage.until(lambda: "takes 2,048 bytes" in caplog.text)
        await at.stage.until(lambda: reader.knows(speaker))
        of_speaker_and_reader = 2
        assert caplog.text.count("takes 2,048 bytes") <= of_speaker_and_reader


def snapshots(speaker: Speaker) -> int:
    return speaker.publisher.statistics()["written"]


async def silence(at: Venue, speaker: Speaker) -> None:
    """Have a source answer no question, as if it were frozen; what it has said by now is written."""
    plane: Any = speaker.publisher._plane
    await at.stage.until(lambda: plane._write is None or plane._write.done())
    plane._plane._answers.clear()
    plane._plane._asked = lambda message: None
    for subject in list(plane._plane._heard):
        plane._plane.ignore(subject)


@pytest.mark.parametrize("count", [1, 40, 3 * SNAPSHOT_EVERY + 5, KEPT_EVENTS + 2 * SNAPSHOT_EVERY])
async def test_jetstream_tells_everything_of_a_source_that_is_silent(tmp_path: Path, count: int) -> None:
    async with venue(tmp_path, "jetstream") as at:
        speaker = await at.stage.speaker()
        reader = await at.stage.reader(speaker)
        while len(speaker.said) < count:
            speaker.say(min(7, count - len(speaker.said)))
            await asyncio.sleep(0)
        await at.stage.until(lambda: reader.knows(speaker) and snapshots(speaker) > 0)
        await silence(at, speaker)
        late = await at.stage.reader(speaker)
        assert late.knows(speaker)
        assert late.states == [speaker.id]


async def test_jetstream_keeps_little_of_a_source_and_nothing_when_it_closed(tmp_path: Path) -> None:
    async with venue(tmp_path, "jetstream") as at:
        speaker = await at.stage.speaker()
        reader = await at.stage.reader(speaker)
        publisher: Any = speaker.publisher._plane
        plane, subjects = publisher._plane, publisher._plane.subjects

        async def messages(stream: str) -> int:
            return int((await plane.jetstream().stream_info(stream)).state.messages)

        most = 0
        for _ in range(5):
            for _ in range(SNAPSHOT_EVERY):  # a frame each
                speaker.say(1)
                await asyncio.sleep(0)
            await at.stage.until(lambda: reader.knows(speaker))
            await at.stage.until(publisher._write.done)
            most = max(most, await messages(subjects.events_stream("words")))
            publisher._not_before_s = 0.0
        assert most <= 3 * SNAPSHOT_EVERY
        assert snapshots(speaker) >= 5
        await speaker.publisher.close()
        assert await messages(subjects.events_stream("words")) == 0
        assert await messages(f"OBJ_{subjects.snapshots()}") <= 1  # the note that it was deleted


async def test_a_server_that_lost_its_store_gets_a_stream_again(tmp_path: Path) -> None:
    async with venue(tmp_path, "jetstream") as at:
        speaker = await at.stage.speaker()
        reader = await at.stage.reader(speaker)
        speaker.say(3)
        await at.stage.until(lambda: reader.knows(speaker) and snapshots(speaker) == 1)
        await at.server.kill()
        await at.stage.until(down(speaker))
        shutil.rmtree(at.server.store)
        await at.server.start()
        await at.stage.until(lambda: reader.subscription.statistics()["returns"] == 1)
        await at.stage.until(lambda: speaker.publisher.statistics()["returns"] == 1)
        publisher: Any = speaker.publisher._plane
        publisher._not_before_s = 0.0
        speaker.say(3)
        await at.stage.until(lambda: reader.knows(speaker) and snapshots(speaker) == 2)
        await silence(at, speaker)
        assert (await at.stage.reader(speaker)).knows(speaker)
