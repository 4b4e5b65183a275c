"""The pytest plug-in: runs ``async def`` tests and gives them the ``cluster`` fixture; has the suite's options.

Imported by every pytest run of an environment where callboard is installed, so nothing but pytest is
imported here; the rest comes with the first test that needs it.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .cluster import Cluster
    from .nats_session import NatsForTest

FOREIGN_MARKERS = ("asyncio", "anyio", "trio", "tornado", "twisted")
"""Markers of plug-ins that run coroutine tests themselves."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Say which planes `callboard.testing.conformance` runs on."""
    group = parser.getgroup("callboard", "callboard: the conformance suite of request planes")
    group.addoption(
        "--plane",
        dest="planes",
        action="append",
        default=[],
        metavar="SCHEME",
        help="run the conformance suite on this plane; may be repeated",
    )
    group.addoption(
        "--plane-rig",
        dest="plane_rigs",
        action="append",
        default=[],
        metavar="MODULE:CLASS",
        help="the Rig of a plane that needs something around it; may be repeated",
    )
    parser.addini(
        "callboard_planes", "planes of the conformance suite without --plane", type="args", default=[]
    )


def pytest_configure(config: pytest.Config) -> None:
    """Make the markers known."""
    config.addinivalue_line(
        "markers",
        "plane_needs(*abilities): runs only on planes that offer this; see callboard.testing.conformance.rig",
    )


def runs_here(item: pytest.Function) -> bool:
    """True for a coroutine test that no other plug-in has claimed by its marker or its item class."""
    return (
        type(item) is pytest.Function
        and inspect.iscoroutinefunction(item.obj)
        and not any(item.get_closest_marker(name) for name in FOREIGN_MARKERS)
    )


def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a coroutine test on an event loop of its own; leave every other test alone."""
    if not runs_here(pyfuncitem):
        return None
    from .runner import run

    names = pyfuncitem._fixtureinfo.argnames
    run(pyfuncitem.obj, {name: pyfuncitem.funcargs[name] for name in names})
    return True


@pytest.fixture
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Systems of real processes for one coroutine test: see `callboard.testing.cluster.Cluster`.

    They are closed at the end of the test, in its event loop, whether it passed or not. What is left then
    (a process, a socket, a file, a task, ...) fails the test by name. When the test fails, the logs of all
    processes are part of its report.

    A test runs once per plane with ``@pytest.mark.parametrize("cluster", ["tcp", "nats"], indirect=True)``; it
    needs no nats-server of its own.
    """
    from .cluster import attached

    with attached(request.node) as made:
        made.plane = getattr(request, "param", None)
        yield made


@pytest.fixture
def nats_server(request: pytest.FixtureRequest) -> NatsForTest:
    """A real nats-server with JetStream, and a subject prefix of this test: see `callboard.testing.nats_session`.

    The server is started with the first test of the process that needs it and stopped after the last.
    """
    from .nats_session import for_test

    return for_test(request)
