"""Addresses are parsed whole or refused with the reason."""

import string
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callboard.transports.address import Address, is_loopback, is_numeric
from callboard.transports.errors import BadAddress

WORDS = st.text(string.ascii_letters + string.digits + "/._-:", min_size=1)
OPTIONS = st.dictionaries(st.text(string.ascii_lowercase, min_size=1), st.text(min_size=1), max_size=3)


@pytest.mark.parametrize(
    ("text", "scheme", "place", "options"),
    [
        ("tcp://127.0.0.1:4567", "tcp", "127.0.0.1:4567", {}),
        ("TCP://127.0.0.1:4567", "tcp", "127.0.0.1:4567", {}),
        ("tcp://[::1]:80?ipc=/run/x&host=ab", "tcp", "[::1]:80", {"ipc": "/run/x", "host": "ab"}),
        ("ipc:///tmp/a b", "ipc", "/tmp/a b", {}),
        ("memory://web.0-1", "memory", "web.0-1", {}),
    ],
)
def test_an_address_has_a_scheme_a_place_and_options(text, scheme, place, options):
    assert Address.parse(text) == Address(scheme, place, options)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "it has no scheme; write for example"),
        ("127.0.0.1:80", "it has no scheme"),
        ("://x", "it has no scheme"),
        ("t c p://x", "is not a scheme"),
        ("tcp://", "nothing follows the scheme"),
        ("tcp://?a=b", "nothing follows the scheme"),
    ],
)
def test_what_is_no_address_is_refused_with_the_reason(text, why):
    with pytest.raises(BadAddress, match=why) as caught:
        Address.parse(text)
    assert repr(text) in str(caught.value)


@given(st.sampled_from(["tcp", "ipc", "memory", "my-plane", "a+b"]), WORDS, OPTIONS)
def test_an_address_comes_back_from_its_text(scheme, place, options):
    address = Address(scheme, place, options)
    assert Address.parse(str(address)) == address


@given(st.text())
def test_any_text_is_an_address_or_a_bad_one(text):
    for candidate in (text, f"tcp://{text}"):
        with suppress(BadAddress):
            Address.parse(candidate).host_port()


@pytest.mark.parametrize(
    ("place", "expected"),
    [("127.0.0.1:80", ("127.0.0.1", 80)), ("[::1]:0", ("::1", 0)), ("some.host:65535", ("some.host", 65535))],
)
def test_a_place_splits_into_host_and_port(place, expected):
    assert Address("tcp", place).host_port() == expected


@pytest.mark.parametrize(
    "place",
    [
        "host",
        ":80",
        "host:",
        "host:x",
        "host:65536",
        "host:-1",
        "[::1",
        "::1:80",
        "user@host:80",
        "host:80/x",
    ],
)
def test_a_place_that_is_no_host_and_port_is_refused(place):
    with pytest.raises(BadAddress):
        Address("tcp", place).host_port()


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("[::1]", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.0.1", False),
        ("example.org", False),
        ("localhost.example.org", False),
        ("", False),
    ],
)
def test_loopback_is_what_only_this_machine_can_reach(host, expected):
    assert is_loopback(host) is expected


def test_a_name_is_not_numeric():
    assert [is_numeric(host) for host in ("127.0.0.1", "::1", "localhost", "")] == [True, True, False, False]
