"""The public interface as a type checker sees it. Nothing here runs: it has to pass ``mypy --strict``.

Where a call must be refused, an ignore of exactly that error stands; an ignore without need is an error.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Protocol, assert_type

from callboard import (
    Actor,
    ActorContext,
    ActorError,
    AwaitableWatch,
    CallboardError,
    Down,
    DownKind,
    DurablePolicy,
    Executed,
    MailboxPolicy,
    NetworkSettings,
    OnDown,
    Outcome,
    Overflow,
    Ref,
    StopReason,
    System,
    TransportError,
    Watch,
    blocking,
    idempotent,
    interleave,
    outcome,
)
from callboard.testing.cluster import Cluster


class Worker(Actor):
    concurrency = 32

    def __init__(self, model: str) -> None:
        self.model = model

    async def on_start(self) -> None:
        assert_type(self.context, ActorContext)
        assert_type(self.context.name, str)

    async def on_stop(self, reason: StopReason) -> None: ...

    async def load(self) -> float:
        return 0.3

    def size(self) -> int:
        return 1

    async def generate(self, prompt: str, max_tokens: int = 16) -> AsyncIterator[str]:
        for i in range(max_tokens):
            yield f"{i} "

    def lines(self) -> Iterator[bytes]:
        yield b""

    @blocking
    def crunch(self, values: list[int]) -> int:
        return sum(values)

    @interleave
    @idempotent
    async def version(self) -> str:
        return self.model


class Router(Actor):
    def __init__(self, workers: Ref[Worker]) -> None:
        self.workers = workers

    async def generate(self, prompt: str) -> AsyncIterator[str]:
        async for token in self.workers.stream(Worker.generate, prompt, max_tokens=8):
            assert_type(token, str)
            yield token


class Balancer(Actor):
    stash_limit = 16

    def __init__(self, workers: Ref[Worker]) -> None:
        self.workers = workers
        self.watches: dict[str, Watch] = {}

    async def on_ready(self) -> None:
        for worker in self.workers.instances():
            self.watches[worker.name] = self.context.watch(worker)
        self.context.start_timer("refresh", 0.5, Balancer.refresh, 3)
        self.context.start_timer("refresh", 0.5, Balancer.refresh, "3")  # type: ignore[call-overload]
        self.context.start_timer("refresh", 0.5, "refresh", left=3)
        self.context.start_periodic_timer(("tick", 1), 1.0, Balancer.refresh, left=3)
        self.context.start_periodic_timer("tick", 1.0, Balancer.refresh)  # type: ignore[call-overload]
        assert_type(self.context.cancel_timer("tick"), bool)

    async def on_down(self, down: Down) -> None:
        assert_type(down.kind, DownKind)
        assert_type(down.incarnation, int)
        if down.kind is not DownKind.UNREACHABLE:
            self.watches.pop(down.name).cancel()

    async def on_drain(self) -> None:
        self.context.unstash()

    async def refresh(self, left: int) -> None:
        print(left)

    async def pick(self) -> str:
        if not self.watches:
            self.context.stash()
            print("never reached")  # and a type checker knows it
        return next(iter(self.watches))


class HasLoad(Protocol):
    async def load(self) -> float: ...


async def verbs(ref: Ref[Worker]) -> None:
    assert_type(await ref.ask(Worker.load), float)
    assert_type(await ref.ask(Worker.size), int)
    assert_type(await ref.ask(Worker.crunch, [1, 2]), int)
    assert_type(await ref.ask(Worker.version), str)
    ref.tell(Worker.load)
    await ref.tell_wait(Worker.crunch, values=[1])
    async for token in ref.stream(Worker.generate, "hi"):
        assert_type(token, str)
    async for batch in ref.stream(Worker.generate, "hi").batches():
        assert_type(batch, list[str])
    async for line in ref.stream(Worker.lines):
        assert_type(line, bytes)
    async with ref.stream(Worker.generate, "hi", max_tokens=1) as stream:
        assert_type(await anext(stream), str)
    assert_type(await ref.proxy.load(), float)


async def wrong_calls(ref: Ref[Worker]) -> None:
    await ref.ask(Worker.load, 1)  # type: ignore[call-overload]
    await ref.ask(Worker.crunch, ["a"])  # type: ignore[call-overload]
    await ref.ask(Router.generate, "hi")  # type: ignore[call-overload]
    ref.tell(Worker.crunch)  # type: ignore[call-overload]
    ref.tell(Worker.crunch, "text")  # type: ignore[call-overload]
    ref.stream(Worker.generate)  # type: ignore[call-overload]
    ref.stream(Worker.generate, "hi", max_tokens="many")  # type: ignore[arg-type]
    ref.stream(Worker.load)  # type: ignore[call-overload]
    ref.options(0.5)  # type: ignore[call-arg]
    answer: str = await ref.ask(Worker.load)  # type: ignore[call-overload]
    print(answer)


async def names_as_text(ref: Ref[Worker]) -> None:
    answer: float = await ref.ask("load")
    ref.tell("load")
    async for token in ref.stream("generate", "hi", max_tokens=1):
        print(token, answer)


async def a_protocol_stands_in(ref: Ref[Worker]) -> None:
    only_load: Ref[HasLoad] = ref
    assert_type(await only_load.ask(HasLoad.load), float)
    assert_type(await only_load.proxy.load(), float)
    other: Ref[Router] = ref  # type: ignore[assignment]
    print(other)


def references(ref: Ref[Worker]) -> None:
    assert_type(ref.options(deadline_s=0.5, retries=2, on_down=OnDown.WAIT), Ref[Worker])
    assert_type(ref.options(deadline_s=math.inf), Ref[Worker])
    assert_type(ref.options(message_id="order-7"), Ref[Worker])
    assert_type(ref.instance(3), Ref[Worker])
    assert_type(ref.instances(), list[Ref[Worker]])
    assert_type(ref.name, str)


async def death_watch(ref: Ref[Worker]) -> None:
    watch = ref.instance(0).watch()
    assert_type(watch, AwaitableWatch[Down])
    assert_type(await watch, Down)
    async with ref.instance(0).watch() as other:
        assert_type((await other).reason, str)


async def script() -> None:
    async with System() as system:
        workers = await system.spawn(Worker, "tiny", replicas=2, processes=2)
        assert_type(workers, Ref[Worker])
        assert_type(await workers.ask(Worker.load), float)
        await system.spawn(Router, workers, mailbox=MailboxPolicy(messages=10, overflow=Overflow.REJECT))
        assert_type(system.ref("worker", Worker), Ref[Worker])
        assert_type(await system.spawn(Worker, "a", durable=DurablePolicy(max_deliver=3)), Ref[Worker])
        assert_type((await system.replay("worker", from_sequence=5)).failed, int)


async def settings() -> None:
    async with System(namespace="demo", plane="tcp", settings=NetworkSettings(port=0)):
        pass


def failures(error: CallboardError) -> None:
    assert_type(error.executed, Executed)
    assert_type(error.retry_is_safe, bool)
    assert_type((error.actor, error.incarnation), tuple[str, int])
    assert_type(outcome(error), Outcome)
    if isinstance(error, ActorError):
        assert_type(error.items, int)
    elif isinstance(error, TransportError):
        print(error)


async def test_with_a_cluster(cluster: Cluster) -> None:
    assert_type(await cluster.up("serve.toml", plane="tcp"), System)
    assert_type(await cluster.up(Path("serve.toml")), System)
    assert_type(await cluster.system(), System)
    assert_type(cluster.logs(), dict[str, str])
