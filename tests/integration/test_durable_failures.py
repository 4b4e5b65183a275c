"""Durable tells that do not go well: given back, dead, refused, and a server that goes and comes back."""

from __future__ import annotations

import asyncio
import logging
import math
from pathlib import Path

import pytest

from callboard.actors import durable
from callboard.actors.errors import DeadlineExceeded, MailboxFull, StartFailed
from callboard.actors.policy import Executed, StopReason
from callboard.supervisor.nats_server import NatsServer
from callboard.testing.cluster import Cluster
from callboard.transports.durable import DurablePolicy
from callboard.transports.errors import ConfigError, NotStored
from callboard.transports.nats_settings import NatsSettings
from callboard.transports.settings import NetworkSettings

from .durable_actors import PATIENT, Broad, Nodes, Stashing, Worker, jetstream, nodes_on, stream_of
from .waiting import until


async def network(cluster: Cluster) -> NetworkSettings:
    return (await cluster.nats()).network()


def dead_subject(nodes: Nodes) -> str:
    return f"{nodes.network.nats.prefix}.{nodes.namespace}._durable.worker._dead"


# -- given back


async def test_a_stop_finishes_what_runs_and_gives_back_at_once_what_has_not_begun(cluster: Cluster) -> None:
    async with nodes_on(await network(cluster)) as nodes:
        sender = await nodes.node("s", PATIENT)
        first, second = await nodes.node("r1", PATIENT), await nodes.node("r2", PATIENT)
        slow = await nodes.worker(first)
        ref = sender.ref("worker", Worker)
        for number in range(200):  # quick at first, so that it takes some ahead
            ref.tell(Worker.work, number)
        await until(lambda: len(slow.seen) == 200)
        slow.gate.clear()
        for number in range(200, 240):
            ref.tell(Worker.work, number)
        intake = first.durables
        await until(lambda: intake.statistics()["intakes"]["worker.0"]["open"] > 1 and slow.running == 1)
        stopping = asyncio.create_task(first.stop_actor("worker.0", StopReason.COMMANDED, grace_s=30))
        other = await nodes.worker(second, "worker.1")
        await until(lambda: len(other.seen) == 39)  # without waiting for ack_wait_s, which is 10 minutes
        slow.gate.set()
        await stopping
        assert slow.seen[200:] == [200]
        assert sorted(other.seen) == list(range(201, 240))


async def test_an_exception_leaves_the_actor_alive_and_the_message_comes_again(cluster: Cluster) -> None:
    async with nodes_on(await network(cluster)) as nodes:
        node = await nodes.node()
        worker = await nodes.worker(node)
        worker.failures = 2
        await node.ref("worker", Worker).tell_wait(Worker.work, "third time lucky")
        await until(lambda: worker.seen == ["third time lucky"])
        assert worker.counts == [3]
        assert await node.ref("worker", Worker).ask(Worker.echo, "alive") == "alive"


async def test_a_durable_message_is_not_stashed_but_delivered_again(cluster: Cluster) -> None:
    async with nodes_on(await network(cluster)) as nodes:
        node = await nodes.node()
        worker = await nodes.worker(node, cls=Stashing)
        await node.ref("worker", Stashing).tell_wait(Stashing.later, "m")
        await until(lambda: worker.seen == ["m"])
        assert worker.counts == [2]
        (why,) = worker.refused
        assert "later is a durable message: raise an error, and it is delivered again later" in why


async def test_a_message_that_always_fails_is_dead_after_its_deliveries_and_kept_with_the_reason(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    async with nodes_on(await network(cluster)) as nodes, jetstream(nodes.network) as js:
        node = await nodes.node()
        worker = await nodes.worker(node)
        ref = node.ref("worker", Worker)
        with caplog.at_level(logging.ERROR):
            await ref.options(message_id="bad").tell_wait(Worker.fail, "this")
            await ref.tell_wait(Worker.work, "other")
            await until(lambda: node.durables.store.statistics()["dead_letters"] == 1)
        assert sorted(worker.seen) == ["other", "this", "this", "this"]
        assert "durable message 1 (id bad) of worker.0 is dead: ValueError: never this" in caplog.text
        letter = await js.get_last_msg(stream_of(nodes), dead_subject(nodes))
        assert letter.headers["Callboard-Sequence"] == "1"
        assert letter.headers["Callboard-Message-Id"] == "bad"
        assert letter.headers["Callboard-Deliveries"] == "3"
        assert letter.headers["Callboard-Reason"] == "ValueError: never this (delivery 3 of 3)"
        assert letter.data == (await js.get_msg(stream_of(nodes), 1)).data

        async def ended() -> bool:
            return (await js.consumer_info(stream_of(nodes), "any")).num_ack_pending == 0

        await until(ended)
        assert node.statistics()["durable"]["intakes"]["worker.0"]["dead"] == 1


@pytest.mark.parametrize(
    ("method", "args", "reason"),
    [
        ("wrok", (1,), "UnknownMethod"),
        ("count_to", (1,), "UnknownMethod"),
        ("typed", ("no number",), "BadArguments"),
        ("typed", (), "BadArguments"),
    ],
)
async def test_what_no_handler_takes_is_dead_in_the_end(
    cluster: Cluster, method: str, args: tuple[object, ...], reason: str
) -> None:
    async with nodes_on(await network(cluster)) as nodes, jetstream(nodes.network) as js:
        node = await nodes.node()
        await nodes.worker(node)
        await node.ref("worker").tell_wait(method, *args)
        await until(lambda: node.durables.store.statistics()["dead_letters"] == 1)
        letter = await js.get_last_msg(stream_of(nodes), dead_subject(nodes))
        assert letter.headers["Callboard-Reason"].startswith(reason)


async def test_bytes_of_a_stranger_are_dead_and_hold_nobody_up(cluster: Cluster) -> None:
    async with nodes_on(await network(cluster)) as nodes, jetstream(nodes.network) as js:
        node = await nodes.node()
        worker = await nodes.worker(node)
        subject = dead_subject(nodes).replace("_dead", "_")
        for data in (b"", b"\xc1", b"\x93\x02\xa1x\x90", b"\x91" * 2000, b'{"method": "work"}'):
            await js.publish(subject, data)
        await node.ref("worker", Worker).tell_wait(Worker.work, "ours")
        await until(lambda: node.durables.store.statistics()["dead_letters"] == 5)
        assert worker.seen == ["ours"]


# -- what is refused or lost


async def test_an_accepted_tell_that_cannot_be_stored_in_time_is_counted_and_logged(
    tmp_path: Path, cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    server = NatsServer(tmp_path / "nats")
    await server.start()
    try:
        async with nodes_on(on(server)) as nodes:
            node = await nodes.node()
            await node.ref("worker", Worker).tell_wait(Worker.work, "stored")
            await server.kill()
            node.ref("worker", Worker).options(deadline_s=0.3).tell(Worker.work, "lost")
            with pytest.raises(DeadlineExceeded) as caught:
                await node.ref("worker", Worker).options(deadline_s=0.3).tell_wait(Worker.work, "refused")
            assert caught.value.executed in (Executed.NEVER, Executed.MAYBE)
            await until(lambda: node.durables.lost == 1)
            assert node.dropped_tells == 1
            assert "lost a durable tell of work to worker" in caplog.text
    finally:
        await server.stop()


async def test_who_tells_more_than_may_wait_here_is_told(
    tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durable, "MOST_MESSAGES", 10)
    server = NatsServer(tmp_path / "nats")
    await server.start()
    try:
        async with nodes_on(on(server)) as nodes:
            node = await nodes.node()
            worker = await nodes.worker(node)
            ref = node.ref("worker", Worker)
            await ref.tell_wait(Worker.work, "first")
            server.pause()
            for number in range(10):
                ref.tell(Worker.work, number)
            with pytest.raises(MailboxFull, match=r"10 messages .* use tell_wait"):
                ref.tell(Worker.work, 10)
            with pytest.raises(DeadlineExceeded) as caught:
                await ref.options(deadline_s=0.2).tell_wait(Worker.work, 11)
            assert caught.value.executed is Executed.NEVER
            waiting = [
                asyncio.create_task(ref.options(deadline_s=60).tell_wait(Worker.work, n)) for n in (12, 13)
            ]
            server.resume()
            await asyncio.gather(*waiting)
            await until(lambda: len(worker.seen) == 13)
            assert worker.seen == ["first", *range(10), 12, 13]
    finally:
        await server.stop()


async def test_a_full_log_drops_what_was_handled_and_refuses_when_nothing_was(cluster: Cluster) -> None:
    policy = DurablePolicy(max_bytes=200_000, backoff_s=(0.02,))
    async with nodes_on(await network(cluster)) as nodes, jetstream(nodes.network) as js:
        sender, receiver = await nodes.node("s", policy), await nodes.node("r", policy)
        worker = await nodes.worker(receiver)
        ref = sender.ref("worker", Worker).options(deadline_s=30)
        for number in range(60):  # 600 KB through a log of 200
            await ref.tell_wait(Worker.work, [number, "x" * 10_000])
            await until(lambda number=number: len(worker.seen) > number)  # type: ignore[misc]
        assert (await js.stream_info(stream_of(nodes))).state.bytes <= 200_000
        await receiver.close(grace_s=1)

        async def fill() -> None:
            for number in range(60, 120):
                await ref.tell_wait(Worker.work, [number, "x" * 10_000])

        with pytest.raises(NotStored, match=r"full \(max_bytes is 200,000\) and nothing in it was handled"):
            await fill()
        kept = (await js.stream_info(stream_of(nodes))).state
        again = await nodes.worker(await nodes.node("r2", policy))
        await until(lambda: len(again.seen) == kept.messages)
        assert [what[0] for what in again.seen] == list(range(60, 60 + kept.messages))


async def test_a_plane_that_stores_nothing_is_refused_by_name(cluster: Cluster) -> None:
    async with nodes_on(NetworkSettings()) as nodes:
        with pytest.raises(ConfigError, match=r"actor\.worker: .*need the nats request plane, and it is tcp"):
            await nodes.node()


async def test_without_jetstream_the_start_of_a_durable_actor_says_so(
    tmp_path: Path, cluster: Cluster
) -> None:
    server = NatsServer(tmp_path / "nats", jetstream=False)
    await server.start()
    try:
        async with nodes_on(on(server)) as nodes:
            node = await nodes.node()
            with pytest.raises(StartFailed, match="JetStream is off there: start the nats-server with -js"):
                await node.spawn(Worker, name="worker.0")
            with pytest.raises(DeadlineExceeded, match="JetStream is off"):
                await node.ref("worker", Worker).options(deadline_s=0.5).tell_wait(Worker.work, 1)
    finally:
        await server.stop()


async def test_a_changed_policy_changes_the_stream_and_leaves_what_is_the_administrator_s(
    cluster: Cluster,
) -> None:
    async with nodes_on(await network(cluster)) as nodes, jetstream(nodes.network) as js:
        await (await nodes.node("a")).ref("worker", Worker).tell_wait(Worker.work, 1)
        config = (await js.stream_info(stream_of(nodes))).config
        await js.update_stream(config.evolve(description="ours", max_age=3600))
        policy = DurablePolicy(max_age_s=7200, duplicate_window_s=60, max_bytes=10_000_000)
        await (await nodes.node("b", policy)).ref("worker", Worker).tell_wait(Worker.work, 2)
        changed = (await js.stream_info(stream_of(nodes))).config
        assert (changed.max_age, changed.duplicate_window, changed.max_bytes) == (7200, 60, 10_000_000)
        assert (changed.description, (await js.stream_info(stream_of(nodes))).state.messages) == ("ours", 2)


# -- the server goes and comes


def on(server: NatsServer) -> NetworkSettings:
    return NetworkSettings(
        request_plane="nats",
        heartbeat_interval_s=0.2,
        heartbeat_timeout_s=0.8,
        nats=NatsSettings(**server.settings()),
    )


@pytest.mark.parametrize("how", ["stopped", "killed"])
async def test_nothing_is_lost_when_the_server_restarts_with_messages_outstanding(
    tmp_path: Path, cluster: Cluster, how: str
) -> None:
    server = NatsServer(tmp_path / "nats", sync_interval="always")
    await server.start()
    try:
        async with nodes_on(on(server)) as nodes:
            sender, receiver = await nodes.node("s"), await nodes.node("r")
            worker = await nodes.worker(receiver)
            worker.gate.clear()
            ref = sender.ref("worker", Worker).options(deadline_s=60)
            for number in range(20):
                await ref.tell_wait(Worker.work, number)
            await until(lambda: worker.running == 1)
            if how == "stopped":
                await server.stop()
            else:
                await server.kill()
            for number in range(20, 40):  # while it is away
                ref.tell(Worker.work, number)
            worker.gate.set()  # what runs ends while it is away: its acknowledgement has to wait
            await until(lambda: len(worker.seen) >= 1)
            await server.start()
            await ref.tell_wait(Worker.work, 40)
            await until(lambda: set(worker.seen) == set(range(41)))
            first = list(dict.fromkeys(worker.seen))
            assert first == list(range(41))
    finally:
        await server.stop()


async def test_what_is_delivered_again_while_its_handler_runs_is_not_begun_again(
    tmp_path: Path, cluster: Cluster
) -> None:
    server = NatsServer(tmp_path / "nats")
    await server.start()
    try:
        async with nodes_on(on(server)) as nodes:
            node = await nodes.node(policy=DurablePolicy(ack_wait_s=0.5))
            worker = await nodes.worker(node, cls=Broad)
            worker.gate.clear()
            await node.ref("worker", Worker).tell_wait(Worker.work, "slow")
            await until(lambda: worker.running == 1)
            await server.kill()  # for longer than it waits for a sign of life
            await asyncio.sleep(0.6)
            await server.start()
            await until(lambda: node.statistics()["durable"]["intakes"]["worker.0"]["redelivered"] > 0)
            worker.gate.set()
            await node.ref("worker", Worker).options(deadline_s=30).tell_wait(Worker.work, "next")
            await until(lambda: "next" in worker.seen)
            assert worker.seen == ["slow", "next"]
    finally:
        await server.stop()


async def test_a_handler_that_ends_while_the_server_is_away_is_acknowledged_when_it_is_back(
    tmp_path: Path, cluster: Cluster
) -> None:
    server = NatsServer(tmp_path / "nats", sync_interval="always")
    await server.start()
    try:
        async with nodes_on(on(server)) as nodes:
            node = await nodes.node(policy=PATIENT)
            worker = await nodes.worker(node)
            worker.gate.clear()
            await node.ref("worker", Worker).tell_wait(Worker.work, "x")
            await until(lambda: worker.running == 1)
            await server.kill()
            worker.gate.set()
            await until(lambda: worker.seen == ["x"])
            await server.start()
            async with jetstream(nodes.network) as js:

                async def acknowledged() -> bool:
                    info = await js.consumer_info(stream_of(nodes), "any")
                    return bool(info.num_ack_pending == 0 and info.ack_floor.stream_seq == 1)

                await until(acknowledged)
            # The killed server may not know any more that it had delivered it: then it comes once more.
            assert set(worker.seen) == {"x"}
    finally:
        await server.stop()


async def test_a_consumer_that_was_deleted_is_made_again(cluster: Cluster) -> None:
    async with nodes_on(await network(cluster)) as nodes, jetstream(nodes.network) as js:
        node = await nodes.node()
        worker = await nodes.worker(node)
        await node.ref("worker", Worker).tell_wait(Worker.work, 1)
        await until(lambda: worker.seen == [1])
        await js.delete_consumer(stream_of(nodes), "any")  # and with it what it knew to be handled
        await node.ref("worker", Worker).tell_wait(Worker.work, 2)
        await until(lambda: worker.seen[-1] == 2)
        assert worker.seen == [1, 1, 2]


async def test_a_stream_that_was_deleted_is_made_again(cluster: Cluster) -> None:
    async with nodes_on(await network(cluster)) as nodes, jetstream(nodes.network) as js:
        node = await nodes.node()
        worker = await nodes.worker(node)
        await node.ref("worker", Worker).tell_wait(Worker.work, 1)
        await until(lambda: worker.seen == [1])
        await js.delete_stream(stream_of(nodes))
        await node.ref("worker", Worker).options(deadline_s=math.inf).tell_wait(Worker.work, 2)
        await until(lambda: worker.seen[-1] == 2)
