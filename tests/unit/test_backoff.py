"""Backoff grows from the first delay to the longest, with jitter on the upper half."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callboard.transports.backoff import Backoff
from callboard.transports.errors import ConfigError

DELAYS = st.floats(0, 1e6)
ATTEMPTS = st.integers(0, 10_000)
RANDOM = st.floats(0, 1, exclude_max=True)


@given(DELAYS, DELAYS, ATTEMPTS, RANDOM)
def test_each_delay_is_between_half_and_all_of_its_ceiling(first, more, attempt, random):
    backoff = Backoff(first, first + more)
    ceiling = min(first + more, first * 2.0 ** min(attempt, 60))
    assert ceiling / 2 <= backoff.delay_s(attempt, random) <= ceiling


@given(DELAYS, DELAYS, ATTEMPTS, RANDOM)
def test_delays_never_shrink_as_attempts_go_on(first, more, attempt, random):
    backoff = Backoff(first, first + more)
    assert backoff.delay_s(attempt, random) <= backoff.delay_s(attempt + 1, random)


def test_the_random_number_decides_within_the_upper_half():
    backoff = Backoff(1.0, 8.0)
    assert [backoff.delay_s(n, 0.0) for n in range(5)] == [0.5, 1.0, 2.0, 4.0, 4.0]
    assert backoff.delay_s(9, 0.75) == 7.0


@pytest.mark.parametrize("wrong", [(-1, 5), (5, 1), (float("nan"), 1), (1, float("nan"))])
def test_what_is_no_backoff_is_refused_with_the_rule(wrong):
    with pytest.raises(ConfigError, match=r"it must be \[first, longest\] with 0 <= first <= longest"):
        Backoff(*wrong)
