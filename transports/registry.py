"""Planes by scheme. Built-ins are named by strings, so that knowing a plane costs no import of its driver.

A third party adds a plane by an entry point in the group ``callboard.planes``, named as its scheme.
"""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from importlib.metadata import entry_points

from .base import Plane
from .errors import MissingExtra, UnknownScheme, did_you_mean

GROUP = "callboard.planes"

BUILT_IN = {
    "tcp": "callboard.transports.tcp:TcpPlane",
    "ipc": "callboard.transports.tcp:IpcPlane",
    "memory": "callboard.transports.memory:MemoryPlane",
}

_EXTRAS: dict[str, str] = {}
"""Scheme to the extra that installs its driver, for planes whose driver is optional."""


@lru_cache(maxsize=1)
def _entry_points() -> dict[str, str]:
    return {point.name: point.value for point in entry_points(group=GROUP)}


def known_schemes() -> tuple[str, ...]:
    """Every scheme that can be used here, in alphabetical order."""
    return tuple(sorted({*BUILT_IN, *_entry_points()}))


def unknown_plane(scheme: str) -> str:
    """The text for a mode that nobody knows."""
    known = known_schemes()
    return (
        f"invalid request plane mode {scheme!r}; valid are: {', '.join(known)}{did_you_mean(scheme, known)}"
    )


def get_plane(scheme: str) -> Plane:
    """Return the plane of a scheme; raises `UnknownScheme` or `MissingExtra`."""
    where = _entry_points().get(scheme) or BUILT_IN.get(scheme)
    if where is None:
        raise UnknownScheme(scheme, known_schemes())
    module_name, _, class_name = where.partition(":")
    try:
        module = import_module(module_name)
    except ImportError as error:
        if scheme not in _EXTRAS:
            raise
        raise MissingExtra(scheme, _EXTRAS[scheme], error.name or module_name) from error
    plane: Plane = getattr(module, class_name)()
    return plane
