"""Who does not speak the protocol is dropped and counted, and no link notices: ipc and tcp."""

import asyncio
import errno
import os
import select
import socket
import struct
import time
from contextlib import ExitStack, contextmanager

import msgspec
import pytest
import zmq

from callboard.testing.conformance.network import until
from callboard.transports.base import Identity
from callboard.transports.cutting import pieces
from callboard.transports.handshake import (
    ACCEPTED,
    HELLO,
    REFUSED,
    Hello,
    decode_hello,
    decode_reason,
    encode_hello,
)

pytestmark = pytest.mark.parametrize("nodes", ["ipc", "tcp"], indirect=True)

GREETING = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
"""What a ZMTP 3 peer says first."""


def command(name, properties):
    body = bytes([len(name)]) + name
    for key, value in properties.items():
        body += bytes([len(key)]) + key + struct.pack(">I", len(value)) + value
    return b"\x04" + bytes([len(body)]) + body


READY = command(b"READY", {b"Socket-Type": b"DEALER"})
GARBAGE = {
    "nothing": b"",
    "random bytes": os.urandom(500),
    "an HTTP request": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "half a greeting": GREETING[:20],
    "a greeting of ZMTP 1": b"\x01\x00" * 20,
    "a greeting and no more": GREETING,
    "a greeting and random bytes": GREETING + os.urandom(200),
    "a peer of the wrong type": GREETING + command(b"READY", {b"Socket-Type": b"PUB"}),
    "a handshake and no more": GREETING + READY,
    "a handshake and a broken frame": GREETING + READY + b"\xee" * 50,
    "a handshake and a frame over the limit": GREETING + READY + b"\x02" + struct.pack(">Q", 1 << 40),
    "a handshake and a message": GREETING + READY + b"\x00\x05hello",
    "a handshake and an empty message": GREETING + READY + b"\x00\x00",
    "a handshake and a hello that is none": GREETING + READY + b"\x00\x06\xc1Hxxxx",
}


def call(node):
    """Return a raw connection to the server of a node."""
    if node.address.startswith("ipc://"):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(node.address.removeprefix("ipc://"))
        return connection
    host, _, port = node.address.removeprefix("tcp://").partition(":")
    return socket.create_connection((host, int(port)))


def say(connection, words):
    """Send; after the handshake of ZMTP wait for the answer first. Blocks: the loop does not run meanwhile."""
    begins = GREETING + READY
    if words.startswith(begins):
        connection.settimeout(5)
        connection.sendall(begins)
        heard = b""
        while b"READY" not in heard:
            heard += connection.recv(1000)
            assert heard, "the handshake of ZMTP failed"
        words = words.removeprefix(begins)
    connection.sendall(words)


def as_frame(message):
    return b"\x02" + struct.pack(">Q", len(message)) + message


@contextmanager
def raw_dealer(address):
    """A zmq socket that speaks ZMTP and not our protocol on top of it."""
    context = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    dealer.setsockopt(zmq.LINGER, 0)
    dealer.connect(address)
    try:
        yield dealer
    finally:
        dealer.close()
        context.term()


async def frames_of(dealer):
    await until(lambda: dealer.getsockopt(zmq.EVENTS) & zmq.POLLIN)
    return dealer.recv_multipart()


def is_closed(connection):
    """True if the other side has ended a raw connection."""
    try:
        while data := connection.recv(4096, socket.MSG_DONTWAIT):
            assert data
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def hello_of(name="liar", **identity):
    fields = {"node": f"{name}-{os.urandom(4).hex()}", "name": name, "namespace": "contract"}
    return encode_hello(HELLO, Hello(Identity(**fields | identity)))


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE.keys())
async def test_garbage_is_dropped_and_counted_and_the_links_do_not_notice(nodes, garbage):
    server, client, near, far = await nodes.pair(connect_timeout_s=0.3)
    with call(server) as connection:
        say(connection, garbage)
        await until(lambda: is_closed(connection), "the connection is dropped")
    await until(lambda: server.counts.garbage_connections == 1, "it is counted")
    assert server.counts.handshakes_refused == 0
    near.send([b"ping"])
    far.send([b"pong"])
    await until(lambda: server.received and client.received)
    assert server.down == client.down == []
    assert server.up == [far]


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE.keys())
async def test_who_hangs_up_in_the_middle_of_garbage_is_counted_too(nodes, garbage):
    server, _, near, _ = await nodes.pair()
    with call(server) as connection:
        say(connection, garbage)
    await until(lambda: server.counts.garbage_connections == 1)
    near.send([b"still here"])
    await until(lambda: server.received)


async def test_a_failed_handshake_does_not_end_the_link_whose_descriptor_is_its_error_number(nodes):
    """A regression: the monitor gives the number of the error, and the link of that descriptor ended."""
    server, peer = await nodes.make("server"), await nodes.process()
    with ExitStack() as stack:
        while (free := os.dup(0)) < errno.ECONNRESET:
            stack.callback(os.close, free)
        os.close(free)
        await peer.call("connect", address=server.address)
        await until(lambda: server.up)
        assert os.readlink(f"/proc/self/fd/{errno.ECONNRESET}").startswith("socket:")
    for _ in range(20):
        with call(server) as connection:
            connection.sendall(GREETING[:20])
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await until(lambda: server.counts.garbage_connections == 20)
    assert server.down == []


async def test_hundreds_of_connections_that_say_nothing_are_dropped_while_links_work(nodes):
    server, client, near, _ = await nodes.pair(connect_timeout_s=0.5)
    server.on_received = lambda link, frames: link.send(frames)
    with ExitStack() as stack:
        crowd = []
        for _ in range(1000):
            try:
                crowd.append(stack.enter_context(call(server)))
            except BlockingIOError:  # the backlog of a unix socket is full until libzmq has accepted some
                await asyncio.sleep(0.001)
        for number in range(100):
            near.send([b"%d" % number])
        await until(lambda: len(client.received) == 100)
        await until(lambda: all(is_closed(connection) for connection in crowd), "all are dropped")
        await until(lambda: server.counts.garbage_connections == len(crowd))
    assert len(server.network._server._strangers) == 0
    assert server.down == []


async def test_a_hello_whose_connection_has_gone_makes_no_link_that_stays(nodes):
    """A regression: nobody ever said that it was down. The number of its descriptor may be another's by now."""
    server = await nodes.make("server")
    for _ in range(5):
        for _ in range(4):
            with call(server) as connection:
                say(connection, GREETING + READY + as_frame(hello_of()))
        time.sleep(0.05)  # noqa: ASYNC251  for libzmq's thread, while the loop does not run
        with ExitStack() as stack:
            late = [stack.enter_context(call(server)) for _ in range(4)]
            for connection in late:
                say(connection, GREETING + READY)
            await until(lambda: len(server.network._server._strangers) == 4)
            for connection in late:
                connection.sendall(as_frame(hello_of("late")))
            await until(
                lambda: [link.peer.name for link in server.network._server._links.values()] == ["late"] * 4
            )
        await until(lambda: server.counts.links == 0)
    assert len(server.up) == len(server.down)


async def test_a_dealer_that_says_no_hello_is_told_so_and_dropped(nodes):
    server, _, near, _ = await nodes.pair()
    with raw_dealer(server.address) as dealer:
        dealer.send_multipart([b"work", b"now"])
        (answer,) = await frames_of(dealer)
        assert answer[:2] == REFUSED
        assert decode_reason(answer) == "a hello must come first"
        await until(lambda: server.counts.garbage_connections == 1)
        assert server.counts.stray_messages == 1
    near.send([b"still here"])
    await until(lambda: server.received)


async def test_a_dealer_that_floods_without_hello_is_answered_once(nodes):
    server, _, near, _ = await nodes.pair()
    with raw_dealer(server.address) as dealer:
        for _ in range(200):
            dealer.send(b"x", zmq.NOBLOCK)
        await until(lambda: server.counts.stray_messages >= 200)
        (answer,) = await frames_of(dealer)
        assert answer[:2] == REFUSED
        assert not dealer.getsockopt(zmq.EVENTS) & zmq.POLLIN
    near.send([b"still here"])
    await until(lambda: server.received)


async def test_a_hello_with_more_frames_or_too_long_is_refused(nodes):
    server = await nodes.make(max_message_bytes=64 * 1024, shrink_message_bytes=0)
    for message, why in (
        ([hello_of(), b"more"], "a handshake has one frame"),
        ([hello_of(host="x" * 20_000)], "the limit is 16384"),
        ([HELLO + b"\x91\x00"], "cannot be read"),
        ([HELLO + msgspec.msgpack.encode({"v": [float("inf"), 0], "i": {}})], "cannot be read"),
    ):
        with raw_dealer(server.address) as dealer:
            dealer.send_multipart(message)
            (answer,) = await frames_of(dealer)
            assert answer[:2] == REFUSED
            assert why in decode_reason(answer)
    await until(lambda: server.counts.garbage_connections == 4)
    assert server.up == []


async def test_a_second_hello_on_a_link_ends_it_and_says_why(nodes):
    server, _, near, _ = await nodes.pair()
    with raw_dealer(server.address) as dealer:
        dealer.send(hello_of())
        (answer,) = await frames_of(dealer)
        assert decode_hello(answer).identity.node == server.identity.node
        assert answer[:2] == ACCEPTED
        dealer.send(hello_of())
        (answer,) = await frames_of(dealer)
        assert "second handshake" in decode_reason(answer)
        await until(lambda: server.down)
        assert "second handshake" in str(server.down[0][1])
    near.send([b"still here"])
    await until(lambda: server.received)


@pytest.mark.parametrize("frames", [1, 20], ids=["one frame", "many frames"])
async def test_a_peer_that_sends_more_than_the_limit_loses_its_link_and_no_other(nodes, frames):
    """It says in its hello that it knows no limit, so only the receiver is left to check."""
    server, _, near, far = await nodes.pair(max_message_bytes=64 * 1024, shrink_message_bytes=0)
    with raw_dealer(server.address) as dealer:
        dealer.send(hello_of())
        await frames_of(dealer)
        await until(lambda: len(server.up) == 2)
        dealer.send_multipart([bytes(200_000 // frames)] * frames)
        await until(lambda: server.down)
        assert [link for link, _ in server.down] == [server.up[1]]
        assert server.counts.links_broken == 1
        if frames > 1:  # libzmq itself drops a frame over the limit, before there is memory for it
            assert server.counts.oversized == 1
            (answer,) = await frames_of(dealer)
            assert "200,000 bytes; the limit here is 65,536" in decode_reason(answer)
    near.send([b"still here"])
    await until(lambda: server.received)
    assert far not in [link for link, _ in server.down]


async def test_a_server_that_sends_more_than_the_limit_loses_its_link(nodes):
    """The other direction: a ROUTER that lies to a client of ours."""
    client = await nodes.make(max_message_bytes=64 * 1024, shrink_message_bytes=0)
    context = zmq.Context()
    router = context.socket(zmq.ROUTER)
    router.setsockopt(zmq.LINGER, 0)
    address = f"ipc://{nodes.directory}/liar" if nodes.plane == "ipc" else "tcp://127.0.0.1:*"
    try:
        router.bind(address)
        dialling = asyncio.create_task(
            client.dial(router.getsockopt(zmq.LAST_ENDPOINT).rstrip(b"\0").decode())
        )
        key, _ = await frames_of(router)
        router.send_multipart([key, ACCEPTED + hello_of("liar")[2:]])
        link = await dialling
        router.send_multipart([key, *[bytes(10_000)] * 20])
        await until(lambda: client.down)
        assert "200,000 bytes; the limit here is 65,536" in str(client.error_of(link))
        assert client.client_counts.oversized == 1
        key, goodbye = await frames_of(router)
        assert "200,000 bytes" in decode_reason(goodbye)
    finally:
        router.close()
        context.term()
        (nodes.directory / "liar").unlink(missing_ok=True)


async def test_a_client_that_ignores_its_goodbye_is_cut_off(nodes):
    server = await nodes.make(linger_s=0.1)
    with raw_dealer(server.address) as dealer:
        dealer.send(hello_of())
        await frames_of(dealer)
        server.up[0].close()
        dealer.send(b"I am staying")
        await until(lambda: server.counts.stray_messages == 1)
        await until(lambda: len(server.network._server._strangers) == 0, "its connection is dropped")
    assert server.counts.garbage_connections == 0


async def test_a_peer_that_does_not_read_its_goodbye_loses_its_connection(nodes):
    settings = {
        "channel_buffer": 5,
        "linger_s": 0.1,
        "heartbeat_interval_s": 10.0,
        "heartbeat_timeout_s": 30.0,
    }
    peer, server = await nodes.process(**settings), await nodes.make(**settings)
    await peer.call("connect", address=server.address)
    link = server.up[0]
    peer.freeze()
    while not link.full:
        link.send([bytes(200_000)])
    link.close()
    await until(lambda: len(server.network._server._strangers) == 0, "the connection is dropped")
    peer.thaw()
    answer = await peer.call("count")
    while not answer["downs"]:
        answer = await peer.call("count")


async def test_a_server_that_hangs_up_during_the_handshake_is_no_route(nodes):
    """All happens while the loop does not run, so that every event waits when it looks."""
    from callboard.transports.errors import NoRoute

    client = await nodes.make(listen=False)
    family = socket.AF_UNIX if nodes.plane == "ipc" else socket.AF_INET
    path = str(nodes.directory / "brief")
    full = GREETING + command(b"READY", {b"Socket-Type": b"ROUTER"})
    for said in (b"", GREETING[:20], full, b"HTTP/1.1 400 Bad Request\r\n\r\n"):
        with socket.socket(family) as listener:
            listener.bind(path if nodes.plane == "ipc" else ("127.0.0.1", 0))
            listener.listen()
            place = listener.getsockname()
            address = f"ipc://{place}" if nodes.plane == "ipc" else f"tcp://127.0.0.1:{place[1]}"
            dialling = asyncio.create_task(client.dial(address))
            await until(lambda listener=listener: select.select([listener], [], [], 0)[0])
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(5)
                connection.recv(10, socket.MSG_WAITALL)
                connection.sendall(said)
                if said is full:
                    connection.recv(100)
            with pytest.raises(NoRoute) as caught:
                await dialling
            assert type(caught.value) is NoRoute
        if nodes.plane == "ipc":
            os.unlink(path)


@pytest.mark.parametrize(
    "middle", [[b"a message"], [b"\xc1S\x93\x90\x90\x90", b"head"], [b"\xc1Hxxxx"]], ids=str
)
async def test_what_comes_between_the_pieces_of_a_message_ends_the_link_with_the_reason(nodes, middle):
    server, _, near, far = await nodes.pair(shared_memory_bytes=0)
    first, *_ = pieces((b"head", bytes(3 << 20)))
    near._carrier.transmit(near, first)
    near._carrier.transmit(near, middle)
    await until(lambda: server.down)
    assert server.down[0][0] is far
    assert "between the pieces of another" in str(server.down[0][1])
    assert server.received == []


async def test_a_peer_that_announces_more_than_the_limit_in_pieces_loses_its_link(nodes):
    server, _, near, _ = await nodes.pair(shared_memory_bytes=0, max_message_bytes=1 << 20)
    first, *_ = pieces((b"head", bytes(3 << 20)))
    near._carrier.transmit(near, first)
    await until(lambda: server.down)
    assert "the limit here is 1,048,576" in str(server.down[0][1])
    assert server.counts.oversized == 1


async def test_a_message_that_ends_in_the_middle_of_its_pieces_is_not_delivered(nodes):
    server, _, near, _ = await nodes.pair(shared_memory_bytes=0)
    near.send([b"whole"])
    for piece in list(pieces((b"head", bytes(3 << 20))))[:-1]:
        near._carrier.transmit(near, piece)
    near.close()
    await until(lambda: server.down)
    assert server.received == [[b"whole"]]
