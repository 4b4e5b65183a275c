"""``callboard check``: one run names every mistake with its line and a way out, and nothing starts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from callboard.testing.cluster import Cluster

from .terminal import callboard

MISTAKES = """\
request_plane = "tpc"
colour = "red"
event_plane = "smoke"

[actor.gate]
class = "actors_for_tests:Gait"
replica = 2

[actor.echo]
class = "actors_for_tests:Echo"
args = { greting = "hi" }
replicas = "two"

[actor.caller]
class = "actors_for_tests:Caller"
args = { targets = { echo = [{ ref = "ecko" }] } }
mailbox = { overflow = "drop" }

[actor.lost]
class = "no_such_module:Lost"
restart = { policy = "always", backoff_s = [5, 1] }

[actor.plain]
class = "actors_for_tests:NotAnActor"

[process.one]
actors = ["echo", "plain"]

[process.two]
actors = ["echo", "gatte"]

[network]
host = "0.0.0.0"
port = 99999
pool_sise = 3
"""

EXPECTED = [
    (1, 'request_plane: invalid request plane mode "tpc"; valid are: '),
    (2, 'unknown key "colour"; known: namespace, '),
    (3, 'event_plane: takes one of zmq, nats, jetstream, none, not "smoke"'),
    (6, 'actor.gate.class: "actors_for_tests" has no class "Gait"; did you mean "Gate"?'),
    (7, 'actor.gate: unknown key "replica"; did you mean "replicas"?'),
    (11, 'actor.echo.args.greting: Echo has no argument "greting"; it takes: greeting, name; did you mean "greeting"?'),
    (12, 'actor.echo.replicas: takes an integer of at least 1, not "two"'),
    (16, 'actor.caller.args.targets.echo[0]: refers to "ecko"; actors are: gate, echo, caller, lost, plain; did'),
    (17, 'actor.caller.mailbox.overflow: takes one of reject, block, drop-oldest, drop-newest, fail, not "drop"'),
    (20, 'actor.lost.class: cannot import "no_such_module": ModuleNotFoundError'),
    (21, "actor.lost.restart.backoff_s: takes the shortest and the longest wait in seconds, such as [0.1, 5]"),
    (21, 'actor.lost.restart.policy: takes one of permanent, transient, temporary, not "always"'),
    (24, 'actor.plain.class: "actors_for_tests:NotAnActor" is not an actor; derive it from callboard.Actor'),
    (30, 'process.two.actors[0]: actor "echo" is in process.one already; it can be in one process'),
    (30, 'process.two.actors[1]: there is no actor "gatte"; actors are: gate, echo, caller, lost, plain; did'),
    (33, "network.host: "),
    (34, "network.port: "),
    (35, 'network: unknown key "pool_sise"; did you mean "pool_size"?'),
]  # fmt: skip


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "wrong.toml"
    path.write_text(MISTAKES)
    return path


@pytest.mark.parametrize("command", ["check", "up"])
async def test_one_run_names_every_mistake_and_starts_nothing(
    cluster: Cluster, config: Path, command: str
) -> None:
    shown = await callboard(command, config)
    assert (shown.code, shown.out) == (2, "")
    lines = shown.err.splitlines()
    assert len(lines) == len(EXPECTED), shown.err
    for line, (number, what) in zip(lines, EXPECTED, strict=True):
        place, _, problem = line.partition("  ")
        assert place == f"{config}:{number}", line
        assert what in problem, line
    assert not list(cluster.directory.iterdir())


async def test_the_mistakes_as_json_carry_line_and_place(cluster: Cluster, config: Path) -> None:
    shown = await callboard("check", config, "--json")
    assert (shown.code, shown.err) == (2, "")
    result = shown.json()
    assert (result["file"], result["ok"]) == (str(config), False)
    assert len(result["problems"]) == len(EXPECTED)
    assert all(str(config) in problem for problem in result["problems"])


GOOD = """
namespace = "demo"
[actor.echo]
class = "actors_for_tests:Echo"
replicas = 4
[actor.caller]
class = "actors_for_tests:Caller"
args = { targets = { echo = [{ ref = "echo" }] } }
[process.e]
actors = ["echo"]
count = 2
"""


async def test_a_good_file_is_counted_and_its_modules_start_no_system(
    cluster: Cluster, tmp_path: Path
) -> None:
    path = tmp_path / "good.toml"
    path.write_text(GOOD)
    shown = await callboard("check", path)
    assert (shown.code, shown.out, shown.err) == (0, "5 actors in 3 processes, plane tcp\n", "")
    shown = await callboard("check", path, "--plane", "ipc", "--namespace", "mine", "--json")
    assert shown.json() == {
        "file": str(path),
        "ok": True,
        "problems": [],
        "namespace": "mine",
        "plane": "ipc",
        "event_plane": "zmq",
        "actors": 5,
        "processes": 3,
    }
    assert not list(cluster.directory.iterdir())


@pytest.mark.parametrize(
    ("text", "line", "expected"),
    [
        ('[actor.echo]\nclass = "actors_for_tests:Echo\n', 2, "not TOML: "),
        ('[actor.echo]\nclass = "actors_for_tests:Echo"\n[actor.echo]\n', 3, "stands here twice; the first"),
        ("namespace = demo\n", 1, "not TOML: "),
        (
            '[actor.a]\nclass = "actors_for_tests:Caller"\nargs = { targets = { x = { ref = "b" } } }\n'
            '[actor.b]\nclass = "actors_for_tests:Caller"\nargs = { targets = { x = { ref = "a.0" } } }\n',
            3,
            "references form a cycle, so that none can start first: a → b → a; pass one of them in a message instead",
        ),
        (GOOD.strip().replace('"echo" }]', '"echo.4" }]'), 7, 'refers to "echo.4"; the last instance is "echo.3"'),
        (GOOD.strip().replace("count = 2", "count = 9"), 10, "9 processes for 4 replicas of echo: some would be empty"),
        ('[actor.c]\nclass = "actors_for_tests:Caller"\n', 1, 'Caller needs the argument "targets"'),
        ('[actor.s]\nclass = "actors_for_tests:Slow"\nargs = { ready = 3 }\n', 3, "takes a string, not 3"),
    ],
)  # fmt: skip
async def test_syntax_wiring_and_placement_are_checked_as_well(
    cluster: Cluster, tmp_path: Path, text: str, line: int, expected: str
) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    shown = await callboard("check", path)
    assert shown.code == 2
    assert f"{path}:{line}  " in shown.err
    assert expected in shown.err


async def test_mistakes_outside_the_file_are_named_by_where_they_are(
    cluster: Cluster, tmp_path: Path
) -> None:
    path = tmp_path / "good.toml"
    path.write_text(GOOD)
    environment = {**os.environ, "DYN_TCP_POOL_SIZE": "many"}
    shown = await callboard("check", path, "--plane", "smoke-signals", env=environment)
    assert shown.code == 2
    assert '--plane: invalid request plane mode "smoke-signals"; valid are: ' in shown.err
    assert "environment: DYN_TCP_POOL_SIZE" in shown.err
    missing = await callboard("check", tmp_path / "none.toml")
    assert (missing.code, missing.out) == (2, "")
    assert missing.err == f"{tmp_path}/none.toml: cannot be read: No such file or directory\n"


async def test_a_module_that_ends_the_program_when_it_is_imported_is_a_mistake(
    cluster: Cluster, tmp_path: Path
) -> None:
    (tmp_path / "ends_everything.py").write_text("import sys\nsys.exit(7)\n")
    path = tmp_path / "wrong.toml"
    path.write_text('colour = 1\n[actor.a]\nclass = "ends_everything:A"\n')
    shown = await callboard("check", path)
    assert shown.code == 2
    assert len(shown.err.splitlines()) == 2
    assert 'cannot import "ends_everything": SystemExit: 7' in shown.err


SERVING = """
[actor.frontend]
class = "callboard.serving:Frontend"
args = { port = 99999, router = { ref = "router" } }
[actor.router]
class = "callboard.serving:Router"
args = { mode = "kvv", workers = { ref = "worker" }, temperature = -1 }
[actor.worker]
class = "callboard.serving:Worker"
args = { engine = { kind = "simulatd" }, canary = 3 }
"""


@pytest.mark.parametrize("command", ["check", "up"])
async def test_what_the_classes_say_of_their_options_is_named_before_anything_starts(
    cluster: Cluster, tmp_path: Path, command: str
) -> None:
    path = tmp_path / "serving.toml"
    path.write_text(SERVING)
    shown = await callboard(command, path)
    assert (shown.code, shown.out) == (2, "")
    expected = [
        (4, "frontend.args.port: port is 99999; "),
        (7, 'router.args.mode: mode is "kvv"; '),
        (7, "router.args.temperature: temperature is -1; "),
        (10, "worker.args.canary: canary is 3; "),
        (10, "worker.args.engine.kind: engine.kind is 'simulatd'; "),
    ]
    lines = shown.err.splitlines()
    assert len(lines) == len(expected), shown.err
    for line, (number, what) in zip(lines, expected, strict=True):
        assert line.startswith(f"{path}:{number} "), line
        assert what in line
    assert not list(cluster.directory.iterdir())
