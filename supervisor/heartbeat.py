"""The supervisor's pulse: asks every process whether it lives, and says when one is stalled or frozen."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

from callboard.actors.policy import DownKind

from . import control
from .liveness import Health, is_stopped, judge
from .roster import Roster
from .running import RunningProcess
from .slots import ProcessSlot
from .spec import Limits

OWN_PAUSE_FACTOR = 4
"""Between two beats so many intervals apart, we ourselves were not running."""


class Heartbeat:
    """Looks after the health of processes.

    A frozen one counts as down until it answers again: what waits for it fails, and nobody asks it anything.
    A stalled one keeps what it has, because it may go on.
    """

    def __init__(
        self,
        limits: Limits,
        slots: Mapping[str, ProcessSlot],
        roster: Roster,
        *,
        each: Callable[[], None],
        frozen: Callable[[RunningProcess], None],
        changed: Callable[[str], object],
    ) -> None:
        """``each`` is called at every beat, ``changed`` with a line for people when the health changed."""
        self._limits, self._slots, self._roster = limits, slots, roster
        self._each, self._frozen, self._changed = each, frozen, changed

    async def run(self) -> None:
        """Beat until cancelled."""
        interval_s = self._limits.heartbeat_s
        last = time.monotonic()
        while True:
            await asyncio.sleep(interval_s)
            now = time.monotonic()
            was_paused = now - last > OWN_PAUSE_FACTOR * interval_s
            last = now
            self._each()
            for slot in list(self._slots.values()):
                if slot.running is None or not slot.running.node:
                    continue
                if was_paused:
                    slot.running.liveness.forgive()
                self._look_at(slot, now)
                slot.running.send(control.Ping(slot.running.liveness.ask(now)))

    def _look_at(self, slot: ProcessSlot, now: float) -> None:
        running = slot.running
        assert running is not None
        liveness = running.liveness
        silent_s = liveness.silent_s(now)
        health = judge(silent_s, self._limits.silence_s, stopped=silent_s > 0 and is_stopped(running.pid))
        before = liveness.health
        # A long import or constructor blocks the loop of a starting process; its own limit watches over that.
        if health is before or (health is Health.STALLED and slot.opening):
            return
        liveness.health = health
        if health is Health.FROZEN:
            self._roster.node_down(running.node, f"process {slot.name} is frozen", DownKind.UNREACHABLE)
            self._frozen(running)
        elif before is Health.FROZEN:
            self._roster.add(*(a.location for a in slot.actors.values() if a.location is not None))
            self._roster.node_back(running.node)
        self._changed(_in_words(slot.name, health, silent_s))


def _in_words(name: str, health: Health, silent_s: float) -> str:
    match health:
        case Health.FROZEN:
            return f"{name} is frozen: it was stopped by a signal"
        case Health.STALLED:
            return f"{name} has not answered for {silent_s:.1f} s: something blocks its event loop"
        case Health.ALIVE:
            return f"{name} answers again"
