"""What a run says in the end: text, pictures, and the generated parts of a document."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path

from . import tables
from .document import update
from .lines import Results


def parts(results: Results, facts: str = "") -> dict[str, str]:
    """The parts by the names that markers have; empty where nothing was measured."""
    found = {}
    if results.cases():
        found["targets"] = tables.targets(results)
        found["comparison"] = tables.comparison(results)
        found["skipped"] = tables.skipped(results)
    if results.curves():
        found["growth"] = tables.growth(results)
    if results.lines:
        share = tables.spread(results)
        noise = "unknown, there is one repetition" if share is None else f"{share:.0%}"
        head = f"{facts}. " if facts else ""
        found["run"] = f"{head}Spread, the median of (highest - lowest) / median of all lines: {noise}."
    return found


def facts_of_this_machine(seconds: float, reps: int) -> str:
    """When, where and how a run was made, in one line."""
    return (
        f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores, {platform.system()} {platform.release().split('-')[0]},"
        f" Python {platform.python_version()}, {seconds:g} s a measurement, median of {reps}"
    )


def text(results: Results) -> str:
    """All parts for a terminal."""
    found = parts(results) | {"targets": tables.targets(results, with_unknown=False)}
    titles = {
        "comparison": "Measured (in brackets: callboard on the same plane, in multiples of it)",
        "skipped": "Not measured",
        "growth": "Growth",
        "targets": "Targets",
    }
    return "\n\n".join(f"{title}\n\n{found[name]}" for name, title in titles.items() if found.get(name))


def rewrite(document: Path, results: Results, facts: str) -> None:
    """Fill the document's parts. Raises `callboard.bench.document.NoParts`."""
    old = document.read_text(encoding="utf-8")
    document.write_text(update(old, parts(results, facts), str(document)), encoding="utf-8")
