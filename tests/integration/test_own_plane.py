"""Somebody else's plane, registered by an entry point: the shipped suite passes on it, and fails on a broken one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "own_plane.py"
RIG = EXAMPLE.with_name("own_plane_rig.py")
SUITE = "callboard.testing.conformance"
MODULES = [
    f"{SUITE}.{name}" for name in ("test_planes", "test_planes_ends", "test_planes_dialling", "test_faults")
]


@pytest.fixture
def installed(tmp_path):
    """Install the plane as a package manager does: a module and its metadata in a directory of the path."""

    def install(source):
        site = tmp_path / "site"
        metadata = site / "own_plane-1.0.dist-info"
        metadata.mkdir(parents=True)
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: own-plane\nVersion: 1.0\n")
        (metadata / "entry_points.txt").write_text("[callboard.planes]\nown = own_plane:OwnPlane\n")
        (site / "own_plane.py").write_text(source)
        (site / "own_plane_rig.py").write_text(RIG.read_text())
        return site

    return install


def suite(site, *arguments):
    """Run pytest as its author would, outside of this repository; returns the exit code and what was printed."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "--rootdir",
            site,
            "--pyargs",
            *arguments,
        ],
        env=os.environ | {"PYTHONPATH": str(site), "PYTEST_ADDOPTS": ""},
        cwd=site,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.timeout(300)
def test_the_suite_passes_on_a_plane_of_somebody_else(installed):
    site = installed(EXAMPLE.read_text())
    code, printed = suite(site, *MODULES, f"{SUITE}.actors.test_asks", "--plane-rig", "own_plane_rig:OwnRig")
    assert code == 0, printed
    assert " passed" in printed


def test_a_process_that_uses_the_plane_has_no_pytest(installed):
    script = "import own_plane, sys; print('pytest' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=installed(EXAMPLE.read_text()),
        env=os.environ | {"PYTHONPATH": "."},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "False\n"


BROKEN = {
    "order": ("self._outgoing: asyncio.Queue[bytes | None] = asyncio.Queue()",
              "self._outgoing: asyncio.Queue[bytes | None] = asyncio.LifoQueue()",
              "test_what_was_sent_before_a_close_arrives"),
    "limit": ("if size > self._limit_bytes:", "if False:", "test_a_message_over_the_limit_is_refused"),
    "bound": ("if self._waiting >= self._side", "if 0 > self._side", "test_a_link_whose_peer_does_not_read_is_full"),
    "one end": ("self.handler.link_down(link, error)", "[self.handler.link_down(link, error) for _ in '12']",
                "test_close_ends_both_sides_closed_here_and_broken_there"),
    "version": ("if why := hs.objection(", "if why := (lambda *_: '')(", "test_a_node_that_speaks_another_major"),
}  # fmt: skip
"""What each of them does not keep any more: the line, what is there instead, and the test that must see it."""


@pytest.mark.parametrize("promise", BROKEN)
def test_the_suite_fails_on_a_plane_that_breaks_a_promise(installed, promise):
    line, instead, test = BROKEN[promise]
    source = EXAMPLE.read_text()
    assert source.count(line) == 1
    site = installed(source.replace(line, instead))
    code, printed = suite(site, *MODULES, "--plane-rig", "own_plane_rig:OwnRig", "-k", test, "-x")
    assert code == 1, printed
    assert f"::{test}" in printed
    assert " error" not in printed.splitlines()[-1], "it failed, and not because something else was wrong"


def test_without_a_plane_the_suite_says_how_to_name_one(installed):
    site = installed(EXAMPLE.read_text())
    code, printed = suite(site, f"{SUITE}.test_planes")
    assert code != 0
    assert "pytest --pyargs callboard.testing.conformance --plane SCHEME" in printed
    code, printed = suite(site, f"{SUITE}.test_planes", "--plane", "owm")
    assert code != 0
    assert 'did you mean "own"?' in printed
    code, printed = suite(site, f"{SUITE}.test_planes", "--plane-rig", "own_plane:OwnPlane")
    assert code != 0
    assert "it must be a subclass of callboard.testing.conformance.rig.Rig that has a scheme" in printed
