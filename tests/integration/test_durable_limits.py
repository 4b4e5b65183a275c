"""Durable tells at their limits: a log that is full, a node that is closed, and who waits for room."""

from __future__ import annotations

import pytest

from callboard.testing.cluster import Cluster
from callboard.transports.durable import DurablePolicy
from callboard.transports.errors import NotStored

from .durable_actors import Worker, jetstream, nodes_on, stream_of
from .test_durable_failures import network
from .waiting import until


async def test_a_message_that_always_fails_does_not_keep_a_full_log_full(cluster: Cluster) -> None:
    policy = DurablePolicy(max_bytes=100_000, max_deliver=2, backoff_s=(600.0,))
    async with nodes_on(await network(cluster)) as nodes, jetstream(nodes.network) as js:
        node = await nodes.node("n", policy)
        worker = await nodes.worker(node)
        ref = node.ref("worker", Worker).options(deadline_s=30)
        await ref.tell_wait(Worker.fail, "poison" + "x" * 20_000)

        async def fill() -> None:
            while True:
                await ref.tell_wait(Worker.work, "y" * 5_000)

        with pytest.raises(NotStored, match="nothing in it was handled that lies before the oldest"):
            await fill()
        await node.close(grace_s=1)
        await js.delete_consumer(stream_of(nodes), "any")  # so that it comes again now: everything does
        eager = DurablePolicy(max_bytes=100_000, max_deliver=1)
        last = await nodes.node("last", eager)
        worker = await nodes.worker(last)
        await until(lambda: last.durables.store.statistics()["dead_letters"] == 1)
        await until(lambda: len(worker.seen) > 10)
        await last.ref("worker", Worker).options(deadline_s=30).tell_wait(Worker.work, "accepted")
        await until(lambda: worker.seen[-1] == "accepted")


async def test_a_log_full_of_dead_letters_takes_good_messages(cluster: Cluster) -> None:
    policy = DurablePolicy(max_bytes=100_000, max_deliver=1)
    async with nodes_on(await network(cluster)) as nodes:
        node = await nodes.node("n", policy)
        worker = await nodes.worker(node)
        ref = node.ref("worker", Worker).options(deadline_s=30)
        for number in range(60):  # each of them twice: 600 KB
            await ref.tell_wait(Worker.fail, [number, "x" * 5_000])
            await until(lambda number=number: node.durables.store.statistics()["dead_letters"] > number)  # type: ignore[misc]
        await ref.tell_wait(Worker.work, "good")
        await until(lambda: worker.seen[-1] == "good")
