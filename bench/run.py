"""Runs cases, each several times in a system of its own, and says what came out as plain data."""

from __future__ import annotations

import statistics
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Any

from .cases import Case
from .measuring import Skipped
from .rig import Rig
from .table import CASES


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One measured case; ``skipped`` says why there is no value."""

    case: str
    plane: str
    unit: str
    values: tuple[float, ...] = ()
    skipped: str = ""

    @property
    def value(self) -> float:
        """The median."""
        return statistics.median(self.values)

    def as_json(self) -> dict[str, Any]:
        """The line of ``--json``."""
        line: dict[str, Any] = {"case": self.case, "plane": self.plane, "unit": self.unit}
        if self.skipped:
            return line | {"skipped": self.skipped}
        rounded = [float(f"{value:.5g}") for value in self.values]
        middle = float(f"{self.value:.5g}")
        return line | {
            "n": len(rounded), "value": middle, "min": min(rounded), "max": max(rounded), "reps": len(rounded),
        }  # fmt: skip


async def run(names: Iterable[str], plane: str, seconds: float, reps: int) -> AsyncIterator[Result]:
    """Yield the result of each case as it comes."""
    for name in names:
        case: Case = CASES[name]
        values = []
        try:
            for _ in range(reps):
                async with Rig(plane) as rig:
                    values.append(await case.measure(rig, seconds))
        except Skipped as why:
            yield Result(case=name, plane=plane, unit=case.unit, skipped=str(why))
        else:
            yield Result(case=name, plane=plane, unit=case.unit, values=tuple(values))
