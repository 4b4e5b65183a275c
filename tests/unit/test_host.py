"""Which address others can reach is decided from a list; what the machine has is asked without sending."""

import ipaddress

import psutil
import pytest

from callboard.transports.errors import BadAddress
from callboard.transports.host import first_reachable, is_host, own_addresses, places


@pytest.mark.parametrize(
    ("addresses", "ipv4_only", "any_version"),
    [
        (["127.0.0.1", "10.0.0.1", "10.0.0.2"], "10.0.0.1", "10.0.0.1"),
        (["2001:db8::1", "192.168.0.7"], "192.168.0.7", "192.168.0.7"),
        (["::1", "fe80::1%eth0", "2001:db8::1"], "", "2001:db8::1"),
        (["169.254.3.4", "0.0.0.0", "224.0.0.1", "127.9.9.9"], "", ""),
        ([], "", ""),
    ],
)
def test_the_first_address_that_others_can_reach_is_taken_ipv4_before_ipv6(addresses, ipv4_only, any_version):
    assert first_reachable(addresses, ipv6=False) == ipv4_only
    assert first_reachable(addresses, ipv6=True) == any_version


def test_what_is_no_wildcard_is_bound_and_given_as_it_is():
    assert places("10.9.8.7") == ("10.9.8.7", "")
    assert places("localhost") == ("127.0.0.1", "")
    assert places("[::1]") == ("::1", "")


def test_every_own_address_is_one_of_an_interface():
    known = {entry.address for entries in psutil.net_if_addrs().values() for entry in entries}
    found = list(own_addresses())
    assert found
    assert set(found) <= known


def test_a_wildcard_binds_all_and_auto_binds_the_one_that_is_given():
    if not first_reachable(own_addresses(), ipv6=False):
        for host in ("auto", "0.0.0.0", "::"):
            with pytest.raises(BadAddress, match="this machine has no address that others can reach"):
                places(host)
        return
    bound, given = places("0.0.0.0")
    assert bound == "0.0.0.0"
    assert not ipaddress.ip_address(given).is_loopback
    assert places("auto") == (given, "")
    assert places("::") == ("::", given)


def test_a_host_is_an_address_or_a_name():
    good = ["127.0.0.1", "::1", "[::1]", "localhost", "db-1.example.org", "auto"]
    bad = ["", "a b", "a/b", "host:80", "-a", "a\n", "x" * 300, "*"]
    assert [text for text in good + bad if is_host(text)] == good
