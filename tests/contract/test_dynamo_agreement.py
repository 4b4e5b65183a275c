"""Hashes and prefix matches are those of Dynamo's own bindings, on random prompts and random events.

Needs a Python with ai-dynamo-runtime, named by ``CALLBOARD_DYNAMO_PYTHON``. What such a run has given before is
recorded (``tests/unit/dynamo_hashes.json``, ``tests/unit/dynamo_matches.json``) and is always checked.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
from pathlib import Path
from typing import Any

import pytest

from callboard.serving.kv.hashing import block_hashes, lora_seed, pack, pack_hashes, sequence_hashes
from callboard.serving.kv.index import PrefixIndex

PYTHON = os.environ.get("CALLBOARD_DYNAMO_PYTHON", "")
RECORDED = Path(__file__).parents[1] / "unit" / "dynamo_matches.json"


def dynamo(operations: list[Any]) -> list[Any]:
    """What Dynamo answers."""
    if not PYTHON:
        pytest.skip("CALLBOARD_DYNAMO_PYTHON names no Python with ai-dynamo-runtime")
    script = Path(__file__).parent / "dynamo_tree.py"
    done = subprocess.run(
        [PYTHON, script], input=json.dumps(operations).encode(), capture_output=True, check=True
    )
    answers: list[Any] = json.loads(done.stdout)
    return answers


def ours(operations: list[Any]) -> list[Any]:
    """What the same operations give here."""
    index: PrefixIndex[int] = PrefixIndex(1_000_000)
    answers: list[Any] = []
    for what, *rest in operations:
        if what == "hash":
            tokens, size, lora = rest
            answers.append(list(block_hashes(pack(tokens), size, lora_seed(lora))))
        elif what == "match":
            answers.append(
                sorted([worker, blocks] for worker, blocks in index.match(pack_hashes(rest[0])).items())
            )
        elif what == "drop":
            index.drop(rest[0])
        else:
            apply(index, *rest)
    return answers


def apply(index: PrefixIndex[int], worker: int, data: Any) -> None:
    if data == "cleared":
        index.clear(worker)
    elif "stored" in data:
        blocks = data["stored"]["blocks"]
        local = pack_hashes(block["tokens_hash"] for block in blocks)
        names = pack_hashes(block["block_hash"] for block in blocks)
        index.store(worker, data["stored"]["parent_hash"], local, names)
    else:
        index.remove(worker, data["removed"]["block_hashes"])


def random_operations(seed: int) -> list[Any]:
    """Stores of prompts that share beginnings, removals from the ends of prompts, clears, drops, and matches."""
    rng = random.Random(seed)
    held: dict[int, list[list[int]]] = {worker: [] for worker in range(4)}
    operations: list[Any] = []
    for _ in range(200):
        worker = rng.randrange(4)
        kind = rng.random()
        prompt = [rng.randrange(3) for _ in range(rng.randint(1, 8))]
        names = list(sequence_hashes(prompt))
        if kind < 0.45:
            have = next((n for n, name in enumerate(names) if not holds(held[worker], name)), len(names))
            if have < len(names):
                fresh = [
                    {"block_hash": name, "tokens_hash": local}
                    for name, local in zip(names[have:], prompt[have:], strict=True)
                ]
                parent = names[have - 1] if have else None
                operations.append(["event", worker, {"stored": {"parent_hash": parent, "blocks": fresh}}])
                held[worker].append(names)
        elif kind < 0.6 and held[worker]:
            gone = leaves(held[worker])
            operations.append(["event", worker, {"removed": {"block_hashes": gone}}])
            for path in held[worker]:
                while path and path[-1] in gone:
                    path.pop()
            held[worker] = [path for path in held[worker] if path]
        elif kind < 0.63:
            operations.append(["event", worker, "cleared"])
            held[worker] = []
        elif kind < 0.65:
            operations.append(["drop", worker])
            held[worker] = []
        else:
            operations.append(["match", prompt])
    return operations


def holds(paths: list[list[int]], name: int) -> bool:
    return any(name in path for path in paths)


def leaves(paths: list[list[int]]) -> list[int]:
    """The last block of the first path that nothing follows."""
    for path in paths:
        last = path[-1]
        if all(last not in other or other[-1] == last for other in paths):
            return [last]
    return []


@pytest.mark.parametrize("seed", range(20))
def test_random_events_give_the_same_matches(seed: int) -> None:
    operations = random_operations(seed)
    assert ours(operations) == dynamo(operations)


def test_random_prompts_give_the_same_hashes() -> None:
    rng = random.Random(3)
    operations = [
        [
            "hash",
            [rng.randrange(2**32) for _ in range(rng.randint(0, 200))],
            rng.choice([1, 4, 16, 32, 64, 128]),
            rng.choice(["", "sql", "größer", "a/b:c"]),
        ]
        for _ in range(200)
    ]
    assert ours(operations) == dynamo(operations)


def test_the_matches_that_dynamo_once_gave_are_ours() -> None:
    recorded = json.loads(RECORDED.read_text())
    assert len(recorded) >= 3
    for seed, answers in recorded.items():
        assert ours(random_operations(int(seed))) == answers
