"""What a frontend does when its router goes away: with routers that are not there."""

from __future__ import annotations

import math
from typing import Any

import pytest

from callboard.actors.errors import ActorUnavailable, DeadlineExceeded
from callboard.actors.policy import OnDown
from callboard.serving.backend import MOVES, RouterBackend
from callboard.serving.protocol import Delta, Finish, FinishReason, GenerateRequest

FINISH = Finish(reason=FinishReason.STOP, prompt_tokens=3, completion_tokens=1)
ASK_S = 10.0
"""Deadline of what names none."""
REQUEST = GenerateRequest(request_id="r", model="m", prompt="x", max_tokens=10)


class Routers:
    """A reference whose streams follow a script: batches, then maybe an error."""

    name = "router"

    def __init__(
        self, *script: list[Any], deadline_s: float = math.inf, log: list[Any] | None = None
    ) -> None:
        self.script, self.deadline_s = list(script), deadline_s
        self.log: list[Any] = [] if log is None else log
        self.on_down = OnDown.FAIL
        self.answer: Exception | None = None
        self._root = self

    def options(self, *, deadline_s: float = ASK_S, on_down: OnDown = OnDown.FAIL) -> Routers:
        other = Routers(deadline_s=deadline_s, log=self.log)
        other.on_down = on_down
        other._root = self
        return other

    async def ask(self, method: Any) -> dict[str, int]:
        self.log.append((method.__name__, self.on_down, self.deadline_s))
        if self._root.answer is not None:
            raise self._root.answer
        return {}

    def stream(self, method: Any, request: GenerateRequest) -> Routers:
        self.log.append((request.done, request.max_tokens, self.deadline_s))
        return self

    async def batches(self) -> Any:
        for item in self.script.pop(0):
            if isinstance(item, Exception):
                raise item
            yield item


def lost(name: str = "router.0") -> ActorUnavailable:
    return ActorUnavailable("gone", actor=name)


async def read(routers: Routers) -> list[Any]:
    backend = RouterBackend(routers)  # type: ignore[arg-type]
    return [piece async for batch in backend.generate(REQUEST) for piece in batch]


async def test_what_the_client_has_is_not_asked_for_again_and_the_end_counts_all() -> None:
    routers = Routers([["a", "b"], lost()], [["c"], ["d", FINISH]])
    *texts, finish = await read(routers)
    assert texts == ["a", "b", "c", "d"]
    assert finish.completion_tokens == 3  # what the engine counted, and the two of before
    assert [entry[:2] for entry in routers.log if isinstance(entry[0], list)] == [([], 10), (["a", "b"], 8)]


async def test_only_the_wait_for_a_router_is_bounded_not_the_rest_of_the_answer() -> None:
    routers = Routers([["a"], lost()], [["b", FINISH]])
    await read(routers)
    assert routers.log[1] == ("load", OnDown.WAIT, ASK_S)
    assert routers.log[2] == (["a"], 9, math.inf)


async def test_a_successor_that_dies_before_its_first_piece_is_replaced_too() -> None:
    routers = Routers([["a"], lost()], [lost()], [["b", FINISH]])
    *texts, _ = await read(routers)
    assert texts == ["a", "b"]


async def test_a_request_that_finds_no_router_waits_for_one() -> None:
    routers = Routers([lost()], [["a"], ["b", FINISH]])
    *texts, finish = await read(routers)
    assert (texts, finish.completion_tokens) == (["a", "b"], 1)
    assert routers.log[1] == ("load", OnDown.WAIT, ASK_S)
    assert routers.log[2][:2] == ([], 10)


async def test_a_router_that_is_there_and_says_nothing_is_not_available() -> None:
    routers = Routers([lost()])
    routers.answer = DeadlineExceeded("frozen")
    with pytest.raises(ActorUnavailable, match="gone"):
        await read(routers)


async def test_routers_that_die_one_after_the_other_end_the_answer() -> None:
    routers = Routers(*([["a"], lost()] for _ in range(MOVES + 1)))
    with pytest.raises(ActorUnavailable):
        await read(routers)
    assert routers.script == []


@pytest.mark.parametrize(
    "script",
    [
        [["a"], lost("worker.1")],  # news of a worker, by a router that is well
        [[Delta({"tool_calls": []})], lost()],  # cannot be continued
    ],
)
async def test_what_cannot_go_on_fails_at_once(script: list[Any]) -> None:
    routers = Routers(script)
    with pytest.raises(ActorUnavailable):
        await read(routers)
    assert len(routers.log) == 1
