"""KV events as real engines encode them, in both encodings, and what comes instead of them."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from callboard.serving.kv.changes import AllCleared, BlocksRemoved, BlocksStored
from callboard.serving.kv.engine_events import BadEvents, TensorRtEvents, normal_hash, read_batch
from callboard.serving.kv.hashing import pack
from callboard.serving.kv.resident import ResidentBlocks

RECORDED = {
    name: bytes.fromhex(text)
    for name, text in json.loads((Path(__file__).parent / "vllm_events.json").read_text()).items()
}
encode = msgspec.msgpack.Encoder().encode

STORED = BlocksStored(blocks=[11, 12], parent=None, tokens=pack(range(8)), block_size=4, medium="GPU")


def test_what_vllm_encodes_is_read() -> None:
    assert read_batch(RECORDED["stored"]) == ([STORED], 0)
    behind = BlocksStored(blocks=[13], parent=12, tokens=pack(range(8, 12)), block_size=4, medium="GPU")
    assert read_batch(RECORDED["stored behind"]) == ([behind], 0)
    assert read_batch(RECORDED["removed"]) == ([BlocksRemoved(blocks=[12], medium="GPU")], 0)
    assert read_batch(RECORDED["cleared"]) == ([AllCleared()], 0)
    several, unknown = read_batch(RECORDED["several"], dp_rank=1)
    assert [type(change) for change in several] == [BlocksStored, BlocksRemoved, AllCleared]
    assert {change.dp_rank for change in several} == {1}
    assert unknown == 0
    (ranked,), _ = read_batch(RECORDED["rank 2"], dp_rank=1)
    assert ranked.dp_rank == 2


def test_hashes_may_be_bytes_or_numbers_of_either_sign() -> None:
    (change,), _ = read_batch(RECORDED["hashes as bytes"])
    assert isinstance(change, BlocksStored)
    assert change.blocks == [
        int.from_bytes(bytes(range(24, 32)), "big"),
        int.from_bytes(bytes(range(25, 33)), "big"),
    ]
    assert normal_hash(-1) == 2**64 - 1
    assert normal_hash(2**80 + 5) == 5
    for wrong in (None, "x", 1.5, True, b""):
        with pytest.raises(BadEvents):
            normal_hash(wrong)


def test_blocks_that_tokens_alone_do_not_name_do_not_count() -> None:
    for name in ("image", "second group"):
        assert read_batch(RECORDED[name]) == ([], 1)
    (adapter,), _ = read_batch(RECORDED["adapter"])
    assert isinstance(adapter, BlocksStored)
    assert adapter.lora == "sql"
    (disk,), _ = read_batch(RECORDED["on disk"])
    assert ResidentBlocks(0, 10).apply(disk) == []


def test_the_older_encoding_by_position_says_the_same() -> None:
    for event in (
        ["BlockStored", [11, 12], None, list(range(8)), 4, None, "GPU"],  # vLLM before maps
        ["BlockStored", [11, 12], None, list(range(8)), 4, None, "GPU", None, None, "what comes later"],
    ):
        assert read_batch(encode([1.5, [event]])) == ([STORED], 0)
    (sglang,), _ = read_batch(encode([1.5, [["BlockStored", [-5], 7, [1, 2], 2, 3]]]))
    assert sglang == BlocksStored(blocks=[2**64 - 5], parent=7, tokens=pack([1, 2]), block_size=2, lora="3")
    old = encode([1.5, [["BlockRemoved", [1]], ["AllBlocksCleared"], ["SomethingNew", 1]], 3])
    assert read_batch(old) == ([BlocksRemoved(dp_rank=3, blocks=[1]), AllCleared(dp_rank=3)], 1)


def test_sglangs_maps_may_have_fields_of_their_own() -> None:
    event = {
        "type": "BlockStored", "block_hashes": [1], "parent_block_hash": None, "token_ids": [5, 6], "block_size": 2,
        "lora_id": None, "medium": "GPU", "cache_salt": None, "later": {},
    }  # fmt: skip
    expected = BlocksStored(blocks=[1], parent=None, tokens=pack([5, 6]), block_size=2, medium="GPU")
    assert read_batch(encode([1.5, [event]])) == ([expected], 0)


@pytest.mark.parametrize(
    "value",
    [
        None, [], [1.5], [1.5, {}], 7,
    ],
)  # fmt: skip
def test_what_is_no_batch_is_one_error(value: Any) -> None:
    with pytest.raises(BadEvents):
        read_batch(encode(value))


@pytest.mark.parametrize(
    "event",
    [
        ["BlockStored", 5, None, [1], 1],
        ["BlockStored", [1], None, [1], 0],
        ["BlockStored", [1], None, ["x"], 1],
        ["BlockStored", [1], None, [[1, 2]], 1],  # pairs of tokens, as of Eagle
        ["BlockStored", [1], None, [-1], 1],
        {"type": "BlockStored"},
        {"type": "BlockRemoved", "block_hashes": [None]},
    ],
)
def test_what_cannot_be_understood_empties_the_cache_and_spares_its_neighbours(event: Any) -> None:
    removed = {"type": "BlockRemoved", "block_hashes": [9]}
    changes, unknown = read_batch(encode([1.5, [removed, event, removed]]), 1)
    gone = BlocksRemoved(dp_rank=1, blocks=[9])
    assert changes == [gone, AllCleared(dp_rank=1), gone]
    assert unknown == 0


@pytest.mark.parametrize(
    "event",
    [
        ["BlockStored", [1], None, [1, 2], 2, None, "GPU", None, [["salt"]], 0],
        ["BlockStored", [1], None, [1, 2], 2, None, "GPU", None, None, 1],
        ["BlockRemoved", [1], "GPU", 1],
        {"type": "BlockStored", "block_hashes": [1], "token_ids": [1, 2], "block_size": 2, "extra_keys": [5]},
    ],
)
def test_what_does_not_count_does_not_count_in_either_encoding(event: Any) -> None:
    assert read_batch(encode([1.5, [event]])) == ([], 1)


@given(st.binary(max_size=80))
@settings(max_examples=200, deadline=None)
def test_no_bytes_do_any_harm(data: bytes) -> None:
    with contextlib.suppress(BadEvents):
        read_batch(data)


def tokens(*ids: int) -> list[dict[str, int]]:
    return [{"token_id": token, "token_extra_id": 0} for token in ids]


def trt(number: int, data: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"event_id": number, "data": data, **more}


def test_events_of_tensorrt_are_read_and_partial_blocks_left_out() -> None:
    events = TensorRtEvents(block_size=2)
    assert (
        events.read(trt(0, {"type": "created", "num_blocks_per_cache_level": [10, 0]}, window_size=4096))
        == []
    )
    blocks = [
        {"block_hash": 1, "tokens": tokens(5, 6), "cache_level": 0},
        {"block_hash": 2, "tokens": tokens(7, 8), "cache_level": 0},
        {"block_hash": 3, "tokens": tokens(9), "cache_level": 0},
    ]
    stored = events.read(trt(1, {"type": "stored", "parent_hash": None, "blocks": blocks}, window_size=4096))
    assert stored == [BlocksStored(blocks=[1, 2], parent=None, tokens=pack([5, 6, 7, 8]), block_size=2)]
    assert (
        events.read(trt(2, {"type": "stored", "parent_hash": None, "blocks": blocks}, window_size=128)) == []
    )
    removed = events.read(trt(3, {"type": "removed", "block_hashes": [3, 2]}, window_size=4096))
    assert removed == [BlocksRemoved(blocks=[3, 2])]
    moved = {"type": "updated", "block_hash": 1, "cache_level": {"old_value": 0, "new_value": 1}}
    assert events.read(trt(4, moved, window_size=4096)) == [BlocksRemoved(blocks=[1])]
    assert events.read(trt(5, {"type": "news"}, window_size=4096)) == []
    assert events.unknown == 1


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["event_id", "data", "type", "blocks", "tokens", "token_id", "block_hash", "window_size"]
                ),
                inner,
                max_size=4,
            )
        ),
    )
)
@settings(max_examples=200, deadline=None)
def test_no_event_of_tensorrt_does_any_harm(event: Any) -> None:
    with contextlib.suppress(BadEvents):
        TensorRtEvents(block_size=2).read(event)


@pytest.mark.parametrize(
    "blocks",
    [
        [5],
        [{"block_hash": 1}],
        [{"block_hash": 1, "tokens": [{}, {}]}],
        [{"block_hash": None, "tokens": [1, 2]}],
    ],
)
def test_odd_blocks_of_tensorrt_are_one_error(blocks: Any) -> None:
    with pytest.raises(BadEvents):
        TensorRtEvents(block_size=2).read(trt(0, {"type": "stored", "blocks": blocks}))


def test_a_missing_event_of_tensorrt_empties_the_cache_of_that_rank() -> None:
    events = TensorRtEvents(block_size=2)
    gone = {"type": "removed", "block_hashes": [1]}
    events.read(trt(0, gone))
    assert events.read(trt(0, gone, attention_dp_rank=1)) == [BlocksRemoved(dp_rank=1, blocks=[1])]
    assert events.read(trt(2, gone)) == [AllCleared(), BlocksRemoved(blocks=[1])]
    assert events.gaps == 1
    with pytest.raises(BadEvents):
        events.read({})


def test_a_larger_window_of_tensorrt_empties_the_cache_of_every_rank() -> None:
    """One process has all ranks, and one largest window: what was told of any rank so far was of a smaller one."""
    events = TensorRtEvents(block_size=2)
    created = {"type": "created", "num_blocks_per_cache_level": [10, 0]}
    block = {"block_hash": 1, "tokens": tokens(5, 6), "cache_level": 0}
    stored = {"type": "stored", "parent_hash": None, "blocks": [block]}
    for rank in (0, 1):
        assert events.read(trt(0, stored, window_size=128, attention_dp_rank=rank))
    found = events.read(trt(1, created, window_size=4096, attention_dp_rank=1))
    assert found == [AllCleared(dp_rank=0), AllCleared(dp_rank=1)]
    assert events.read(trt(1, created, window_size=4096)) == []
