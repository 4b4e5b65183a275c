"""The index of prefixes against a naive reference, and its bounds."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from callboard.serving.kv.hashing import pack_hashes, sequence_hashes
from callboard.serving.kv.index import MAX_RUN_BYTES, PrefixIndex

RANKS = ("a", "b", "c")


def chain(*tokens: int) -> tuple[bytes, bytes]:
    """Packed local and sequence hashes of a prompt whose blocks have these local hashes."""
    return pack_hashes(tokens), pack_hashes(sequence_hashes(tokens))


def stored(*prompts: tuple[str, tuple[int, ...]], max_blocks: int = 10_000) -> PrefixIndex[str]:
    index: PrefixIndex[str] = PrefixIndex(max_blocks)
    for rank, tokens in prompts:
        assert index.store(rank, None, *chain(*tokens))
        check(index)
    return index


def check(index: PrefixIndex[str]) -> None:
    """What must always be true of the tree."""
    seen: Counter[str] = Counter()
    blocks = runs = 0
    for run in index._walk():
        runs += 1
        blocks += len(run)
        assert 0 < len(run.local) == len(run.sequence) <= MAX_RUN_BYTES
        assert run.mask or run.children, "a gap that nothing follows"
        assert run.parent is not None
        assert (run.parent.children or {})[run.key] is run
        for number in sequence_of(run.sequence):
            assert index._lookup[number] is run
        for rank in index._ranks_of(run.mask):
            seen[rank] += len(run)
    assert (blocks, runs) == (len(index), index.runs)
    assert {rank: index.count(rank) for rank in index.ranks()} == {rank: seen[rank] for rank in index.ranks()}


def sequence_of(packed: bytearray) -> list[int]:
    return [int.from_bytes(packed[at : at + 8], "little") for at in range(0, len(packed), 8)]


def test_ranks_score_what_they_hold_from_the_beginning() -> None:
    index = stored(("a", (1, 2, 3, 4)), ("b", (1, 2, 7)), ("c", (5,)))
    assert index.match(chain(1, 2, 3, 9)[0]) == {"a": 3, "b": 2}
    assert index.match(chain(1, 2, 7, 8)[0]) == {"a": 2, "b": 3}
    assert index.match(chain(5)[0]) == {"c": 1}
    assert index.match(chain(9, 1)[0]) == {}
    assert index.match(b"") == {}


def test_a_gap_ends_a_score_and_what_fills_it_again_continues_it() -> None:
    index = stored(("a", (1, 2, 3, 4)), ("b", (1, 2, 3, 4)))
    prompt, names = chain(1, 2, 3, 4)
    index.remove("a", [sequence_of(bytearray(names))[1]])
    check(index)
    assert index.match(prompt) == {"a": 1, "b": 4}
    index.remove("b", sequence_of(bytearray(names)))
    check(index)
    assert index.match(prompt) == {"a": 1}
    assert len(index) == 4
    index.store("a", sequence_of(bytearray(names))[0], prompt[8:16], names[8:16])
    check(index)
    assert index.match(prompt) == {"a": 4}


def test_one_rank_that_appends_block_by_block_makes_one_run() -> None:
    index = stored(("a", (0,)))
    for size in range(1, 200):
        tokens = tuple(range(size + 1))
        local, names = chain(*tokens)
        assert index.store("a", sequence_of(bytearray(names))[-2], local[-8:], names[-8:])
    check(index)
    assert (index.runs, len(index)) == (1, 200)
    for name in reversed(sequence_of(bytearray(names))):
        index.remove("a", [name])
    check(index)
    assert (index.runs, len(index)) == (0, 0)


def test_what_has_no_parent_is_refused_and_counted() -> None:
    index = stored(("a", (1,)))
    assert not index.store("a", 12345, *chain(7, 8))
    index.remove("a", [777])
    index.remove("nobody", [1])
    assert (index.orphans, index.unknown) == (2, 2)
    check(index)


def test_hashes_that_do_not_fit_together_are_an_error() -> None:
    with pytest.raises(ValueError, match="8 bytes of local and 16"):
        stored().store("a", None, b"x" * 8, b"x" * 16)


def test_a_rank_that_is_dropped_leaves_its_place_to_another() -> None:
    index = stored(("a", (1, 2)), ("b", (1, 3)))
    index.drop("a")
    check(index)
    assert index.match(chain(1, 2)[0]) == {"b": 1}
    index.store("z", None, *chain(1, 2))
    check(index)
    assert index.match(chain(1, 2)[0]) == {"b": 1, "z": 2}
    assert sorted(index.ranks()) == ["b", "z"]


def test_beyond_its_limit_the_prefixes_that_nobody_asked_for_go() -> None:
    index = stored(max_blocks=40)
    for first in range(8):
        index.store("a", None, *chain(*range(100 * first, 100 * first + 5)))
        for hot in range(min(first, 2)):
            assert index.match(chain(*range(100 * hot, 100 * hot + 5))[0]) == {"a": 5}
    for first in range(8, 30):
        index.store("a", None, *chain(*range(100 * first, 100 * first + 5)))
        check(index)
        assert len(index) <= 40
        for hot in range(2):
            assert index.match(chain(*range(100 * hot, 100 * hot + 5))[0]) == {"a": 5}
    assert index.evicted == 22 * 5
    local, names = chain(200, 201, 202, 203, 204, 205)
    assert not index.store("a", sequence_of(bytearray(names))[4], local[-8:], names[-8:])


class Reference:
    """The same by sets."""

    def __init__(self) -> None:
        self.held: dict[str, set[int]] = {rank: set() for rank in RANKS}

    def match(self, tokens: tuple[int, ...]) -> dict[str, int]:
        names = sequence_hashes(tokens)
        scores = {}
        for rank, held in self.held.items():
            score = next((n for n, name in enumerate(names) if name not in held), len(names))
            if score:
                scores[rank] = score
        return scores


PROMPTS = st.lists(st.integers(0, 2), min_size=1, max_size=7).map(tuple)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_it_says_what_a_naive_index_says(data: st.DataObject) -> None:
    index, reference = PrefixIndex[str](10_000), Reference()
    for _ in range(data.draw(st.integers(1, 30))):
        rank = data.draw(st.sampled_from(RANKS))
        held = reference.held[rank]
        what = data.draw(st.sampled_from(["store", "store", "append", "remove", "clear", "drop"]))
        if what == "store":
            tokens = data.draw(PROMPTS)
            index.store(rank, None, *chain(*tokens))
            held.update(sequence_hashes(tokens))
        elif what == "append":
            tokens = data.draw(PROMPTS)
            cut = data.draw(st.integers(0, len(tokens) - 1))
            local, names = chain(*tokens)
            numbers = sequence_of(bytearray(names))
            known = cut == 0 or any(numbers[cut - 1] in held for held in reference.held.values())
            if known or numbers[cut - 1] not in index._lookup:
                parent = numbers[cut - 1] if cut else None
                assert index.store(rank, parent, local[8 * cut :], names[8 * cut :]) is known
                held.update(numbers[cut:] if known else ())
        elif what == "remove" and held:
            gone = data.draw(st.lists(st.sampled_from(sorted(held)), max_size=4, unique=True))
            index.remove(rank, gone)
            held.difference_update(gone)
        elif what == "clear":
            index.clear(rank)
            held.clear()
        elif what == "drop":
            index.drop(rank)
            held.clear()
        check(index)
        for other in RANKS:
            assert index.blocks_of(other) == reference.held[other]
        tokens = data.draw(PROMPTS)
        assert index.match(chain(*tokens)[0]) == reference.match(tokens)
