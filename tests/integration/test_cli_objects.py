"""The command line prints the objects of an application whose classes it has never imported."""

from __future__ import annotations

import orjson

from callboard.testing.cluster import Cluster

from .terminal import callboard
from .test_serving import config


async def test_answers_that_hold_objects_are_printed_as_their_fields(cluster: Cluster) -> None:
    system = await cluster.up(config())
    load = await callboard("call", "-n", system.namespace, "worker.load")
    assert (load.code, orjson.loads(load.out)["finished"]) == (0, 0)
    request = orjson.dumps(
        {"request": {"request_id": "1", "model": "simulated", "prompt": "hi", "max_tokens": 2}}
    )
    answer = await callboard("call", "-n", system.namespace, "worker.0.generate", request.decode())
    *words, finish = [orjson.loads(line) for line in answer.out.splitlines()]
    assert (answer.code, len(words)) == (0, 2)
    assert finish == {"reason": "LENGTH", "prompt_tokens": 1, "completion_tokens": 2, "cached_tokens": 0}
