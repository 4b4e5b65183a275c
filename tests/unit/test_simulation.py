"""The simulated engine with blocks: continued answers, batches, the prefix cache, and what it tells of it."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from callboard.serving.engines.base import Engine, EventingEngine, HandoverEngine, TruthfulEngine
from callboard.serving.engines.simulated import SimulatedEngine
from callboard.serving.errors import ContextTooLong, EmptyPrompt, WrongRole
from callboard.serving.kv.changes import BlocksRemoved, BlocksStored, EngineChange
from callboard.serving.kv.hashing import block_hashes, pack, sequence_hashes
from callboard.serving.kv.words import word_ids
from callboard.serving.protocol import Finish, FinishReason, GenerateRequest
from callboard.serving.simulation.batching import Batcher
from callboard.serving.simulation.batching import Sequence as Running
from callboard.serving.simulation.blocks import BlockPool
from callboard.serving.simulation.settings import SimulatedSettings
from callboard.transports.errors import ConfigError

SHAPES: list[dict[str, Any]] = [
    {},
    {"blocks": 64, "block_size": 4},
    {"input": "tokens"},
    {"input": "tokens", "blocks": 64, "block_size": 4, "dp_ranks": 2},
]
PROMPT = " ".join(f"w{n}" for n in range(40))


def engine(**options: Any) -> SimulatedEngine:
    return SimulatedEngine(SimulatedSettings(**options))


def request(**fields: Any) -> GenerateRequest:
    return GenerateRequest(
        **{"request_id": "r", "model": "simulated", "prompt": PROMPT, "tokens": pack(range(40))} | fields
    )


async def answer(made: SimulatedEngine, **fields: Any) -> tuple[list[Any], Finish]:
    *pieces, finish = [piece async for piece in made.generate(request(**fields))]
    assert isinstance(finish, Finish)
    return pieces, finish


def test_it_is_every_kind_of_engine() -> None:
    made = engine()
    for kind in (EventingEngine, HandoverEngine, TruthfulEngine):
        assert isinstance(made, kind)
    checked: Engine = made
    assert checked.describe().model == "simulated"


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("cut", [0, 1, 7, 19, 20])
async def test_another_engine_continues_an_answer_as_if_it_had_made_it(
    shape: dict[str, Any], cut: int
) -> None:
    whole, finish = await answer(engine(**shape), max_tokens=20, seed=3)
    rest, end = await answer(engine(**shape), max_tokens=20 - cut, seed=3, done=whole[:cut])
    assert whole[:cut] + rest == whole
    assert (end.prompt_tokens, end.completion_tokens) == (finish.prompt_tokens, 20 - cut)
    assert end.reason is FinishReason.LENGTH


@pytest.mark.parametrize("shape", SHAPES)
async def test_one_wrong_missing_or_repeated_token_changes_the_rest(shape: dict[str, Any]) -> None:
    whole, _ = await answer(engine(**shape), max_tokens=20)
    wrong = whole[3] if whole[3] != whole[7] else whole[4]
    for done in ([*whole[:7], wrong], whole[1:8], [*whole[:7], whole[6]]):
        rest, _ = await answer(engine(**shape), max_tokens=12, done=done)
        assert rest != whole[8:20]


@pytest.mark.parametrize("cut", range(1, 12))
async def test_a_stop_string_across_the_cut_is_found_and_nothing_is_lost(cut: int) -> None:
    plain, _ = await answer(engine(), max_tokens=12)
    text = "".join(plain)
    stop = text[len(text) // 2 : len(text) // 2 + 9]
    for stops in ([stop], [text[-1] + "nothing"]):
        whole, finish = await answer(engine(), max_tokens=12, stop=stops)
        if cut >= len(whole):
            continue
        rest, end = await answer(engine(), max_tokens=12 - cut, stop=stops, done=whole[:cut])
        assert "".join(whole[:cut] + rest) == "".join(whole)
        assert end.reason is finish.reason


async def test_an_answer_of_natural_length_ends_where_it_would_have_ended() -> None:
    whole, finish = await answer(engine(answer_tokens=10))
    rest, end = await answer(engine(answer_tokens=10), done=whole[:4])
    assert whole[:4] + rest == whole
    assert end.reason is finish.reason is FinishReason.STOP


# -- the prefix cache


async def test_a_prompt_that_was_computed_is_found_in_the_cache() -> None:
    made = engine(blocks=64, block_size=4)
    assert (await answer(made, max_tokens=4))[1].cached_tokens == 0
    assert (await answer(made, max_tokens=4))[1].cached_tokens == 36  # the last token is always computed
    assert (await answer(made, max_tokens=4, prompt=f"{PROMPT} and more"))[1].cached_tokens == 40
    load = made.load()
    assert (load.prompt_tokens, load.cached_tokens) == (40 + 40 + 42, 36 + 40)
    assert load.ranks[0].used_blocks == load.ranks[0].running == 0


async def test_blocks_have_the_names_that_a_router_gives_them() -> None:
    made = engine(blocks=64, block_size=4)
    pieces, _ = await answer(made, max_tokens=9)
    tokens = word_ids(PROMPT + " " + "".join(pieces[:-1]))
    assert made.resident_blocks() == {0: set(sequence_hashes(block_hashes(tokens, 4)))}


async def test_what_it_tells_is_what_it_has() -> None:
    told: list[EngineChange] = []
    made = engine(blocks=24, block_size=4, dp_ranks=2, input="tokens", max_batch_tokens=16)
    made.on_kv_changes(told.extend)
    asks = [
        answer(made, max_tokens=6, tokens=pack([*range(20), *range(number, number + 7)]), dp_rank=number % 2)
        for number in range(24)
    ]
    await asyncio.gather(*asks)
    held: dict[int, set[int]] = {0: set(), 1: set()}
    for change in told:
        mine = held[change.dp_rank]
        if isinstance(change, BlocksStored):
            names = sequence_hashes(block_hashes(change.tokens, 4), change.parent)
            assert list(names) == change.blocks
            assert not mine.intersection(change.blocks)
            mine.update(change.blocks)
        else:
            assert isinstance(change, BlocksRemoved)
            assert mine.issuperset(change.blocks)
            mine.difference_update(change.blocks)
    assert held == made.resident_blocks()
    assert any(isinstance(change, BlocksRemoved) for change in told)


async def test_it_tells_nothing_when_it_shall_not() -> None:
    told: list[EngineChange] = []
    made = engine(blocks=24, block_size=4, kv_events=False)
    made.on_kv_changes(told.extend)
    await answer(made, max_tokens=4)
    assert not told
    assert not made.describe().kv_events


async def test_who_leaves_frees_its_blocks_at_once() -> None:
    made = engine(blocks=64, block_size=4, decode_ms=1)
    pieces = made.generate(request(max_tokens=1000 // 8))
    await anext(pieces)
    assert made.load().ranks[0].used_blocks > 0
    await pieces.aclose()
    assert made.load().ranks[0].used_blocks == 0
    assert made.cancelled == 1


async def test_more_requests_than_run_at_once_wait_their_turn() -> None:
    made = engine(blocks=64, block_size=4, max_running=2)
    asks = [asyncio.create_task(answer(made, max_tokens=5, prompt=f"{n} {PROMPT}")) for n in range(9)]
    while made.load().waiting == 0:  # noqa: ASYNC110 (an engine has no event)
        await asyncio.sleep(0)
    assert made.load().ranks[0].running <= 2
    plain = [await answer(engine(), max_tokens=5, prompt=f"{n} {PROMPT}") for n in range(9)]
    assert [pieces for pieces, _ in await asyncio.gather(*asks)] == [pieces for pieces, _ in plain]


async def test_a_prompt_that_never_fits_is_refused() -> None:
    with pytest.raises(ContextTooLong, match="holds 32"):
        await answer(engine(blocks=8, block_size=4), max_tokens=4)


@pytest.mark.parametrize("prompt", ["", " "])
async def test_a_prompt_of_nothing_is_refused(prompt: str) -> None:
    made = engine(blocks=8, block_size=4)
    with pytest.raises(EmptyPrompt, match="it must have at least 1"):
        await answer(made, prompt=prompt, max_tokens=4)
    assert len((await answer(made, prompt="x", max_tokens=4))[0]) == 4


async def test_a_handed_over_prompt_gives_the_same_answer() -> None:
    plain, _ = await answer(engine(blocks=64, block_size=4), max_tokens=9)
    first = engine(blocks=64, block_size=4, role="prefill")
    second = engine(blocks=64, block_size=4, role="decode", kv_bytes_per_token=1000)
    handover = await first.prefill(request(max_tokens=9))
    assert handover["tokens"] == 40
    pieces, _ = await answer(second, max_tokens=9, handover=handover)
    assert pieces == plain
    prompt = set(sequence_hashes(block_hashes(word_ids(PROMPT), 4)))
    assert first.resident_blocks()[0] >= prompt
    assert second.resident_blocks()[0] >= prompt


async def test_a_worker_refuses_what_is_not_its_role() -> None:
    with pytest.raises(WrongRole, match=r'"prefill".*generate'):
        await answer(engine(blocks=8, role="prefill"))
    for made in (engine(blocks=8, role="decode"), engine()):
        with pytest.raises(WrongRole, match="prefill"):
            await made.prefill(request())


def test_settings_that_contradict_each_other_are_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        SimulatedSettings(blocks=8, per_token_ms=1.0, input="token", role="decoder", jitter=-1)  # type: ignore[arg-type]
    text = str(caught.value)
    for part in ("per_token_ms", "'token'", "tokens", "'decoder'", "jitter is -1"):
        assert part in text
    with pytest.raises(ConfigError, match="needs blocks"):
        SimulatedSettings(role="decode")


# -- the pure core


def names(*numbers: int) -> array[int]:
    return array("Q", numbers)


def test_blocks_that_nobody_holds_go_from_the_ends_of_prompts_first() -> None:
    pool = BlockPool(4, 1)
    assert pool.take(3)
    pool.fill(names(1, 2, 3), None, pack(range(3)), "")
    pool.let_go(names(1, 2, 3), 0)
    assert pool.take(3)
    assert pool.resident() == {1}
    assert not pool.take(2)


def run_all(batcher: Batcher, wanted: dict[Running, int]) -> int:
    """Compute until all is done, and check what must hold after each step."""
    steps, answers = 0, dict.fromkeys(wanted, 0)
    while not batcher.idle:
        step = batcher.begin()
        assert step is not None
        check(batcher)
        for sequence in batcher.end():
            sequence.tokens += pack([steps % 7])
            answers[sequence] += 1
            if answers[sequence] == wanted[sequence]:
                batcher.drop(sequence)
        check(batcher)
        steps += 1
        assert steps < 10_000
    assert answers == wanted
    return steps


def check(batcher: Batcher) -> None:
    pool = batcher.pool
    held: dict[int, int] = {}
    private = 0
    for sequence in batcher.running:
        private += sequence.private
        for name in sequence.names:
            held[name] = held.get(name, 0) + 1
    assert (pool._held, pool._private) == (held, private)
    assert not set(pool._held) & set(pool._idle)
    assert pool.used + len(pool._idle) <= pool.total
    assert len(batcher.running) <= batcher._max_running
    assert sum(sequence.planned for sequence in batcher.running) <= batcher._max_tokens


@given(st.data())
@settings(max_examples=80, deadline=None)
def test_every_request_is_computed_and_no_block_is_lost(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 4))
    batcher = Batcher(
        BlockPool(data.draw(st.integers(12, 20)), size),
        max_running=data.draw(st.integers(1, 5)),
        max_batch_tokens=data.draw(st.integers(1, 12)),
    )
    wanted: dict[Running, int] = {}
    for _ in range(data.draw(st.integers(1, 8))):
        prompt = data.draw(st.lists(st.integers(0, 1), min_size=1, max_size=8))
        count = data.draw(st.integers(1, 4))
        sequence = Running(
            tokens=bytearray(pack(prompt)),
            prompt_tokens=len(prompt),
            transferred=data.draw(st.booleans()) and len(prompt) > 1,
        )
        assert batcher.fits(len(prompt) + count)
        wanted[sequence] = count
        batcher.add(sequence)
    run_all(batcher, wanted)
    assert batcher.pool.used == 0
    stored: set[int] = set()
    for change in batcher.pool.changes:
        if isinstance(change, BlocksStored):
            stored.update(change.blocks)
        elif isinstance(change, BlocksRemoved):
            stored.difference_update(change.blocks)
    assert stored == batcher.pool.resident()


def by_prompt(prompts: Sequence[list[int]]) -> dict[Running, int]:
    return {Running(tokens=bytearray(pack(p)), prompt_tokens=len(p)): 3 for p in prompts}


def test_a_request_that_came_last_gives_way_when_blocks_run_out() -> None:
    batcher = Batcher(BlockPool(8, 1), max_running=4, max_batch_tokens=16)
    wanted = by_prompt([[1, 2, 3], [4, 5, 6]])
    for sequence in wanted:
        batcher.add(sequence)
    run_all(batcher, wanted)
    assert batcher.preemptions > 0
