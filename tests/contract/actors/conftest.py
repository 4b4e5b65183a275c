"""Every promise is tested on every plane and within one process, and nothing may be left behind."""

from __future__ import annotations

import functools
import secrets
import shutil
import tempfile
from pathlib import Path

import pytest

from callboard.testing.leaks import look, settled

from ..conftest import PLANES
from .pairs import LOCAL, Pair


@pytest.fixture(params=[LOCAL, *PLANES])
def pair(request):
    """A `Pair` that has been started; it is closed in the loop of the test, and leftovers fail the test."""
    yield from _attached(request)


@pytest.fixture(params=PLANES)
def remote(request):
    """The same for promises that only hold, or only show, between processes."""
    yield from _attached(request)


def _attached(request):
    temporary = tempfile.gettempdir()
    directory = Path(temporary if len(temporary) < 24 else "/tmp", f"cb{secrets.token_hex(4)}")
    directory.mkdir(mode=0o700)
    made = Pair(request.param, directory)
    function = request.node.obj
    request.node.obj = _guarded(function, made, directory)
    yield made
    request.node.obj = function
    shutil.rmtree(directory, ignore_errors=True)


def _guarded(function, pair, directory):
    @functools.wraps(function)
    async def run(*args, **kwargs):
        before = look(directory=directory)
        try:
            await pair.start()
            await function(*args, **kwargs)
        finally:
            await pair.close()
        left = await settled(before, lambda: look(directory=directory))
        assert [str(item) for item in left] == [], "the test left something behind"
        for node in pair.nodes:
            assert not node.pending.calls
            assert not node.readers
            assert not node.cells

    return run
