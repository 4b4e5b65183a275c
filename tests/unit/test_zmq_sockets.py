"""zmq sockets on the event loop: the edge-triggered descriptor loses nothing, whoever reads EVENTS."""

import asyncio
from contextlib import contextmanager, suppress
from itertools import pairwise

import pytest
import zmq

from callboard.transports.settings import NetworkSettings
from callboard.transports.zmq_sockets import (
    NOBLOCK,
    PER_TURN,
    ZERO_COPY_BYTES,
    Monitor,
    Watched,
    acquire_context,
    configure,
    receive_rest,
    release_context,
    send_frames,
)

PATIENCE_S = 20.0


async def until(condition):
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


@contextmanager
def pair(kind=zmq.PAIR, hwm=1000):
    """Two connected sockets; both ends of the pipe are in this thread, so nothing happens behind our back."""
    context = acquire_context()
    one, other = context.socket(kind), context.socket(zmq.PAIR if kind == zmq.PAIR else zmq.DEALER)
    for socket in (one, other):
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.SNDHWM, hwm)
        socket.setsockopt(zmq.RCVHWM, hwm)
    one.bind("inproc://test-zmq-sockets")
    other.connect("inproc://test-zmq-sockets")
    try:
        yield one, other
    finally:
        one.close()
        other.close()
        release_context()


def fill(socket):
    """Send until nothing more goes in; returns how many did."""
    count = 0
    try:
        while True:
            socket.send(b"x", NOBLOCK)
            count += 1
    except zmq.Again:
        return count


def empty(socket):
    while socket.getsockopt(zmq.EVENTS) & zmq.POLLIN:
        socket.recv(NOBLOCK)


async def test_what_arrived_before_the_watch_is_taken():
    with pair() as (one, other):
        other.send(b"early")
        got = []
        watched = Watched(one, lambda: got.append(one.recv(NOBLOCK)))
        await until(lambda: got == [b"early"])
        watched.close()


async def test_a_turn_takes_a_few_messages_and_lets_others_run():
    with pair() as (one, other):
        for number in range(10 * PER_TURN):
            other.send(b"%d" % number)
        got, seen_by_others = [], []
        watched = Watched(one, lambda: got.append(one.recv(NOBLOCK)))
        while len(got) < 10 * PER_TURN:
            seen_by_others.append(len(got))
            await asyncio.sleep(0)
        assert got == [b"%d" % number for number in range(10 * PER_TURN)]
        assert max(b - a for a, b in pairwise(seen_by_others)) <= 2 * PER_TURN
        watched.close()


async def test_room_that_comes_with_the_last_message_of_a_turn_is_reported():
    """A regression: the last look at EVENTS consumed the signal of the room, and nobody was told."""
    with pair(hwm=2) as (one, other):
        fill(one)
        got, rooms = [], []

        def receive():
            got.append(one.recv(NOBLOCK))
            if len(got) == PER_TURN:
                empty(other)  # now there is room, and nothing else will ever happen
            elif len(got) < PER_TURN:
                other.send(b"next")

        other.send(b"first")
        watched = Watched(one, receive, lambda: rooms.append(len(got)))
        await until(lambda: PER_TURN in rooms)
        watched.close()


async def test_a_send_in_vain_hides_no_message_and_no_room():
    with pair(hwm=2) as (one, other):
        got, rooms = [], []
        watched = Watched(one, lambda: got.append(one.recv(NOBLOCK)), lambda: rooms.append(None))
        await asyncio.sleep(0)
        for number in range(50):
            fill(one)
            other.send(b"%d" % number)
            with pytest.raises(zmq.Again):
                one.send(b"in vain", NOBLOCK)
            watched.after_stall()
            await until(lambda number=number: len(got) == number + 1)
            rooms.clear()
            empty(other)
            watched.after_stall()
            await until(lambda: rooms)
        watched.close()


async def test_a_send_hides_no_message():
    with pair() as (one, other):
        got = []
        watched = Watched(one, lambda: got.append(one.recv(NOBLOCK)))
        await asyncio.sleep(0)
        for number in range(200):
            other.send(b"%d" % number)
            one.getsockopt(zmq.EVENTS)  # as a send may do: the signal is consumed
            one.send(b"out")
            watched.after_send()
            await until(lambda number=number: len(got) == number + 1)
        watched.close()


async def test_a_callback_that_raises_stops_nothing_that_waits_behind():
    with pair() as (one, other):
        got, errors = [], []
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: errors.append(context["exception"])
        )

        def receive():
            got.append(one.recv(NOBLOCK))
            if got[-1] == b"stone":
                raise RuntimeError("stumbled")

        for message in (b"a", b"stone", b"b", b"stone", b"c"):
            other.send(message)
        watched = Watched(one, receive)
        await until(lambda: len(got) == 5)
        assert [str(error) for error in errors] == ["stumbled", "stumbled"]
        watched.close()


async def test_drain_takes_all_or_as_much_as_it_is_told_and_the_rest_follows():
    with pair() as (one, other):
        got = []
        watched = Watched(one, lambda: got.append(one.recv(NOBLOCK)))
        for number in range(50):
            other.send(b"%d" % number)
        watched.drain(7)
        assert len(got) == 7
        await until(lambda: len(got) == 50)
        for number in range(50):
            other.send(b"%d" % number)
        watched.drain()
        assert len(got) == 100
        watched.close()


async def test_a_closed_watch_calls_nobody_and_closing_it_again_is_nothing():
    with pair() as (one, other):
        got = []
        watched = Watched(one, lambda: got.append(one.recv(NOBLOCK)))
        other.send(b"late")
        watched.close()
        watched.close()
        watched.after_send()
        watched.after_stall()
        watched.drain()
        watched.turn()
        await asyncio.sleep(0)
        assert got == []
        assert one.closed


async def test_a_watch_that_closes_itself_while_it_receives_stops_there():
    with pair() as (one, other):
        got = []

        def receive():
            got.append(one.recv(NOBLOCK))
            watched.close()

        for _ in range(3):
            other.send(b"one")
        watched = Watched(one, receive)
        await until(lambda: one.closed)
        await asyncio.sleep(0)
        assert got == [b"one"]


def test_a_message_goes_and_comes_with_its_frames_large_ones_as_views():
    large = bytes(range(256)) * (ZERO_COPY_BYTES // 256)
    with pair() as (one, other):
        send_frames(one, (b"head", b"", large, memoryview(b"small"), memoryview(large).cast("d")))
        assert other.recv() == b"head"
        frames = receive_rest(other)
        assert [type(frame) for frame in frames] == [bytes, memoryview, bytes, memoryview]
        assert [bytes(frame) for frame in frames] == [b"", large, b"small", large]


def test_a_message_for_which_there_is_no_room_is_not_sent_in_part():
    with pair(zmq.ROUTER, hwm=2) as (router, dealer):
        dealer.send(b"hello")
        router.setsockopt(zmq.ROUTER_MANDATORY, 1)
        key = router.recv_multipart()[0]
        sent = 0
        with suppress(zmq.Again):
            while sent < 100:
                send_frames(router, (b"%d" % sent, b"more", bytes(ZERO_COPY_BYTES)), key)
                sent += 1
        assert 0 < sent < 100
        assert [dealer.recv_multipart()[0] for _ in range(sent)] == [b"%d" % number for number in range(sent)]
        assert not dealer.getsockopt(zmq.EVENTS) & zmq.POLLIN
        router.getsockopt(zmq.EVENTS)  # it sees the room when it looks
        send_frames(router, (b"now", b"whole"), key)
        assert dealer.recv_multipart() == [b"now", b"whole"]


def test_a_socket_gets_its_limits_from_the_settings():
    context = acquire_context()
    socket = context.socket(zmq.DEALER)
    configure(
        socket,
        NetworkSettings(
            linger_s=0.25,
            max_message_bytes=1 << 20,
            channel_buffer=7,
            heartbeat_interval_s=0.5,
            heartbeat_timeout_s=2.0,
        ),
    )
    found = [socket.getsockopt(getattr(zmq, name)) for name in ("LINGER", "MAXMSGSIZE", "SNDHWM", "RCVHWM")]
    assert found == [250, 1 << 20, 7, 0]
    # a peer that falls silent just after a probe is noticed when the next one has waited in vain
    assert socket.getsockopt(zmq.HEARTBEAT_IVL) + socket.getsockopt(zmq.HEARTBEAT_TIMEOUT) == 2000
    socket.close(0)
    release_context()


async def test_monitors_can_be_opened_and_closed_while_their_sockets_are_busy():
    """A regression: the loop waited for the I/O thread, which waited for room in the monitor's pair."""
    context = acquire_context()
    server = context.socket(zmq.ROUTER)
    server.setsockopt(zmq.LINGER, 0)
    port = server.bind_to_random_port("tcp://127.0.0.1")
    for _ in range(300):
        events = []
        dealer = context.socket(zmq.DEALER)
        dealer.setsockopt(zmq.LINGER, 0)
        monitor = Monitor(dealer, lambda kind, value, events=events: events.append(kind))
        dealer.connect(f"tcp://127.0.0.1:{port}")
        dealer.send(b"busy")
        if len(events) % 2:
            await asyncio.sleep(0)
        monitor.close()
        monitor.close()
        dealer.close(0)
    server.close(0)
    await asyncio.get_running_loop().run_in_executor(None, release_context)
