"""The handshake is read whole or is nonsense; what two sides do not share is named."""

from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from callboard.transports.base import PROTOCOL_VERSION, RESERVED_BYTE, Identity
from callboard.transports.handshake import (
    ACCEPTED,
    GOODBYE,
    HELLO,
    LIMIT_BYTES,
    REFUSED,
    Hello,
    Nonsense,
    decode_hello,
    decode_reason,
    encode_goodbye,
    encode_hello,
    encode_refusal,
    is_own_frame,
    objection,
)

OWN = Identity(node="n1", name="web.0", namespace="demo")
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
IDENTITIES = st.builds(
    Identity,
    node=st.text(),
    name=st.text(),
    namespace=st.text(),
    incarnation=st.integers(0, 2**31),
    pid=st.integers(0, 2**31),
    host=st.text(),
    address=st.text(),
    max_message_bytes=st.integers(0, 2**40),
    features=st.lists(st.text(), max_size=4).map(tuple),
)


def read(frame):
    """Decode; every failure but `Nonsense` is a bug."""
    try:
        return decode_hello(frame)
    except Nonsense:
        return None


@given(IDENTITIES, st.text(), st.sampled_from([HELLO, ACCEPTED]))
def test_a_hello_comes_back_as_it_went(identity, expects, kind):
    hello = Hello(identity, expects=expects)
    frame = encode_hello(kind, hello)
    assert is_own_frame(frame)
    assert frame[0] == RESERVED_BYTE
    assert decode_hello(frame) == hello
    assert decode_hello(memoryview(frame)) == hello


@given(st.binary())
def test_random_bytes_are_nonsense_and_nothing_else(data):
    read(data)
    read(HELLO + data)
    assert isinstance(decode_reason(REFUSED + data), str)


@given(PLAIN, PLAIN, PLAIN)
def test_well_formed_msgpack_that_is_no_hello_is_nonsense_and_nothing_else(version, identity, expects):
    read(HELLO + msgspec.msgpack.encode({"v": version, "i": identity, "e": expects}))
    assert isinstance(decode_reason(GOODBYE + msgspec.msgpack.encode({"why": version})), str)


@given(st.dictionaries(st.sampled_from(Identity.__slots__), PLAIN))
def test_an_identity_of_wrong_values_is_nonsense_and_nothing_else(fields):
    read(HELLO + msgspec.msgpack.encode({"v": [1, 0], "i": fields}))


@pytest.mark.parametrize("version", [[float("inf"), 0], [float("nan"), 0], ["9" * 5000, 0], [1], {}, 7, None])
def test_a_version_that_is_none_is_nonsense(version):
    with pytest.raises(Nonsense, match="cannot be read"):
        decode_hello(HELLO + msgspec.msgpack.encode({"v": version, "i": {}}))


def test_deep_nesting_and_false_lengths_are_nonsense():
    for data in (b"\x91" * 10_000, b"\xdd\xff\xff\xff\xff", b"\x81\xa1i" + b"\x81\xa1i" * 5000):
        with pytest.raises(Nonsense):
            decode_hello(HELLO + data)
        assert isinstance(decode_reason(REFUSED + data), str)


def test_a_handshake_that_is_too_long_is_nonsense_and_so_is_its_reason():
    with pytest.raises(Nonsense, match=f"the limit is {LIMIT_BYTES}"):
        decode_hello(HELLO + bytes(LIMIT_BYTES))
    assert "too long" in decode_reason(encode_refusal("x" * LIMIT_BYTES))


def test_unknown_keys_are_ignored_so_that_a_minor_version_can_add_some():
    fields = {
        "v": [1, 5, "beta"],
        "e": "",
        "new": 1,
        "i": {"node": "n", "name": "x", "namespace": "d", "shoe": 43},
    }
    hello = decode_hello(HELLO + msgspec.msgpack.encode(fields))
    assert hello.identity == Identity(node="n", name="x", namespace="d")
    assert hello.version == (1, 5)


def test_reasons_come_back():
    assert decode_reason(encode_refusal("because")) == "because"
    assert decode_reason(encode_goodbye("it was late")) == "it was late"


@pytest.mark.parametrize("frame", [b"", b"\xc1", b"\x91\xc1", b"\x00\xc1"])
def test_what_the_runtime_sends_is_no_frame_of_the_plane(frame):
    assert not is_own_frame(frame)


def test_who_shares_version_and_namespace_is_accepted():
    assert objection(OWN, Hello(replace(OWN, node="n2"))) == ""
    assert objection(OWN, Hello(replace(OWN, node="n2"), expects="n1")) == ""
    assert objection(OWN, Hello(OWN, version=(PROTOCOL_VERSION[0], 99))) == ""


@pytest.mark.parametrize(
    ("hello", "parts"),
    [
        (
            Hello(replace(OWN, name="w.1"), version=(9, 3)),
            ["web.0", "1.0", "w.1", "9.3", "upgrade the older side"],
        ),
        (Hello(replace(OWN, name="w.1", namespace="prod")), ["web.0", "'demo'", "w.1", "'prod'"]),
        (Hello(OWN, expects="n7"), ["n1", "n7"]),
    ],
)
def test_an_objection_names_both_sides(hello, parts):
    why = objection(OWN, hello)
    assert all(part in why for part in parts), why
