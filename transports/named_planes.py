"""Names of planes: built-in ones, and those that packages add by an entry point, named as the plane.

Built-ins are named by strings, so that knowing a plane costs no import; their names are taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import entry_points


@dataclass(frozen=True)
class NamedPlanes:
    """The planes of one kind, as ``module:Class``."""

    group: str
    """Of the entry points."""
    built_in: Mapping[str, str]

    @cached_property
    def _added(self) -> dict[str, str]:
        return {point.name: f"{point.module}:{point.attr}" for point in entry_points(group=self.group)}

    def class_path(self, name: str) -> str | None:
        """Return where a plane is, or None if nobody knows the name."""
        return self.built_in.get(name) or self._added.get(name)

    def names(self) -> tuple[str, ...]:
        """Every name, the built-in ones first."""
        return tuple({**self.built_in, **self._added})
