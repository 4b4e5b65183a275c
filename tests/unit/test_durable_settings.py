"""What a config may say of durable tells, what it means, and how a time is written on the command line."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from callboard.actors import durable
from callboard.actors.errors import DecodeError
from callboard.supervisor.cli_replay import namespace_of, summary
from callboard.supervisor.config import parse
from callboard.supervisor.replaying import moment
from callboard.supervisor.schema import config_schema
from callboard.supervisor.spec import Config
from callboard.transports.durable import DurablePolicy
from callboard.transports.errors import ConfigError, NotStored, StoredTooLarge
from callboard.transports.nats_subjects import Subjects

ACTOR = '[actor.a]\nclass = "callboard:Actor"\n'
NATS = 'request_plane = "nats"\n'
Parse = Callable[..., Config]


@pytest.fixture
def config_of(tmp_path: Path) -> Parse:
    def run(text: str, **options: object) -> Config:
        return parse(text, file=tmp_path / "c.toml", **{"environ": {}, **options})  # type: ignore[arg-type]

    return run


def problems(config_of: Parse, text: str, **options: object) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        config_of(text, **options)
    return [line.rpartition("c.toml:")[2] for line in caught.value.problems]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", None),
        ("durable = false", None),
        ("durable = true", DurablePolicy()),
        (
            "durable = { max_age_s = 3600, max_bytes = '1MiB', max_deliver = 2, ack_wait_s = 5, backoff_s = [1, 2],"
            " duplicate_window_s = 60 }",
            DurablePolicy(
                max_age_s=3600,
                max_bytes=1024 * 1024,
                max_deliver=2,
                ack_wait_s=5,
                backoff_s=(1.0, 2.0),
                duplicate_window_s=60,
            ),
        ),
        ("durable = { backoff_s = 3 }", DurablePolicy(backoff_s=(3.0,))),
        ("[actor.a.durable]\nmax_deliver = 9", DurablePolicy(max_deliver=9)),
    ],
)
def test_a_config_says_whether_and_how_tells_are_stored(
    config_of: Parse, text: str, expected: DurablePolicy | None
) -> None:
    assert config_of(NATS + ACTOR + text).actors[0].durable == expected


def test_every_mistake_of_the_table_is_named_at_its_line(config_of: Parse) -> None:
    text = """[actor.a.durable]
max_delivery = 3
max_deliver = 0
ack_wait_s = "soon"
backoff_s = [1, -1]
"""
    assert problems(config_of, NATS + ACTOR + text) == [
        '5  actor.a.durable: unknown key "max_delivery"; did you mean "max_deliver"?',
        "6  actor.a.durable.max_deliver: takes an integer of at least 1, not 0",
        '7  actor.a.durable.ack_wait_s: takes a number of seconds above 0, not "soon"',
        "8  actor.a.durable.backoff_s: takes an array of waits in seconds, such as [1, 5, 30], not [1, -1]",
    ]
    assert problems(config_of, NATS + ACTOR + "durable = { ack_wait_s = 0.01, max_age_s = 60 }") == [
        "4  actor.a.durable.ack_wait_s: durable.ack_wait_s is 0.01; it must be at least 0.1",
        "4  actor.a.durable.duplicate_window_s: durable.duplicate_window_s is 120; it must not exceed max_age_s (60)",
    ]
    assert problems(config_of, NATS + ACTOR + 'durable = "yes"') == [
        '4  actor.a.durable: takes true, false or a table, not "yes"'
    ]


@pytest.mark.parametrize(
    "options", [{}, {"environ": {"DYN_REQUEST_PLANE": "tcp"}}, {"plane": "tcp"}, {"plane": "ipc"}]
)
def test_a_plane_that_stores_nothing_is_refused_at_the_actor_wherever_it_comes_from(
    config_of: Parse, options: dict[str, object]
) -> None:
    plane = options.get("plane", "tcp")
    text = ("" if not options else NATS) + ACTOR + "durable = true"
    (line,) = problems(config_of, text, **options)
    assert f"actor.a.durable: needs the nats request plane, and it is {plane}; set request_plane" in line


@pytest.mark.parametrize("options", [{"environ": {"DYN_REQUEST_PLANE": "nats"}}, {"plane": "nats"}])
def test_environment_and_flag_may_give_the_plane_that_a_durable_actor_needs(
    config_of: Parse, options: dict[str, object]
) -> None:
    assert config_of(ACTOR + "durable = true", **options).actors[0].durable is not None


def test_a_mistake_in_the_network_makes_no_other_at_the_durable_actor(config_of: Parse) -> None:
    (line,) = problems(config_of, NATS + ACTOR + "durable = true\n[network]\npool_size = 0\n")
    assert "pool_size" in line


def test_the_schema_knows_the_table() -> None:
    actor = next(iter(config_schema()["properties"]["actor"]["patternProperties"].values()))
    flag, table = actor["properties"]["durable"]["anyOf"]
    assert flag == {"type": "boolean"}
    assert set(table["properties"]) == set(DurablePolicy().to_wire())


def test_a_policy_travels_and_its_backoff_repeats_the_last() -> None:
    policy = DurablePolicy(backoff_s=(1, 5), max_bytes=7)
    wire = msgspec.msgpack.decode(msgspec.msgpack.encode(policy.to_wire()))
    assert DurablePolicy.from_wire(wire | {"later": 1}) == policy
    assert [policy.backoff(count) for count in (1, 2, 3, 9)] == [1.0, 5.0, 5.0, 5.0]
    assert DurablePolicy(backoff_s=()).backoff(1) == 0.0


def test_a_policy_reports_every_mistake_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        DurablePolicy(max_deliver=0, ack_wait_s=0, max_bytes=-1, backoff_s=(-1,), max_age_s=float("inf"))
    assert len(caught.value.problems) == 5


def test_streams_of_different_components_never_share_a_name() -> None:
    names = {
        Subjects(prefix, namespace).stream(component)
        for prefix, namespace, component in [
            ("a", "b", "c"), ("a-b", "c", "d"), ("a", "b-c", "d"),
            ("a", "b", "c-d"), ("a", "b=2Dc", "d"), ("a", "b.c", "d"),
        ]
    }  # fmt: skip
    assert len(names) == 6
    assert not any(set(name) & set(" .*>/\\") for name in names)


def test_what_is_stored_has_one_form() -> None:
    payload = bytes.fromhex("94 01 a4 776f726b 92 01 a1 78 91 c4 02 7879")
    tell = durable.decode(payload)
    assert (tell.version, tell.method, bytes(tell.body), tell.buffers) == (
        1,
        "work",
        b"\x92\x01\xa1x",
        [b"xy"],
    )
    assert durable.decode(payload.replace(b"\x94", b"\x95", 1) + b"\xc0").method == "work"  # a field of later
    with pytest.raises(DecodeError, match="version 2; this process reads version 1"):
        durable.decode(payload.replace(b"\x01", b"\x02", 1))
    for nonsense in (b"", b"\x90", b"\xc1", b"{}", payload[:-3], b"\x91" * 5000):
        with pytest.raises(DecodeError):
            durable.decode(nonsense)


def test_errors_of_the_store_survive_pickling_and_name_both_numbers() -> None:
    error = pickle.loads(pickle.dumps(StoredTooLarge(2_000_000, 1_048_576, "max_payload")))
    assert "2,000,000 bytes exceeds the limit of 1,048,576 bytes" in str(error)
    assert pickle.loads(pickle.dumps(NotStored("worker", "full", True))).maybe is True
    assert "was perhaps not stored" in str(NotStored("worker", "?", True))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("30s", 9970.0),
        ("1.5m", 9910.0),
        ("2h", 2800.0),
        ("1970-01-01T00:00:05+00:00", 5.0),
        ("1970-01-02T00:00:00Z", 86400.0),
    ],
)
def test_a_time_is_absolute_or_so_long_ago(text: str, expected: float) -> None:
    assert moment(text, 10_000.0) == expected


@pytest.mark.parametrize("text", ["", "yesterday", "5", "5 minutes", "2026-13-01", "-5m", True, b"2h"])
def test_what_is_no_time_is_refused_with_examples(text: Any) -> None:
    with pytest.raises(ConfigError, match="2026-01-31T12:00:00"):
        moment(text, 0.0)


def test_a_script_may_give_a_time_as_it_has_it() -> None:
    assert (moment(datetime.fromtimestamp(7), 0.0), moment(7, 0.0)) == (7.0, 7.0)


def test_a_system_is_named_by_its_file_or_its_namespace(tmp_path: Path) -> None:
    file = tmp_path / "ours.toml"
    file.write_text('namespace = "ours"\n' + ACTOR)
    assert (namespace_of(str(file)), namespace_of("theirs")) == ("ours", "theirs")
    with pytest.raises(ConfigError, match="no such file"):
        namespace_of("missing.toml")


def test_an_empty_log_is_said_to_be_one() -> None:
    from callboard.actors.replay import Replay

    assert summary(Replay("worker", 1, 0)).endswith("(nothing is stored there): 0 ok, 0 failed")
