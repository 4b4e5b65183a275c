"""Every test of the conformance suite runs on every plane, and leaves nothing behind on any."""

from __future__ import annotations

import functools
import secrets
import shutil
import tempfile
from pathlib import Path

import pytest

from callboard.testing.leaks import look, settled

from .network import Nodes

PLANES = ("memory", "ipc", "tcp")
"""tcp is without its unix-socket short cut here, which would make it ipc."""


@pytest.fixture(params=PLANES)
def nodes(request):
    """Makes nodes on one plane; at the end of the test, in its loop, they are closed and leftovers looked for."""
    directory = Path(
        tempfile.gettempdir() if len(tempfile.gettempdir()) < 24 else "/tmp", f"cb{secrets.token_hex(4)}"
    )
    directory.mkdir(mode=0o700)
    made = Nodes(request.param, directory)
    function = request.node.obj
    request.node.obj = guarded(function, made)
    yield made
    request.node.obj = function
    shutil.rmtree(directory, ignore_errors=True)


def guarded(function, nodes):
    @functools.wraps(function)
    async def run(*args, **kwargs):
        before = look(directory=nodes.directory)
        try:
            await function(*args, **kwargs)
        finally:
            await nodes.close()
        breaches = [breach for node in nodes.made for breach in node.breaches]
        assert breaches == [], "the contract of LinkHandler was broken"
        left = await settled(before, lambda: look(directory=nodes.directory))
        assert [str(item) for item in left] == [], "the test left something behind"

    return run
