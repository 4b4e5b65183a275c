"""A real node with actors, attacked through links whose other end is the fuzzer, and asked by a friend meanwhile."""

import asyncio
import itertools

from callboard.actors.actor import Actor
from callboard.actors.directory import Location
from callboard.actors.node import Node
from callboard.actors.outside import endpoint_of
from callboard.actors.peer import Peer
from callboard.actors.policy import MailboxPolicy
from callboard.testing.conformance.actors.values import Box, Colour, Model
from callboard.transports.base import Answer, Identity
from callboard.transports.errors import Broken, Closed
from callboard.transports.settings import NetworkSettings

REFUSED = Answer.failure(504, "DeadlineExceeded", "left by the fuzzer", "maybe")
SETTINGS = NetworkSettings(request_plane="memory")
HOSTILE = Identity(node="hostile", name="hostile", namespace="default")
MOST_TURNS = 400
"""Of the loop, that one input may keep busy."""
FRIENDLY_EVERY = 64


class Typed(Actor):
    """Methods of which none raises, whatever fits their annotations; ``sleep`` lasts until it is cancelled or woken."""

    def __init__(self):
        self.noted = 0
        self.woken = asyncio.Event()

    async def add(self, a: int, b: int = 0) -> int:
        return (a & 0xFF) + (b & 0xFF)

    async def name(self, *, x: str = "") -> str:
        return x[:10]

    async def anything(self, x):
        return x

    async def typed(self, x: Box | Model | Colour | list[tuple[int, str]] | set[int] | None) -> str:
        return type(x).__name__

    async def count(self, to: int):
        for number in range(min(to, 5)):
            yield number

    async def sleep(self) -> None:
        await self.woken.wait()

    async def note(self, x=None) -> None:
        self.noted += 1


class Wire:
    """A link whose other end is the input."""

    full = False

    def __init__(self, node, identity=HOSTILE):
        self._node = node
        self.peer = identity
        self.address = "memory://hostile"
        self.is_up = True

    def send(self, frames):
        if not self.is_up:
            raise Closed(self.address, "it is down")

    def close(self):
        self.end(Closed(self.address, "this side closed the link"))

    def end(self, error):
        if self.is_up:
            self.is_up = False
            self._node.link_down(self, error)

    def undelivered(self):
        return ()


class Victim:
    """Runs its own loop, a few turns per input."""

    def __init__(self):
        self._loop = asyncio.new_event_loop()
        self._wrong = []
        self._loop.set_exception_handler(lambda loop, context: self._wrong.append(context))
        self._inputs = itertools.count(1)
        self._endpoint = None
        self._loop.run_until_complete(self._start())

    async def _start(self):
        self.node = Node(name="victim", settings=SETTINGS)
        self.friend = Node(name="friend", settings=SETTINGS)
        await self.node.start()
        await self.friend.start()
        await self.node.spawn(Typed, name="typed.0", mailbox=MailboxPolicy(messages=8, bytes=64 * 1024))
        self.friend.add_location(self.node.location("typed.0"))
        self.cell = self.node.cells[1]

    def endpoint(self):
        """The actor as strangers see it."""
        if self._endpoint is None:
            self._endpoint = endpoint_of(self.node, self.cell)
        return self._endpoint

    def outcome(self, ask):
        """Ask as a stranger, and return the answer; a stranger leaves what lasts."""
        return self.run(self._outcome(ask))

    def told(self, body):
        """Tell as a stranger; returns the answer."""

        async def tell():
            return self.endpoint().tell(body)

        return self.run(tell())

    async def _outcome(self, ask):
        task = asyncio.ensure_future(ask())
        await self._quiet()
        if not task.done():
            task.cancel()
            await self._quiet()
        answer = REFUSED if task.cancelled() else task.result()
        await self.check()
        return answer

    def run(self, work):
        """Run to its end, and look whether the loop was told of anything wrong."""
        result = self._loop.run_until_complete(work)
        if self._wrong:
            wrong, self._wrong = self._wrong, []
            raise AssertionError(f"the loop was told of {wrong}") from wrong[0].get("exception")
        return result

    async def _quiet(self):
        """Let everything that has begun go on, until it has ended or waits for the peer."""
        ready = self._loop._ready
        for _ in range(MOST_TURNS):
            await asyncio.sleep(0)
            if not ready:
                return
        raise AssertionError(f"it is still busy after {MOST_TURNS} turns of the loop: {list(ready)}")

    def visit(self, identity):
        """A peer with this identity dials, says something, and goes."""
        self.attack_as_caller([[b"\x91\x97\x01\x01\x92\x01\x02\x01\xa3add\x05\xc0"]], identity)

    def attack_as_caller(self, messages, identity=HOSTILE):
        """What a peer that dials us may send."""
        self.run(self._attack_as_caller(messages, identity))

    async def _attack_as_caller(self, messages, identity):
        link = Wire(self.node, identity)
        self.node.link_up(link)
        await self._feed(link, messages)
        link.end(Broken(link.address, "the peer is gone"))
        await self.check()

    def attack_as_server(self, messages):
        """What a peer that we dial may send."""
        self.run(self._attack_as_server(messages))

    async def _attack_as_server(self, messages):
        node, link = self.node, Wire(self.node)
        asked = await self._ask(link)
        await self._feed(link, messages)
        link.end(Broken(link.address, "the peer is gone"))
        await self._quiet()
        for task in asked:
            assert task.done(), "an ask has no outcome although its link is gone"
            error = task.exception()
            assert error is None or isinstance(error, Exception), error
        node.remove_location("far.0", 1, "the input is over")
        await self.check()

    async def _feed(self, link, messages):
        for frames in messages:
            if link.is_up:
                self.node.link_received(link, frames)
        await self._quiet()

    async def _ask(self, link):
        """Two asks and a stream are outstanding: numbers 1 to 3."""
        node = self.node
        node.next_id = itertools.count(1).__next__
        far = Location("far.0", HOSTILE.node, link.address, 2)
        peer = Peer(node, far.address, far.node, SETTINGS.max_message_bytes, "a setting")
        node._peers[far.node] = peer
        node._sessions[link] = peer
        peer.connected(link)
        node.add_location(far)
        ref = node.ref("far.0", Typed)
        asked = [asyncio.ensure_future(ref.ask(Typed.add, 1)) for _ in range(2)]
        asked.append(asyncio.ensure_future(_read(ref)))
        await self._quiet()
        assert not any(task.done() for task in asked), asked
        return asked

    async def check(self):
        """Nothing is left of the attack, and the actor answers its friend."""
        self.cell.actor.woken.set()  # who was told to sleep has no caller who could leave
        await self._quiet()
        self.cell.actor.woken.clear()
        assert not [link for link in self.node._sessions if isinstance(link, Wire)]
        assert self.cell.takes_mail, "the actor has failed"
        assert not self.cell.running, self.cell
        assert not len(self.cell.mailbox), self.cell
        assert not self.node.pending.calls
        assert not self.node.readers
        if next(self._inputs) % FRIENDLY_EVERY == 0:
            asking = self.friend.ref("typed.0", Typed).ask(Typed.add, 20, 22)
            assert await asyncio.wait_for(asking, 20) == 42

    def close(self):
        async def end():
            await self.friend.close(grace_s=0)
            await self.node.close(grace_s=0)

        self._loop.run_until_complete(end())
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()
        assert not self._wrong, self._wrong


async def _read(ref):
    return [item async for item in ref.stream(Typed.count, 3)]
