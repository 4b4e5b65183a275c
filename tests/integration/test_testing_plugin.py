"""The pytest plug-in, seen from a project that uses it: each test runs pytest on a file of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

from callboard.supervisor.guardian import start_time

linux_only = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")


@pytest.fixture
def run(pytester, monkeypatch):
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)

    def run(source, *options):
        pytester.makeconftest("import callboard.testing.leaks as leaks; leaks.SETTLE_S = 0.2")
        pytester.makepyfile(source)
        return pytester.runpytest_subprocess("-p", "no:cacheprovider", "-p", "no:hypothesispytest", *options)

    return run


def test_a_coroutine_test_runs_on_a_loop_of_its_own(run):
    result = run("""
        import asyncio
        loops = []

        async def test_one(tmp_path):
            await asyncio.sleep(0)
            loops.append(asyncio.get_running_loop())
            assert tmp_path.is_dir()

        class TestGroup:
            async def test_two(self):
                assert asyncio.get_running_loop() not in loops
                assert loops[0].is_closed()

        async def test_that_fails():
            assert 1 == 2
    """)
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["*assert 1 == 2"])


def test_an_error_that_only_the_loop_saw_fails_the_test(run):
    result = run("""
        import asyncio

        async def test_callback():
            done = asyncio.Event()
            def callback():
                done.set()
                raise ZeroDivisionError("in a callback")
            asyncio.get_running_loop().call_soon(callback)
            await done.wait()
    """)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*ZeroDivisionError: in a callback*"])


def test_a_time_limit_ends_a_coroutine_test_that_hangs(run):
    source = """
        import asyncio

        async def test_hangs():
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0)
                print("cleaned up")
    """
    result = run(source, "--timeout=1", "--timeout-method=signal")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*Timeout*", "*cleaned up*"])


def test_tests_claimed_by_another_plugin_are_left_alone(run):
    result = run("""
        import asyncio
        import pytest

        @pytest.fixture
        def anyio_backend():
            return "asyncio", {"use_uvloop": False}

        @pytest.mark.anyio
        async def test_of_anyio():
            assert "uvloop" not in type(asyncio.get_running_loop()).__module__
    """)
    result.assert_outcomes(passed=1)


def test_a_project_that_does_not_use_it_pays_for_no_import(run):
    result = run("""
        import sys

        def test_plain():
            heavy = {"zmq", "uvloop", "msgspec", "psutil", "click", "callboard.testing.cluster"}
            assert not heavy & set(sys.modules)
    """)
    result.assert_outcomes(passed=1)


def test_the_fixture_wants_a_coroutine_test(run):
    result = run("""
        def test_sync(cluster):
            pass
    """)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*test_sync uses the cluster fixture: it must be an `async def` test*"])


@linux_only
def test_what_a_test_leaves_behind_fails_it_by_name(run):
    result = run("""
        import asyncio, socket, subprocess, threading
        kept = []
        stop = threading.Event()

        async def test_process(cluster):
            kept.append(subprocess.Popen(["sleep", "600"]))

        async def test_socket(cluster):
            kept.append(socket.create_server(("127.0.0.1", 0)))

        async def test_task(cluster):
            kept.append(asyncio.create_task(asyncio.Event().wait(), name="forgotten"))

        async def test_thread(cluster):
            kept.append(threading.Thread(target=stop.wait, name="spinner", daemon=True))
            kept[-1].start()

        async def test_file(cluster):
            cluster.directory.joinpath("remains.sock").write_text("")

        async def test_nothing(cluster):
            pass
    """)
    result.assert_outcomes(passed=1, failed=5)
    result.stdout.fnmatch_lines_random(
        [
            "*process: pid * sleep 600",
            "*descriptor: * 127.0.0.1:* LISTEN",
            "*task: forgotten running *",
            "*thread: spinner",
            "*file: */remains.sock",
        ]
    )


@linux_only
def test_a_process_left_behind_is_killed(run, pytester):
    result = run("""
        import subprocess

        async def test_process(cluster):
            child = subprocess.Popen(["sleep", "600"], start_new_session=True)
            open("pid", "w").write(str(child.pid))
            child.returncode = 0
    """)
    result.assert_outcomes(failed=1)
    pid = int(pytester.path.joinpath("pid").read_text())
    assert start_time(pid) == -1


def test_a_failing_test_keeps_its_own_error_and_shows_the_logs(run):
    result = run("""
        import asyncio
        kept = []

        async def test_fails(cluster):
            kept.append(asyncio.create_task(asyncio.Event().wait(), name="forgotten"))
            logs = cluster.directory / "callboard" / "demo" / "logs"
            logs.mkdir(parents=True)
            (logs / "engine.0.log").write_text("the engine said this")
            assert "mine" == "the error"
    """)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*AssertionError*",
            "*log of demo/engine.0*",
            "the engine said this",
            "*left behind*",
            "*task: forgotten*",
        ]
    )


def test_a_failing_test_shows_what_its_processes_wrote(run):
    result = run("""
        from callboard import Actor

        class Talker(Actor):
            async def say(self, text: str) -> None:
                print(text)

        async def test_fails(cluster):
            system = await cluster.system()
            talker = await system.spawn(Talker)
            await talker.ask(Talker.say, "the talker said this")
            assert "mine" == "the error"
    """)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*AssertionError*", "*log of cb*-1/talker*", "*the talker said this*"])
    result.stdout.no_fnmatch_line("*left behind*")


def test_tests_of_parallel_workers_do_not_meet(run):
    result = run(
        """
        import os
        import pytest

        @pytest.mark.parametrize("number", range(8))
        async def test_apart(cluster, number):
            assert os.environ["XDG_RUNTIME_DIR"] == str(cluster.directory)
            assert not list(cluster.directory.iterdir())
            cluster.directory.joinpath("x").write_text("")
            cluster.directory.joinpath("x").unlink()
        """,
        "-n2",
    )
    result.assert_outcomes(passed=8)


def test_the_plugin_module_is_cheap_to_import():
    script = (
        "import sys, pytest; before = set(sys.modules); import callboard.testing.plugin;"
        " print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == ["callboard", "callboard.testing", "callboard.testing.plugin"]
