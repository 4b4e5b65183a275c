"""The SUB socket that all subscriptions of a process share: what one of them does is nothing to the others."""

from __future__ import annotations

import asyncio
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from callboard.transports.errors import BadAddress, TransportError
from callboard.transports.events.base import EventPlaneContext, Source
from callboard.transports.events.errors import SourceGone
from callboard.transports.events.zmq import QUEUED_FRAMES, ZmqEvents, _Outlet
from callboard.transports.ipc import socket_path
from callboard.transports.settings import NetworkSettings


@pytest.fixture
def directory() -> Iterator[Path]:
    made = Path("/tmp", f"cb{secrets.token_hex(4)}")  # unix sockets will be in it: 107 bytes at most
    made.mkdir(mode=0o700)
    yield made
    shutil.rmtree(made, ignore_errors=True)


def plane(directory: Path) -> ZmqEvents:
    context = EventPlaneContext(
        namespace="n", node=secrets.token_hex(8), settings=NetworkSettings(), directory=str(directory)
    )
    return ZmqEvents(context)


async def nothing(after: int) -> list[bytes]:
    return [b""]


async def test_an_answer_of_which_a_part_was_lost_is_none(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ROUTER drops what is beyond its high-water mark: without its middle a snapshot would be a wrong state."""
    far, near = plane(directory), plane(directory)
    say, said = _Outlet._say, list[bytes]()

    def lossy(self: _Outlet, *words: Any) -> None:
        said.append(words[-1])
        if words[-1] != b"two" or said.count(b"two") > 1:
            say(self, *words)

    async def answer(after: int) -> list[bytes]:
        return [b"one", b"two", b"three"]

    monkeypatch.setattr(_Outlet, "_say", lossy)
    source = Source(topic="t", component="c", name="c.0", incarnation=1, node="n", id=7)
    publisher = await far.publisher(source, answer, 1024)
    subscriber = await near.subscriber("t", lambda source, frame: None)
    got = list[bytes]()

    async def fetch() -> None:
        got.clear()
        async for frame in subscriber.fetch(publisher.source, -1):
            got.append(frame)

    with pytest.raises(SourceGone, match="part of its answer was lost"):
        await fetch()
    assert got == [b"one"]
    await fetch()
    assert got == [b"one", b"two", b"three"]
    await near.close()
    await far.close()


async def test_what_waits_for_a_subscriber_that_does_not_read_is_bounded(directory: Path) -> None:
    far, near = plane(directory), plane(directory)
    source = Source(topic="t", component="c", name="c.0", incarnation=1, node="n", id=7)
    publisher = await far.publisher(source, nothing, 1024)
    got = list[bytes]()
    subscriber = await near.subscriber("t", lambda source, frame: got.append(frame))
    await subscriber.follow(publisher.source)
    sent = 6 * QUEUED_FRAMES
    for _ in range(sent):  # in one turn: nothing is read meanwhile
        publisher.send(bytes(1000))
    async with asyncio.timeout(30):
        while b"end" not in got[-100:]:
            publisher.send(b"end")
            await asyncio.sleep(0)
    assert 0 < got.count(bytes(1000)) < sent
    await near.close()
    await far.close()


async def test_sockets_that_cannot_be_bound_are_closed_and_leave_no_file(directory: Path) -> None:
    source = Source(topic="t", component="c", name="c.0", incarnation=1, node="n", id=7)
    long = plane(directory / ("d" * 100))
    with pytest.raises(BadAddress, match="set a shorter"):
        await long.publisher(source, nothing, 1024)
    await asyncio.wait_for(long.close(), 30)  # with a socket open it would wait for ever
    half = plane(directory)
    blocked = socket_path(str(directory), f"{half._context.node}/replay")
    Path(blocked).mkdir()
    with pytest.raises(TransportError, match="cannot bind"):
        await half.publisher(source, nothing, 1024)
    await asyncio.wait_for(half.close(), 30)
    assert [path.name for path in directory.iterdir()] == [Path(blocked).name]


async def test_leaving_a_publisher_in_the_middle_of_its_frames_leaves_no_half_message(
    directory: Path,
) -> None:
    far, near = plane(directory), plane(directory)
    source = Source(topic="t", component="c", name="c.0", incarnation=1, node="n", id=7)
    publisher = await far.publisher(source, nothing, 1024)
    subscriber = await near.subscriber("t", lambda source, frame: None)
    await subscriber.follow(publisher.source)
    assert near._inlet is not None
    socket = near._inlet._subscribe.socket
    publisher.send(b"frame")
    assert socket.poll(30_000, zmq.POLLIN)  # libzmq has taken the first part of a message out of its pipe
    subscriber.unfollow(publisher.source)
    assert not socket.getsockopt(zmq.EVENTS) & zmq.POLLIN
    await near.close()
    await far.close()
