"""The SUB socket that all subscriptions of a process share: what one of them does is nothing to the others."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from callboard.transports.events.base import EventPlaneContext, Source
from callboard.transports.events.zmq import ZmqEvents
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
