"""Random sequences of everything that can be done with actors, held against the reference model.

A failure ends with the shortest sequence that still fails, as the lines of a script, and above it the story: what
happened, by the clock of the example, up to the breach. `make test` plays the same examples each time; a soak plays
others each time, and more of them.
"""

import logging
import os

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from .machine import Death, Ends, Faults, Talk
from .mutations import MUTATIONS
from .reference import Breach

SOAK = bool(os.environ.get("CALLBOARD_SOAK"))

PLAY = settings(
    max_examples=500 if SOAK else 80,
    stateful_step_count=50,
    derandomize=not SOAK,
    deadline=None,
    database=None,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)
SEEK = settings(PLAY, max_examples=200, derandomize=True, phases=[Phase.generate])

pytestmark = pytest.mark.timeout(1800)  # nothing here waits: a busy machine is no reason to stop


@pytest.fixture(autouse=True)
def _silence():
    """Thousands of refusals are logged in seconds, each as intended."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("machine", [Talk, Ends, Faults, Death])
def test_no_sequence_breaks_a_promise(machine):
    run_state_machine_as_test(machine, settings=PLAY)


@pytest.mark.parametrize("mistake", MUTATIONS)
def test_the_machines_find_a_mistake_in_the_runtime(mistake):
    made, machine = MUTATIONS[mistake]
    with made(), pytest.raises(Breach):
        run_state_machine_as_test(machine, settings=SEEK)
