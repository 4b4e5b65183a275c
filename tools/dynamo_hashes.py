"""Record block hashes of Dynamo's own bindings: python tools/dynamo_hashes.py > tests/unit/dynamo_hashes.json

Needs an environment with ai-dynamo-runtime; it is not needed to run the tests, which read what was recorded.
"""

from __future__ import annotations

import json
import random


def main() -> None:
    """Print hashes of random prompts, made from a seed."""
    from dynamo._core import compute_block_hash_for_seq

    rng = random.Random(1337)
    cases = []
    for block_size in (1, 4, 16, 64):
        for lora in ("", "adapter", "größer/v2"):
            tokens = [rng.randrange(2**32) for _ in range(3 * block_size + block_size // 2)]
            hashes = compute_block_hash_for_seq(tokens, block_size, lora_name=lora or None)
            cases.append({"block_size": block_size, "lora": lora, "tokens": tokens, "hashes": list(hashes)})
    print(json.dumps(cases, ensure_ascii=False))


if __name__ == "__main__":
    main()
