"""Hooks: what is told of each message, what travels with it, and that none of it changes a message."""

import asyncio
from contextlib import contextmanager
from contextvars import ContextVar

import pytest

from callboard.actors.actor import Actor, blocking, interleave
from callboard.actors.hooks import install_hooks

from ..network import until
from .classes import Caller, Echo, Gate

SPAN = ContextVar("span", default="none")


class Kinds(Actor):
    """One method of each kind; each says in which span it runs."""

    async def waits(self) -> str:
        await asyncio.sleep(0)
        return SPAN.get()

    def plain(self) -> str:
        return SPAN.get()

    @blocking
    def blocks(self) -> str:
        return SPAN.get()

    @interleave
    async def beside(self) -> str:
        return SPAN.get()


class Recorder:
    """Metrics and tracing of both processes of a pair, which are one here."""

    def __init__(self):
        self.handled_ones = []
        self.spans = []

    def handled(self, actor, method, seconds, error):
        assert seconds >= 0
        self.handled_ones.append((method, type(error)))

    def sending(self, target, method):
        return {"traceparent": f"{SPAN.get()}>{method}"}

    @contextmanager
    def handling(self, actor, method, headers):
        parent = headers.get("traceparent", "")
        token = SPAN.set(parent)
        try:
            yield
        except BaseException as error:
            self.spans.append((method, parent, type(error)))
            raise
        else:
            self.spans.append((method, parent, None))
        finally:
            SPAN.reset(token)


class Broken:
    """Fails wherever it is asked."""

    def handled(self, actor, method, seconds, error):
        raise RuntimeError("no metrics today")

    def sending(self, target, method):
        raise RuntimeError("no trace today")

    def handling(self, actor, method, headers):
        raise RuntimeError("no span today")


@pytest.fixture
def recorder():
    hooks = Recorder()
    install_hooks(metrics=hooks, tracing=hooks)
    yield hooks
    install_hooks()


async def test_every_handler_is_told_of_once_with_what_it_raised(pair, recorder):
    ref = await pair.spawn(Echo, name="echo")
    assert await ref.ask(Echo.echo, 1) == 1
    assert await ref.ask(Echo.plain, 2) == 2
    ref.tell(Echo.echo, 3)
    assert [item async for item in ref.stream(Echo.count, 3)] == [0, 1, 2]
    assert await ref.ask(Echo.named, 1, third=2.0) == [1, "two", 2.0]
    gate = await pair.spawn(Gate, name="gate")
    ask = asyncio.ensure_future(gate.ask(Gate.hold, 1))
    await until(lambda: pair.actor("gate").seen)
    ask.cancel()
    await until(lambda: len(recorder.handled_ones) == 6)
    assert recorder.handled_ones == [
        ("echo", type(None)),
        ("plain", type(None)),
        ("echo", type(None)),
        ("count", type(None)),
        ("named", type(None)),
        ("hold", asyncio.CancelledError),
    ]


async def test_what_a_trace_sends_reaches_the_handler_and_goes_on_with_what_that_asks(pair, recorder):
    ref = await pair.spawn(Echo, name="echo")
    caller = await pair.spawn(Caller, name="caller")
    SPAN.set("root")
    assert await ref.ask(Echo.echo, 1) == 1
    ref.tell(Echo.echo, 2)
    await ref.tell_wait(Echo.echo, 3)
    assert [item async for item in ref.stream(Echo.count, 2)] == [0, 1]
    await caller.ask(Caller.pass_on, ref, "echo", 4)
    assert [(method, parent) for method, parent, _ in recorder.spans] == [
        ("echo", "root>echo"),
        ("echo", "root>echo"),
        ("echo", "root>echo"),
        ("count", "root>count"),
        ("echo", "root>pass_on>echo"),
        ("pass_on", "root>pass_on"),
    ]


async def test_hooks_that_fail_are_logged_and_change_no_message(pair, caplog):
    ref = await pair.spawn(Echo, name="echo")
    install_hooks(metrics=Broken(), tracing=Broken())
    try:
        assert await ref.ask(Echo.echo, 1) == 1
        assert [item async for item in ref.stream(Echo.count, 3)] == [0, 1, 2]
    finally:
        install_hooks()
    assert "no metrics today" in caplog.text
    assert "no trace today" in caplog.text
    assert "no span today" in caplog.text
    assert await ref.ask(Echo.echo, 2) == 2


@pytest.mark.parametrize("method", ["waits", "plain", "blocks", "beside"])
async def test_context_variables_of_a_sender_stay_with_it(pair, method):
    """Else one request would run with what belongs to another: the first of a turn would lend its own to all."""
    ref = await pair.spawn(Kinds)
    token = SPAN.set("the sender's own")
    try:
        assert await ref.ask(method) == "none"
    finally:
        SPAN.reset(token)
