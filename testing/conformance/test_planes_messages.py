"""Messages arrive whole and in order on every plane, however they are pushed."""

import asyncio
import random

import pytest

from .network import until

KIB = 1024
LIMIT = 64 * KIB
"""The smallest limit that the settings allow."""


async def test_messages_of_all_sizes_arrive_whole_and_in_order_in_both_directions(nodes):
    server, client, near, far = await nodes.pair(channel_buffer=20)
    choose = random.Random(nodes.plane)
    sizes = [choose.choice((1, 10, 100, 1000, 10_000, 70_000)) for _ in range(5000)]

    async def feed(link, node, mark):
        for number, size in enumerate(sizes):
            while link.full:
                seen = len(node.writable)
                await until(lambda seen=seen: len(node.writable) > seen or not link.full, "room")
            link.send([b"%s%05d" % (mark, number) + bytes(size)])
            if number % 50 == 0:
                await asyncio.sleep(0)

    await asyncio.gather(feed(near, client, b"c"), feed(far, server, b"s"))
    await until(lambda: len(server.received) == len(client.received) == len(sizes), "all messages")
    for node, mark in ((server, b"c"), (client, b"s")):
        assert [frames[0][:6] for frames in node.received] == [
            b"%s%05d" % (mark, n) for n in range(len(sizes))
        ]
        assert [len(frames[0]) - 6 for frames in node.received] == sizes


async def test_a_message_keeps_its_frames_large_and_empty_ones_too(nodes):
    server, client, near, far = await nodes.pair()
    messages = [
        [b"head", random.Random(1).randbytes(3 * KIB * KIB), b"", bytearray(b"x") * LIMIT],
        [b""],
        [b"head", b"", b"", b""],
        [b"head", memoryview(bytes(range(256)) * KIB)],
        [bytearray(b"not bytes"), memoryview(b"abcd").cast("I")],
        [b"x" * (LIMIT - 1)],
        [b"x" * LIMIT, b"y"],
    ]
    for message in messages:
        near.send(message)
        far.send(message)
    await until(lambda: len(server.received) == len(client.received) == len(messages))
    expected = [[bytes(frame) for frame in message] for message in messages]
    assert server.received == expected
    assert client.received == expected


@pytest.mark.parametrize("frames", [[], [b"head", memoryview(bytes(100))[::2]], [b"head", 5]])
async def test_what_is_no_message_is_refused_whole(nodes, frames):
    server, _, near, far = await nodes.pair()
    if nodes.plane == "memory" and len(frames) == 2 and isinstance(frames[1], memoryview):
        pytest.skip("the memory plane copies, so it can send any view")
    for link in (near, far):
        with pytest.raises((ValueError, TypeError)):
            link.send(frames)
    near.send([b"next", b"one"])
    await until(lambda: server.received)
    assert server.received == [[b"next", b"one"]]


async def test_a_large_buffer_may_be_of_any_shape(nodes):
    server, _, near, _ = await nodes.pair()
    flat = memoryview(bytes(range(256)) * 8 * KIB)
    near.send([b"head", flat.cast("B", (1024, 2 * KIB)), flat[:8].cast("d", ())])
    await until(lambda: server.received)
    assert server.received == [[b"head", bytes(flat), bytes(flat[:8])]]


async def test_a_storm_of_ping_pong_on_many_links_never_stands_still(nodes):
    server = await nodes.make("server", channel_buffer=3)
    clients = [await nodes.make(listen=False, channel_buffer=3) for _ in range(20)]
    rounds = 200
    done = []

    def answer(link, frames):
        link.send([bytes(frames[0])])

    def again(link, frames):
        number = int(bytes(frames[0]).partition(b" ")[0]) + 1
        if number < rounds:
            link.send([b"%d %s" % (number, bytes(number % 7 * 1000))])
        else:
            done.append(link)

    server.on_received = answer
    for client in clients:
        client.on_received = again
    links = [await client.dial(server) for client in clients]
    for link in links:  # two balls in the air on each
        link.send([b"0 "])
        link.send([b"0 "])
    await until(lambda: len(done) == 2 * len(links), lambda: f"{len(done)} balls came home")


async def test_both_sides_may_push_until_they_are_full_and_neither_is_stuck(nodes):
    server, client, near, far = await nodes.pair(channel_buffer=2)
    total = 3000
    left = {near: total, far: total}

    def push(link):
        while left[link] and not link.full:
            link.send([b"%05d" % left[link] + bytes(500)])
            left[link] -= 1

    client.on_writable = server.on_writable = push
    push(near)
    push(far)
    await until(
        lambda: len(server.received) == len(client.received) == total, lambda: f"left {left.values()}"
    )
    for node in (server, client):
        assert [int(frames[0][:5]) for frames in node.received] == list(range(total, 0, -1))
