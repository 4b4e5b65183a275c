"""Errors of supervision say what to do, and survive the way between processes."""

from __future__ import annotations

import pickle

import pytest

from callboard.supervisor.errors import (
    AdminError,
    AlreadyRunning,
    NatsServerFailed,
    NatsServerMissing,
    NotRunning,
    StartInterrupted,
    StartupFailed,
    SupervisionError,
    SystemFailed,
    UnknownPlace,
)
from callboard.transports.errors import CallboardError

ERRORS = [
    AdminError("gone"),
    AlreadyRunning("/run/x", 12),
    NatsServerFailed("exited with code 1", "the end of its log"),
    NatsServerMissing("/opt/nats-server"),
    NotRunning("/run/x"),
    StartupFailed("a.0", "no", "Traceback ..."),
    StartInterrupted(),
    SystemFailed("a.0", "too often", "the end of its log"),
    UnknownPlace("b", ("a.0",)),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_survives_pickling(error: SupervisionError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)
    assert isinstance(copy, CallboardError)
