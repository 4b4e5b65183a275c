"""Random sequences of everything that can be done with actors, held against the reference model."""

import os

from hypothesis import HealthCheck, Phase, settings

from .machine import Death, Talk

SOAK = bool(os.environ.get("CALLBOARD_SOAK"))

PLAY = settings(
    max_examples=2000 if SOAK else 100,
    stateful_step_count=50,
    derandomize=not SOAK,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    database=None,
)

TestTalk = Talk.TestCase
TestTalk.settings = PLAY
TestDeath = Death.TestCase
TestDeath.settings = PLAY
