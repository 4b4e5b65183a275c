"""The supervisor's end of the guardian."""

from __future__ import annotations

import os
import signal

import pytest

from callboard.supervisor import guardian
from callboard.supervisor.guardian import Guardian


def test_a_guardian_that_hangs_is_killed_when_it_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guardian, "LIMIT_S", -0.9)
    one = Guardian("a-tree-that-is-empty")
    os.kill(one.pid, signal.SIGSTOP)
    one.close()
    assert not one.is_alive
