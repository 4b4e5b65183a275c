"""The runtime directory: one owner at a time, taken over from the dead, found by namespace."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import threading
from pathlib import Path

import pytest

from callboard.supervisor import rundir
from callboard.supervisor.errors import AlreadyRunning, NotRunning
from callboard.supervisor.rundir import RuntimeDirectory, directory_for, find_running, is_held
from callboard.transports.errors import ConfigError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "callboard" / "demo"


def claim(path: Path) -> RuntimeDirectory:
    return RuntimeDirectory.claim(path, namespace="demo", tree="a-tree")


def test_a_claimed_directory_is_private_and_held_until_it_is_released(path: Path) -> None:
    directory = claim(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert is_held(path)
    with pytest.raises(AlreadyRunning, match=f"process {os.getpid()}"):
        claim(path)
    directory.release()
    directory.release()
    assert not is_held(path)
    assert not path.exists()


def test_what_a_dead_owner_left_is_cleared(path: Path) -> None:
    path.mkdir(mode=0o700, parents=True)
    for name in ("admin.sock", "state.json", "lock"):
        (path / name).write_text("left")
    (path / "logs").mkdir()
    (path / "logs" / "old.log").write_text("old")
    directory = claim(path)
    assert not list(directory.logs.iterdir())
    assert not directory.admin_socket.exists()
    directory.release()


def test_who_only_looks_does_not_keep_others_from_claiming(path: Path) -> None:
    claim(path).release()
    path.mkdir(mode=0o700)
    looking = os.open(path / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(looking, fcntl.LOCK_SH)
    leave = threading.Timer(0.03, os.close, (looking,))
    leave.start()
    claim(path).release()
    leave.join()


def test_a_release_leaves_the_next_owner_everything(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = claim(path)
    close, seconds = os.close, []

    def close_late(descriptor: int) -> None:
        # Nothing of the first owner is there any more but its lock: somebody else comes in.
        if not seconds and not path.exists():
            monkeypatch.undo()
            seconds.append(claim(path))
        close(descriptor)

    monkeypatch.setattr(os, "close", close_late)
    first.release()
    assert is_held(path)
    assert (path / "state.json").exists()
    seconds[0].release()


def test_the_lock_is_removed_last(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = claim(path)
    removed: list[str] = []
    remove = rundir._remove

    def note(inside: Path) -> None:
        removed.append(inside.name)
        remove(inside)

    monkeypatch.setattr(rundir, "_remove", note)
    directory.release()
    assert set(removed) == {"lock", *rundir.NAMES}
    assert removed[-1] == "lock"


def test_many_claims_at_once_have_one_winner_each_time(path: Path) -> None:
    wins: list[RuntimeDirectory] = []
    losses: list[AlreadyRunning] = []
    start = threading.Barrier(8)

    def compete() -> None:
        start.wait()
        try:
            wins.append(claim(path))
        except AlreadyRunning as error:
            losses.append(error)

    for _ in range(20):
        threads = [threading.Thread(target=compete) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (len(wins), len(losses)) == (1, 7)
        wins.pop().release()
        losses.clear()


def test_a_directory_that_anybody_can_replace_is_refused(path: Path) -> None:
    path.parent.mkdir()
    path.parent.chmod(0o777)
    with pytest.raises(ConfigError, match="anybody can replace the runtime directory"):
        claim(path)


def test_a_path_too_long_for_a_socket_is_refused_with_its_length(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is too long: \d+ bytes .*, the limit is 107; choose a shorter"):
        claim(tmp_path / ("x" * 120))


def test_a_directory_that_disappears_can_still_be_released(path: Path) -> None:
    directory = claim(path)
    for entry in path.iterdir():
        entry.rmdir() if entry.is_dir() else entry.unlink()
    path.rmdir()
    directory.release()


def test_a_running_system_is_found_by_namespace_or_because_it_is_the_only_one(tmp_path: Path) -> None:
    environment = {"XDG_RUNTIME_DIR": str(tmp_path)}
    with pytest.raises(NotRunning):
        find_running(environment, None, None)
    one = claim(directory_for("one", environment))
    assert find_running(environment, None, None) == one.path
    two = claim(directory_for("two", environment))
    with pytest.raises(ConfigError, match="several systems run here: one, two; choose one with --namespace"):
        find_running(environment, None, None)
    assert find_running(environment, "two", None) == two.path
    with pytest.raises(NotRunning, match="three"):
        find_running(environment, "three", None)
    chosen = {**environment, "CALLBOARD_RUNTIME_DIR": str(one.path)}
    assert find_running(chosen, None, None) == one.path
    two.release()
    assert find_running(environment, None, None) == one.path
    one.release()


def test_a_directory_with_a_users_files_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    (tmp_path / "thesis.txt").write_text("mine")
    (tmp_path / "logs").mkdir()
    with pytest.raises(ConfigError, match=r"is not empty and not one of callboard's; choose an empty one"):
        claim(tmp_path)
    (tmp_path / "lock").write_text("mine too")
    with pytest.raises(ConfigError, match="is not empty"):
        claim(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["lock", "logs", "thesis.txt"]


def test_a_directory_that_a_user_made_stays_when_it_is_released(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    claim(tmp_path).release()
    assert os.listdir(tmp_path) == []


def test_what_a_user_puts_into_a_claimed_directory_survives_it(path: Path) -> None:
    for _ in range(2):
        directory = claim(path)
        (path / "notes.txt").write_text("mine")
        directory.release()
        assert (path / "notes.txt").read_text() == "mine"


def test_a_directory_that_others_can_enter_is_refused_and_not_changed(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with pytest.raises(ConfigError, match=r"is open to others \(mode 755\); chmod 700 it"):
        claim(tmp_path)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755


def test_a_symbolic_link_is_refused_and_one_inside_is_not_followed(path: Path, tmp_path: Path) -> None:
    treasure = tmp_path / "treasure"
    treasure.mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(treasure)
    with pytest.raises(ConfigError, match="is a symbolic link"):
        claim(tmp_path / "link")
    (treasure / "gold").write_text("gold")
    directory = claim(path)
    directory.ipc.rmdir()
    directory.ipc.symlink_to(treasure)
    directory.release()
    assert (treasure / "gold").exists()


def test_a_claim_that_fails_half_way_holds_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **kwargs: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        with pytest.raises(ConfigError, match="cannot be made: No space left on device; choose another"):
            claim(path)
    assert not path.exists()
    claim(path).release()


def test_a_directory_of_another_user_is_no_running_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {"XDG_RUNTIME_DIR": str(tmp_path)}
    one = claim(directory_for("one", environment))
    other = os.getuid() + 1
    with monkeypatch.context() as patch:
        patch.setattr(os, "getuid", lambda: other)
        with pytest.raises(NotRunning):
            find_running(environment, None, None)
        with pytest.raises(ConfigError, match="belongs to user"):
            find_running(environment, None, one.path)
    one.release()
