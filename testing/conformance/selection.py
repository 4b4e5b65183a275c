"""Which planes the suite runs on: ``--plane`` and ``--plane-rig``, else the setting ``callboard_planes``."""

from __future__ import annotations

from importlib import import_module

import pytest

from callboard.transports.errors import TransportError
from callboard.transports.registry import get_plane

from .rig import Ability, Rig
from .rigs import RIGS

HOW = """\
the conformance suite runs on the planes that you name:
  pytest --pyargs callboard.testing.conformance --plane SCHEME
for a plane that needs something around it (a server, a directory, ...), with a class that starts it:
  pytest --pyargs callboard.testing.conformance --plane-rig MODULE:CLASS"""

_KEY: pytest.StashKey[dict[str, type[Rig]]] = pytest.StashKey()


def selected(config: pytest.Config) -> dict[str, type[Rig]]:
    """Return the planes that the suite runs on, each with the class of its rig; raises `pytest.UsageError`."""
    if _KEY not in config.stash:
        config.stash[_KEY] = _select(config)
    return config.stash[_KEY]


def offering(config: pytest.Config, item: pytest.Item | pytest.Function) -> list[str]:
    """Return the schemes that offer everything that a test needs."""
    return [scheme for scheme, rig in selected(config).items() if wanted(item) <= rig.abilities(scheme)]


def wanted(item: pytest.Item | pytest.Function) -> frozenset[Ability]:
    """Return what a test needs of a plane."""
    return frozenset(need for mark in item.iter_markers("plane_needs") for need in mark.args)


def rig_for(config: pytest.Config, scheme: str) -> type[Rig]:
    """Return the class of the rig of a plane."""
    return selected(config).get(scheme) or RIGS.get(scheme, Rig)


def _select(config: pytest.Config) -> dict[str, type[Rig]]:
    given = [_rig(path) for path in config.getoption("plane_rigs")]
    rigs = RIGS | {rig.scheme: rig for rig in given}
    schemes = config.getoption("planes") or [rig.scheme for rig in given] or config.getini("callboard_planes")
    if not schemes:
        raise pytest.UsageError(HOW)
    for scheme in schemes:
        try:
            get_plane(scheme)
        except TransportError as error:
            raise pytest.UsageError(f"--plane {scheme}: {error}") from None
    return {scheme: rigs.get(scheme, Rig) for scheme in schemes}


def _rig(path: str) -> type[Rig]:
    module, _, name = path.partition(":")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise pytest.UsageError(f"--plane-rig {path}: {error}; write MODULE:CLASS") from None
    if not (isinstance(found, type) and issubclass(found, Rig) and found.scheme):
        raise pytest.UsageError(
            f"--plane-rig {path}: it must be a subclass of {Rig.__module__}.Rig that has a scheme"
        )
    return found
