"""What callboard sets itself to reach, and whether it did in one run. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from .lines import OWN, Results

FLAT = 1.5
"""The dearest message of a growth curve's end may cost so many times the cheapest of the curve."""


class Bound(Enum):
    """Which side of the limit is good."""

    AT_MOST = "≤"
    AT_LEAST = "≥"


class Verdict(Enum):
    """What became of a target."""

    REACHED = "reached"
    MISSED = "not reached"
    UNKNOWN = "not measured"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A limit for one case on one plane: of its value, or of its ratio to a peer's on the same plane."""

    case: str
    bound: Bound
    limit: float
    plane: str = "tcp"
    peer: str = ""
    unit: str = ""

    @property
    def text(self) -> str:
        """The target in words."""
        if self.peer:
            return f"{self.bound.value} {_factor(self.limit)} x {self.peer}"
        return f"{self.bound.value} {self.limit:,.10g} {self.unit}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A target with what was found; ``found`` is None if there is nothing to compare."""

    what: str
    plane: str
    target: str
    found: float | None
    verdict: Verdict


def _factor(limit: float) -> str:
    return f"1/{1 / limit:.3g}" if limit < 1 and round(1 / limit, 6).is_integer() else f"{limit:.3g}"


def _most(case: str, limit: float, unit: str = "", *, peer: str = "", plane: str = "tcp") -> Target:
    return Target(case=case, bound=Bound.AT_MOST, limit=limit, unit=unit, peer=peer, plane=plane)


def _least(case: str, limit: float, unit: str = "", *, peer: str = "", plane: str = "tcp") -> Target:
    return Target(case=case, bound=Bound.AT_LEAST, limit=limit, unit=unit, peer=peer, plane=plane)


TARGETS = (
    _most("ask_seq_p50", 1.8, peer="pyzmq-blocking"),
    _most("ask_seq_p50", 1 / 3, peer="dynamo"),
    _least("ask_256", 40, peer="dynamo"),
    _least("ask_256", 200_000, "1/s"),
    _least("ask_256", 0.5, peer="pyzmq-batched"),
    _least("tell", 600_000, "1/s"),
    _least("stream_1", 20, peer="dynamo"),
    _least("stream_32", 20, peer="dynamo"),
    _least("stream_32", 700_000, "items/s"),
    _least("pipeline_32", 20, peer="dynamo"),
    _most("first_item", 1 / 5, peer="dynamo"),
    _least("echo_1mb", 2000, "MB/s"),
    _least("echo_64mb", 3000, "MB/s"),
    _most("failover", 100, "ms"),
    _least("ask_256", 30, peer="dynamo", plane="nats"),
    _least("ask_256", 120_000, "1/s", plane="nats"),
    _least("stream_32", 10, peer="dynamo", plane="nats"),
    _least("stream_32", 420_000, "items/s", plane="nats"),
    _most("startup", 1, "s"),
    _most("import", 80, "ms"),
    _most("idle_node", 40, "MiB"),
    _most("idle_actor", 2, "KiB"),
    _least("http_32", 1, peer="dynamo"),
)
"""Absolute ones are for the machine of two virtual cores on which the first figures were taken."""


def check(results: Results, targets: tuple[Target, ...] = TARGETS) -> list[Checked]:
    """Compare each target with what was measured, then the end of each growth curve with its lowest point."""
    checked = []
    for target in targets:
        if target.peer:
            found = results.ratio(target.peer, target.plane, target.case)
        else:
            found = results.value(OWN, target.plane, target.case)
        checked.append(
            Checked(
                what=target.case,
                plane=target.plane,
                target=target.text,
                found=found,
                verdict=_verdict(target.bound, target.limit, found),
            )
        )
    return checked + _growth(results)


def _verdict(bound: Bound, limit: float, found: float | None) -> Verdict:
    if found is None:
        return Verdict.UNKNOWN
    is_good = found <= limit if bound is Bound.AT_MOST else found >= limit
    return Verdict.REACHED if is_good else Verdict.MISSED


def _growth(results: Results) -> list[Checked]:
    checked = []
    for case, planes in results.curves().items():
        if not case.endswith("_cpu"):
            continue
        for plane, points in planes.items():
            growth = points[-1].value / min(point.value for point in points)
            checked.append(
                Checked(
                    what=f"{case}, {points[0].at:,} to {points[-1].at:,}",
                    plane=plane,
                    target=f"≤ {FLAT} x its lowest",
                    found=growth,
                    verdict=_verdict(Bound.AT_MOST, FLAT, growth),
                )
            )
    return checked
