"""Durable tells between processes: what a killed worker had is handled by another, and what is stored is replayed."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from callboard.actors.errors import ActorNotFound, BadArguments
from callboard.actors.replay import replay
from callboard.supervisor.spec import RestartPolicy
from callboard.supervisor.system import System
from callboard.testing.cluster import Cluster
from callboard.transports.durable import DurablePolicy
from callboard.transports.errors import ConfigError

from .durable_actors import PATIENT, QUICK, Ledger, Worker, jetstream, lines, nodes_on
from .terminal import callboard
from .waiting import until

BACK_AT_ONCE = RestartPolicy(max_restarts=20, backoff_s=(0.01, 0.05))


async def ledger(
    cluster: Cluster, path: Path, policy: DurablePolicy | bool = QUICK, replicas: int = 1
) -> tuple[System, Any]:
    system = await cluster.system(plane="nats")
    ref = await system.spawn(
        Ledger, str(path), replicas=replicas, processes=replicas, durable=policy, restart=BACK_AT_ONCE
    )
    return system, ref.options(deadline_s=30)


async def acknowledged(cluster: Cluster, system: System, component: str = "ledger") -> None:
    """Return when the server waits for no acknowledgement and nothing is left to deliver."""
    network = (await cluster.nats()).network()
    stream = "-".join(part.replace("-", "=2D") for part in (network.nats.prefix, system.namespace, component))
    async with jetstream(network) as js:

        async def nothing() -> bool:
            info = await js.consumer_info(stream, "any")
            return bool(info.num_ack_pending == 0 and info.num_pending == 0)

        await until(nothing)


async def test_a_message_whose_worker_is_killed_in_its_handler_is_handled_by_another(
    cluster: Cluster, tmp_path: Path
) -> None:
    path = tmp_path / "ledger"
    system, ref = await ledger(cluster, path, replicas=2)
    await ref.tell_wait(Ledger.hang_at_first, "m")
    await until(lambda: lines(path, "begin"))
    (first,) = lines(path, "begin")
    (name,) = [p.name for p in system.status().processes if str(p.pid) == first[1]]
    await system.kill(name)
    await until(lambda: lines(path, "end"))
    ends, begins = lines(path, "end"), lines(path, "begin")
    assert [fields[0] for fields in ends] == ["m"]
    assert [fields[2] for fields in begins] == ["1", "2"]  # the count of its deliveries
    assert begins[0][3:] == begins[1][3:]  # one sequence, one id
    assert begins[0][1] != begins[1][1]
    await acknowledged(cluster, system)


async def test_a_kill_after_the_acknowledgement_brings_nothing_again(
    cluster: Cluster, tmp_path: Path
) -> None:
    path = tmp_path / "ledger"
    system, ref = await ledger(cluster, path)
    for number in range(20):
        ref.tell(Ledger.write, f"m{number}")
    await until(lambda: len(lines(path)) == 20)
    await acknowledged(cluster, system)
    await system.kill("ledger.0")
    await system.wait_ready(20)
    await ref.tell_wait(Ledger.write, "after")
    await until(lambda: lines(path, "end", "after"))
    assert [fields[0] for fields in lines(path)] == [*(f"m{n}" for n in range(20)), "after"]
    assert {fields[2] for fields in lines(path, "begin")} == {"1"}


async def test_every_message_is_handled_although_workers_are_killed_all_the_time(
    cluster: Cluster, tmp_path: Path
) -> None:
    path = tmp_path / "ledger"
    policy = DurablePolicy(ack_wait_s=0.5, max_deliver=1000)
    system, ref = await ledger(cluster, path, policy, replicas=2)
    for number in range(300):
        ref.tell(Ledger.write, f"m{number}")
        if number % 60 == 30:
            await until(lambda number=number: len(lines(path)) > number // 2)  # type: ignore[misc]
            await system.kill(f"ledger.{number // 60 % 2}")
    wanted = {f"m{number}" for number in range(300)}
    await until(lambda: {fields[0] for fields in lines(path)} == wanted, 60)
    await acknowledged(cluster, system)


async def test_a_message_that_kills_its_worker_is_dead_after_its_deliveries(
    cluster: Cluster, tmp_path: Path
) -> None:
    path = tmp_path / "ledger"
    system, ref = await ledger(cluster, path, DurablePolicy(ack_wait_s=0.4, max_deliver=2))
    await ref.tell_wait(Ledger.die, "poison")
    await until(lambda: len(lines(path, "begin", "poison")) == 2)
    await ref.tell_wait(Ledger.write, "m")
    await until(lambda: lines(path, "end", "m"))
    await acknowledged(cluster, system)
    assert [fields[2] for fields in lines(path, "begin", "poison")] == ["1", "2"]
    assert "delivered 2 times (max_deliver) and nobody said how it ended" in system.logs("ledger.0")


CONFIG = """
    [actor.ledger]
    class = "durable_actors:Ledger"
    args = {{ path = "{path}" }}
    durable = {{ ack_wait_s = 300, backoff_s = 0.1 }}
"""


async def test_messages_outlive_the_system_and_are_handled_by_its_next_run(
    cluster: Cluster, tmp_path: Path
) -> None:
    path, door = tmp_path / "ledger", tmp_path / "door"
    config = CONFIG.format(path=path)
    system = await cluster.up(config, plane="nats", namespace="ours")
    for number in range(5):
        await system.ref("ledger", Ledger).tell_wait(Ledger.write_after, f"m{number}", str(door))
    await until(lambda: lines(path, "begin"))
    await system.stop(0.5)  # the handler that runs is cancelled
    door.touch()
    system = await cluster.up(config, plane="nats", namespace="ours")
    await until(lambda: len(lines(path)) == 5)
    assert sorted(fields[0] for fields in lines(path)) == [f"m{number}" for number in range(5)]
    assert lines(path, "begin", "m0")[1][2] == "2"


async def test_a_sender_in_any_process_knows_what_is_durable_also_while_nobody_can_take_it(
    cluster: Cluster, tmp_path: Path
) -> None:
    path = tmp_path / "ledger"
    system, ref = await ledger(cluster, path)
    teller = await system.spawn(Ledger, "/dev/null", name="teller")
    await system.pause("ledger.0")
    await teller.ask(Ledger.pass_on, ref, "from-a-process-that-came-later")
    async with await System.connect(namespace=system.namespace) as connection:
        await connection.ref("ledger", Ledger).tell_wait(Ledger.write, "from-a-client")
    await system.resume("ledger.0")
    await until(lambda: len(lines(path)) == 2)
    assert [fields[3] for fields in lines(path)] == ["1", "2"]  # their places in the store


# -- replay


async def test_a_replay_handles_again_what_is_stored_from_a_sequence_or_a_time(cluster: Cluster) -> None:
    async with nodes_on((await cluster.nats()).network()) as nodes:
        sender, receiver = await nodes.node("s"), await nodes.node("r")
        worker, other = await nodes.worker(receiver), await nodes.worker(receiver, "worker.1")
        sender.add_location(receiver.location("worker.0"))  # type: ignore[arg-type]
        sender.add_location(receiver.location("worker.1"))  # type: ignore[arg-type]
        ref = sender.ref("worker.0", Worker)
        for number in range(10):
            await ref.tell_wait(Worker.work, number)
        await sender.ref("worker.1", Worker).tell_wait(Worker.work, {"large": b"x" * 100_000})
        await until(lambda: len(worker.seen) == 10 and len(other.seen) == 1)
        seen_s = [m.stored_at_s async for m in sender.durables.store.history("worker", 1, 10)]
        assert seen_s == sorted(seen_s)
        worker.seen.clear()
        progress: list[int] = []
        report = await replay(sender, "worker", from_sequence=8, on_progress=lambda r: progress.append(r.at))
        assert (report.ok, report.failed, report.first, report.last) == (4, 0, 8, 11)
        assert (worker.seen, progress) == ([7, 8, 9], [8, 9, 10, 11])
        assert other.seen == [{"large": b"x" * 100_000}] * 2
        worker.seen.clear()
        report = await replay(sender, "worker", since=seen_s[5])
        assert (report.first, worker.seen) == (6, [5, 6, 7, 8, 9])
        worker.seen.clear()
        report = await replay(receiver, "worker")  # within the process of the actor
        assert (report.ok, worker.seen) == (11, list(range(10)))
        report = await replay(sender, "worker", since=datetime.fromtimestamp(seen_s[-1] + 3600))
        assert (report.ok, report.first) == (0, 12)


async def test_a_replay_ends_at_what_was_stored_when_it_began_and_counts_failures(cluster: Cluster) -> None:
    async with nodes_on((await cluster.nats()).network()) as nodes:
        node = await nodes.node()
        worker = await nodes.worker(node)
        ref = node.ref("worker", Worker)
        for number in range(6):
            await ref.tell_wait(Worker.work, number)
        await until(lambda: len(worker.seen) == 6)
        worker.refused = [0, 1]

        def told_meanwhile(report: Any) -> None:
            ref.tell(Worker.work, 100 + report.at)

        report = await replay(node, "worker", on_progress=told_meanwhile)
        assert (report.ok, report.failed, report.last) == (4, 2, 6)
        assert report.errors == [(1, "ValueError: not this one"), (2, "ValueError: not this one")]
        await until(lambda: len(worker.seen) == 6 + 4 + 6)


async def test_dead_letters_can_be_replayed_when_their_cause_is_gone(cluster: Cluster) -> None:
    async with nodes_on((await cluster.nats()).network()) as nodes:
        node = await nodes.node()
        worker = await nodes.worker(node)
        worker.failures = 3
        await node.ref("worker", Worker).tell_wait(Worker.work, "bad")
        await until(lambda: node.durables.store.statistics()["dead_letters"] == 1)
        await node.ref("worker", Worker).tell_wait(Worker.work, "good")
        await until(lambda: worker.seen == ["good"])
        report = await replay(node, "worker", dead=True)
        assert (report.ok, worker.seen) == (1, ["good", "bad"])


async def test_a_replay_of_what_is_not_durable_names_what_is(cluster: Cluster) -> None:
    async with nodes_on((await cluster.nats()).network()) as nodes:
        node = await nodes.node()
        with pytest.raises(ActorNotFound, match="durable are: worker"):
            await replay(node, "wroker")
        with pytest.raises(BadArguments, match="exclude"):
            await replay(node, "worker", from_sequence=1, since=0.0)
        report = await replay(node, "worker")
        assert (report.ok, report.failed) == (0, 0)


async def test_the_command_replays_and_says_how_it_went(cluster: Cluster, tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    system, ref = await ledger(cluster, path, PATIENT)
    for number in range(5):
        await ref.tell_wait(Ledger.write, f"m{number}")
    await until(lambda: len(lines(path)) == 5)
    assert await system.replay("ledger", from_sequence=5) is not None
    assert len(lines(path)) == 6
    assert (await system.replay("ledger", since="1h", dead=True)).ok == 0

    done = await callboard("replay", system.namespace, "ledger", "--from-sequence", "3")
    assert (done.code, done.out) == (
        0,
        "replayed 3 messages of ledger (sequence 3 to 5): 3 ok, 0 failed\n",
    ), done.err
    assert [fields[0] for fields in lines(path)[6:]] == ["m2", "m3", "m4"]
    done = await callboard("replay", system.namespace, "ledger", "--since", "1h", "--json")
    assert done.json()["ok"] == 5, done.err

    await ref.tell_wait(Ledger.fail, "bad")
    done = await callboard("replay", system.namespace, "ledger", "--from-sequence", "6")
    assert done.code == 1
    assert "0 ok, 1 failed" in done.out
    assert "cannot do bad" in done.err
    for arguments, said in (
        (("ledgr",), "durable are: ledger"),
        (("ledger", "--since", "yesterday"), "--since is 'yesterday'"),
        (("ledger", "--since", "1h", "--from-sequence", "1"), "exclude each other"),
    ):
        done = await callboard("replay", system.namespace, *arguments)
        assert done.code in (1, 2)
        assert said in done.err


# -- what cannot be


async def test_a_durable_actor_on_another_plane_is_refused_before_anything_starts(cluster: Cluster) -> None:
    system = await cluster.system(plane="tcp")
    with pytest.raises(
        ConfigError, match=r"actor\.worker: durable tells need the nats request plane, and it is tcp"
    ):
        await system.spawn(Worker, durable=True)
    assert system.status().processes == ()
    assert await (await system.spawn(Worker)).ask(Worker.echo, "the name is free") == "the name is free"


async def test_a_namespace_made_up_for_one_run_is_no_place_for_durable_messages(cluster: Cluster) -> None:
    system = await cluster.system(plane="nats", namespace=None)
    with pytest.raises(ConfigError, match="namespace made up for this run"):
        await system.spawn(Worker, durable=True)


async def test_an_embedded_server_carries_durable_tells_too(cluster: Cluster, tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    system = await cluster.system(nats_embedded=True)
    ref = await system.spawn(Ledger, str(path), durable=True)
    await ref.tell_wait(Ledger.write, "m")
    await until(lambda: lines(path))
