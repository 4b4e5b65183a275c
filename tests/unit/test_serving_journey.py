"""What a request becomes on its way: its blocks, its patience, and what is left of it after a part of the answer."""

from __future__ import annotations

from typing import Any

import pytest

from callboard.serving.journey import Journey
from callboard.serving.kv.hashing import pack, unpack_hashes
from callboard.serving.migration import given, resume, whole
from callboard.serving.protocol import Delta, Finish, FinishReason, GenerateRequest, Input, Token
from callboard.serving.scheduling.demand import Rank

from .serving_fakes import info, request

TOKENS = info(input=Input.TOKENS, block_size=4)
TEXT = info(block_size=4)


def journey(**fields: Any) -> Journey:
    return Journey(request(**fields), 0.0)


def finish(count: int) -> Finish:
    return Finish(reason=FinishReason.LENGTH, prompt_tokens=3, completion_tokens=count, cached_tokens=2)


def test_a_request_of_tokens_has_a_hash_per_full_block() -> None:
    made = journey(tokens=pack(range(10)))
    made.hash(TOKENS)
    assert (made.prompt_tokens, made.block_size) == (10, 4)
    assert len(made.local) == len(made.sequence) == 2 * 8
    demand = made.demand()
    assert demand.sequence.tolist() == list(unpack_hashes(made.sequence))
    assert (demand.prompt_tokens, demand.prompt_blocks) == (10, 3)


def test_what_is_given_counts_as_prompt_for_the_next_worker() -> None:
    begun, whole_prompt = journey(tokens=pack(range(10))), journey(tokens=pack(range(14)))
    begun.hash(TOKENS)
    begun.request = resume(begun.request, [10, 11, 12, 13])
    begun.hash(TOKENS)
    whole_prompt.hash(TOKENS)
    assert begun.prompt_tokens == 14
    assert (begun.local, begun.sequence) == (whole_prompt.local, whole_prompt.sequence)


def test_words_are_the_tokens_of_a_text_and_the_answer_joins_them() -> None:
    begun, whole_prompt = journey(prompt="a b c d e"), journey(prompt="a b c d e f g h")
    begun.request = resume(begun.request, [" f", " g", " h"])
    begun.hash(TEXT)
    whole_prompt.hash(TEXT)
    assert begun.prompt_tokens == whole_prompt.prompt_tokens == 8
    assert begun.sequence == whole_prompt.sequence


def test_an_adapter_has_blocks_of_its_own() -> None:
    plain, tuned = journey(), journey(lora="tuned")
    plain.hash(TEXT)
    tuned.hash(TEXT)
    assert len(plain.local) == len(tuned.local) == 8
    assert plain.local != tuned.local


def test_an_engine_without_blocks_has_none() -> None:
    made = journey()
    made.hash(info())
    assert (made.local, made.demand().prompt_blocks, made.prompt_tokens) == (b"", 0, 4)


def test_each_attempt_has_an_id_of_its_own() -> None:
    made = journey()
    first = made.demand().id
    made.attempt += 1
    assert made.demand().id != first


def test_a_pin_and_a_session_reach_the_scheduler_and_keep_nobody_else_waiting() -> None:
    pinned, bound = journey(worker=3, dp_rank=1), journey(session="s")
    assert pinned.demand().pinned == Rank(3, 1)
    assert bound.demand().session == "s"
    assert pinned.is_special
    assert bound.is_special
    assert not journey().is_special


def test_patience_is_for_all_waits_together() -> None:
    made = journey()
    assert made.patience_s(10.0) == 10.0
    made.waited_s = 7.0
    assert made.patience_s(10.0) == 3.0
    made.waited_s = 70.0
    assert made.patience_s(10.0) == 0.0


# -- what is left


@pytest.mark.parametrize(("limit", "left"), [(10, 7), (3, 0), (None, None)])
def test_the_rest_continues_after_the_pieces_and_is_shorter(limit: int | None, left: int | None) -> None:
    before = request(max_tokens=limit, handover={"x": 1}, explain=True, seed=4, done=["one"])
    rest = resume(before, [" two", " three", " four"])
    assert rest.done == ["one", " two", " three", " four"]
    assert rest.max_tokens == left
    assert (rest.handover, rest.explain, rest.seed, rest.prompt) == (None, False, 4, before.prompt)
    assert before.done == ["one"]


def test_pieces_are_given_as_text_or_ids() -> None:
    pieces = ["a", 5, Token(id=-1, text="b", logprob=-0.5), Token(id=9, text="", logprob=-0.5)]
    assert given(pieces) == ["a", 5, "b", 9]
    assert given([]) == []


def test_an_answer_with_fields_cannot_go_on_elsewhere() -> None:
    assert given(["a", Delta(fields={"tool_calls": []})]) is None


def test_the_counts_are_of_the_whole_answer_over_any_number_of_moves() -> None:
    left: GenerateRequest = request(max_tokens=10)
    before = 0
    for pieces in (["a", "b"], ["c"], ["d", "e", "f"]):
        done = given(pieces)
        assert done is not None
        left = resume(left, done)
        before += len(done)
    assert left.max_tokens == 4
    assert whole(finish(4), before) == finish(10)
    assert whole(finish(4), 0) == finish(4)
