"""What only the tcp plane has: ports, names, the unix-socket short cut, and successors at one address."""

import asyncio
import os
import socket
import stat
from contextlib import ExitStack
from pathlib import Path

import pytest

from callboard.testing.conformance.network import until
from callboard.transports import tcp_server
from callboard.transports.address import Address
from callboard.transports.errors import AddressInUse, BadAddress, Closed, ConfigError, ConnectTimeout, NoRoute
from callboard.transports.ipc import host_id, socket_path
from callboard.transports.zmq_sockets import acquire_context, release_context

only_tcp = pytest.mark.parametrize("nodes", ["tcp"], indirect=True)
only_ipc = pytest.mark.parametrize("nodes", ["ipc"], indirect=True)
on_zmq = pytest.mark.parametrize("nodes", ["ipc", "tcp"], indirect=True)


def connections_to(port):
    """How many TCP connections this machine has to a port of the loopback address."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return sum(1 for line in lines if line.split()[2] == f"0100007F:{port:04X}" and line.split()[3] == "01")


def port_of(node):
    return Address.parse(node.address).host_port()[1]


@only_tcp
async def test_nodes_of_one_host_take_the_unix_socket(nodes):
    server, _, near, _ = await nodes.pair(ipc=True)
    address = Address.parse(server.address)
    assert address.options["host"] == host_id()
    assert stat.S_ISSOCK(os.stat(address.options["ipc"]).st_mode)
    assert connections_to(port_of(server)) == 0
    near.send([b"by ipc"])
    await until(lambda: server.received)


@only_tcp
async def test_without_the_short_cut_or_from_another_host_it_is_tcp(nodes):
    server = await nodes.make(ipc=True)
    plain = await nodes.make(listen=False, ipc=False)
    await plain.dial(server)
    assert connections_to(port_of(server)) == 1
    other_host = await nodes.make(listen=False, ipc=True)
    await other_host.dial(server.address.replace(host_id(), "0" * 12))
    assert connections_to(port_of(server)) == 2


@only_tcp
async def test_a_short_cut_whose_socket_has_gone_falls_back_to_tcp(nodes):
    server, client = await nodes.make(ipc=True), await nodes.make(listen=False, ipc=True)
    os.unlink(Address.parse(server.address).options["ipc"])
    await client.dial(server)
    assert connections_to(port_of(server)) == 1


@only_tcp
async def test_a_port_that_is_taken_is_named_with_both_ways_out(nodes):
    first = await nodes.make()
    port = port_of(first)
    second = await nodes.make(port=port, start=False)
    with pytest.raises(
        AddressInUse, match=rf"port {port} is taken; set network\.port .* another one, or to 0"
    ):
        await second.network.start()
    assert second.address == ""
    await first.network.close()
    third = await nodes.make(port=port)
    assert port_of(third) == port


@only_tcp
async def test_a_bind_that_others_can_reach_is_refused_with_the_reason(nodes):
    with pytest.raises(ConfigError, match=r"other machines can reach.*insecure = true"):
        await nodes.make(host="0.0.0.0")


@only_tcp
async def test_localhost_and_ipv6_loopback_can_be_bound_and_dialled(nodes):
    hosts = ["localhost"]
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
            hosts.append("::1")
        except OSError:
            pass
    client = await nodes.make()
    for host in hosts:
        server = await nodes.make(host=host)
        link = await client.dial(server)
        link.send([b"hello"])
        await until(lambda server=server: server.received)


@only_tcp
async def test_an_address_of_another_machine_cannot_be_bound(nodes):
    with pytest.raises(BadAddress, match=r"this machine has no address 198\.51\.100\.1"):
        await nodes.make(host="198.51.100.1", insecure=True)


@only_tcp
async def test_a_name_is_resolved_and_an_unknown_one_is_no_route(nodes):
    server, client = await nodes.make(), await nodes.make(listen=False)
    link = await client.dial(f"tcp://localhost:{port_of(server)}")
    assert link.peer.node == server.identity.node
    with pytest.raises(NoRoute, match=r"the name 'nobody\.invalid' cannot be resolved"):
        await client.dial("tcp://nobody.invalid:5")


@only_tcp
async def test_a_host_that_drops_packets_is_a_connect_timeout(nodes):
    """A listener whose backlog is full drops what else comes, as a firewall does."""
    client = await nodes.make(listen=False, connect_timeout_s=0.3)
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            caller = stack.enter_context(socket.socket())
            caller.setblocking(False)
            caller.connect_ex(listener.getsockname())
        for _ in range(10):
            with pytest.raises(ConnectTimeout):
                await client.dial(f"tcp://127.0.0.1:{listener.getsockname()[1]}")


@only_tcp
async def test_a_successor_behind_the_address_of_a_live_link_replaces_it(nodes):
    """As behind a balancer: the old link lives on, and there is at most one link per address."""
    first, second = await nodes.make("first"), await nodes.make("second")
    client = await nodes.make("client")
    target = [first]
    pumps = []

    async def forward(reader, writer):
        there = await asyncio.open_connection("127.0.0.1", port_of(target[0]))
        pumps.append(asyncio.gather(pump(reader, there[1]), pump(there[0], writer)))

    async def pump(reader, writer):
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    balancer = await asyncio.start_server(forward, "127.0.0.1", 0)
    address = f"tcp://127.0.0.1:{balancer.sockets[0].getsockname()[1]}"
    old = await client.dial(address, node=first.identity.node)
    target[0] = second
    assert await client.dial(address, node=first.identity.node) is old
    fresh = await client.dial(address, node=second.identity.node)
    assert fresh.peer.node == second.identity.node
    assert isinstance(client.error_of(old), Closed)
    await until(lambda: first.down)
    assert client.client_counts.links == 1
    await client.network.close()
    await asyncio.gather(*pumps)
    balancer.close()
    await balancer.wait_closed()


@on_zmq
async def test_a_handler_that_raises_does_not_leave_the_plane_deaf(nodes):
    """The error goes to the loop, and what waits behind it is still read."""
    server, client, near, far = await nodes.pair()
    errors = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context["exception"]))

    def stumble(link, frames):
        if frames[0] == b"stone":
            raise RuntimeError("a handler must not raise")

    server.on_received = client.on_received = stumble
    for link in (near, far):
        for message in (b"before", b"stone", b"after", b"stone", b"and on"):
            link.send([message])
    await until(lambda: len(server.received) == len(client.received) == 5)
    assert len(errors) == 4


@on_zmq
async def test_closing_one_network_does_not_hold_up_another_that_starts(nodes):
    """The last close waits, in a thread, until what was sent has lingered; who starts meanwhile must not."""
    settings = {"heartbeat_interval_s": 10.0, "heartbeat_timeout_s": 30.0}
    peer, client = await nodes.process(**settings), await nodes.make(listen=False, linger_s=2.0, **settings)
    near = await client.dial(peer.address)
    peer.freeze()
    for _ in range(90):  # more than the kernel takes, less than the link
        near.send([bytes(200_000)])
    assert not near.full
    closing = asyncio.create_task(client.network.close())
    others = 0
    while not closing.done():
        node = await nodes.make()
        await node.network.close()
        others += 1
    assert others > 1  # one that was held up would have ended with it
    peer.thaw()


def test_the_context_goes_with_its_last_user_and_comes_back():
    first = acquire_context()
    assert acquire_context() is first
    release_context()
    assert not first.closed
    release_context()
    assert first.closed
    second = acquire_context()
    assert not second.closed
    release_context()


@on_zmq
async def test_a_process_can_hold_more_links_than_libzmq_counts_sockets_by_default(nodes):
    """1023 sockets, three for each link."""
    server, clients = await nodes.make(), [await nodes.make(listen=False) for _ in range(350)]
    links = [await client.dial(server) for client in clients]
    await until(lambda: len(server.up) == len(links))
    links[-1].send([b"the last one works"])
    await until(lambda: server.received)


@only_ipc
async def test_a_directory_that_others_can_enter_is_refused(nodes):
    nodes.directory.chmod(0o755)
    with pytest.raises(BadAddress, match="mode 0700"):
        await nodes.make()
    nodes.directory.chmod(0o700)


@only_ipc
async def test_a_path_that_is_too_long_or_cannot_be_made_names_the_setting(nodes):
    with pytest.raises(
        BadAddress, match=r"more than the 107 of a unix socket; set a shorter network\.ipc_directory"
    ):
        await nodes.make(ipc_directory=str(nodes.directory / ("x" * 100)))
    (nodes.directory / "file").touch()
    with pytest.raises(BadAddress, match=r"cannot be made: .*; set network\.ipc_directory"):
        await nodes.make(ipc_directory=str(nodes.directory / "file" / "below"))
    (nodes.directory / "file").unlink()


@only_ipc
async def test_servers_may_come_and_go_in_the_shared_directory(nodes, monkeypatch):
    """Whoever leaves last removes it, perhaps just before the next one binds."""
    monkeypatch.setattr("tempfile.tempdir", str(nodes.directory))
    first = await nodes.make(ipc_directory="")
    leaving = []

    def the_other_leaves(directory, node):
        path = socket_path(directory, node)
        if not leaving:
            leaving.append(path)
            os.rmdir(os.path.dirname(path))
        return path

    await first.network.close()
    assert list(nodes.directory.iterdir()) == []
    monkeypatch.setattr(tcp_server, "socket_path", the_other_leaves)
    second = await nodes.make(ipc_directory="")
    await second.dial(second)
    await second.network.close()
    assert list(nodes.directory.iterdir()) == []
