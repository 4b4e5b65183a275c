"""Actors that the supervisor's tests start in processes of their own, by class path."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from callboard.actors.actor import Actor, idempotent
from callboard.actors.policy import OnDown, StopReason
from callboard.actors.ref import Down, Ref


class Echo(Actor):
    """Answers, counts, sleeps, fails and dies on demand."""

    concurrency = 100

    def __init__(self, greeting: str = "hello", name: str = "") -> None:
        self.greeting = greeting
        self.name = name

    async def hello(self, name: str) -> str:
        return f"{self.greeting} {name}"

    async def add(self, a: int, b: int = 1) -> int:
        return a + b

    async def where(self) -> dict[str, Any]:
        context = self.context
        return {"name": context.name, "pid": os.getpid(), "incarnation": context.incarnation}

    async def environment(self, name: str) -> str:
        return os.environ.get(name, "")

    async def arguments(self) -> dict[str, Any]:
        return {"greeting": self.greeting, "name": self.name}

    async def count_to(self, last: int) -> AsyncIterator[int]:
        for number in range(1, last + 1):
            yield number

    async def count_slowly(self) -> AsyncIterator[int]:
        number = 0
        while True:
            yield (number := number + 1)
            await asyncio.sleep(0.02)

    async def wait(self, seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "waited"

    async def wait_for(self, path: str) -> str:
        await appears(path)
        return "waited"

    async def block(self, seconds: float) -> None:
        time.sleep(seconds)  # noqa: ASYNC251

    async def block_until(self, path: str) -> None:
        while not Path(path).exists():
            time.sleep(0.01)  # noqa: ASYNC251

    async def hold_on(self) -> None:
        while True:
            try:
                await asyncio.sleep(600)
            except asyncio.CancelledError:
                continue

    async def fail(self, text: str) -> None:
        raise ValueError(text)

    async def exit(self, code: int) -> None:
        os._exit(code)

    async def crash(self, number: int) -> None:
        os.kill(os.getpid(), number)

    async def print_line(self, text: str) -> None:
        print(text)

    async def leave_a_grandchild(self) -> int:
        sleeper = [sys.executable, "-c", "import time; time.sleep(600)"]
        return subprocess.Popen(sleeper, start_new_session=True).pid

    async def interrupt_a_grandchild(self) -> int:
        child = subprocess.Popen(["sleep", "600"])
        child.send_signal(signal.SIGINT)
        return child.wait(20)

    async def ignore_sigterm(self) -> None:
        asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


async def appears(path: str | Path) -> None:
    """Return when there is a file of this name."""
    while not Path(path).exists():  # noqa: ASYNC110
        await asyncio.sleep(0.01)


class Gate(Actor):
    """Holds asks and streams until it is opened, so that a test knows what is in flight."""

    concurrency = 100

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.holding = 0

    async def hold(self) -> int:
        self.holding += 1
        await self.opened.wait()
        return self.context.index

    @idempotent
    async def hold_again(self) -> int:
        return await self.hold()

    async def hold_stream(self) -> AsyncIterator[int]:
        yield self.context.index
        yield await self.hold()

    async def held(self) -> int:
        return self.holding

    async def open(self) -> None:
        self.opened.set()

    async def open_when(self, path: str) -> None:
        self.holding += 1
        await appears(path)
        self.opened.set()

    async def incarnation(self) -> int:
        return self.context.incarnation


class OneByOne(Actor):
    """Handles one message at a time."""

    async def wait_for(self, path: str) -> str:
        await appears(path)
        return "waited"


class Slow(Actor):
    """Is ready when a file is there; ``{index}`` in its name is filled in."""

    def __init__(self, ready: str, blocking: bool = False) -> None:
        self.ready = Path(ready.replace("{index}", str(self.context.index)))
        while blocking and not self.ready.exists():
            time.sleep(0.01)

    async def on_start(self) -> None:
        await appears(self.ready)

    async def ping(self) -> int:
        return self.context.incarnation

    async def fail(self) -> None:
        raise ValueError("asked to")


class Patient(Actor):
    """Asks a slow one, and waits for it or not."""

    def __init__(self, slow: Ref[Slow]) -> None:
        self.slow = slow

    async def ping(self) -> int:
        return await self.slow.ask(Slow.ping)

    async def ping_when_up(self) -> int:
        return await self.slow.options(on_down=OnDown.WAIT).ask(Slow.ping)


class Recorder(Actor):
    """Writes a line at each step of its life to a file, so that a test sees the order of several."""

    def __init__(self, path: str, needs: Ref[Recorder] | None = None, slow_stop_s: float = 0.0) -> None:
        self.path, self.needs, self.slow_stop_s = path, needs, slow_stop_s

    def note(self, what: str) -> None:
        with Path(self.path).open("a") as file:
            file.write(f"{what} {self.context.name}\n")

    async def on_start(self) -> None:
        if self.needs is not None:
            await self.needs.ask(Recorder.alive)
        self.note("start")

    async def on_stop(self, reason: StopReason) -> None:
        await asyncio.sleep(self.slow_stop_s)
        self.note(f"stop:{reason.value}")

    async def alive(self) -> bool:
        return True

    async def fail(self) -> None:
        raise ValueError("asked to")


class Caller(Actor):
    """Calls another actor through a reference nested in its arguments."""

    def __init__(self, targets: dict[str, list[Ref[Echo]]]) -> None:
        self.target = targets["echo"][0]

    async def ask_hello(self, name: str) -> str:
        return await self.target.ask(Echo.hello, name)


class Announcer(Actor):
    """Announces a line when it starts."""

    async def on_start(self) -> None:
        self.context.announce(f"announced by {self.context.name}")


class Broken(Actor):
    """Fails to start, in the constructor or in its hook."""

    def __init__(self, where: str = "constructor", after: Ref[Actor] | None = None) -> None:
        self.where, self.after = where, after
        if where == "grandchild":
            sleeper = [sys.executable, "-c", "import time; time.sleep(600)"]
            raise RuntimeError(f"left {subprocess.Popen(sleeper, start_new_session=True).pid}")
        if where == "constructor":
            raise RuntimeError("the constructor failed")

    async def on_start(self) -> None:
        if self.where == "exit":
            print("last words in the log")
            os._exit(7)
        if self.where == "hang":
            await asyncio.sleep(600)
        raise RuntimeError("the hook failed")


class DiesAtOnce(Actor):
    """Takes its process along as soon as it is ready, while there is a certain file."""

    def __init__(self, path: str) -> None:
        self.path = path

    async def on_start(self) -> None:
        if Path(self.path).exists():
            asyncio.get_running_loop().call_later(0.01, os._exit, 9)

    async def incarnation(self) -> int:
        return self.context.incarnation


class FailsAtOnce(Actor):
    """Is ready, and fails in the first message it handles."""

    async def on_start(self) -> None:
        asyncio.get_running_loop().call_soon(self.context.ref.tell, FailsAtOnce.fail)

    async def fail(self) -> None:
        raise ValueError("at once")


class FailsLater(Actor):
    """Starts once, then never again: a file remembers."""

    def __init__(self, path: str) -> None:
        file = Path(path)
        if file.exists():
            raise RuntimeError("once is enough")
        file.touch()

    async def die(self) -> None:
        os._exit(9)


class Mourner(Actor):
    """Watches whom it is told to, and writes down what it hears, to a file if it has one."""

    def __init__(self, path: str = "") -> None:
        self.path = path
        self.downs: list[list[Any]] = []

    async def on_down(self, down: Down) -> None:
        self.downs.append([down.name, down.incarnation, down.kind.value])
        if self.path:
            with Path(self.path).open("a") as file:
                file.write(f"{down.name} {down.incarnation} {down.kind.value}\n")

    async def watch(self, ref: Ref[Any]) -> None:
        self.context.watch(ref)

    async def heard(self) -> list[list[Any]]:
        return self.downs


class NotAnActor:
    """What a config might name by mistake."""
