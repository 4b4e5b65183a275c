"""What was measured, as plain data: the lines of ``--json``, from which tables and plots are made. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Self

import orjson

OWN = "callboard"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One case of one contestant: the median of ``reps`` and its extremes, or why there is none.

    ``at`` is where on a growth curve it was measured: the number of actors, for example.
    """

    peer: str
    plane: str
    case: str
    unit: str
    at: int | None = None
    value: float = 0.0
    low: float = 0.0
    high: float = 0.0
    reps: int = 0
    skipped: str = ""

    @classmethod
    def of(
        cls, peer: str, plane: str, case: str, unit: str, values: Iterable[float], at: int | None = None
    ) -> Self:
        """The line of several measurements."""
        rounded = [float(f"{value:.5g}") for value in values]
        middle = float(f"{statistics.median(rounded):.5g}")
        return cls(
            peer=peer, plane=plane, case=case, unit=unit, at=at,
            value=middle, low=min(rounded), high=max(rounded), reps=len(rounded),
        )  # fmt: skip

    def as_json(self) -> dict[str, Any]:
        """One object of ``--json``; `read` takes it back."""
        head = {"peer": self.peer, "case": self.case, "plane": self.plane, "unit": self.unit}
        if self.at is not None:
            head["at"] = self.at  # type: ignore[assignment]
        if self.skipped:
            return head | {"skipped": self.skipped}
        return head | {
            "n": self.reps, "value": self.value, "min": self.low, "max": self.high, "reps": self.reps,
        }  # fmt: skip


class NotALine(ValueError):
    """A line of a file that `callboard bench` has not written."""

    def __init__(self, number: int, why: str) -> None:
        super().__init__(f"line {number} is not one of `callboard bench --json`: {why}")


def read(text: str) -> Iterator[Line]:
    """Yield the lines of a file, also those of ``callboard bench --json``, which have no peer. Raises `NotALine`."""
    for number, row in enumerate(text.splitlines(), 1):
        if not row.strip():
            continue
        try:
            data = orjson.loads(row)
            yield Line(
                peer=data.get("peer", OWN),
                plane=data["plane"],
                case=data["case"],
                unit=data["unit"],
                at=data.get("at"),
                value=float(data.get("value", 0)),
                low=float(data.get("min", 0)),
                high=float(data.get("max", 0)),
                reps=int(data.get("reps", 0)),
                skipped=data.get("skipped", ""),
            )
        except KeyError as error:
            raise NotALine(number, f"it has no {error.args[0]!r}") from None
        except (ValueError, TypeError, AttributeError) as error:
            raise NotALine(number, str(error)) from None


class Results:
    """Lines by contestant and case; of two of the same the later one counts."""

    def __init__(self, lines: Iterable[Line]) -> None:
        self.lines = list({(line.peer, line.plane, line.case, line.at): line for line in lines}.values())
        self._cases = {(line.peer, line.plane, line.case): line for line in self.lines if line.at is None}

    def __repr__(self) -> str:
        return f"<Results {len(self.lines)} lines of {len(self.contestants())} contestants>"

    def line(self, peer: str, plane: str, case: str) -> Line | None:
        """The line of a case, measured or skipped."""
        return self._cases.get((peer, plane, case))

    def value(self, peer: str, plane: str, case: str) -> float | None:
        """What was measured; None if nothing was."""
        line = self.line(peer, plane, case)
        return line.value if line is not None and not line.skipped else None

    def ratio(self, peer: str, plane: str, case: str) -> float | None:
        """callboard on that plane over the peer."""
        own, theirs = self.value(OWN, plane, case), self.value(peer, plane, case)
        return own / theirs if own is not None and theirs else None

    def contestants(self) -> list[tuple[str, str]]:
        """Who has a line without being on a curve: callboard first, in the order of the measurements."""
        found = list(dict.fromkeys((line.peer, line.plane) for line in self._cases.values()))
        return sorted(found, key=lambda one: one[0] != OWN)

    def cases(self) -> list[str]:
        """The cases, in the order of the measurements."""
        return list(dict.fromkeys(line.case for line in self._cases.values()))

    def curves(self) -> dict[str, dict[str, list[Line]]]:
        """The growth curves: case, then plane, to its points from left to right."""
        curves: dict[str, dict[str, list[Line]]] = {}
        for line in self.lines:
            if line.at is not None and not line.skipped:
                curves.setdefault(line.case, {}).setdefault(line.plane, []).append(line)
        for planes in curves.values():
            for points in planes.values():
                points.sort(key=lambda line: line.at or 0)
        return curves
