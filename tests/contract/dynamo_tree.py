"""Run operations on Dynamo's RadixTree; for a Python that has ai-dynamo-runtime. JSON in, JSON out."""

import json
import sys


def main() -> None:
    """Read a list of operations and print the answers of those that ask."""
    from dynamo._core import RadixTree, compute_block_hash_for_seq

    tree, answers = RadixTree(), []
    for number, (what, *rest) in enumerate(json.load(sys.stdin), 1):
        if what == "hash":
            tokens, size, lora = rest
            answers.append(list(compute_block_hash_for_seq(tokens, size, lora_name=lora or None)))
        elif what == "match":
            scores = tree.find_matches(rest[0]).scores
            answers.append(sorted([key[0], value] for key, value in scores.items()))
        elif what == "drop":
            tree.remove_worker(rest[0])
        else:
            worker, data = rest
            event = {"event_id": number, "data": data, "dp_rank": 0}
            tree.apply_event(worker, json.dumps(event).encode())
    print(json.dumps(answers))


if __name__ == "__main__":
    main()
