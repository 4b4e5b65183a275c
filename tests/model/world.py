"""The real parts: nodes on the memory plane, callers in tasks of their own, and the faults between them.

What a supervisor would do and tell everybody, a `World` does by hand. Everything that happens is reported to the
reference; `check` compares with it what the nodes say of themselves.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

from callboard.actors import outlet, producer, stream
from callboard.actors.directory import Location
from callboard.actors.policy import MailboxPolicy, OnDown, Overflow, StopReason
from callboard.actors.ref import Ref

from .clockwork import Clockwork
from .process import Process
from .reference import Breach, Life, Message, Reference, Run
from .subjects import CLASSES, Gates

STREAM_WINDOW = 4
"""Items that a reader grants: so few that producers wait."""


class World:
    """Three processes, their actors, and everybody who calls."""

    def __init__(self) -> None:
        self.clock = Clockwork()
        self.gates = Gates()
        self.reference = Reference(lambda: self.clock.now_s)
        self.processes: dict[str, Process] = {}
        self.graveyard: list[Process] = []
        self.unburied: dict[str, Process] = {}
        """Dead, and nobody was told yet."""
        self.shapes: dict[str, tuple[int, Overflow, int]] = {}
        self.chores: set[asyncio.Task[None]] = set()
        """What a supervisor does meanwhile."""
        self.breach: Breach | None = None
        self._numbers = itertools.count(1)
        self._patches = ExitStack()
        for module in (outlet, producer, stream):
            self._patches.enter_context(patch.object(module, "WINDOW_ITEMS", STREAM_WINDOW))

    def close(self) -> None:
        """Leave nothing behind, whatever state everything is in."""
        try:
            for process in self.living():
                self.chore(process.node.close(grace_s=0))
            self.gates.release_all()
            self.clock.advance(5)
            for task in asyncio.all_tasks(self.clock.loop):
                task.cancel()
            self.clock.settle()
        finally:
            self._patches.close()
            self.clock.close()

    # -- the reference

    def report(self, tell: Callable[..., None], *facts: Any, **more: Any) -> None:
        """Tell the reference; a breach is kept, because who reports it may be a handler."""
        try:
            tell(*facts, **more)
        except Breach as breach:
            self.breach = self.breach or breach

    def message(self, kind: str, sender: str, target: str, method: str, **facts: Any) -> Message:
        """Make a message that is about to be sent."""
        message = Message(next(self._numbers), kind, sender, target, method, **facts)
        self.reference.messages[message.number] = message
        return message

    # -- what a supervisor does

    def boot(self, name: str) -> None:
        """Start a process, again if it has died."""
        incarnation = 1 + sum(process.name == name for process in self.graveyard)
        if name in self.unburied:
            self.bury(name)
        process = self.processes[name] = Process(self, name, incarnation)
        self.clock.run(process.node.start())
        for other in self.living():
            for actor in other.node.cells.values():
                if actor.takes_mail:
                    process.node.add_location(actor.location)
        self.reference.note(f"{name} is up")

    def living(self) -> list[Process]:
        """Every process that has not died."""
        return [process for process in self.processes.values() if process.alive]

    def spawn(self, actor: str, home: str, limit: int, overflow: Overflow, concurrency: int) -> None:
        """Start an actor, or its next incarnation, and tell everybody."""
        self.shapes[actor] = (limit, overflow, concurrency)
        self.publish(self.clock.run(self._spawn(actor, home)))

    async def _spawn(self, actor: str, home: str) -> Location:
        limit, overflow, concurrency = self.shapes[actor]
        life = Life(actor, len(self.reference.lives.get(actor, [])) + 1, home, limit, overflow, concurrency)
        self.report(self.reference.spawned, life)
        process = self.processes[home]
        policy = MailboxPolicy(messages=limit, overflow=overflow)
        await process.node.spawn(
            CLASSES[concurrency], process, name=actor, incarnation=life.incarnation, mailbox=policy
        )
        location = process.node.location(actor)
        assert location is not None
        return location

    def revive(self) -> None:
        """Start again whatever is down."""
        for name, process in list(self.processes.items()):
            if not process.alive:
                self.boot(name)
        for actor, shape in self.shapes.items():
            home = self.reference.lives[actor][-1].home
            if self.reference.current(actor) is None:
                self.spawn(actor, home, *shape)

    def publish(self, location: Location) -> None:
        """Tell everybody where an actor is."""
        self.reference.lives[location.name][location.incarnation - 1].told = True
        for process in self.living():
            if process.node.id != location.node:
                process.node.add_location(location)

    def down(self, actor: str, incarnation: int, why: str) -> None:
        """An incarnation is over: tell everybody."""
        (life,) = (life for life in self.reference.lives[actor] if life.incarnation == incarnation)
        self.report(self.reference.ended, life, why)
        for process in self.living():
            process.node.remove_location(actor, incarnation, why)

    def stop(self, actor: str, grace_s: float, *, again_after_s: float | None = None) -> None:
        """Begin to stop an actor. It starts again at once if others are to hear of both so many seconds later."""
        life = self.reference.current(actor)
        assert life is not None
        life.stopping, life.troubled = True, "it is being stopped"
        process = self.processes[life.home]
        self.reference.note(f"{actor} is to stop within {grace_s} s")

        async def stop() -> None:
            await process.node.stop_actor(actor, StopReason.COMMANDED, grace_s=grace_s)
            self.report(self.reference.ended, life, "it was stopped")
            location = None
            if again_after_s is not None and process.alive:
                location = await self._spawn(actor, life.home)
                self.reference.lives[actor][-1].told = False
                await asyncio.sleep(again_after_s)
            if process.alive:
                self.down(actor, life.incarnation, "it was stopped")
                current = self.reference.current(actor)
                if location is not None and current and current.incarnation == location.incarnation:
                    self.publish(location)

        self.chore(stop())

    def chore(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something in the background."""
        task = self.clock.loop.create_task(work)
        self.chores.add(task)
        task.add_done_callback(self.chores.discard)

    def kill(self, name: str, *, told: bool) -> None:
        """A process dies without a word. Others see their links break, and are told if ``told``."""
        process = self.processes[name]
        self.graveyard.append(process)
        for message in self.reference.messages.values():
            if message.sender == name and not (message.over and message.outcome != "accepted"):
                message.lost = True  # a tell that was accepted may wait there
            for run in message.runs:
                if not run.ended and self._home(run) == name:
                    run.ended = "died"
        for lives in self.reference.lives.values():
            for life in lives:
                if life.home == name:
                    self.report(self.reference.ended, life, f"{name} was killed")
        with self.clock.inside():
            process.die()
        self.chore(process.node.close(grace_s=0))
        self.unburied[name] = process
        if told:
            self.bury(name)

    def bury(self, name: str) -> None:
        """Tell everybody that a process is dead."""
        dead = self.unburied.pop(name)
        self.reference.note(f"everybody is told that {name} is dead")
        with self.clock.inside():
            for process in self.living():
                process.node.node_down(dead.node.id, "it was killed")

    def cut(self, name: str) -> None:
        """Break every link that was dialled to a process."""
        self.reference.trouble(name, "its links are cut")
        with self.clock.inside():
            self.processes[name].server.cut()

    def disturb(self, name: str, fault: str) -> None:
        """Links that were dialled to a process carry nothing, or nothing at once."""
        self.reference.trouble(name, f"{fault} on its links")
        setattr(self.processes[name].server.faults, fault, 0.7 if fault == "delay_s" else True)

    def heal(self) -> None:
        """Take every fault back; what waits arrives."""
        for process in self.living():
            if process.faulty:
                self.reference.note(f"links to {process.name} heal")
                process.server.faults.delay_s = 0.0
                process.server.resume()

    def is_free(self, actor: str, home: str) -> bool:
        """True if no older incarnation of an actor is still in a process."""
        return self.processes[home].node.location(actor) is None

    def _home(self, run: Run) -> str:
        (life,) = (life for life in self.reference.lives[run.actor] if life.incarnation == run.incarnation)
        return life.home

    # -- what callers do

    def tell(self, message: Message) -> None:
        """Tell, in a task, so that messages leave in the order of the calls."""

        process = self.processes[message.sender]

        async def tell() -> None:
            ref = process.node.ref(message.target)
            self._sends(process, message, ref, exact=True)
            try:
                ref.tell(message.method, message.number)
            except Exception as error:
                self._failed(message, error)
            else:
                self.report(self.reference.value, message.number, None)

        self._call(message, tell())

    def tell_wait(self, message: Message, **options: Any) -> None:
        """Tell as soon as there is room."""

        process = self.processes[message.sender]

        async def tell() -> None:
            ref = process.node.ref(message.target).options(**options)
            self._sends(process, message, ref)
            try:
                await ref.tell_wait(message.method, message.number)
            except Exception as error:
                self._failed(message, error)
            else:
                self.report(self.reference.value, message.number, None)

        self._call(message, tell())

    def asks(self, message: Message, path: list[str] | None = None, **options: Any) -> None:
        """Ask; ``path`` is who is to ask whom then."""
        process = self.processes[message.sender]
        ref = process.node.ref(message.target).options(**options)
        arguments = () if path is None else ([process.node.ref(name) for name in path],)
        self._call(message, self.ask(process, message, ref, arguments))

    async def ask(
        self, process: Process, message: Message, ref: Ref[Any], arguments: tuple[Any, ...]
    ) -> None:
        """Ask and report the outcome. Raises what a nested ask raises."""
        self._sends(process, message, ref)
        try:
            answer = await ref.ask(message.method, message.number, *arguments)
        except Exception as error:
            self._failed(message, error)
            if message.nested:
                raise
        else:
            self.report(self.reference.value, message.number, answer)

    def streams(self, message: Message, leave_after: int | None, *, slow: bool, **options: Any) -> None:
        """Read a stream; a slow reader waits at a gate after each item."""
        process = self.processes[message.sender]
        ref = process.node.ref(message.target).options(**options)

        async def read() -> None:
            self._sends(process, message, ref)
            try:
                async with ref.stream(message.method, message.number, message.items) as items:
                    async for item in items:
                        self.report(self.reference.item, message.number, item)
                        if message.arrived == leave_after:
                            message.cancelled = True
                            break
                        if slow:
                            await self.gates.pass_through(-message.number)
            except Exception as error:
                self._failed(message, error)
            else:
                if message.cancelled:
                    self.report(self.reference.left, message.number)
                else:
                    runs = [run.incarnation for run in message.runs]
                    self.report(self.reference.value, message.number, [message.number, *runs[-1:]])

        self._call(message, read())

    def _call(self, message: Message, work: Coroutine[Any, Any, None]) -> None:
        process = self.processes[message.sender]
        task = self.clock.loop.create_task(work)
        process.callers[task] = message

        def done(task: asyncio.Task[None]) -> None:
            del process.callers[task]
            if task.cancelled() and message.sent:
                self.report(self.reference.left, message.number)

        task.add_done_callback(done)

    def _sends(self, process: Process, message: Message, ref: Ref[Any], *, exact: bool = False) -> None:
        """Report a call just before it is made, and which incarnation it is meant for."""
        known = 0
        location = process.node.directory.get(message.target)
        if location is not None and ref._on_down is OnDown.FAIL:
            with contextlib.suppress(Exception):
                route = ref._target.pick()
                if exact or not (route.crowded or (message.kind == "tell_wait" and route.full)):
                    known = location.incarnation
        self.report(self.reference.sends, message, known)

    def _failed(self, message: Message, error: Exception) -> None:
        self.report(self.reference.error, message.number, error)

    def callers(self) -> list[tuple[asyncio.Task[None], Message]]:
        """Everybody who waits for an outcome."""
        return [entry for process in self.living() for entry in process.callers.items()]

    def leave(self, which: int) -> None:
        """Cancel a caller."""
        callers = self.callers()
        task, message = callers[which % len(callers)]
        message.cancelled = True
        self.reference.note(f"the caller of {message.number} leaves")
        task.cancel()
