"""Restart intensity, against a model that remembers everything."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from callboard.supervisor.budget import JITTER, Budget
from callboard.supervisor.spec import RestartPolicy
from callboard.transports.errors import ConfigError

seconds = st.floats(min_value=0, max_value=100)


class AgainstTheModel(RuleBasedStateMachine):
    """Spends at random times; the model is the list of every restart ever granted."""

    @initialize(
        most=st.integers(0, 6),
        window=st.floats(min_value=0.1, max_value=50),
        waits=st.tuples(st.floats(0, 2), st.floats(0, 20)).map(sorted),
    )
    def start(self, most: int, window: float, waits: list[float]) -> None:
        self.policy = RestartPolicy(max_restarts=most, window_s=window, backoff_s=(waits[0], waits[1]))
        self.budget = Budget(self.policy)
        self.granted: list[float] = []
        self.now = 0.0

    @rule(passed=seconds)
    def time_passes(self, passed: float) -> None:
        self.now += passed

    @rule(random=st.floats(0, 1))
    def something_fails(self, random: float) -> None:
        counting = [time for time in self.granted if self.now - time < self.policy.window_s]
        self.budget, wait = self.budget.spend(self.now, random)
        if len(counting) >= self.policy.max_restarts:
            assert wait is None
            return
        shortest, longest = self.policy.backoff_s
        full = min(longest, shortest * 2 ** len(counting))
        assert wait is not None
        assert full * (1 - JITTER) - 1e-9 <= wait <= full
        self.granted.append(self.now)

    @invariant()
    def never_more_than_the_budget_in_any_window(self) -> None:
        for start in getattr(self, "granted", []):
            within = [t for t in self.granted if start <= t < start + self.policy.window_s]
            assert len(within) <= self.policy.max_restarts


TestAgainstTheModel = AgainstTheModel.TestCase


@given(st.integers(0, 2000))
def test_the_wait_never_exceeds_the_longest_however_many_restarts_count(count: int) -> None:
    policy = RestartPolicy(max_restarts=5000, window_s=1e9, backoff_s=(0.1, 5.0))
    _, wait = Budget(policy, tuple(float(n) for n in range(count))).spend(float(count))
    assert wait is not None
    assert wait <= 5.0


def test_a_budget_of_none_allows_no_restart() -> None:
    assert Budget(RestartPolicy(max_restarts=0)).spend(1.0)[1] is None


def test_a_quiet_window_resets_budget_and_backoff() -> None:
    budget = Budget(RestartPolicy(max_restarts=2, window_s=10, backoff_s=(0.1, 5.0)))
    for now in (0.0, 1.0):
        budget, _ = budget.spend(now)
    assert budget.spend(9.0)[1] is None
    assert budget.spend(11.5)[1] == pytest.approx(0.1)


def test_a_policy_names_all_its_mistakes() -> None:
    with pytest.raises(ConfigError) as caught:
        RestartPolicy(max_restarts=-1, window_s=0, backoff_s=(3, 1))
    assert len(caught.value.problems) == 3
