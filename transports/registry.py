"""From a scheme to its plane: imports the driver when it is first asked for."""

from __future__ import annotations

from importlib import import_module

from .base import Plane
from .errors import BadPlane, MissingExtra, UnknownScheme
from .schemes import PLANES, known_schemes

_EXTRAS: dict[str, str] = {}
"""Scheme to the extra that installs its driver, for planes whose driver is optional."""


def get_plane(scheme: str) -> Plane:
    """Return the plane of a scheme; raises `UnknownScheme`, `MissingExtra` or `BadPlane`."""
    where = PLANES.class_path(scheme)
    if where is None:
        raise UnknownScheme(scheme, known_schemes())
    module_name, _, class_name = where.partition(":")
    try:
        module = import_module(module_name)
        plane: Plane = getattr(module, class_name)()
        own = plane.capabilities.scheme
    except Exception as error:  # whatever the module of a third party does
        if isinstance(error, ImportError) and scheme in _EXTRAS:
            raise MissingExtra(scheme, _EXTRAS[scheme], error.name or module_name) from error
        raise BadPlane(scheme, where, f"{type(error).__name__}: {error}") from error
    if own != scheme:
        raise BadPlane(scheme, where, f"it calls itself {own!r}")
    return plane
