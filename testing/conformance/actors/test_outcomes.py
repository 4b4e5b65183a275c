"""Each fault at each moment has one outcome: an error, whether the handler ran, the actor and its incarnation."""

import pytest

from callboard.actors.outcome import outcome
from callboard.actors.policy import Executed

from . import scenarios_delivery, scenarios_handler
from .outcome_table import ROWS, Names, Row, Where, rows
from .pairs import LOCAL
from .scenarios_delivery import INCARNATION

SCENARIOS = {**vars(scenarios_delivery), **vars(scenarios_handler)}


def cases(*where):
    return pytest.mark.parametrize("row", rows(*where), ids=[row.key for row in rows(*where)])


async def check(pair, row: Row):
    error = await SCENARIOS[row.key](pair)
    what = outcome(error)
    found = (type(error).__name__, what.executed, what.actor, what.incarnation)
    actor = row.actor if row.names is not Names.NOTHING else ""
    assert found == (row.error, row.executed, actor, INCARNATION if row.names is Names.BOTH else 0), error
    assert what.retry_is_safe is (row.executed is Executed.NEVER)


@cases(Where.ANYWHERE)
async def test_a_fault_has_one_outcome_wherever_the_actor_is(pair, row):
    await check(pair, row)


@cases(Where.BETWEEN)
async def test_a_fault_between_processes_has_one_outcome(remote, row):
    await check(remote, row)


@cases(Where.WITHIN)
@pytest.mark.parametrize("pair", [LOCAL], indirect=True)
async def test_a_fault_within_one_process_has_one_outcome(pair, row):
    await check(pair, row)


def test_each_row_has_a_scenario_of_its_own():
    keys = [row.key for row in ROWS]
    assert len(keys) == len(set(keys))
    assert [key for row in ROWS if row.where is not Where.KILLED and (key := row.key) not in SCENARIOS] == []
