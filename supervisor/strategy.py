"""What follows from a failure: what starts again, after how long, or that the system must stop. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .budget import Budget
from .spec import RestartKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """The end of a process or of one actor in it that nobody commanded."""

    reason: str
    normal: bool = False
    """True if a process ended by itself with exit code 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """``restart`` these actors after ``wait_s``; ``abandon`` those; or ``escalate`` because of one."""

    restart: tuple[str, ...] = ()
    abandon: tuple[str, ...] = ()
    wait_s: float = 0.0
    escalate: str = ""
    reason: str = ""


def one_for_one(
    failure: Failure, affected: Iterable[tuple[str, Budget]], *, now: float, random: float = 0.0
) -> tuple[Decision, dict[str, Budget]]:
    """Decide about the actors that a failure took down; returns their budgets after the decision too.

    All of them start again together, after the longest of their waits. One whose budget is used up makes
    the decision an escalation.
    """
    restart, abandon, waits = [], [], [0.0]
    budgets: dict[str, Budget] = {}
    for name, budget in affected:
        kind = budget.policy.policy
        if kind is RestartKind.TEMPORARY or (kind is RestartKind.TRANSIENT and failure.normal):
            abandon.append(name)
            continue
        budgets[name], wait = budget.spend(now, random)
        if wait is None:
            reason = f"{failure.reason}; its budget of restarts is used up ({budgets[name]})"
            return Decision(escalate=name, reason=reason), budgets
        restart.append(name)
        waits.append(wait)
    decision = Decision(
        restart=tuple(restart), abandon=tuple(abandon), wait_s=max(waits), reason=failure.reason
    )
    return decision, budgets
