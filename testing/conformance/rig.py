"""What the suite has to know about a plane to run on it: settings, what runs beside it, what can go wrong.

A plane that needs nothing around it runs with `Rig` itself, one whose addresses are ``scheme://host:port`` or
``scheme:///path`` with a subclass of `rigs.StreamRig`, which can do all sorts of damage to its connections. The author
of a plane gives the class its ``scheme`` and names it on the command line: ``--plane-rig my_plane.rig:MyRig``.
"""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import ClassVar

import pytest

from callboard.transports.registry import get_plane
from callboard.transports.settings import NetworkSettings

from ..fault_proxy import Way


class Ability(Enum):
    """What a test may need of a plane and its rig; a test whose needs are not offered does not run on that plane."""

    PROCESSES = "peers in processes of their own"
    CUT = "connections that can be cut"
    SILENCE = "an address where nobody answers"
    BLACKHOLE = "connections that fall silent, in one direction or both"
    DELAY = "connections that can be slow"
    BYTEWISE = "connections that carry one byte at a time"
    BROKER = "a server in the middle that can be frozen, killed and started again"


def needs(*abilities: Ability) -> pytest.MarkDecorator:
    """Mark a test, or a module, as one for planes that offer all of this."""
    return pytest.mark.plane_needs(*abilities)


class Rig:
    """One test's surroundings on one plane.

    A rig offers what its class says in ``offers``; the methods for that must be overridden, and no others. Faults
    concern nodes with the settings of `beyond` that dial the addresses that `through` returns; they hold for
    connections that there are and for those to come.
    """

    scheme: ClassVar[str] = ""
    """Of the plane that a subclass is for."""
    offers: ClassVar[frozenset[Ability]] = frozenset()
    """Beyond what follows from the capabilities of the plane."""

    def __init__(
        self, scheme: str, directory: Path, wanted: frozenset[Ability], config: pytest.Config
    ) -> None:
        self.plane = scheme
        self.directory = directory
        """The test's own, mode 0700, with a path short enough for unix sockets."""
        self.wanted = wanted
        """What the test needs."""
        self.config = config
        """For what all tests of a process share: let its ``add_cleanup`` end it."""

    @classmethod
    def abilities(cls, scheme: str) -> frozenset[Ability]:
        """Everything that the plane of a scheme offers with this rig."""
        between = get_plane(scheme).capabilities.between_processes
        return cls.offers | ({Ability.PROCESSES} if between else set())

    @classmethod
    def summary(cls, scheme: str) -> str:
        """One line for the head of the report: the rig, and which tests are left out."""
        missing = sorted(ability.value for ability in set(Ability) - cls.abilities(scheme))
        return cls.__name__ + (f", without tests that need {'; '.join(missing)}" if missing else "")

    async def start(self) -> None:
        """Start what the plane needs around it; in the event loop of the test, before any node."""

    async def stop(self) -> None:
        """Stop that; in the event loop of the test, after the last node was closed. Nothing may be left."""

    def settings(self) -> NetworkSettings:
        """Settings of a node on this plane."""
        return NetworkSettings(request_plane=self.plane, ipc=False, ipc_directory=str(self.directory))

    # -- faults

    def beyond(self) -> NetworkSettings:
        """Settings of a node that has the faults between itself and all others."""
        return self.settings()

    def through(self, address: str) -> str:
        """Return the address that such a node dials to reach a node that listens at ``address``."""
        return address

    def cut(self) -> None:
        """`Ability.CUT`: end every connection, abruptly."""
        raise self._not_offered(Ability.CUT)

    def blackhole(self, *ways: Way) -> None:
        """`Ability.BLACKHOLE` (both ways: `SILENCE`): carry nothing in these directions, both if none is named."""
        raise self._not_offered(Ability.BLACKHOLE)

    def delay(self, seconds: float) -> None:
        """`Ability.DELAY`: carry everything so much later."""
        raise self._not_offered(Ability.DELAY)

    def bytewise(self) -> None:
        """`Ability.BYTEWISE`: carry one byte at a time."""
        raise self._not_offered(Ability.BYTEWISE)

    def heal(self) -> None:
        """Take these faults back."""

    async def freeze_broker(self) -> None:
        """`Ability.BROKER`: stop the server, alive, until `return_broker`."""
        raise self._not_offered(Ability.BROKER)

    async def kill_broker(self) -> None:
        """`Ability.BROKER`: end the server at once, as by a crash."""
        raise self._not_offered(Ability.BROKER)

    async def return_broker(self) -> None:
        """`Ability.BROKER`: let it go on, or start it again at the same address with what it stored."""
        raise self._not_offered(Ability.BROKER)

    def _not_offered(self, ability: Ability) -> Exception:
        return NotImplementedError(f"{type(self).__name__} does not offer {ability.value}")
