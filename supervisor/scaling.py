"""More or fewer instances of a component, while the system runs.

New instances get the lowest numbers that are free, each in a process of its own, of the group that the component is in.
Instances go from the highest number down: each is drained as in a stop, then its process ends if nobody else is in it.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterable, Mapping

from callboard.actors.policy import DownKind, StopReason
from callboard.transports.errors import ConfigError, did_you_mean

from . import control
from .errors import SupervisionError
from .placement import Instance, ProcessPlan, substitute
from .running import RunningProcess
from .slots import ActorSlot, ProcessSlot
from .spec import ActorSpec
from .status import State
from .stopping import LEAST_S
from .supervisor import Supervisor


async def scale(supervisor: Supervisor, component: str, replicas: int, grace_s: float) -> None:
    """Bring a component to ``replicas`` instances; returns when the new are ready and the superfluous are gone.

    Raises `ConfigError` for a component that there is not, or a count below 1; `StartupFailed` if an instance does not
    start (then those that did stay); `SupervisionError` if the component is being scaled, or the system is stopping.
    """
    found = _instances(supervisor, component)
    if not found:
        known = sorted(
            {actor.instance.spec.name for slot in supervisor.slots.values() for actor in slot.actors.values()}
        )
        near = did_you_mean(component, known)
        raise ConfigError(f'there is no component "{component}"; components are: {", ".join(known)}{near}')
    if replicas < 1:
        raise ConfigError(f"replicas is {replicas}; it must be at least 1")
    if component in supervisor.scaling:
        raise SupervisionError(f"{component} is being scaled already; wait for that")
    supervisor.scaling.add(component)
    try:
        if replicas > len(found):
            await _grow(supervisor, found, replicas - len(found))
        else:
            going: dict[ProcessSlot, list[ActorSlot]] = {}
            for slot, actor in sorted(found, key=lambda pair: pair[1].instance.index)[replicas:]:
                actor.retiring = True
                going.setdefault(slot, []).append(actor)
            await asyncio.gather(
                *(_retire(supervisor, slot, actors, grace_s) for slot, actors in going.items())
            )
    finally:
        supervisor.scaling.discard(component)


def _instances(supervisor: Supervisor, component: str) -> list[tuple[ProcessSlot, ActorSlot]]:
    return [
        (slot, actor)
        for slot in supervisor.slots.values()
        for actor in slot.actors.values()
        if actor.instance.spec.name == component and not actor.retiring
    ]


async def _grow(supervisor: Supervisor, found: list[tuple[ProcessSlot, ActorSlot]], count: int) -> None:
    model, actor = found[0]
    spec, group, template = actor.instance.spec, model.plan.group, model.plan.template
    names = {instance for slot in supervisor.slots.values() for instance in slot.actors}
    places = _free((f"{group}.{index}" in supervisor.slots for index in itertools.count()), count)
    indexes = _free((f"{spec.name}.{index}" in names for index in itertools.count()), count)
    plans = [
        _plan(supervisor, spec, group, place, index, template)
        for place, index in zip(places, indexes, strict=True)
    ]
    try:
        await supervisor.launch(plans)
    except BaseException:
        if not supervisor.stopping:
            await supervisor.discard([plan.name for plan in plans if not _is_ready(supervisor, plan)])
        raise


def _plan(
    supervisor: Supervisor, spec: ActorSpec, group: str, place: int, index: int, template: Mapping[str, str]
) -> ProcessPlan:
    """A process for one instance. Incarnations go on where they ended: an older one than the known is ignored."""
    retired = supervisor.retired
    instance = Instance(spec, index, retired.get(f"{spec.name}.{index}", 0))
    namespace = supervisor.options.namespace
    env = {key: substitute(text, index=place, namespace=namespace) for key, text in template.items()}
    return ProcessPlan(group, place, (instance,), env, template, retired.get(f"{group}.{place}", 0))


def _free(taken: Iterable[bool], count: int) -> list[int]:
    return list(itertools.islice((number for number, is_taken in enumerate(taken) if not is_taken), count))


def _is_ready(supervisor: Supervisor, plan: ProcessPlan) -> bool:
    slot = supervisor.slots.get(plan.name)
    return slot is not None and slot.state is State.READY


async def _retire(supervisor: Supervisor, slot: ProcessSlot, actors: list[ActorSlot], grace_s: float) -> None:
    """Drain and stop actors of one process, and end it if there are no others in it."""
    deadline = time.monotonic() + grace_s
    is_empty = all(actor.retiring for actor in slot.actors.values())
    if is_empty:
        await _leave_alone(slot)
    running = slot.running
    if running is not None:
        await asyncio.gather(*(_stop(supervisor, running, actor, grace_s) for actor in actors))
    for actor in actors:
        actor.state, actor.location = State.STOPPED, None
        supervisor.retired[actor.name] = actor.incarnation
    if is_empty:
        if running is not None:
            left = max(LEAST_S, deadline - time.monotonic())
            running.send(control.Stop(left))
            await running.gone(left)
        supervisor.retired[slot.name] = slot.incarnation
        await supervisor.discard([slot.name])


async def _stop(supervisor: Supervisor, running: RunningProcess, actor: ActorSlot, grace_s: float) -> None:
    if actor.location is None:
        return
    actor.state = State.STOPPING
    message = control.StopActor(actor.name, StopReason.SHUTDOWN.value, grace_s)
    if await running.stop_actor(message, grace_s + LEAST_S):
        supervisor.roster.remove(actor.name, actor.incarnation, "it was scaled down", DownKind.STOPPED)


async def _leave_alone(slot: ProcessSlot) -> None:
    """Whatever becomes of this process, it is not started again."""
    slot.opening = True
    if slot.recovery is not None and not slot.recovery.done():
        slot.recovery.cancel()
        await asyncio.wait((slot.recovery,))
        slot.opening = True
