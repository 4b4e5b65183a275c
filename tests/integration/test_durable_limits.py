"""Durable tells at their limits: a log that is full, a node that is closed, and who waits for room."""

from __future__ import annotations

import asyncio
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from callboard.actors import durable
from callboard.actors.errors import MailboxFull
from callboard.actors.policy import StopReason
from callboard.actors.replay import replay
from callboard.supervisor.nats_server import NatsServer
from callboard.testing.cluster import Cluster
from callboard.transports import nats_connection
from callboard.transports.durable import DurablePolicy
from callboard.transports.errors import NotStored, StoredTooLarge

from .durable_actors import PATIENT, Broad, Worker, jetstream, nodes_on, stream_of
from .test_durable_failures import network, on
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


@pytest.mark.parametrize("used", [True, False])
async def test_who_tells_from_a_closed_node_is_told_at_once(cluster: Cluster, used: bool) -> None:
    async with nodes_on(await network(cluster)) as nodes:
        node = await nodes.node()
        ref = node.ref("worker", Worker).options(deadline_s=math.inf)
        if used:
            await ref.tell_wait(Worker.work, 1)
        await node.close(grace_s=1)
        with pytest.raises(NotStored, match="this node was closed"):
            await ref.tell_wait(Worker.work, 2)
        with pytest.raises(NotStored, match="this node was closed"):
            ref.tell(Worker.work, 3)


async def test_who_waits_to_be_stored_when_the_node_closes_is_told(
    tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durable, "MOST_MESSAGES", 1)
    server = NatsServer(tmp_path / "nats")
    await server.start()
    try:
        async with nodes_on(replace(on(server), linger_s=0.1)) as nodes:
            node = await nodes.node()
            ref = node.ref("worker", Worker).options(deadline_s=math.inf)
            await ref.tell_wait(Worker.work, "first")
            await server.kill()
            waiting = [asyncio.create_task(ref.tell_wait(Worker.work, n)) for n in range(3)]
            await until(lambda: node.durables.store.statistics()["not_stored_yet"] == 1)
            await node.close(grace_s=0.1)
            answers = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 30)
            assert [type(answer) for answer in answers] == [NotStored] * 3
    finally:
        await server.stop()


async def test_who_leaves_when_it_is_let_in_leaves_its_turn_to_the_next(
    tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durable, "MOST_MESSAGES", 1)
    server = NatsServer(tmp_path / "nats")
    await server.start()
    try:
        async with nodes_on(on(server)) as nodes:
            node = await nodes.node()
            store = node.durables.store
            stored: list[asyncio.Future[int]] = []
            put = store.store

            def noted(*args: Any) -> asyncio.Future[int]:
                stored.append(put(*args))
                if len(stored) == 1:  # in the tick in which it is let in
                    stored[0].add_done_callback(lambda _: waiting[1].cancel())
                return stored[-1]

            monkeypatch.setattr(store, "store", noted)
            ref = node.ref("worker", Worker).options(deadline_s=60)
            waiting = [asyncio.create_task(ref.tell_wait(Worker.work, n)) for n in range(3)]
            await waiting[0]
            await waiting[2]
            assert waiting[1].cancelled()
            assert len(stored) == 2
    finally:
        await server.stop()


async def test_a_large_message_that_waits_for_room_keeps_its_place(
    tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durable, "MOST_BYTES", 10_000)
    server = NatsServer(tmp_path / "nats")
    await server.start()
    try:
        async with nodes_on(on(server)) as nodes:
            node = await nodes.node()
            worker = await nodes.worker(node)
            ref = node.ref("worker", Worker).options(deadline_s=60)
            await ref.tell_wait(Worker.work, "first")
            server.pause()
            for _ in range(4):
                ref.tell(Worker.work, "s" * 2_000)
            sizes = [9_000, *[1_000] * 8]
            waiting = [asyncio.create_task(ref.tell_wait(Worker.work, "w" * size)) for size in sizes]
            await asyncio.sleep(0)
            with pytest.raises(MailboxFull):  # it would fit, but others were first
                ref.tell(Worker.work, "t")
            server.resume()
            await asyncio.gather(*waiting)
            await until(lambda: len(worker.seen) == 14)
            assert [len(what) for what in worker.seen[5:]] == sizes
    finally:
        await server.stop()


async def test_the_end_of_a_message_ends_no_other_of_its_number_when_the_store_was_lost(
    tmp_path: Path, cluster: Cluster
) -> None:
    server = NatsServer(tmp_path / "nats")
    await server.start()
    try:
        async with nodes_on(on(server)) as nodes:
            node = await nodes.node(policy=PATIENT)
            worker = await nodes.worker(node, cls=Broad)
            worker.gate.clear()
            worker.refused = ["new"]
            ref = node.ref("worker", Worker).options(deadline_s=60)
            await ref.tell_wait(Worker.work, "old")
            await until(lambda: worker.running == 1)
            await server.kill()
            shutil.rmtree(server.store)
            await server.start()
            await ref.tell_wait(Worker.work, "new")
            await until(lambda: worker.running == 2)
            worker.gate.set()
            await until(lambda: worker.running == 0)
            worker.refused = []
            await until(lambda: worker.seen == ["old", "new"])
            await ref.tell_wait(Worker.work, "next")
            await until(lambda: worker.seen[-1] == "next")
            assert node.statistics()["durable"]["intakes"]["worker.0"]["open"] == 0
    finally:
        await server.stop()


async def test_instances_that_stop_in_turn_handle_what_they_took_and_bury_nothing(cluster: Cluster) -> None:
    policy = DurablePolicy(ack_wait_s=600)
    async with nodes_on(await network(cluster)) as nodes:
        sender, receiver = await nodes.node("s", policy), await nodes.node("r", policy)
        workers = [await nodes.worker(receiver, f"worker.{number}") for number in range(6)]
        ref = sender.ref("worker", Worker)
        for number in range(3000):
            ref.tell(Worker.work, number)
        await until(lambda: sum(len(worker.seen) for worker in workers) > 300)
        for number in range(6):
            await receiver.stop_actor(f"worker.{number}", StopReason.COMMANDED, grace_s=30)
        workers.append(await nodes.worker(receiver, "worker.6"))
        await until(lambda: {what for worker in workers for what in worker.seen} == set(range(3000)))
        assert receiver.durables.store.statistics()["dead_letters"] == 0


async def test_a_server_without_jetstream_is_complained_about_once_and_used_when_it_has_it_again(
    tmp_path: Path, cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    server = NatsServer(tmp_path / "nats")
    await server.start()
    try:
        async with nodes_on(on(server)) as nodes:
            node = await nodes.node()
            workers = [await nodes.worker(node, f"worker.{number}") for number in range(5)]
            store = node.durables.store
            await server.stop()
            server._jetstream = False  # the same port without it
            await server.start()
            await until(lambda: all(pull.failures > 2 for pull in store._pulls))  # type: ignore[attr-defined]
            lines = [record for record in caplog.records if "no deliveries yet" in record.message]
            assert 1 <= len(lines) <= 2
            await server.stop()
            server._jetstream = True
            await server.start()
            await node.ref("worker", Worker).options(deadline_s=60).tell_wait(Worker.work, "again")
            await until(lambda: any(worker.seen == ["again"] for worker in workers))
    finally:
        await server.stop()


async def test_a_server_that_is_away_is_not_stormed_because_of_what_waits_to_be_stored(
    tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = NatsServer(tmp_path / "nats")
    await server.start()
    waits: list[float] = []
    real = nats_connection.Backoff.delay_s

    def noted(self: nats_connection.Backoff, attempt: int, chance: float) -> float:
        waits.append(real(self, attempt, chance))
        return waits[-1]

    attempts = 0
    connect = nats_connection.connect

    async def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal attempts
        attempts += 1
        return await connect(*args, **kwargs)

    try:
        async with nodes_on(on(server)) as nodes:
            node = await nodes.node()
            await node.ref("worker", Worker).tell_wait(Worker.work, 1)
            monkeypatch.setattr(nats_connection.Backoff, "delay_s", noted)
            monkeypatch.setattr(nats_connection, "connect", counted)
            await server.kill()
            await until(lambda: len(waits) > 5)
            assert attempts <= len(waits) + 1  # each has been waited for
    finally:
        await server.stop()


async def test_acknowledgements_of_a_deleted_stream_end_nothing_in_the_next(cluster: Cluster) -> None:
    policy = DurablePolicy(backoff_s=(1.0,), ack_wait_s=600)
    async with nodes_on(await network(cluster)) as nodes, jetstream(nodes.network) as js:
        node = await nodes.node(policy=policy)
        worker = await nodes.worker(node)
        ref = node.ref("worker", Worker).options(deadline_s=60)
        for number in range(5):
            await ref.tell_wait(Worker.work, f"old {number}")
        await until(lambda: len(worker.seen) == 5)
        await js.delete_stream(stream_of(nodes))
        news = [f"new {number}" for number in range(5)]
        worker.refused = list(news)
        for new in news:
            await ref.tell_wait(Worker.work, new)
        await until(lambda: node.statistics()["durable"]["intakes"]["worker.0"]["failed"] >= 5)
        store = node.durables.store
        store._connection.lose("as if it was lost")  # type: ignore[attr-defined]
        await until(lambda: store.is_up)  # type: ignore[attr-defined]
        worker.refused = []
        await until(lambda: set(news) <= set(worker.seen))


async def test_a_message_larger_than_its_log_is_refused_at_the_call_and_drops_nothing(
    cluster: Cluster,
) -> None:
    policy = DurablePolicy(max_bytes=100_000)
    async with nodes_on(await network(cluster)) as nodes, jetstream(nodes.network) as js:
        node = await nodes.node(policy=policy)
        worker = await nodes.worker(node)
        ref = node.ref("worker", Worker)
        for number in range(5):
            await ref.tell_wait(Worker.work, number)
        await until(lambda: len(worker.seen) == 5)
        with pytest.raises(StoredTooLarge, match=r"the limit of 100,000 bytes.*raise durable\.max_bytes"):
            await ref.tell_wait(Worker.work, "x" * 100_000)
        assert (await js.stream_info(stream_of(nodes))).state.messages == 5


async def test_a_dead_letter_too_large_for_a_copy_is_replayed_from_its_original(cluster: Cluster) -> None:
    async with nodes_on(await network(cluster)) as nodes:
        node = await nodes.node(policy=DurablePolicy(max_deliver=1))
        worker = await nodes.worker(node)
        large = "x" * (1024 * 1024 - 200)
        worker.refused = [large]
        await node.ref("worker", Worker).tell_wait(Worker.work, large)
        await until(lambda: node.durables.store.statistics()["dead_letters"] == 1)
        worker.refused = []
        report = await replay(node, "worker", dead=True)
        assert (report.ok, report.failed) == (1, 0)
        assert worker.seen == [large]
