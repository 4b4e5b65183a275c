"""What the service protocol of NATS is told, against the classes of nats-py and the published schema's rules."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import _validate_subject
from nats.micro.service import NAME_REGEX, SEMVER_REGEX, ServiceInfo, ServicePing, ServiceStats

from callboard.transports.base import Answer, Endpoint, Identity
from callboard.transports.nats_endpoints import Sharers
from callboard.transports.nats_service import (
    CODE_HEADER,
    ERROR_HEADER,
    LONGEST_ERROR,
    Service,
    Tally,
    error_headers,
    our_version,
    semantic,
    service_name,
)
from callboard.transports.nats_subjects import Subjects

NAMES = st.text(st.characters()) | st.text("a_.2EF5*> \r\n-\ud800é", max_size=6)
REQUIRED = {
    "PING": {"type", "name", "id", "version", "metadata"},
    "INFO": {"type", "name", "id", "version", "metadata", "description", "endpoints"},
    "STATS": {"type", "name", "id", "version", "metadata", "started", "endpoints"},
}
REQUIRED_OF_ENDPOINTS = {
    "INFO": {"name", "subject", "queue_group", "metadata"},
    "STATS": {
        "name", "subject", "queue_group", "num_requests", "num_errors", "last_error", "processing_time",
        "average_processing_time", "data",
    },
}  # fmt: skip
RFC_3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z")


async def nothing(body):
    return Answer(body=body)


def endpoint(component="worker", index=3, waiting=0, summary="Worker: works", statistics=None):
    return Endpoint(
        name=f"{component}.{index}",
        component=component,
        index=index,
        incarnation=2,
        actor_class="module:Worker",
        summary=summary,
        methods={"load": "(a: int) -> str"},
        statistics=lambda: statistics or {"mailbox": 4, "handled": 5, "state": "ready"},
        waiting=lambda: waiting,
        ask=nothing,
        tell=lambda body: Answer(body=body),
    )


def service(component="worker", **options):
    identity = Identity(node="n-1-2", name="engine.0", namespace="ns", pid=7)
    return Service(endpoint(component, **options), identity, Subjects("callboard", "ns"), "abc123")


def check(verb, facts):
    """What the published schemas say of a reply."""
    assert facts.keys() == REQUIRED[verb]
    assert facts["type"] == f"io.nats.micro.v1.{verb.lower()}_response"
    assert re.fullmatch("[a-zA-Z0-9_-]+", facts["name"])
    assert facts["id"]
    assert SEMVER_REGEX.match(facts["version"])
    assert all(isinstance(value, str) for value in facts["metadata"].values())
    if verb == "STATS":
        assert RFC_3339.fullmatch(facts["started"])
    if verb == "INFO":
        assert isinstance(facts["description"], str)
    for place in facts.get("endpoints", ()):
        assert place.keys() == REQUIRED_OF_ENDPOINTS[verb]
        assert re.fullmatch("[a-zA-Z0-9_-]+", place["name"])
        assert place["subject"]
        if verb == "STATS":
            assert isinstance(place["last_error"], str)
            assert isinstance(place["data"], dict)
            for name in ("num_requests", "num_errors", "processing_time", "average_processing_time"):
                assert type(place[name]) is int
        else:
            assert all(isinstance(value, str) for value in place["metadata"].values())


@pytest.mark.parametrize(
    ("verb", "parser"), [("PING", ServicePing), ("INFO", ServiceInfo), ("STATS", ServiceStats)]
)
@pytest.mark.parametrize("component", ["worker", "a.b *>\r\n", "", "\ud800"])
def test_every_reply_fits_the_schema_and_the_classes_of_nats_py(verb, parser, component):
    facts = json.loads(service(component, summary="odd \ud800").reply(f"$SRV.{verb}"))
    check(verb, facts)
    parsed = parser.from_dict(facts)
    assert (parsed.name, parsed.id, parsed.version) == (service_name(component), "abc123", our_version())


def test_a_reply_says_which_actor_it_is_of_and_where_it_is_reached():
    info = json.loads(service().reply("$SRV.INFO.worker"))
    assert info["metadata"] == {
        "namespace": "ns",
        "component": "worker",
        "actor": "worker.3",
        "incarnation": "2",
        "class": "module:Worker",
        "process": "engine.0",
        "node": "n-1-2",
        "pid": "7",
    }
    methods = {"load": "(a: int) -> str"}
    assert info["endpoints"] == [
        {"name": "instance", "subject": "callboard.ns.worker.3", "queue_group": "", "metadata": methods},
        {"name": "component", "subject": "callboard.ns.worker", "queue_group": "worker", "metadata": methods},
    ]


def test_statistics_are_those_of_each_subject_and_the_actor_s_own_as_data():
    made = service()
    made.by_instance.tally.count(1_000, "")
    made.by_instance.tally.count(2_001, "Bad: thing")
    instance, component = json.loads(made.reply("$SRV.STATS"))["endpoints"]
    assert (instance["num_requests"], instance["num_errors"], instance["last_error"]) == (2, 1, "Bad: thing")
    assert (instance["processing_time"], instance["average_processing_time"]) == (3_001, 1_500)
    assert (component["num_requests"], component["average_processing_time"], component["last_error"]) == (
        0,
        0,
        "",
    )
    assert instance["data"] == component["data"] == {"mailbox": 4, "handled": 5, "state": "ready"}


@pytest.mark.parametrize("subject", ["$SRV.SCHEMA", "$SRV.ping", "$SRV", "$SRV.PINGS.worker"])
def test_another_verb_has_no_reply(subject):
    assert service().reply(subject) is None


@given(NAMES)
def test_the_name_of_a_service_is_one_that_the_protocol_takes(component):
    assert NAME_REGEX.match(service_name(component))
    for subject in service(component).control_subjects:
        _validate_subject(subject)


@given(NAMES, NAMES)
def test_different_components_are_different_services(one, other):
    assert (service_name(one) == service_name(other)) == (one == other)


def test_a_usual_name_stays_as_it_is():
    assert [service_name(name) for name in ("worker", "my_worker-2", "_x")] == ["worker", "my_worker-2", "_x"]


@given(st.text("0123456789.abrcdevpost+-", max_size=12) | st.text())
def test_every_version_becomes_a_semantic_one(version):
    assert SEMVER_REGEX.fullmatch(semantic(version))


@given(st.text(st.characters()))
def test_an_error_in_a_header_is_one_line_of_printable_ascii(error):
    headers = error_headers(503, error)
    assert headers.keys() == {ERROR_HEADER, CODE_HEADER}
    assert int(headers[CODE_HEADER]) == 503
    line = headers[ERROR_HEADER]
    assert line.isascii()
    assert line == "" or line.isprintable()
    assert len(line) <= LONGEST_ERROR


def test_a_tally_keeps_no_error_that_fills_the_memory():
    tally = Tally()
    tally.count(1, "x" * 1_000_000)
    assert len(tally.last_error) == LONGEST_ERROR


def sharers(*waiting):
    made = Sharers()
    made.members = [
        type("Member", (), {"endpoint": endpoint(index=i, waiting=n)})() for i, n in enumerate(waiting)
    ]
    return made


def picks(made, times):
    return [made.pick().endpoint.index for _ in range(times)]


def test_a_request_goes_to_whom_the_fewest_wait_for():
    assert picks(sharers(3, 1, 2), 4) == [1, 1, 1, 1]


def test_those_who_are_equal_take_turns():
    assert sorted(picks(sharers(0, 0, 0), 6)) == [0, 0, 1, 1, 2, 2]
    assert sorted(picks(sharers(2, 0, 0), 4)) == [1, 1, 2, 2]
