"""The wire form of messages: what is written, and what of a stranger's bytes can be read."""

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from callboard.actors.envelope import (
    ASK,
    CANCEL,
    CREDIT,
    END,
    ERROR,
    ITEMS,
    MALFORMED,
    MORE,
    OPEN,
    REPLY,
    TELL,
    Envelope,
    array_header,
    join,
    split,
    split_raw,
)

pack = msgspec.msgpack.encode
numbers = st.integers(0, 2**63)
envelopes = st.builds(
    lambda kind, number, body, target, method, budget, extra: (
        kind, number, body, target, method, budget, extra,
    ),
    st.integers(1, 10), numbers, st.lists(st.integers(0, 9)), numbers, st.text(), st.floats(0, 1e9),
    st.none() | st.dictionaries(st.text(), st.integers(0, 9)),
)  # fmt: skip


@given(st.lists(envelopes, max_size=40))
def test_what_was_joined_is_split_again(parts):
    frame = join([pack(part) for part in parts])
    read = [
        (e.kind, e.id, msgspec.msgpack.decode(e.body), e.target, e.method, e.budget_s, e.extra)
        for e in split(frame)
    ]
    assert read == parts
    assert [bytes(raw) for raw in split_raw(frame)] == [pack(part) for part in parts]


@given(st.binary(max_size=300))
def test_random_bytes_are_malformed_or_envelopes(frame):
    try:
        envelopes = split(frame)
    except MALFORMED:
        return
    assert all(type(envelope) is Envelope for envelope in envelopes)


@given(st.lists(envelopes, min_size=1, max_size=5), st.data())
def test_a_changed_or_cut_frame_is_malformed_or_envelopes(parts, data):
    frame = bytearray(join([pack(part) for part in parts]))
    for _ in range(data.draw(st.integers(1, 4))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    for broken in (bytes(frame), bytes(frame[: data.draw(st.integers(0, len(frame)))])):
        with contextlib.suppress(MALFORMED):
            assert all(type(envelope) is Envelope for envelope in split(broken))


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\xc0",
        b"\xc1",
        b"\x91",
        b"\x91\x90",
        b"\x91\x91\x01",
        b"\x91\x92\xa11\x01",
        b"\x91\x92\x01\xcb" + bytes(8),
        b"\x91\x95\x01\x01\xc0\x01\xa1\xff",
        b"\x91\x97\x01\x01\xc0\x01\xa1a\x00\x91\x01",
        b"\xdd\xff\xff\xff\xff",
        b"\x91" * 100_000,
        b"\x91\x93\x01\x01" + b"\x91" * 100_000,
    ],
    ids=range(13),
)
def test_what_is_no_batch_is_malformed(frame):
    with pytest.raises(MALFORMED):
        split(frame)


def test_a_length_that_is_not_there_takes_no_memory():
    with pytest.raises(MALFORMED):
        split(b"\x91\x93\x01\x01\xdd\xff\xff\xff\xff")


def test_fields_of_a_newer_version_are_ignored():
    (envelope,) = split(join([pack((TELL, 0, [1], 2, "m", 0.5, None, "new", {"er": 1}))]))
    assert (envelope.kind, envelope.target, envelope.method, envelope.budget_s) == (TELL, 2, "m", 0.5)


def test_the_kinds_on_the_wire_stay_what_they_are():
    kinds = (ASK, TELL, OPEN, REPLY, ERROR, ITEMS, END, MORE, CREDIT, CANCEL)
    assert kinds == tuple(range(1, 11))


@pytest.mark.parametrize(
    ("envelope", "golden"),
    [
        ((ASK, 7, ["hi"], 3, "greet", 1.5, None), "9197010791a2686903a56772656574cb3ff8000000000000c0"),
        (
            (TELL, 0, {"a": [1], "k": {"b": 2}}, 3, "m", 0, None),
            "919702 0082a161 9101a16b81a16202 03a16d00c0".replace(" ", ""),
        ),
        ((REPLY, 7, None), "91930407c0"),
        ((ITEMS, 300, [1, 2]), "919306cd012c920102"),
        ((CREDIT, 0, [5, 600], 3), "9194090092 05cd0258 03".replace(" ", "")),
        ((CANCEL, 9, None), "91930a09c0"),
    ],
)
def test_the_bytes_on_the_wire_stay_what_they_are(envelope, golden):
    """Processes of different versions talk to each other."""
    assert join([pack(envelope)]).hex() == golden
    (read,) = split(bytes.fromhex(golden))
    assert (read.kind, read.id, msgspec.msgpack.decode(read.body)) == envelope[:3]


@pytest.mark.parametrize("length", [0, 1, 15, 16, 65_535, 65_536])
def test_headers_are_those_of_message_pack(length):
    assert join([b"\xc0"] * length) == pack([None] * length)
    assert len(array_header(length)) in (1, 3, 5)
