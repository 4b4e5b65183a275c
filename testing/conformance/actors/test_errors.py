"""Whatever goes wrong reaches the caller once, says whether the handler ran, and harms nobody else."""

import asyncio
import dataclasses
import gc
import json
import sys
import types

import pytest

from callboard.actors.actor import blocking
from callboard.actors.errors import (
    BadArguments,
    EncodeError,
    Overloaded,
    RemoteError,
    UnknownMethod,
)
from callboard.actors.policy import Executed
from callboard.transports.errors import TooLarge

from .classes import Caller, Echo, Gate
from .pairs import drain, outcomes

MIB = 1024 * 1024


class OwnError(Exception):
    """An exception of the application."""

    def __init__(self, code, text):
        super().__init__(code, text)
        self.code = code

    def __str__(self):
        return f"{self.code}: {self.args[1]}"


class WithState(Exception):
    """Its attribute is set after it was built."""


class NeedsMore(Exception):
    """It is not built from its arguments."""

    def __init__(self, *, code):
        super().__init__(f"code {code}")


class QuotaExceeded(Overloaded):
    """Derived from one of ours, as the documentation says."""


class Interrupt(BaseException):
    """Not meant for handlers."""


class Failing(Echo):
    async def fail(self, kind):
        self.raise_(kind)

    def fail_plain(self, kind):
        self.raise_(kind)

    @blocking
    def fail_thread(self, kind):
        self.raise_(kind)

    async def fail_stream(self, kind):
        yield "first"
        self.raise_(kind)

    def fail_plain_stream(self, kind):
        yield "first"
        self.raise_(kind)

    def raise_(self, kind):
        if kind == "state":
            error = WithState("text")
            error.detail = {"a": 1}
            raise error
        if kind == "local":

            class Local(Exception):
                pass

            raise Local("of a function")
        if kind == "json":
            json.loads("{")
        errors = {
            "value": lambda: ValueError("a value"),
            "key": lambda: KeyError("k"),
            "own": lambda: OwnError(5, "own"),
            "more": lambda: NeedsMore(code=5),
            "quota": lambda: QuotaExceeded("no more today", executed=Executed.MAYBE),
            "surrogate": lambda: ValueError("file \udcff"),
            "big integer": lambda: ValueError(2**70),
            "object": lambda: ValueError(object, Gate),
            "group": lambda: ExceptionGroup("several", [ValueError(1), KeyError(2)]),
            "long": lambda: ValueError("x" * 40 * MIB),
            "stop iteration": lambda: StopIteration(1),
            "stop async iteration": lambda: StopAsyncIteration(1),
            "cancelled": asyncio.CancelledError,
            "timeout": lambda: TimeoutError("slow"),
            "interrupt": Interrupt,
        }
        raise errors[kind]()

    async def result(self, kind):
        return {
            "object": {"a": [1, object()]},
            "surrogate": ["\udcff"],
            "large": bytes(40 * MIB),
            "large text": "x" * (40 * MIB),
            "generator": (n for n in range(3)),
        }[kind]

    async def item(self, kind):
        yield "first"
        yield await self.result(kind)


RAISED = [
    ("value", ValueError, "a value"),
    ("key", KeyError, "'k'"),
    ("own", OwnError, "5: own"),
    ("state", WithState, "text"),
    ("json", json.JSONDecodeError, "Expecting property name"),
    ("timeout", TimeoutError, "slow"),
    ("quota", QuotaExceeded, "no more today"),
    ("stop async iteration", (StopAsyncIteration, RuntimeError), ""),
]


@pytest.mark.parametrize(("kind", "cls", "text"), RAISED, ids=[case[0] for case in RAISED])
async def test_an_exception_arrives_as_its_own_class(pair, kind, cls, text):
    ref = await pair.spawn(Failing)
    for method in ("fail", "fail_plain", "fail_thread"):
        with pytest.raises(cls) as caught:
            await ref.ask(method, kind)
        assert text in str(caught.value)
    assert await ref.ask(Echo.echo, 1) == 1
    assert pair.cell().failed == 3


async def test_an_exception_keeps_its_plain_attributes(pair):
    ref = await pair.spawn(Failing)
    with pytest.raises(WithState) as caught:
        await ref.ask(Failing.fail, "state")
    assert caught.value.detail == {"a": 1}


@pytest.mark.parametrize("method", ["fail_stream", "fail_plain_stream"])
@pytest.mark.parametrize("kind", ["value", "own", "quota"])
async def test_an_exception_of_a_stream_arrives_as_its_own_class(pair, method, kind):
    ref = await pair.spawn(Failing)
    items, error = await drain(ref.stream(method, kind))
    assert items == ["first"]
    assert type(error) is {"value": ValueError, "own": OwnError, "quota": QuotaExceeded}[kind]


async def test_the_remote_traceback_comes_with_it(pair):
    ref = await pair.spawn(Failing)
    with pytest.raises(ValueError, match="a value") as caught:
        await ref.ask(Failing.fail, "value")
    if pair.remote:
        (note,) = caught.value.__notes__
        assert "--- remote traceback ---" in note
        assert "test_errors.py" in note
        assert "in raise_" in note
    else:  # the same object, with its own
        assert any(entry.name == "raise_" for entry in caught.traceback)


UNKNOWN = ["local", "more", "object", "group", "surrogate", "big integer", "cancelled"]


@pytest.mark.parametrize("kind", UNKNOWN)
async def test_an_exception_that_cannot_be_built_here_arrives_as_remote_error(pair, kind):
    ref = await pair.spawn(Failing)
    names = {"local": "Local", "more": "NeedsMore", "group": "ExceptionGroup", "cancelled": "CancelledError"}
    for method in ("fail", "fail_plain", "fail_thread"):
        with pytest.raises(RemoteError) as caught:
            await ref.ask(method, kind)
        error = caught.value
        assert (error.actor, error.executed, error.incarnation) == ("a.0", Executed.YES, 1)
        assert error.remote_traceback
        assert names.get(kind, "") in error.kind
    assert await ref.ask(Echo.echo, 1) == 1


@pytest.mark.parametrize("method", ["fail", "fail_plain", "fail_thread", "fail_stream", "fail_plain_stream"])
async def test_stop_iteration_is_an_error_like_others(pair, method):
    """No future takes one: the caller would never hear of it."""
    ref = await pair.spawn(Failing)
    call = (
        ref.ask(method, "stop iteration")
        if "stream" not in method
        else drain(ref.stream(method, "stop iteration"))
    )
    (result,) = await outcomes(call)
    error = result[1] if isinstance(result, tuple) else result
    assert isinstance(error, RuntimeError | RemoteError)
    assert "StopIteration" in f"{error!r} {getattr(error, 'kind', '')}"
    assert await ref.ask(Echo.echo, 1) == 1


async def test_an_exception_of_a_class_that_the_caller_has_not_imported_is_a_remote_error(remote):
    """What the name stands for is gone before the caller looks it up."""
    module = types.ModuleType("gone_module")
    exec("class Gone(Exception): pass", module.__dict__)
    sys.modules["gone_module"] = module
    try:

        class Raises(Echo):
            def gone(self):
                asyncio.get_running_loop().call_soon(sys.modules.pop, "gone_module", None)
                raise module.Gone("gone")

        ref = await remote.spawn(Raises)
        with pytest.raises(RemoteError, match="gone_module:Gone: gone") as caught:
            await ref.ask(Raises.gone)
        assert "in gone" in caught.value.remote_traceback
    finally:
        sys.modules.pop("gone_module", None)


async def test_an_error_too_large_for_a_message_is_shortened(remote):
    ref = await remote.spawn(Failing)
    with pytest.raises(RemoteError) as caught:
        await ref.ask(Failing.fail, "long")
    assert caught.value.kind == "builtins:ValueError"
    assert "characters)" in str(caught.value)
    assert await ref.ask(Echo.echo, 1) == 1


async def test_an_error_of_a_nested_ask_passes_through_and_says_that_the_outer_handler_ran(pair):
    outer = await pair.spawn(Caller, name="outer.0")
    inner = await pair.spawn(Failing, name="inner.0")
    with pytest.raises(OwnError, match="5: own"):
        await outer.ask(Caller.pass_on, inner, "fail", "own")
    with pytest.raises(UnknownMethod) as caught:
        await outer.ask(Caller.pass_on, inner, "nothing")
    assert (caught.value.executed, caught.value.actor) == (Executed.YES, "inner.0")


async def test_what_is_no_exception_ends_the_handler_but_not_the_actor(remote):
    """It is the loop's to know; the caller has its outcome."""
    ref = await remote.spawn(Failing)
    heard = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: heard.append(context))
    others = [asyncio.create_task(ref.ask(Echo.echo, n)) for n in range(3)]
    with pytest.raises(RemoteError) as caught:
        await ref.ask(Failing.fail, "interrupt")
    assert "Interrupt" in caught.value.kind
    assert await asyncio.gather(*others) == [0, 1, 2]
    assert await ref.ask(Echo.echo, 1) == 1
    gc.collect()
    assert len(heard) == 1


# -- calls that cannot be made


async def test_an_unknown_method_is_named_with_what_was_probably_meant(pair):
    ref = await pair.spawn(Echo)
    with pytest.raises(
        UnknownMethod, match=r"Echo has no message 'ecko'; it has: .*; did you mean \"echo\"\?"
    ) as caught:
        await ref.ask("ecko", 1)
    assert (caught.value.executed, caught.value.actor) == (Executed.NEVER, "a.0")
    for name in ("_private", "on_start", "__init__", "context"):
        with pytest.raises(UnknownMethod):
            await ref.ask(name)


@pytest.mark.parametrize(
    ("args", "kwargs", "text"),
    [
        ((), {}, "missing a required argument: 'first'"),
        ((1, 2), {}, "takes str as 'second', got int 2"),
        (("one",), {}, "takes int as 'first', got str 'one'"),
        ((1,), {"thrid": 3.0}, 'unexpected keyword argument .thrid.; did you mean "third"'),
        ((1, "a", 3.0), {}, "too many positional arguments"),
    ],
)
async def test_wrong_arguments_name_the_parameter_and_run_nothing(pair, args, kwargs, text):
    ref = await pair.spawn(Echo)
    with pytest.raises(BadArguments, match=text) as caught:
        await ref.ask("named", *args, **kwargs)
    assert isinstance(caught.value, TypeError)
    assert (caught.value.executed, caught.value.actor) == (Executed.NEVER, "a.0")
    assert pair.cell().handled == 0
    with pytest.raises(BadArguments):
        await anext(ref.stream("count", "many"))


async def test_an_argument_that_cannot_be_encoded_is_named_by_its_path(remote):
    ref = await remote.spawn(Echo)
    calls = [
        (([1, {"a": object()}],), {}, r"cannot send a\.0\.any_number: argument 0\[1\]\['a'\]"),
        ((1,), {"prompt": {"b": [object()]}}, r"argument 'prompt'\['b'\]\[0\]"),
        ((1, ("x", object())), {"k": 1}, r"argument 1\[1\]"),
        (("\udcff",), {}, r"argument 0: it is a str that is not valid Unicode"),
    ]
    for args, kwargs, text in calls:
        with pytest.raises(EncodeError, match=text):
            await ref.ask("any_number", *args, **kwargs)
        with pytest.raises(EncodeError, match=text):
            ref.tell("any_number", *args, **kwargs)
    with pytest.raises(EncodeError, match=r"argument 0\[0\]"):
        await anext(ref.stream(Echo.items, [object()]))
    assert not remote.near.pending.calls
    assert not remote.near.readers
    assert await ref.ask(Echo.echo, 1) == 1


@pytest.mark.parametrize(
    ("kind", "cls", "text"),
    [
        ("object", EncodeError, r"cannot send the result\['a'\]\[1\]: a builtins.object does not travel"),
        ("surrogate", EncodeError, r"cannot send the result\[0\]: it is a str that is not valid Unicode"),
        ("generator", EncodeError, "cannot send the result: a builtins.generator does not travel"),
        ("large", TooLarge, "exceeds the limit of 33,554,432 bytes"),
        ("large text", TooLarge, r"exceeds the limit of 33,554,432 bytes; raise network\.max_message_bytes"),
    ],
)
async def test_a_result_that_cannot_be_sent_is_the_caller_s_error(remote, kind, cls, text):
    ref = await remote.spawn(Failing)
    with pytest.raises(cls, match=text):
        await ref.ask(Failing.result, kind)
    assert await ref.ask(Echo.echo, 1) == 1
    items, error = await drain(ref.stream(Failing.item, kind))
    assert items == ["first"]
    assert type(error) is cls
    assert await ref.ask(Echo.echo, 1) == 1


@dataclasses.dataclass
class Picky:
    """Refuses to be built by its own means; the codec does not run them."""

    number: int

    def __post_init__(self):
        if self.number < 0:
            raise RuntimeError("no")


async def test_an_argument_that_fails_while_it_is_checked_is_refused_and_the_actor_lives(pair):
    class Checks(Gate):
        async def picky(self, value: Picky) -> int:
            return value.number

    ref = await pair.spawn(Checks)
    assert await ref.ask("picky", {"number": 1}) == 1
    with pytest.raises(BadArguments, match="takes Picky as 'value'"):
        await ref.ask("picky", {"number": -1})
    ref.tell("picky", {"number": -1})
    assert await ref.ask(Gate.note, 1) == 1
    assert pair.far.dropped_tells == 1
