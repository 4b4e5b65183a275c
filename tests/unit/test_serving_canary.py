"""When an engine is suspect, what a health check must show, and what follows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest

from callboard.actors.policy import StopReason
from callboard.serving.canary import Canary, CanarySettings, suspicion
from callboard.serving.errors import EngineFailed
from callboard.serving.options import settings_of
from callboard.serving.protocol import GenerateRequest, Piece
from callboard.serving.worker import Worker
from callboard.transports.errors import ConfigError

from ..integration.waiting import until

QUICK = CanarySettings(stall_s=0.02, timeout_s=0.02)


class Engine:
    """Answers health checks, or does not."""

    def __init__(self, failure: Exception | None = None, *, hangs: bool = False) -> None:
        self.failure, self.hangs = failure, hangs
        self.asked: list[int] = []

    async def attempt(self, tokens: int) -> None:
        self.asked.append(tokens)
        if self.failure is not None:
            raise self.failure
        if self.hangs:
            await asyncio.Event().wait()


@asynccontextmanager
async def watched(
    engine: Engine, settings: CanarySettings = QUICK
) -> AsyncIterator[tuple[Canary, list[str]]]:
    sick: list[str] = []
    canary = Canary(settings, engine.attempt, sick.append)
    canary.LOOK_S = 0.005  # type: ignore[misc]
    canary.start()
    yield canary, sick
    await canary.close()


def test_requests_that_run_without_a_piece_are_suspect_when_the_time_is_over() -> None:
    settings = CanarySettings(stall_s=30.0)
    waits = [suspicion(settings, running=2, silent_s=s, paused=False) for s in (0.0, 29.0, 30.0, 99.0)]
    assert [found[0] for found in waits if found is not None] == [30.0, 1.0, 0.0, 0.0]
    assert waits[2] is not None
    assert "2 requests got nothing for 30.0 s" in waits[2][1]


def test_an_idle_engine_is_tried_only_if_that_is_asked_for() -> None:
    assert suspicion(CanarySettings(), running=0, silent_s=1e6, paused=False) is None
    found = suspicion(CanarySettings(idle_s=10.0), running=0, silent_s=4.0, paused=False)
    assert found == (6.0, "nothing ran for 4.0 s")


@pytest.mark.parametrize("running", [0, 3])
def test_nothing_is_suspect_while_the_engine_is_worked_on(running: int) -> None:
    settings = CanarySettings(idle_s=1.0, stall_s=1.0)
    assert suspicion(settings, running=running, silent_s=99.0, paused=True) is None


def test_bad_settings_are_all_named() -> None:
    with pytest.raises(ConfigError) as caught:
        CanarySettings(stall_s=-1, tokens=0, on_stall="restrat")
    for word in ("canary.stall_s", "canary.tokens", "restart"):
        assert word in str(caught.value)
    for value in (0, float("nan"), -1):
        with pytest.raises(ConfigError, match=r"canary\.timeout_s is "):
            CanarySettings(timeout_s=value)
    with pytest.raises(ConfigError, match="stall_s"):
        settings_of(CanarySettings, {"stal_s": 3}, "canary")


@pytest.mark.parametrize(
    "engine", [Engine(hangs=True), Engine(RuntimeError("no memory"))], ids=["hangs", "fails"]
)
async def test_a_stall_with_a_failed_health_check_makes_it_sick(engine: Engine) -> None:
    async with watched(engine) as (canary, sick):
        canary.begin()
        await until(lambda: sick)
        assert not canary.healthy
    assert engine.asked[0] == 4
    assert "1 requests got nothing" in sick[0]
    assert "no memory" in sick[0] or "was not done in 0.02 s" in sick[0]


async def test_a_stall_with_a_good_health_check_is_only_slow() -> None:
    engine = Engine()
    async with watched(engine) as (canary, sick):
        canary.begin()
        await until(lambda: len(engine.asked) >= 2)
        assert canary.healthy
    assert sick == []


async def test_a_piece_during_the_health_check_clears_it() -> None:
    engine = Engine(hangs=True)
    async with watched(engine) as (canary, sick):
        canary.begin()
        for count in range(1, 4):
            await until(lambda count=count: len(engine.asked) >= count)  # type: ignore[misc]
            canary.pieces += 1
        canary.end()
    assert sick == []


async def test_maintenance_during_the_health_check_clears_it() -> None:
    engine = Engine(hangs=True)
    async with watched(engine) as (canary, sick):
        canary.begin()
        await until(lambda: engine.asked)
        canary.paused = True
        tries = len(engine.asked)
        await asyncio.sleep(0.1)
        assert len(engine.asked) == tries
    assert sick == []


async def test_it_may_only_say_so(caplog: pytest.LogCaptureFixture) -> None:
    settings = CanarySettings(stall_s=0.02, timeout_s=0.02, on_stall="report")
    async with watched(Engine(hangs=True), settings) as (canary, sick):
        canary.begin()
        await until(lambda: not canary.healthy)
    assert sick == []
    assert "the engine is not well" in caplog.text


async def test_it_is_well_again_when_a_health_check_succeeds() -> None:
    settings = CanarySettings(stall_s=0.02, timeout_s=0.02, on_stall="report")
    engine = Engine(hangs=True)
    async with watched(engine, settings) as (canary, _):
        canary.begin()
        await until(lambda: not canary.healthy)
        engine.hangs = False
        await until(lambda: canary.healthy)


async def test_an_idle_engine_that_does_not_answer_is_sick() -> None:
    settings = CanarySettings(stall_s=0, idle_s=0.02, timeout_s=0.02)
    async with watched(Engine(hangs=True), settings) as (_, sick):
        await until(lambda: sick)
    assert "nothing ran" in sick[0]


# -- what a worker asks of its engine


def worker(**engine: Any) -> Worker:
    made = Worker.__new__(Worker)
    made.context = cast("Any", SimpleNamespace(events=SimpleNamespace(plane="none"), name="worker.0"))
    made.__init__({"kind": "simulated", "blocks": 64, "block_size": 4} | engine)  # type: ignore[misc]
    return made


@pytest.mark.parametrize("role", ["both", "prefill", "decode"])
async def test_a_well_engine_of_any_role_passes_its_health_check(role: str) -> None:
    made = worker(role=role)
    await made.engine.start()
    await made._try_engine(4)
    assert made.load().finished == 1
    await made.engine.close()


async def test_an_engine_that_ends_without_an_end_does_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    async def generate(_: GenerateRequest) -> AsyncIterator[Piece]:
        yield "one"

    made = worker()
    monkeypatch.setattr(made.engine, "generate", generate, raising=False)
    with pytest.raises(EngineFailed, match="ended with"):
        await made._try_engine(4)


async def test_a_worker_that_cannot_start_gives_its_engine_back(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    async def fails() -> None:
        done.append("loaded")
        raise RuntimeError("no event plane")

    async def close() -> None:
        done.append("closed")

    made = worker()
    monkeypatch.setattr(made._loads, "start", fails)
    monkeypatch.setattr(made.engine, "close", close)
    with pytest.raises(RuntimeError, match="no event plane"):
        await made.on_start()
    assert done == ["loaded", "closed"]


async def test_what_fails_beside_an_engine_does_not_keep_it(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []

    async def fails() -> None:
        raise RuntimeError("its publisher broke")

    async def close() -> None:
        closed.append("engine")

    made = worker()
    monkeypatch.setattr(made._loads, "close", fails)
    monkeypatch.setattr(made.engine, "close", close)
    with pytest.raises(RuntimeError, match="its publisher broke"):
        await made.on_stop(StopReason.COMMANDED)
    assert closed == ["engine"]
