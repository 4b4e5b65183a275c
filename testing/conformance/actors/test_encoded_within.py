"""The option that encodes and decodes within one process, too: what differs between processes differs here."""

import sys

import pytest

from callboard.actors.errors import DecodeError, EncodeError, RemoteError
from callboard.actors.outcome import outcome
from callboard.actors.policy import Executed

from .classes import Echo, Gate
from .pairs import LOCAL, drain, outcomes
from .scenarios_handler import Faulty, gone

pytestmark = pytest.mark.parametrize("pair", [LOCAL], indirect=True)


class Keeps(Echo):
    """Keeps what it gets, and gives it away."""

    def __init__(self):
        self.kept = []

    async def keep(self, value, *, more=None):
        self.kept.append((value, more))
        return self.kept[-1]

    async def same_twice(self):
        yield self.kept
        yield self.kept


async def checked(pair, cls):
    node = await pair.node("checked", encode_in_process=True)
    return await node.spawn(cls, name="c.0", incarnation=3), node


async def test_nothing_is_shared(pair):
    ref, node = await checked(pair, Keeps)
    value, more = [1, {"a": (2, 3)}], bytearray(100_000)
    answer = await ref.ask(Keeps.keep, value, more=more)
    (kept,) = pair.actor("c.0").kept
    assert answer == kept == (value, more)
    assert kept[0] is not value
    assert kept[1] is not more
    assert answer[0] is not kept[0]
    first, second = [item async for item in ref.stream(Keeps.same_twice)]
    assert first == second == [kept]
    assert first is not second
    more[0] = 1
    ref.tell(Keeps.keep, value)
    value.append("changed after the call")
    assert await ref.ask(Echo.echo, ref) == ref
    assert pair.actor("c.0").kept == [([1, {"a": (2, 3)}], bytearray(100_000)), ([1, {"a": (2, 3)}], None)]
    assert node.statistics()["open_asks"] == 0


async def test_what_cannot_be_sent_fails_where_it_is_sent(pair):
    ref, node = await checked(pair, Faulty)
    calls = [ref.ask(Echo.echo, [object()]), anext(ref.stream(Echo.items, [object()]))]
    for error in await outcomes(*calls):
        assert type(error) is EncodeError
        assert "argument 0[0]" in str(error)
        assert (error.executed, error.actor, error.incarnation) == (Executed.NEVER, "c.0", 3)
    with pytest.raises(EncodeError, match="argument 'value'"):
        ref.tell(Echo.echo, value=object())
    with pytest.raises(EncodeError, match="the result") as caught:
        await ref.ask(Faulty.result, "object")
    assert (caught.value.executed, caught.value.actor, caught.value.incarnation) == (Executed.YES, "c.0", 3)
    items, error = await drain(ref.stream(Faulty.item, "object"))
    assert (items, type(error), error.executed) == (["first"], EncodeError, Executed.YES)
    with pytest.raises(RemoteError):
        await ref.ask(Faulty.fail, "object")
    with pytest.raises(ValueError, match="a value") as caught:
        await ref.ask(Faulty.fail, "known")
    assert outcome(caught.value).actor == "c.0"
    assert "remote traceback" in caught.value.__notes__[0]
    assert not node.pending.calls
    assert not node.readers


async def test_what_cannot_be_received_fails_too(pair):
    class Gone(Gate):
        async def gone(self):
            value = gone()
            del sys.modules[type(value).__module__]
            return value

    ref, _ = await checked(pair, Gone)
    (error,) = await outcomes(ref.ask(Gone.gone))
    assert isinstance(error, EncodeError | DecodeError)
    assert error.executed is Executed.YES
