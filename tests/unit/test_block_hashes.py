"""Block hashes, by values that Dynamo's own bindings gave, and the index that goes by routed requests."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from callboard.serving.kv.approximate import ApproximateIndex
from callboard.serving.kv.hashing import (
    SEED,
    block_hashes,
    lora_seed,
    pack,
    pack_hashes,
    sequence_hashes,
    unpack,
    unpack_hashes,
)
from callboard.serving.kv.words import word_id, word_ids

RECORDED = json.loads((Path(__file__).parent / "dynamo_hashes.json").read_text())


@pytest.mark.parametrize("case", RECORDED, ids=lambda case: f"{case['block_size']}-{case['lora'] or 'base'}")
def test_blocks_have_the_hashes_that_dynamo_gives_them(case: dict[str, object]) -> None:
    seed = lora_seed(str(case["lora"]))
    assert list(block_hashes(pack(case["tokens"]), case["block_size"], seed)) == case["hashes"]  # type: ignore[arg-type]


def test_only_full_blocks_have_a_hash() -> None:
    assert len(block_hashes(pack(range(47)), 16)) == 2
    assert len(block_hashes(pack(range(15)), 16)) == 0
    with pytest.raises(ValueError, match="block size is 0"):
        block_hashes(b"", 0)


def test_a_sequence_hash_stands_for_the_block_and_all_before_it() -> None:
    whole = sequence_hashes([1, 2, 3])
    assert whole[0] == 1
    assert sequence_hashes([2, 3], parent=whole[0]) == whole[1:]
    assert sequence_hashes([9, 2, 3])[1:] != whole[1:]


def test_packing_is_little_endian_and_gives_back_what_it_took() -> None:
    assert pack([1, 2**32 - 1]) == b"\x01\0\0\0\xff\xff\xff\xff"
    assert list(unpack(pack([7, 8]))) == [7, 8]
    assert list(unpack_hashes(pack_hashes([2**64 - 1, 0]))) == [2**64 - 1, 0]
    for wrong in (-1, 2**32):
        with pytest.raises(OverflowError):
            pack([wrong])
    with pytest.raises(ValueError, match="multiple"):
        unpack(b"123")


def test_the_base_model_has_the_plain_seed() -> None:
    assert lora_seed("") == SEED
    assert 0 <= lora_seed("adapter") < 2**64
    assert sys.byteorder in ("little", "big")


def test_words_are_numbered_by_what_they_are() -> None:
    ids = unpack(word_ids(" one two\n one "))
    assert list(ids) == [word_id("one"), word_id("two"), word_id("one")]
    assert word_ids("\ud800") != word_ids("\ud801")


# -- the approximate index

LOCAL = pack_hashes(range(10, 16))
NAMES = pack_hashes(sequence_hashes(range(10, 16)))


def test_what_was_routed_is_believed_for_its_time() -> None:
    index: ApproximateIndex[str] = ApproximateIndex(120.0, 1000)
    index.routed("a", LOCAL, NAMES, 0.0)
    index.routed("b", LOCAL[:16], NAMES[:16], 100.0)
    assert index.match(LOCAL, 119.9) == {"a": 6, "b": 2}
    assert index.match(LOCAL, 120.0) == {"b": 2}
    index.routed("b", LOCAL[:8], NAMES[:8], 200.0)
    assert index.match(LOCAL, 230.0) == {"b": 1}
    assert index.match(LOCAL, 320.0) == {}
    assert len(index) == 0


def test_by_use_alone_the_oldest_go_and_the_beginning_outlives_its_continuation() -> None:
    index: ApproximateIndex[str] = ApproximateIndex(None, 8)
    index.routed("a", LOCAL, NAMES, 0.0)
    index.routed("b", LOCAL[:32], NAMES[:32], 1e9)
    assert index.match(LOCAL, 2e9) == {"a": 4, "b": 4}
    index.routed("a", LOCAL, NAMES, 3e9)
    assert index.match(LOCAL, 3e9) == {"a": 6, "b": 2}
    assert len(index) == 8


def test_a_worker_that_is_gone_is_forgotten() -> None:
    index: ApproximateIndex[str] = ApproximateIndex(120.0, 1000)
    index.routed("a", LOCAL, NAMES, 0.0)
    index.drop("a")
    index.drop("nobody")
    assert index.match(LOCAL, 1.0) == {}
    assert len(index) == 0
