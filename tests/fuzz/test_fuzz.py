"""The targets of ``make fuzz`` with random decisions: shorter, without coverage, and run with all other tests."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from . import targets
from .seeds import seeds

EXAMPLES = {"codec": 300, "handshake": 150, "nats_frames": 200, "nats_service": 50, "outside": 80}


@pytest.fixture(autouse=True)
def victim():
    yield
    targets.close()


@pytest.mark.parametrize("name", targets.TARGETS)
def test_nothing_that_a_hostile_peer_sends_breaks_a_promise(name):
    target = targets.TARGETS[name]
    for seed in seeds(name):
        target(seed)

    @settings(max_examples=EXAMPLES.get(name, 100), deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.binary(min_size=8, max_size=400))
    def attack(data):
        target(data)

    attack()
