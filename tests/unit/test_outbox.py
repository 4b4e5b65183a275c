"""The way out: one frame per turn of the loop, in order, within limits, and nothing sent after the end."""

import asyncio

import msgspec
import pytest

from callboard.actors.envelope import TELL, split
from callboard.actors.outbox import CHUNK, CHUNK_BYTES, Outbox
from callboard.transports.base import Identity
from callboard.transports.errors import Broken, LinkFull, TooLarge

KIB = 1024
LIMIT = 1024 * KIB


def part(number, size=0):
    return msgspec.msgpack.encode((TELL, number, msgspec.Raw(msgspec.msgpack.encode(bytes(size)))))


class Link:
    """A link that keeps what it is given."""

    def __init__(self, limit=0):
        self.peer = Identity(node="n", name="n", namespace="d", max_message_bytes=limit)
        self.limit = limit or LIMIT
        self.full = False
        self.is_up = True
        self.frames = []

    def send(self, frames):
        if not self.is_up:
            raise Broken("memory://x", "it is gone")
        if self.full:
            raise LinkFull("memory://x", 1)
        size = sum(map(len, frames))
        if size > self.limit:
            raise TooLarge(size, self.limit, "limit")
        self.frames.append(frames)

    @property
    def batches(self):
        """The ids in each frame."""
        return [[envelope.id for envelope in split(frames[0])] for frames in self.frames]


class Stream:
    """Something that has records to send."""

    def __init__(self, outbox, number):
        self.outbox, self.number = outbox, number

    def emit(self):
        self.outbox.post(part(self.number))


def outbox(link=None, refused=None):
    made = Outbox(asyncio.get_running_loop(), LIMIT, "limit", refused or (lambda *_: pytest.fail("refused")))
    if link is not None:
        made.attach(link)
    return made


async def test_everything_of_one_turn_leaves_as_one_frame():
    link = Link()
    box = outbox(link)
    for number in range(5):
        box.post(part(number))
    assert link.frames == []
    await asyncio.sleep(0)
    assert link.batches == [[0, 1, 2, 3, 4]]
    assert box.idle
    box.post(part(5))
    await asyncio.sleep(0)
    assert link.batches[1:] == [[5]]


async def test_a_chunk_leaves_at_once():
    link = Link()
    box = outbox(link)
    for number in range(CHUNK + 3):
        box.post(part(number))
    assert link.batches == [list(range(CHUNK))]
    await asyncio.sleep(0)
    assert link.batches[1:] == [[CHUNK, CHUNK + 1, CHUNK + 2]]


async def test_a_frame_stays_below_its_size_and_the_limit():
    link = Link()
    box = outbox(link)
    for number in range(40):
        box.post(part(number, 20 * KIB))
    await asyncio.sleep(0)
    assert all(len(frames[0]) <= CHUNK_BYTES for frames in link.frames)
    box.post(part(40, LIMIT - 100))
    await asyncio.sleep(0)
    assert [number for batch in link.batches for number in batch] == list(range(41))


async def test_what_exceeds_the_limit_is_refused_and_harms_nothing():
    link = Link()
    box = outbox(link)
    box.post(part(0))
    with pytest.raises(TooLarge, match="limit"):
        box.post(part(1, LIMIT))
    with pytest.raises(TooLarge):
        box.post_with(part(2), [bytes(LIMIT // 2), bytes(LIMIT // 2)])
    with pytest.raises(TooLarge):
        box.check(LIMIT)
    box.post(part(3))
    await asyncio.sleep(0)
    assert link.batches == [[0, 3]]


async def test_buffers_travel_behind_their_envelope_and_in_order():
    link = Link()
    box = outbox(link)
    box.post(part(0))
    box.post_with(part(1), [b"x" * 100_000, memoryview(b"y" * 10)])
    box.post(part(2))
    await asyncio.sleep(0)
    assert link.batches == [[0], [1], [2]]
    assert [len(frame) for frame in link.frames[1][1:]] == [100_000, 10]


async def test_streams_are_asked_once_at_the_end_of_the_turn():
    link = Link()
    box = outbox(link)
    box.dirty(Stream(box, 10))
    box.post(part(0))
    box.dirty(Stream(box, 11))
    await asyncio.sleep(0)
    assert link.batches == [[0, 10, 11]]
    await asyncio.sleep(0)
    assert len(link.frames) == 1


async def test_until_the_link_is_up_everything_is_collected():
    box = outbox()
    for number in range(CHUNK * 2 + 5):
        box.post(part(number))
    await asyncio.sleep(0)
    assert not box.idle
    assert "down" in repr(box)
    link = Link()
    box.attach(link)
    assert [number for batch in link.batches for number in batch] == list(range(CHUNK * 2 + 5))
    assert box.idle


async def test_a_full_link_stops_the_flow_and_keeps_the_order():
    link = Link()
    box = outbox(link)
    box.post(part(0))
    await asyncio.sleep(0)
    link.full = True
    for number in range(1, 4):
        box.post(part(number))
        await asyncio.sleep(0)
    box.post_with(part(4), [b"buffer"])
    assert link.batches == [[0]]
    link.full = False
    box.post(part(5))
    box.flush()
    await asyncio.sleep(0)
    assert [number for batch in link.batches for number in batch] == [0, 1, 2, 3, 4, 5]


async def test_the_smaller_limit_of_the_peer_holds_for_what_was_collected_before():
    refused = []
    box = outbox(
        refused=lambda frames, error: refused.append((split(frames[0])[0].id, type(error), len(frames)))
    )
    for number in range(50):
        box.post(part(number, 3 * KIB))
    box.post(part(50, 100 * KIB))
    box.post_with(part(51), [bytes(100 * KIB)])
    box.post(part(52))
    link = Link(64 * KIB)
    box.attach(link)
    await asyncio.sleep(0)
    assert [number for batch in link.batches for number in batch] == [*range(50), 52]
    assert refused == [(50, TooLarge, 1), (51, TooLarge, 2)]
    assert box.limit_bytes == 64 * KIB
    with pytest.raises(TooLarge):
        box.post(part(53, 64 * KIB))


async def test_a_peer_s_limit_below_what_the_settings_allow_is_not_believed():
    """Or not even an error would fit."""
    box = outbox(Link(10))
    assert box.limit_bytes == 64 * KIB


async def test_a_detached_outbox_gives_back_what_never_left():
    box = outbox()
    for number in range(CHUNK + 2):
        box.post(part(number))
    box.post_with(part(100), [b"buffer"])
    box.post(part(101))
    left = [envelope.id for frame in box.detach() for envelope in split(frame)]
    assert left == [*range(CHUNK + 2), 100, 101]
    await asyncio.sleep(0)
    assert box.idle


async def test_what_a_link_that_has_just_gone_does_not_take_is_kept_for_the_end():
    link = Link()
    box = outbox(link)
    link.full = True
    box.post(part(0))
    box.post_with(part(1), [b"buffer"])
    link.full, link.is_up = False, False
    box.flush()
    box.post(part(2))
    await asyncio.sleep(0)
    assert link.frames == []
    assert [envelope.id for frame in box.detach() for envelope in split(frame)] == [0, 1, 2]
