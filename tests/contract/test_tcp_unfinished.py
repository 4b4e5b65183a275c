"""Input that makes no message ends its connection, before it takes memory without bound; who is only fast does not."""

import asyncio
import socket
import struct
import time

import psutil
import pytest
import zmq

from callboard.testing.conformance.network import until
from callboard.transports.handshake import ACCEPTED
from callboard.transports.tcp_unfinished import ROOM_BYTES, UNKNOWN_BYTES, Unfinished, received_bytes

from .raw_zmtp import call, flood, frame, greet, hello_of, introduce

pytestmark = pytest.mark.parametrize("nodes", ["tcp"], indirect=True)

MIB = 1024 * 1024
LIMIT = 4 * MIB
SETTINGS = {"max_message_bytes": LIMIT, "shrink_message_bytes": 0}
FOR_EVER = 4096 * MIB
PAUSE_S = 0.002
"""Between two pieces of a flood, of a mebibyte at most: else the machine decides how much comes between two looks."""
OVERSHOOT = 400 * MIB
"""What may come between two looks then, also if one is late."""
SHAPES = {
    "large frames": frame(bytes(MIB), more=True),
    "frames of a few bytes": frame(bytes(40), more=True) * 5000,
    "empty frames": frame(b"", more=True) * 50_000,
}


def memory_of(process):
    return psutil.Process(process.pid).memory_info().rss


async def echoes(node, count):
    """A friend asks, and each of its asks is answered."""
    before = len(node.received)
    for number in range(count):
        node.links[0].send([b"echo %d" % number])
        await until(lambda number=number: len(node.received) == before + number + 1)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
async def test_who_sends_a_message_that_never_ends_is_cut_off_and_a_friend_does_not_notice(nodes, shape):
    victim, friend = await nodes.process(**SETTINGS), await nodes.make(listen=False, **SETTINGS)
    friendly = await friend.dial(victim.address)
    before = memory_of(victim)
    with call(victim.address) as connection:
        await asyncio.to_thread(introduce, connection)
        attack = asyncio.create_task(asyncio.to_thread(flood, connection, shape, FOR_EVER, PAUSE_S))
        most = asked = 0
        while not attack.done():
            friendly.send([b"echo"])
            asked += 1
            await until(lambda asked=asked: len(friend.received) == asked)
            most = max(most, memory_of(victim) - before)
    assert attack.result() < LIMIT + ROOM_BYTES + OVERSHOOT
    per_byte = 32 if shape is SHAPES["empty frames"] else 4
    assert most < per_byte * (LIMIT + ROOM_BYTES + OVERSHOOT)
    facts = await victim.call("count")
    assert len(facts["downs"]) == 1
    assert "bytes that make no message; the limit here is 4,194,304" in facts["downs"][0]
    assert friendly.is_up


async def test_who_sends_whole_messages_faster_than_they_are_taken_is_cut_off_too(nodes):
    victim, friend = await nodes.process(**SETTINGS), await nodes.make(listen=False, **SETTINGS)
    friendly = await friend.dial(victim.address)
    before = memory_of(victim)
    with call(victim.address) as connection:
        await asyncio.to_thread(introduce, connection)
        attack = asyncio.create_task(asyncio.to_thread(flood, connection, frame(b"x") * 50_000, FOR_EVER))
        most = asked = 0
        while not attack.done():
            friendly.send([b"echo"])
            asked += 1
            await until(lambda asked=asked: len(friend.received) == asked)
            most = max(most, memory_of(victim) - before)
    assert attack.result() < FOR_EVER
    facts = await victim.call("count")
    assert len(facts["downs"]) == 1
    assert "is 100,000 messages ahead of what could be taken" in facts["downs"][0]
    assert most < 4 * OVERSHOOT
    assert friendly.is_up


@pytest.mark.parametrize("seconds", [0, 0.5], ids=["while it runs", "while its loop is blocked"])
async def test_who_leaves_more_unread_than_can_be_taken_and_dies_does_not_end_the_process(nodes, seconds):
    """With a high-water mark, libzmq aborts the process when a connection breaks that it does not read."""
    beats = {"heartbeat_interval_s": 0.05, "heartbeat_timeout_s": 20.0}
    victim, friend = await nodes.process(**beats), await nodes.make(listen=False, **beats)
    friendly = await friend.dial(victim.address)
    with call(victim.address) as connection:
        await asyncio.to_thread(introduce, connection)
        if seconds:
            victim.post("block", seconds=seconds)
        await asyncio.to_thread(connection.sendall, frame(b"x") * 400_000)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if seconds:
        await victim._answer()
    facts = await victim.call("count")
    while not facts[
        "downs"
    ]:  # what it left is taken first, a part in each turn: others are answered meanwhile
        friendly.send([b"echo"])
        facts = await victim.call("count")
    await until(lambda: friend.received)
    assert friendly.is_up


async def test_who_says_no_hello_is_cut_off_after_a_few_bytes(nodes):
    server, _, near, _ = await nodes.pair(connect_timeout_s=100.0)
    with call(server.address) as connection:
        await asyncio.to_thread(greet, connection)
        await asyncio.to_thread(flood, connection, frame(bytes(1000), more=True), FOR_EVER)
    await until(lambda: server.counts.garbage_connections == 1)
    assert server.counts.oversized == 1
    near.send([b"still here"])
    await until(lambda: server.received)


async def test_what_was_taken_is_counted_as_it_came_over_the_wire(nodes):
    """If too little were counted, who sends much would seem to be ahead one day."""
    server, _, near, far = await nodes.pair(**SETTINGS, shared_memory_bytes=0, heartbeat_interval_s=100.0,
                                            heartbeat_timeout_s=300.0)  # fmt: skip
    near.send([b"first"])
    await until(lambda: server.received)
    beside = received_bytes(far.fd) - far.taken_bytes
    shapes = [[b""], [bytes(255)], [bytes(256)], [b"", bytes(254)], [bytes(255), bytes(256), bytes(70_000)]]
    shapes += [[bytes(3)] * 300, [b"head", bytes(3 * MIB), bytes(1000)]]
    for number, frames in enumerate(shapes * 3):
        near.send(frames)
        await until(lambda number=number: len(server.received) == number + 2)
        assert received_bytes(far.fd) - far.taken_bytes == beside, f"after {[len(part) for part in frames]}"


async def test_half_a_hello_and_then_nothing_is_not_too_much(nodes):
    server = await nodes.make(connect_timeout_s=0.5)
    with call(server.address) as connection:
        await asyncio.to_thread(greet, connection)
        connection.sendall(frame(bytes(UNKNOWN_BYTES // 2), more=True))
        await until(lambda: server.counts.garbage_connections == 1, "its time is over")
    assert server.counts.oversized == 0


async def test_the_largest_messages_into_a_loop_that_is_blocked_are_all_taken(nodes):
    """They come while nobody looks, up to the high-water mark: much more than one message may have."""
    settings = SETTINGS | {"channel_buffer": 8}
    server, _, near, _ = await nodes.pair(**settings)
    sender = await nodes.process(**settings)
    await sender.call("connect", address=server.address)
    await until(lambda: len(server.up) == 2)
    unfinished = server.network._server._unfinished
    for _ in range(3):
        sender.post("send", count=4, size=LIMIT - 6)
        begin = received_bytes(server.up[1].fd)
        while received_bytes(server.up[1].fd) - begin < 3 * LIMIT:
            time.sleep(0.01)  # noqa: ASYNC251  the loop is blocked, and libzmq goes on
        unfinished._look()  # as it may be the first thing that runs then
        await sender._answer()
    await until(lambda: len(server.received) == 12)
    near.send([b"still here"])
    await until(lambda: len(server.received) == 13)
    assert server.down == []


async def test_messages_that_come_and_are_taken_during_a_look_are_not_missed_at_the_next(nodes):
    """A regression: the next look took them for a message that does not end."""

    class Talker:
        taken = taken_bytes = 0

    def drain():
        for _ in range(2):
            send(LIMIT)
            Talker.taken += 1

    def send(size):
        for at in range(0, size, 65536):
            near.sendall(bytes(min(65536, size - at)))
            far.recv(65536, socket.MSG_WAITALL)

    cuts = []
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as near,
    ):
        far, _ = listener.accept()
        with far:
            unfinished = Unfinished(1.0)
            unfinished.add(far.fileno(), drain, cuts.append)
            unfinished.linked(far.fileno(), Talker, LIMIT)
            unfinished._look()
            send(LIMIT + 2 * ROOM_BYTES)
            unfinished._look()
            assert Talker.taken == 2
            unfinished._accounts[far.fileno()].drain = lambda: None
            unfinished._look()
            unfinished.close()
    assert cuts == []


async def test_a_slow_message_of_the_largest_size_is_not_cut_off(nodes):
    server = await nodes.make(**SETTINGS)
    with call(server.address) as connection:
        await asyncio.to_thread(introduce, connection)
        await until(lambda: server.up)
        message = frame(bytes(LIMIT - 10 * 1000), more=True) + frame(bytes(999), more=True) * 10
        half = len(message) // 2
        for _ in range(2):
            await asyncio.to_thread(connection.sendall, message[:half])
            looks = Looks(server)
            await until(looks.are_done, "it was looked at, half sent")
            await asyncio.to_thread(connection.sendall, message[half:])
            looks = Looks(server)
            await until(looks.are_done, "it was looked at, all but the end sent")
            connection.sendall(frame(b"end"))
        await until(lambda: len(server.received) == 2)
    assert server.counts.oversized == 0


class Looks:
    """Waits until the server has looked at its connections twice more."""

    def __init__(self, server):
        self._unfinished = server.network._server._unfinished
        self._before, self._changes = self._unfinished._timer, 0

    def are_done(self):
        if self._unfinished._timer is not self._before:
            self._before = self._unfinished._timer
            self._changes += 1
        return self._changes >= 2


async def test_a_message_of_a_million_frames_is_refused_and_the_links_go_on_meanwhile(nodes):
    server, client, near, _ = await nodes.pair(**SETTINGS)
    server.on_received = lambda link, frames: link.send(frames)
    with call(server.address) as connection:
        await asyncio.to_thread(introduce, connection)
        await until(lambda: len(server.up) == 2)
        await asyncio.to_thread(flood, connection, frame(b"", more=True) * 1_000_000 + frame(b""), 2_000_002)
        await until(lambda: server.down)
    assert "more than 65,536 frames" in str(server.down[0][1])
    near.send([b"still here"])
    await until(lambda: client.received)


@pytest.mark.parametrize("accepted", [True, False], ids=["on a link", "in the handshake"])
async def test_a_server_that_sends_a_message_that_never_ends_is_cut_off_too(nodes, accepted):
    client = await nodes.make(listen=False, **SETTINGS)
    context = zmq.Context()
    router = context.socket(zmq.ROUTER)
    router.setsockopt(zmq.LINGER, 0)
    router.setsockopt(zmq.SNDHWM, 0)
    try:
        router.bind("tcp://127.0.0.1:*")
        address = router.getsockopt(zmq.LAST_ENDPOINT).rstrip(b"\0").decode()
        dialling = asyncio.create_task(client.dial(address))
        await until(lambda: router.getsockopt(zmq.EVENTS) & zmq.POLLIN)
        key, _ = router.recv_multipart()
        if accepted:
            router.send_multipart([key, ACCEPTED + hello_of()[2:]])
            link = await dialling
        router.send(key, zmq.SNDMORE)
        for _ in range(40):  # libzmq sends the frames as they come
            router.send(bytes(MIB), zmq.SNDMORE)
        router.send(b"")
    finally:
        router.close()
        context.term()
    if accepted:
        await until(lambda: client.down)
        assert not link.is_up
    else:
        with pytest.raises(Exception):  # noqa: B017, PT011
            await dialling
