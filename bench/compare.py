"""Measures callboard and its peers in turns: per case, per repetition, one contestant after the other."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from callboard.transports.errors import CallboardError

from .cases import measured
from .drivers import PEERS, Drivers
from .lines import OWN, Line
from .measuring import ASK, Skipped
from .rig import Rig
from .table import CASES

DEFAULT = (
    "ask_seq_p50", "ask_seq_p90", "ask_seq_p99", "ask_seq_p999", "ask_64", "ask_256", "tell", "stream_1",
    "stream_32", "pipeline_32", "first_item", "echo_1mb", "echo_64mb", "failover", "idle_node", "http_32",
)  # fmt: skip
OWN_ONLY = ("idle_actor", "startup", "import", "spawn")
"""Cases with a target of which no peer has anything like it here."""

IN_FLIGHT = tuple(f"ask_{width}" for width in (1, 4, 16, 64, 256, 1024))
PERCENTILE = re.compile(r"ask_seq_p(50|90|99|999)")

Contestant = tuple[str, str]
"""Who, and on which plane."""


@dataclass(slots=True)
class Tally:
    """What one contestant has shown in one measurement."""

    values: dict[str, list[float]] = field(default_factory=dict)
    skipped: str = ""


def measurement_of(case: str) -> str:
    """What has to be measured for a case.

    >>> measurement_of("ask_seq_p99"), measurement_of("first_item"), measurement_of("tell")
    ('ask_seq', 'pipeline', 'tell')
    """
    if PERCENTILE.fullmatch(case):
        return "ask_seq"
    return "pipeline" if case in ("pipeline_32", "first_item") else case


def is_case(name: str) -> bool:
    """True if contestants can be compared by it: the cases of ``callboard bench``, and any number in flight."""
    return name in CASES or bool(ASK.fullmatch(name) or PERCENTILE.fullmatch(name))


def unit_of(case: str) -> str:
    """The unit of a case."""
    if PERCENTILE.fullmatch(case):
        return "us"
    return CASES[case].unit if case in CASES else "1/s"


def contestants(names: Sequence[str], planes: Sequence[str]) -> list[Contestant]:
    """callboard on each plane, and each peer on those of them that it has; a peer of none is on its first."""
    found = [(OWN, plane) for plane in planes]
    for name in names:
        transports = list(PEERS[name].transports)
        found += [(name, plane) for plane in transports if plane in planes] or [(name, transports[0])]
    return found


async def compare(
    cases: Sequence[str], who: Sequence[Contestant], seconds: float, reps: int, drivers: Drivers
) -> AsyncIterator[Line]:
    """Yield the lines of each measurement as it is done: all contestants, for each case that was asked for."""
    wanted: dict[str, list[str]] = {}
    for case in cases:
        wanted.setdefault(measurement_of(case), []).append(case)
    for what, names in wanted.items():
        rivals = [one for one in who if one[0] == OWN or what not in OWN_ONLY]
        tallies = {one: Tally() for one in rivals}
        for _ in range(reps):
            for one, tally in tallies.items():
                if not tally.skipped:
                    await _add(tally, one, what, seconds, drivers)
        for (peer, plane), tally in tallies.items():
            for case in names:
                unit = unit_of(case)
                if tally.skipped:
                    yield Line(peer=peer, plane=plane, case=case, unit=unit, skipped=tally.skipped)
                else:
                    yield Line.of(peer, plane, case, unit, tally.values[case])


async def _add(tally: Tally, one: Contestant, what: str, seconds: float, drivers: Drivers) -> None:
    peer, plane = one
    try:
        if peer == OWN:
            values = await _own(plane, what, seconds)
        else:
            values = await drivers.measure(peer, plane, what, seconds)
    except Skipped as why:
        tally.skipped = str(why)
        return
    except (CallboardError, RuntimeError, TimeoutError) as error:  # the others shall be measured all the same
        tally.skipped = f"failed: {error or type(error).__name__}"
        return
    for case, value in values.items():
        tally.values.setdefault(case, []).append(value)


async def _own(plane: str, what: str, seconds: float) -> dict[str, float]:
    async with Rig(plane) as rig:
        if what in CASES:
            return {what: await CASES[what].measure(rig, seconds)}
        return {case: value for case, (value, _) in (await measured(rig, what, seconds)).items()}
