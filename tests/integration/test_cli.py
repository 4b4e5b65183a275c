"""The commands that talk to a running system: what they print, their exit codes, and what a mistake is told."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest

from callboard import __version__
from callboard.supervisor.cli import COMMANDS
from callboard.supervisor.status import State
from callboard.supervisor.system import System
from callboard.testing.cluster import Cluster

from .terminal import COMMAND, callboard, finished, launch, run
from .waiting import until

CONFIG = """
[actor.echo]
class = "actors_for_tests:Echo"
replicas = 2
[actor.announcer]
class = "actors_for_tests:Announcer"
[process.e]
actors = ["echo"]
count = 2
"""

HEAVY = {
    "zmq",
    "nats",
    "uvloop",
    "asyncio",
    "ssl",
    "msgspec",
    "orjson",
    "cloudpickle",
    "psutil",
    "rich",
    "uvicorn",
}
SLOW_TO_IMPORT = {"zmq", "nats", "uvloop", "uvicorn", "cloudpickle", "rich"}


def test_help_names_every_command_and_every_exit_code() -> None:
    shown = run(COMMAND, "--help")
    assert (shown.code, shown.err) == (0, "")
    for name, (_, line) in COMMANDS.items():
        assert f"  {name} " in shown.out
        assert line in " ".join(shown.out.split())
    for code in range(6):
        assert f"\n    {code}  " in shown.out


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "bench"])
def test_help_of_a_command_says_its_exit_codes_and_needs_no_plane(name: str) -> None:
    shown, modules = modules_after(name, "--help")
    assert "Exit codes: 0" in shown
    assert not SLOW_TO_IMPORT & modules


@pytest.mark.parametrize("words", [("--help",), ("-h",), ("--version",)])
def test_help_and_version_import_nothing_heavy(words: tuple[str, ...]) -> None:
    _, modules = modules_after(*words)
    assert not HEAVY & modules


def test_importing_callboard_imports_nothing_heavy() -> None:
    code = "import sys, callboard; print(*sys.modules)"
    shown = run(sys.executable, "-c", code)
    assert shown.code == 0
    assert not HEAVY & set(shown.out.split())


def modules_after(*words: str) -> tuple[str, set[str]]:
    """What a command prints, and the modules that it has imported by then."""
    code = (
        "import atexit, sys\n"
        "atexit.register(lambda: print('MODULES', *sys.modules))\n"
        f"sys.argv[:] = ['callboard', *{words!r}]\n"
        "from callboard.supervisor.cli import main\n"
        "main()"
    )
    shown = run(sys.executable, "-c", code)
    assert (shown.code, shown.err) == (0, "")
    text, _, modules = shown.out.partition("MODULES")
    return text, set(modules.split())


def test_the_version_is_that_of_the_package() -> None:
    shown = run(COMMAND, "--version")
    assert (shown.code, shown.out) == (0, f"callboard {__version__}\n")


def test_the_schema_is_json_and_knows_the_keys() -> None:
    shown = run(COMMAND, "schema")
    assert shown.code == 0
    schema = json.loads(shown.out)
    assert {"namespace", "request_plane", "actor", "process", "network"} <= schema["properties"].keys()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("stpo",), "no such command 'stpo'; did you mean \"stop\"?"),
        (("ps", "--jsn"), "--jsn"),
        (("up",), "Missing argument 'FILE'"),
        (("call", "echo"), "'echo' is not ACTOR.METHOD"),
        (("call", "echo.hello", "{x"), "the arguments are not JSON"),
        (("call", "echo.hello", "--timeout", "0"), "0"),
        (("stop", "--grace", "-1"), "-1"),
    ],
)
def test_wrong_usage_is_said_and_ends_with_2(words: tuple[str, ...], expected: str) -> None:
    shown = run(COMMAND, *words)
    assert shown.code == 2
    assert expected in shown.err
    assert shown.out == ""


@pytest.mark.parametrize("words", [("ps",), ("stop",), ("call", "echo.hello")])
async def test_without_a_system_every_command_ends_with_3_and_says_where_it_looked(
    cluster: Cluster, words: tuple[str, ...]
) -> None:
    shown = await callboard(*words)
    assert (shown.code, shown.out) == (3, "")
    assert f"no system runs in {cluster.directory}" in shown.err
    assert "callboard up FILE" in shown.err
    named = await callboard(*words, "-n", "nowhere")
    assert (named.code, named.out) == (3, "")
    assert "nowhere" in named.err


@pytest.mark.parametrize("words", [("ps",), ("stop",), ("call", "echo.hello")])
async def test_with_several_systems_every_command_ends_with_2_and_lists_them(
    cluster: Cluster, words: tuple[str, ...]
) -> None:
    one, two = await cluster.system(), await cluster.system()
    shown = await callboard(*words)
    assert (shown.code, shown.out) == (2, "")
    names = ", ".join(sorted((one.namespace, two.namespace)))
    assert shown.err == f"several systems run here: {names}; choose one with --namespace\n"
    assert (await callboard("ps", "-n", two.namespace)).code == 0
    assert one.status().state is two.status().state is State.READY


async def test_ps_shows_processes_actors_and_what_was_announced(cluster: Cluster) -> None:
    system = await cluster.up(CONFIG)
    lines = (await callboard("ps")).out.splitlines()
    assert lines[0].startswith(f"callboard {system.namespace} · plane tcp · events zmq · pid ")
    assert lines[1].split()[:4] == ["PROCESS", "PID", "STATE", "RESTARTS"]
    assert [line.split()[0] for line in lines[2:]] == ["e.0", "e.1", "announcer.0", "announcer.0:"]
    assert lines[-1] == "  announcer.0: announced by announcer.0"
    status = (await callboard("ps", "--json")).json()
    assert status["namespace"] == system.namespace
    assert [p["pid"] for p in status["processes"]] == [p.pid for p in system.status().processes]
    assert [a["name"] for p in status["processes"] for a in p["actors"]] == [
        "echo.0",
        "echo.1",
        "announcer.0",
    ]


@pytest.mark.parametrize(
    ("words", "out"),
    [
        (("echo.hello", '["you"]'), '"hello you"\n'),
        (("echo.hello", '{"name": "you"}'), '"hello you"\n'),
        (("echo.hello", '"you"'), '"hello you"\n'),
        (("echo.1.add", "[1, 2]"), "3\n"),
        (("echo.arguments",), '{"greeting":"hello","name":""}\n'),
        (("echo.count_to", "[3]"), "1\n2\n3\n"),
        (("echo.count_to", "[3]", "--stream"), "1\n2\n3\n"),
        (("echo.count_to", "[0]"), ""),
    ],
)
async def test_call_prints_the_answer_as_json_and_a_stream_line_by_line(
    cluster: Cluster, words: tuple[str, ...], out: str
) -> None:
    await cluster.up(CONFIG)
    shown = await callboard("call", *words)
    assert (shown.code, shown.out, shown.err) == (0, out, "")


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (("ecoh.hello",), 1, "no such actor; actors are: announcer, announcer.0, echo, echo.0, echo.1"),
        (("ecoh.hello",), 1, 'did you mean "echo"?'),
        (("echo.7.hello",), 1, "no such actor"),
        (("echo.helo", '["x"]'), 1, 'Echo has no message \'helo\'; it has: add, '),
        (("echo.helo", '["x"]'), 1, 'did you mean "hello"?'),
        (("echo._hidden",), 1, "Echo._hidden is not a message"),
        (("echo.hello", "[1]"), 1, "takes str as 'name', got int 1"),
        (("echo.hello", '{"nmae": "x"}'), 1, "hello(name: str) was called wrongly"),
        (("echo.hello", "[1, 2]"), 1, "too many positional arguments"),
        (("echo.fail", '["on purpose"]'), 1, "ValueError: on purpose"),
        (("echo.fail", '["on purpose"]'), 1, "raise ValueError(text)"),
        (("echo.hello", '["x"]', "--stream"), 1, "hello"),
        (("echo.wait", "[600]", "--timeout", "0.2"), 4, "the deadline of wait passed"),
        (("echo.count_slowly", "--timeout", "0.2"), 4, "executed=maybe"),
    ],
)  # fmt: skip
async def test_a_call_that_fails_says_why_on_standard_error(
    cluster: Cluster, words: tuple[str, ...], code: int, expected: str
) -> None:
    await cluster.up(CONFIG)
    shown = await callboard("call", *words)
    assert shown.code == code
    assert expected in shown.err
    assert not shown.err.startswith("Traceback")


async def test_a_call_of_an_actor_that_dies_of_it_says_that_it_may_have_run(cluster: Cluster) -> None:
    await cluster.up(CONFIG)
    shown = await callboard("call", "echo.0.exit", "[3]")
    assert (shown.code, shown.out) == (1, "")
    assert "executed=maybe" in shown.err


async def test_a_reader_that_leaves_ends_the_call_and_cancels_its_handler(cluster: Cluster) -> None:
    system = await cluster.up(CONFIG)
    near, far = os.pipe()
    process = await launch(COMMAND, "call", "echo.0.count_slowly", "--timeout", "60", stdout=far)
    os.close(far)
    assert await asyncio.to_thread(os.read, near, 2) == b"1\n"
    os.close(near)
    left = await finished(process)
    assert (left.code, left.err) == (1, "")
    await until(lambda: running(system, "echo.0", 0))


async def running(system: System, name: str, count: int) -> bool:
    return (await system.fetch_status()).actor(name).counters["running"] == count


@pytest.mark.parametrize("words", [("ps",), ("ps", "--json"), ("schema",)])
async def test_output_to_a_closed_pipe_ends_quietly(cluster: Cluster, words: tuple[str, ...]) -> None:
    await cluster.up(CONFIG)
    shown = await finished(
        await launch("sh", "-c", '"$@" | true; exit 0', "sh", COMMAND, *words, stdout=PIPE)
    )
    assert (shown.code, shown.out, shown.err) == (0, "", "")


async def test_stop_drains_as_the_config_says_and_returns_when_the_system_is_gone(
    cluster: Cluster, tmp_path: Path
) -> None:
    system = await cluster.up(f"{CONFIG}[supervisor]\nstop_grace_s = 60\n")
    go_on = tmp_path / "go on"
    waiting = asyncio.create_task(system.ref("echo.0").options(deadline_s=60).ask("wait_for", str(go_on)))
    await until(lambda: running(system, "echo.0", 1))
    stop = asyncio.create_task(callboard("stop"))
    await until(lambda: system.status().actor("echo.0").state is State.STOPPING)
    go_on.touch()
    shown = await stop
    assert (shown.code, shown.out, shown.err) == (0, "", "")
    assert await waiting == "waited"
    assert system.status().state is State.STOPPED
    assert not list(Path(cluster.directory, "callboard").iterdir())
    assert (await callboard("stop")).code == 3
