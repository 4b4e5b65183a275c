"""Each ``DYN_TCP_*`` setting, read from the environment, does to the tcp plane what it says."""

import asyncio
import hashlib
import platform
import re
import socket
import time
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import pytest
import zmq

from callboard.actors.actor import Actor
from callboard.actors.current import remaining_s
from callboard.actors.errors import DeadlineExceeded
from callboard.testing.conformance.network import PATIENCE_S, until
from callboard.transports.address import Address
from callboard.transports.base import Identity
from callboard.transports.errors import AddressInUse, Closed, ConnectTimeout, TooLarge
from callboard.transports.handshake import ACCEPTED, HELLO, Hello, encode_hello
from callboard.transports.settings import MIB, VARIABLES, NetworkSettings

only_tcp = pytest.mark.parametrize("nodes", ["tcp"], indirect=True)

PATIENT = {"heartbeat_interval_s": 10.0, "heartbeat_timeout_s": 30.0}
"""Nobody is taken for dead during the test."""


def env(variable, value):
    """What a variable of the environment sets, as arguments for a node."""
    name = VARIABLES[variable]
    return {name: getattr(NetworkSettings.from_env({variable: str(value)}), name)}


def memory(process, what):
    """Memory of a process in bytes: ``VmRSS`` what it has, ``VmHWM`` the most it has had."""
    text = Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(rf"^{what}:\s+(\d+) kB$", text, re.MULTILINE)[1]) * 1024


def forget_peak(process):
    """Let ``VmHWM`` begin again at what the process has now (proc_pid_clear_refs(5))."""
    Path(f"/proc/{process.pid}/clear_refs").write_text("5")


# -- DYN_TCP_RPC_HOST, DYN_TCP_RPC_PORT


@only_tcp
async def test_the_host_is_the_address_that_is_bound_and_given_to_others(nodes):
    server = await nodes.make(**env("DYN_TCP_RPC_HOST", "127.0.0.2"))
    client = await nodes.make(listen=False)
    host, port = Address.parse(server.address).host_port()
    assert host == "127.0.0.2"
    assert (await client.dial(server)).peer.node == server.identity.node
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0, "no other address is bound"


@only_tcp
async def test_the_port_is_bound_and_one_that_is_taken_is_named_with_both_ways_out(nodes):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        server = await nodes.make(start=False, **env("DYN_TCP_RPC_PORT", port))
        both = rf"port {port} is taken; set network\.port \(DYN_TCP_RPC_PORT\) to another one, or to 0"
        with pytest.raises(AddressInUse, match=both):
            await server.network.start()
    again = await nodes.make(**env("DYN_TCP_RPC_PORT", port))
    assert Address.parse(again.address).host_port() == ("127.0.0.1", port)


# -- DYN_TCP_MAX_MESSAGE_SIZE


@only_tcp
async def test_a_message_above_the_limit_is_refused_by_the_sender_with_the_variable(nodes):
    server, client, near, _ = await nodes.pair(
        **env("DYN_TCP_MAX_MESSAGE_SIZE", MIB), **env("DYN_TCP_SHRINK_MESSAGE_SIZE", 0)
    )
    with pytest.raises(
        TooLarge, match=r"1,048,577 bytes exceeds the limit of 1,048,576.*DYN_TCP_MAX_MESSAGE"
    ):
        near.send([bytes(MIB + 1)])
    near.send([bytes(MIB)])
    await until(lambda: server.received)
    assert client.client_counts.messages_sent == 1


@only_tcp
async def test_a_receiver_takes_no_memory_for_a_message_above_its_limit(nodes):
    """The sender breaks the rules, and is the same in both halves: only the limit of the receiver differs."""
    size = 100 * MIB
    strict = await nodes.process(**env("DYN_TCP_MAX_MESSAGE_SIZE", MIB), shrink_message_bytes=0, **PATIENT)
    forget_peak(strict)
    before = memory(strict, "VmHWM")
    async with lawless(strict) as sender:
        sender.send(bytes(size), copy=False)
        await until_state(strict, lambda state: state["downs"])
    grown = memory(strict, "VmHWM") - before
    assert grown < size / 10, f"{grown / MIB:.0f} MiB"
    assert (await strict.call("look"))["count"] == 0

    generous = await nodes.process(**env("DYN_TCP_MAX_MESSAGE_SIZE", 2 * size), **PATIENT)
    forget_peak(generous)
    before = memory(generous, "VmHWM")
    async with lawless(generous) as sender:
        sender.send(bytes(size), copy=False)
        await until_state(generous, lambda state: state["count"] == 1)
    assert memory(generous, "VmHWM") - before > size / 2, "so the measure sees what it is meant to see"


@asynccontextmanager
async def lawless(process):
    """A raw zmq socket that has shaken hands with a process and obeys no limit."""
    context = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    dealer.setsockopt(zmq.LINGER, 0)
    dealer.setsockopt(zmq.RECONNECT_IVL, 1_000_000_000)
    dealer.connect(process.address)
    try:
        stranger = Identity(node="lawless", name="lawless", namespace="contract")
        dealer.send(encode_hello(HELLO, Hello(stranger)))
        await until(lambda: dealer.getsockopt(zmq.EVENTS) & zmq.POLLIN)
        assert dealer.recv()[:2] == ACCEPTED
        yield dealer
    finally:
        dealer.close()
        context.term()


async def until_state(process, holds):
    """Ask a process for its state until it is the wanted one, and return it."""
    deadline_s = time.monotonic() + PATIENCE_S
    while True:
        state = await process.call("look")
        if holds(state):
            return state
        assert time.monotonic() < deadline_s, state
        await asyncio.sleep(0.01)


# -- DYN_TCP_SHRINK_MESSAGE_SIZE


async def kept_after_large_messages(nodes, setting):
    """How much more memory a receiver has when large messages have come and gone."""
    size, count = 12 * MIB, 20
    peer = await nodes.process(**setting, **PATIENT)
    client = await nodes.make(listen=False, **PATIENT)
    link = await client.dial(peer.address)
    link.send([b"echo"])
    await until(lambda: client.received)
    before = memory(peer, "VmRSS")
    for number in range(count):
        await until(lambda: not link.full)
        link.send([b"%06d" % number + bytes(size)])
    await until_state(peer, lambda state: state["count"] == count)
    assert memory(peer, "VmHWM") - before > size, "so it has held them"
    return lambda: memory(peer, "VmRSS") - before, size


@only_tcp
async def test_memory_of_messages_above_the_shrink_size_goes_back_to_the_system(nodes):
    kept, size = await kept_after_large_messages(nodes, env("DYN_TCP_SHRINK_MESSAGE_SIZE", MIB))
    await until(lambda: kept() < size / 2, "memory of large messages goes back")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told what to keep")
@only_tcp
async def test_memory_of_messages_below_the_shrink_size_is_kept_for_the_next(nodes):
    """That is what makes them fast: fresh memory costs a page fault for every 4 KiB."""
    kept, size = await kept_after_large_messages(nodes, env("DYN_TCP_SHRINK_MESSAGE_SIZE", 32 * MIB))
    assert kept() > size / 2


# -- DYN_TCP_REQUEST_TIMEOUT


class Patience(Actor):
    """Answers never, or how long it may take."""

    async def never(self) -> None:
        """Wait for ever."""
        await asyncio.Event().wait()

    async def left_s(self) -> float | None:
        """Time that is left for the answer."""
        return remaining_s(time.monotonic())


@pytest.mark.parametrize("remote", ["tcp"], indirect=True)
async def test_the_request_timeout_ends_an_ask_that_names_no_deadline(remote):
    hasty = await remote.node("hasty", **env("DYN_TCP_REQUEST_TIMEOUT", "0.2"))
    patient = await remote.node("patient", **env("DYN_TCP_REQUEST_TIMEOUT", "500"))
    await remote.spawn(Patience)
    with pytest.raises(DeadlineExceeded):
        await hasty.ref("a.0", Patience).ask(Patience.never)
    assert 60 < await patient.ref("a.0", Patience).ask(Patience.left_s) <= 500
    own = hasty.ref("a.0", Patience).options(deadline_s=300)
    assert 60 < await own.ask(Patience.left_s) <= 300, "the deadline of the ask goes first"


# -- DYN_TCP_POOL_SIZE


@only_tcp
async def test_the_pool_grows_with_its_use_and_shrinks_to_its_size_when_idle(nodes):
    servers = [await nodes.make(f"server{number}") for number in range(6)]
    client = await nodes.make(listen=False, **env("DYN_TCP_POOL_SIZE", 2))
    in_use = True
    client.is_idle = lambda _: not in_use
    links = [await client.dial(server) for server in servers]
    assert client.client_counts.links == len(links) == 6
    for link in links:
        link.send([b"in use"])
    await until(lambda: all(server.received for server in servers))
    assert client.down == [], "links in use are never closed"
    in_use = False
    await until(lambda: client.client_counts.links == 2)
    assert [link for link, _ in client.down] == links[:4], "the longest idle goes first"
    assert all(isinstance(error, Closed) for _, error in client.down)
    await until(lambda: all(server.down for server in servers[:4]))
    await client.dial(servers[0])
    assert client.client_counts.links == 3, "and it grows again"


# -- DYN_TCP_CONNECT_TIMEOUT


@only_tcp
async def test_the_connect_timeout_fires_where_packets_vanish(nodes):
    """A listener whose backlog is full drops what else comes, as a firewall does; libzmq would try for minutes."""
    patient = await nodes.make(listen=False, **env("DYN_TCP_CONNECT_TIMEOUT", "1000"))
    hasty = await nodes.make(listen=False, **env("DYN_TCP_CONNECT_TIMEOUT", "0.3"))
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            caller = stack.enter_context(socket.socket())
            caller.setblocking(False)
            caller.connect_ex(listener.getsockname())
        address = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        waits = asyncio.create_task(patient.dial(address))
        await asyncio.sleep(0)
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(ConnectTimeout, match=r"no handshake within 0\.3 s .*DYN_TCP_CONNECT_TIMEOUT"):
                await hasty.dial(address)
        assert not waits.done(), "who began earlier and has more time still tries"
        await patient.network.close()
        with pytest.raises(Closed):
            await waits
    assert hasty.client_counts.links == 0


# -- DYN_TCP_CHANNEL_BUFFER


@only_tcp
async def test_the_channel_buffer_is_how_much_is_queued_before_a_link_is_full_and_nothing_is_lost(nodes):
    taken = {}
    for buffer in (5, 100):
        setting = env("DYN_TCP_CHANNEL_BUFFER", buffer)
        peer = await nodes.process(**setting, **PATIENT)
        client = await nodes.make(listen=False, **setting, **PATIENT)
        link = await client.dial(peer.address)
        peer.freeze()
        digest, sent = hashlib.sha256(), 0
        while not link.full:
            message = b"%06d" % sent + bytes(MIB)
            link.send([message])
            digest.update(message)
            sent += 1
            await asyncio.sleep(0.002)  # what the kernel still takes has left the queue
            assert sent < 1000, "the queue is not bounded"
        peer.thaw()
        await until(lambda link=link: not link.full)
        state = await until_state(peer, lambda state, sent=sent: state["count"] == sent)
        assert state["digest"] == digest.hexdigest(), "every message, once, in order"
        taken[buffer] = sent
    assert taken[5] >= 5
    assert taken[100] >= 100
    assert taken[100] - taken[5] > 50, taken
