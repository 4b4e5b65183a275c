"""What a worker tells of its cache, and what a router makes of it: the same blocks, whatever comes in between."""

from __future__ import annotations

from typing import Any, cast

from hypothesis import given, settings
from hypothesis import strategies as st

from callboard.actors.events import ActorEvents, Event, Left, Snapshot
from callboard.serving.kv.changes import AllCleared, BlocksRemoved, BlocksStored, Cleared, KvChanges, Removed
from callboard.serving.kv.follower import KvFollower
from callboard.serving.kv.hashing import block_hashes, lora_seed, pack, sequence_hashes
from callboard.serving.kv.publisher import KV, KvPublisher
from callboard.serving.kv.resident import ResidentBlocks
from callboard.serving.kv.view import CacheView
from callboard.serving.scheduling.demand import Rank
from callboard.serving.scheduling.settings import RouterSettings
from callboard.transports.events.base import Source
from callboard.transports.events.frames import EVENT_BYTES

SIZE = 2


def stored(engine: list[int], tokens: list[int], parent: int | None = None, **fields: Any) -> BlocksStored:
    return BlocksStored(blocks=engine, parent=parent, tokens=pack(tokens), block_size=SIZE, **fields)


def names(tokens: list[int], lora: str = "") -> list[int]:
    return list(sequence_hashes(block_hashes(pack(tokens), SIZE, lora_seed(lora))))


def follower() -> tuple[KvFollower, CacheView]:
    view = CacheView(RouterSettings(mode="kv"))
    return KvFollower(view), view


def source(identifier: int = 1, worker: int = 0, incarnation: int = 1) -> Source:
    return Source(
        topic="kv",
        component="worker",
        name=f"worker.{worker}",
        incarnation=incarnation,
        node="n",
        id=identifier,
    )


def test_blocks_get_the_names_of_their_tokens() -> None:
    rank = ResidentBlocks(0, 100)
    rank.apply(stored([901, 902], [1, 2, 3, 4]))
    rank.apply(stored([903], [5, 6], 902))
    assert rank.names() == set(names([1, 2, 3, 4, 5, 6]))
    rank.apply(BlocksRemoved(blocks=[903, 901]))
    assert rank.names() == {names([1, 2, 3, 4])[1]}
    assert rank.apply(AllCleared()) == [Cleared()]
    assert len(rank) == 0


def test_an_adapter_has_blocks_of_its_own() -> None:
    rank = ResidentBlocks(0, 100)
    rank.apply(stored([1], [1, 2]))
    rank.apply(stored([2], [1, 2], lora="a"))
    assert rank.names() == {*names([1, 2]), *names([1, 2], "a")}


def test_a_block_that_is_there_twice_goes_with_the_second() -> None:
    rank = ResidentBlocks(0, 100)
    rank.apply(stored([1], [1, 2]))
    rank.apply(stored([2], [1, 2]))
    assert rank.apply(BlocksRemoved(blocks=[1])) == []
    assert len(rank.apply(BlocksRemoved(blocks=[2]))) == 1
    assert len(rank) == 0


def test_an_engine_that_uses_a_name_again_means_the_new_block() -> None:
    rank = ResidentBlocks(0, 100)
    rank.apply(stored([1], [1, 2]))
    told = rank.apply(stored([1], [3, 4]))
    assert isinstance(told[1], Removed)
    assert rank.names() == set(names([3, 4]))


class Sent:
    """The events of an actor whose publishers keep what they are given."""

    def __init__(self) -> None:
        self.events: list[KvChanges] = []

    async def publisher(self, *_: Any, **__: Any) -> Sent:
        return self

    def send(self, event: KvChanges) -> None:
        assert len(KV.encode(event)) <= EVENT_BYTES
        self.events.append(event)


async def said(many: int) -> tuple[KvPublisher, list[KvChanges]]:
    """What is sent of many blocks that come, and go but for one behind them."""
    sent = Sent()
    publisher = KvPublisher(cast("ActorEvents", sent))
    await publisher.start()
    publisher.changed([stored(list(range(1, many + 1)), list(range(SIZE * many)))])
    publisher.changed([stored([many + 1], [1, 2], many)])
    publisher.changed([BlocksRemoved(blocks=list(range(1, many + 1)))])
    return publisher, sent.events


async def test_however_much_an_engine_says_at_once_no_event_is_too_large() -> None:
    publisher, _ = await said(70_000)  # hashes of 8 bytes: more than an event carries
    assert max(len(KV.encode(event)) for event in publisher.snapshot()) <= EVENT_BYTES


async def test_what_takes_several_events_says_the_same() -> None:
    publisher, sent = await said(10_000)
    for events in (sent, list(publisher.snapshot())):
        assert len(events) > 2
        taker, view = follower()
        for number, event in enumerate(events):
            assert not taker.take(Event(source(), number + 1, event))
        assert view.index.blocks_of(Rank(0, 0)) == publisher.names()[0]


def test_what_does_not_fit_is_counted_and_not_told() -> None:
    rank = ResidentBlocks(0, 2)
    assert rank.apply(stored([5], [1, 2], parent=77)) == []
    assert rank.apply(stored([5, 6], [1, 2])) == []
    assert rank.apply(stored([5, 6, 7], [1, 2, 3, 4, 5, 6])) == []
    assert rank.apply(BlocksRemoved(blocks=[9])) == []
    assert rank.apply(stored([5], [1, 2], medium="CPU")) == []
    assert (rank.orphans, rank.refused, rank.unknown, rank.elsewhere) == (1, 2 + 3, 1, 1)


def test_an_index_that_follows_has_what_the_worker_has_and_a_late_one_too() -> None:
    rank, (one, view) = ResidentBlocks(0, 100), follower()
    number = 0
    for change in (
        stored([1, 2, 3], [1, 2, 3, 4, 5, 6]),
        BlocksRemoved(blocks=[2]),
        stored([9], [7, 8], 1),
    ):
        number += 1
        assert not one.take(Event(source(), number, KvChanges(0, SIZE, rank.apply(change))))
    late, other = follower()
    late.take(Snapshot(source(), number, list(rank.snapshot())))
    for seen in (view, other):
        assert seen.index.blocks_of(Rank(0)) == rank.names()
    again = KvChanges(0, SIZE, rank.apply(stored([2], [3, 4], 1)))
    for reader in (one, late):
        assert not reader.take(Event(source(), number + 1, again))
    for seen in (view, other):
        assert seen.index.blocks_of(Rank(0)) == rank.names()
        assert len(rank.names()) == 4


def test_an_old_incarnation_takes_nothing_from_a_new_one() -> None:
    reader, view = follower()
    old, new = source(1), source(2, incarnation=2)
    rank = ResidentBlocks(0, 100)
    event = KvChanges(0, SIZE, rank.apply(stored([1], [1, 2])))
    reader.take(Event(old, 1, event))
    reader.take(Snapshot(new, 0, []))
    assert view.index.blocks_of(Rank(0)) == set()
    reader.take(Event(new, 1, event))
    reader.take(Event(old, 2, KvChanges(0, SIZE, [Cleared()])))
    reader.take(Left(old, "killed"))
    assert view.index.blocks_of(Rank(0)) == rank.names()
    assert view.telling == {Rank(0)}
    reader.take(Left(new, "killed"))
    assert view.index.blocks_of(Rank(0)) == set()
    assert view.telling == set()


def test_a_block_behind_an_unknown_one_makes_the_source_begin_again_but_not_for_ever() -> None:
    reader, _ = follower()
    rank = ResidentBlocks(0, 100)
    rank.apply(stored([1], [1, 2]))
    orphan = KvChanges(0, SIZE, rank.apply(stored([2], [3, 4], 1)))
    assert reader.take(Event(source(), 2, orphan))
    assert [reader.take(Event(source(), 2, orphan)) for _ in range(20)].count(True) == 7


ENGINE = st.integers(0, 8)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_whatever_an_engine_does_followers_end_with_its_truth(data: st.DataObject) -> None:
    rank, (reader, view) = ResidentBlocks(0, 30), follower()
    prompts: dict[int, list[int]] = {}  # the engine's truth: the tokens that each block stands for
    for number in range(data.draw(st.integers(1, 25))):
        change: Any
        if data.draw(st.integers(0, 3)) and len(prompts) < 7:
            parent = data.draw(st.sampled_from([None, *prompts]))
            tokens = [number % 3, data.draw(st.integers(0, 1))]
            engine = next(name for name in range(9) if name not in prompts)
            change = stored([engine], tokens, parent)
            prompts[engine] = [*(prompts[parent] if parent is not None else []), *tokens]
        elif prompts and data.draw(st.integers(0, 9)):
            gone = data.draw(st.lists(st.sampled_from(sorted(prompts)), min_size=1, max_size=3, unique=True))
            change = BlocksRemoved(blocks=gone)
            for engine in gone:
                del prompts[engine]
        else:
            change = AllCleared()
            prompts.clear()
        news = rank.apply(change)
        if news:
            assert not reader.take(Event(source(), number, KvChanges(0, SIZE, news)))
        truth = {names(tokens)[-1] for tokens in prompts.values()}
        assert rank.names() == truth
        assert view.index.blocks_of(Rank(0)) == truth
        late, other = follower()
        late.take(Snapshot(source(), number, list(rank.snapshot())))
        assert other.index.blocks_of(Rank(0)) == truth
        assert other.index.orphans == 0


def test_nothing_is_left_when_everything_is_removed() -> None:
    rank = ResidentBlocks(0, 30)
    rank.apply(stored([1, 2, 3], [1, 2, 3, 4, 5, 6]))
    for engine in (1, 2, 3):
        rank.apply(BlocksRemoved(blocks=[engine]))
    assert rank._blocks == {}
    assert [value.changes for value in rank.snapshot()] == [[Cleared()]]
