"""From a scheme to its plane: imports the driver when it is first asked for."""

from __future__ import annotations

from importlib import import_module

from .base import Plane
from .errors import MissingExtra, UnknownScheme
from .schemes import class_path, known_schemes

_EXTRAS: dict[str, str] = {}
"""Scheme to the extra that installs its driver, for planes whose driver is optional."""


def get_plane(scheme: str) -> Plane:
    """Return the plane of a scheme; raises `UnknownScheme` or `MissingExtra`."""
    where = class_path(scheme)
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
