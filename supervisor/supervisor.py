"""The supervisor: spawns processes, starts actors in them in order, and restarts what fails.

It carries out; what follows from a failure is decided in `strategy` and `budget`, where things go in
`placement`, who is where in `roster`. Everything happens on one event loop, in the thread that made it.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from callboard.actors.policy import DownKind, StopReason
from callboard.transports.errors import ConfigError
from callboard.transports.settings import NetworkSettings

from . import control, guardian, ports
from .child import ChildOptions
from .errors import StartInterrupted, StartupFailed, UnknownPlace
from .heartbeat import Heartbeat
from .placement import ProcessPlan, durable_policies, start_levels
from .process import Launch
from .roster import Roster
from .rundir import RuntimeDirectory
from .running import RunningProcess
from .sentry import Sentry
from .slots import ActorSlot, ProcessSlot
from .spec import ActorSpec, Limits
from .status import Announcement, State, announced
from .strategy import Failure, one_for_one

log = logging.getLogger("callboard.supervisor")

SWEEP_LIMIT_S = 2.0
STOP_ATTEMPT_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisorOptions:
    """What holds for all processes of a system."""

    namespace: str
    tree: str
    settings: NetworkSettings
    directory: RuntimeDirectory
    limits: Limits
    import_paths: tuple[str, ...] = ()


class Supervisor:
    """Keeps the processes and actors of one system alive.

    ``on_event`` is told, in one line, what people should know; ``on_failed`` (place, reason) that a budget is
    used up, so that the system must stop.
    """

    def __init__(self, options: SupervisorOptions, roster: Roster) -> None:
        self.options = options
        self.roster = roster
        self.slots: dict[str, ProcessSlot] = {}
        self.announcements: list[Announcement] = []
        self.stopping = False
        self.scaling: set[str] = set()  # components; and the last incarnations of places that were given up
        self.retired: dict[str, int] = {}
        self.on_event: Callable[[str], None] = log.info
        self.on_change: Callable[[], None] = lambda: None
        self.on_failed: Callable[[str, str], None] = lambda place, reason: None
        self._sentry = Sentry(options.tree)
        self._tasks: set[asyncio.Task[None]] = set()
        self._cleaning: set[asyncio.Task[None]] = set()
        self._unfollow: dict[RunningProcess, Callable[[], None]] = {}
        self._beating = self._keep(self._heartbeat().run(), set())

    # -- names

    @property
    def running(self) -> list[RunningProcess]:
        """The processes that exist now, in start order."""
        return [slot.running for slot in self.slots.values() if slot.running is not None]

    @property
    def specs(self) -> list[ActorSpec]:
        """The components, in the order they were launched."""
        actors = [actor for slot in self.slots.values() for actor in slot.actors.values()]
        return list({actor.instance.spec.name: actor.instance.spec for actor in actors}.values())

    def slot(self, name: str) -> ProcessSlot:
        """The process of that name, or the one with the actor of that name. Raises `UnknownPlace`."""
        for slot in self.slots.values():
            if name in slot.actors:
                return slot
        if name in self.slots:
            return self.slots[name]
        known = [*self.slots, *(actor for slot in self.slots.values() for actor in slot.actors)]
        raise UnknownPlace(name, tuple(dict.fromkeys(known)))

    # -- starting

    async def launch(self, plans: Iterable[ProcessPlan]) -> None:
        """Start these processes side by side, then their actors, each after those that it refers to.

        Raises `StartupFailed` for the first that fails; the others are left as they are. Raises `ConfigError` if
        there are too few ports, `StartInterrupted` if the supervisor is told to stop meanwhile.
        """
        if self.stopping:
            raise StartInterrupted()
        slots, plans = [], list(plans)
        positions = self._free_positions(len(plans))
        if problem := ports.problem(self.options.settings, max(positions, default=0) + 1):
            raise ConfigError(problem)
        self.roster.declare(durable_policies(plans))
        for plan, position in zip(plans, positions, strict=True):
            log_path = str(self.options.directory.log_path(plan.name))
            slot = self.slots[plan.name] = ProcessSlot.of(plan, position, log_path)
            slot.opening = True
            slots.append(slot)
        # A task of its own: a stop ends the work without cancelling whoever waits for it.
        work = asyncio.get_running_loop().create_task(self._launch(slots))
        self._tasks.add(work)
        work.add_done_callback(self._tasks.discard)
        try:
            await asyncio.wait((work,))
        except asyncio.CancelledError:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
            raise
        if work.cancelled():
            raise StartInterrupted()
        work.result()

    def _free_positions(self, count: int) -> list[int]:
        taken = {slot.position for slot in self.slots.values()}
        return list(itertools.islice((n for n in itertools.count() if n not in taken), count))

    async def _launch(self, slots: list[ProcessSlot]) -> None:
        await _all(self._open(slot) for slot in slots)
        actors = [(slot, actor) for slot in slots for actor in slot.actors.values()]
        for level in start_levels({a.instance.spec.name: a.instance.spec for _, a in actors}.values()):
            now = [(slot, actor) for slot, actor in actors if actor.instance.spec.name in level]
            await _all(self._start_actor(slot, actor) for slot, actor in now)
        for slot in slots:
            self._complete_at_last(slot)

    def _complete_at_last(self, slot: ProcessSlot) -> None:
        """Every actor was ready; one may have failed since, and even its process may have died of it."""
        if not slot.opening or (slot.recovery is not None and not slot.recovery.done()):
            return
        if slot.running is None:
            self._recover(slot, Failure(reason=f"process {slot.name} {slot.last_exit}"))
        else:
            slot.opening = False
            self._ready_if_complete(slot)

    async def _open(self, slot: ProcessSlot) -> None:
        """Spawn the next incarnation of a process and wait until its node listens."""
        slot.incarnation += 1
        slot.state = State.STARTING
        slot.spawned_at = time.monotonic()
        options = self.options
        settings = replace(options.settings, port=ports.port_of(options.settings, slot.position))
        mark = guardian.mark(options.tree, slot.name, slot.incarnation, os.environ.get(guardian.VARIABLE, ""))
        environment = {"PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1", **os.environ, **slot.plan.env}
        child_options = ChildOptions(
            name=slot.name,
            namespace=options.namespace,
            incarnation=slot.incarnation,
            settings=settings,
            parent_pid=os.getpid(),
            import_paths=options.import_paths,
        )
        launch = Launch(
            environment=environment | {guardian.VARIABLE: mark},
            log_path=options.directory.log_path(slot.name),
        )
        try:
            running = RunningProcess(child_options, launch, told=self._told, exited=self._process_exited)
        except OSError as error:
            raise StartupFailed(slot.name, f"it could not be spawned: {error}") from error
        slot.running = running
        self._sentry.guard(running.pid)
        self.on_change()
        try:
            await running.hello(options.limits.process_start_s)
        except StartupFailed as error:
            raise ports.with_range(error, options.settings, len(self.slots)) from None
        if slot.running is not running:
            raise StartupFailed(slot.name, f"process {slot.name} {slot.last_exit}")
        self._unfollow[running] = self.roster.follow(running.send, node=running.node)

    async def _start_actor(self, slot: ProcessSlot, actor: ActorSlot) -> None:
        running = slot.running
        if running is None:
            raise StartupFailed(actor.name, f"process {slot.name} {slot.last_exit}")
        incarnation = actor.incarnation = actor.incarnation + 1
        actor.state = State.STARTING
        try:
            location = await running.start_actor(actor.start_message(), self.options.limits.actor_start_s)
        except StartupFailed as error:
            actor.state, actor.last_error = State.FAILED, error.why
            raise
        if slot.running is not running:  # its last words were that it is ready
            raise StartupFailed(actor.name, f"process {slot.name} {slot.last_exit}", running.log_tail())
        if actor.failed == incarnation:  # its first message was too much for it; its recovery is under way
            return
        actor.location, actor.state = location, State.READY
        self.roster.add(location)
        self._ready_if_complete(slot)
        self.on_change()

    def _ready_if_complete(self, slot: ProcessSlot) -> None:
        if slot.state is not State.STARTING:
            return
        # From the end: they start in order, and what was looked at for each of thousands would be looked at squared.
        if all(actor.state in (State.READY, State.STOPPED) for actor in reversed(slot.actors.values())):
            slot.state, slot.opening = State.READY, False
            slot.ready_s = time.monotonic() - slot.spawned_at

    async def discard(self, names: Iterable[str]) -> None:
        """Kill processes that did not start, and forget them."""
        slots = [self.slots[name] for name in names if name in self.slots]
        for slot in slots:
            slot.opening = True
        recoveries = [slot.recovery for slot in slots if slot.recovery is not None]
        for recovery in recoveries:
            recovery.cancel()
        if recoveries:
            await asyncio.wait(recoveries)
        await asyncio.gather(*(self._give_up(slot) for slot in slots))
        for slot in slots:
            if slot.running is None:  # what even SIGKILL does not end keeps its name
                self.slots.pop(slot.name, None)

    # -- failing

    def _process_exited(self, running: RunningProcess) -> None:
        slot = self.slots[running.name]
        reason = running.exit_reason
        if slot.running is running:
            slot.running, slot.last_exit = None, reason
            self._take_down(slot, reason)
        if running.node:
            kind = DownKind.STOPPED if self.stopping else DownKind.KILLED
            self.roster.node_down(running.node, f"process {running.name} {reason}", kind)
        self._unfollow.pop(running, lambda: None)()
        slot.cleaning = self._keep(self._clean_up(running), self._cleaning)
        if self.stopping:
            slot.state = State.STOPPED
        elif not slot.opening:
            slot.state = State.RESTARTING
            failure = Failure(reason=f"process {slot.name} {reason}", normal=running.ended_normally)
            self.on_event(f"{slot.name} {reason}")
            self._recover(slot, failure)
        self.on_change()

    def _recover(self, slot: ProcessSlot, failure: Failure) -> None:
        slot.recovery = self._keep(self._recover_process(slot, failure), self._tasks)

    def _take_down(self, slot: ProcessSlot, reason: str) -> None:
        self.announcements = [a for a in self.announcements if a.actor not in slot.actors]
        for actor in slot.actors.values():
            actor.location = None
            if actor.state is not State.STOPPED and not self.stopping:
                actor.state, actor.last_error = State.RESTARTING, reason

    async def _clean_up(self, running: RunningProcess) -> None:
        """Kill what the process left behind; its successor waits for that."""
        running.kill()
        token = f"{self.options.tree}:{running.name}:{running.incarnation}"
        sessions = {running.pid: running.started}
        await asyncio.to_thread(guardian.sweep_until_empty, token, sessions, SWEEP_LIMIT_S)
        self._sentry.release(running.pid)
        await running.close()

    async def _recover_process(self, slot: ProcessSlot, failure: Failure) -> None:
        slot.opening = True
        while True:
            names = [a.name for a in slot.actors.values() if a.state is not State.STOPPED and not a.retiring]
            wait_s, restart = self._decide(slot, names, failure)
            if not restart:
                slot.state = State.STOPPED if wait_s >= 0 else State.FAILED
                break
            await asyncio.sleep(wait_s)
            await self._cleaned(slot)
            slot.restarts += 1
            for name in restart:
                slot.actors[name].restarts += 1
            try:
                await self._reopen(slot, restart)
            except StartupFailed as error:
                log.error("%s", error)
                failure = Failure(reason=f"{error.place} did not start again: {error.why}")
                await self._give_up(slot)
                continue
            self.on_event(f"{slot.name} is back after {slot.ready_s:.1f} s with {', '.join(restart)}")
            break
        slot.opening = False
        self.on_change()

    async def _reopen(self, slot: ProcessSlot, names: Iterable[str]) -> None:
        await self._open(slot)
        for name in names:
            await self._start_actor(slot, slot.actors[name])

    async def _give_up(self, slot: ProcessSlot) -> None:
        """Kill an incarnation that did not start properly, and all that it left."""
        if slot.running is not None:
            slot.running.kill()
            await slot.running.gone(SWEEP_LIMIT_S)
        await self._cleaned(slot)
        slot.state = State.RESTARTING

    async def _cleaned(self, slot: ProcessSlot) -> None:
        """Wait until nothing is left of the last incarnation; whoever is cancelled does not end the cleaning."""
        if slot.cleaning is not None:
            await asyncio.wait((slot.cleaning,))

    async def _recover_actor(self, slot: ProcessSlot, actor: ActorSlot, failure: Failure) -> None:
        """Start one failed actor again in its process, as long as that lives."""
        running = slot.running
        while running is not None and slot.running is running and not actor.retiring:
            wait_s, restart = self._decide(slot, [actor.name], failure)
            if not restart:
                self._ready_if_complete(slot)
                break
            await asyncio.sleep(wait_s)
            if slot.running is not running or actor.retiring:
                break
            actor.restarts += 1
            try:
                await self._start_actor(slot, actor)
            except StartupFailed as error:
                if running.is_gone:
                    break
                failure = Failure(reason=f"{actor.name} did not start again: {error.why}")
                log.error("%s", error)
                # It may still be at it, if its time was up.
                message = control.StopActor(actor.name, StopReason.FAILED.value, 0.0)
                if not await running.stop_actor(message, STOP_ATTEMPT_S):
                    running.kill()
                    break
                continue
            if actor.state is State.READY:
                self.on_event(f"{actor.name} is back in {slot.name}")
            break
        self.on_change()

    def _decide(self, slot: ProcessSlot, names: list[str], failure: Failure) -> tuple[float, tuple[str, ...]]:
        """Wait and names to restart; no names with a wait below 0 if the system stops because of this."""
        affected = [(name, slot.actors[name].budget) for name in names]
        decision, budgets = one_for_one(failure, affected, now=time.monotonic(), random=random.random())
        for name, budget in budgets.items():
            slot.actors[name].budget = budget
        for name in decision.abandon:
            slot.actors[name].state = State.STOPPED
            self.on_event(f"{name} is not restarted, its policy says so: {failure.reason}")
        if decision.escalate:
            actor = slot.actors[decision.escalate]
            actor.state, actor.last_error = State.FAILED, decision.reason
            self.on_failed(decision.escalate, decision.reason)
            return -1.0, ()
        for name in decision.restart:
            slot.actors[name].backoff_s = decision.wait_s
        self.on_change()
        return decision.wait_s, decision.restart

    # -- what children say

    def _told(self, running: RunningProcess, message: control.FromChild) -> None:
        slot = self.slots[running.name]
        if slot.running is not running:
            return
        match message:
            case control.ActorFailed(name, incarnation, error):
                actor = slot.actors[name]
                self.roster.remove(name, incarnation, f"it failed: {error}", DownKind.FAILED)
                if actor.incarnation != incarnation or self.stopping or actor.state is State.STOPPING:
                    return
                actor.failed = incarnation
                actor.location, actor.state, actor.last_error = None, State.RESTARTING, error
                self.announcements = [a for a in self.announcements if a.actor != name]
                self.on_event(f"{name} failed: {error}")
                failure = Failure(reason=f"{name} failed: {error}")
                self._keep(self._recover_actor(slot, actor, failure), self._tasks)
            case control.Publishes() | control.PublishesNoMore():
                self.roster.told(message)
            case control.Announce(name, text):
                self.announcements = announced(self.announcements, Announcement(actor=name, text=text))
        self.on_change()

    # -- tasks and the guardian

    def _keep(self, work: Any, tasks: set[asyncio.Task[None]]) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        task.add_done_callback(self._check_itself)
        return task

    def _check_itself(self, task: asyncio.Task[None]) -> None:
        """A supervisor that fails itself does not go on half: it stops the system."""
        error = None if task.cancelled() else task.exception()
        if error is not None:
            log.error("the supervisor itself failed", exc_info=error)
            self.on_failed("supervisor", f"it failed itself: {type(error).__name__}: {error}")

    def _heartbeat(self) -> Heartbeat:
        return Heartbeat(
            self.options.limits,
            self.slots,
            self.roster,
            each=self._sentry.check,
            frozen=self._is_frozen,
            changed=lambda text: (self.on_event(text), self.on_change()),
        )

    def _is_frozen(self, running: RunningProcess) -> None:
        if self.stopping:  # it cannot hear us, and nobody else is to wait for it
            running.kill()

    async def stop_restarting(self) -> None:
        """Nothing is started again from now on."""
        self.stopping = True
        if self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)

    async def close(self) -> None:
        """When every process is gone: kill what they left, and end the guardian."""
        self._beating.cancel()
        await asyncio.wait((self._beating,))
        while self._cleaning:
            await asyncio.wait(self._cleaning)
        await self._sentry.close()


async def _all(work: Iterable[Any]) -> None:
    """Run side by side; the first error cancels the others and is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            for coroutine in work:
                group.create_task(coroutine)
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
