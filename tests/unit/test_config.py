"""The config loader: what a good file means, and that every mistake in a bad one is named at its line."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from callboard.actors.policy import Overflow
from callboard.supervisor.config import load, parse
from callboard.supervisor.spec import Config, EventPlane, RestartKind
from callboard.transports.errors import ConfigError

ACTORS = """
from callboard.actors.actor import Actor
from callboard.actors.ref import Ref

class Frontend(Actor):
    def __init__(self, router: Ref, port: int = 8000) -> None: ...

class Router(Actor):
    def __init__(self, workers: Ref, *, mode: str = "round-robin", weight: float = 1.0) -> None: ...

class Worker(Actor):
    def __init__(self, model: str, size: int = 1) -> None: ...

class Plain(Actor):
    pass

class Anything(Actor):
    def __init__(self, *args, **kwargs) -> None: ...

class NotAnActor:
    pass

class Idle(Actor):
    concurrency = 0

class Sync(Actor):
    def on_start(self) -> None: ...
"""

GOOD = """
namespace = "demo"
request_plane = "tcp"
event_plane = "none"

[actor.frontend]
class = "config_actors:Frontend"
args = { port = 0, router = { ref = "router" } }

[actor.router]
class = "config_actors:Router"
args = { workers = { ref = "worker" }, mode = "x", weight = 2 }

[actor.worker]
class = "config_actors:Worker"
replicas = 4
args = ["tiny"]
mailbox = { messages = 1000, bytes = "64MiB", overflow = "block" }
restart = { policy = "transient", max_restarts = 3, window_s = 30, backoff_s = [0.5, 5] }

[process.web]
actors = ["frontend", "router"]

[process.engine]
actors = ["worker"]
count = 2
env = { CUDA_VISIBLE_DEVICES = "{index}", WHERE = "{namespace}", N = 3 }

[network]
max_message_bytes = "16MiB"
request_timeout_s = 3

[supervisor]
stop_grace_s = 2
"""

Parse = Callable[..., Config]


@pytest.fixture
def config_of(tmp_path: Path) -> Parse:
    (tmp_path / "config_actors.py").write_text(ACTORS)

    def run(text: str, **options: object) -> Config:
        text = textwrap.dedent(text).lstrip("\n")
        return parse(text, file=tmp_path / "c.toml", **{"environ": {}, **options})  # type: ignore[arg-type]

    return run


@pytest.fixture
def problems_of(config_of: Parse) -> Callable[..., list[str]]:
    def run(text: str, **options: object) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            config_of(text, **options)
        return [line.rpartition("c.toml:")[2] for line in caught.value.problems]

    return run


Problems = Callable[..., list[str]]


def test_a_good_file_says_everything(config_of: Parse) -> None:
    config = config_of(GOOD)
    frontend, _, worker = config.actors
    assert (config.namespace, config.event_plane) == ("demo", EventPlane.NONE)
    assert frontend.references() == ["router"]
    assert (worker.args, worker.replicas) == (("tiny",), 4)
    assert worker.mailbox is not None
    assert (worker.mailbox.bytes, worker.mailbox.overflow) == (64 * 1024 * 1024, Overflow.BLOCK)
    assert (worker.restart.policy, worker.restart.backoff_s) == (RestartKind.TRANSIENT, (0.5, 5.0))
    assert config.network.max_message_bytes == 16 * 1024 * 1024
    assert config.limits.stop_grace_s == 2
    assert config.processes[1].env == {"CUDA_VISIBLE_DEVICES": "{index}", "WHERE": "{namespace}", "N": "3"}


def test_modules_beside_the_file_are_found_and_forgotten(config_of: Parse) -> None:
    before = list(sys.path)
    config_of(GOOD)
    assert sys.path == before
    assert "config_actors" not in sys.modules


TEN_MISTAKES = """\
namespace = "de mo"
request_plane = "tpc"
colour = "red"

[actor.frontend]
class = "config_actors:Frontent"
replica = 2

[actor.router]
class = "config_actors:Router"
args = { workers = { ref = "wroker" }, moode = "x" }
replicas = "two"

[actor.worker]
class = "config_actors:Worker"
mailbox = { bytes = "64 parsecs" }
restart = { policy = "sometimes" }

[process.web]
actors = ["frontend", "router", "cache"]

[process.engine]
actors = ["worker", "router"]
count = 9
env = { GPU = "{indx}" }

[network]
host = "0.0.0.0"
"""


def test_every_mistake_of_a_file_is_named_at_its_line_in_order(problems_of: Problems) -> None:
    problems = problems_of(TEN_MISTAKES)
    expected = [
        ("1 ", 'namespace: takes a name, not "de mo"'),
        ("2 ", 'request_plane: invalid request plane mode "tpc"'),
        ("3 ", 'unknown key "colour"'),
        ("6 ", 'actor.frontend.class: "config_actors" has no class "Frontent"; did you mean "Frontend"?'),
        ("7 ", 'actor.frontend: unknown key "replica"; did you mean "replicas"?'),
        ("11 ", 'args.moode: Router has no argument "moode"; it takes: workers, mode, weight; did you mean'),
        ("11 ", 'args.workers: refers to "wroker"; actors are: frontend, router, worker; did you mean'),
        ("12 ", 'actor.router.replicas: takes an integer of at least 1, not "two"'),
        ("14 ", 'actor.worker.args: Worker needs the argument "model"'),
        ("16 ", 'actor.worker.mailbox.bytes: takes a number of bytes, such as 65536 or "64MiB", not "64 '),
        ("17 ", "actor.worker.restart.policy: takes one of permanent, transient, temporary"),
        ("20 ", 'process.web.actors[2]: there is no actor "cache"'),
        ("23 ", 'process.engine.actors[1]: actor "router" is in process.web already'),
        ("24 ", "process.engine.count: 9 processes for 1 replicas of worker, router"),
        ("25 ", "process.engine.env.GPU: unknown placeholder {indx}; known: {index}, {namespace}; did"),
        ("28 ", "network.host: "),
    ]  # fmt: skip
    assert len(problems) == len(expected), "\n".join(problems)
    for problem, (line, what) in zip(problems, expected, strict=True):
        assert problem.startswith(line), (problem, line)
        assert what in problem


def test_the_file_name_and_the_columns_are_as_documented(config_of: Parse, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        config_of('x = 1\n\n\n\n\n\n\n\n\n[actor.a]\nclass = "config_actors:Plain"\nreplica = 1\n')
    file = tmp_path / "c.toml"
    assert caught.value.problems == (
        f'{file}:1   unknown key "x"; known: namespace, request_plane, event_plane, actor, process, network,'
        " supervisor",
        f'{file}:12  actor.a: unknown key "replica"; did you mean "replicas"?',
    )


@pytest.mark.parametrize(
    ("actor", "expected"),
    [
        ('class = "nowhere_at_all:Thing"', 'cannot import "nowhere_at_all": ModuleNotFoundError'),
        ('class = "config_actors:NotAnActor"', '"config_actors:NotAnActor" is not an actor'),
        ('class = "config_actors:Idle"', "Idle.concurrency is 0; it must be a whole number above 0"),
        (
            'class = "config_actors:Sync"',
            "Sync.on_start is a plain method; a hook is awaited: async def on_start",
        ),
        ('class = "config_actors"', 'takes a class as "module:Class", not "config_actors"'),
        ("replicas = 1", "has no class"),
        ('class = "config_actors:Worker"\nargs = ["m", 1, 2]', "3 arguments, Worker takes 2: model, size"),
        (
            'class = "config_actors:Worker"\nargs = { model = "m", size = "big" }',
            'takes an integer, not "big"',
        ),
        (
            'class = "config_actors:Worker"\nargs = { model = { ref = "a" } }',
            "takes a string, not a reference",
        ),
        (
            'class = "config_actors:Router"\nargs = { workers = "a" }',
            'takes a reference, { ref = "a" }, not "a"',
        ),
        ('class = "config_actors:Anything"\nargs = { x = { ref = 3 } }', "takes the name of an actor, not 3"),
        ('class = "config_actors:Anything"\nargs = { x = [{ ref = "a.1" }] }', 'the last instance is "a.0"'),
        ('class = "config_actors:Anything"\nargs = 3', "takes a table of arguments by name"),
        ('class = "config_actors:Plain"\nmailbox = 3', "takes a table, not 3"),
        (
            'class = "config_actors:Plain"\nmailbox = { messages = 0 }',
            "takes an integer of at least 1, not 0",
        ),
        (
            'class = "config_actors:Plain"\nrestart = { backoff_s = [5, 1] }',
            "the shortest and the longest wait",
        ),
        (
            'class = "config_actors:Plain"\nrestart = { window_s = true }',
            "a number of seconds above 0, not true",
        ),
    ],
)
def test_a_mistake_of_an_actor_is_named(problems_of: Problems, actor: str, expected: str) -> None:
    problems = problems_of(f"[actor.a]\n{actor}\n")
    assert len(problems) == 1, problems
    assert expected in problems[0]


PLAIN = '[actor.a]\nclass = "config_actors:Plain"\n'


@pytest.mark.parametrize(
    ("rest", "expected"),
    [
        ('[process.p]\nactors = ["a", "a"]', 'actor "a" is twice'),
        ("[process.p]\ncount = 1", "has no actors"),
        ("[process.p]\nactors = []", "has no actors"),
        ('[process.a]\nactors = ["b"]\n[actor.b]\nclass = "config_actors:Plain"', "has the name of actor.a"),
        ('[process."p q"]\nactors = ["a"]', '"p q" is no name'),
        ('[process.p]\nactors = ["a"]\nenv = { A = [1] }', "takes a string or a number for A"),
        ("[network]\nport = 123456", "network.port: "),
        ("[network]\nprot = 1", 'unknown key "prot"; did you mean "port"?'),
        ("process = 3", "takes tables, such as [process.name]"),
        ('[supervisor]\nstrategy = "one-for-all"', "takes one of one-for-one"),
        ('[supervisor]\nstrateg = "one-for-one"', 'unknown key "strateg"; did you mean "strategy"?'),
    ],
)
def test_a_mistake_around_actors_is_named(problems_of: Problems, rest: str, expected: str) -> None:
    text = f"{rest}\n{PLAIN}" if rest.startswith("process =") else f"{PLAIN}{rest}\n"
    problems = problems_of(text)
    assert len(problems) == 1, problems
    assert expected in problems[0]


def test_a_cycle_of_references_is_named_with_its_way(problems_of: Problems) -> None:
    problems = problems_of(
        """
        [actor.a]
        class = "config_actors:Anything"
        args = { next = { ref = "b" } }
        [actor.b]
        class = "config_actors:Anything"
        args = { next = [[{ ref = "a.0" }]], self = { ref = "b" } }
        """
    )
    assert len(problems) == 1
    assert "a → b → a" in problems[0]


def test_a_file_without_actors_says_so(problems_of: Problems) -> None:
    assert "there are no actors" in problems_of("")[0]


def test_mistakes_of_the_syntax_do_not_hide_the_others(problems_of: Problems) -> None:
    problems = problems_of(
        """
        namespace = demo
        [actor.a]
        class = "config_actors:Plain"
        replica = 2
        [actor.a]
        class = "config_actors:Plain"
        [actor.b
        class = "config_actors:Plain"
        replicas = 2
        replicas = 3
        """
    )
    lines = [problem.split()[0] for problem in problems]
    assert lines[:3] == ["1", "4", "5"]
    assert "7" in lines
    assert "10" in lines
    assert any("actor.a: stands here twice; the first is in line 2" in problem for problem in problems)


def test_flag_goes_before_environment_before_file_before_default(config_of: Parse) -> None:
    file = f'request_plane = "ipc"\nnamespace = "file"\n{PLAIN}'
    environ = {"DYN_REQUEST_PLANE": "TCP", "DYN_NAMESPACE": "env", "DYN_TCP_POOL_SIZE": "7"}
    assert config_of(PLAIN).namespace == "default"
    config = config_of(file)
    assert (config.network.request_plane, config.namespace) == ("ipc", "file")
    config = config_of(file, environ=environ)
    assert (config.network.request_plane, config.namespace, config.network.pool_size) == ("tcp", "env", 7)
    config = config_of(file, environ=environ, plane="ipc", namespace="flag")
    assert (config.network.request_plane, config.namespace) == ("ipc", "flag")


def test_mistakes_outside_the_file_are_reported_with_those_in_it(problems_of: Problems) -> None:
    problems = problems_of(
        f"{PLAIN}colour = 1\n", plane="smoke-signals", environ={"DYN_TCP_POOL_SIZE": "many"}, namespace="a b"
    )
    text = "\n".join(problems)
    assert len(problems) == 4
    assert '--plane: invalid request plane mode "smoke-signals"' in text
    assert "environment: DYN_TCP_POOL_SIZE" in text
    assert '--namespace: takes a name, not "a b"' in text
    assert 'unknown key "colour"' in text


def test_a_plane_that_stays_in_one_process_is_refused(problems_of: Problems) -> None:
    assert "cannot connect processes" in problems_of(f'request_plane = "memory"\n{PLAIN}')[0]


def test_an_invalid_plane_in_the_environment_warns_and_falls_back_to_tcp(
    config_of: Parse, problems_of: Problems
) -> None:
    environ = {"DYN_REQUEST_PLANE": "tpc"}
    with pytest.warns(RuntimeWarning, match="falling back to tcp"):
        assert config_of(PLAIN, environ=environ).network.request_plane == "tcp"
    problems = problems_of(f"{PLAIN}[network]\nstrict_env = true\n", environ=environ)
    assert len(problems) == 1
    assert "invalid request plane mode" in problems[0]


def test_a_bind_beyond_loopback_needs_insecure(config_of: Parse, problems_of: Problems) -> None:
    assert config_of(f'{PLAIN}[network]\nhost = "0.0.0.0"\ninsecure = true\n').network.insecure
    assert "insecure" in problems_of(f'{PLAIN}[network]\nhost = "0.0.0.0"\n')[0]


def test_a_file_that_cannot_be_read_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load(tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes(b"namespace = '\xe9'")
    with pytest.raises(ConfigError, match="is not UTF-8"):
        load(tmp_path / "latin.toml")
