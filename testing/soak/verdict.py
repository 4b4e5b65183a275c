"""Compares what callers were told with what ran. Pure, but for reading the ledger."""

from __future__ import annotations

import signal
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from .chaos import Blow
from .ledger import INNER, Author, End, Event, Outcome, Record, Verb, read

SHOWN = 20


@dataclass(slots=True)
class Verdict:
    """What a ledger says."""

    violations: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    outlived_ms: list[float] = field(default_factory=list)
    """How long after the SIGKILL of its caller each handler ended that was running then."""


@dataclass(slots=True)
class Run:
    """One handler that began."""

    author: Author
    begin_ns: int
    end_ns: int = 0
    end: int = 0


def judge(directory: Path, blows: Iterable[Blow] = (), *, complete: Iterable[int] = ()) -> Verdict:
    """Read a ledger and say what in it breaks a promise.

    ``complete`` are the processes that must have been told an outcome for each of their calls: all that have not
    been killed. ``blows`` tell which callers were killed, and when.
    """
    verdict = Verdict()
    runs: dict[int, list[Run]] = defaultdict(list)
    calls: list[tuple[Author, list[Record]]] = []
    for author, records in read(directory):
        if author.part == "runs":
            _enter(author, records, runs, verdict)
        else:
            calls.append((author, records))
    complete = set(complete)
    known: set[int] = set()
    for author, records in calls:
        known |= _compare(author, records, runs, verdict, complete=author.pid in complete)
    for number_id, those in runs.items():
        if number_id & INNER:
            _at_most(1, those, number_id, verdict)
        elif number_id not in known:
            verdict.violations.append(f"{number_id:#x} ran at {those[0].author.name} and was never sent")
    _outliving(calls, runs, list(blows), verdict)
    return verdict


def _enter(author: Author, records: list[Record], runs: dict[int, list[Run]], verdict: Verdict) -> None:
    """Note the runs of one incarnation, and that the messages of each sender came in their order."""
    last: dict[int, Record] = {}
    open_runs: dict[int, Run] = {}
    for record in records:
        if record.event is Event.DONE:
            run = open_runs.pop(record.id, None)
            if run is None:
                verdict.violations.append(f"{record.id:#x} ended at {author} and never began there")
                continue
            run.end_ns, run.end = record.time_ns, record.detail
            verdict.counts[f"run {End(record.detail).name.lower()}"] += 1
            continue
        run = open_runs[record.id] = Run(author, record.time_ns)
        runs[record.id].append(run)
        if record.number:
            sender = record.id >> 40
            before = last.get(sender)
            if before is not None and before.number >= record.number:
                verdict.violations.append(
                    f"{record.id:#x} (number {record.number}) ran at {author} after {before.id:#x} "
                    f"(number {before.number}) of the same sender"
                )
            last[sender] = record


def _compare(
    author: Author, records: list[Record], runs: dict[int, list[Run]], verdict: Verdict, *, complete: bool
) -> set[int]:
    sent: dict[int, Verb] = {}
    told: dict[int, Outcome] = {}
    for record in records:
        if record.event is Event.SENT:
            sent[record.id] = Verb(record.detail)
        else:
            if record.id in told:
                verdict.violations.append(f"{record.id:#x} of {author} had two outcomes")
            told[record.id] = Outcome(record.detail)
    for number_id, verb in sent.items():
        outcome = told.get(number_id)
        word = outcome.name.lower() if outcome else "accepted" if verb is Verb.TELL else "none"
        verdict.counts[f"{verb.name.lower()} {word}"] += 1
        if outcome is None and complete and verb is not Verb.TELL:
            verdict.violations.append(f"{verb.name} {number_id:#x} of {author} had no outcome")
        _check(number_id, verb, outcome, runs.get(number_id, []), verdict)
    verdict.violations += [f"{i:#x} of {author}: wrong" for i, out in told.items() if out is Outcome.WRONG]
    return set(sent)


def _check(number_id: int, verb: Verb, outcome: Outcome | None, those: list[Run], verdict: Verdict) -> None:
    if verb is Verb.AGAIN:
        if outcome not in (None, Outcome.VALUE):
            verdict.violations.append(f"the idempotent {number_id:#x} failed: {outcome}")
    else:
        _at_most(1, those, number_id, verdict)
    if outcome is Outcome.NEVER:
        _at_most(0, those, number_id, verdict)
    if outcome in (Outcome.VALUE, Outcome.YES) and not those:
        verdict.violations.append(f"{verb.name} {number_id:#x} was answered {outcome.name} and never ran")


def _at_most(count: int, those: list[Run], number_id: int, verdict: Verdict) -> None:
    if len(those) > count:
        where = ", ".join(f"{run.author.name} incarnation {run.author.incarnation}" for run in those)
        verdict.violations.append(f"{number_id:#x} ran {len(those)} times instead of {count}: {where}")


def _outliving(
    calls: list[tuple[Author, list[Record]]], runs: dict[int, list[Run]], blows: list[Blow], verdict: Verdict
) -> None:
    """How long handlers ran on after their caller was killed; not those whose own process was struck meanwhile."""
    killed = {blow.pid: blow.begin_ns for blow in blows if blow.signal is signal.SIGKILL}
    for author, records in calls:
        death = killed.get(author.pid)
        if death is None:
            continue
        for record in records:
            for run in (
                runs.get(record.id, []) if record.event is Event.SENT and record.detail != Verb.TELL else []
            ):
                begun = run.begin_ns < death < run.end_ns
                if begun and not _struck(run, death, blows):
                    verdict.outlived_ms.append((run.end_ns - death) / 1e6)


def _struck(run: Run, death: int, blows: list[Blow]) -> bool:
    return any(
        blow.pid == run.author.pid and blow.end_ns > death and blow.begin_ns < run.end_ns for blow in blows
    )
