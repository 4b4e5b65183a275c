"""`callboard doctor` at real systems, real servers and real ports. The symptoms are in test_troubleshooting.py."""

from __future__ import annotations

import asyncio
import os
import re
import resource
import shutil
import socket
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from callboard.supervisor.config import load
from callboard.supervisor.doctor import dial, gather
from callboard.supervisor.doctor_checks import descriptors_needed, examine
from callboard.supervisor.doctor_facts import NatsStage, Reach
from callboard.supervisor.doctor_nats import look_at_nats
from callboard.supervisor.nats_server import NatsServer
from callboard.supervisor.status import State
from callboard.testing.cluster import Cluster
from callboard.testing.nats_session import NatsForTest
from callboard.transports.nats_settings import NatsSettings
from callboard.transports.settings import NetworkSettings

from .actors_for_tests import Echo
from .terminal import COMMAND, Finished, callboard, finished, launch
from .waiting import until

CONFIG = """
namespace = "doctored"
[actor.echo]
class = "actors_for_tests:Echo"
replicas = 2
[process.e]
actors = ["echo"]
count = 2
"""


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(Path(__file__).parent)  # where the actors are
    file = tmp_path / "doctored.toml"
    file.write_text(CONFIG)
    return file


def levels(done: Finished) -> dict[str, str]:
    """The worst level of each check."""
    order = ["ok", "warning", "problem"]
    worst: dict[str, str] = {}
    for finding in done.json()["findings"]:
        check, level = finding["check"], finding["level"]
        worst[check] = max(worst.get(check, "ok"), level, key=order.index)
    return worst


@pytest.mark.parametrize("plane", ["tcp", "nats"])
async def test_a_running_system_is_fine_and_is_left_as_it_is(
    cluster: Cluster, nats_server: NatsForTest, path: Path, plane: str
) -> None:
    system = await cluster.up(path, plane=plane)
    before = (await system.fetch_status()).processes
    processes = {p.pid for p in psutil.Process().children(recursive=True)}
    environment = {**os.environ, **nats_server.environment()}
    path.write_text(CONFIG + f'[network.nats]\nprefix = "{nats_server.prefix}"\n')
    words = ("doctor", path, "--plane", plane, "-n", system.namespace)
    done = await callboard(*words, "--json", env=environment)
    assert done.code == 0, done
    assert set(levels(done).values()) == {"ok"}
    shown = (await callboard(*words, env=environment)).out.splitlines()
    assert shown[-1] == "no problems, no warnings"
    assert all(line.startswith("ok       ") for line in shown[:-1])
    assert any("2 running processes answer" in line for line in shown)
    assert (await system.fetch_status()).processes == before
    assert {p.pid for p in psutil.Process().children(recursive=True)} == processes
    assert system.status().state is State.READY


async def test_mistakes_of_the_config_are_shown_with_the_exit_code_of_check(
    cluster: Cluster, path: Path
) -> None:
    path.write_text(CONFIG.replace("replicas = 2", "replcas = 2"))
    done = await callboard("doctor", path)
    assert done.code == 2
    assert done.out.startswith("problem  config  ")
    assert 'did you mean "replicas"' in done.out
    as_json = await callboard("doctor", path, "--json")
    assert (as_json.code, as_json.json()["ok"]) == (2, False)


async def test_too_few_open_files_are_found(cluster: Cluster, path: Path) -> None:
    path.write_text(CONFIG.replace("replicas = 2", "replicas = 50").replace("count = 2", "count = 50"))

    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))

    done = await finished(await launch(COMMAND, "doctor", path, "--json", preexec_fn=few))
    assert (done.code, levels(done)["descriptors"]) == (1, "problem")


async def test_the_number_of_open_files_is_enough_for_what_is_really_opened(
    cluster: Cluster, path: Path
) -> None:
    path.write_text(CONFIG.replace("replicas = 2", "replicas = 6").replace("count = 2", "count = 6"))
    for plane in ("tcp", "nats"):
        system = await cluster.up(path, plane=plane)
        for index in range(6):
            await system.ref(f"echo.{index}").ask("where")
        needed = descriptors_needed(load(path, plane=plane), 6)
        opened = [psutil.Process(process.pid).num_fds() for process in system.status().processes]
        assert max(opened) <= needed
        await system.stop()


async def test_a_clock_that_is_wrong_is_found(cluster: Cluster, nats_server: NatsForTest, path: Path) -> None:
    network = nats_server.network()
    right = await look_at_nats(network, 10)
    assert right.ahead_s is not None
    assert abs(right.ahead_s) - right.within_s < 1
    slow = await look_at_nats(network, 10, now=lambda: time.time() - 60)
    assert slow.ahead_s is not None
    assert abs(slow.ahead_s - 60) - slow.within_s < 1
    assert (right.version, right.jetstream) == (slow.version, True)


async def test_looking_at_nats_stores_nothing(cluster: Cluster, tmp_path: Path) -> None:
    server = NatsServer(tmp_path / "nats")
    await server.start()
    try:
        settings = NetworkSettings(request_plane="nats", nats=NatsSettings(**server.settings()))
        assert (await look_at_nats(settings, 10)).stage is NatsStage.DONE
        assert [
            entry for entry in server.store.rglob("*") if entry.is_dir() and entry.name == "streams"
        ] == []
    finally:
        await server.stop()


async def test_jetstream_that_is_off_is_found_where_it_is_needed(
    cluster: Cluster, path: Path, tmp_path: Path
) -> None:
    server = NatsServer(tmp_path / "nats", jetstream=False, token="")
    await server.start()
    try:
        environment = {**os.environ, "NATS_SERVER": server.url, "DYN_EVENT_PLANE": "jetstream"}
        done = await callboard("doctor", path, "--plane", "nats", "--json", env=environment)
        assert (done.code, levels(done)["jetstream-off"]) == (1, "problem")
        del environment["DYN_EVENT_PLANE"]
        done = await callboard("doctor", path, "--plane", "nats", "--json", env=environment)
        assert (done.code, levels(done)["jetstream-off"]) == (0, "ok")
    finally:
        await server.stop()


async def test_an_account_without_jetstream_is_told_from_one_that_has_it(
    cluster: Cluster, path: Path, tmp_path: Path
) -> None:
    without, having = (f"{name}: {{ users: [{{ user: {name}, password: {name} }}]" for name in ("a", "j"))
    accounts = f"accounts {{ {without} }}, {having}, jetstream: enabled }} }}"
    server = NatsServer(tmp_path / "nats", token="", extra_config=accounts)
    await server.start()
    try:
        for user, is_on in (("a", False), ("j", True)):
            nats = NatsSettings(servers=(server.url,), username=user, password=user)
            found = await look_at_nats(NetworkSettings(request_plane="nats", nats=nats), 10)
            assert (found.stage, found.jetstream) == (NatsStage.DONE, is_on)
    finally:
        await server.stop()


async def test_what_a_user_may_not_is_told(cluster: Cluster, path: Path, tmp_path: Path) -> None:
    """Who may not talk in the namespace, and who may not use JetStream, which is on."""
    users = (
        f'{{ user: {name}, password: pw, permissions: {{ publish: "{root}.>", subscribe: "{root}.>" }} }}'
        for name, root in (("far", "other"), ("near", "callboard.doctored"))
    )
    server = NatsServer(
        tmp_path / "nats", token="", extra_config=f"authorization {{ users: [{', '.join(users)}] }}"
    )
    await server.start()
    try:
        given = {**os.environ, "NATS_SERVER": server.url, "NATS_AUTH_PASSWORD": "pw"}
        words = ("doctor", path, "--plane", "nats")
        far = await callboard(*words, env={**given, "NATS_AUTH_USERNAME": "far"})
        assert far.code == 1
        line = r"problem +nats-permissions .* not talk below callboard\.doctored: permissions violation"
        assert re.search(line, far.out, re.IGNORECASE), far.out
        near = {**given, "NATS_AUTH_USERNAME": "near"}
        assert (await callboard(*words, env=near)).code == 0
        stores = await callboard(*words, env={**near, "DYN_EVENT_PLANE": "jetstream"})
        assert stores.code == 1
        assert re.search(r"problem +jetstream-off +JetStream is not permitted to us", stores.out), stores.out
    finally:
        await server.stop()


async def test_what_runs_and_what_would_be_started_are_told_apart(
    cluster: Cluster, path: Path, tmp_path: Path
) -> None:
    server = NatsServer(tmp_path / "nats")
    await server.start()
    try:
        settings = NetworkSettings(request_plane="nats", nats=NatsSettings(**server.settings()))
        system = await cluster.system(settings=settings, namespace="doctored")
        await system.spawn(Echo, name="echo")
        assert system.directory is not None
        environment = {**os.environ, "NATS_SERVER": server.url, "NATS_AUTH_TOKEN": "wrong"}
        words = ("doctor", path, "--plane", "nats", "--json", "--runtime-dir", system.directory)
        done = await callboard(*words, env=environment)
        found = {f["text"]: f["level"] for f in done.json()["findings"] if f["check"] == "nats-credentials"}
        assert sorted(found.values()) == ["ok", "problem"]
        assert found["by the settings of the running system, NATS lets us in"] == "ok"
        await server.stop()
        done = await callboard(*words, env=environment)
        (blocked,) = [f for f in done.json()["findings"] if f["check"] == "port-blocked"]
        assert (blocked["level"], "because NATS cannot" in blocked["text"]) == ("warning", True)
    finally:
        await server.stop()


@pytest.mark.parametrize("greeting", ["INFO [1]", "INFO 1", "INFO {}", "INFO {", "INFO"])
async def test_a_greeting_that_is_none_is_told(cluster: Cluster, greeting: str) -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(greeting.encode() + b"\r\n")
        await writer.drain()
        writer.close()

    other = await asyncio.start_server(greet, "127.0.0.1", 0)
    nats = NatsSettings(servers=(f"nats://127.0.0.1:{other.sockets[0].getsockname()[1]}",))
    found = await look_at_nats(NetworkSettings(request_plane="nats", nats=nats), 10)
    other.close()
    assert found.stage is NatsStage.CONNECT
    assert found.error


async def test_a_program_that_is_no_nats_is_told(cluster: Cluster, path: Path) -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example ESMTP\r\n")
        await writer.drain()
        writer.close()

    other = await asyncio.start_server(greet, "127.0.0.1", 0)
    port = other.sockets[0].getsockname()[1]
    environment = {**os.environ, "NATS_SERVER": f"nats://127.0.0.1:{port}"}
    done = await callboard("doctor", path, "--plane", "nats", env=environment)
    other.close()
    assert done.code == 1
    assert "something listens there that is no NATS server" in done.out


async def test_what_embedded_would_run_is_looked_for(cluster: Cluster, path: Path) -> None:
    done = await callboard("doctor", path, "--nats-embedded", "--json")
    assert (done.code, levels(done)["nats-server-missing"]) == (0, "ok")


async def test_a_system_that_does_not_answer_is_a_warning(cluster: Cluster, path: Path) -> None:
    system = await cluster.up(path)
    process = await launch(COMMAND, "up", path, "-n", "frozen", "--json", start_new_session=True)
    assert process.stdout is not None
    await process.stdout.readline()
    supervisor = psutil.Process(process.pid)
    supervisor.suspend()
    await until(lambda: supervisor.status() == psutil.STATUS_STOPPED)
    done = await callboard("doctor", path, "-n", system.namespace, "--json")
    supervisor.resume()
    assert (done.code, levels(done)["other-systems"]) == (0, "warning")
    (finding,) = [f for f in done.json()["findings"] if f["check"] == "other-systems"]
    assert "frozen" in finding["text"]
    supervisor.terminate()
    assert (await finished(process)).code == 0


async def test_the_port_of_a_frontend_is_found_with_who_holds_it(cluster: Cluster, tmp_path: Path) -> None:
    config = tmp_path / "front.toml"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        config.write_text(
            'namespace = "front"\n[actor.frontend]\nclass = "callboard.serving:Frontend"\n'
            f'args = {{ port = {port}, router = {{ ref = "router" }} }}\n'
            '[actor.router]\nclass = "callboard.serving:Router"\nargs = { workers = { ref = "worker" } }\n'
            '[actor.worker]\nclass = "callboard.serving:Worker"\nargs = { engine = { kind = "simulated" } }\n'
        )
        done = await callboard("doctor", config)
        assert done.code == 1
        assert f"actor.frontend: 127.0.0.1:{port} is taken by process {os.getpid()}" in done.out
    await cluster.up(config, fixed_ports=True, runtime_dir=cluster.directory / "callboard" / "front")
    done = await callboard(
        "doctor", config, "--json", "--runtime-dir", cluster.directory / "callboard" / "front"
    )
    assert levels(done)["port-taken"] == "ok", done


async def test_a_fixed_port_must_be_free_and_so_must_those_of_the_other_processes(
    cluster: Cluster, path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        path.write_text(CONFIG + f"[network]\nport = {port - 1}\n")
        facts = await gather(path)
    assert [(entry.user, entry.port) for entry in facts.ports] == [
        ("DYN_TCP_RPC_PORT (network.port)", port - 1),
        ("DYN_TCP_RPC_PORT (network.port) + 1", port),
    ]
    texts = [finding.text for finding in examine(facts) if finding.check == "port-taken"]
    assert any(
        text.startswith(f"DYN_TCP_RPC_PORT (network.port) + 1: 127.0.0.1:{port} is taken") for text in texts
    )


def certificate(directory: Path) -> tuple[Path, Path]:
    """A certificate of its own authority for 127.0.0.1, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    cert, key = directory / "cert.pem", directory / "key.pem"
    command = f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -keyout {key} -out {cert}"
    names = ["-subj", "/CN=callboard", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command.split(), *names], check=True, capture_output=True)
    return cert, key


async def test_tls_is_judged_apart_from_credentials(cluster: Cluster, path: Path, tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    server = NatsServer(
        tmp_path / "nats", extra_config=f'tls {{ cert_file: "{cert}", key_file: "{key}", timeout: 10 }}'
    )
    await server.start()
    try:
        plain = {**server.settings(), "servers": (server.url.replace("nats://", "tls://"),)}

        async def stage(**changes: Any) -> NatsStage:
            nats = NatsSettings(**plain | changes)
            return (await look_at_nats(NetworkSettings(request_plane="nats", nats=nats), 10)).stage

        assert await stage() is NatsStage.TLS
        assert await stage(tls_ca_cert_path=str(cert)) is NatsStage.DONE
        assert await stage(tls_insecure=True) is NatsStage.DONE
        assert await stage(tls_ca_cert_path=str(cert), token="wrong") is NatsStage.CREDENTIALS
    finally:
        await server.stop()


async def test_credentials_are_used_as_the_settings_say(cluster: Cluster, path: Path, tmp_path: Path) -> None:
    server = NatsServer(
        tmp_path / "nats", token="", extra_config='authorization { user: "ann", password: "pw" }'
    )
    await server.start()
    try:
        for password, stage in (("pw", NatsStage.DONE), ("no", NatsStage.CREDENTIALS)):
            nats = NatsSettings(servers=(server.url,), username="ann", password=password)
            found = await look_at_nats(NetworkSettings(request_plane="nats", nats=nats), 10)
            assert found.stage is stage
            assert "check network.nats" not in found.error, "what to do is said by the check, once"
    finally:
        await server.stop()


async def test_what_is_gathered_says_what_the_command_prints(cluster: Cluster, path: Path) -> None:
    findings = examine(await gather(path))
    done = await callboard("doctor", path, "--json")
    assert [f.check for f in findings] == [f["check"] for f in done.json()["findings"]]


async def test_a_dead_process_is_told_from_one_that_is_silent(cluster: Cluster) -> None:
    system = await cluster.system(plane="tcp")
    await system.spawn(Echo, name="echo")
    process, settings = system.status().process("echo.0"), NetworkSettings(connect_timeout_s=0.5)
    assert (await dial(process, system.namespace, settings)).reach is Reach.ANSWERS
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        elsewhere = replace(process, address=f"tcp://127.0.0.1:{sock.getsockname()[1]}")
        assert (await dial(elsewhere, system.namespace, settings)).reach is Reach.REFUSED
        sock.listen()  # the kernel takes the connection, and nobody answers on it
        silent = await dial(elsewhere, system.namespace, settings)
        assert (silent.reach, "no handshake within 0.5 s" in silent.text) == (Reach.SILENT, True)
    stranger = await dial(process, "another-namespace", settings)
    assert (stranger.reach, "another-namespace" in stranger.text) == (Reach.REJECTED, True)
