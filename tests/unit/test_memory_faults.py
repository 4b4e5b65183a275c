"""The faults of the memory plane do what they say, and nothing else."""

import asyncio

import pytest

from callboard.transports.base import Identity
from callboard.transports.errors import Broken, ConnectTimeout, LinkFull
from callboard.transports.memory import MemoryClient, MemoryServer
from callboard.transports.settings import NetworkSettings


class Recorder:
    def __init__(self):
        self.up, self.received, self.writable, self.down = [], [], [], []

    def link_up(self, link):
        self.up.append(link)

    def link_received(self, link, frames):
        self.received.append(bytes(frames[0]))

    def link_writable(self, link):
        self.writable.append(link)

    def link_down(self, link, error):
        self.down.append(error)

    def link_idle(self, link):
        return True


class World:
    """A server, a client, and the link between them."""

    async def open(self, **settings):
        chosen = NetworkSettings(request_plane="memory", connect_timeout_s=0.1, **settings)
        self.there, self.here = Recorder(), Recorder()
        self.server = MemoryServer(Identity(node="s", name="server", namespace="n"), self.there, chosen)
        self.client = MemoryClient(Identity(node="c", name="client", namespace="n"), self.here, chosen)
        await self.server.start()
        self.faults = self.server.faults
        self.near = await self.client.connect(self.server.address)
        self.far = self.there.up[0]
        return self

    def send(self, *messages):
        for message in messages:
            self.near.send([message])

    async def close(self):
        await self.client.close()
        await self.server.close()


async def until(condition):
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0)


async def turns(count=20):
    for _ in range(count):
        await asyncio.sleep(0)


async def test_without_faults_messages_arrive_in_order():
    world = await World().open()
    world.send(b"1", b"2", b"3")
    world.far.send([b"back"])
    await until(lambda: len(world.there.received) == 3 and world.here.received)
    assert world.there.received == [b"1", b"2", b"3"]
    await world.close()


async def test_delay_holds_each_message_for_its_own_time_and_keeps_the_order():
    world = await World().open()
    loop = asyncio.get_running_loop()
    arrived = {}
    record = world.there.link_received
    world.there.link_received = lambda link, frames: (
        arrived.setdefault(frames[0], loop.time()),
        record(link, frames),
    )
    world.faults.delay_s = 0.1
    sent = {}
    for message in (b"1", b"2", b"3"):
        sent[message] = loop.time()
        world.send(message)
        await asyncio.sleep(0.04)
    await until(lambda: len(world.there.received) == 3)
    assert world.there.received == [b"1", b"2", b"3"]
    assert all(arrived[message] - sent[message] > 0.1 - 1e-6 for message in sent)  # of large numbers
    await world.close()


async def test_a_delayed_message_is_not_overtaken_when_the_delay_is_taken_back():
    world = await World().open()
    world.faults.delay_s = 0.05
    world.send(b"slow")
    world.faults.delay_s = 0.0
    world.send(b"quick")
    await until(lambda: len(world.there.received) == 2)
    assert world.there.received == [b"slow", b"quick"]
    await world.close()


async def test_drop_loses_what_it_is_told_to_in_both_directions():
    world = await World().open()
    world.faults.drop = lambda frames: b"x" in frames[0]
    world.send(b"1", b"x2", b"3")
    world.far.send([b"x"])
    world.far.send([b"kept"])
    await until(lambda: len(world.there.received) == 2 and world.here.received)
    assert (world.there.received, world.here.received) == ([b"1", b"3"], [b"kept"])
    await world.close()


async def test_reorder_turns_the_messages_of_one_turn_round():
    world = await World().open()
    world.faults.reorder = True
    world.send(b"1", b"2", b"3")
    await until(lambda: len(world.there.received) == 3)
    world.send(b"4")
    await until(lambda: len(world.there.received) == 4)
    assert world.there.received == [b"3", b"2", b"1", b"4"]
    await world.close()


async def test_a_cut_breaks_both_ends_and_loses_what_waits():
    world = await World().open()
    world.send(b"lost")
    world.server.cut()
    await turns()
    assert [type(error) for error in world.here.down + world.there.down] == [Broken, Broken]
    assert "the link was cut" in str(world.here.down[0])
    assert world.there.received == []
    with pytest.raises(Broken, match="the link was cut"):
        world.send(b"more")
    fresh = await world.client.connect(world.server.address)
    assert fresh is not world.near
    await world.close()


async def test_a_blackhole_answers_nobody_and_swallows_until_it_ends():
    world = await World().open()
    world.faults.blackhole = True
    world.send(b"1")
    other = MemoryClient(
        Identity(node="o", name="other", namespace="n"), Recorder(), world.client.side.settings
    )
    with pytest.raises(ConnectTimeout, match=r"within 0\.1 s"):
        await other.connect(world.server.address)
    assert world.there.received == []
    world.server.resume()
    await until(lambda: world.there.received == [b"1"])
    await other.close()
    await world.close()


async def test_a_stalled_link_fills_up_and_is_writable_again_when_it_resumes():
    world = await World().open(channel_buffer=3)
    world.faults.stalled = True
    world.send(b"1", b"2", b"3")
    await turns()
    assert world.near.full
    assert world.there.received == []
    with pytest.raises(LinkFull, match="3 messages wait"):
        world.send(b"4")
    assert world.client.statistics().stalls == 1
    world.server.resume()
    await until(lambda: world.here.writable == [world.near])
    assert world.there.received == [b"1", b"2", b"3"]
    await world.close()


async def test_what_a_stalled_link_holds_is_lost_when_it_closes():
    world = await World().open()
    world.faults.stalled = True
    world.send(b"1")
    world.near.close()
    await until(lambda: world.there.down)
    assert world.there.received == []
    await world.close()


async def test_faults_of_one_server_leave_the_others_alone():
    one, two = await World().open(), await World().open()
    one.faults.stalled = True
    one.send(b"1")
    two.send(b"2")
    await until(lambda: two.there.received)
    assert one.there.received == []
    await one.close()
    await two.close()
