"""What only the NATS plane promises: its subjects, its pieces, and what it does when NATS itself drops something."""

import asyncio
import hashlib
import os
from dataclasses import replace

import nats
import pytest

from callboard.actors.errors import ActorStopped, ActorUnavailable
from callboard.actors.node import Node as ActorNode
from callboard.actors.policy import Executed, StopReason
from callboard.supervisor.nats_server import NatsServer
from callboard.testing.conformance.actors.classes import Echo, Gate
from callboard.testing.conformance.network import Node, until
from callboard.transports import nats_connection, nats_outflow
from callboard.transports.errors import Broken, NoRoute
from callboard.transports.nats_frames import DATA, HEADER_BYTES, WHOLE, pack
from callboard.transports.nats_outflow import Piece
from callboard.transports.settings import NetworkSettings

on_nats = pytest.mark.parametrize("nodes", ["nats"], indirect=True)
pairs = pytest.mark.parametrize("remote", ["nats"], indirect=True)

MIB = 1024 * 1024
PATIENT = {"heartbeat_interval_s": 10.0, "heartbeat_timeout_s": 30.0}


async def stranger(node):
    """A client of nats-py, connected as the node is."""
    settings = node.settings.nats
    return await nats.connect(list(settings.servers), token=settings.token)


def subject_of(node):
    return node.address.removeprefix("nats://")


async def unknown_to_nats(node, address):
    """Return when the server has noticed that nobody listens at an address any more."""
    spy = await stranger(node)
    while True:
        try:
            await spy.request(address.removeprefix("nats://"), b"", timeout=0.1)
        except nats.errors.NoRespondersError:
            break
        except nats.errors.TimeoutError:
            continue
    await spy.close()


# -- subjects


@pairs
async def test_each_actor_has_its_subject_and_messages_for_it_travel_there(remote):
    ref = await remote.spawn(Echo)
    prefix = remote.far.settings.nats.prefix
    spy = await stranger(remote.far)
    seen = await spy.subscribe(f"{prefix}.default.a.0")
    await spy.flush()
    await spy.flush()
    assert await ref.ask(Echo.echo, "to the subject of a.0") == "to the subject of a.0"
    message = await seen.next_msg(timeout=10)
    assert b"to the subject of a.0" in message.data
    assert message.reply.startswith(f"{prefix}.default._inbox.near-")
    await spy.close()


@pairs
async def test_all_messages_of_a_tick_to_one_actor_are_one_nats_message(remote):
    ref = await remote.spawn(Echo)
    await ref.ask(Echo.echo, 0)
    counts = remote.near.statistics()["network"]["client nats"]
    before = counts["messages_sent"]
    await asyncio.gather(*(ref.ask(Echo.echo, number) for number in range(50)))
    assert remote.near.statistics()["network"]["client nats"]["messages_sent"] == before + 1


@pairs
async def test_what_is_sent_to_an_actor_that_has_just_stopped_is_refused_by_its_node_and_nothing_else_notices(
    remote,
):
    gate, ref = await remote.spawn(Gate, name="gate.0"), await remote.spawn(Echo)
    assert await ref.ask(Echo.echo, 1) == 1
    waits = asyncio.create_task(gate.ask(Gate.hold, "all the time"))
    await until(lambda: remote.actor("gate.0").seen)
    await remote.far.stop_actor("a.0", StopReason.COMMANDED)  # and nobody tells the caller
    for _ in range(3):
        with pytest.raises(ActorStopped) as caught:
            await ref.ask(Echo.echo, 2)
        assert caught.value.executed is Executed.NEVER
    remote.actor("gate.0").gate.set()
    assert await waits == "all the time"
    assert remote.near.statistics()["network"]["client nats"]["links_broken"] == 0


@pairs
async def test_another_system_of_the_same_namespace_hears_the_messages_and_runs_none(remote):
    ref = await remote.spawn(Gate)
    other = await remote.node("other")
    await other.spawn(Gate, name="a.0")
    (cell,), (own,) = other.cells.values(), remote.far.cells.values()
    for number in range(100):
        ref.tell(Gate.note, number)
    await until(lambda: len(own.actor.seen) == 100)
    await until(lambda: other.statistics()["network"]["server"]["extra"]["strays"] > 0)
    assert cell.actor.seen == []
    assert remote.near.statistics()["network"]["client nats"]["links_broken"] == 0


@pairs
async def test_what_a_namesake_swallows_for_an_actor_that_has_stopped_is_refused_by_its_node(remote):
    """The server does not say that nobody listens, because the other system does."""
    ref = await remote.spawn(Echo)
    other = await remote.node("other")
    await other.spawn(Echo, name="a.0")
    assert await ref.ask(Echo.echo, 1) == 1
    await remote.far.stop_actor("a.0", StopReason.COMMANDED)
    with pytest.raises(ActorStopped) as caught:
        await ref.ask(Echo.echo, 2)
    assert caught.value.executed is Executed.NEVER


# -- nobody listens


@on_nats
async def test_what_is_sent_to_a_process_that_was_killed_comes_back_at_once_as_undelivered(nodes):
    peer, client = await nodes.process(**PATIENT), await nodes.make(**PATIENT)
    near = await client.dial(peer.address)
    near.send([b"arrives"])
    while (await peer.call("count"))["count"] < 1:
        pass
    peer.kill()
    await peer.close()
    await unknown_to_nats(client, peer.address)
    link_lane = near.lane("somebody", 3)
    near.send([b"one"])
    link_lane.send([b"two", b"with a buffer"])
    await until(lambda: client.down)
    assert type(client.error_of(near)) is Broken
    assert [b"one"] in [list(frames) for frames in near.undelivered()]


@pairs
async def test_an_ask_that_comes_back_is_known_never_to_have_run(remote):
    ref = await remote.spawn(Echo)
    assert await ref.ask(Echo.echo, 1) == 1
    await remote.far._network._server._connection.close()  # as a killed process does, without a word
    await unknown_to_nats(remote.near, remote.far.address)
    with pytest.raises(ActorUnavailable, match="the peer is gone") as caught:
        await ref.options(retries=0).ask(Echo.echo, 2)
    assert caught.value.executed is Executed.NEVER


@on_nats
async def test_a_piece_for_a_link_that_is_over_is_answered_so(nodes):
    server, _client, near, _far = await nodes.pair()
    spy = await stranger(server)
    inbox = f"{server.settings.nats.prefix}.contract._inbox.stranger"
    heard = await spy.subscribe(f"{inbox}.>")
    head = pack(DATA, WHOLE, 0, far_hash(server), 12345, 0)
    await spy.publish(subject_of(server), head + b"hello", reply=f"{inbox}.3039.0.0.n")
    message = await heard.next_msg(timeout=10)
    assert message.subject == f"{inbox}.3039"
    assert b"this link is over" in message.data
    near.send([b"still here"])
    await until(lambda: server.received == [[b"still here"]])
    await spy.close()


def far_hash(node):
    from callboard.transports.nats_frames import node_hash

    return node_hash(node.identity.node)


# -- pieces, windows, losses


async def test_100_mb_arrive_intact_with_the_default_limit_of_the_server(nats_server):
    """In one ask, there and back: as an argument out of band, and as one frame."""
    settings = replace(nats_server.network(), max_message_bytes=128 * MIB, request_timeout_s=60)
    near, far = ActorNode(name="near", settings=settings), ActorNode(name="far", settings=settings)
    try:
        await near.start()
        await far.start()
        await far.spawn(Echo, name="a.0")
        near.add_location(far.location("a.0"))
        value = os.urandom(MIB) * 100
        answer = await near.ref("a.0", Echo).ask(Echo.echo, value)
        assert hashlib.sha256(answer).digest() == hashlib.sha256(value).digest()
        assert near.statistics()["network"]["client nats"]["bytes_sent"] > len(value)
    finally:
        await near.close()
        await far.close()


@on_nats
async def test_the_window_holds_back_what_a_reader_has_not_taken(nodes):
    peer, client = await nodes.process(**PATIENT), await nodes.make(channel_buffer=1000, **PATIENT)
    near = await client.dial(peer.address)
    peer.freeze()
    for _ in range(200):
        near.send([bytes(100_000)])
    assert near._out.in_flight_bytes < nats_outflow.WINDOW_BYTES + MIB
    assert near._out.count > 100
    peer.thaw()
    while (await peer.call("count"))["count"] < 200:
        pass
    await until(lambda: not near._out.count)


@on_nats
async def test_a_reader_too_slow_for_its_own_client_loses_its_links_and_says_why(nodes, monkeypatch):
    monkeypatch.setattr(nats_connection, "PENDING_LIMIT_BYTES", 10_000)
    server, client, near, far = await nodes.pair()
    for _ in range(30):
        near.send([bytes(5_000)])
    await until(lambda: server.down and client.down)
    assert "too slow" in str(server.error_of(far)) or "lost messages" in str(server.error_of(far))
    again = await client.dial(server)
    again.send([b"goes on"])
    await until(lambda: server.received[-1:] == [[b"goes on"]])


async def test_a_reader_too_slow_for_the_nats_server_fails_what_was_outstanding_and_comes_back(
    tmp_path, monkeypatch
):
    """The server ends the connection of a frozen process for whom more than ``max_pending`` waits.

    Our window is far smaller; without it, this happens.
    """
    monkeypatch.setattr(nats_outflow, "WINDOW_BYTES", 1024 * MIB)
    broker = NatsServer(tmp_path / "nats", token="", extra_config="max_pending: 1100000")
    await broker.start()
    from callboard.testing.conformance.network import PeerProcess

    settings = NetworkSettings(request_plane="nats", **PATIENT)
    settings = replace(settings, nats=replace(settings.nats, **broker.settings()))
    peer = PeerProcess(settings)
    client = Node(settings, name="client", namespace="contract", node="client", listen=True)
    try:
        await peer.start()
        await client.network.start()
        near = await client.dial(peer.address)
        peer.freeze()
        number = 0
        while not client.down:  # ends: nobody listens any more, once the server has dropped the reader
            if not near.full:
                near.send([b"%06d" % number + bytes(1_000_000)])
                number += 1
            await asyncio.sleep(0.001)
        assert type(client.error_of(near)) is Broken
        peer.thaw()
        again = await dial_until(client, peer.address)
        again.send([b"echo"])
        await until(lambda: [b"echo"] in client.received)
    finally:
        await client.network.close()
        await peer.close()
        await broker.stop()


async def dial_until(client, address):
    """The link, once the peer has noticed that it lost its connection, and has made another."""
    while True:
        try:
            return await client.dial(address)
        except NoRoute:
            await asyncio.sleep(0.05)


async def test_links_share_a_connection_that_cannot_take_all_of_them(nats_server):
    settings = replace(nats_server.network(), **PATIENT)
    one = Node(settings, name="one", namespace="contract", node=f"one-{os.getpid()}", listen=False)
    peers = [
        Node(settings, name=f"peer{n}", namespace="contract", node=f"peer{n}-{os.getpid()}", listen=True)
        for n in range(6)
    ]
    try:
        for peer in peers:
            await peer.network.start()
        links = [await one.dial(peer) for peer in peers]

        def fill(link):
            while not link.full and link.is_up:
                link.send([bytes(200_000)])

        one.on_writable = fill
        for link in links:
            fill(link)
        await until(
            lambda: all(len(peer.received) > 30 for peer in peers), lambda: [len(p.received) for p in peers]
        )
        one.on_writable = lambda _: None
    finally:
        await one.network.close()
        for peer in peers:
            await peer.network.close()


async def test_a_tiny_limit_of_the_server_harms_no_link(tmp_path):
    broker = NatsServer(tmp_path / "nats", token="", max_payload_bytes=4096)
    await broker.start()
    settings = NetworkSettings(request_plane="nats", request_timeout_s=30)
    settings = replace(settings, nats=replace(settings.nats, **broker.settings()))
    near, far = ActorNode(name="near", settings=settings), ActorNode(name="far", settings=settings)
    try:
        await near.start()
        await far.start()
        for number in range(500):
            await far.spawn(Echo, name=f"a.{number}")
            near.add_location(far.location(f"a.{number}"))
        asks = [near.ref(f"a.{number}", Echo).ask(Echo.echo, bytes(number * 20)) for number in range(500)]
        assert [len(answer) for answer in await asyncio.gather(*asks)] == [n * 20 for n in range(500)]
        (link,) = near._network._clients["nats"]._links.values()
        await until(lambda: not link._out.in_flight_bytes, "everything is acknowledged, in several messages")
        assert near.statistics()["network"]["client nats"]["links_broken"] == 0
    finally:
        await near.close()
        await far.close()
        await broker.stop()


async def test_a_foreign_service_on_the_port_meanwhile_keeps_nobody_away_for_ever(tmp_path):
    broker = NatsServer(tmp_path / "nats", token="")
    await broker.start()
    settings = NetworkSettings(request_plane="nats")
    settings = replace(settings, nats=replace(settings.nats, **broker.settings()))
    node = Node(settings, name="one", namespace="contract", node="one", listen=True)
    visits = []

    async def foreign(reader, writer):
        visits.append(writer)
        writer.write(bytes(200_000))
        writer.close()

    try:
        await node.network.start()
        await broker.kill()
        service = await asyncio.start_server(foreign, "127.0.0.1", broker.port)
        await until(lambda: len(visits) > 2)
        service.close()
        await service.wait_closed()
        await broker.start()
        connection = node.network._server._connection
        await until(lambda: connection.is_up and connection.reconnects == 1)
    finally:
        await node.network.close()
        await broker.stop()


async def test_an_actor_whose_subject_is_denied_is_reached_by_its_node_and_nothing_else_notices(tmp_path):
    denied = 'permissions: { publish: { deny: ["*.*.bad.>"] } }'
    users = f"authorization {{ users: [ {{user: a, password: p}}, {{user: b, password: p, {denied}}} ] }}"
    broker, nodes = NatsServer(tmp_path / "nats", token="", extra_config=users), {}
    await broker.start()
    try:
        for name, user in (("good", "a"), ("bad", "a"), ("near", "b")):
            settings = NetworkSettings(request_plane="nats")
            login = {**broker.settings(), "username": user, "password": "p"}
            settings = replace(settings, nats=replace(settings.nats, **login))
            node = nodes[name] = ActorNode(name=name, namespace="Capital", settings=settings)
            await node.start()
            if name != "near":
                await node.spawn(Gate, name=f"{name}.0")
        near = nodes["near"]
        for name in ("good", "bad"):
            near.add_location(nodes[name].location(f"{name}.0"))
        waits = asyncio.create_task(near.ref("good.0", Gate).ask(Gate.hold, "all the time"))
        (cell,) = nodes["good"].cells.values()
        await until(lambda: cell.actor.seen)
        assert await near.ref("bad.0", Gate).ask(Gate.note, "denied") == "denied"
        cell.actor.gate.set()
        assert await waits == "all the time"
    finally:
        for node in reversed(nodes.values()):
            await node.close()
        await broker.stop()


@on_nats
async def test_a_missing_piece_ends_the_link_on_both_sides(nodes):
    server, client, near, far = await nodes.pair()
    near.send([b"first"])
    await until(lambda: server.received)
    near._out.main.sent += 1
    near.send([b"third"])
    await until(lambda: server.down and client.down)
    assert "lost messages on the way" in str(server.error_of(far))
    assert server.received == [[b"first"]]


@on_nats
async def test_a_piece_that_comes_twice_is_taken_once(nodes):
    server, client, near, _far = await nodes.pair()
    near.send([b"first"])
    near.send([b"second"])
    for piece in list(near._out.main.kept):
        near._transmit(near._out.main, piece)
    near.send([b"third"])
    await until(lambda: len(server.received) >= 3)
    assert server.received == [[b"first"], [b"second"], [b"third"]]
    assert client.down == server.down == []


GARBAGE = {
    "nothing": b"",
    "random bytes": os.urandom(500),
    "half a header": bytes((DATA,)) * (HEADER_BYTES - 1),
    "a header and no more": bytes((DATA,)) * HEADER_BYTES,
    "a hello that is none": b"\xc1Hxxxx",
    "an acceptance nobody asked for": b"\xc1A\x80",
    "JSON": b'{"method": "echo"}',
}


@on_nats
@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE.keys())
@pytest.mark.parametrize("reply", ["", "somebody.else", "callboard.*.>"], ids=["no reply", "foreign", "wild"])
async def test_garbage_of_strangers_is_counted_and_no_link_notices(nodes, garbage, reply):
    server, client, near, far = await nodes.pair()
    spy = await stranger(server)
    client_inbox = f"{server.settings.nats.prefix}.contract._inbox.{client.identity.node}"
    for subject in (subject_of(server), f"{client_inbox}.{near.key:x}", f"{client_inbox}.x.y"):
        await spy._send_publish(subject, reply, garbage, len(garbage), None)
    await spy.flush()
    await spy.close()
    near.send([b"ping"])
    far.send([b"pong"])
    await until(lambda: server.received and client.received)
    counts = server.counts
    await until(lambda: counts.garbage_connections + server.counts.extra["strays"] > 0)
    assert server.down == client.down == []


@on_nats
async def test_pieces_that_contradict_themselves_end_their_link_and_no_other(nodes):
    server, client, near, far = await nodes.pair()
    other = await nodes.make(listen=False)
    bystander = await other.dial(server)
    near._transmit(near._out.main, Piece(0, 0, b"a middle without a beginning", [b""]))
    await until(lambda: server.down)
    assert "begins in the middle" in str(server.error_of(far))
    await until(lambda: client.down)
    bystander.send([b"still here"])
    await until(lambda: server.received == [[b"still here"]])
