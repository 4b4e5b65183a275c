"""Who is up and what it serves, as the directory and the workers say it."""

from __future__ import annotations

import asyncio
import logging

from callboard.serving.membership import Member, Pool
from callboard.serving.protocol import ModelInfo, Role
from callboard.serving.scheduling.demand import Rank

from ..integration.waiting import until
from .serving_fakes import FakeComponent, info

LOG = logging.getLogger("callboard.tests")


def names(members: list[Member]) -> list[str]:
    return [member.ref.name for member in members]


async def started(component: FakeComponent, **roles: tuple[Role, ...]) -> Pool:
    pool = Pool(component.ref, LOG, **roles)
    await pool.start()
    return pool


async def test_each_is_asked_once_and_found_by_its_model() -> None:
    component = FakeComponent(info("a"), info("b"), info("a", dp_ranks=2))
    pool = await started(component)
    assert names(pool.serving("a")) == ["worker.0", "worker.2"]
    assert names(pool.serving("b")) == ["worker.1"]
    assert pool.serving("c") == []
    assert pool.known_models == {"a", "b"}
    assert pool.members[2].ranks == (Rank(2, 0), Rank(2, 1))
    assert [ref.asked for ref in component.instances()] == [1, 1, 1]
    await pool.close()


async def test_only_workers_of_the_right_role_count() -> None:
    component = FakeComponent(*(info(role=role, block_size=4) for role in Role))
    decode = await started(component, roles=(Role.BOTH, Role.DECODE))
    prefill = await started(component, roles=(Role.BOTH, Role.PREFILL))
    assert names(decode.serving("m")) == ["worker.0", "worker.2"]
    assert names(prefill.serving("m")) == ["worker.0", "worker.1"]
    await decode.close()
    await prefill.close()


async def test_who_leaves_gets_nothing_and_a_successor_is_asked_anew() -> None:
    component = FakeComponent(info("a"), info("a"))
    pool = await started(component)
    left: list[Member] = []
    joined: list[Member] = []
    pool.left, pool.joined = left.append, joined.append
    component.down(1)
    assert names(pool.serving("a")) == ["worker.0"]
    assert names(left) == ["worker.1"]
    component.up(0, info("b"))  # another incarnation, with another model
    assert pool.serving("a") == []
    assert len(left) == 2
    await pool.asked()
    assert names(pool.serving("b")) == ["worker.0"]
    assert [member.incarnation for member in joined] == [2]
    await pool.close()


async def test_one_that_does_not_answer_is_asked_again() -> None:
    component = FakeComponent(info("a"), RuntimeError("not yet"))
    pool = await started(component)
    assert names(pool.serving("a")) == ["worker.0"]
    assert not pool.is_settled
    component.refs[1].answer = info("a")
    await until(lambda: pool.is_settled)
    assert names(pool.serving("a")) == ["worker.0", "worker.1"]
    await pool.close()


async def test_one_that_is_frozen_keeps_nobody_else_from_being_known() -> None:
    component = FakeComponent(info("a"), info("a"))
    frozen = component.refs[1]
    frozen.holds = asyncio.Event()
    pool = Pool(component.ref, LOG)
    starting = asyncio.ensure_future(pool.start())
    await until(lambda: names(pool.serving("a")) == ["worker.0"])
    component.up(2, info("a"))
    component.up(0, info("a"))
    await until(lambda: names(pool.serving("a")) == ["worker.0", "worker.2"])
    assert frozen.asked == 1
    assert not starting.done()
    frozen.holds.set()
    await starting
    assert pool.is_settled
    await pool.close()


async def test_one_that_was_frozen_and_is_up_again_is_asked_anew() -> None:
    component = FakeComponent(info("a"))
    frozen = component.refs[0]
    frozen.holds = asyncio.Event()
    pool = Pool(component.ref, LOG)
    starting = asyncio.ensure_future(pool.start())
    await until(lambda: frozen.asked)
    component.down(0)
    component.back(0, frozen)
    frozen.holds.set()
    await starting
    await pool.asked()
    assert names(pool.serving("a")) == ["worker.0"]
    await pool.close()


async def test_a_pool_that_is_closed_asks_nobody_any_more() -> None:
    component = FakeComponent(info("a"), RuntimeError("not yet"))
    component.refs[0].holds = asyncio.Event()
    pool = Pool(component.ref, LOG)
    starting = asyncio.ensure_future(pool.start())
    await until(lambda: component.refs[1].asked)
    await pool.close()
    await starting
    pool.look()
    component.up(2, info("a"))
    pool.look()
    assert pool._asking == {}
    assert component.refs[2].asked == 0


async def test_a_member_in_doubt_counts_only_when_it_has_said_it_again() -> None:
    component = FakeComponent(info("a"))
    pool = await started(component)
    component.refs[0].answer = info("b")
    pool.doubt(pool.members[0])
    assert pool.serving("a") == []
    await pool.asked()
    assert names(pool.serving("b")) == ["worker.0"]
    await pool.close()


async def test_changes_are_told_when_they_are_known() -> None:
    component = FakeComponent(info("a"))
    pool = await started(component)
    seen: list[list[str]] = []
    pool.changed = lambda: seen.append(names(pool.serving("a")))
    component.up(4, info("a"))
    await pool.asked()
    component.down(0)
    assert seen == [["worker.0", "worker.4"], ["worker.4"]]
    await pool.close()
    component.down(4)  # nobody listens any more
    assert len(seen) == 2


async def test_a_router_can_wait_for_its_first_workers() -> None:
    answers: list[ModelInfo] = [info(), info(role=Role.PREFILL, block_size=4)]
    component = FakeComponent(*answers)
    pool = await started(component)
    await pool.grown(1)
    waiting = asyncio.ensure_future(pool.grown(3))
    component.up(5, info())
    await pool.asked()
    await asyncio.sleep(0)
    assert not waiting.done()  # the prefill worker is none of them
    component.up(6, info())
    await waiting
    await pool.close()
