"""Makes the event plane that a name stands for."""

from __future__ import annotations

from importlib import import_module

from ..errors import BadPlane, ConfigError
from .base import EventPlane, EventPlaneContext
from .faults import with_faults
from .names import PLANES, unknown_event_plane


def make_event_plane(name: str, context: EventPlaneContext) -> EventPlane:
    """Return the event plane of a name. Raises `ConfigError` for an unknown one, and `BadPlane`."""
    where = PLANES.class_path(name)
    if where is None:
        raise ConfigError(unknown_event_plane(name))
    module_name, _, class_name = where.partition(":")
    try:
        plane: EventPlane = getattr(import_module(module_name), class_name)(context)
    except (ImportError, AttributeError) as error:
        raise BadPlane(
            name, where, f"{type(error).__name__}: {error}", kind="event", group=PLANES.group
        ) from error
    return with_faults(plane)
