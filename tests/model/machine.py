"""The state machines that play: `Talk` sends, leaves and waits; the others add ends, faults, or all of it and death.

Fewer rules reach deeper: what needs no fault is found sooner without.
"""

from __future__ import annotations

import sys

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from callboard.actors.policy import OnDown, Overflow

from . import inspection
from .process import SETTINGS
from .reference import Life
from .watching import Watchers
from .world import World

NODES = ("north", "south", "west")
HOMES = {"a.0": "north", "b.0": "south", "w.0": "north", "w.1": "south"}

nodes = st.sampled_from(NODES)
targets = st.sampled_from(["a.0", "b.0", "w", "w.1"])
instances = st.sampled_from(list(HOMES))
which = st.integers(0, 9)
deadlines = st.sampled_from([None, 0.5, 3.0])
patience = st.sampled_from(list(OnDown))


class Talk(RuleBasedStateMachine):
    """Three nodes; a.0 as drawn, b.0 and the two of component w one at a time with small mailboxes."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.watchers = Watchers(self.world)

    @initialize(
        overflow=st.sampled_from(list(Overflow)), limit=st.integers(1, 4), concurrency=st.sampled_from([1, 3])
    )
    def start(self, overflow: Overflow, limit: int, concurrency: int) -> None:
        self.shape = (limit, overflow, concurrency)
        for name in NODES:
            self.world.boot(name)
        for actor, home in HOMES.items():
            self._spawn(actor, home)

    def _spawn(self, actor: str, home: str) -> None:
        self.world.spawn(actor, home, *(self.shape if actor == "a.0" else (2, Overflow.REJECT, 1)))

    def _message(self, kind: str, sender: str, to: str, method: str, deadline: float | None, **facts):
        budget = deadline
        if budget is None:
            budget = float("inf") if kind == "stream" else SETTINGS.request_timeout_s
        return self.world.message(
            kind, sender, to, method, deadline_s=self.world.clock.now_s + budget, **facts
        )

    def _up(self, node: str) -> bool:
        return self.world.processes[node].alive

    # -- sending

    @rule(sender=nodes, to=targets, method=st.sampled_from(["quick", "plain", "gated", "beside", "deaf"]))
    def tell(self, sender: str, to: str, method: str) -> None:
        if self._up(sender):
            self.world.tell(self._message("tell", sender, to, method, None))

    @rule(sender=nodes, to=targets, method=st.sampled_from(["quick", "gated"]), deadline=deadlines,
          on_down=patience)  # fmt: skip
    def tell_wait(self, sender: str, to: str, method: str, deadline: float | None, on_down: OnDown) -> None:
        if self._up(sender):
            message = self._message("tell_wait", sender, to, method, deadline)
            self.world.tell_wait(message, deadline_s=deadline, on_down=on_down)

    @rule(sender=nodes, to=targets, deadline=deadlines, on_down=patience,
          method=st.sampled_from(["quick", "plain", "gated", "boom", "beside", "deaf"]))  # fmt: skip
    def ask(self, sender: str, to: str, method: str, deadline: float | None, on_down: OnDown) -> None:
        if self._up(sender):
            message = self._message("ask", sender, to, method, deadline)
            self.world.asks(message, deadline_s=deadline, on_down=on_down)

    @rule(sender=nodes, path=st.lists(instances, min_size=2, max_size=4), deadline=deadlines)
    def ask_via(self, sender: str, path: list[str], deadline: float | None) -> None:
        if self._up(sender):
            message = self._message("ask", sender, path[0], "via", deadline)
            self.world.asks(message, path[1:], deadline_s=deadline)

    @rule(sender=nodes, to=targets, items=st.integers(1, 12), deadline=deadlines, on_down=patience,
          method=st.sampled_from(["items", "gated_items", "boom_items"]),
          leave_after=st.sampled_from([None, None, 1, 3]), slow=st.booleans())  # fmt: skip
    def stream(self, sender, to, method, items, deadline, on_down, leave_after, slow) -> None:
        if self._up(sender):
            message = self._message("stream", sender, to, method, deadline, items=items)
            self.world.streams(message, leave_after, slow=slow, deadline_s=deadline, on_down=on_down)

    @precondition(lambda self: self.world.callers())
    @rule(which=which)
    def leave(self, which: int) -> None:
        self.world.leave(which)

    # -- watching

    @rule(watcher=nodes, actor=instances)
    def watch(self, watcher: str, actor: str) -> None:
        if self._up(watcher):
            self.watchers.watch(watcher, actor)

    @precondition(lambda self: self.watchers.open())
    @rule(which=which)
    def unwatch(self, which: int) -> None:
        self.watchers.cancel(which)

    # -- time

    @precondition(lambda self: self.world.gates.waiting)
    @rule(which=which)
    def release(self, which: int) -> None:
        self.world.gates.release(which)

    @rule(count=st.integers(1, 4))
    def turns(self, count: int) -> None:
        self.world.clock.turns(count)
        inspection.check(self.world)

    @rule()
    def quiet(self) -> None:
        inspection.quiet(self.world, self.watchers)

    @rule(seconds=st.sampled_from([0.3, 1.0, 5.0, 30.0]))
    def wait(self, seconds: float) -> None:
        self.world.clock.advance(seconds)
        inspection.quiet(self.world, self.watchers)

    def teardown(self) -> None:
        world = self.world
        try:
            if world.processes and sys.exc_info()[0] is None:  # else a rule has failed, and that is the news
                inspection.finish(world, self.watchers)
        finally:
            world.close()


class Ends(Talk):
    """The same, and actors fail, stop and start again."""

    @rule(sender=nodes, to=targets)
    def tell_boom(self, sender: str, to: str) -> None:
        if self._up(sender):
            self.world.tell(self._message("tell", sender, to, "boom", None))

    @rule(actor=instances, grace_s=st.sampled_from([0.0, 1.0]))
    def stop(self, actor: str, grace_s: float) -> None:
        if self._life(actor):
            self.world.stop(actor, grace_s)

    @rule(actor=instances, told_after_s=st.sampled_from([0.0, 0.5]))
    def restart(self, actor: str, told_after_s: float) -> None:
        if self._life(actor):
            self.world.stop(actor, 0.0, again_after_s=told_after_s)

    @rule(actor=instances, home=st.sampled_from(["north", "south"]))
    def respawn(self, actor: str, home: str) -> None:
        if self.world.reference.current(actor) is None and self._up(home) and self.world.is_free(actor, home):
            self._spawn(actor, home)

    def _life(self, actor: str) -> Life | None:
        life = self.world.reference.current(actor)
        return life if life is not None and not life.stopping else None


class Faults(Talk):
    """The same as `Talk`, and links break, fall silent, are slow or full."""

    @rule(node=nodes)
    def cut(self, node: str) -> None:
        if self._up(node):
            self.world.cut(node)

    @rule(node=nodes, fault=st.sampled_from(["blackhole", "stalled", "delay_s"]))
    def disturb(self, node: str, fault: str) -> None:
        if self._up(node):
            self.world.disturb(node, fault)

    @rule()
    def heal(self) -> None:
        self.world.heal()


class Death(Ends, Faults):
    """Everything, and processes die and start again."""

    @rule(node=nodes, told=st.booleans())
    def kill(self, node: str, told: bool) -> None:
        if self._up(node):
            self.world.kill(node, told=told)

    @rule(node=nodes)
    def bury(self, node: str) -> None:
        if node in self.world.unburied:
            self.world.bury(node)

    @rule(node=nodes)
    def boot(self, node: str) -> None:
        if not self._up(node):
            self.world.boot(node)
