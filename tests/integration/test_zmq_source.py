"""KV events over real sockets from a publisher that loses, restarts and forgets as engines do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import zmq
import zmq.asyncio

from callboard.serving.kv.changes import AllCleared, BlocksStored, EngineChange
from callboard.serving.kv.resident import ResidentBlocks
from callboard.serving.kv.sources import make_source
from callboard.transports import zmq_sockets
from callboard.transports.errors import ConfigError

from .waiting import until

encode = msgspec.msgpack.Encoder().encode
END = b"\xff" * 8
Followed = tuple[ResidentBlocks, list[EngineChange], Any]


class Publisher:
    """As vLLM's: numbers from 0, the last ``kept`` of them for replay."""

    def __init__(self, directory: Any, kept: int = 10_000) -> None:
        self.endpoint, self.replay = f"ipc://{directory}/events", f"ipc://{directory}/replay"
        self.kept = kept
        self.sent: list[bytes] = []
        self.replays = 0
        self.spoil = False

    async def __aenter__(self) -> Publisher:
        self._context = zmq.asyncio.Context()
        self._open()
        return self

    def _open(self) -> None:
        self._pub, self._router = self._context.socket(zmq.PUB), self._context.socket(zmq.ROUTER)
        self._pub.bind(self.endpoint)
        self._router.bind(self.replay)
        self._task = asyncio.create_task(self._answer())

    async def _close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._pub.close(0)
        self._router.close(0)

    async def __aexit__(self, *_: object) -> None:
        await self._close()
        self._context.term()

    async def restart(self, *numbers: int) -> None:
        """Be another engine, which has stored other blocks before anybody is connected."""
        await self._close()
        self.sent.clear()
        for number in numbers:
            await self.store(number, lose=True)
        self._open()

    async def blink(self) -> None:
        """Lose every connection, and go on."""
        await self._close()
        self._open()

    async def store(self, number: int, *, lose: bool = False, dp_rank: int | None = None) -> None:
        """Say that a block was stored, which continues the one before it."""
        event = {
            "type": "BlockStored", "block_hashes": [100 + number], "token_ids": [number, number + 1], "block_size": 2,
            "parent_block_hash": 99 + number if number else None,
        }  # fmt: skip
        batch = encode([0.0, [event]] if dp_rank is None else [0.0, [event], dp_rank])
        self.sent.append(batch)
        if not lose:
            await self._pub.send_multipart([b"", (len(self.sent) - 1).to_bytes(8, "big"), batch])

    async def _answer(self) -> None:
        while True:
            peer, _, first = await self._router.recv_multipart()
            self.replays += 1
            if self.spoil:
                await self._router.send_multipart([peer, b"nonsense"])
                continue
            start = max(int.from_bytes(first, "big"), len(self.sent) - self.kept)
            for number in range(start, len(self.sent)):
                await self._router.send_multipart([peer, b"", number.to_bytes(8, "big"), self.sent[number]])
            await self._router.send_multipart([peer, b"", END, b""])


@asynccontextmanager
async def following(
    publisher: Publisher, **options: Any
) -> AsyncIterator[tuple[ResidentBlocks, list[EngineChange], Any]]:
    rank, told = ResidentBlocks(0, 10_000), list[EngineChange]()

    def listen(changes: Sequence[EngineChange]) -> None:
        told.extend(changes)
        for change in changes:
            rank.apply(change)

    source = make_source({"source": "zmq", "endpoint": publisher.endpoint, **options}, listen)
    await source.start()
    try:
        yield rank, told, source
    finally:
        await source.close()


async def test_what_was_before_and_what_is_lost_is_replayed(tmp_path: Any) -> None:
    async with Publisher(tmp_path) as publisher:
        for number in range(5):
            await publisher.store(number)
        async with following(publisher, replay=publisher.replay) as (rank, told, source):
            await until(lambda: len(rank) == 5)
            for number in range(5, 200):
                await publisher.store(number, lose=number % 20 == 7)
            await until(lambda: len(rank) == 200)
            assert not any(isinstance(change, AllCleared) for change in told)
            assert source.statistics()["gaps"] >= 1


async def test_a_message_that_comes_twice_is_no_restart(tmp_path: Any) -> None:
    async with Publisher(tmp_path) as publisher:
        for number in range(5):
            await publisher.store(number)
        async with following(publisher, replay=publisher.replay) as (rank, _told, source):
            await until(lambda: len(rank) == 5)
            await publisher._pub.send_multipart([b"", (4).to_bytes(8, "big"), publisher.sent[4]])
            await publisher.store(5)
            await until(lambda: len(rank) == 6)
            assert source.statistics()["resets"] == 0


async def test_an_engine_that_was_started_again_begins_anew(tmp_path: Any) -> None:
    publisher = Publisher(tmp_path)
    async with publisher:
        for number in range(8):
            await publisher.store(number)
        async with following(publisher, replay=publisher.replay) as (rank, told, source):
            await until(lambda: len(rank) == 8)
            publisher.sent.clear()
            for number in range(3):
                await publisher.store(number + 50 if number else 0)
            await until(lambda: any(isinstance(change, AllCleared) for change in told))
            await publisher.store(1)
            await until(lambda: source.statistics()["messages"] >= 4)
            await until(lambda: len(rank) >= 1)
            assert len(rank) <= 4


@pytest.mark.parametrize("more", [0, 1, 5], ids=["the same number", "one more", "more"])
async def test_an_engine_that_has_passed_our_last_number_before_we_are_back_is_another(
    tmp_path: Any, more: int
) -> None:
    async with Publisher(tmp_path) as publisher:
        for number in range(4):
            await publisher.store(number)
        async with following(publisher, replay=publisher.replay) as (rank, told, source):
            await until(lambda: len(rank) == 4)
            await publisher.restart(0, *range(1, 4 + more))
            publisher.sent[1] = publisher.sent[0]  # so that 2 and what follows it is in no cache
            await until(lambda: source.statistics()["resets"] == 1)
            await until(lambda: len(rank) == 1)
            await publisher.store(1)
            await until(lambda: len(rank) == 2)
            assert sum(isinstance(change, AllCleared) for change in told) == 1


async def test_what_an_engine_has_said_of_another_rank_goes_with_it(tmp_path: Any) -> None:
    """An engine that is one rank of several, with a worker of its own, names its number in each batch."""
    async with Publisher(tmp_path) as publisher:
        await publisher.store(0, dp_rank=3)
        async with following(publisher, replay=publisher.replay) as (rank, told, _):
            await until(lambda: len(rank) == 1)
            await publisher.restart()
            await until(lambda: AllCleared(dp_rank=3) in told)


async def test_an_engine_that_was_out_of_reach_goes_on(tmp_path: Any) -> None:
    async with Publisher(tmp_path) as publisher:
        for number in range(4):
            await publisher.store(number)
        async with following(publisher, replay=publisher.replay) as (rank, _told, source):
            await until(lambda: len(rank) == 4)
            replays = publisher.replays
            await publisher.store(4, lose=True)
            await publisher.blink()
            await until(lambda: len(rank) == 5)
            assert publisher.replays > replays
            assert source.statistics()["resets"] == 0


async def test_an_engine_without_replay_that_comes_back_is_another(tmp_path: Any) -> None:
    async with Publisher(tmp_path) as publisher, following(publisher) as (rank, told, source):

        async def heard() -> bool:
            publisher.sent.clear()
            await publisher.store(0)
            return len(rank) == 1

        await until(heard)
        await publisher.blink()
        await until(lambda: source.statistics()["resets"] > 0 and len(rank) == 0)
        assert isinstance(told[-1], AllCleared)


async def test_an_engine_that_starts_after_us_is_asked_for_what_it_did_before(tmp_path: Any) -> None:
    publisher = Publisher(tmp_path)
    async with following(publisher, replay=publisher.replay) as (rank, _told, source), publisher:
        for number in range(3):
            await publisher.store(number, lose=True)
        await until(lambda: len(rank) == 3)
        assert source.statistics()["failed_replays"] == 0


async def test_what_the_engine_no_longer_has_empties_the_cache_and_it_fills_again(tmp_path: Any) -> None:
    async with Publisher(tmp_path, kept=3) as publisher:
        await publisher.store(0)
        async with following(publisher, replay=publisher.replay) as (rank, told, source):
            await until(lambda: len(rank) == 1)
            for number in range(1, 30):
                await publisher.store(number, lose=True)
            await publisher.store(0)
            await until(lambda: source.statistics()["resets"] >= 1)
            await until(lambda: len(rank) == 1)
            assert isinstance(told[-1], BlocksStored)


@pytest.mark.parametrize("replays", [True, False])
async def test_without_a_sensible_replay_it_goes_on_with_what_comes(tmp_path: Any, replays: bool) -> None:
    async with Publisher(tmp_path) as publisher:
        publisher.spoil = True
        options = {"replay": publisher.replay} if replays else {}
        async with following(publisher, **options) as (rank, _told, source):
            if replays:
                await until(lambda: source.statistics()["failed_replays"] == 1)

            async def heard() -> bool:
                publisher.sent.clear()
                await publisher.store(0)
                return len(rank) == 1

            await until(heard)


async def test_a_source_of_which_one_socket_cannot_be_used_leaves_none_open(tmp_path: Any) -> None:
    (tmp_path / "events_dp1").mkdir()
    options = {"source": "zmq", "endpoint": f"ipc://{tmp_path}/events", "bind": True, "dp_ranks": 2}
    before = zmq_sockets._users
    source = make_source(options, lambda changes: None)
    with pytest.raises(ConfigError, match="events_dp1"):
        await source.start()
    assert zmq_sockets._users == before
    await source.close()
    assert zmq_sockets._users == before


def test_mistakes_are_named() -> None:
    for options, text in (
        ({}, "source is None"),
        ({"source": "zmq"}, "needs the key 'endpoint'"),
        ({"source": "zmq", "endpoint": "http://x", "topic": 5}, "topic is 5"),
        ({"source": "zmq", "endpoint": "tcp://x:1", "replays": "x"}, 'did you mean "replay"'),
        ({"source": "trtllm", "url": "x"}, "http://"),
    ):
        with pytest.raises(ConfigError, match=text):
            make_source(options, lambda changes: None)
