"""The places that outlive what is in them: a slot keeps its name, counts and budget over incarnations."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field

from callboard.actors.directory import Location

from . import control
from .budget import Budget
from .child import mailbox_to_wire
from .placement import Instance, ProcessPlan
from .running import RunningProcess
from .status import ActorStatus, ProcessStatus, State


@dataclass(slots=True, eq=False)
class ActorSlot:
    """The place of one actor."""

    instance: Instance
    budget: Budget
    incarnation: int = 0
    failed: int = 0
    """The last incarnation that failed after it was ready."""
    restarts: int = 0
    state: State = State.STARTING
    last_error: str = ""
    backoff_s: float = 0.0
    location: Location | None = None
    retiring: bool = False
    """It is being given up: nothing starts it again."""

    @classmethod
    def of(cls, instance: Instance) -> ActorSlot:
        """An empty place."""
        return cls(instance, Budget(instance.spec.restart), instance.before)

    @property
    def name(self) -> str:
        """Name of the instance."""
        return self.instance.name

    def start_message(self) -> control.StartActor:
        """What starts the current incarnation."""
        spec = self.instance.spec
        return control.StartActor(
            name=self.name,
            incarnation=self.incarnation,
            class_path="" if spec.payload else spec.class_path,
            args=list(spec.args),
            kwargs=dict(spec.kwargs),
            payload=spec.payload,
            mailbox=mailbox_to_wire(spec.mailbox),
        )

    def status(self, counters: dict[str, object]) -> ActorStatus:
        """What it looks like now."""
        return ActorStatus(
            name=self.name,
            kind=self.instance.spec.class_path,
            state=self.state,
            incarnation=self.incarnation,
            restarts=self.restarts,
            last_error=self.last_error,
            backoff_s=round(self.backoff_s, 3),
            counters=counters,
        )


@dataclass(slots=True, eq=False)
class ProcessSlot:
    """The place of one process. ``opening`` while somebody waits for its start and hears of its end."""

    plan: ProcessPlan
    position: int
    actors: dict[str, ActorSlot]
    log: str
    running: RunningProcess | None = None
    opening: bool = False
    cleaning: asyncio.Task[None] | None = None
    recovery: asyncio.Task[None] | None = None
    incarnation: int = 0
    restarts: int = 0
    state: State = State.STARTING
    last_exit: str = ""
    spawned_at: float = 0.0
    ready_s: float = 0.0
    counters: dict[str, dict[str, object]] = field(default_factory=dict)

    @classmethod
    def of(cls, plan: ProcessPlan, position: int, log: str) -> ProcessSlot:
        """An empty place; ``position`` counts all processes of the system."""
        actors = {instance.name: ActorSlot.of(instance) for instance in plan.instances}
        return cls(plan, position, actors, log, incarnation=plan.before)

    @property
    def name(self) -> str:
        """Name of the process."""
        return self.plan.name

    def names(self) -> set[str]:
        """The names that nothing else may have: of its group, and of the components in it."""
        return {self.plan.group, *(actor.instance.spec.name for actor in self.actors.values())}

    def status(self) -> ProcessStatus:
        """What it looks like now."""
        running = self.running
        return ProcessStatus(
            name=self.name,
            pid=running.pid if running else 0,
            state=self.state,
            health=running.liveness.health.value if running else "",
            incarnation=self.incarnation,
            restarts=self.restarts,
            last_exit=self.last_exit,
            ready_s=round(self.ready_s, 3),
            address=running.address if running else "",
            log=self.log,
            actors=tuple(actor.status(self.counters.get(name, {})) for name, actor in self.actors.items()),
        )


def not_ready(slots: Iterable[ProcessSlot]) -> list[str]:
    """The actors that are neither ready nor meant to be stopped."""
    settled = (State.READY, State.STOPPED)
    return [actor.name for slot in slots for actor in slot.actors.values() if actor.state not in settled]


async def fetch_counters(slots: Iterable[ProcessSlot], limit_s: float) -> None:
    """Ask every process for the counters of its actors; one that does not answer in time keeps its last ones."""
    asked = [(slot, slot.running) for slot in slots if slot.running and slot.running.node]
    answers = await asyncio.gather(*(running.statistics(limit_s) for _, running in asked))
    for (slot, _), data in zip(asked, answers, strict=True):
        slot.counters = data.get("actors", slot.counters)
