"""Whatever happens to workers, callers and the router's time: no place, no waiter and no token is lost."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any, cast

import pytest

from callboard.actors.errors import ActorStopped, ActorUnavailable, MailboxFull, Overloaded
from callboard.actors.policy import Executed
from callboard.serving.errors import EngineBusy, EngineFailed, NoWorkers, WorkersLost
from callboard.serving.protocol import Finish, FinishReason, GenerateRequest
from callboard.serving.router import Router

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
                raise rng.choice(
                    [
                        ActorUnavailable("gone", executed=rng.choice([Executed.MAYBE, Executed.NEVER])),
                        ActorStopped("stopping"),
                        EngineFailed("broke"),
                        EngineBusy("full"),
                        MailboxFull("full"),
                    ]
                )
            count = rng.randint(1, left)
            yield list(range(TOKENS - left, TOKENS - left + count))
            left -= count
        made = TOKENS - first
        yield [Finish(reason=FinishReason.LENGTH, prompt_tokens=1, completion_tokens=made)]


async def pause(rng: Random) -> None:
    for _ in range(rng.randrange(3)):
        await asyncio.sleep(0)


async def one(router: Router, rng: Random) -> str:
    fields: dict[str, Any] = {"max_tokens": TOKENS, "explain": rng.random() < 0.3}
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


async def churn(component: FakeComponent, rng: Random) -> None:
    while True:
        await pause(rng)
        index = rng.randrange(3)
        if index in component.refs and rng.random() < 0.5:
            component.down(index)
        else:
            component.up(index, info(block_size=4) if rng.random() < 0.8 else RuntimeError("not yet"))
            component.refs[index].__class__ = Flaky


@pytest.mark.parametrize("mode", ["least-loaded", "kv"])
@pytest.mark.parametrize("seed", range(8))
async def test_nothing_is_lost(seed: int, mode: str) -> None:
    rng = Flaky.rng = Random(seed)
    Flaky.calm = False
    component = FakeComponent(*(info(block_size=4) for _ in range(3)))
    for ref in component.refs.values():
        ref.__class__ = Flaky
    router = await made(
        component, mode=mode, wait_s=0.05, max_outstanding=4, queue_limit=16, session_affinity_ttl_s=60.0
    )
    troubles = asyncio.ensure_future(churn(component, rng))
    answering = [asyncio.ensure_future(one(router, rng)) for _ in range(60)]
    for task in rng.sample(answering, 10):
        await pause(rng)
        task.cancel()
    done, _ = await asyncio.wait(answering, timeout=30)
    assert len(done) == 60
    troubles.cancel()
    outcomes = [task.result() for task in answering if not task.cancelled()]
    assert "answered" in outcomes

    placer = router._decode
    assert placer.scheduler.outstanding == {}
    assert placer.waiting == 0
    assert placer._plain == {}
    assert placer.statistics()["own"] == 0

    Flaky.calm = True  # nothing that has been keeps the next one from its answer
    for index in range(3):
        component.up(index, info(block_size=4))
        component.refs[index].__class__ = Flaky
    await placer.pool.asked()
    calm = [asyncio.ensure_future(one(router, Random(seed))) for _ in range(4)]
    assert {await task for task in calm} <= {"answered", "left"}
    await placer.pool.close()
