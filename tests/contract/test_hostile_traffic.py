"""Live attacks on real sockets: whatever comes, every ask of a friend is answered and memory stays bounded."""

import asyncio
import gc
import random
import resource
from contextlib import ExitStack, asynccontextmanager, suppress

import nats
import psutil
import pytest

from callboard.actors.node import Node
from callboard.testing.conformance.network import until
from callboard.transports.errors import TransportError
from callboard.transports.nats_subjects import Subjects
from callboard.transports.settings import NetworkSettings

from ..fuzz import shapes
from ..fuzz.source import Source
from ..fuzz.victim import Typed
from .raw_zmtp import GREETING, READY, call, frame, greet, hello_of, introduce, is_closed

MIB = 1024 * 1024
ROUNDS = 40
"""Of each attack; a few run at the same time."""
MOST_MEMORY = 200 * MIB
KINDS = (1, 1, 2, 3, 3, 4, 5, 6, 7, 8, 9, 10, 0, 200)


class Quick(Typed):
    """Nobody can keep it busy by asking for what it offers."""

    async def sleep(self) -> None:
        pass


# -- over tcp: each attack has a connection of its own, and blocks in a thread


def random_bytes(connection, dice):
    connection.sendall(dice.randbytes(dice.randrange(1, 5000)))


def garbage_after_the_greeting(connection, dice):
    connection.sendall(GREETING + dice.randbytes(dice.randrange(1, 3000)))


def garbage_frames(connection, dice):
    greet(connection)
    for _ in range(20):
        connection.sendall(frame(dice.randbytes(dice.randrange(0, 400)), more=dice.random() < 0.5))


def broken_handshakes(connection, dice):
    greet(connection)
    connection.sendall(frame(shapes.handshake(Source(dice.randbytes(200)))))


def garbage_batches(connection, dice):
    introduce(connection, namespace="default")
    for _ in range(20):
        frames = shapes.message(Source(dice.randbytes(300)), KINDS)
        whole = [frame(part, more=True) for part in frames[:-1]] + [frame(frames[-1])]
        connection.sendall(b"".join(whole))


def half_messages(connection, dice):
    introduce(connection, namespace="default")
    message = frame(dice.randbytes(100_000), more=True) * 3
    connection.sendall(message[: dice.randrange(len(message))])


def byte_by_byte(connection, dice):
    words = GREETING + READY + frame(hello_of(namespace="default")) + frame(dice.randbytes(50))
    for at in range(dice.randrange(len(words))):
        connection.sendall(words[at : at + 1])


ATTACKS = [
    random_bytes, garbage_after_the_greeting, garbage_frames, broken_handshakes, garbage_batches, half_messages,
    byte_by_byte,
]  # fmt: skip


def attack(address, how, seed):
    with suppress(OSError, AssertionError), call(address) as connection:  # it is thrown out, mostly
        connection.settimeout(10)
        how(connection, random.Random(seed))


@asynccontextmanager
async def friends(settings):
    """A node with an actor, and another that asks it."""
    victim = Node(name="victim", settings=settings)
    friend = Node(name="friend", settings=settings)
    try:
        await victim.start()
        await friend.start()
        await victim.spawn(Quick, name="typed.0")
        friend.add_location(victim.location("typed.0"))
        yield victim, friend.ref("typed.0", Quick)
    finally:
        await friend.close(grace_s=0)
        await victim.close(grace_s=0)


async def asks_while(ref, work):
    """Ask until ``work`` is done; each ask is answered. Returns by how much memory grew meanwhile."""
    process, patient = psutil.Process(), ref.options(deadline_s=60)
    gc.collect()
    before = most = process.memory_info().rss
    asked = 0
    while not work.done() or not asked:
        assert await patient.ask(Quick.add, asked & 7, 1) == (asked & 7) + 1
        asked += 1
        most = max(most, process.memory_info().rss)
    work.result()
    return most - before


@pytest.mark.parametrize("how", ATTACKS, ids=[how.__name__ for how in ATTACKS])
async def test_a_hostile_process_on_the_tcp_port_costs_a_friend_nothing(how):
    settings = NetworkSettings(request_plane="tcp", ipc=False, connect_timeout_s=1.0)
    async with friends(settings) as (victim, ref):

        async def attacks():
            for start in range(0, ROUNDS, 4):
                await asyncio.gather(
                    *(
                        asyncio.to_thread(attack, victim.address, how, seed)
                        for seed in range(start, start + 4)
                    )
                )

        assert await asks_while(ref, asyncio.create_task(attacks())) < MOST_MEMORY
        server = victim._network._server
        await until(lambda: server.statistics().links == 1, "only the friend has a link")
        await until(lambda: len(server._strangers) == 0, "who says nothing is dropped")
        assert victim.cells[1].takes_mail


# -- descriptors


@pytest.mark.parametrize("nodes", ["tcp"], indirect=True)
@pytest.mark.parametrize("blocked", [False, True], ids=["while it runs", "while its loop is blocked"])
async def test_strangers_who_take_every_descriptor_make_room_for_who_has_something_to_say(nodes, blocked):
    victim, friend = await nodes.process(connect_timeout_s=100.0), await nodes.make(listen=False)
    near = await friend.dial(victim.address)
    used = psutil.Process(victim.pid).num_fds()
    _, most = resource.prlimit(victim.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(victim.pid, resource.RLIMIT_NOFILE, (used + 100, most))
    with ExitStack() as stack:
        if blocked:
            victim.post("block", seconds=1.0)
        crowd = [stack.enter_context(call(victim.address)) for _ in range(300)]
        if blocked:
            await victim._answer()
        near.send([b"echo"])
        await until(lambda: friend.received)
        later = await nodes.make(listen=False, connect_timeout_s=60.0)  # it comes behind 300 others
        link = await later.dial(victim.address)
        link.send([b"echo"])
        await until(lambda: later.received)
        await until(lambda: sum(map(is_closed, crowd)) > 200, "those who waited longest are gone")
        await until(lambda: psutil.Process(victim.pid).num_fds() < used + 100, "there is room again")
    assert near.is_up


# -- over NATS: who may publish there may publish anything to every subject


def garbage_for_nats(dice):
    kind = dice.randrange(5)
    if kind == 0:
        return dice.randbytes(dice.randrange(0, 300))
    source = Source(dice.randbytes(300))
    if kind == 1:
        return shapes.handshake(source)
    if kind == 2:
        return shapes.request(source)
    if kind == 3:
        return shapes.piece(source) + b"".join(shapes.message(source, KINDS))
    return b"".join(shapes.message(source, KINDS))


async def test_a_client_that_publishes_garbage_to_every_subject_costs_a_friend_nothing(nats_server):
    settings = nats_server.network()
    async with friends(settings) as (victim, ref):
        client = await nats.connect(nats_server.url, token=nats_server.token)
        dice = random.Random(5)
        node = victim.address.removeprefix("nats://")
        prefix = f"{nats_server.prefix}.default"
        subjects = [
            node,
            f"{prefix}.typed.0",
            f"{prefix}.typed",
            "$SRV.PING",
            "$SRV.STATS.typed",
            "$SRV.X.y.z",
        ]
        inbox = Subjects(nats_server.prefix, "default").inbox(victim.id)
        subjects += [f"{inbox}.{tail}" for tail in ("1", "zz", "1.2.3.n", "1.2.3.a", "\u0663.1.2.n")]

        async def attacks():
            for number in range(3000):
                subject = dice.choice(subjects)
                reply = dice.choice(("", client.new_inbox(), f"{node}.a.b.c", "x.1.2.n"))
                headers = dice.choice((None, None, {"Status": "503"}, {"x": "y" * 200}))
                await client.publish(subject, garbage_for_nats(dice), reply=reply, headers=headers)
                if number % 50 == 0:
                    await client.flush()
            await client.flush()

        try:
            assert await asks_while(ref, asyncio.create_task(attacks())) < MOST_MEMORY
            assert victim.cells[1].takes_mail
        finally:
            with suppress(TransportError):
                await client.close()
