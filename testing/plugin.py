"""The pytest plug-in: runs ``async def`` tests and gives them the ``cluster`` fixture.

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

FOREIGN_MARKERS = ("asyncio", "anyio", "trio", "tornado", "twisted")
"""Markers of plug-ins that run coroutine tests themselves."""


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
    """
    from .cluster import attached

    with attached(request.node) as made:
        yield made
