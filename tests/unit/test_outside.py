"""Requests in JSON of those who know nothing of envelopes: each has one answer, and none does harm."""

import asyncio
import dataclasses
import inspect
import json
from collections.abc import AsyncIterator

import msgspec
import pytest

from callboard.actors.actor import Actor
from callboard.actors.node import Node
from callboard.actors.outside import endpoint_of, result, spelt
from callboard.actors.policy import MailboxPolicy, Overflow, StopReason
from callboard.transports.settings import NetworkSettings

SETTINGS = NetworkSettings(request_plane="memory", max_message_bytes=1_000_000, shrink_message_bytes=0)


@dataclasses.dataclass
class Job:
    name: str
    size: int = 1


class Worker(Actor):
    """Works.

    And more of it."""

    def __init__(self) -> None:
        self.seen: list[object] = []
        self.gate = asyncio.Event()

    async def note(self, value: object) -> object:
        self.seen.append(value)
        return value

    async def add(self, a: int, b: int = 1) -> int:
        return a + b

    async def size(self, job: Job) -> Job:
        return Job(job.name, job.size + 1)

    async def wait(self) -> str:
        await self.gate.wait()
        return "waited"

    async def raises(self, text: str) -> None:
        raise ValueError(text)

    async def odd(self) -> object:
        return object()

    async def raises_oddly(self) -> None:
        raise ValueError("lone \ud800 surrogate")

    async def count(self, to: int) -> AsyncIterator[int]:
        for number in range(to):
            yield number


class Wide(Worker):
    concurrency = 10


def run(test, cls=Worker, **options):
    """Run a test with an endpoint and the actor behind it."""

    async def main():
        node = Node(name="outside", settings=SETTINGS)
        await node.start()
        await node.spawn(cls, name="worker.3", **options)
        (cell,) = node.cells.values()
        try:
            return await test(endpoint_of(node, cell), cell.actor, node)
        finally:
            await node.close(grace_s=0.2)

    return asyncio.run(main())


async def until(condition):
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0)


def request(method, *args, **more):
    return json.dumps({"method": method, "args": args, **more}).encode()


def answer_to(body, cls=Worker):
    async def ask(endpoint, actor, node):
        answer = await endpoint.ask(body)
        return answer.code, json.loads(answer.body), answer.error

    return run(ask, cls)


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (request("add", 1), 2),
        (request("add", 1, kwargs={"b": 5}), 6),
        (b'{"method": "add", "kwargs": {"a": 1, "b": 2}}', 3),
        (request("add", 1, deadline_s=5), 2),
        (request("size", {"name": "x"}), {"name": "x", "size": 2}),
        (request("note", [1, {"a": None}, "\u00e9"]), [1, {"a": None}, "\u00e9"]),
    ],
)
def test_a_request_is_answered_with_the_result_in_json(body, value):
    assert answer_to(body) == (200, value, "")


@pytest.mark.parametrize(
    ("body", "code", "kind", "executed", "text"),
    [
        (b"", 400, "BadRequest", "never", "not a request in JSON"),
        (b"[]", 400, "BadRequest", "never", "Expected `object`"),
        (b'{"metod": "add"}', 400, "BadRequest", "never", "metod"),
        (request("add", 1, surprise=1), 400, "BadRequest", "never", "surprise"),
        (request("add", "x"), 400, "BadArguments", "never", "'a'"),
        (request("add"), 400, "BadArguments", "never", "missing"),
        (request("ad"), 404, "UnknownMethod", "never", 'did you mean "add"'),
        (request("_build"), 404, "UnknownMethod", "never", "private"),
        (request("on_stop", "failed"), 404, "UnknownMethod", "never", "private"),
        (request("count", 3), 400, "BadRequest", "never", "stream"),
        (request("raises", "boom"), 500, "ValueError", "yes", "boom"),
        (request("raises_oddly"), 500, "ValueError", "yes", "\\ud800"),
        (request("odd"), 500, "TypeError", "yes", "no form in JSON"),
        (request("wait", deadline_s=0.01), 504, "DeadlineExceeded", "maybe", "deadline"),
        (request("add", 1, deadline_s=0), 400, "BadRequest", "never", "deadline_s is 0"),
        (request("add", 1, deadline_s=-1), 400, "BadRequest", "never", "deadline_s is -1"),
        (request("add", 1, deadline_s=1e300), 400, "BadRequest", "never", "at most 1,000,000"),
    ],
)
def test_what_goes_wrong_has_a_code_and_says_whether_the_handler_ran(body, code, kind, executed, text):
    given, body, error = answer_to(body)
    assert given == code
    assert (body["error"]["type"], body["error"]["executed"]) == (kind, executed)
    assert text in body["error"]["message"]
    assert error.startswith(f"{kind}: ")
    assert "\n" not in error
    assert "Traceback" not in error
    assert "traceback" not in body["error"]["message"]


DEEP = 200_000
HOSTILE = {
    "deep lists": b'{"method": "note", "args": [' + b"[" * DEEP,
    "deep lists that end": b'{"method": "note", "args": [' + b"[" * DEEP + b"]" * DEEP + b"]}",
    "deep maps": b'{"method": "note", "kwargs": {"a":' + b'{"a":' * DEEP,
    "not UTF-8": b'{"method": "note", "args": ["\xff\xfe"]}',
    "not UTF-8 as the method": b'{"method": "\xff"}',
    "half a surrogate": b'{"method": "note", "args": ["\\ud800"]}',
    "an integer of 5,000 digits": b'{"method": "note", "args": [' + b"9" * 5_000 + b"]}",
    "an infinite number": b'{"method": "note", "args": [1e999]}',
    "not a number": b'{"method": "note", "args": [NaN]}',
    "an infinite deadline": b'{"method": "note", "args": [1], "deadline_s": 1e999}',
    "the end is missing": b'{"method": "note", "args": [1]',
    "something behind it": b'{"method": "note", "args": [1]} {}',
    "a byte order mark": b'\xef\xbb\xbf{"method": "note", "args": [1]}',
    "more than the limit": b'{"method": "note", "args": ["' + b"x" * 1_000_001 + b'"]}',
    "zeros": bytes(1000),
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_request_is_answered_400_and_reaches_no_handler(body):
    async def ask(endpoint, actor, node):
        answer = await endpoint.ask(body)
        assert answer.code == 400, answer
        assert json.loads(answer.body)["error"]["executed"] == "never"
        assert len(answer.body) < 2_000
        assert endpoint.tell(body).code == 400
        assert node.dropped_tells == 1
        assert (await endpoint.ask(request("note", 1))).body == b"1"
        assert actor.seen == [1]

    run(ask)


def test_an_integer_beyond_64_bits_arrives_as_it_is_or_not_at_all():
    async def ask(endpoint, actor, node):
        answer = await endpoint.ask(request("note", 2**70))
        assert actor.seen == [2**70]
        assert answer.code == 500
        assert "64-bit" in answer.error

    run(ask)


def test_a_value_nested_as_deep_as_can_be_read_is_answered_one_way_or_the_other():
    async def ask(endpoint, actor, node):
        for depth in (100, 300, 600, 900, 990):
            answer = await endpoint.ask(b'{"method":"note","args":[' + b"[" * depth + b"]" * depth + b"]}")
            assert answer.code in (200, 400, 500)
        assert (await endpoint.ask(request("add", 1))).code == 200

    run(ask)


def test_requests_are_delivered_at_the_call_and_in_order_told_or_asked():
    async def ask(endpoint, actor, node):
        waiting = [endpoint.ask(request("note", 0))]
        assert endpoint.tell(request("note", 1)).code == 200
        waiting.append(endpoint.ask(request("note", 2)))
        assert endpoint.tell(request("note", 3)).code == 200
        assert [(await one).body for one in waiting] == [b"0", b"2"]
        assert (await endpoint.ask(request("add", 1))).body == b"2"
        assert actor.seen == [0, 1, 2, 3]

    run(ask)


def test_a_tell_that_is_not_taken_is_counted_and_logged(caplog):
    async def ask(endpoint, actor, node):
        for body in (b"nonsense", request("ad"), request("count", 1), request("add", 1, deadline_s=1)):
            assert endpoint.tell(body).error
        await node.stop_actor("worker.3", StopReason.COMMANDED)
        assert endpoint.tell(request("note", 1)).code == 503
        return node.dropped_tells

    assert run(ask) == 5
    lines = [record.message for record in caplog.records if "dropped a tell of a stranger" in record.message]
    assert len(lines) == 5


def test_a_tell_with_wrong_arguments_is_counted_and_the_actor_lives():
    async def ask(endpoint, actor, node):
        assert endpoint.tell(request("add", "x")).code == 200
        assert (await endpoint.ask(request("add", 1))).code == 200
        return node.dropped_tells

    assert run(ask) == 1


@pytest.mark.parametrize("overflow", [Overflow.REJECT, Overflow.DROP_NEWEST])
def test_a_full_mailbox_is_429(overflow):
    async def ask(endpoint, actor, node):
        running = asyncio.ensure_future(endpoint.ask(request("wait")))
        await until(lambda: endpoint.waiting() == 1 and not endpoint.statistics()["mailbox"])
        queued = endpoint.ask(request("note", 1))
        refused = await endpoint.ask(request("note", 2))
        assert (refused.code, json.loads(refused.body)["error"]["executed"]) == (429, "never")
        assert endpoint.waiting() == 2
        actor.gate.set()
        assert [(await running).body, (await queued).body] == [b'"waited"', b"1"]

    run(ask, mailbox=MailboxPolicy(messages=1, overflow=overflow))


def test_where_senders_wait_for_room_a_stranger_waits_until_its_deadline():
    async def ask(endpoint, actor, node):
        running = asyncio.ensure_future(endpoint.ask(request("wait")))
        await until(lambda: endpoint.statistics()["running"] == 1)
        queued = endpoint.ask(request("note", 1))
        late = await endpoint.ask(request("note", 2, deadline_s=0.01))
        assert (late.code, json.loads(late.body)["error"]["executed"]) == (504, "never")
        patient = asyncio.ensure_future(endpoint.ask(request("note", 3)))
        await asyncio.sleep(0)
        actor.gate.set()
        assert [(await one).code for one in (running, queued, patient)] == [200, 200, 200]
        assert actor.seen == [1, 3]

    run(ask, mailbox=MailboxPolicy(messages=1, overflow=Overflow.BLOCK))


def test_a_stopped_actor_is_503_and_nothing_ran():
    async def ask(endpoint, actor, node):
        running = asyncio.ensure_future(endpoint.ask(request("wait")))
        await until(lambda: endpoint.statistics()["running"] == 1)
        queued = endpoint.ask(request("note", 1))
        await node.stop_actor("worker.3", StopReason.COMMANDED, grace_s=0)
        answers = [await running, await queued, await endpoint.ask(request("note", 2))]
        assert [answer.code for answer in answers] == [503, 503, 503]
        executed = [json.loads(answer.body)["error"]["executed"] for answer in answers]
        assert executed == ["yes", "never", "never"]
        assert actor.seen == []

    run(ask)


def test_a_request_goes_to_its_incarnation_though_the_directory_has_dropped_the_name():
    async def ask(endpoint, actor, node):
        node.remove_location("worker.3", 1, "it moves")
        return (await endpoint.ask(request("add", 1))).code

    assert run(ask) == 200


def test_who_stops_waiting_ends_the_handler():
    async def ask(endpoint, actor, node):
        task = asyncio.ensure_future(endpoint.ask(request("wait")))
        await until(lambda: endpoint.statistics()["running"] == 1)
        task.cancel()
        await asyncio.wait([task])
        await until(lambda: not endpoint.waiting())
        return len(node.pending)

    assert run(ask) == 0


def test_a_class_without_a_docstring_is_described_by_its_name_alone():
    async def ask(endpoint, actor, node):
        return endpoint.summary

    assert run(ask, Wide) == "Wide"


def test_an_endpoint_tells_people_what_it_is():
    async def ask(endpoint, actor, node):
        assert (endpoint.name, endpoint.component, endpoint.index) == ("worker.3", "worker", 3)
        assert endpoint.summary == "Worker: Works."
        assert endpoint.actor_class.endswith(":Worker")
        assert endpoint.methods["add"] == "(a: int, b: int = 1) -> int"
        assert "on_start" not in endpoint.methods

    run(ask)


def test_a_signature_is_spelt_as_it_is_written():
    def method(self, a: "list[int]", b: str = "it's", *, c: "Job | None" = None) -> "dict[str, int]":
        return {}

    expected = """(self, a: list[int], b: str = "it's", *, c: Job | None = None) -> dict[str, int]"""
    assert spelt(inspect.signature(method)) == expected


def test_many_handlers_count_as_waiting_while_they_run():
    async def ask(endpoint, actor, node):
        tasks = [asyncio.ensure_future(endpoint.ask(request("wait"))) for _ in range(5)]
        await until(lambda: endpoint.statistics()["running"] == 5)
        assert endpoint.waiting() == 5
        actor.gate.set()
        assert {(await task).code for task in tasks} == {200}

    run(ask, Wide)


@dataclasses.dataclass
class Order:
    id: int
    name: str = "none"


def test_a_dataclass_made_of_json_is_answered_with_its_defaults_too():
    order = msgspec.convert({"id": 1}, Order)
    assert result([{"it": order}]).body == b'[{"it":{"id":1,"name":"none"}}]'
