"""Collects the problems of one config file, each at its line, while its tables are read by their keys."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from callboard.transports.errors import did_you_mean

from .config_keys import Key, show
from .toml_source import Path, TomlSource


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One mistake; ``line`` is 0 if it is not in the file (but in the environment or in a flag)."""

    line: int
    place: str
    what: str


def place_of(path: Path) -> str:
    """A path as people write it.

    >>> place_of(("actor", "router", "args", "workers", 0))
    'actor.router.args.workers[0]'
    """
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in path]
    return "".join(parts).removeprefix(".")


class Reader:
    """Reads tables; what is wrong is noted, left out, and reading goes on."""

    def __init__(self, source: TomlSource) -> None:
        self.source = source
        self.problems: set[Problem] = {Problem(line, "", what) for line, what in source.problems}

    def problem(self, path: Path, what: str) -> None:
        """Note a mistake at a place of the file."""
        self.problems.add(Problem(self.source.line(path), place_of(path), what))

    def outside(self, place: str, what: str) -> None:
        """Note a mistake that is not in the file."""
        self.problems.add(Problem(0, place, what))

    def table(
        self, path: Path, value: Any, keys: Mapping[str, Key], others: Iterable[str] = ()
    ) -> dict[str, Any]:
        """Return the good values of a table; ``others`` are keys that somebody else reads."""
        if not isinstance(value, dict):
            self.problem(path, f"takes a table, not {show(value)}")
            return {}
        known = [*keys, *others]
        good = {}
        for name, item in value.items():
            if name.startswith("__removed"):
                continue
            if name in keys:
                try:
                    good[name] = keys[name].read(item)
                except ValueError as error:
                    self.problem((*path, name), str(error) or f"takes {keys[name].takes}, not {show(item)}")
            elif name not in known:
                self.unknown_key(path, name, known)
        return good

    def unknown_key(self, path: Path, name: str, known: Iterable[str]) -> None:
        """Note a key that means nothing, at the table that holds it."""
        known = list(known)
        hint = did_you_mean(name, known) or f"; known: {', '.join(known)}"
        what = f'unknown key "{name}"{hint}'
        self.problems.add(Problem(self.source.line((*path, name)), place_of(path), what))

    def named_tables(self, kind: str) -> dict[str, dict[str, Any]]:
        """The tables ``[kind.name]``, by name."""
        value = self.source.data.get(kind, {})
        if not isinstance(value, dict):
            self.problem((kind,), f"takes tables, such as [{kind}.name]")
            return {}
        tables = {}
        for name, table in value.items():
            if name.startswith("__removed"):
                continue
            if isinstance(table, dict):
                tables[name] = table
            else:
                self.problem((kind, name), f"takes a table [{kind}.{name}], not {show(table)}")
        return tables
