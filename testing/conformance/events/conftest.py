"""Every test of this directory runs on every event plane; what it leaves behind fails it."""

from __future__ import annotations

import secrets
import shutil
from pathlib import Path

import pytest

from ..fixtures import _guarded
from ..rig import Rig
from ..selection import rig_for
from .stage import Stage

PLANES = ("memory", "zmq", "nats", "jetstream")
BROKERED = ("nats", "jetstream")


@pytest.fixture(params=PLANES)
def stage(request: pytest.FixtureRequest):
    """A `Stage` on one event plane."""
    name = request.param
    directory = Path("/tmp", f"cb{secrets.token_hex(4)}")  # unix sockets will be in it: 107 bytes at most
    directory.mkdir(mode=0o700)
    try:
        kind, scheme = (rig_for(request.config, "nats"), "nats") if name in BROKERED else (Rig, "memory")
        made = Stage(kind(scheme, directory, frozenset(), request.config), name)
        with _guarded(request.node, made):
            yield made
    finally:
        shutil.rmtree(directory, ignore_errors=True)
