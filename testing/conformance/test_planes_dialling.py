"""Dialling in vain, on every plane: nobody there, the wrong one there, or one who does not answer."""

import asyncio

import pytest

from callboard.transports.errors import BadAddress, ConnectTimeout, HandshakeRefused, NoRoute, UnknownScheme

from .network import until
from .rig import Ability, needs


async def test_dialling_an_address_where_nobody_listens_is_no_route(nodes):
    server, client = await nodes.make(), await nodes.make()
    address = server.address
    await server.network.close()
    with pytest.raises(NoRoute, match="cannot be reached") as caught:
        await client.dial(address)
    assert type(caught.value) is NoRoute
    assert address in str(caught.value)


async def test_dialling_what_is_no_address_says_why(nodes):
    node = await nodes.make()
    with pytest.raises(BadAddress, match="it has no scheme"):
        await node.dial("127.0.0.1:80")
    with pytest.raises(UnknownScheme, match=f'did you mean "{nodes.plane}"'):
        await node.dial(f"{nodes.plane}x://127.0.0.1:80")


async def test_a_node_of_another_namespace_is_refused_and_both_are_named(nodes):
    server, client = await nodes.make("server", namespace="red"), await nodes.make("client", namespace="blue")
    with pytest.raises(HandshakeRefused, match="server is in namespace 'red', client in 'blue'"):
        await client.dial(server)
    assert server.up == []
    assert server.counts.handshakes_refused == client.client_counts.handshakes_refused == 1
    assert server.counts.garbage_connections == 0


@needs(Ability.PROCESSES)
async def test_a_node_that_speaks_another_major_version_is_refused_and_both_are_named(nodes):
    other, node = await nodes.process(protocol=(2, 7)), await nodes.make("node")
    with pytest.raises(HandshakeRefused, match=r"peer speaks protocol version 2\.7, node 1\.0"):
        await node.dial(other.address)
    answer = await other.call("try", address=node.address)
    assert "HandshakeRefused" in answer["error"]
    assert "node speaks protocol version 1.0, peer 2.7" in answer["error"]
    assert node.up == node.down == []


@needs(Ability.PROCESSES)
async def test_a_node_that_speaks_another_minor_version_is_welcome(nodes):
    other, node = await nodes.process(protocol=(1, 99)), await nodes.make("node")
    assert (await node.dial(other.address)).peer.node == other.node
    assert (await other.call("try", address=node.address))["error"] == ""
    await until(lambda: node.up)


async def test_another_node_than_expected_is_refused_and_both_are_named(nodes):
    server, client = await nodes.make("server"), await nodes.make()
    with pytest.raises(HandshakeRefused, match=f"node {server.identity.node} .*somebody-else was expected"):
        await client.dial(server, node="somebody-else")
    link = await client.dial(server, node=server.identity.node)
    assert link.peer.node == server.identity.node


async def test_a_live_link_does_not_answer_for_another_node_and_stays(nodes):
    server, client, near, _ = await nodes.pair()
    with pytest.raises(HandshakeRefused):
        await client.dial(server, node="successor")
    near.send([b"still here"])
    await until(lambda: server.received)
    assert client.down == []


async def test_callers_that_expect_different_nodes_each_get_their_own_answer(nodes):
    server, client = await nodes.make(), await nodes.make()
    right = server.identity.node
    wanted = ["wrong", right, None, "wrong", right]
    found = await asyncio.gather(*(client.dial(server, node=node) for node in wanted), return_exceptions=True)
    for node, answer in zip(wanted, found, strict=True):
        if node == "wrong":
            assert isinstance(answer, HandshakeRefused)
        elif node == right:
            assert answer.peer.node == right


async def test_a_link_that_goes_down_at_once_is_not_returned(nodes):
    server, client = await nodes.make(), await nodes.make()
    server.on_up = lambda link: link.close()
    for _ in range(20):
        try:
            link = await client.dial(server)
        except NoRoute:
            continue
        await until(lambda link=link: any(gone is link for gone, _ in client.down))


@needs(Ability.SILENCE)
async def test_connect_timeout_is_within_its_setting_when_nobody_answers(nodes):
    client = await nodes.make(listen=False, beyond=True, connect_timeout_s=0.2)
    known, silent = await nodes.make(), await nodes.make()
    await nodes.dial_through(client, known)
    address = nodes.rig.through(silent.address)
    nodes.rig.blackhole()
    with pytest.raises(ConnectTimeout, match=r"within 0\.2 s"):
        await client.dial(address)
    nodes.rig.heal()
    assert silent.down == []
