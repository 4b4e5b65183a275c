"""What a router believes to be in the caches: by events, by routing, and by both."""

from __future__ import annotations

from typing import Any

from callboard.serving.kv.hashing import block_hashes, pack, pack_hashes, sequence_hashes
from callboard.serving.kv.view import CacheView
from callboard.serving.scheduling.demand import Rank
from callboard.serving.scheduling.settings import RouterSettings

ONE, TWO = Rank(1), Rank(2)
LOCAL = block_hashes(pack(range(40)), 4)
PROMPT = pack_hashes(LOCAL), pack_hashes(sequence_hashes(LOCAL))


def view(**options: Any) -> CacheView:
    return CacheView(RouterSettings(mode="kv", **options))


def stores(seen: CacheView, rank: Rank, blocks: int) -> None:
    """The events of a rank say that it has the beginning of the prompt."""
    seen.tells(rank)
    assert seen.index.store(rank, None, PROMPT[0][: 8 * blocks], PROMPT[1][: 8 * blocks])


def test_a_rank_that_tells_nothing_is_believed_to_have_what_it_was_sent_for_a_while() -> None:
    seen = view(ttl_s=10.0)
    seen.routed(ONE, *PROMPT, 100.0)
    assert seen.overlaps(PROMPT[0], 109.0) == {ONE: 10}
    assert seen.overlaps(PROMPT[0], 110.0) == {}


def test_with_lru_it_is_believed_until_there_is_too_much() -> None:
    seen = view(approximate_cache_policy="lru", max_index_blocks=12)
    seen.routed(ONE, *PROMPT, 0.0)
    assert seen.overlaps(PROMPT[0], 1e9) == {ONE: 10}
    other = block_hashes(pack(range(1000, 1020)), 4)
    seen.routed(TWO, pack_hashes(other), pack_hashes(sequence_hashes(other)), 1e9)
    assert seen.overlaps(PROMPT[0], 1e9) == {ONE: 7}  # the deepest went first


def test_a_rank_that_tells_has_what_it_tells_whatever_it_was_sent() -> None:
    seen = view()
    seen.routed(ONE, *PROMPT, 0.0)
    stores(seen, ONE, 3)
    seen.routed(ONE, *PROMPT, 0.0)
    assert seen.overlaps(PROMPT[0], 0.0) == {ONE: 3}


def test_a_prediction_bridges_the_time_until_the_events_come() -> None:
    seen = view(predicted_ttl_s=2.0)
    stores(seen, ONE, 3)
    seen.routed(ONE, *PROMPT, 100.0)
    assert seen.overlaps(PROMPT[0], 101.0) == {ONE: 10}
    assert seen.overlaps(PROMPT[0], 102.0) == {ONE: 3}  # it was wrong, and is forgotten
    stores(seen, ONE, 10)
    assert seen.overlaps(PROMPT[0], 103.0) == {ONE: 10}


def test_both_kinds_of_ranks_are_compared() -> None:
    seen = view()
    stores(seen, ONE, 4)
    seen.routed(TWO, *PROMPT, 0.0)
    assert seen.overlaps(PROMPT[0], 0.0) == {ONE: 4, TWO: 10}


def test_what_is_gone_is_forgotten_but_not_what_the_events_of_a_successor_say() -> None:
    seen = view(predicted_ttl_s=60.0)
    stores(seen, ONE, 4)
    seen.routed(ONE, *PROMPT, 0.0)
    seen.routed(TWO, *PROMPT, 0.0)
    seen.left([ONE, TWO])
    assert seen.overlaps(PROMPT[0], 0.0) == {ONE: 4}
    seen.silent(ONE)
    assert seen.overlaps(PROMPT[0], 0.0) == {}
    seen.routed(ONE, *PROMPT, 0.0)  # it goes by routing again
    assert seen.overlaps(PROMPT[0], 0.0) == {ONE: 10}


def test_prompts_without_a_full_block_are_nowhere() -> None:
    seen = view()
    seen.routed(ONE, b"", b"", 0.0)
    assert seen.overlaps(b"", 0.0) == {}
