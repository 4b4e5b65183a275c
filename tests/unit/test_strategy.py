"""What follows from a failure."""

from __future__ import annotations

import pytest

from callboard.supervisor.budget import Budget
from callboard.supervisor.spec import RestartKind, RestartPolicy
from callboard.supervisor.strategy import Failure, one_for_one

CRASH = Failure(reason="killed by SIGKILL")
EXIT = Failure(reason="exited with code 0", normal=True)


def budget(kind: RestartKind, *, most: int = 5, shortest: float = 0.1) -> Budget:
    return Budget(RestartPolicy(policy=kind, max_restarts=most, backoff_s=(shortest, 5.0)))


@pytest.mark.parametrize(
    ("kind", "failure", "restarts"),
    [
        (RestartKind.PERMANENT, CRASH, True),
        (RestartKind.PERMANENT, EXIT, True),
        (RestartKind.TRANSIENT, CRASH, True),
        (RestartKind.TRANSIENT, EXIT, False),
        (RestartKind.TEMPORARY, CRASH, False),
        (RestartKind.TEMPORARY, EXIT, False),
    ],
)
def test_the_kind_says_after_which_end_something_starts_again(
    kind: RestartKind, failure: Failure, restarts: bool
) -> None:
    decision, _ = one_for_one(failure, [("a.0", budget(kind))], now=0.0)
    assert decision.restart == (("a.0",) if restarts else ())
    assert decision.abandon == (() if restarts else ("a.0",))
    assert not decision.escalate


def test_actors_of_one_process_start_again_together_after_the_longest_of_their_waits() -> None:
    affected = [
        ("a.0", budget(RestartKind.PERMANENT)),
        ("b.0", budget(RestartKind.TEMPORARY)),
        ("c.0", budget(RestartKind.PERMANENT, shortest=2.0)),
    ]
    decision, budgets = one_for_one(CRASH, affected, now=0.0)
    assert decision.restart == ("a.0", "c.0")
    assert decision.wait_s == 2.0
    assert [len(budgets[name].times) for name in decision.restart] == [1, 1]


def test_a_used_up_budget_escalates_and_names_actor_and_reason() -> None:
    spent = budget(RestartKind.PERMANENT, most=1)
    _, budgets = one_for_one(CRASH, [("a.0", spent)], now=0.0)
    decision, _ = one_for_one(CRASH, list(budgets.items()), now=1.0)
    assert decision.escalate == "a.0"
    assert decision.restart == ()
    assert decision.reason == (
        "killed by SIGKILL; its budget of restarts is used up (1 of 1 restarts in 60 s)"
    )
