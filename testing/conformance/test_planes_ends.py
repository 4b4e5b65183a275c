"""How links end on every plane, and that nothing is lost or left behind when they do."""

import asyncio

import pytest

from callboard.transports.errors import Broken, Closed, NoRoute

from .network import until

KIB = 1024


@pytest.mark.parametrize("who", ["client", "server"])
async def test_close_ends_both_sides_closed_here_and_broken_there(nodes, who):
    server, client, near, far = await nodes.pair()
    mine, theirs, link, other = (
        (client, server, near, far) if who == "client" else (server, client, far, near)
    )
    link.close()
    assert isinstance(mine.error_of(link), Closed)
    await until(lambda: theirs.down)
    assert type(theirs.error_of(other)) is Broken
    assert "the peer closed the link" in str(theirs.error_of(other))
    with pytest.raises(Closed):
        link.send([b"late"])
    with pytest.raises(Broken):
        other.send([b"late"])


async def test_close_is_idempotent(nodes):
    server, client, near, far = await nodes.pair()
    near.close()
    near.close()
    await until(lambda: server.down)
    far.close()
    near.close()
    for node in (server, client):
        for _ in range(2):
            await node.network.close()
    assert len(client.down) == len(server.down) == 1


async def test_concurrent_closes_of_a_network_all_return_when_it_is_closed(nodes):
    server, client, _, _ = await nodes.pair()
    await asyncio.gather(*(node.network.close() for node in (server, client) for _ in range(5)))
    assert server.counts.links == client.client_counts.links == 0


@pytest.mark.parametrize("who", ["client", "server"])
async def test_what_was_sent_before_a_close_arrives(nodes, who):
    server, client, near, far = await nodes.pair()
    link, receiver = (near, server) if who == "client" else (far, client)
    messages = [[b"%03d" % number, bytes(20 * KIB)] for number in range(90)]
    for message in messages:
        link.send(message)
    link.close()
    await until(lambda: receiver.down)
    assert receiver.received == messages


@pytest.mark.parametrize("who", ["client", "server"])
async def test_what_a_full_link_holds_arrives_after_its_close(nodes, who):
    server, client, near, far = await nodes.pair(channel_buffer=2, linger_s=20)
    link, receiver = (near, server) if who == "client" else (far, client)
    sent = 0
    while not link.full:
        link.send([b"%05d" % sent + bytes(60 * KIB)])
        sent += 1
    link.close()
    await until(lambda: receiver.down)
    assert [int(frames[0][:5]) for frames in receiver.received] == list(range(sent))


@pytest.mark.parametrize("who", ["client", "server"])
async def test_what_was_sent_before_its_network_closes_arrives(nodes, who):
    server, client, near, far = await nodes.pair(linger_s=20)
    link, sender, receiver = (near, client, server) if who == "client" else (far, server, client)
    sent = 0
    while not link.full:
        link.send([b"%05d" % sent + bytes(60 * KIB)])
        sent += 1
    await sender.network.close()
    await until(lambda: receiver.down)
    assert [int(frames[0][:5]) for frames in receiver.received] == list(range(sent))


async def test_a_link_may_be_closed_by_what_it_received(nodes):
    server, client, near, _ = await nodes.pair()
    server.on_received = lambda link, _: link.close()
    for number in range(20):
        near.send([b"%d" % number])
    await until(lambda: client.down)
    assert server.received == [[b"0"]]


async def test_a_link_can_be_dialled_again_after_its_end(nodes):
    server, client, near, _ = await nodes.pair()
    near.close()
    again = await client.dial(server)
    assert again is not near
    again.send([b"fresh"])
    await until(lambda: server.received)
    assert server.received_on == [server.up[1]]


async def test_the_end_of_a_server_ends_its_links_and_its_address(nodes):
    server, client, near, _ = await nodes.pair()
    address = server.address
    await server.network.close()
    await until(lambda: client.down)
    assert type(client.error_of(near)) is Broken
    with pytest.raises(NoRoute):
        await client.dial(address)


async def test_a_closed_network_dials_nobody(nodes):
    server, client, _, _ = await nodes.pair()
    await client.network.close()
    with pytest.raises(Closed):
        await client.dial(server)


async def test_who_waits_for_a_link_when_the_network_closes_is_told(nodes):
    server, client = await nodes.make(), await nodes.make()
    waiting = [asyncio.create_task(client.dial(server)) for _ in range(3)]
    await asyncio.sleep(0)
    await client.network.close()
    for ended in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(ended, Closed)


async def test_one_of_many_links_ends_and_the_others_do_not_notice(nodes):
    server = await nodes.make("server")
    clients = [await nodes.make(listen=False) for _ in range(10)]
    links = [await client.dial(server) for client in clients]
    links[4].close()
    await until(lambda: server.down)
    for number, link in enumerate(links):
        if number != 4:
            link.send([b"%d" % number])
    await until(lambda: len(server.received) == 9)
    assert server.counts.links == 9
    assert all(client.down == [] for client in clients if client is not clients[4])


async def test_many_links_may_end_from_both_sides_at_once(nodes):
    """A regression: closing a monitor in the wrong order hung the loop, about once in a few hundred closes."""
    servers = [await nodes.make(f"server{number}") for number in range(3)]
    for round_number in range(6):
        clients = [await nodes.make(listen=False) for _ in range(20)]
        dials = [client.dial(server) for client in clients for server in servers]
        links = await asyncio.gather(*dials)
        opened = len(links) // 3 * (round_number + 1)
        await until(lambda opened=opened: all(len(server.up) == opened for server in servers))
        for link in links:
            link.send([b"in flight"])
        for number, link in enumerate(links):
            if number % 3 == 0:
                link.close()
        for server in servers:
            for link in server.up[::2]:
                link.close()
        await asyncio.gather(*(client.network.close() for client in clients))
        await until(lambda: all(server.counts.links == 0 for server in servers), "every link down")
    assert all(len(server.down) == len(server.up) for server in servers)
