"""Durable tells within reach of one event loop: stored, delivered, acknowledged, given back, dead."""

from __future__ import annotations

import asyncio

import pytest

from callboard.actors.errors import BadArguments, EncodeError
from callboard.actors.policy import MailboxPolicy, Overflow
from callboard.testing.cluster import Cluster
from callboard.transports.durable import DurablePolicy
from callboard.transports.errors import TooLarge
from callboard.transports.settings import NetworkSettings

from .durable_actors import PATIENT, Broad, Nodes, Worker, jetstream, nodes_on, stream_of, the_actor
from .waiting import until


async def network(cluster: Cluster) -> NetworkSettings:
    return (await cluster.nats()).network()


def dead_subject(nodes: Nodes) -> str:
    return f"{nodes.network.nats.prefix}.{nodes.namespace}._durable.worker._dead"


# -- stored


async def test_tell_wait_returns_when_the_message_is_stored(cluster: Cluster) -> None:
    async with nodes_on(await network(cluster)) as nodes, jetstream(nodes.network) as js:
        sender = await nodes.node()
        for count in range(1, 4):
            await sender.ref("worker", Worker).tell_wait(Worker.work, count)
            assert (await js.stream_info(stream_of(nodes))).state.messages == count


async def test_tells_are_handled_once_and_in_order_and_say_which_they_are(cluster: Cluster) -> None:
    async with nodes_on(await network(cluster)) as nodes:
        sender, receiver = await nodes.node("s"), await nodes.node("r")
        worker = await nodes.worker(receiver)
        for number in range(1000):
            sender.ref("worker", Worker).tell(Worker.work, number)
        await until(lambda: len(worker.seen) == 1000)
        assert worker.seen == list(range(1000))
        assert worker.sequences == list(range(1, 1001))
        assert set(worker.counts) == {1}
        assert len(set(worker.ids)) == 1000
        await receiver.ref("worker", Worker).ask(Worker.work, "asked")
        assert (worker.seen[-1], len(worker.ids)) == ("asked", 1000)


async def test_a_tell_carries_what_it_was_at_the_call_with_references_and_large_values(
    cluster: Cluster,
) -> None:
    async with nodes_on(await network(cluster)) as nodes:
        sender, receiver = await nodes.node("s"), await nodes.node("r")
        worker = await nodes.worker(receiver)
        await nodes.worker(receiver, "other.0")
        value = {
            "large": b"x" * 200_000,
            "view": bytearray(70_000),
            "tuple": (1, {2}),
            "ref": sender.ref("other.0"),
        }
        sender.ref("worker", Worker).tell(Worker.work, value)
        await sender.ref("worker", Worker).tell_wait(Worker.typed, 5, text="named")
        value["large"] = b"changed"
        await until(lambda: len(worker.seen) == 2)
        got = worker.seen[0]
        assert (got["large"], got["view"], got["tuple"]) == (b"x" * 200_000, bytearray(70_000), (1, {2}))
        assert worker.seen[1] == (5, "named")
        await got["ref"].ask(Worker.work, "through the reference")
        assert the_actor(receiver, "other.0").seen == ["through the reference"]


async def test_what_cannot_be_stored_is_refused_at_the_call(cluster: Cluster) -> None:
    async with nodes_on(await network(cluster)) as nodes, jetstream(nodes.network) as js:
        sender = await nodes.node()
        ref = sender.ref("worker", Worker)
        await ref.tell_wait(Worker.work, "fits")
        with pytest.raises(EncodeError, match=r"worker\.work: argument 0\['here'\]"):
            ref.tell(Worker.work, {"here": object()})
        with pytest.raises(
            TooLarge, match=r"1,200,\d\d\d bytes exceeds the limit of 1,048,576 bytes.*max_payload"
        ):
            ref.tell(Worker.work, b"x" * 1_200_000)
        with pytest.raises(TooLarge):
            await ref.tell_wait(Worker.work, b"x" * 1_200_000)
        assert (await js.stream_info(stream_of(nodes))).state.messages == 1


async def test_the_largest_message_that_fits_is_stored_and_one_byte_more_is_not(cluster: Cluster) -> None:
    async with nodes_on(await network(cluster)) as nodes:
        sender, receiver = await nodes.node("s"), await nodes.node("r")
        worker = await nodes.worker(receiver)
        ref = sender.ref("worker", Worker).options(message_id="m")
        await ref.options(message_id="first").tell_wait(Worker.work, b"")
        with pytest.raises(TooLarge) as caught:
            ref.tell(Worker.work, b"x" * 1_048_576)
        size = 1_048_576 - (caught.value.size_bytes - caught.value.limit_bytes)
        await ref.tell_wait(Worker.work, b"x" * size)
        with pytest.raises(TooLarge):
            ref.tell(Worker.work, b"x" * (size + 1))
        await until(lambda: len(worker.seen) == 2)
        assert len(worker.seen[1]) == size


async def test_of_messages_with_one_id_one_is_stored(cluster: Cluster) -> None:
    async with nodes_on(await network(cluster)) as nodes:
        one, two, receiver = await nodes.node("a"), await nodes.node("b"), await nodes.node("r")
        worker = await nodes.worker(receiver)
        for node in (one, two, one):
            await node.ref("worker", Worker).options(message_id="order-7").tell_wait(Worker.work, node.name)
        await one.ref("worker", Worker).tell_wait(Worker.work, "the last")
        await until(lambda: "the last" in worker.seen)
        assert worker.seen == ["a", "the last"]
        assert worker.ids[0] == "order-7"


async def test_a_message_id_is_checked_and_only_for_durable_actors(cluster: Cluster) -> None:
    async with nodes_on(await network(cluster)) as nodes:
        node = await nodes.node()
        other = await node.spawn(Worker, name="other.0")
        for bad in ("", "a b", "a\r\nb", "ü", "x" * 201):
            with pytest.raises(ValueError, match="message_id"):
                other.options(message_id=bad)
        with pytest.raises(BadArguments, match="durable"):
            other.options(message_id="x").tell(Worker.work, 1)
        with pytest.raises(BadArguments, match="durable"):
            await other.options(message_id="x").tell_wait(Worker.work, 1)


async def test_an_ask_and_a_stream_go_the_ordinary_way(cluster: Cluster) -> None:
    async with nodes_on(await network(cluster)) as nodes, jetstream(nodes.network) as js:
        sender, receiver = await nodes.node("s"), await nodes.node("r")
        await nodes.worker(receiver)
        location = receiver.location("worker.0")
        assert location is not None
        sender.add_location(location)
        ref = sender.ref("worker", Worker)
        assert await ref.ask(Worker.echo, "x") == "x"
        assert [n async for n in ref.stream(Worker.count_to, 3)] == [0, 1, 2]
        assert (await js.stream_info(stream_of(nodes))).state.messages == 0


# -- delivered


async def test_what_was_told_while_nobody_was_there_is_handled_by_who_comes(cluster: Cluster) -> None:
    async with nodes_on(await network(cluster)) as nodes:
        sender, first = await nodes.node("s"), await nodes.node("r1")
        worker = await nodes.worker(first)
        await sender.ref("worker", Worker).tell_wait(Worker.work, "early")
        await until(lambda: worker.seen == ["early"])
        await first.close(grace_s=1)
        for number in range(20):
            sender.ref("worker", Worker).tell(Worker.work, number)
        await sender.ref("worker", Worker).tell_wait(Worker.work, 20)
        later = await nodes.worker(await nodes.node("r2"))
        await until(lambda: len(later.seen) == 21)
        assert later.seen == list(range(21))
        assert set(later.counts) == {1}


async def test_a_tell_to_an_instance_is_handled_by_that_one(cluster: Cluster) -> None:
    async with nodes_on(await network(cluster)) as nodes:
        sender, receiver = await nodes.node("s"), await nodes.node("r")
        workers = [await nodes.worker(receiver, f"worker.{index}") for index in range(3)]
        for number in range(30):
            sender.ref(f"worker.{number % 3}", Worker).tell(Worker.work, number)
        await until(lambda: sum(len(worker.seen) for worker in workers) == 30)
        for index, worker in enumerate(workers):
            assert worker.seen == list(range(index, 30, 3))


async def test_instances_share_what_is_for_the_component(cluster: Cluster) -> None:
    async with nodes_on(await network(cluster)) as nodes:
        sender, receiver = await nodes.node("s"), await nodes.node("r")
        one, two = [await nodes.worker(receiver, f"worker.{index}") for index in range(2)]
        one.gate.clear()
        for number in range(40):
            sender.ref("worker", Worker).tell(Worker.work, number)
        # Who is held up keeps only what it began, or took when it was quick: the other handles the rest.
        await until(lambda: len(two.seen) >= 30)
        one.gate.set()
        await until(lambda: len(one.seen) + len(two.seen) == 40)
        assert sorted(one.seen + two.seen) == list(range(40))


async def test_as_many_run_at_once_as_the_actor_allows(cluster: Cluster) -> None:
    async with nodes_on(await network(cluster)) as nodes:
        node = await nodes.node(policy=PATIENT)
        worker = await nodes.worker(node, cls=Broad)
        worker.gate.clear()
        for number in range(10):
            node.ref("worker", Worker).tell(Worker.work, number)
        await until(lambda: worker.running == 4)
        worker.gate.set()
        await until(lambda: len(worker.seen) == 10)
        assert set(worker.counts) == {1}


async def test_a_handler_that_takes_longer_than_the_wait_for_its_acknowledgement_runs_once(
    cluster: Cluster,
) -> None:
    async with nodes_on(await network(cluster)) as nodes, jetstream(nodes.network) as js:
        node = await nodes.node(policy=DurablePolicy(ack_wait_s=0.3))
        one, two = [await nodes.worker(node, f"worker.{index}") for index in range(2)]
        one.gate.clear()
        two.gate.clear()
        await node.ref("worker", Worker).tell_wait(Worker.work, "slow")
        await until(lambda: one.running + two.running == 1)
        await asyncio.sleep(1.2)  # four times as long: it would have been delivered again by now
        info = await js.consumer_info(stream_of(nodes), "any")
        assert (info.num_redelivered, one.running + two.running) == (0, 1)
        one.gate.set()
        two.gate.set()
        await until(lambda: one.seen + two.seen == ["slow"])
        assert one.counts + two.counts == [1]


async def test_a_message_is_acknowledged_after_its_handler_and_not_before(cluster: Cluster) -> None:
    async with nodes_on(await network(cluster)) as nodes, jetstream(nodes.network) as js:
        node = await nodes.node(policy=PATIENT)
        worker = await nodes.worker(node)
        worker.gate.clear()
        await node.ref("worker", Worker).tell_wait(Worker.work, 1)
        await until(lambda: worker.running == 1)
        assert (await js.consumer_info(stream_of(nodes), "any")).num_ack_pending == 1
        worker.gate.set()

        async def acknowledged() -> bool:
            info = await js.consumer_info(stream_of(nodes), "any")
            return info.num_ack_pending == 0 and info.ack_floor.stream_seq == 1

        await until(acknowledged)


async def test_thousands_that_wait_in_the_store_leave_the_memory_of_a_slow_worker_alone(
    cluster: Cluster,
) -> None:
    async with nodes_on(await network(cluster)) as nodes:
        sender, receiver = await nodes.node("s", PATIENT), await nodes.node("r", PATIENT)
        ref = sender.ref("worker", Worker)
        for number in range(3000):
            await ref.tell_wait(Worker.work, [number, "x" * 2000]) if number % 500 == 0 else ref.tell(
                Worker.work, [number, "x" * 2000]
            )
        await ref.tell_wait(Worker.work, [3000, ""])
        worker = await nodes.worker(receiver, mailbox=MailboxPolicy(messages=50))
        cell = next(iter(receiver.cells.values()))
        most = 0
        worker.gate.clear()
        await until(lambda: worker.running == 1)
        for _ in range(50):  # whoever takes more than it may has the time for it
            await asyncio.sleep(0.01)
            most = max(most, len(cell.mailbox))
        assert most <= 2  # one beside the one that runs, from each of its two ways
        worker.gate.set()
        while len(worker.seen) < 3001:
            most = max(most, len(cell.mailbox))
            await asyncio.sleep(0)
        assert most <= 50
        assert [what[0] for what in worker.seen] == list(range(3001))


async def test_a_mailbox_full_of_other_messages_gives_nothing_back_and_drops_nothing(
    cluster: Cluster,
) -> None:
    async with nodes_on(await network(cluster)) as nodes:
        node = await nodes.node(policy=PATIENT)
        worker = await nodes.worker(
            node, cls=Broad, mailbox=MailboxPolicy(messages=3, overflow=Overflow.REJECT)
        )
        worker.gate.clear()
        local = node.ref("worker.0", Worker).options(deadline_s=60)
        asks = []
        for number in range(4):
            asks.append(asyncio.create_task(local.ask(Worker.work, f"ask {number}")))
            await until(lambda running=number + 1: worker.running == running)  # type: ignore[misc]
        asks += [asyncio.create_task(local.ask(Worker.work, f"ask {n}")) for n in range(4, 7)]
        cell = next(iter(node.cells.values()))
        await until(lambda: len(cell.mailbox) == 3)
        for number in range(10):
            await node.ref("worker", Worker).tell_wait(Worker.work, number)
        worker.gate.set()
        await asyncio.gather(*asks)
        await until(lambda: len(worker.seen) == 17)
        assert sorted(what for what in worker.seen if type(what) is int) == list(range(10))
        assert set(worker.counts) == {1}
