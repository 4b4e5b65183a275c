"""Whatever happens to workers, callers and the router's time: no place, no waiter and no token is lost."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any, cast

import pytest

from callboard.actors.errors import ActorStopped, ActorUnavailable, MailboxFull, Overloaded
from callboard.actors.policy import Executed
from callboard.serving.errors import EngineBusy, EngineFailed, NoWorkers, WorkersLost
from callboard.serving.placing import Placer
from callboard.serving.protocol import Finish, FinishReason, GenerateRequest, Role
from callboard.serving.router import Router
from callboard.serving.worker import Worker

from .serving_fakes import FakeComponent, FakeRef, info, request
from .test_serving_router import made

TOKENS = 12
FAILURES = (
    ActorStopped, ActorUnavailable, EngineBusy, EngineFailed, MailboxFull, NoWorkers, Overloaded, WorkersLost,
)  # fmt: skip


class Flaky(FakeRef):
    """Counts on from what was given, until chance stops it."""

    rng = Random(0)
    calm = False
    computed = 0
    """Prompts, by prefill workers."""

    async def ask(self, method: Any, *args: Any) -> Any:
        if method is not Worker.prefill:
            return await super().ask(method, *args)
        await pause(Flaky.rng)
        if not Flaky.calm and Flaky.rng.random() < 0.3:
            raise trouble(Flaky.rng)
        Flaky.computed += 1
        return {"by": self.name}

    def stream(self, _: Any, request: GenerateRequest) -> Any:
        return _Answer(self, request)


class _Answer:
    def __init__(self, ref: Flaky, request: GenerateRequest) -> None:
        self._ref, self._request = ref, request

    async def batches(self) -> Any:
        rng, first = Flaky.rng, len(self._request.done)
        left = TOKENS - first
        assert self._request.done == list(range(first))
        assert self._request.max_tokens == left
        while left:
            await pause(rng)
            if not Flaky.calm and rng.random() < 0.2:
                raise trouble(rng)
            count = rng.randint(1, left)
            yield list(range(TOKENS - left, TOKENS - left + count))
            left -= count
        made = TOKENS - first
        yield [Finish(reason=FinishReason.LENGTH, prompt_tokens=1, completion_tokens=made)]


def trouble(rng: Random) -> Exception:
    executed = rng.choice([Executed.MAYBE, Executed.NEVER])
    kinds = (ActorUnavailable("gone", executed=executed), ActorStopped("stopping"), EngineFailed("broke"))
    return rng.choice([*kinds, EngineBusy("full"), MailboxFull("full")])


async def pause(rng: Random) -> None:
    for _ in range(rng.randrange(3)):
        await asyncio.sleep(0)


async def one(router: Router, rng: Random) -> str:
    fields: dict[str, Any] = {"max_tokens": TOKENS, "explain": rng.random() < 0.3}
    fields["prompt"] = " ".join(str(rng.random()) for _ in range(9))  # in nobody's cache
    if rng.random() < 0.2:
        fields["worker"] = rng.randrange(3)
    if rng.random() < 0.2:
        fields["session"] = rng.choice("ab")
    stream = router.generate(request(**fields))
    leaves_after = rng.choice([1, 3, 99, 99, 99])
    pieces: list[Any] = []
    try:
        async for piece in stream:
            pieces.append(piece)
            if len(pieces) >= leaves_after:
                return "left"
    except FAILURES as error:
        return type(error).__name__
    finally:
        await cast("Any", stream).aclose()
    *tokens, end = pieces[1:] if fields["explain"] else pieces
    assert tokens == list(range(TOKENS))
    assert end.completion_tokens == TOKENS
    return "answered"


def pool(role: Role) -> FakeComponent:
    component = FakeComponent(*(info(block_size=4, role=role) for _ in range(3)))
    for ref in component.refs.values():
        ref.__class__ = Flaky
    return component


def comes(component: FakeComponent, index: int, role: Role, *, speaks: bool = True) -> None:
    component.up(index, info(block_size=4, role=role) if speaks else RuntimeError("not yet"))
    component.refs[index].__class__ = Flaky


async def churn(pools: dict[Role, FakeComponent], rng: Random) -> None:
    while True:
        await pause(rng)
        index, role = rng.randrange(3), rng.choice(list(pools))
        if index in pools[role].refs and rng.random() < 0.5:
            pools[role].down(index)
        else:
            comes(pools[role], index, role, speaks=rng.random() < 0.8)


def owes_nothing(placer: Placer) -> bool:
    assert placer.scheduler.outstanding == {}
    assert placer._plain == {}
    return placer.waiting == placer.statistics()["own"] == 0


@pytest.mark.parametrize("mode", ["least-loaded", "kv", "prefill"])
@pytest.mark.parametrize("seed", range(6))
async def test_nothing_is_lost(seed: int, mode: str) -> None:
    rng = Flaky.rng = Random(seed)
    Flaky.calm, Flaky.computed = False, 0
    pools = {Role.DECODE: pool(Role.DECODE)}
    if mode == "prefill":
        pools[Role.PREFILL] = pool(Role.PREFILL)
    router = await made(
        pools[Role.DECODE],
        pools.get(Role.PREFILL),
        mode="kv" if mode == "prefill" else mode,
        wait_s=0.05,
        max_outstanding=12,
        queue_limit=16,
        session_affinity_ttl_s=60.0,
        eff_isl_threshold=1,
    )
    troubles = asyncio.ensure_future(churn(pools, rng))
    answering = [asyncio.ensure_future(one(router, rng)) for _ in range(60)]
    for task in rng.sample(answering, 10):
        await pause(rng)
        task.cancel()
    done, _ = await asyncio.wait(answering, timeout=30)
    assert len(done) == 60
    troubles.cancel()
    assert all(task.result() for task in answering if not task.cancelled())
    assert all(owes_nothing(placer) for placer in router._placers)

    Flaky.calm, Flaky.computed = True, 0  # nothing that has been keeps the next one from its answer
    for role, component in pools.items():
        for index in range(3):
            comes(component, index, role)
    for placer in router._placers:
        await placer.pool.asked()
    calm = [asyncio.ensure_future(one(router, Random(seed))) for _ in range(4)]
    assert {await task for task in calm} <= {"answered", "left"}
    assert Flaky.computed == (4 if mode == "prefill" else 0)
    assert all(owes_nothing(placer) for placer in router._placers)
    for placer in router._placers:
        await placer.pool.close()
