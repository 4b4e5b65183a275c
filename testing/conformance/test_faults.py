"""What a plane promises when its connections are cut, silent, slow, or fed by the byte: all or the link goes down.

Messages are numbered: what arrives on a link is what was sent on it, from the first on and without a gap.
"""

import asyncio
import random

import pytest

from callboard.transports.errors import Broken

from ..fault_proxy import Way
from .network import until
from .rig import Ability, needs

QUICK = {"heartbeat_interval_s": 0.2, "heartbeat_timeout_s": 0.8}
WAYS = pytest.mark.parametrize(
    "ways", [(Way.UP,), (Way.DOWN,), (Way.UP, Way.DOWN)], ids=["up", "down", "both"]
)


async def push(node, link):
    """Send numbered messages, few enough for the buffers on the way, until the link is down; returns how many."""
    sent = 0
    while not is_down(node, link):
        if not link.full:
            link.send([b"%08d" % sent, bytes(sent % 3 * 300)])
            sent += 1
        await asyncio.sleep(0.003)
    return sent


def is_down(node, link):
    return any(gone is link for gone, _ in node.down)


def numbers(node, link):
    """The messages that came on a link."""
    pairs = zip(node.received, node.received_on, strict=True)
    return [int(frames[0]) for frames, on in pairs if on is link]


async def has_broken(nodes, server, client, near, far, pushing):
    """Check both ends of a link that a fault has ended, and that the next one is not harmed by what was lost."""
    sent = await asyncio.gather(*pushing)
    for node, link, other_sent in ((server, far, sent[0]), (client, near, sent[1])):
        assert type(node.error_of(link)) is Broken
        with pytest.raises(Broken):
            link.send([b"late"])
        arrived = numbers(node, link)
        assert arrived == list(range(len(arrived)))
        assert len(arrived) <= other_sent
    nodes.rig.heal()
    again = await nodes.dial_through(client, server)
    assert again is not near
    again.send([b"00000000", b"the next link"])
    await until(lambda: server.received and server.received[-1][1] == b"the next link")
    assert server.received_on[-1] not in (far, near)
    server.received_on[-1].send([b"00000000", b"and back"])
    await until(lambda: client.received[-1][1] == b"and back")
    assert client.received_on[-1] is again
    assert len(server.down) == len(client.down) == 1


@needs(Ability.CUT)
async def test_a_cut_link_goes_down_on_both_ends_once_and_delivers_no_more_than_a_beginning(nodes):
    server, client, near, far = await nodes.pair_through(**QUICK)
    pushing = [asyncio.create_task(push(client, near)), asyncio.create_task(push(server, far))]
    await until(lambda: len(server.received) > 20 and len(client.received) > 20)
    nodes.rig.cut()
    await has_broken(nodes, server, client, near, far, pushing)


@needs(Ability.CUT)
async def test_an_idle_link_that_is_cut_goes_down_on_both_ends(nodes):
    server, client, near, far = await nodes.pair_through(**QUICK)
    nodes.rig.cut()
    await until(lambda: server.down and client.down)
    assert type(client.error_of(near)) is type(server.error_of(far)) is Broken


@needs(Ability.BLACKHOLE)
@WAYS
async def test_a_link_that_falls_silent_is_broken_on_both_ends_and_delivers_nothing_twice(nodes, ways):
    """Within the heartbeat timeout for the end that hears nothing; the other learns it from the first, or as late."""
    server, client, near, far = await nodes.pair_through(**QUICK)
    pushing = [asyncio.create_task(push(client, near)), asyncio.create_task(push(server, far))]
    await until(lambda: len(server.received) > 20 and len(client.received) > 20)
    nodes.rig.blackhole(*ways)
    await has_broken(nodes, server, client, near, far, pushing)


@needs(Ability.BLACKHOLE)
@WAYS
async def test_a_link_full_of_messages_that_falls_silent_is_broken_on_both_ends(nodes, ways):
    """A regression: no probe goes through an output that is blocked, so nobody noticed."""
    server, client, near, far = await nodes.pair_through(**QUICK)
    server.keeps = client.keeps = False

    async def fill(node, link):
        while not is_down(node, link):
            for _ in range(100):
                if not link.full and not is_down(node, link):
                    link.send([bytes(8), bytes(3000)])
            await asyncio.sleep(0.001)

    filling = [asyncio.create_task(fill(client, near)), asyncio.create_task(fill(server, far))]
    await until(
        lambda: server.counts.messages_received > 100 and client.client_counts.messages_received > 100
    )
    nodes.rig.blackhole(*ways)
    await until(lambda: is_down(client, near) and is_down(server, far), lambda: (near, far))
    await asyncio.gather(*filling)
    assert type(client.error_of(near)) is type(server.error_of(far)) is Broken


@needs(Ability.BLACKHOLE)
@WAYS
async def test_an_idle_link_that_falls_silent_is_broken_on_both_ends(nodes, ways):
    server, client, near, far = await nodes.pair_through(**QUICK)
    nodes.rig.blackhole(*ways)
    await until(lambda: server.down and client.down)
    assert type(client.error_of(near)) is type(server.error_of(far)) is Broken


@needs(Ability.DELAY)
async def test_delay_keeps_the_order_and_loses_nothing(nodes):
    server, client, near, far = await nodes.pair_through()
    nodes.rig.delay(0.05)
    for number in range(300):
        for node, link in ((client, near), (server, far)):
            await until(lambda link=link: not link.full)
            link.send([b"%08d" % number, bytes(number % 7 * 1000)])
            assert node.down == []
        if number == 200:
            nodes.rig.heal()
    await until(lambda: len(server.received) == len(client.received) == 300)
    assert numbers(server, far) == numbers(client, near) == list(range(300))
    assert [len(frames[1]) for frames in server.received] == [number % 7 * 1000 for number in range(300)]
    assert server.down == client.down == []


@needs(Ability.BYTEWISE)
async def test_one_byte_at_a_time_keeps_messages_whole_and_the_handshake_too(nodes):
    nodes.rig.bytewise()
    server, client, near, far = await nodes.pair_through()
    choose = random.Random(nodes.plane)
    batch = [[choose.randbytes(size)] for size in (1, 2, 10, 100, 255, 256, 257, 3000)]
    frames = [
        [b"head", b"", choose.randbytes(1000), b"x"],
        [b""],
        [b"", b""],
        [b"h", choose.randbytes(5000)],
    ]
    messages = [*batch, *frames, *batch]
    for message in messages:
        for link in (near, far):
            await until(lambda link=link: not link.full)
            link.send(message)
    await until(lambda: len(server.received) == len(client.received) == len(messages))
    assert server.received == client.received == messages
    assert server.down == client.down == []


@needs(Ability.BROKER)
@pytest.mark.parametrize("fault", ["frozen", "killed"])
async def test_a_lost_broker_breaks_links_on_both_ends_and_they_can_be_dialled_again_when_it_is_back(
    nodes, fault
):
    server, client, near, far = await nodes.pair_through(**QUICK)
    pushing = [asyncio.create_task(push(client, near)), asyncio.create_task(push(server, far))]
    await until(lambda: len(server.received) > 20 and len(client.received) > 20)
    await (nodes.rig.freeze_broker() if fault == "frozen" else nodes.rig.kill_broker())
    await until(lambda: server.down and client.down)
    await nodes.rig.return_broker()
    await has_broken(nodes, server, client, near, far, pushing)
