"""What a class says about its own arguments (``check_args``) is reported like every other mistake of a config."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from callboard.actors.signature import methods_of
from callboard.serving import Router, Worker
from callboard.serving.scheduling.settings import RouterSettings
from callboard.supervisor.config import parse
from callboard.transports.errors import ConfigError

Problems = Callable[[str], list[str]]

ACTORS = """
from typing import Any, Optional
from callboard.actors.actor import Actor
from callboard.actors.ref import Ref
from callboard.transports.errors import ConfigError

class Picky(Actor):
    def __init__(self, low: int, high: int = 9, *, other: Ref | None = None, size: Optional[int] = None) -> None:
        raise AssertionError("it is not constructed")

    @classmethod
    def check_args(cls, low, high=9, **others):
        problems = [f"low is {low}; above high"] if low > high else []
        problems += [f"{name} is {value!r}" for name, value in others.items()]
        if problems:
            raise ConfigError(problems)

class Child(Picky):
    pass

class OwnWay(Picky):
    def __init__(self, colour: str) -> None: ...

class Broken(Actor):
    def __init__(self, x: int = 0) -> None: ...
    @classmethod
    def check_args(cls, **args):
        raise OSError("two\\nlines")

class Ending(Broken):
    @classmethod
    def check_args(cls, **args):
        raise SystemExit(3)

class Awaited(Broken):
    @classmethod
    async def check_args(cls, **args): ...

class Narrow(Broken):
    @classmethod
    def check_args(cls, y): ...

class Changing(Actor):
    def __init__(self, table: dict) -> None: ...
    @classmethod
    def check_args(cls, table):
        table.clear()

class Message(Actor):
    def check_args(self, **args): ...
"""


@pytest.fixture
def problems_of(tmp_path: Path) -> Problems:
    (tmp_path / "picky_actors.py").write_text(ACTORS)

    def run(text: str) -> list[str]:
        try:
            parse(text, file=tmp_path / "c.toml", environ={})
        except ConfigError as error:
            return [line.rpartition("c.toml:")[2] for line in error.problems]
        return []

    return run


def _assert_named(problems: list[str], expected: list[str]) -> None:
    assert len(problems) == len(expected), problems
    for what in expected:
        assert any(what in problem for problem in problems), (what, problems)


@pytest.mark.parametrize(
    ("actor", "expected"),
    [
        ('Picky"\nargs = { low = 3 }', []),
        ('Picky"\nargs = [3, 4]', []),
        ('Picky"\nargs = { low = 3, high = 2 }', ["3  actor.a.args.low: low is 3; above high"]),
        ('Picky"\nargs = [3, 2]', ["3  actor.a.args: low is 3; above high"]),
        ('Child"\n[actor.a.args]\nhigh = 2\nlow = 3', ["5  actor.a.args.low: low is 3; above high"]),
        # what the signature refuses is left out: the rest is checked all the same
        (
            'Picky"\nargs = { low = 30, high = "x", size = 5 }',
            ['high: takes an integer, not "x"', "low is 30", "args.size: size is 5"],
        ),
        (
            'Picky"\nargs = { low = "x", color = 1 }',
            ['takes an integer, not "x"', 'Picky has no argument "color"'],
        ),
        ('Picky"\nargs = { high = 1 }', ['Picky needs the argument "low"']),
        (
            'Picky"\nargs = { low = 1, other = "b" }',
            ['args.other: takes a reference, { ref = "b" }, not "b"'],
        ),
        ('Picky"\nargs = { low = 1, size = "b" }', ['args.size: takes an integer, not "b"']),
        ('Picky"\nargs = { low = 1, other = { ref = "b" } }', ["args.other: other is {'ref': 'b'}"]),
        ('OwnWay"\nargs = { colour = "red" }', []),
        ('Broken"', ["actor.a.args: Broken.check_args failed: OSError: two lines"]),
        ('Ending"', ["actor.a.args: Ending.check_args failed: SystemExit: 3"]),
        ('Awaited"', ["Awaited.check_args is async"]),
        ('Narrow"\nargs = { x = 1 }', ["Narrow.check_args does not take these arguments: missing"]),
        ('Message"', []),
        # a table that lost a line to the syntax may look wrong without being so
        ('Broken"\nrestart = nonsense', ["not TOML"]),
    ],
)
def test_what_a_class_says_of_its_arguments_is_reported(
    problems_of: Problems, actor: str, expected: list[str]
) -> None:
    text = f'[actor.a]\nclass = "picky_actors:{actor}\n[actor.b]\nclass = "picky_actors:Message"\n'
    _assert_named(problems_of(text), expected)


def test_a_check_cannot_change_what_the_actor_gets(tmp_path: Path) -> None:
    (tmp_path / "picky_actors.py").write_text(ACTORS)
    text = '[actor.a]\nclass = "picky_actors:Changing"\nargs = { table = { x = 1 } }\n'
    config = parse(text, file=tmp_path / "c.toml", environ={})
    assert config.actors[0].kwargs == {"table": {"x": 1}}


def test_the_check_is_no_message() -> None:
    assert "check_args" not in methods_of(Worker)
    assert "check_args" not in methods_of(Router)


# -- serving

SERVE = (Path(__file__).parents[2] / "examples/serving/serve.toml").read_text()
BASE = SERVE.replace('mode = "least-loaded"', 'mode = "kv"')
ROUTER, FRONTEND = 'mode = "kv", ', "port = 8000, "
ENGINE = '{ kind = "simulated", model = "simulated", first_token_ms = 20, per_token_ms = 5 }'
WORKER = "args = { engine = "


def test_the_example_is_right(problems_of: Problems) -> None:
    assert problems_of(SERVE) == problems_of(BASE) == []
    for part in (ROUTER, FRONTEND, WORKER + ENGINE):
        assert BASE.count(part) == 1


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (ROUTER, 'mode = "kvv", ', ['actor.router.args.mode: mode is "kvv"; it must be one of round-robin, ']),
        (
            ROUTER,
            'mode = "kv", temperature = -1, queue_policy = "lifo", ttl_s = "60", overlap_score_weight = 2, ',
            [
                "router.args.temperature: temperature is -1; it must be a number, 0 or above",
                'router.args.queue_policy: queue_policy is "lifo"; it must be one of fcfs, wspt',
                "router.args.ttl_s: ttl_s is '60'; it must be a number",
                "unknown key 'overlap_score_weight' of the router; keys are: mode, ",
            ],
        ),
        (ROUTER, 'use_kv_events = "no", ', ["use_kv_events is 'no'; it must be true or false, without quotes"]),
        (ROUTER, "replica_sync = 0, ", ["replica_sync is 0; it must be true or false"]),
        (
            ROUTER,
            'mode = "kvv", prefill = "worker", ',
            ['router.args.prefill: takes a reference, { ref = "worker" }, not "worker"', 'mode is "kvv"'],
        ),
        (ROUTER, 'prefill = { ref = "worker" }, ', []),
        ('kind = "simulated"', 'kind = "simulatd"', ["engine.kind is 'simulatd'; engines are: simulated, openai"]),
        (ENGINE, '"simulated"', ["worker.args.engine: engine is 'simulated'; it must be a table, such as { kind"]),
        (ENGINE, '{ kind = "nowhere:E" }', ["engine.kind is 'nowhere:E', which cannot be loaded: ModuleNotFoundError"]),
        (ENGINE, "{ kind = 3 }", ["engine.kind is missing"]),
        (
            ENGINE,
            '{ kind = "openai", url = "x", model = 3, stall_s = nan }',
            ["engine.stall_s is nan", 'engine.url is "x"', "engine.model is 3"],
        ),
        (ENGINE, '{ kind = "transformers", path = 3, model = "x" }', ["engine.path is"]),
        (
            ENGINE,
            '{ kind = "simulated", blocks = -1, block = 3 }',
            ["worker.args.engine.blocks: engine.blocks is -1; it must be a whole number", "unknown key 'block' of"],
        ),
        (
            ENGINE,
            '{ kind = "simulated", blocks = 9, first_token_ms = "x", kv_events = "no" }',
            ["engine.first_token_ms is 'x'", "engine.kv_events is 'no'"],
        ),
        (
            ENGINE,
            ENGINE + ', canary = { stall_s = -1, on_stall = "reboot" }',
            ["args.canary.stall_s: canary.stall_s is -1", 'args.canary.on_stall: canary.on_stall is "reboot"'],
        ),
        (ENGINE, ENGINE + ", canary = 3", ["worker.args.canary: canary is 3; it must be a table, such as"]),
        (ENGINE, ENGINE + ", canary = false", ["canary is False; it must be a table"]),
        (ENGINE, ENGINE + ", canary = {}, kv_events = {}", []),
        (ENGINE, ENGINE + ', kv_events = { source = "zmk" }', ["kv_events.source is 'zmk'; it must be one of zmq, "]),
        (ENGINE, ENGINE + ", kv_events = { source = [] }", ["kv_events.source is []"]),
        (ENGINE, ENGINE + ", kv_events = true", ["kv_events is True; it must be a table"]),
        (ENGINE, ENGINE + ', kv_events = { source = "zmq", topic = 3 }', ["kv_events needs the key 'endpoint'"]),
        (
            ENGINE,
            '{ kind = "simulated", seed = "x", tokenizer = 3, transfer_gb_per_s = nan }',
            ["engine.seed is 'x'", "engine.tokenizer is 3", "engine.transfer_gb_per_s is nan"],
        ),
        (
            ENGINE,
            ENGINE + ', kv_events = { source = "zmq", endpoint = 0, replay = false }',
            ['args.kv_events.endpoint: kv_events.endpoint is "0"', 'kv_events.replay is "False"'],
        ),
        # all three tables in one run
        (
            ENGINE,
            '{ kind = "simulated", blocks = -1 }, canary = { stall_s = -1 }, kv_events = { source = "zmk" }',
            ["engine.blocks is -1", "canary.stall_s is -1", "kv_events.source is 'zmk'"],
        ),
        (FRONTEND, "port = 99999, ", ["frontend.args.port: port is 99999; it must be from 0 (a free one) to 65535"]),
        (
            FRONTEND,
            'port = "x", host = "0.0.0.0", max_requests = 0, ',
            ['port: takes an integer, not "x"', 'host is "0.0.0.0", which is not loopback', "max_requests is 0"],
        ),
    ],
)  # fmt: skip
def test_a_mistake_in_the_options_of_serving_is_named(
    problems_of: Problems, old: str, new: str, expected: list[str]
) -> None:
    _assert_named(problems_of(BASE.replace(old, new)), expected)


def test_the_key_of_a_server_is_looked_for_in_the_environment_of_the_worker(problems_of: Problems) -> None:
    engine = '{ kind = "openai", url = "http://127.0.0.1:1", model = "m", api_key_env = "KEY_OF_NOBODY" }'
    assert problems_of(BASE.replace(ENGINE, engine)) == []


@pytest.mark.parametrize("value", ["no", 0, 1.0, None])
def test_a_switch_of_the_router_is_true_or_false(value: object) -> None:
    with pytest.raises(ConfigError, match=r"use_kv_events is .* true or false"):
        RouterSettings(use_kv_events=value)  # type: ignore[arg-type]
