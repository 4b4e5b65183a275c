"""Nodes on one plane, and pairs of nodes with actors; what a test leaves behind fails it."""

from __future__ import annotations

import functools
import secrets
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest

from ..leaks import look, look_before, settled
from .actors.pairs import LOCAL, Pair
from .network import Nodes
from .rig import Rig
from .selection import rig_for, wanted


class _Made(Protocol):
    rig: Rig

    async def start(self) -> None: ...
    async def close(self) -> None: ...
    def check(self) -> None: ...


@pytest.fixture
def nodes(request: pytest.FixtureRequest) -> Iterator[Nodes]:
    """Makes nodes on one plane; at the end of the test, in its loop, they are closed and leftovers looked for."""
    with _rigged(request) as rig:
        made = Nodes(rig)
        with _guarded(request.node, made):
            yield made


@pytest.fixture
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    """A `Pair` that has been started; it is closed in the loop of the test, and leftovers fail the test."""
    with _rigged(request) as rig:
        made = Pair(rig, remote=request.param != LOCAL)
        with _guarded(request.node, made):
            yield made


@pytest.fixture
def remote(request: pytest.FixtureRequest) -> Iterator[Pair]:
    """The same for promises that only hold, or only show, between processes."""
    with _rigged(request) as rig:
        made = Pair(rig, remote=True)
        with _guarded(request.node, made):
            yield made


@pytest.fixture
def faulty(request: pytest.FixtureRequest) -> Iterator[Pair]:
    """A `Pair` whose near node reaches the far one through the faults of the rig."""
    with _rigged(request) as rig:
        made = Pair(rig, remote=True, faulty=True)
        with _guarded(request.node, made):
            yield made


@contextmanager
def _rigged(request: pytest.FixtureRequest) -> Iterator[Rig]:
    scheme = "memory" if request.param == LOCAL else request.param
    base = tempfile.gettempdir()
    # Unix sockets will be in it, and the kernel takes 107 bytes for the whole path of one.
    directory = Path(base if len(base) < 24 else "/tmp", f"cb{secrets.token_hex(4)}")
    directory.mkdir(mode=0o700)
    try:
        rig = rig_for(request.config, scheme)
        yield rig(scheme, directory, wanted(request.node), request.config)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def _guarded(item: pytest.Function, made: _Made) -> Iterator[None]:
    function: Callable[..., Awaitable[object]] = item.obj
    rig = made.rig

    @functools.wraps(function)
    async def run(*args: Any, **kwargs: Any) -> None:
        await rig.start()
        before = look_before(directory=rig.directory)
        try:
            await made.start()
            await function(*args, **kwargs)
        finally:
            try:
                await made.close()
            finally:
                await rig.stop()
        left = await settled(before, lambda: look(directory=rig.directory))
        assert [str(item) for item in left] == [], "the test left something behind"
        made.check()

    item.obj = run
    try:
        yield
    finally:
        item.obj = function
