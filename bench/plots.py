"""Pictures of results, with matplotlib, which is not needed for anything else."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from callboard.transports.errors import CallboardError

from .lines import OWN, Line, Results
from .measuring import ASK

if TYPE_CHECKING:
    from collections.abc import Iterable

SIZE_INCHES = (7.2, 4.2)
SHARES = {"ask_seq_p50": "50 %", "ask_seq_p90": "90 %", "ask_seq_p99": "99 %", "ask_seq_p999": "99.9 %"}
# The same lines shall give the same file, and text shall stay text.
STYLE: Any = {
    "svg.fonttype": "none", "svg.hashsalt": "callboard", "font.size": 9, "axes.grid": True, "grid.alpha": 0.3,
}  # fmt: skip
AXES = {
    "actors": "actors in one process",
    "processes": "processes with one actor each",
    "queued": "messages waiting in one mailbox",
    "streams": "streams at a time",
}


class MissingPlotting(CallboardError):
    """Plots were asked for without matplotlib."""

    def __init__(self) -> None:
        super().__init__("plots need matplotlib, which is not installed: pip install 'callboard[bench]'")


def require() -> None:
    """Raise `MissingPlotting` before anything is measured for nothing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise MissingPlotting from None


def draw(results: Results, directory: Path, kind: str = "svg") -> list[Path]:
    """Write the pictures for which there are lines, and return their files. Raises `MissingPlotting`."""
    require()
    import matplotlib

    directory.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(STYLE):
        pictures = {"throughput": _throughput(results), "latency": _latency(results)}
        pictures |= {f"growth_{name}": _growth(results, name) for name in AXES}
        return [
            save(figure, directory, name, kind) for name, figure in pictures.items() if figure is not None
        ]


def save(figure: Any, directory: Path, name: str, kind: str) -> Path:
    """Write a figure; the same one gives the same file."""
    file = directory / f"{name}.{kind}"
    figure.savefig(file, metadata={"Date": None} if kind == "svg" else None, dpi=120)
    return file


def _figure(title: str, across: str, up: str) -> tuple[Any, Any]:
    import matplotlib
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE_INCHES, layout="constrained")
    axes = figure.subplots()
    palette: Any = matplotlib.colormaps["tab20"]
    strong_before_pale = palette.colors
    axes.set_prop_cycle(color=strong_before_pale[::2] + strong_before_pale[1::2])
    axes.set_title(title)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    return figure, axes


def _by_contestant(lines: Iterable[Line]) -> dict[str, list[Line]]:
    groups: dict[str, list[Line]] = {}
    for line in lines:
        if not line.skipped:
            groups.setdefault(f"{line.peer} {line.plane}", []).append(line)
    return dict(sorted(groups.items(), key=lambda one: not one[0].startswith(OWN)))


def _plot(axes: Any, name: str, xs: list[float] | list[str], ys: list[float]) -> None:
    own = name.startswith(OWN)
    axes.plot(
        xs, ys, "-" if own else "--", marker="o", markersize=4 if own else 3,
        linewidth=2 if own else 1, label=name,
    )  # fmt: skip


def _throughput(results: Results) -> Any:
    groups = _by_contestant(line for line in results.lines if line.at is None and ASK.fullmatch(line.case))
    groups = {name: lines for name, lines in groups.items() if len(lines) > 1}
    if not groups:
        return None
    figure, axes = _figure("Asks per second, by how many are in flight", "asks in flight", "asks per second")
    for name, lines in groups.items():
        points = sorted((int(line.case.removeprefix("ask_")), line.value) for line in lines)
        _plot(axes, name, [float(at) for at, _ in points], [value for _, value in points])
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    figure.legend(loc="outside right upper", fontsize=7)
    return figure


def _latency(results: Results) -> Any:
    groups = _by_contestant(line for line in results.lines if line.case in SHARES)
    groups = {name: lines for name, lines in groups.items() if len(lines) > 1}
    if not groups:
        return None
    figure, axes = _figure(
        "Round trip of one ask at a time", "share of asks that were faster", "microseconds"
    )
    for name, lines in groups.items():
        values = {line.case: line.value for line in lines}
        cases = [case for case in SHARES if case in values]
        _plot(axes, name, [SHARES[case] for case in cases], [values[case] for case in cases])
    axes.set_yscale("log")
    figure.legend(loc="outside right upper", fontsize=7)
    return figure


def _growth(results: Results, name: str) -> Any:
    planes = results.curves().get(f"{name}_cpu")
    if not planes:
        return None
    figure, axes = _figure(
        f"Cost of a message by the number of {AXES[name]}", AXES[name], "CPU µs per message"
    )
    for plane, lines in planes.items():
        xs = [float(line.at or 0) for line in lines]
        _plot(axes, f"{OWN} {plane}", xs, [line.value for line in lines])
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=7)
    return figure
