"""What the suite has to know about a plane to run on it: settings, what runs beside it, what can go wrong.

A plane that needs nothing around it runs with `Rig` itself. The author of another subclasses it, gives the class its
``scheme``, and names it on the command line: ``--plane-rig my_plane.rig:MyRig``.
"""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import ClassVar

import pytest

from callboard.transports.registry import get_plane
from callboard.transports.settings import NetworkSettings


class Ability(Enum):
    """What a test may need of a plane and its rig; a test whose needs are not offered does not run on that plane."""

    PROCESSES = "peers in processes of their own"


def needs(*abilities: Ability) -> pytest.MarkDecorator:
    """Mark a test, or a module, as one for planes that offer all of this."""
    return pytest.mark.plane_needs(*abilities)


class Rig:
    """One test's surroundings on one plane. ``directory`` is the test's own, mode 0700, with a short path."""

    scheme: ClassVar[str] = ""
    """Of the plane that a subclass is for."""
    offers: ClassVar[frozenset[Ability]] = frozenset()
    """Beyond what follows from the capabilities of the plane."""

    def __init__(self, scheme: str, directory: Path) -> None:
        self.plane = scheme
        self.directory = directory

    @classmethod
    def abilities(cls, scheme: str) -> frozenset[Ability]:
        """Everything that the plane of a scheme offers with this rig."""
        between = get_plane(scheme).capabilities.between_processes
        return cls.offers | ({Ability.PROCESSES} if between else set())

    @classmethod
    def summary(cls, scheme: str) -> str:
        """One line for the head of the report: the rig, and which tests are left out."""
        missing = sorted(ability.value for ability in set(Ability) - cls.abilities(scheme))
        return f"{cls.__name__}" + (f", without tests that need: {'; '.join(missing)}" if missing else "")

    async def start(self) -> None:
        """Start what the plane needs around it; in the event loop of the test, before any node."""

    async def stop(self) -> None:
        """Stop that; in the event loop of the test, after the last node was closed."""

    def settings(self) -> NetworkSettings:
        """Settings of a node on this plane."""
        return NetworkSettings(request_plane=self.plane, ipc=False, ipc_directory=str(self.directory))
