"""A host that is found by itself is one that another machine reaches; the machines are network namespaces."""

import json
import shutil
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("two_hosts.py")
IN_A_NAMESPACE = ["unshare", "--net", "--user", "--map-root-user"]
LIMIT_S = 100.0


@lru_cache(maxsize=1)
def obstacle():
    """Why this machine cannot make a cable between two namespaces; empty if it can."""
    for tool in ("unshare", "nsenter", "ip"):
        if shutil.which(tool) is None:
            return f"{tool} is not installed"
    words = ["ip", "link", "add", "cable1", "type", "veth", "peer", "name", "cable2"]
    done = subprocess.run(
        [*IN_A_NAMESPACE, *words], capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    return f"no network namespaces here: {done.stderr.strip()}" if done.returncode else ""


def two_hosts(host, prefix):
    """What the program prints."""
    if why := obstacle():
        pytest.skip(why)
    words = [*IN_A_NAMESPACE, sys.executable, str(PROGRAM), host, prefix]
    done = subprocess.run(words, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    if done.returncode:
        if ":" in prefix and "IPv6 is disabled" in done.stderr:
            pytest.skip("IPv6 is disabled")
        pytest.fail(done.stderr, pytrace=False)
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("host", "prefix", "only_there"),
    [
        ("auto", "10.77.0.", True),
        ("0.0.0.0", "10.77.0.", False),
        ("::", "10.77.0.", False),
        ("auto", "fd77::", True),
        ("::", "fd77::", False),
    ],
)
def test_the_address_that_is_found_is_one_that_the_other_machine_reaches(host, prefix, only_there):
    shown = two_hosts(host, prefix)
    assert (shown["first"], shown["second"]) == (f"{prefix}1", f"{prefix}2")
    assert (shown["echo"], shown["came"]) == ("there and back", 3), "they talked, each to the other's address"
    assert shown["only_there"] is only_there, "auto binds that address and no other"
    what = "this machine has no address that others can reach, only loopback; connect it to a network, or set"
    assert what in shown["alone"], "before there was a cable"
