"""Record KV events as vLLM's own classes encode them: python tools/vllm_events.py > tests/unit/vllm_events.json

Needs an environment with vLLM; it is not needed to run the tests, which read what was recorded.
"""

from __future__ import annotations

import json
from typing import Any


def main() -> None:
    """Print batches, as hexadecimal msgpack, with what is in them."""
    import msgspec
    from vllm.distributed.kv_events import AllBlocksCleared, BlockRemoved, BlockStored, KVEventBatch

    def stored(**changes: Any) -> BlockStored:
        fields: dict[str, Any] = {
            "block_hashes": [11, 12],
            "parent_block_hash": None,
            "token_ids": list(range(8)),
            "block_size": 4,
            "lora_id": None,
            "medium": "GPU",
            "lora_name": None,
        }
        return BlockStored(**fields | changes)

    batches = {
        "stored": [stored()],
        "stored behind": [stored(block_hashes=[13], parent_block_hash=12, token_ids=[8, 9, 10, 11])],
        "hashes as bytes": [
            stored(block_hashes=[bytes(range(32)), bytes(range(1, 33))], parent_block_hash=None)
        ],
        "adapter": [stored(lora_id=3, lora_name="sql", extra_keys=[("sql",), ("sql",)])],
        "image": [stored(extra_keys=[None, ("image-1", 3)])],
        "second group": [stored(group_idx=1)],
        "removed": [BlockRemoved(block_hashes=[12], medium="GPU")],
        "on disk": [stored(medium="STORAGE")],
        "cleared": [AllBlocksCleared()],
        "several": [stored(), BlockRemoved(block_hashes=[11, 12], medium="GPU"), AllBlocksCleared()],
    }
    encode = msgspec.msgpack.Encoder().encode
    recorded = {name: encode(KVEventBatch(ts=1.5, events=events)).hex() for name, events in batches.items()}
    recorded["rank 2"] = encode(KVEventBatch(ts=1.5, events=[stored()], data_parallel_rank=2)).hex()
    print(json.dumps(recorded, indent=1))


if __name__ == "__main__":
    main()
