"""What a faulty peer sends ends its own link at most; everybody else goes on."""

import asyncio

import msgspec
import numpy
import pytest

from callboard.actors.codec import Codec
from callboard.actors.envelope import ASK, END, TELL
from callboard.actors.errors import ActorError, ActorUnavailable, DecodeError, UnknownMethod
from callboard.actors.policy import Executed, MailboxPolicy, Overflow

from ..network import until
from .classes import Gate, Wide
from .pairs import in_time, turns


@pytest.mark.parametrize(
    "batch",
    [
        b"",
        b"\xc1",
        b"\x91\x92\x01",
        b"\x93\x01\x02\x03",
        b"\xdd\xff\xff\xff\xff",
        b"\x91" * 5000,
        b"\x91\x93\x01\xa1x\xc0",
        b"\x91\x97\x00\x04\x91\x00\x01\xa4note\x00\xc0",  # a kind below the first would be an ask without an end
    ],
)
async def test_a_malformed_batch_ends_only_its_link(remote, batch):
    other = await remote.node("other")
    ref = await remote.spawn(Gate)
    held = asyncio.create_task(ref.ask(Gate.hold, 1))
    await until(lambda: remote.actor().seen == [1])
    queued = asyncio.create_task(other.ref("a.0", Gate).ask(Gate.note, 2))
    await until(lambda: len(remote.cell().mailbox) == 1)
    (peer,) = other._peers.values()
    peer.link.send((batch,))
    with pytest.raises(ActorUnavailable) as caught:
        await queued
    assert caught.value.executed is Executed.MAYBE
    assert not held.done()
    remote.actor().gate.set()
    assert await held == 1
    assert await ref.ask(Gate.note, 3) == 3
    assert remote.actor().seen == [1, 3]


async def test_a_malformed_answer_ends_only_its_link(remote):
    ref = await remote.spawn(Gate)
    held = asyncio.create_task(ref.ask(Gate.hold, 1))
    await until(lambda: remote.actor().seen == [1])
    (origin,) = remote.origins()
    origin.link.send((b"\x91\x01",))
    with pytest.raises(ActorError):
        await held
    await until(lambda: remote.actor().cancelled == [1])
    assert await ref.ask(Gate.note, 2) == 2


ODD = [
    (1, 5, [1], "no number"),
    (1, 5, [1], 1, "note", 1.0, {"c": 5, "w": "x"}),
    (3, 6, [1], 1, "endless", 1.0, {"w": [-5, "x"], "c": {"a": 1}}),
    (3, 6, [], 1, "endless", 1.0, {"w": [1, 2, 3]}),
    (1, 7, {"a": 5, "k": 6}, 1, "note", 0.0),
    (1, 7, "text", 1, "note", 0.0),
    (1, 7, None, 1, "note", float("nan")),
    (1, 7, [1], 99999, "note", 0.0),
    (2, 7, [1], 99999, "note", 0.0),
    (8, 6, "credit"),
    (8, 6, [None, None]),
    (8, 6, [1e300, float("inf")]),
    (10, 5, None),
    (10, 424242, None),
    (0, 8, [1], 1, "note"),
    (-3, 9, [1], 1, "note"),
    (77, 1, None),
    (4, 5, 1),
]


@pytest.mark.parametrize("envelope", ODD, ids=range(len(ODD)))
async def test_an_odd_message_harms_nobody_else(remote, envelope):
    ref = await remote.spawn(Wide)
    assert await ref.ask(Gate.note, 1) == 1
    number = remote.cell().location.number
    odd = [number if n == 3 and value == 1 else value for n, value in enumerate(envelope)]
    (peer,) = remote.near._peers.values()
    asking = asyncio.create_task(ref.ask(Gate.note, 2))
    await turns(1)
    peer.link.send((msgspec.msgpack.encode([odd, (1, 10**6, [3], number, "note", 0.0)]),))
    results = await asyncio.gather(asking, return_exceptions=True)
    assert results == [2] or isinstance(results[0], ActorUnavailable)  # its own link may be closed for it
    third = await remote.node("third")
    remote.publish("a.0")
    assert await in_time(third.ref("a.0", Gate).ask("look")) >= 1
    await until(lambda: all(letter.kind >= ASK for letter in remote.letters()))


@pytest.mark.parametrize("overflow", [Overflow.REJECT, Overflow.BLOCK])
@pytest.mark.parametrize("kind", [ASK, TELL])
async def test_who_sends_without_credit_loses_its_link_and_fills_no_mailbox(remote, kind, overflow):
    other = await remote.node("other")
    ref = await remote.spawn(Gate, mailbox=MailboxPolicy(messages=8, overflow=overflow))
    held = asyncio.create_task(ref.ask(Gate.hold, 1))
    await until(lambda: remote.actor().seen == [1])
    with pytest.raises(ActorError):  # it has a link, and this message no effect
        await other.ref("a.0", Gate).ask("no_method")
    (peer,) = other._peers.values()
    number = remote.cell().location.number
    letters = [(kind, 1000 + n if kind == ASK else 0, [2], number, "note") for n in range(500)]
    peer.link.send((msgspec.msgpack.encode(letters),))
    if (kind, overflow) != (ASK, Overflow.REJECT):  # that is answered, and so takes no room
        await until(lambda: peer.link is None)
    await turns(20)
    assert len(remote.cell().mailbox) <= 16
    remote.actor().gate.set()
    assert await held == 1
    assert await ref.ask(Gate.note, 3) == 3


async def test_a_method_with_a_very_long_name_is_refused_in_a_few_words(remote):
    ref = await remote.spawn(Gate)
    with pytest.raises(UnknownMethod) as caught:
        await ref.ask("note" * 100_000)
    assert len(str(caught.value)) < 2_000


UNKNOWN_EXTENSION = msgspec.Raw(b"\xd4\x63\x00")
ARRAY = msgspec.Raw(Codec().encode(numpy.arange(3), "an array")[0])
ODD_ANSWERS = [
    (5, {"c": "mailbox_full", "x": "bogus"}),
    (5, {"c": "remote", "k": 5, "p": [1], "i": float("inf")}),
    (5, {"c": "remote", "k": "os:system", "p": ["true"], "w": "w"}),
    (5, [1, 2]),
    (5, None),
    (4, UNKNOWN_EXTENSION),
    (5, UNKNOWN_EXTENSION),
]


@pytest.mark.parametrize(("kind", "body"), ODD_ANSWERS, ids=range(len(ODD_ANSWERS)))
async def test_an_odd_answer_is_an_error_of_its_ask_and_no_other(remote, kind, body):
    ref = await remote.spawn(Gate)
    first = asyncio.create_task(ref.ask(Gate.hold, 1))
    await until(lambda: remote.actor().seen == [1])
    second = asyncio.create_task(ref.ask(Gate.look))
    (origin,) = remote.origins()
    call_id = min(remote.near.pending.calls)
    origin.link.send((msgspec.msgpack.encode([(kind, call_id, body)]),))
    with pytest.raises(Exception) as caught:  # noqa: PT011 any error, but an error
        await in_time(first)
    assert not isinstance(caught.value, TimeoutError)
    assert await second == 1


@pytest.mark.parametrize(
    ("end", "text"),
    [
        (3, "ended after 3 items, of which 2 arrived"),
        (ARRAY, r"ended after \(a ndarray\) items, of which 2 arrived"),
        (msgspec.Raw(b"\xa2\xff\xfe"), "malformed value"),
    ],
)
async def test_a_stream_that_ends_short_of_its_number_of_items_says_so(remote, end, text):
    """Items are numbered: that one is missing cannot go unnoticed."""
    ref = await remote.spawn(Gate)
    stream = ref.stream(Gate.trickle, 2)
    assert [await anext(stream) for _ in range(2)] == [0, 1]
    (origin,) = remote.origins()
    (call_id,) = origin.calls
    origin.link.send((msgspec.msgpack.encode([(END, call_id, end)]),))
    with pytest.raises(DecodeError, match=text) as caught:
        await in_time(anext(stream))
    assert (caught.value.actor, caught.value.executed) == ("a.0", Executed.YES)
