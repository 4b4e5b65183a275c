"""What every request plane promises, on memory, ipc and tcp alike: addresses, links, limits, counters, the pool."""

import asyncio
from dataclasses import replace

import pytest

from callboard.transports.base import RequestPlaneClient, RequestPlaneServer
from callboard.transports.errors import Closed, LinkFull, NoRoute, TooLarge
from callboard.transports.registry import get_plane
from callboard.transports.settings import NetworkSettings

from .network import until

KIB = 1024
LIMIT = 64 * KIB
"""The smallest limit that the settings allow."""


async def test_a_plane_says_what_it_is_and_makes_servers_and_clients(nodes):
    plane = get_plane(nodes.plane)
    node = await nodes.make()
    assert plane.capabilities.scheme == nodes.plane
    assert plane.capabilities.notices_death
    server = plane.server(node.identity, node, nodes.settings)
    client = plane.client(node.identity, node, nodes.settings)
    assert isinstance(server, RequestPlaneServer)
    assert isinstance(client, RequestPlaneClient)
    assert server.address == ""
    await client.close()
    await server.close()


async def test_a_server_has_an_address_of_its_plane_once_it_is_started(nodes):
    node = await nodes.make(start=False)
    assert node.address == ""
    await node.network.start()
    assert node.address.startswith(f"{nodes.plane}://")
    assert node.address in repr(node.network)


async def test_two_servers_have_two_addresses(nodes):
    one, two = await nodes.make(), await nodes.make()
    assert one.address != two.address


async def test_a_node_that_does_not_listen_can_dial(nodes):
    server, client = await nodes.make(), await nodes.make(listen=False)
    await client.dial(server)
    await until(lambda: server.up)
    assert client.address == ""


async def test_both_sides_of_a_link_know_each_other(nodes):
    server, client, near, far = await nodes.pair()
    assert near.peer.node == server.identity.node
    assert replace(far.peer, features=()) == client.identity
    assert near.address == server.address
    assert server.up == [far]
    assert client.up == []


async def test_the_state_of_a_link_can_be_read_in_its_repr(nodes):
    server, _, near, far = await nodes.pair()
    assert "up" in repr(near)
    assert server.address in repr(near)
    near.close()
    await until(lambda: server.down)
    assert "down" in repr(near)
    assert "closed" in repr(near)
    assert "down" in repr(far)


async def test_who_dials_an_address_twice_gets_the_same_link(nodes):
    server, client, near, _ = await nodes.pair()
    assert await client.dial(server) is near
    assert client.client_counts.links_opened == 1


async def test_concurrent_dials_share_one_link(nodes):
    server, client = await nodes.make(), await nodes.make()
    links = await asyncio.gather(*(client.dial(server) for _ in range(50)))
    assert len(set(links)) == 1
    await until(lambda: server.up)
    assert len(server.up) == 1


async def test_a_caller_that_gives_up_takes_nothing_from_the_others(nodes):
    server, client = await nodes.make(), await nodes.make()
    impatient = asyncio.create_task(client.dial(server))
    patient = asyncio.create_task(client.dial(server))
    await asyncio.sleep(0)
    impatient.cancel()
    assert (await patient).peer.node == server.identity.node


async def test_a_dial_that_nobody_waits_for_any_more_fails_in_silence(nodes):
    server, client = await nodes.make(), await nodes.make()
    address = server.address
    await server.network.close()
    impatient = asyncio.create_task(client.dial(address))
    await asyncio.sleep(0)
    impatient.cancel()
    with pytest.raises(NoRoute):
        await client.dial(address)


async def test_two_nodes_can_dial_each_other(nodes):
    one, two = await nodes.make(), await nodes.make()
    there, back = await asyncio.gather(one.dial(two), two.dial(one))
    there.send([b"there"])
    back.send([b"back"])
    await until(lambda: one.received and two.received)
    assert (one.received, two.received) == ([[b"back"]], [[b"there"]])


async def test_a_server_may_speak_first(nodes):
    server, client = await nodes.make(), await nodes.make()
    server.on_up = lambda link: link.send([b"welcome"])
    near = await client.dial(server)
    await until(lambda: client.received)
    assert client.received_on == [near]


async def test_a_message_over_the_limit_is_refused_by_its_sender_with_size_and_limit(nodes):
    server, client, near, far = await nodes.pair(max_message_bytes=LIMIT, shrink_message_bytes=0)
    for link in (near, far):
        with pytest.raises(
            TooLarge, match=r"65,537 bytes exceeds the limit of 65,536.*max_message_bytes"
        ) as caught:
            link.send([bytes(LIMIT + 1)])
        assert (caught.value.size_bytes, caught.value.limit_bytes) == (LIMIT + 1, LIMIT)
        with pytest.raises(TooLarge):
            link.send([b"head", bytes(LIMIT // 2), bytes(LIMIT // 2)])
        link.send([bytes(LIMIT)])
    await until(lambda: server.received and client.received)
    assert [len(frames[0]) for frames in server.received + client.received] == [LIMIT, LIMIT]
    assert server.down == client.down == []


async def test_the_smaller_limit_of_both_sides_counts(nodes):
    small = await nodes.make(max_message_bytes=LIMIT, shrink_message_bytes=0)
    large = await nodes.make(max_message_bytes=4 * LIMIT, shrink_message_bytes=0)
    near = await large.dial(small)
    await until(lambda: small.up)
    for link in (near, small.up[0]):
        with pytest.raises(TooLarge, match="65,536"):
            link.send([bytes(2 * LIMIT)])


async def test_statistics_count_links_messages_and_bytes_on_both_sides(nodes):
    server, client, near, far = await nodes.pair()
    near.send([b"12345", b"678"])
    far.send([b"12"])
    far.send([b"3"])
    await until(lambda: server.received and len(client.received) == 2)
    here, there = client.client_counts, server.counts
    assert (here.links, here.links_opened, there.links, there.links_opened) == (1, 1, 1, 1)
    assert (here.messages_sent, here.bytes_sent, here.messages_received, here.bytes_received) == (1, 8, 2, 3)
    assert (there.messages_sent, there.bytes_sent, there.messages_received, there.bytes_received) == (
        2,
        3,
        1,
        8,
    )
    near.close()
    await until(lambda: server.down)
    assert (here.links, here.links_closed, here.links_broken) == (0, 1, 0)
    assert (there.links, there.links_closed, there.links_broken) == (0, 0, 1)


async def test_a_link_whose_peer_does_not_read_is_full_says_so_and_recovers(nodes):
    """The loop is not given up while it sends, so nobody reads."""
    server, client, near, _ = await nodes.pair(channel_buffer=5)
    sent = 0
    while not near.full:
        near.send([b"%05d" % sent + bytes(50 * KIB)])
        sent += 1
        assert sent < 2000, "the queue is not bounded"
    with pytest.raises(LinkFull, match="nothing was sent"):
        near.send([b"one too many"])
    assert client.client_counts.stalls == 1
    assert "full" in repr(near)
    await until(lambda: len(server.received) == sent)
    await until(lambda: client.writable == [near])
    assert not near.full
    near.send([b"99999"])
    await until(lambda: len(server.received) == sent + 1)
    assert [int(frames[0][:5]) for frames in server.received] == [*range(sent), 99999]


async def test_idle_links_are_closed_and_busy_ones_are_not(nodes):
    idle, busy = await nodes.make("idle"), await nodes.make("busy")
    client = await nodes.make(listen=False, idle_close_s=0.2)
    client.is_idle = lambda link: link.peer.name == "idle"
    near_idle, near_busy = await client.dial(idle), await client.dial(busy)
    await until(lambda: client.down)
    assert isinstance(client.error_of(near_idle), Closed)
    await until(lambda: idle.down)
    assert await client.dial(busy) is near_busy
    assert await client.dial(idle) is not near_idle


async def test_the_pool_closes_the_longest_idle_link_above_its_size(nodes):
    servers = [await nodes.make(f"server{number}") for number in range(3)]
    client = await nodes.make(listen=False, pool_size=2)
    links = [await client.dial(server) for server in servers[:2]]
    await asyncio.sleep(0)
    assert client.down == []
    links.append(await client.dial(servers[2]))
    await until(lambda: client.down)
    assert [link for link, _ in client.down] == [links[0]]
    assert client.client_counts.links == 2


async def test_a_pool_in_use_keeps_more_links_than_its_size(nodes):
    servers = [await nodes.make() for _ in range(4)]
    client = await nodes.make(listen=False, pool_size=1, idle_close_s=0.1)
    client.is_idle = lambda _: False
    links = [await client.dial(server) for server in servers]
    sentinel = await nodes.make(listen=False, idle_close_s=0.1)
    await sentinel.dial(servers[0])
    await until(lambda: sentinel.down)  # so a pool has looked meanwhile
    assert client.down == []
    assert len(set(links)) == 4


async def test_settings_are_the_same_for_every_plane(nodes):
    assert NetworkSettings(request_plane=nodes.plane.upper()).request_plane == nodes.plane
