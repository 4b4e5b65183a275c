"""Large frames, which a plane may carry in other ways than small ones: equal, in order, and nobody else's memory."""

import random

import pytest

from callboard.transports.errors import TooLarge

from .network import until
from .rig import Ability, needs

KIB = 1024
MIB = 1024 * KIB

SHARED = pytest.mark.parametrize("shared", [0, 8 * MIB, 256 * MIB], ids=["none", "little", "enough"])
"""Shared memory, for planes that use it: how much one process lends."""


def filled(size, seed):
    """Bytes that differ everywhere, made quickly."""
    return random.Random(seed).randbytes(min(size, 64 * KIB)) * (size // (64 * KIB)) + bytes(
        size % (64 * KIB)
    )


async def send(link, node, frames):
    while link.full:
        seen = len(node.writable)
        await until(lambda seen=seen: len(node.writable) > seen or not link.full, "room")
    link.send(frames)


@SHARED
async def test_large_and_small_messages_stay_in_order_and_whole_in_both_directions(nodes, shared):
    server, client, near, far = await nodes.pair(shared_memory_bytes=shared, channel_buffer=5)
    sizes = (0, 10, 70 * KIB, 300 * KIB, MIB, 3 * MIB, 5 * MIB + 1)
    choose = random.Random(shared)
    plan = [[choose.choice(sizes) for _ in range(choose.choice((0, 0, 1, 2)))] for _ in range(60)]
    came, wrong = {server: 0, client: 0}, []

    def check(node, frames):
        number = int(frames[0])
        wanted = [filled(size, number) for size in plan[number]]
        if number != came[node] or [bytes(frame) for frame in frames[1:]] != wanted:
            wrong.append(number)
        came[node] += 1

    for node in (server, client):
        node.keeps = False
        node.on_received = lambda link, frames, node=node: check(node, frames)
    for number, lengths in enumerate(plan):
        frames = [b"%d" % number, *(bytearray(filled(size, number)) for size in lengths)]
        await send(near, client, frames)
        await send(far, server, frames)
    await until(lambda: came[server] == came[client] == len(plan), lambda: f"{came.values()} came")
    assert wrong == []


@SHARED
async def test_what_was_sent_may_change_at_once_and_is_let_go(nodes, shared):
    """Also what the link, full, has to keep: the peer takes nothing while the loop does not run."""
    server, _, near, _ = await nodes.pair(shared_memory_bytes=shared, channel_buffer=3)
    sent = 0
    for _ in range(3):
        while not near.full and sent < 60:
            large, larger = bytearray(b"x" * 300 * KIB), bytearray(b"y" * 3 * MIB)
            near.send([b"head", large, memoryview(larger)])
            large[:] = larger[:] = b""  # which cannot be done while somebody has a view
            sent += 1
        await until(lambda: not near.full)
    await until(lambda: len(server.received) == sent)
    assert all(frames == [b"head", b"x" * 300 * KIB, b"y" * 3 * MIB] for frames in server.received)


@SHARED
async def test_what_came_stays_as_it_is_while_it_is_held_and_nobody_can_write_to_it(nodes, shared):
    server, client, near, _ = await nodes.pair(shared_memory_bytes=shared)
    server.keeps = False
    held = []
    server.on_received = lambda link, frames: held.append(frames)
    for number in range(50):
        await send(near, client, [b"%d" % number, filled(MIB, number), filled(300 * KIB, -number)])
        if number % 5 == 0:
            await until(lambda number=number: len(held) == number + 1)
    await until(lambda: len(held) == 50)
    near.close()
    await until(lambda: server.down)
    for number, (head, first, second) in enumerate(held):
        assert head == b"%d" % number
        assert first == filled(MIB, number)
        assert second == filled(300 * KIB, -number)
        assert memoryview(first).readonly
        assert memoryview(second).readonly
    held.clear()


@SHARED
async def test_what_was_sent_before_a_close_arrives_large_too(nodes, shared):
    server, _, near, _ = await nodes.pair(shared_memory_bytes=shared)
    near.send([b"first", filled(MIB, 0)])
    await until(lambda: server.received)
    for number in range(3):
        near.send([b"%d" % number, filled(MIB, number)])
    near.close()
    await until(lambda: server.down)
    assert server.received[1:] == [[b"%d" % number, filled(MIB, number)] for number in range(3)]


@SHARED
async def test_the_limit_of_a_message_counts_what_is_large(nodes, shared):
    server, _, near, far = await nodes.pair(shared_memory_bytes=shared, max_message_bytes=4 * MIB)
    for link in (near, far):
        with pytest.raises(TooLarge):
            link.send([b"head", bytes(2 * MIB), bytes(2 * MIB)])
    for _ in range(3):
        near.send([b"head", filled(2 * MIB, 1), filled(2 * MIB - 4, 2)])
    await until(lambda: len(server.received) == 3)
    assert server.counts.bytes_received == 3 * 4 * MIB
    assert server.counts.messages_received == 3


@needs(Ability.PROCESSES)
async def test_views_of_what_a_killed_peer_has_sent_stay_readable(nodes):
    peer, client = await nodes.process(), await nodes.make()
    near = await client.dial(peer.address)
    client.keeps = False
    held = []
    client.on_received = lambda link, frames: held.append(frames)
    for number in range(8):
        near.send([b"echo", filled(MIB, number)])
        await until(lambda number=number: len(held) == number + 1)
    peer.kill()
    await until(lambda: client.down)
    assert [frames[1] for frames in held] == [filled(MIB, number) for number in range(8)]
    held.clear()
