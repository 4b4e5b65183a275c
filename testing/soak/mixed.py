"""The mixed soak: a system of real processes under load, whose workers are killed and frozen all the time."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from callboard.actors.policy import MailboxPolicy, OnDown
from callboard.actors.ref import Ref
from callboard.supervisor.liveness import Health
from callboard.supervisor.spec import RestartPolicy
from callboard.supervisor.system import System

from .actors import Driver, Leaky, Narrow, Watched, Worker, counts
from .chaos import Chaos
from .ledger import Ledger
from .load import PATIENT_S, Load, Targets
from .measures import FEWEST, Samples
from .verdict import SHOWN, Verdict, judge

WORKERS = 3
RATE = 80.0
"""Messages a second of each of three loads."""
SAMPLE_S = 1.0
SHORTEST_S = FEWEST + 2
READY_S = 60.0
TOLD_S = PATIENT_S + 10
QUIET_S = 20.0
PATIENT = RestartPolicy(max_restarts=1_000_000, backoff_s=(0.05, 0.2))
"""A death a second is what is wanted here."""
SMALL = MailboxPolicy(messages=8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a soak is made of."""

    seconds: float
    seed: int
    leak_bytes: int = 0
    """Planted: so many bytes of each ask of the steady worker are kept for ever."""

    def __post_init__(self) -> None:
        if not self.seconds >= SHORTEST_S:
            raise ValueError(
                f"a soak of {self.seconds:g} s; it must be of {SHORTEST_S} s at least, to show a drift"
            )


@dataclass(slots=True)
class Report:
    """What came of it."""

    verdict: Verdict
    seen: Counter[str] = field(default_factory=Counter)
    blows: Counter[str] = field(default_factory=Counter)
    samples: list[Samples] = field(default_factory=list)
    not_quiet: list[str] = field(default_factory=list)

    @property
    def problems(self) -> list[str]:
        """Every broken promise, one line each."""
        found = list(self.not_quiet)
        found += [line for line in self.seen if line.startswith("wrong: ")]
        found += [line for samples in self.samples for line in samples.growing()]
        return found + self.verdict.violations

    def __str__(self) -> str:
        outlived = self.verdict.outlived_ms
        lines = [
            f"ledger: {dict(sorted(self.verdict.counts.items()))}",
            f"told: {dict(sorted(self.seen.items()))}",
            f"blows: {dict(self.blows)}",
            f"handlers that outlived their caller: {len(outlived)}, by {max(outlived, default=0):.0f} ms at most",
        ]
        for samples in self.samples:
            drifts = {name: round(by) for name, by in samples.drifts().items() if by}
            lines.append(f"{samples.name}: {len(samples.series['uss'])} samples, drift {drifts}")
        return "\n".join([*lines, *(f"PROBLEM {line}" for line in self.problems[:SHOWN])])


class Soak:
    """One run in a started, empty system; ``directory`` is for the ledger."""

    def __init__(self, system: System, directory: Path, plan: Plan) -> None:
        self._system, self._directory, self._plan = system, directory, plan
        self._samples: list[Samples] = []
        self._watched: list[Ref[Watched]] = []

    async def run(self) -> Report:
        """Begin, strike, measure, end, and judge. Raises what the system fails with."""
        plan = self._plan
        targets = await self._start_workers()
        drivers = await self._start_drivers(targets)
        ledger = Ledger(str(self._directory), "calls", "here", 1)
        load = Load(targets, ledger, number=1, incarnation=1, seed=plan.seed, rate=RATE)
        load.begin()
        victims = [f"worker.{index}" for index in range(WORKERS)] + ["narrow.0", "mortal.0"]
        chaos = Chaos(self._system, victims, plan.seed)
        striking = asyncio.create_task(chaos.run())
        try:
            await self._measure(plan.seconds, striking)
        finally:
            striking.cancel()
            await asyncio.wait((striking,))
        await self._recovered()
        told = await asyncio.gather(
            load.finish(TOLD_S),
            *(driver.ask(Driver.finish, TOLD_S) for driver in drivers),
            return_exceptions=True,
        )
        not_quiet = await self._quiet()
        names = ("mortal.0", "driver.0")
        alive = {os.getpid(), *(self._system.status().process(name).pid for name in names)}
        verdict = await asyncio.to_thread(judge, self._directory, chaos.blows, complete=alive)
        seen: Counter[str] = Counter()
        for one in told:
            if isinstance(one, BaseException):
                seen[f"wrong: {type(one).__name__}: {one}"] += 1
            else:
                seen.update(one)
        struck = Counter(blow.signal.name for blow in chaos.blows)
        return Report(verdict, seen, struck, self._samples, not_quiet)

    async def _start_workers(self) -> Targets:
        system, directory, leak = self._system, str(self._directory), self._plan.leak_bytes
        if leak:
            await system.spawn(Leaky, directory, leak, name="steady", restart=PATIENT)
        else:
            await system.spawn(Worker, directory, name="steady", restart=PATIENT)
        steady: Ref[Worker] = system.ref("steady.0", Worker)
        workers = await system.spawn(
            Worker, directory, steady, name="worker", replicas=WORKERS, processes=WORKERS, restart=PATIENT
        )
        narrow = await system.spawn(Narrow, directory, name="narrow", mailbox=SMALL, restart=PATIENT)
        return Targets(workers, WORKERS, narrow.instance(0), steady)

    async def _start_drivers(self, targets: Targets) -> list[Ref[Driver]]:
        drivers = []
        for number, name in ((2, "driver"), (3, "mortal")):
            args = (str(self._directory), number, self._plan.seed, RATE, targets)
            ref = await self._system.spawn(Driver, *args, name=name, restart=PATIENT)
            drivers.append(ref.instance(0).options(deadline_s=TOLD_S + 10, on_down=OnDown.WAIT))
        return drivers

    async def _measure(self, seconds: float, striking: asyncio.Task[None]) -> None:
        """Sample whoever lives through it: this process with the supervisor, the steady worker and driver."""
        status = self._system.status()
        self._samples = [Samples("supervisor and client", os.getpid())]
        for name in ("steady.0", "driver.0"):
            self._watched.append(self._system.ref(name, Watched))
            self._samples.append(Samples(name, status.process(name).pid))
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while loop.time() < end:
            done, _ = await asyncio.wait((striking,), timeout=SAMPLE_S)
            if done:
                striking.result()
            for samples, inside in zip(self._samples, await self._look(), strict=True):
                samples.take(inside)

    async def _recovered(self) -> None:
        """Wait until every process is back; one that was frozen is when it has answered."""
        async with asyncio.timeout(READY_S):
            await self._system.wait_ready()
            while any(process.health != Health.ALIVE.value for process in self._system.status().processes):  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    async def _look(self) -> list[dict[str, int]]:
        others: list[Any] = [ref.ask(Watched.look) for ref in self._watched]
        return [counts(self._system.node), *await asyncio.gather(*others)]

    async def _quiet(self) -> list[str]:
        """Wait until nothing is open or queued anywhere; returns what still is."""
        everybody = ["steady", "worker.0", "worker.1", "worker.2", "narrow.0", "driver.0", "mortal.0"]
        self._watched = [self._system.ref(name, Watched) for name in everybody]
        end = asyncio.get_running_loop().time() + QUIET_S
        while True:
            open_now = []
            for name, inside in zip(["here", *everybody], await self._look(), strict=True):
                own = {"letters": 1, "running": 1} if name != "here" else {}  # the message that looks
                for what in ("asks", "streams", "letters", "mail", "running"):
                    if inside[what] > own.get(what, 0):
                        open_now.append(f"{name} still has {inside[what]} {what}: nobody waits for them")
            if not open_now or asyncio.get_running_loop().time() > end:
                return open_now
            await asyncio.sleep(0.1)
