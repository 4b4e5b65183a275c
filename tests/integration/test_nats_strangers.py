"""Actors as stock NATS tools see them: found, called and watched by a client that knows nothing of callboard."""

from __future__ import annotations

import asyncio
import json
from collections import Counter

import pytest
from nats.aio.msg import Msg
from nats.errors import NoRespondersError
from nats.micro.service import ServiceInfo, ServicePing, ServiceStats

from callboard.actors.errors import StartFailed
from callboard.actors.policy import MailboxPolicy, StopReason
from callboard.testing.nats_session import NatsForTest
from callboard.transports.nats_endpoints import MOST_REQUESTS

from .strangers_for_tests import Sequential, Worker, actor_in, at, request
from .waiting import until

# -- calling


async def test_an_actor_is_called_by_its_own_subject_and_by_that_of_its_component(
    nats_server: NatsForTest,
) -> None:
    async with at(nats_server) as place:
        node = await place.node()
        for index in range(3):
            await node.spawn(Worker, name=f"worker.{index}")
        await node.spawn(Worker, name="single")
        assert [await place.ask(place.subject("worker", i), "name") for i in range(3)] == [
            "worker.0",
            "worker.1",
            "worker.2",
        ]
        assert await place.ask(place.subject("single", "_"), "name") == "single"
        assert await place.ask(place.subject("single"), "name") == "single"
        taken = Counter([await place.ask(place.subject("worker"), "name") for _ in range(9)])
        assert taken == {"worker.0": 3, "worker.1": 3, "worker.2": 3}


async def test_who_asks_for_an_actor_that_is_not_there_is_told_so_at_once(nats_server: NatsForTest) -> None:
    async with at(nats_server) as place:
        node = await place.node()
        await node.spawn(Worker, name="worker.0")
        for subject in ("worker.7", "wörker", "nobody", "nobody.0"):
            with pytest.raises(NoRespondersError):
                await place.request(place.subject(subject), request("name"))
        for subject in ("$SRV.PING.nobody", "$SRV.INFO.worker.nobody"):
            with pytest.raises(NoRespondersError):
                await place.request(subject)
        await node.stop_actor("worker.0", StopReason.COMMANDED)
        for subject in ("worker", "worker.0"):
            with pytest.raises(NoRespondersError):
                await place.request(place.subject(subject), request("name"))


async def test_an_error_has_the_headers_of_the_service_protocol(nats_server: NatsForTest) -> None:
    async with at(nats_server) as place:
        await (await place.node()).spawn(Worker, name="worker.0")
        for method, code, text in (
            ("nam", "404", "UnknownMethod"),
            ("fails", "500", "ValueError: first line"),
        ):
            answer = await place.request(place.subject("worker"), request(method))
            assert answer.headers is not None
            assert answer.headers["Nats-Service-Error-Code"] == code
            assert text in answer.headers["Nats-Service-Error"]
            assert answer.headers.keys() == {"Nats-Service-Error-Code", "Nats-Service-Error"}
            assert json.loads(answer.data)["error"]["executed"] == ("never" if code == "404" else "yes")


async def test_a_request_without_a_subject_for_the_answer_is_a_tell(
    nats_server: NatsForTest, caplog: pytest.LogCaptureFixture
) -> None:
    async with at(nats_server) as place:
        node = await place.node()
        await node.spawn(Sequential, name="worker.0")
        subject = place.subject("worker", 0)
        for number in range(100):
            await place.stranger.publish(subject, request("note", number))
        await place.stranger.publish(subject, b"nonsense")
        assert await place.ask(subject, "note", "asked") == "asked"
        assert actor_in(node, "worker.0").seen == [*range(100), "asked"], "in the order sent"
        assert node.statistics()["dropped_tells"] == 1
        assert "dropped a tell of a stranger to worker.0: BadRequest" in caplog.text


async def test_a_component_s_request_goes_to_whom_the_fewest_wait_for(nats_server: NatsForTest) -> None:
    async with at(nats_server) as place:
        node = await place.node()
        for index in range(2):
            await node.spawn(Sequential, name=f"worker.{index}")
        busy = [asyncio.ensure_future(place.ask(place.subject("worker", 0), "wait")) for _ in range(5)]
        await until(lambda: node.statistics()["actors"]["worker.0"]["mailbox"] == 4)
        assert {await place.ask(place.subject("worker"), "name") for _ in range(10)} == {"worker.1"}
        actor_in(node, "worker.0").gate.set()
        assert await asyncio.gather(*busy) == ["worker.0"] * 5


async def test_an_answer_above_max_payload_is_an_error_that_names_both_sizes_and_harms_nobody(
    nats_server: NatsForTest,
) -> None:
    async with at(nats_server) as place:
        await (await place.node()).spawn(Worker, name="worker.0")
        limit = place.stranger.max_payload
        assert len(await place.ask(place.subject("worker"), "long", limit - 2)) == limit - 2
        answer = await place.request(place.subject("worker"), request("long", limit - 1))
        assert answer.headers is not None
        assert answer.headers["Nats-Service-Error-Code"] == "500"
        assert f"{limit + 1:,} bytes" in answer.headers["Nats-Service-Error"]
        assert f"{limit:,}" in answer.headers["Nats-Service-Error"]
        assert json.loads(answer.data)["error"]["executed"] == "yes"
        assert place.counts()["extra"]["reconnects"] == 0


async def test_strangers_beyond_the_limit_are_refused_at_once_and_all_others_answered(
    nats_server: NatsForTest,
) -> None:
    async with at(nats_server) as place:
        node = await place.node()
        for index in range(2):
            await node.spawn(Worker, name=f"worker.{index}", mailbox=MailboxPolicy(messages=5000))
        subject = place.subject("worker")
        waiting = [
            asyncio.ensure_future(place.request(subject, request("wait"))) for _ in range(MOST_REQUESTS)
        ]
        await until(
            lambda: sum(actor["running"] for actor in node.statistics()["actors"].values()) == MOST_REQUESTS
        )
        refused = await place.request(subject, request("name"))
        assert refused.headers is not None
        assert refused.headers["Nats-Service-Error-Code"] == "429"
        assert f"{MOST_REQUESTS:,}" in refused.headers["Nats-Service-Error"]
        await place.stranger.publish(place.subject("worker", 0), request("note", "a tell still comes in"))
        for index in range(2):
            actor_in(node, f"worker.{index}").gate.set()
        answers = await asyncio.gather(*waiting)
        assert all(answer.headers is None for answer in answers)
        assert actor_in(node, "worker.0").seen == ["a tell still comes in"]
        assert await place.ask(subject, "name") in {"worker.0", "worker.1"}


# -- the service protocol


async def test_stock_tools_find_every_actor_and_read_what_it_is_and_does(nats_server: NatsForTest) -> None:
    async with at(nats_server) as place:
        node = await place.node()
        for name in ("worker.0", "worker.1", "router.0"):
            await node.spawn(Worker, name=name)
        pings = [ServicePing.from_dict(facts) for facts in await place.sweep("$SRV.PING", 3)]
        assert sorted(ping.metadata["actor"] for ping in pings) == ["router.0", "worker.0", "worker.1"]
        assert len({ping.id for ping in pings}) == 3
        workers = [ServiceInfo.from_dict(facts) for facts in await place.sweep("$SRV.INFO.worker", 2)]
        for info in workers:
            subjects = {endpoint.name: endpoint for endpoint in info.endpoints}
            assert await place.ask(subjects["instance"].subject, "name") == info.metadata["actor"]
            assert subjects["component"].subject == place.subject("worker")
            assert subjects["component"].queue_group == "worker"
            assert subjects["component"].metadata["long"] == "(size: int) -> str"
            assert info.description == "Worker: Works for strangers."
        for _ in range(3):
            await place.ask(place.subject("router"), "pause")
        await place.request(place.subject("router", 0), request("fails"))
        (router,) = (ping for ping in pings if ping.name == "router")
        answer = await place.request(f"$SRV.STATS.router.{router.id}")
        stats = ServiceStats.from_dict(json.loads(answer.data))
        by_name = {endpoint.name: endpoint for endpoint in stats.endpoints}
        queue, own = by_name["component"], by_name["instance"]
        assert (queue.num_requests, queue.num_errors, queue.last_error) == (3, 0, "")
        assert queue.processing_time >= 3 * 1_000_000, "nanoseconds, and each took a millisecond at least"
        assert queue.average_processing_time == queue.processing_time // 3
        assert (own.num_requests, own.num_errors) == (1, 1)
        assert own.last_error is not None
        assert own.last_error.startswith("ValueError: ")
        assert own.data is not None
        assert (own.data["handled"], own.data["failed"], own.data["mailbox"]) == (3, 1, 0)
        assert own.data["incarnation"] == 1


async def test_the_next_incarnation_is_another_service(nats_server: NatsForTest) -> None:
    async with at(nats_server) as place:
        node = await place.node()
        await node.spawn(Worker, name="worker.0")
        (before,) = await place.sweep("$SRV.PING.worker", 1)
        await node.stop_actor("worker.0", StopReason.RESTART)
        await node.spawn(Worker, name="worker.0", incarnation=2)
        (after,) = await place.sweep("$SRV.PING.worker", 1)
        assert (before["metadata"]["incarnation"], after["metadata"]["incarnation"]) == ("1", "2")
        assert before["id"] != after["id"]
        with pytest.raises(NoRespondersError):
            await place.request(f"$SRV.PING.worker.{before['id']}")


async def test_fifty_services_of_two_processes_answer_one_ping(nats_server: NatsForTest) -> None:
    async with at(nats_server) as place:
        for _ in range(2):
            await place.node()
        for number in range(50):
            await place.nodes[number % 2].spawn(Worker, name=f"many.{number}")
        pings = await place.sweep("$SRV.PING", 50)
        assert {ping["metadata"]["actor"] for ping in pings} == {f"many.{number}" for number in range(50)}
        assert len({ping["id"] for ping in pings}) == 50
        assert len(await place.sweep("$SRV.STATS.many", 50)) == 50


# -- hostile strangers

ODD_NAMES = [
    "a.b",
    "*",
    ">",
    "a b",
    "line\r\nPUB x 1\r\ny\r\n",
    "$SRV.PING",
    "_node",
    "_inbox.x",
    "é",
    "=2E",
    "\t\0",
]


@pytest.mark.parametrize("component", ODD_NAMES, ids=ascii)
async def test_a_component_of_any_name_is_one_token_and_reached_by_it(
    nats_server: NatsForTest, component: str
) -> None:
    async with at(nats_server) as place:
        node = await place.node()
        await node.spawn(Worker, name="worker.0")
        await node.spawn(Worker, name=f"{component}.0")
        infos = {info["metadata"]["component"]: info for info in await place.sweep("$SRV.INFO", 2)}
        info = ServiceInfo.from_dict(infos[component])
        for endpoint in info.endpoints:
            tokens = endpoint.subject.removeprefix(place.subject("")).split(".")
            assert len(tokens) == (2 if endpoint.name == "instance" else 1)
            assert await place.ask(endpoint.subject, "name") == f"{component}.0"
        assert await place.ask(place.subject("worker"), "name") == "worker.0"


async def test_a_name_too_long_for_a_subject_fails_the_start_and_not_the_connection(
    nats_server: NatsForTest,
) -> None:
    async with at(nats_server) as place:
        node = await place.node()
        await node.spawn(Worker, name="worker.0")
        with pytest.raises(StartFailed, match="the limit is 1,000"):
            await node.spawn(Worker, name=f"{'x' * 5000}.0")
        assert await place.ask(place.subject("worker"), "name") == "worker.0"
        assert place.counts()["extra"]["reconnects"] == 0


BOMBS: dict[str, bytes] = {
    "deep": b'{"method": "note", "args": ' + b"[" * 500_000,
    "not UTF-8": b'{"method": "note", "args": ["\xff"]}',
    "a huge integer": b'{"method": "note", "args": [' + b"9" * 100_000 + b"]}",
    "binary": bytes(range(256)) * 100,
    "half a handshake": b"\xc1H\x82",
    "empty": b"",
}


@pytest.mark.parametrize("body", BOMBS.values(), ids=BOMBS.keys())
async def test_a_hostile_request_is_answered_400_and_nobody_notices(
    nats_server: NatsForTest, body: bytes
) -> None:
    async with at(nats_server) as place:
        node = await place.node()
        await node.spawn(Worker, name="worker.0")
        for subject in (place.subject("worker"), place.subject("worker", 0)):
            answer = await place.request(subject, body)
            assert answer.headers is not None
            assert answer.headers["Nats-Service-Error-Code"] == "400"
            await place.stranger.publish(subject, body)
            assert await place.ask(subject, "note", 1) == 1
        assert actor_in(node, "worker.0").seen == [1, 1]
        assert place.counts()["extra"]["reconnects"] == 0


async def test_no_stranger_has_us_publish_to_the_server_or_to_our_own_subjects(
    nats_server: NatsForTest,
) -> None:
    """Whoever may only ask an actor must not act with the rights of its process."""
    async with at(nats_server) as place:
        node = await place.node()
        await node.spawn(Worker, name="worker.0")
        heard: list[str] = []
        targets = ["$JS.API.STREAM.DELETE.precious", "$SYS.REQ.SERVER.PING", place.subject("worker", 1)]

        async def hear(message: Msg) -> None:
            heard.append(message.subject)

        for target in targets:
            await place.stranger.subscribe(target, cb=hear)
        await place.stranger.flush()
        for target in targets:
            for subject in (place.subject("worker"), "$SRV.PING.worker"):
                await place.stranger.publish(subject, request("note", 1), reply=target)
        assert await place.ask(place.subject("worker"), "note", 2) == 2
        assert place.counts()["garbage_connections"] >= len(targets)
        await until(lambda: place.counts()["garbage_connections"] == 2 * len(targets))
        await place.stranger.flush()
        assert heard == []
        assert actor_in(node, "worker.0").seen == [2]
