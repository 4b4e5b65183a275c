"""Which event planes there are, by name. Built-ins are named by strings, so that knowing one costs no import.

A third party adds one by an entry point in the group ``callboard.event_planes``.
"""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from importlib.metadata import entry_points

from ..errors import BadPlane, ConfigError, did_you_mean
from .base import EventPlane, EventPlaneContext
from .faults import with_faults

GROUP = "callboard.event_planes"
BUILT_IN = {
    "zmq": "callboard.transports.events.zmq:ZmqEvents",
    "nats": "callboard.transports.events.nats:NatsEvents",
    "jetstream": "callboard.transports.events.jetstream:JetStreamEvents",
    "memory": "callboard.transports.events.memory:MemoryEvents",
    "none": "callboard.transports.events.none:NoEvents",
}


@lru_cache(maxsize=1)
def _entry_points() -> dict[str, str]:
    return {point.name: f"{point.module}:{point.attr}" for point in entry_points(group=GROUP)}


def known_event_planes() -> tuple[str, ...]:
    """Every name that can be used here, in alphabetical order."""
    return tuple(sorted({*BUILT_IN, *_entry_points()}))


def make_event_plane(name: str, context: EventPlaneContext) -> EventPlane:
    """Return the event plane of a name. Raises `ConfigError` for an unknown one, and `BadPlane`."""
    where = BUILT_IN.get(name) or _entry_points().get(name)
    if where is None:
        known = known_event_planes()
        raise ConfigError(
            f'invalid event plane "{name}"; valid are: {", ".join(known)}{did_you_mean(name, known)}'
        )
    module_name, _, class_name = where.partition(":")
    try:
        plane: EventPlane = getattr(import_module(module_name), class_name)(context)
    except (ImportError, AttributeError) as error:
        raise BadPlane(name, where, f"{type(error).__name__}: {error}") from error
    return with_faults(plane)
