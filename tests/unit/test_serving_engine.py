"""The simulated engine and the scanner of stop strings: same request, same words, at the pace asked for."""

import asyncio
import itertools
import time

import pytest

from callboard.serving.engines import make_engine
from callboard.serving.engines.simulated import SimulatedEngine
from callboard.serving.engines.stopping import StopScanner
from callboard.serving.errors import ContextTooLong
from callboard.serving.protocol import Finish, FinishReason, GenerateRequest, Message
from callboard.serving.simulation.chain import WORDS, start_of, words_from
from callboard.serving.simulation.settings import SimulatedSettings
from callboard.transports.errors import ConfigError


def engine(**settings):
    return SimulatedEngine(SimulatedSettings(**settings))


def request(**fields):
    return GenerateRequest(**{"request_id": "r", "model": "simulated", "prompt": "Hello there"} | fields)


async def answer(engine, **fields):
    *texts, finish = [piece async for piece in engine.generate(request(**fields))]
    assert type(finish) is Finish
    return texts, finish


async def test_the_same_request_gives_the_same_words_in_every_engine():
    one, _ = await answer(engine(), max_tokens=50, seed=5)
    two, _ = await answer(engine(), max_tokens=50, seed=5)
    assert one == two
    assert {word.strip() for word in one} <= set(WORDS)


async def test_another_prompt_or_seed_gives_other_words():
    answers = [
        await answer(engine(), max_tokens=50, **fields)
        for fields in ({}, {"seed": 1}, {"seed": 2}, {"prompt": "Hello"})
    ]
    assert len({tuple(texts) for texts, _ in answers}) == 4


async def test_a_longer_answer_begins_like_a_shorter_one():
    short, _ = await answer(engine(), max_tokens=5)
    long, _ = await answer(engine(), max_tokens=50)
    assert long[:5] == short


def test_words_are_separated_by_spaces_and_use_the_whole_list():
    words = list(itertools.islice(words_from(start_of(b"x", None), True), 5000))
    assert "".join(words).split(" ") == [word.strip() for word in words]
    assert {word.strip() for word in words} == set(WORDS)


async def test_a_request_without_a_limit_gets_the_length_of_the_config_and_ends_by_itself():
    texts, finish = await answer(engine(answer_tokens=9))
    assert len(texts) == 9
    assert finish == Finish(reason=FinishReason.STOP, prompt_tokens=2, completion_tokens=9)


async def test_a_limit_is_reached_exactly_and_said():
    texts, finish = await answer(engine(), max_tokens=33)
    assert len(texts) == 33
    assert finish == Finish(reason=FinishReason.LENGTH, prompt_tokens=2, completion_tokens=33)


async def test_the_context_ends_an_answer_that_would_not_fit():
    for fields in ({"max_tokens": 100}, {}):
        texts, finish = await answer(engine(context_tokens=10), **fields)
        assert (len(texts), finish.reason) == (8, FinishReason.LENGTH)


async def test_a_prompt_that_fills_the_context_is_refused_before_the_first_piece():
    busy = engine(context_tokens=2)
    with pytest.raises(ContextTooLong, match="the prompt has 2 tokens; the model's context holds 2"):
        await anext(busy.generate(request()))
    assert (busy.load().failed, busy.load().running) == (1, 0)


async def test_a_chat_counts_and_uses_every_message():
    chat = [Message("system", "Be brief."), Message("user", "Hello")]
    texts, finish = await answer(engine(), prompt="", messages=chat)
    other, _ = await answer(engine(), prompt="", messages=[Message("user", "Hello")])
    assert finish.prompt_tokens == 5
    assert texts != other


async def test_a_stop_string_ends_the_answer_before_it():
    whole = "".join((await answer(engine(), max_tokens=40))[0])
    stop = whole[60:70]
    texts, finish = await answer(engine(), max_tokens=40, stop=["nowhere", stop])
    assert "".join(texts) == whole[: whole.index(stop)]
    assert finish.reason is FinishReason.STOP
    assert finish.completion_tokens < 40


async def test_text_that_was_held_back_for_a_stop_string_comes_at_the_end():
    whole = "".join((await answer(engine(), max_tokens=10))[0])
    texts, finish = await answer(engine(), max_tokens=10, stop=[f"{whole[-3:]}!"])
    assert ("".join(texts), finish.reason) == (whole, FinishReason.LENGTH)


async def test_no_token_comes_before_its_time():
    start = time.monotonic()
    times = []
    async for _ in engine(first_token_ms=30, per_token_ms=5).generate(request(max_tokens=11)):
        times.append(time.monotonic() - start)
    early = 0.002  # timers of the loop have milliseconds
    assert all(came >= 0.030 + 0.005 * min(number, 10) - early for number, came in enumerate(times))


async def test_time_that_the_loop_takes_does_not_add_up():
    pieces = engine(per_token_ms=20).generate(request(max_tokens=100))
    await anext(pieces)
    time.sleep(0.2)  # noqa: ASYNC251 (a loop that is busy)
    for _ in range(9):  # they are due: none of them waits
        with pytest.raises(StopIteration):
            anext(pieces).send(None)
    await pieces.aclose()


async def test_an_answer_that_is_left_early_is_counted_as_cancelled():
    busy = engine()
    pieces = busy.generate(request(max_tokens=10))
    await anext(pieces)
    assert busy.load().running == 1
    await pieces.aclose()
    load = busy.load()
    assert (load.running, load.cancelled, load.finished, load.tokens) == (0, 1, 0, 1)


async def test_a_cancelled_task_ends_the_work_while_it_waits_for_a_token():
    busy = engine(first_token_ms=600_000)
    task = asyncio.create_task(answer(busy))
    await asyncio.sleep(0)  # it runs up to its first wait
    assert busy.load().running == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (busy.load().running, busy.load().cancelled) == (0, 1)


async def test_a_complete_answer_is_counted_as_finished():
    busy = engine()
    await answer(busy, max_tokens=4)
    load = busy.load()
    assert (load.running, load.finished, load.cancelled, load.tokens) == (0, 1, 0, 4)


# -- settings


def test_an_engine_is_built_from_its_kind_and_keys():
    made = make_engine({"kind": "simulated", "model": "tiny", "per_token_ms": 2})
    assert made.settings == SimulatedSettings(model="tiny", per_token_ms=2)
    assert made.describe().model == "tiny"


def test_an_engine_of_somebody_else_is_named_by_its_class_path():
    made = make_engine({"kind": "callboard.serving.engines.simulated:SimulatedEngine", "model": "own"})
    assert made.describe().model == "own"


@pytest.mark.parametrize(
    ("options", "problems"),
    [
        ({}, ["engine.kind is missing"]),
        ({"kind": 3}, ["engine.kind is missing"]),
        ({"kind": "simulatd"}, ['did you mean "simulated"?']),
        ({"kind": "nowhere:Engine"}, ["cannot be loaded"]),
        ({"kind": "callboard.serving.engines.stopping:StopScanner"}, ["has Settings, a dataclass"]),
        (
            {"kind": "simulated", "modl": "x", "speed": 1},
            ['unknown key "modl"', 'unknown key "speed"'],
        ),
        ({"kind": "simulated", "modl": "x", "blocks": -1}, ['unknown key "modl"', "blocks is -1"]),
        (
            {"kind": "simulated", "first_token_ms": -1, "per_token_ms": "x", "answer_tokens": 0, "model": ""},
            ["first_token_ms is -1", "per_token_ms is 'x'", "answer_tokens is 0", "model is ''"],
        ),
        (
            {"kind": "simulated", "first_token_ms": True, "context_tokens": 1.5},
            ["first_token_ms is True", "context_tokens is 1.5"],
        ),
    ],
)
def test_every_problem_of_an_engine_is_named(options, problems):
    with pytest.raises(ConfigError) as caught:
        make_engine(options)
    assert len(caught.value.problems) == len(problems)
    for text, problem in zip(
        problems, sorted(caught.value.problems, key=problems_order(problems)), strict=True
    ):
        assert text.replace('"', "'") in problem.replace('"', "'")


def problems_order(problems):
    return lambda text: next(
        (at for at, part in enumerate(problems) if part.replace('"', "'") in text.replace('"', "'")), -1
    )


# -- stop strings


def feed(scanner, pieces):
    shown = []
    for piece in pieces:
        shown.append(scanner.feed(piece))
        if scanner.stopped:
            break
    else:
        shown.append(scanner.flush())
    return "".join(shown)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_a_stop_string_is_found_wherever_the_pieces_are_cut(size):
    text = "one two END three"
    scanner = StopScanner(["END", "four"])
    assert feed(scanner, [text[at : at + size] for at in range(0, len(text), size)]) == "one two "
    assert scanner.stopped


def test_the_first_stop_string_in_the_text_counts():
    scanner = StopScanner(["three", "two"])
    assert feed(scanner, ["one two three"]) == "one "


def test_a_beginning_that_leads_nowhere_is_shown():
    scanner = StopScanner(["aab"])
    assert feed(scanner, list("aaac")) == "aaac"
    assert not scanner.stopped


def test_a_stop_string_that_overlaps_its_own_beginning_is_found():
    scanner = StopScanner(["aab"])
    assert feed(scanner, list("xaaab!")) == "xa"
    assert scanner.stopped


def test_no_more_is_held_back_than_may_become_a_stop_string():
    scanner = StopScanner(["<end>"])
    assert [scanner.feed(piece) for piece in ("a<", "en", "x", "b")] == ["a", "", "<enx", "b"]
