"""The router's modes on one trace: tables and a picture, of the replay in virtual time and of real processes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from callboard.serving.scheduling.settings import router_settings
from callboard.serving.simulation.routing import (
    RoutingResult,
    RoutingTrial,
    demand_without_cache,
    reusable_share,
    run_routing,
)
from callboard.serving.simulation.trace import make_trace

from . import plots
from .rig import loop_factory
from .routing_live import playable, run_live
from .tables import table

RATES = (1.0, 2.0, 4.0)
BASE = "round-robin"
HEAD = ("routing", "prefix hits", "mean TTFT, ms", "of round-robin's", "p95, ms", "load spread")


@dataclass(frozen=True, slots=True)
class Row:
    """One routing at one rate of arrivals."""

    sessions_per_s: float
    is_live: bool
    result: RoutingResult

    def as_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {"sessions_per_s": self.sessions_per_s, "live": self.is_live, **self.result.as_json()}


def router_options(words: Iterable[str]) -> dict[str, Any]:
    """Return options of a router from ``key=value``, with values as in JSON. Raises `ConfigError`."""
    options = {}
    for word in words:
        key, _, value = word.partition("=")
        try:
            options[key] = orjson.loads(value)
        except orjson.JSONDecodeError:
            options[key] = value
    router_settings(options)
    return options


def at_rate(trial: RoutingTrial, sessions_per_s: float) -> RoutingTrial:
    """Return the trial with other arrivals."""
    return replace(trial, trace=replace(trial.trace, sessions_per_s=sessions_per_s))


def replayed(trial: RoutingTrial, routings: Sequence[str], rates: Sequence[float]) -> Iterator[Row]:
    """Yield a row for each routing at each rate, in virtual time, as they are done."""
    for rate in rates:
        this = at_rate(trial, rate)
        trace = make_trace(this.trace)
        for name in routings:
            yield Row(rate, False, run_routing(name, trace, this)[0])


def played(trial: RoutingTrial, routings: Sequence[str], rates: Sequence[float], plane: str) -> Iterator[Row]:
    """Yield a row for each routing that a router can do, in real time through real processes."""
    for rate in rates:
        this = at_rate(trial, rate)
        trace = make_trace(this.trace)
        for name in playable(routings):
            with asyncio.Runner(loop_factory=loop_factory()) as runner:
                yield Row(rate, True, runner.run(run_live(name, trace, this, plane)))


def tables(rows: Iterable[Row], trial: RoutingTrial) -> str:
    """Return a Markdown table for each rate of each kind, under a line that says what the trace is."""
    groups: dict[tuple[bool, float], list[RoutingResult]] = {}
    for row in rows:
        groups.setdefault((row.is_live, row.sessions_per_s), []).append(row.result)
    parts = []
    for (is_live, rate), results in groups.items():
        parts.append(_what(at_rate(trial, rate), results, is_live=is_live))
        parts.append(_table(results))
    return "\n\n".join(parts)


def _what(trial: RoutingTrial, results: Sequence[RoutingResult], *, is_live: bool) -> str:
    trace = make_trace(trial.trace)
    where = "Processes in real time" if is_live else "Virtual time"
    return (
        f"{where}: {trial.engines} engines, {trial.trace.sessions_per_s:g} sessions a second, seed {trial.trace.seed}, "
        f"{results[0].requests:,} requests; {demand_without_cache(trace, trial):.0%} load if nothing were cached; one "
        f"cache for all would hit {reusable_share(trace, trial.engine.block_size):.1%}."
    )


def _table(results: Sequence[RoutingResult]) -> str:
    base = next((result.mean_ttft_s for result in results if result.routing == BASE), 0.0)
    return table(
        HEAD,
        [
            (
                result.routing,
                f"{result.hit_rate:.1%}",
                f"{result.mean_ttft_s * 1e3:.1f}",
                f"x {result.mean_ttft_s / base:.2f}" if base else "-",
                f"{result.p95_ttft_s * 1e3:.0f}",
                f"{result.load_spread:.2f}",
            )
            for result in results
        ],
    )


PANELS = (
    ("hit_rate", "prefix hits, % of the prompts' tokens", 100.0, "linear"),
    ("mean_ttft_s", "mean time to first token, ms", 1e3, "log"),
    ("load_spread", "load spread, most / mean", 1.0, "linear"),
)


def draw(rows: Sequence[Row], directory: Path, kind: str = "svg") -> Path:
    """Write ``routing.svg``: three figures by the rate of arrivals. Raises `MissingPlotting`."""
    plots.require()
    import matplotlib
    from matplotlib.figure import Figure

    directory.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(plots.STYLE):
        figure = Figure(figsize=(10, 4), layout="constrained")
        panels = figure.subplots(1, len(PANELS))
        for (name, title, factor, scale), axes in zip(PANELS, panels, strict=True):
            axes.set_title(title)
            axes.set_xlabel("sessions per second")
            axes.set_yscale(scale)
            for routing, results in _by_routing(rows).items():
                values = [getattr(result, name) * factor for _, result in results]
                style = "-" if routing.startswith("kv") else "--"
                axes.plot(
                    [rate for rate, _ in results], values, style, marker="o", markersize=3, label=routing
                )
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=7)
        return plots.save(figure, directory, "routing", kind)


def _by_routing(rows: Iterable[Row]) -> dict[str, list[tuple[float, RoutingResult]]]:
    groups: dict[str, list[tuple[float, RoutingResult]]] = {}
    for row in sorted(rows, key=lambda row: row.sessions_per_s):
        groups.setdefault(row.result.routing, []).append((row.sessions_per_s, row.result))
    return groups
