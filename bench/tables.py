"""Tables of results: Markdown that is aligned, so that it reads well in a terminal too. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .lines import OWN, Line, Results
from .targets import Checked, Verdict, check

NOTHING = "-"
DIRECTIONS = {"us": "lower", "ms": "lower", "s": "lower", "MiB": "lower", "KiB": "lower"}


def number(value: float) -> str:
    """Four digits that count, thousands separated.

    >>> number(123456.7), number(93.27), number(0.4567)
    ('123,500', '93.27', '0.4567')
    """
    text = float(f"{value:.4g}")
    return f"{text:,.0f}" if text >= 1000 else f"{text:g}"


def factor(value: float) -> str:
    """A ratio, short.

    >>> factor(41.234), factor(0.3333), factor(1234.5)
    ('41', '0.33', '1,234')
    """
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lay out a Markdown table; all columns but the first are to the right."""
    rows = [list(row) for row in rows]
    widths = [max(len(row[column]) for row in [list(head), *rows]) for column in range(len(head))]
    lines = [_row(head, widths), _row(["-" * widths[0], *("-" * (w - 1) + ":" for w in widths[1:])], widths)]
    return "\n".join([*lines, *(_row(row, widths) for row in rows)])


def _row(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *rest = (
        cell.ljust(w) if at == 0 else cell.rjust(w)
        for at, (cell, w) in enumerate(zip(cells, widths, strict=True))
    )
    return f"| {' | '.join([first, *rest])} |"


def comparison(results: Results) -> str:
    """One row a case, one column a contestant; in brackets what callboard on the same plane is, in multiples of it."""
    contestants = results.contestants()
    shown = [
        one for one in contestants if any(results.value(*one, case) is not None for case in results.cases())
    ]
    rows = []
    for case in results.cases():
        lines = [results.line(*one, case) for one in shown]
        if any(line is not None and not line.skipped for line in lines):
            unit = next(line.unit for line in lines if line is not None)
            better = DIRECTIONS.get(unit, "higher")
            rows.append([f"{case} ({unit}, {better})", *(_cell(results, line) for line in lines)])
    return table(["case (unit, better)", *(f"{peer} {plane}" for peer, plane in shown)], rows)


def _cell(results: Results, line: Line | None) -> str:
    if line is None or line.skipped:
        return NOTHING
    ratio = results.ratio(line.peer, line.plane, line.case) if line.peer != OWN else None
    return number(line.value) + (f" (x {factor(ratio)})" if ratio is not None else "")


def spread(results: Results) -> float | None:
    """The median over all lines of (highest - lowest) / median: how noisy it was. None without repetitions."""
    shares = sorted(
        (line.high - line.low) / line.value for line in results.lines if line.value and line.reps > 1
    )
    return shares[len(shares) // 2] if shares else None


def skipped(results: Results) -> str:
    """A list of what was not measured and why; reasons that all cases of a contestant share are said once."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for line in results.lines:
        if line.skipped:
            reasons.setdefault((f"{line.peer} {line.plane}", line.skipped), []).append(line.case)
    count = {f"{peer} {plane}": 0 for peer, plane in results.contestants()}
    for line in results.lines:
        count[f"{line.peer} {line.plane}"] = count.get(f"{line.peer} {line.plane}", 0) + 1
    return "\n".join(
        f"- {who}{'' if len(cases) == count[who] else ', ' + ', '.join(cases)}: {why}"
        for (who, why), cases in reasons.items()
    )


def targets(results: Results, *, with_unknown: bool = True) -> str:
    """One row a target: what was set, what was found, and whether that is enough. Empty if there is no row."""
    shown = [one for one in check(results) if with_unknown or one.verdict is not Verdict.UNKNOWN]
    rows = [[one.what, one.plane, one.target, _found(one), one.verdict.value] for one in shown]
    return table(["case", "plane", "target", "found", ""], rows) if rows else ""


def _found(one: Checked) -> str:
    if one.found is None:
        return NOTHING
    return f"x {one.found:.3g}" if " x " in one.target else number(one.found)


def growth(results: Results) -> str:
    """A table for each growth curve: cost and rate at each of its points."""
    parts = []
    for case, planes in results.curves().items():
        unit = next(iter(planes.values()))[0].unit
        points = sorted({line.at for lines in planes.values() for line in lines if line.at is not None})
        rows = []
        for plane, lines in planes.items():
            by_point = {line.at: number(line.value) for line in lines}
            rows.append([plane, *(by_point.get(point, NOTHING) for point in points)])
        parts.append(table([f"{case} ({unit})", *(f"{point:,}" for point in points)], rows))
    return "\n\n".join(parts)
