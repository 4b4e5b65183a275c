"""The bytes on the wire stay what they are: processes of different versions talk to each other.

A real node talks to a peer that knows nothing but these bytes. Who must change one of them changes the version of
the protocol: the minor one if older readers can ignore what is new, the major one if they cannot.
"""

import asyncio
import re
from contextlib import asynccontextmanager

import pytest

from callboard.actors.actor import Actor
from callboard.actors.directory import Location
from callboard.actors.errors import RemoteError
from callboard.actors.node import Node
from callboard.actors.policy import MailboxPolicy
from callboard.testing.conformance.network import until
from callboard.transports.base import Identity
from callboard.transports.handshake import (
    ACCEPTED,
    HELLO,
    Hello,
    decode_hello,
    decode_reason,
    encode_goodbye,
    encode_hello,
    encode_refusal,
    objection,
)
from callboard.transports.manager import NetworkManager
from callboard.transports.settings import NetworkSettings

SETTINGS = NetworkSettings(request_plane="memory")
BUDGET = re.compile("cb[0-9a-f]{16}")
"""A float: the time left, of which only the form is the same every time."""


class Greeter(Actor):
    def __init__(self):
        self.greeted = []
        self.cancelled = False

    async def greet(self, name: str, *, polite: bool = False) -> str:
        self.greeted.append(name)
        return f"{'Dear' if polite else 'Hi'} {name}"

    async def count(self, to: int):
        for number in range(to):
            yield number

    async def fail(self):
        raise LookupError("no")

    async def hold(self):
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled = True


class Peer:
    """Sends and hears hexadecimal digits."""

    def __init__(self):
        self.identity = Identity(node="peer", name="peer", namespace="default")
        self.network = NetworkManager(SETTINGS, self.identity, self)
        self.links = []
        self.heard = []

    def say(self, digits):
        self.links[-1].send([bytes.fromhex(digits)])

    async def hears(self, digits):
        await until(lambda: self.heard, digits)
        assert BUDGET.sub("BUDGET", self.heard.pop(0)) == digits.replace(" ", "")

    def link_up(self, link):
        self.links.append(link)

    def link_received(self, link, frames):
        self.heard += [bytes(frame).hex() for frame in frames]

    def link_writable(self, link):
        pass

    def link_down(self, link, error):
        pass

    def link_idle(self, link):
        return False


@asynccontextmanager
async def answering(**policy):
    """A node with an actor, number 1, and a peer that has dialled it."""
    node, peer = Node(name="node", settings=SETTINGS), Peer()
    await node.start()
    try:
        await node.spawn(Greeter, name="greeter.0", **policy)
        location = node.location("greeter.0")
        assert location.number == 1
        peer.links.append(await peer.network.connect(location.address))
        (cell,) = node.cells.values()
        yield peer, cell.actor
    finally:
        await peer.network.close()
        await node.close(grace_s=0.1)


@asynccontextmanager
async def asking():
    """A reference to an actor, number 5, that a peer has."""
    node, peer = Node(name="node", settings=SETTINGS), Peer()
    await node.start()
    await peer.network.start()
    try:
        node.add_location(Location("greeter.0", "peer", peer.network.address, 5))
        yield peer, node.ref("greeter.0", Greeter)
    finally:
        await peer.network.close()
        await node.close(grace_s=0.1)


# -- what a node answers

ASK_ANNA = "91 97 01 07 91a4616e6e61 01 a56772656574 cb4024000000000000 c0"
REPLY_ANNA = "91 93 04 07 a7486920616e6e61"


async def test_an_ask_and_its_reply():
    async with answering() as (peer, _):
        peer.say(ASK_ANNA)
        await peer.hears(REPLY_ANNA)


async def test_an_ask_with_arguments_by_name():
    async with answering() as (peer, _):
        peer.say("91 97 01 07 82a16191a4616e6e61a16b81a6706f6c697465c3 01 a56772656574 cb4024000000000000 c0")
        await peer.hears("91 93 04 07 a94465617220616e6e61")


async def test_a_tell_has_no_answer():
    async with answering() as (peer, greeter):
        peer.say("91 97 02 00 91a3626f62 01 a56772656574 00 c0")
        peer.say(ASK_ANNA)
        await peer.hears(REPLY_ANNA)
        assert greeter.greeted == ["bob", "anna"]


async def test_several_messages_in_one_frame():
    async with answering() as (peer, greeter):
        peer.say(
            "92 97 02 00 91a3626f62 01 a56772656574 00 c0 97 01 07 91a4616e6e61 01 a56772656574 cb4024000000000000 c0"
        )
        await peer.hears(REPLY_ANNA)
        assert greeter.greeted == ["bob", "anna"]


async def test_a_stream_its_items_and_its_end():
    async with answering() as (peer, _):
        peer.say("91 97 03 08 9103 01 a5636f756e74 cb4024000000000000 81a17792 40 ce00010000")
        await peer.hears("92 94 06 08 93000102 03 93 07 08 03")


async def test_credit_of_a_stream_that_the_reader_gives_back():
    async with answering() as (peer, _):
        peer.say("91 97 03 08 9103 01 a5636f756e74 cb4024000000000000 81a17792 01 ce00010000")
        await peer.hears("91 94 06 08 9100 01")
        peer.say("91 93 08 08 92 05 cd0258")
        await peer.hears("92 94 06 08 920102 02 93 07 08 03")


async def test_an_error_of_a_handler():
    async with answering() as (peer, _):
        peer.say("91 97 01 09 90 01 a46661696c cb4024000000000000 c0")
        await until(lambda: peer.heard)
        assert peer.heard[0].startswith("91930509" + "89a163a672656d6f7465")  # a map: c is "remote", ...
        assert "a178a3796573" in peer.heard[0]  # x is "yes": it ran
        assert (
            "a16bb46275696c74696e733a4c6f6f6b75704572726f72" in peer.heard[0]
        )  # k is "builtins:LookupError"


async def test_a_cancellation():
    async with answering() as (peer, greeter):
        peer.say("91 97 01 07 90 01 a4686f6c64 cb4024000000000000 c0")
        peer.say("91 93 0a 07 c0")
        peer.say("91 97 01 08 91a4616e6e61 01 a56772656574 cb4024000000000000 c0")
        await peer.hears("91 93 04 08 a7486920616e6e61")
        assert greeter.greeted == ["anna"]


async def test_credit_of_a_mailbox_that_is_given_back():
    async with answering(mailbox=MailboxPolicy(messages=2)) as (peer, _):
        peer.say("91 97 02 00 91a3626f62 01 a56772656574 00 c0")
        await peer.hears("91 94 09 00 92 01 05 01")


# -- what a node asks


async def test_an_ask_is_sent_and_its_reply_read():
    async with asking() as (peer, ref):
        answer = asyncio.create_task(ref.ask(Greeter.greet, "anna"))
        await peer.hears("91 97 01 01 91a4616e6e61 05 a56772656574 BUDGET c0")
        peer.say("91 93 04 01 a7486920616e6e61")
        assert await answer == "Hi anna"


async def test_arguments_by_name_are_sent_as_a_map():
    async with asking() as (peer, ref):
        answer = asyncio.create_task(ref.ask(Greeter.greet, "anna", polite=True))
        await peer.hears("91 97 01 01 82a16191a4616e6e61a16b81a6706f6c697465c3 05 a56772656574 BUDGET c0")
        answer.cancel()
        await peer.hears("91 93 0a 01 c0")


async def test_a_tell_is_sent():
    async with asking() as (peer, ref):
        ref.tell(Greeter.greet, "bob")
        await peer.hears("91 97 02 00 91a3626f62 05 a56772656574 00 c0")


async def test_a_stream_is_opened_and_its_items_and_end_are_read():
    async with asking() as (peer, ref):
        stream = ref.stream(Greeter.count, 3)
        first = asyncio.create_task(anext(stream))
        await peer.hears("91 97 03 01 9103 05 a5636f756e74 BUDGET 81a17792cd1000ce00800000")
        peer.say("92 94 06 01 93000102 03 93 07 01 03")
        assert [await first] + [item async for item in stream] == [0, 1, 2]


async def test_an_error_is_read():
    async with asking() as (peer, ref):
        answer = asyncio.create_task(ref.ask(Greeter.fail))
        await peer.hears("91 97 01 01 90 05 a46661696c BUDGET c0")
        peer.say("91 93 05 01 84 a163a672656d6f7465 a16baa6e6f2e737563683a436c a177a26e6f a178a3796573")
        with pytest.raises(RemoteError, match="no"):
            await answer


# -- what a newer version may add

NEWER = [
    ("one more element", "91 98 01 07 91a4616e6e61 01 a56772656574 cb4024000000000000 c0 a36e6577"),
    ("several", "91 9a 01 07 91a4616e6e61 01 a56772656574 cb4024000000000000 c0 a36e6577 81a16101 9103"),
    ("one more key", "91 97 01 07 91a4616e6e61 01 a56772656574 cb4024000000000000 81a36e657701"),
    ("several keys", "91 97 01 07 91a4616e6e61 01 a56772656574 cb4024000000000000 82a36e657701a17a00"),
]


@pytest.mark.parametrize("digits", [digits for _, digits in NEWER], ids=[name for name, _ in NEWER])
async def test_what_a_newer_version_adds_to_a_message_is_ignored(digits):
    async with answering() as (peer, _):
        peer.say(digits)
        await peer.hears(REPLY_ANNA)


async def test_what_a_newer_version_adds_to_an_answer_is_ignored():
    async with asking() as (peer, ref):
        answer = asyncio.create_task(ref.ask(Greeter.greet, "anna"))
        await until(lambda: peer.heard)
        peer.say("91 98 04 01 a7486920616e6e61 00 a0 00 c0 a36e6577")
        assert await answer == "Hi anna"


# -- handshake

IDENTITY = Identity(
    node="n1",
    name="web.0",
    namespace="demo",
    incarnation=2,
    pid=300,
    host="h",
    address="tcp://127.0.0.1:5",
    max_message_bytes=32 * 1024 * 1024,
    features=("a",),
)
HELLO_BYTES = (
    "c148 83 a176 920100 a165 a26e32 a169 89"
    "a46e6f6465 a26e31  a46e616d65 a57765622e30  a96e616d657370616365 a464656d6f"
    "ab696e6361726e6174696f6e 02  a3706964 cd012c  a4686f7374 a168"
    "a761646472657373 b17463703a2f2f3132372e302e302e313a35"
    "b16d61785f6d6573736167655f6279746573 ce02000000  a86665617475726573 91a161"
)
ACCEPTED_BYTES = HELLO_BYTES.replace("c148", "c141", 1).replace("a165 a26e32", "a165 a0")


@pytest.mark.parametrize(
    ("kind", "hello", "digits"),
    [
        (HELLO, Hello(IDENTITY, expects="n2"), HELLO_BYTES),
        (ACCEPTED, Hello(IDENTITY), ACCEPTED_BYTES),
    ],
    ids=["hello", "accepted"],
)
def test_a_hello_and_its_acceptance(kind, hello, digits):
    assert encode_hello(kind, hello).hex() == digits.replace(" ", "")
    assert decode_hello(bytes.fromhex(digits)) == hello


def test_a_refusal_and_a_goodbye():
    for encode, digits in (
        (encode_refusal, "c152 81a3776879a26e6f"),
        (encode_goodbye, "c142 81a3776879a26e6f"),
    ):
        assert encode("no").hex() == digits.replace(" ", "")
        assert decode_reason(bytes.fromhex(digits)) == "no"


def test_what_a_newer_version_adds_to_a_hello_is_ignored():
    """A third number in the version, keys beside ours, and keys in the identity."""
    newer = (
        HELLO_BYTES.replace("83 a176 920100", "84 a36e6577 c3 a176 93010963")
        .replace("a169 89", "a169 8a a573686f6573 2b")
    )  # fmt: skip
    hello = decode_hello(bytes.fromhex(newer))
    assert hello == Hello(IDENTITY, version=(1, 9), expects="n2")
    assert objection(Identity(node="n2", name="db.0", namespace="demo"), hello) == ""


def test_what_a_newer_version_adds_to_a_refusal_or_a_goodbye_is_ignored():
    for kind in ("c152", "c142"):
        assert decode_reason(bytes.fromhex(f"{kind} 82 a3776879a26e6f a4636f646507")) == "no"


def test_another_major_version_is_refused_and_both_are_named():
    hello = decode_hello(bytes.fromhex(HELLO_BYTES.replace("920100", "920203")))
    why = objection(Identity(node="n2", name="db.0", namespace="demo"), hello)
    assert why == "db.0 speaks protocol version 1.0, web.0 2.3; upgrade the older side"
