"""How a router chooses: pure functions of what was chosen and what is outstanding."""

import pytest

from callboard.serving.routing import POLICIES, Balance, LeastLoaded, RoundRobin, make_policy
from callboard.transports.errors import ConfigError


def picks(policy, candidates, count, outstanding=None):
    return [policy.pick(candidates, outstanding or {}) for _ in range(count)]


def test_round_robin_takes_turns():
    assert picks(RoundRobin(), [0, 1, 2], 7) == [0, 1, 2, 0, 1, 2, 0]


def test_round_robin_keeps_its_place_when_instances_come_and_go():
    policy = RoundRobin()
    assert picks(policy, [0, 1, 2], 2) == [0, 1]
    assert picks(policy, [0, 2], 1) == [2]
    assert picks(policy, [0, 1, 2, 3], 3) == [3, 0, 1]


def test_round_robin_does_not_look_at_the_load():
    assert picks(RoundRobin(), [0, 1], 4, {0: 100}) == [0, 1, 0, 1]


def test_least_loaded_takes_the_one_with_the_fewest_requests():
    assert LeastLoaded().pick([0, 1, 2], {0: 3, 1: 1, 2: 2}) == 1
    assert LeastLoaded().pick([0, 1, 2], {0: 3, 2: 2}) == 1
    assert LeastLoaded().pick([0, 2], {0: 3, 1: 0, 2: 2}) == 2


def test_least_loaded_takes_turns_among_equals():
    assert picks(LeastLoaded(), [0, 1, 2], 4) == [0, 1, 2, 0]
    assert picks(LeastLoaded(), [0, 1, 2], 4, {0: 5}) == [1, 2, 1, 2]


@pytest.mark.parametrize("mode", POLICIES)
def test_the_same_history_gives_the_same_choices(mode):
    def run():
        balance = Balance(make_policy(mode))
        chosen = []
        for step in range(50):
            chosen.append(balance.begin([0, 1, 2, 3]))
            if step % 3 == 0:
                balance.end(chosen[step // 2])
        return chosen

    assert run() == run()


def test_a_balance_counts_what_is_outstanding():
    balance = Balance(make_policy("least-loaded"))
    assert [balance.begin([0, 1]) for _ in range(3)] == [0, 1, 0]
    assert balance.outstanding == {0: 2, 1: 1}
    balance.end(0)
    balance.end(0)
    assert balance.outstanding == {1: 1}
    assert balance.begin([0, 1]) == 0


def test_least_loaded_spreads_what_never_ends_evenly():
    balance = Balance(make_policy("least-loaded"))
    for _ in range(64):
        balance.begin([0, 1, 2])
    assert sorted(balance.outstanding.values()) == [21, 21, 22]


def test_an_unknown_mode_is_refused_with_a_suggestion():
    with pytest.raises(ConfigError, match=r'mode is "roundrobin"; modes are: .*did you mean "round-robin"\?'):
        make_policy("roundrobin")
