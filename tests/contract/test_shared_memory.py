"""Shared memory between processes of one host: death of either side leaks nothing, and a hostile peer gets nowhere."""

import asyncio
import fcntl
import gc
import mmap
import os
import secrets
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from callboard.testing.conformance.network import until
from callboard.transports import shared_memory
from callboard.transports.segment import (
    ADD_SEALS,
    HEAD_BYTES,
    SEALS,
    TOKEN_BYTES,
    OwnMemory,
    Unusable,
    open_offer,
)
from callboard.transports.segment_pool import FREE, LEASED, TAKEN
from callboard.transports.shared_memory import ANSWER, SHARED

KIB = 1024
MIB = 1024 * KIB

on = pytest.mark.parametrize("nodes", ["ipc", "tcp", "nats"], indirect=True)
SOAK = bool(os.environ.get("CALLBOARD_SOAK"))
PATIENT = {"heartbeat_interval_s": 10.0, "heartbeat_timeout_s": 30.0}


def pool():
    return next(iter(shared_memory._Keeper._kept.values())).pool


def mapped():
    """Segments that are mapped in this process, each once per mapping."""
    return sum("/memfd:callboard" in line for line in Path("/proc/self/maps").read_text().splitlines())


async def shared(link, receiver, data):
    """Send until it goes by shared memory."""
    while not link_counts(link).get("shared_frames"):
        before = len(receiver.received)
        link.send([b"warm", data])
        await until(lambda before=before: len(receiver.received) > before)


def link_counts(link):
    return link._statistics.extra


# -- what happens to memory


@on
async def test_a_large_frame_is_seen_where_the_sender_has_put_it(nodes):
    server, _, near, _ = await nodes.pair()
    data = os.urandom(MIB)
    await shared(near, server, data)
    assert server.received[-1] == [b"warm", data]
    assert len(pool().segments) == 1
    before = server.counts.messages_received
    seen = []
    server.on_received = lambda link, frames: seen.append(frames[1])
    near.send([b"head", data])
    await until(lambda: seen)
    (segment,) = pool().segments.values()
    assert segment.leased == 1
    assert seen[0] == data
    seen.clear()
    gc.collect()
    assert segment.leased == 0
    assert server.counts.messages_received == before + 1


@on
async def test_a_slice_or_an_array_of_a_view_keeps_the_memory_too(nodes):
    import numpy as np

    server, _, near, _ = await nodes.pair()
    await shared(near, server, bytes(MIB))
    seen = []
    server.on_received = lambda link, frames: seen.append(np.frombuffer(frames[1], np.uint8)[1000:2000])
    near.send([b"head", b"\1" * MIB])
    await until(lambda: seen)
    for number in range(2, 40):
        near.send([b"more", bytes((number,)) * MIB])
    await until(lambda: len(seen) == 39)
    assert [int(array.sum()) for array in seen] == [1000 * number for number in range(1, 40)]
    seen.clear()
    gc.collect()
    assert not any(segment.leased for segment in pool().segments.values())


@on
async def test_without_agreement_nothing_is_shared_and_everything_arrives(nodes):
    server, client = await nodes.make(shared_memory_bytes=0), await nodes.make()
    near = await client.dial(server)
    for _ in range(5):
        near.send([b"head", bytes(MIB)])
    await until(lambda: len(server.received) == 5)
    assert not shared_memory._Keeper._kept
    assert mapped() == 0


@on
async def test_a_peer_that_cannot_open_the_memory_gets_everything_over_the_link(nodes, monkeypatch):
    def cannot(offer):
        raise Unusable("it is forbidden")

    monkeypatch.setattr(shared_memory, "open_offer", cannot)
    server, client, near, _ = await nodes.pair()
    for number in range(20):
        near.send([b"%d" % number, bytes(MIB)])
        await until(lambda number=number: len(server.received) == number + 1)
    assert [frames[0] for frames in server.received] == [b"%d" % number for number in range(20)]
    counts = link_counts(near)
    assert (counts["shared_refusals"], counts.get("shared_frames", 0)) == (1, 0)
    assert client.down == []


@on
async def test_pages_of_idle_memory_go_back_to_the_system(nodes, monkeypatch):
    monkeypatch.setattr(shared_memory, "IDLE_S", 0.05)
    server, _, near, _ = await nodes.pair()
    await shared(near, server, os.urandom(MIB))
    (segment,) = pool().segments.values()
    blocks = os.fstat(segment.memory._fd).st_blocks
    assert blocks * 512 >= MIB
    await until(lambda: os.fstat(segment.memory._fd).st_blocks * 512 <= HEAD_BYTES)
    near.send([b"again", b"x" * MIB])
    await until(lambda: server.received[-1] == [b"again", b"x" * MIB])
    assert list(pool().segments.values()) == [segment]


@on
async def test_links_that_come_and_go_with_views_held_do_not_make_the_pool_grow(nodes):
    server, client = (
        await nodes.make(shared_memory_bytes=64 * MIB),
        await nodes.make(shared_memory_bytes=64 * MIB),
    )
    other = await nodes.make()
    stays = await other.dial(server)
    await shared(stays, server, bytes(MIB))
    held = []
    server.on_received = lambda link, frames: held.append(frames)
    for _ in range(10):
        near = await client.dial(server)
        for _ in range(4):
            count = len(held)
            near.send([b"head", bytes(MIB)])
            await until(lambda count=count: len(held) > count)
        near.close()
        await until(lambda: client.down)
        client.down.clear()
        assert pool().total_bytes <= 64 * MIB
    held.clear()
    gc.collect()
    stays.send([b"head", bytes(MIB)])
    await until(lambda: held)
    held.clear()


# -- death


@on
@pytest.mark.timeout(300)
async def test_death_of_sender_or_receiver_while_memory_is_leased_leaks_nothing(nodes):
    """Each peer holds slots of ours, and we hold views of its, when it is killed; 50 deaths in a soak."""
    beats = PATIENT | {"heartbeat_interval_s": 1.0}  # a death is heard on NATS with the next one
    rounds, at_once = 10 if SOAK else 4, 5 if SOAK else 3
    client, stays = await nodes.make(**beats), await nodes.make(**beats)
    near = await client.dial(stays)
    await shared(near, stays, bytes(MIB))
    data, sizes = os.urandom(MIB), []
    for _ in range(rounds):
        peers = await asyncio.gather(*(nodes.process(**beats) for _ in range(at_once)))
        views = []
        client.keeps = False
        client.on_received = lambda link, frames, views=views: views.append(frames[1])
        for peer in peers:
            link = await client.dial(peer.address)
            for _ in range(6):
                count = len(views)
                link.send([b"echo", data])
                await until(lambda views=views, count=count: len(views) > count)
                link.send([b"hold", data])
            peer.post("block", seconds=30)  # and what follows is taken by nobody
            if peer is peers[-1]:  # or delivered to nobody: it is dead before we hear of it
                peer.kill()
                os.waitid(os.P_PID, peer.pid, os.WEXITED | os.WNOWAIT)
            link.send([b"hold", data])
        for peer in peers[:-1]:
            peer.kill()
        await until(lambda: len(client.down) == at_once)
        assert [view == data for view in views] == [True] * (6 * at_once)
        views.clear()
        client.forget()
        gc.collect()
        sizes.append((pool().total_bytes, mapped()))
    assert max(bytes_lent for bytes_lent, _ in sizes) <= 16 * MIB
    assert max(mappings for _, mappings in sizes) <= 4
    client.on_received = lambda link, frames: None
    count = len(stays.received)
    for _ in range(20):
        near.send([b"more", data])
    await until(lambda: len(stays.received) == count + 20)
    assert not any(segment.leased for segment in pool().segments.values())
    assert not any("callboard" in name for name in os.listdir("/dev/shm"))


async def test_the_view_in_a_forked_child_does_not_free_the_slot_of_its_parent():
    memory, peer = made()
    view = leased(memory, peer)
    pid = os.fork()
    if pid == 0:
        del view
        gc.collect()
        os._exit(0)
    os.waitpid(pid, 0)
    assert memory.states[0] == TAKEN
    del view
    assert memory.states[0] == FREE
    memory.close()


# -- offers of a hostile peer


def made():
    memory = OwnMemory(256 * KIB, 4)
    return memory, open_offer(memory.offer(1))


def leased(memory, peer, slot=0):
    memory.states[slot] = LEASED
    memory.write(slot, memoryview(b"data"))
    return peer.lease(slot, 4)


def offer_of(path_or_fd, **changes):
    memory = OwnMemory(256 * KIB, 4)
    offer = memory.offer(1)._replace(**{"fd": path_or_fd, **changes})
    memory.close()
    return offer


def memfd(size, *, seals, token=b"", name="callboard"):
    fd = os.memfd_create(name, os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    os.pwrite(fd, token, 0)
    fcntl.fcntl(fd, ADD_SEALS, seals)
    return fd


TOTAL = HEAD_BYTES + 4 * 256 * KIB
TOKEN = secrets.token_bytes(TOKEN_BYTES)


def a_fifo(directory):
    os.mkfifo(directory / "fifo")
    return os.open(directory / "fifo", os.O_RDWR | os.O_NONBLOCK)


def a_file(directory):
    (directory / "memfd:callboard").write_bytes(TOKEN + bytes(TOTAL - TOKEN_BYTES))
    return os.open(directory / "memfd:callboard", os.O_RDWR)


HOSTILE = {
    "a fifo": a_fifo,
    "a file": a_file,
    "a device": lambda _: os.open("/dev/zero", os.O_RDWR),
    "a socket": lambda _: socket.socket().detach(),
    "memory of another name": lambda _: memfd(TOTAL, seals=SEALS, token=TOKEN, name="other"),
    "memory that could shrink": lambda _: memfd(TOTAL, seals=0, token=TOKEN),
    "memory that could grow": lambda _: memfd(TOTAL, seals=2, token=TOKEN),
    "memory of another size": lambda _: memfd(TOTAL - 4096, seals=SEALS, token=TOKEN),
    "memory with another token": lambda _: memfd(TOTAL, seals=SEALS, token=bytes(TOKEN_BYTES)),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_an_offer_that_leads_elsewhere_opens_nothing_and_does_not_wait(what, tmp_path):
    fd = HOSTILE[what](tmp_path)
    before = len(os.listdir("/proc/self/fd"))
    try:
        with pytest.raises(Unusable):
            open_offer(offer_of(fd, token=TOKEN))
    finally:
        os.close(fd)
    assert len(os.listdir("/proc/self/fd")) == before - 1
    assert mapped() == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"pid": 1 << 40}, {"pid": -1}, {"pid": 0}, {"fd": -1}, {"fd": 1 << 62}, {"slots": 0}, {"slots": 1 << 20},
        {"slots": -4}, {"slot_bytes": 0}, {"slot_bytes": -(1 << 20)}, {"slot_bytes": 1 << 62}, {"token": b""},
    ],
    ids=str,
)  # fmt: skip
def test_an_offer_with_senseless_numbers_opens_nothing(changes):
    memory = OwnMemory(256 * KIB, 4)
    try:
        with pytest.raises(Unusable):
            open_offer(memory.offer(1)._replace(**changes))
    finally:
        memory.close()
    assert mapped() == 0


def test_the_size_of_what_was_opened_cannot_change_any_more():
    memory, peer = made()
    with pytest.raises(PermissionError):
        os.ftruncate(memory._fd, 0)
    with pytest.raises(PermissionError):
        fcntl.fcntl(memory._fd, ADD_SEALS, 0x0008)
    memory.close()
    assert isinstance(peer.memory, mmap.mmap)


@pytest.mark.parametrize(("slot", "length"), [(-1, 4), (4, 4), (0, 0), (0, -1), (0, 256 * KIB + 1), (1, 4)])
def test_a_place_outside_or_not_leased_is_refused(slot, length):
    memory, peer = made()
    memory.states[0] = LEASED
    with pytest.raises(ValueError, match="slot"):
        peer.lease(slot, length)
    memory.close()


def test_one_lease_cannot_be_taken_twice():
    memory, peer = made()
    view = leased(memory, peer)
    with pytest.raises(ValueError, match="not leased"):
        peer.lease(0, 4)
    assert bytes(view) == b"data"
    memory.close()


NONSENSE = {
    "a word that cannot be read": lambda _: [SHARED + b"\xc1", b"head"],
    "an answer that cannot be read": lambda _: [ANSWER + b"\x93", b""],
    "a segment that was not offered": lambda _: [pack([(1, 99, 0, 10)]), b"head"],
    "a place beyond the segment": lambda n: [pack([(1, n, 999, 10)]), b"head"],
    "more than a slot holds": lambda n: [pack([(1, n, 0, 1 << 24)]), b"head"],
    "a slot that is not leased": lambda n: [pack([(1, n, 3, 10)]), b"head"],
    "a frame beyond the message": lambda n: [pack([(7, n, 3, 10)]), b"head"],
    "the first frame": lambda n: [pack([(0, n, 3, 10)]), b"head"],
    "more than a message may hold": lambda n: [pack([(1, n, 3, 1 << 40)]), b"head"],
    "a negative length": lambda n: [pack([(1, n, 3, -5)]), b"head"],
    "many offers": lambda _: [pack([], [tuple(offer_of(3))] * 100), b"head"],
}


def pack(leases, offers=(), gone=()):
    return SHARED + shared_memory._encode((leases, list(offers), list(gone)))


def say(nodes, link, frames):
    """Send as it is what a link would not send."""
    if nodes.plane == "nats":
        link._send_own(frames)
    else:
        link._carrier.transmit(link, frames)


@on
@pytest.mark.parametrize("what", NONSENSE)
async def test_a_senseless_word_about_shared_memory_ends_its_link_with_the_reason_and_no_other(nodes, what):
    server, _, near, far = await nodes.pair()
    other = await (await nodes.make()).dial(server)
    await shared(near, server, bytes(MIB))
    (number,) = pool().segments
    before = len(server.received)
    say(nodes, near, NONSENSE[what](number))
    await until(lambda: server.down)
    assert server.down[0][0] is far
    assert "the peer" in str(server.down[0][1])
    assert len(server.received) == before
    other.send([b"alive"])
    await until(lambda: server.received[before:] == [[b"alive"]])


@on
async def test_an_offer_that_leads_nowhere_costs_a_link_its_shared_memory_only(nodes, tmp_path):
    server, client, near, _ = await nodes.pair()
    fd = a_fifo(tmp_path)
    offers = [offer_of(fd, number=number) for number in range(1000, 1003)]
    message = [pack([], [tuple(offer) for offer in offers]), b"head", b"rest"]
    say(nodes, near, message)
    await until(lambda: server.received == [[b"head", b"rest"]])
    os.close(fd)
    await shared_or_not(near, server)
    assert client.down == server.down == []


async def shared_or_not(near, server):
    for number in range(3):
        near.send([b"large", bytes(MIB)])
        await until(lambda number=number: len(server.received) == number + 2)


@on
async def test_a_peer_of_another_host_is_not_offered_anything(nodes, monkeypatch):
    server = await nodes.make()
    monkeypatch.setattr(shared_memory, "_feature", lambda: "shm1:another")
    client = await nodes.make()
    near = await client.dial(server)
    assert any(feature.startswith("shm1:") for feature in near.peer.features)
    near.send([b"head", bytes(MIB)])
    await until(lambda: server.received)
    assert not link_counts(near)
    assert replace(near.peer, features=()) == server.identity
    await asyncio.sleep(0)


@on
async def test_a_peer_that_frees_what_it_was_not_given_ends_no_more_than_its_link(nodes):
    server, client, near, _ = await nodes.pair()
    await shared(near, server, bytes(MIB))
    sharing = near._shared if nodes.plane == "nats" else near.shared
    frames = sharing.export((b"head", b"1" * MIB))
    assert sharing.restore(frames) == (b"head", b"1" * MIB)
    (segment,) = pool().segments.values()
    for slot in range(len(segment.owners)):
        segment.memory.states[slot] = FREE
    assert sharing.restore(frames) == frames
    pool()._make_room(pool().limit_bytes)
    assert sharing.restore(frames) == frames
    near.close()
    await until(lambda: client.down)
