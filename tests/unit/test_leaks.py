import asyncio
import mmap
import os
import socket
import subprocess
import sys
import threading
import uuid
from pathlib import Path

import pytest

from callboard.supervisor.guardian import VARIABLE
from callboard.testing.leaks import Item, Kind, difference, look, settled

linux_only = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")


def names(kind, before, after):
    return [item.text for item in difference(before, after) if item.kind is kind]


def test_the_difference_is_what_came_and_ignores_what_went():
    stays, goes = Item(Kind.FILE, "a", "a"), Item(Kind.FILE, "b", "b")
    came = [Item(Kind.TASK, 1, "task one"), Item(Kind.FILE, "c", "c")]

    assert difference(frozenset({stays, goes}), frozenset({stays, *came})) == [came[1], came[0]]


def test_the_same_thing_described_otherwise_is_not_new():
    assert (
        difference(frozenset({Item(Kind.TASK, 1, "waiting")}), frozenset({Item(Kind.TASK, 1, "running")}))
        == []
    )


@linux_only
def test_an_open_socket_is_named_with_its_address():
    async def scenario():
        before = look()
        with socket.create_server(("127.0.0.1", 0)) as server:
            left = await settled(before, look, limit_s=0)
            port = server.getsockname()[1]
        assert [f"127.0.0.1:{port} LISTEN" in str(item) for item in left] == [True]
        assert await settled(before, look) == []

    asyncio.run(scenario())


@linux_only
def test_shared_memory_without_a_name_is_found_by_its_descriptor():
    async def scenario():
        before = look()
        fd = os.memfd_create("callboard")
        try:
            left = await settled(before, look, limit_s=0)
        finally:
            os.close(fd)
        assert [str(item) for item in left] == [
            f"shared memory: /memfd:callboard (deleted) at descriptor {fd}"
        ]
        assert await settled(before, look) == []

    asyncio.run(scenario())


@linux_only
def test_a_process_that_carries_the_mark_is_found_though_it_is_nobodys_child():
    token = f"test-{uuid.uuid4().hex}"
    before = look(token=token)
    # The middle process ends at once, so that the marked one is an orphan.
    script = "import subprocess; print(subprocess.Popen(['sleep', '60'], stdout=2).pid)"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, VARIABLE: f"outer/{token}/inner"},
        stdout=subprocess.PIPE,
        check=True,
        timeout=30,
    )
    pid = int(done.stdout)
    try:
        assert names(Kind.PROCESS, before, look(token=token)) == [f"pid {pid} sleep 60"]
        assert names(Kind.PROCESS, before, look(token="another")) == []
    finally:
        os.kill(pid, 9)


@linux_only
def test_a_child_that_was_never_reaped_is_found():
    before = look()
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    try:
        assert names(Kind.PROCESS, before, look()) == [f"pid {child.pid} (ended, never reaped)"]
    finally:
        child.wait()


def test_a_thread_is_named():
    stop = threading.Event()
    before = look()
    thread = threading.Thread(target=stop.wait, name="left behind")
    thread.start()
    try:
        assert names(Kind.THREAD, before, look()) == ["left behind"]
    finally:
        stop.set()
        thread.join()
    assert names(Kind.THREAD, before, look()) == []


@linux_only
def test_a_zmq_context_that_was_not_terminated_is_found_by_its_threads():
    zmq = pytest.importorskip("zmq")
    before = look()
    with zmq.Context() as context, context.socket(zmq.PAIR) as pair:
        pair.bind("inproc://x")
        found = names(Kind.THREAD, before, look())
    assert found
    assert all("of a zmq context" in text for text in found)
    assert names(Kind.THREAD, before, look()) == []


def test_a_task_is_named_with_the_place_where_it_waits():
    async def wait_for_ever():
        await asyncio.Event().wait()

    async def scenario():
        before = look()
        task = asyncio.create_task(wait_for_ever(), name="left behind")
        await asyncio.sleep(0)
        (text,) = names(Kind.TASK, before, look())
        assert text.startswith("left behind running ")
        assert "wait_for_ever at " in text
        task.cancel()
        assert await settled(before, look) == []

    asyncio.run(scenario())


def test_a_file_below_the_directory_is_found_and_an_empty_directory_is_not(tmp_path):
    before = look(directory=tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "logs").mkdir()
    path = tmp_path / "logs" / "worker.0.log"
    path.write_text("")

    assert names(Kind.FILE, before, look(directory=tmp_path)) == [str(path)]


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs /dev/shm")
def test_a_shared_memory_segment_is_found():
    path = Path(f"/dev/shm/callboard-{uuid.uuid4().hex}")
    before = look()
    path.write_bytes(b"x")
    try:
        assert str(path) in names(Kind.SEGMENT, before, look())
    finally:
        path.unlink()


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs /dev/shm")
def test_a_segment_in_use_by_another_process_is_not_left_behind():
    path = Path(f"/dev/shm/callboard-{uuid.uuid4().hex}")
    script = (
        "import mmap, sys; file = open(sys.argv[1], 'r+b'); view = mmap.mmap(file.fileno(), 0);"
        " print('mapped', flush=True); sys.stdin.read()"
    )

    def segments():
        return frozenset(item for item in look() if item.kind is Kind.SEGMENT and str(path) == item.text)

    async def scenario():
        path.write_bytes(bytes(mmap.PAGESIZE))
        with subprocess.Popen(
            [sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as user:
            assert user.stdout.readline() == b"mapped\n"
            assert await settled(frozenset(), segments, limit_s=0) == []
            user.stdin.close()
            user.wait()
        assert [item.text for item in await settled(frozenset(), segments, limit_s=0)] == [str(path)]

    try:
        asyncio.run(scenario())
    finally:
        path.unlink()


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs /dev/shm")
def test_a_semaphore_of_another_process_is_not_left_behind():
    """The C library maps it under another name, and gives it its own after that."""
    script = (
        "import multiprocessing, sys; made = multiprocessing.get_context('spawn').Semaphore();"
        " print(made._semlock.name, flush=True); sys.stdin.read()"
    )

    async def scenario():
        with subprocess.Popen(
            [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as user:
            path = f"/dev/shm/sem.{user.stdout.readline().strip().removeprefix('/')}"
            seen = frozenset(item for item in look() if item.text == path)
            assert len(seen) == 1
            assert await settled(frozenset(), lambda: seen, limit_s=0) == []
            user.stdin.close()

    asyncio.run(scenario())
