"""NATS in the tests of callboard's users: no set-up, one server per run, nothing that one test sees of another."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

from callboard.testing import nats_session

CONFIG = '''
        CONFIG = """
        [actor.echo]
        class = "nats_actors:Echo"
        replicas = 2
        [process.e]
        actors = ["echo"]
        count = 2
        """
'''

USER = (
    """
        import os
        import nats
        import pytest
        from callboard import Actor, System
        from callboard.transports.nats_settings import NatsSettings

        class Local(Actor):
            async def hello(self) -> str:
                return "hello"
"""
    + CONFIG
    + """
        def note(text):
            with open(os.environ["NOTES"], "a") as file:
                print(text, file=file)

        async def test_a_config_on_nats(cluster):
            system = await cluster.up(CONFIG, plane="nats")
            assert system.status().plane == "nats"
            assert all(p.address.startswith(f"nats://{cluster.token}.") for p in system.status().processes)
            assert await system.ref("echo").ask("hello") == "hello"
            note((await cluster.nats()).url)

        @pytest.mark.parametrize("cluster", ["tcp", "nats"], indirect=True)
        async def test_once_per_plane(cluster):
            for system in (await cluster.up(CONFIG), await cluster.system()):
                assert system.status().plane == cluster.plane

        async def test_a_plane_that_the_config_says(cluster):
            system = await cluster.up('request_plane = "nats"\\n' + CONFIG)
            assert await system.ref("echo").ask("hello") == "hello"

        async def test_a_script_on_nats(cluster):
            system = await cluster.system(plane="nats")
            local = await system.spawn(Local)
            assert await local.ask(Local.hello) == "hello"
            note((await cluster.nats()).url)

        def test_the_fixture_alone(nats_server):
            assert NatsSettings(**nats_server.settings()).prefix == nats_server.prefix
            note(nats_server.url)

        async def test_the_fixture_and_the_cluster_are_at_one_place(cluster, nats_server):
            assert (nats_server.prefix, nats_server.url) == (cluster.token, (await cluster.nats()).url)
            connection = await nats.connect(nats_server.url, token=nats_server.token)
            assert (await connection.jetstream().account_info()).streams == 0
            await connection.close()

        async def test_a_killed_server_is_there_again(cluster, nats_server):
            await nats_server.server.kill()
            assert (await cluster.nats()).server.is_ready
            note(nats_server.url)

        async def test_with_one_of_its_own(cluster):
            async with System(namespace=cluster.token, nats_embedded=True) as system:
                assert await (await system.spawn(Local)).ask(Local.hello) == "hello"
    """
)

ACTORS = """
from callboard import Actor

class Echo(Actor):
    async def hello(self) -> str:
        return "hello"
"""


def servers() -> set[int]:
    return {p.pid for p in psutil.process_iter(["name"]) if p.info["name"] == "nats-server"}


def test_tests_on_nats_need_no_set_up_and_share_one_server_that_ends_with_the_run(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    monkeypatch.setenv("NOTES", str(tmp_path / "notes"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    pytester.makepyfile(nats_actors=ACTORS)
    pytester.makepyfile(USER)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    own = nats_session._directory()
    killed = re.sub(r"\.\d+-", ".1-", own.name)  # of another process: our start was another
    own.rename(own.with_name(killed))
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-p", "no:hypothesispytest")
    result.assert_outcomes(passed=9)
    urls = (tmp_path / "notes").read_text().split()
    assert len(urls) == 4
    assert len(set(urls)) == 1
    assert list(tmp_path.glob("callboard-nats-*")) == []
    port = int(urls[0].rpartition(":")[2])
    assert port not in {c.laddr.port for c in psutil.net_connections("tcp4") if c.status == "LISTEN"}


IN_A_NAMESPACE = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]


def test_what_a_run_in_another_pid_namespace_stores_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if shutil.which("unshare") is None or subprocess.run([*IN_A_NAMESPACE, "true"], check=False).returncode:
        pytest.skip("needs PID namespaces that users can make")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    code = "from callboard.testing import nats_session; print(nats_session._directory())"
    command = [*IN_A_NAMESPACE, sys.executable, "-c", code]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    ours = nats_session._directory()
    theirs = Path(subprocess.check_output(command, env=environment, text=True).strip())
    nats_session._directory()
    assert (ours.is_dir(), theirs.is_dir()) == (True, True)


def test_a_config_on_nats_without_a_program_says_what_to_install(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    pytester.makepyfile(nats_actors=ACTORS)
    pytester.makepyfile(
        "import sysconfig\nimport pytest\nfrom callboard.supervisor.errors import NatsServerMissing\n"
        + "\n".join(line.removeprefix("        ") for line in CONFIG.splitlines())
        + """
async def test_it(cluster, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    with pytest.raises(NatsServerMissing, match="callboard.nats-server."):
        await cluster.up(CONFIG, plane="nats")
"""
    )
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-p", "no:hypothesispytest")
    result.assert_outcomes(passed=1)
