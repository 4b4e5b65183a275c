"""Peers in processes of their own that die, freeze or do not read."""

import asyncio
import hashlib
import os
import time
from pathlib import Path

import pytest

from callboard.transports.errors import Broken, ConnectTimeout, HandshakeRefused, LinkFull, NoRoute

from .network import until
from .rig import Ability, needs

pytestmark = needs(Ability.PROCESSES)

PATIENT = {"heartbeat_interval_s": 10.0, "heartbeat_timeout_s": 30.0}
"""A frozen peer is not taken for dead during the test."""


async def test_messages_go_to_another_process_and_back(nodes):
    peer, client = await nodes.process(), await nodes.make()
    near = await client.dial(peer.address, node=peer.node)
    big = os.urandom(300_000)
    near.send([b"echo", big, b""])
    await until(lambda: client.received)
    assert client.received == [[b"echo", big, b""]]
    assert near.peer.pid == peer.pid


async def test_a_killed_peer_takes_its_links_down_at_once(nodes):
    """The heartbeat is too slow to be what notices it; ``callboard bench failover`` says how fast it is."""
    peer, client = await nodes.process(**PATIENT), await nodes.make(**PATIENT)
    near = await client.dial(peer.address)
    await peer.call("connect", address=client.address)
    await until(lambda: client.up)
    accepted = client.up[0]
    peer.kill()
    await until(lambda: len(client.down) == 2)
    for link in (near, accepted):
        assert type(client.error_of(link)) is Broken
        with pytest.raises(Broken, match="the peer is gone"):
            link.send([b"late"])


async def test_what_a_peer_sent_before_it_was_killed_arrives(nodes):
    peer, server = await nodes.process(), await nodes.make()
    await peer.call("connect", address=server.address)
    await peer.call("send", count=50, size=1000)
    await until(lambda: server.received)
    await asyncio.sleep(0)
    peer.kill()
    await until(lambda: server.down)
    assert [int(frames[0][:6]) for frames in server.received] == list(range(len(server.received)))


async def test_what_came_from_a_dead_peer_before_the_loop_looked_is_delivered(nodes):
    """The messages, the news of the death and the next connection all wait while the loop does not run."""
    peer, server = await nodes.process(), await nodes.make()
    await peer.call("connect", address=server.address)
    await until(lambda: server.up)
    answer = await peer.call("send", count=90, size=1000)
    assert answer["downs"] == []
    peer.post("exit")
    while "Z" not in Path(f"/proc/{peer.pid}/stat").read_text().rpartition(")")[2].split()[0]:
        time.sleep(0.001)  # noqa: ASYNC251  the loop must not run
    for _ in range(3):  # an answer that comes too late is lost, and takes nothing with it
        server.up[0].send([b"answer"])
    await until(lambda: server.down)
    assert len(server.received) == 90


async def test_a_frozen_peer_is_taken_for_broken_within_the_heartbeat_timeout(nodes):
    quick = {"heartbeat_interval_s": 0.2, "heartbeat_timeout_s": 0.6}
    peer, client = await nodes.process(**quick), await nodes.make(**quick)
    near = await client.dial(peer.address)
    await peer.call("connect", address=client.address)
    await until(lambda: client.up)
    accepted = client.up[0]
    peer.freeze()
    await until(lambda: len(client.down) == 2)
    assert type(client.error_of(near)) is type(client.error_of(accepted)) is Broken
    peer.thaw()


async def test_a_peer_whose_loop_is_busy_is_not_taken_for_dead(nodes):
    # The loop stands still for longer than the timeout, and no thread of a busy machine waits so long for its turn.
    quick = {"heartbeat_interval_s": 0.5, "heartbeat_timeout_s": 2.0}
    peer, client = await nodes.process(**quick), await nodes.make(**quick)
    near = await client.dial(peer.address)
    await peer.call("block", seconds=3)
    near.send([b"echo"])
    await until(lambda: client.received)
    assert client.down == []


async def test_a_frozen_process_that_was_never_dialled_is_a_connect_timeout(nodes):
    peer, client = await nodes.process(), await nodes.make(connect_timeout_s=0.3)
    peer.freeze()
    with pytest.raises(ConnectTimeout):
        await client.dial(peer.address)
    peer.thaw()


async def test_a_reader_that_stalls_makes_the_link_full_and_loses_nothing(nodes):
    peer, client = await nodes.process(**PATIENT), await nodes.make(channel_buffer=10, **PATIENT)
    near = await client.dial(peer.address)
    peer.freeze()
    digest, sent = hashlib.sha256(), 0
    while not near.full:
        message = b"%06d" % sent + bytes(100_000)
        near.send([message])
        digest.update(message)
        sent += 1
        assert sent < 500, "the queue is not bounded"
    with pytest.raises(LinkFull, match="messages wait; nothing was sent"):
        near.send([b"not sent"])
    seen = len(client.writable)
    peer.thaw()
    await until(lambda: len(client.writable) > seen)
    near.send([b"last"])
    digest.update(b"last")
    answer = await peer.call("count")
    while answer["count"] < sent + 1:
        answer = await peer.call("count")
    assert (answer["count"], answer["digest"]) == (sent + 1, digest.hexdigest())
    assert client.down == []


async def test_a_busy_process_outlives_a_peer_that_died_and_left_it_much_unread(nodes):
    """It reads nothing while a handler holds its loop; what the plane does meanwhile must not end it."""
    beats = {"heartbeat_interval_s": 0.05, "heartbeat_timeout_s": 20}
    busy, sender = await nodes.process(**beats), await nodes.process(channel_buffer=1000, **beats)
    await sender.call("connect", address=busy.address)
    busy.post("block", seconds=1)
    await sender.call("send", count=400, size=100)
    await sender.call("count")
    sender.kill()
    answer = await busy._answer()
    while not answer["downs"]:
        answer = await busy.call("count")
    assert answer["count"] <= 400


async def test_a_stalled_peer_of_a_server_does_not_hold_up_the_others(nodes):
    server = await nodes.make(channel_buffer=5, **PATIENT)
    stalled = await nodes.process(**PATIENT)
    await stalled.call("connect", address=server.address)
    await until(lambda: server.up)
    stalled.freeze()
    slow = server.up[0]
    while not slow.full:
        slow.send([bytes(200_000)])
    other = await nodes.make(listen=False, **PATIENT)
    near = await other.dial(server)
    server.on_received = lambda link, frames: link.send(frames)
    for number in range(200):
        while not slow.full:
            slow.send([bytes(200_000)])
        near.send([b"%d" % number])
        await until(lambda number=number: len(other.received) == number + 1)
    stalled.thaw()
    await until(lambda: slow in server.writable)


@pytest.mark.parametrize("who", ["dialled", "accepted"])
async def test_a_full_link_to_a_frozen_peer_can_be_closed_and_the_network_too(nodes, who):
    settings = {"channel_buffer": 5, "linger_s": 0.2, **PATIENT}
    peer, node = await nodes.process(**settings), await nodes.make(**settings)
    if who == "dialled":
        link = await node.dial(peer.address)
    else:
        await peer.call("connect", address=node.address)
        await until(lambda: node.up)
        link = node.up[0]
    peer.freeze()
    while not link.full:
        link.send([bytes(200_000)])
    link.close()
    await node.network.close()
    peer.thaw()
    answer = await peer.call("count")
    while not answer["downs"]:
        answer = await peer.call("count")
    assert answer["downs"][0].startswith("Broken")


async def test_nothing_that_was_queued_for_the_dead_reaches_its_successor(nodes):
    """On the same port, or the same path: the successor there is another node."""
    port = _free_port() if nodes.plane == "tcp" else 0
    first = await nodes.process(port=port, **PATIENT)
    client = await nodes.make(**PATIENT)
    near = await client.dial(first.address, node=first.node)
    first.freeze()
    for _ in range(60):
        if not near.full:
            near.send([b"for the first"])
    first.kill()
    await first.close()
    second = await nodes.process(port=port, **PATIENT)
    address = first.address if nodes.plane == "tcp" else second.address
    await until(lambda: client.down)
    if nodes.plane == "tcp":
        assert second.address == first.address
        with pytest.raises(HandshakeRefused, match=f"{first.node} was expected"):
            await client.dial(address, node=first.node)
    else:
        with pytest.raises(NoRoute):
            await client.dial(first.address)
    fresh = await client.dial(address, node=second.node)
    assert fresh is not near
    fresh.send([b"echo for the second"])
    await until(lambda: client.received)
    assert (await second.call("count"))["count"] == 0


def _free_port():
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


async def test_a_peer_that_dies_during_the_handshake_leaves_no_link(nodes):
    """A link whose connection had gone before its hello was read would never go down."""
    server = await nodes.make("server")
    for _ in range(5):
        peers = [await nodes.process() for _ in range(2)]
        for peer in peers:
            peer.post("connect", address=server.address)
        await asyncio.sleep(0)
        for peer in peers:
            peer.kill()
    clients = [await nodes.make(listen=False) for _ in range(5)]
    links = [await client.dial(server) for client in clients]
    await until(lambda: server.counts.links == len(links), lambda: f"{server.counts.links} links")
    assert len(server.down) == len(server.up) - len(links)
