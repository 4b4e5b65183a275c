"""The fault proxy does to a byte stream what it is told, over TCP and unix sockets, and leaves nothing."""

import asyncio
import os
import socket
import threading
import time
from contextlib import asynccontextmanager

import pytest

from callboard.testing.conformance.network import until
from callboard.testing.fault_proxy import FaultProxy, Way
from callboard.testing.leaks import look, settled

LIMIT_S = 20.0


@pytest.fixture(params=["tcp", "unix"])
def kind(request):
    return request.param


@asynccontextmanager
async def through(kind, directory):
    """Yield a proxy, and both ends of one connection through it: who dialled, and who was dialled."""
    before = look(directory=directory)
    arrived, over = asyncio.Queue(), []

    async def accept(reader, writer):
        if over:
            writer.transport.abort()
        else:
            await arrived.put((reader, writer))

    if kind == "tcp":
        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        target = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        proxy = FaultProxy(target)
    else:
        server = await asyncio.start_unix_server(accept, directory / "target")
        proxy = FaultProxy(str(directory / "target"), listen=str(directory / "proxy"))
    async with asyncio.timeout(LIMIT_S):
        with proxy:
            near, far = await dial(proxy), await arrived.get()
            yield proxy, near, far
            over.append(True)
            for writer in [near[1], far[1]] + [arrived.get_nowait()[1] for _ in range(arrived.qsize())]:
                writer.transport.abort()
        server.close()
        (directory / "target").unlink(missing_ok=True)
        assert [str(item) for item in await settled(before, lambda: look(directory=directory))] == []


def dial(proxy):
    if ":" in proxy.endpoint:
        host, _, port = proxy.endpoint.partition(":")
        return asyncio.open_connection(host, int(port))
    return asyncio.open_unix_connection(proxy.endpoint)


async def test_bytes_and_the_end_of_the_stream_pass_both_ways(kind, tmp_path):
    async with through(kind, tmp_path) as (proxy, near, far):
        data = bytes(range(256)) * 4000
        near[1].write(data)
        assert await far[0].readexactly(len(data)) == data
        far[1].write(data[::-1])
        far[1].write_eof()
        assert await near[0].read() == data[::-1]
        near[1].write(b"and on")
        near[1].write_eof()
        assert await far[0].read() == b"and on"
        assert proxy.statistics()["bytes_up"] == len(data) + 6
        assert proxy.statistics()["bytes_down"] == len(data)


async def test_a_cut_ends_both_ends_and_the_next_connection_works(kind, tmp_path):
    async with through(kind, tmp_path) as (proxy, near, far):
        proxy.cut()
        for reader, _ in (near, far):
            try:
                assert await reader.read() == b""
            except ConnectionResetError:
                assert kind == "tcp"
        assert proxy.statistics()["connections"] == 0
        _, writer = await dial(proxy)
        writer.write(b"again")
        await until(lambda: proxy.statistics()["bytes_up"] == 5)
        writer.transport.abort()


@pytest.mark.parametrize("way", Way)
async def test_a_blackhole_holds_one_direction_and_its_end_until_it_is_healed(kind, tmp_path, way):
    async with through(kind, tmp_path) as (proxy, near, far):
        sender, receiver = (near, far) if way is Way.UP else (far, near)
        proxy.blackhole(way)
        sender[1].write(b"lost?")
        sender[1].write_eof()
        receiver[1].write(b"the other way")
        assert await sender[0].readexactly(13) == b"the other way"
        silent = asyncio.create_task(receiver[0].read())
        receiver[1].write(b"once more")
        assert await sender[0].readexactly(9) == b"once more"
        assert not silent.done()
        proxy.heal()
        assert await silent == b"lost?"


async def test_a_blackhole_both_ways_swallows_what_a_new_connection_says(kind, tmp_path):
    async with through(kind, tmp_path) as (proxy, _, _):
        proxy.blackhole()
        _, writer = await dial(proxy)
        writer.write(b"anybody?")
        await until(lambda: proxy.statistics()["accepted"] == 2)
        assert proxy.statistics()["bytes_up"] == 0
        writer.transport.abort()


async def test_delay_is_at_least_what_was_asked_for_and_keeps_the_order(kind, tmp_path):
    async with through(kind, tmp_path) as (proxy, near, far):
        proxy.delay(0.1)
        began = time.monotonic()
        for number in range(100):
            near[1].write(b"%04d" % number)
            await asyncio.sleep(0)
        assert await far[0].readexactly(400) == b"".join(b"%04d" % number for number in range(100))
        assert time.monotonic() - began >= 0.1


async def test_one_byte_at_a_time_hands_on_single_bytes(kind, tmp_path):
    async with through(kind, tmp_path) as (proxy, near, far):
        proxy.bytewise()
        sizes = set()
        while not sizes & {1, 2, 3}:  # how many have come together by now is up to the machine
            near[1].write(b"crumbs" * 100)
            heard = b""
            while len(heard) < 600:
                piece = await far[0].read(1000)
                sizes.add(len(piece))
                heard += piece
            assert heard == b"crumbs" * 100


async def test_it_goes_on_while_the_loop_of_the_test_is_blocked(kind, tmp_path):
    async with through(kind, tmp_path) as (proxy, near, _):
        os.write(near[1].get_extra_info("socket").fileno(), b"blocked")
        deadline = time.monotonic() + LIMIT_S
        while proxy.statistics()["bytes_up"] < 7:
            assert time.monotonic() < deadline
            time.sleep(0.001)  # noqa: ASYNC251 the loop must not run


def test_a_target_that_refuses_ends_the_connection(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with FaultProxy(f"127.0.0.1:{port}") as proxy:
        for _ in range(20):
            with pytest.raises(ConnectionResetError), socket.socket() as caller:  # noqa: PT012 in either
                caller.settimeout(LIMIT_S)
                caller.connect(("127.0.0.1", int(proxy.endpoint.partition(":")[2])))
                caller.recv(1)


def test_a_place_that_cannot_be_listened_on_is_an_error_and_leaves_no_thread(tmp_path):
    with pytest.raises(OSError):  # noqa: PT011 which one, the system decides
        FaultProxy("127.0.0.1:1", listen=str(tmp_path / "no" / "such")).start()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("fault proxy")]
    with pytest.raises(RuntimeError, match="start it first"):
        FaultProxy("127.0.0.1:1").cut()


def test_one_that_could_not_start_can_be_started_when_the_reason_is_gone(tmp_path):
    directory = tmp_path / "later"
    proxy = FaultProxy("127.0.0.1:1", listen=str(directory / "socket"))
    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            proxy.start()
    directory.mkdir()
    with proxy:
        assert (directory / "socket").is_socket()
    assert not (directory / "socket").exists()
