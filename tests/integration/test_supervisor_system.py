"""A system of real processes: what runs where, how it starts, and what a failed start leaves."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from callboard.actors.actor import Actor
from callboard.actors.errors import ActorError
from callboard.actors.ref import Ref
from callboard.supervisor.config import load
from callboard.supervisor.errors import AlreadyRunning, StartupFailed, SupervisionError, UnknownPlace
from callboard.supervisor.guardian import start_time
from callboard.supervisor.spec import Limits
from callboard.supervisor.status import State
from callboard.supervisor.system import System
from callboard.testing.cluster import Cluster
from callboard.transports.errors import ConfigError
from callboard.transports.settings import NetworkSettings

CONFIG = """
[actor.echo]
class = "actors_for_tests:Echo"
replicas = 3
args = { greeting = "hi", name = "mine" }

[actor.caller]
class = "actors_for_tests:Caller"
args = { targets = { echo = [{ ref = "echo" }] } }

[actor.announcer]
class = "actors_for_tests:Announcer"

[process.engine]
actors = ["echo"]
count = 2
env = { GPU = "gpu {index} of {namespace}" }

[process.web]
actors = ["caller", "announcer"]
"""


@dataclass
class Point:
    x: int
    y: int


class Local(Actor):
    """Lives in a module that only its file leads to, as test modules do."""

    def __init__(self, origin: Point, echo: Ref[Actor] | None = None) -> None:
        self.origin, self.echo = origin, echo

    async def shift(self, by: Point) -> Point:
        return Point(self.origin.x + by.x, self.origin.y + by.y)

    async def through(self, name: str) -> str:
        assert self.echo is not None
        answer: str = await self.echo.ask("hello", name)
        return answer


async def test_the_event_plane_is_that_of_the_argument_the_settings_or_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DYN_EVENT_PLANE", "jetstream")
    assert System().status().event_plane == "jetstream"
    assert System(settings=NetworkSettings(event_plane="nats")).status().event_plane == "nats"
    assert System(event_plane="NONE").status().event_plane == "none"
    for name in ("smoke", "memory"):
        with pytest.raises(
            ConfigError, match=f"invalid event plane '{name}'; valid are: zmq, nats, jetstream"
        ):
            System(event_plane=name)
    (tmp_path / "c.toml").write_text(
        'namespace = "mine"\nevent_plane = "nats"\n[actor.a]\nclass = "callboard:Actor"\n'
    )
    monkeypatch.delenv("DYN_EVENT_PLANE")
    read = System.from_config(tmp_path / "c.toml").status()
    assert (read.namespace, read.plane, read.event_plane) == ("mine", "tcp", "nats")
    assert System.from_config(tmp_path / "c.toml", event_plane="none").status().event_plane == "none"
    assert System.from_config(load(tmp_path / "c.toml"), event_plane="zmq").status().event_plane == "zmq"


@pytest.mark.parametrize("namespace", ["../evil", "a/b", "a b", ">", "1st", ".."])
async def test_a_namespace_is_a_name(cluster: Cluster, namespace: str) -> None:
    with pytest.raises(ConfigError, match=f'namespace takes a name, not "{namespace}"'):
        System(namespace=namespace)
    with pytest.raises(ConfigError, match=f'namespace takes a name, not "{namespace}"'):
        await System.connect(namespace=namespace)


async def test_an_actor_for_whose_process_there_is_no_port_is_refused_before_it_starts(
    cluster: Cluster,
) -> None:
    system = await cluster.system(settings=NetworkSettings(port=65_535))
    with pytest.raises(
        ConfigError, match=r"is 65535, and 2 processes listen on it .* set it to 65534 or lower"
    ):
        await system.spawn(Local, Point(1, 2), replicas=2, processes=2)
    assert not system.status().processes


async def test_a_config_becomes_processes_with_wired_actors(cluster: Cluster) -> None:
    system = await cluster.up(CONFIG)
    status = system.status()
    assert {process.name: [a.name for a in process.actors] for process in status.processes} == {
        "engine.0": ["echo.0", "echo.2"],
        "engine.1": ["echo.1"],
        "web.0": ["announcer.0", "caller.0"],
    }
    assert all(process.state is State.READY and process.ready_s > 0 for process in status.processes)
    assert await system.ref("caller").ask("ask_hello", "you") == "hi you"
    assert await system.ref("echo.0").ask("arguments") == {"greeting": "hi", "name": "mine"}
    gpus = [await system.ref(f"echo.{i}").ask("environment", "GPU") for i in range(3)]
    assert gpus == [f"gpu {i} of {system.namespace}" for i in (0, 1, 0)]
    pids = {(await system.ref(f"echo.{i}").ask("where"))["pid"] for i in range(3)}
    assert pids == {process.pid for process in status.processes[:2]}
    assert [(a.actor, a.text) for a in system.announcements] == [("announcer.0", "announced by announcer.0")]


async def test_what_an_actor_prints_is_in_the_log_of_its_process(cluster: Cluster) -> None:
    system = await cluster.up(CONFIG)
    await system.ref("echo.1").ask("print_line", "printed by an actor")
    assert "printed by an actor" in system.logs("echo.1")
    assert system.logs("engine.1") == system.logs("echo.1")
    assert "printed" not in system.logs("web.0")


async def test_actors_start_after_those_that_they_refer_to_and_stop_before_them(
    cluster: Cluster, tmp_path: Path
) -> None:
    book = tmp_path / "book"

    def actor(name: str, needs: str) -> str:
        args = f'path = "{book}"' + (f', needs = {{ ref = "{needs}" }}' if needs else "")
        return f'[actor.{name}]\nclass = "actors_for_tests:Recorder"\nargs = {{ {args} }}\n'

    system = await cluster.up(actor("front", "middle") + actor("middle", "back.0") + actor("back", ""))
    await system.stop()
    started = [f"start {name}.0" for name in ("back", "middle", "front")]
    stopped = [f"stop:shutdown {name}.0" for name in ("front", "middle", "back")]
    assert book.read_text().splitlines() == started + stopped


async def test_a_class_of_a_script_is_spawned_with_arguments_and_references(cluster: Cluster) -> None:
    system = await cluster.system()
    echo = await system.spawn(_echo_class(), name="echo")
    local = await system.spawn(Local, Point(1, 2), echo=echo, replicas=2, processes=2, env={"A": "b"})
    assert local.name == "local"
    assert await local.ask(Local.shift, Point(1, 1)) == Point(2, 3)
    assert await local.instance(1).ask(Local.through, "you") == "local hello you"
    with pytest.raises(ConfigError, match='called "local" already'):
        await system.spawn(Local, Point(1, 2))
    with pytest.raises(ConfigError, match="processes is 3; it must be between 1 and replicas, which is 2"):
        await system.spawn(Local, Point(1, 2), name="other", replicas=2, processes=3)
    with pytest.raises(TypeError, match="the arguments of Local cannot be sent"):
        await system.spawn(Local, asyncio.get_running_loop(), name="other")  # type: ignore[arg-type]


def _echo_class() -> type[Actor]:
    class Echo(Actor):
        """Has no name that could be imported."""

        async def hello(self, name: str) -> str:
            return f"local hello {name}"

    return Echo


@pytest.mark.parametrize(
    ("where", "text"),
    [
        ("constructor", "the constructor failed"),
        ("hook", "the hook failed"),
        ("exit", "last words in the log"),
    ],
)
async def test_a_failed_start_shows_its_traceback_and_leaves_nothing(
    cluster: Cluster, where: str, text: str
) -> None:
    from .waiting import children

    with pytest.raises(StartupFailed) as caught:
        await cluster.up(
            f'[actor.broken]\nclass = "actors_for_tests:Broken"\nargs = {{ where = "{where}" }}\n{CONFIG}'
        )
    assert caught.value.place == "broken.0"
    assert text in caught.value.remote_traceback
    assert children() == []


async def test_a_failed_spawn_leaves_the_rest_of_the_system_alone(cluster: Cluster) -> None:
    system = await cluster.system()
    local = await system.spawn(Local, Point(1, 2))
    with pytest.raises(StartupFailed, match="missing 1 required positional argument"):
        await system.spawn(Local, name="other")  # type: ignore[call-arg]
    assert [process.name for process in system.status().processes] == ["local.0"]
    assert await local.ask(Local.shift, Point(0, 0)) == Point(1, 2)
    again = await system.spawn(Local, Point(5, 5), name="other")
    assert await again.ask(Local.shift, Point(0, 0)) == Point(5, 5)


async def test_a_failed_spawn_has_left_nothing_when_it_says_so(cluster: Cluster) -> None:
    from .actors_for_tests import Broken

    system = await cluster.system()
    for _ in range(3):  # the name is free again each time
        with pytest.raises(StartupFailed, match="left ") as caught:
            await system.spawn(Broken, "grandchild")
        assert start_time(int(caught.value.why.split()[-1])) == -1


async def test_a_start_that_hangs_is_ended_by_its_limit(cluster: Cluster) -> None:
    system = await cluster.system(limits=Limits(actor_start_s=0.5))
    from .actors_for_tests import Broken

    with pytest.raises(StartupFailed, match=r"it was not ready within 0\.5 s"):
        await system.spawn(Broken, "hang")


async def test_only_one_system_owns_a_namespace(cluster: Cluster) -> None:
    system = await cluster.system()
    second = System(namespace=system.namespace)
    with pytest.raises(AlreadyRunning, match=f"process {os.getpid()}"):
        await second.start()
    assert system.status().state is State.READY


async def test_a_client_follows_a_running_system(cluster: Cluster) -> None:
    system = await cluster.up(CONFIG)
    async with await System.connect(namespace=system.namespace) as client:
        assert await client.ref("caller").ask("ask_hello", "client") == "hi client"
        status = await client.status()
        assert status.actor("caller.0").counters["handled"] >= 1
        await system.kill("echo.1")
        await system.wait_ready(20)
        where = await client.ref("echo.1").ask("where")
        assert where["incarnation"] == 2
        assert (await client.status()).process("echo.1").restarts == 1


async def test_wrong_names_and_wrong_times_are_said_plainly(cluster: Cluster) -> None:
    system = await cluster.system()
    with pytest.raises(UnknownPlace, match="no process or actor is called 'nobody'"):
        await system.kill("nobody")
    with pytest.raises(ActorError):
        await system.ref("nobody").ask("hello")
    with pytest.raises(SupervisionError, match="make another one"):
        await system.start()
    with pytest.raises(SupervisionError, match="start it first"):
        await System().spawn(Local, Point(1, 1))
