"""What arrives equals what was sent."""

import contextlib
import datetime
import decimal
import zoneinfo
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from callboard.actors.codec import OUT_OF_BAND_BYTES, Codec
from callboard.actors.errors import DecodeError, EncodeError
from callboard.actors.extension import BIGINT, BUFFER, FROZENSET, OBJECT, PAIRS, SET, TEXT, TUPLE, Ext
from callboard.actors.plain import is_plain
from callboard.testing.conformance.actors.values import (
    Box,
    Level,
    Loose,
    Maybe,
    Mode,
    Model,
    Point,
    Record,
    Rights,
    Root,
    Tagged,
    same,
)
from callboard.transports.stable import stable

from .values import hashable, there_and_back, values

pack = msgspec.msgpack.encode


@given(values)
def test_a_value_comes_back_equal_and_of_the_same_type(value):
    assert same(value, there_and_back(value))


@given(st.dictionaries(hashable, st.integers(0, 9), max_size=5))
def test_keys_of_any_kind_come_back_as_they_went(value):
    assert same(value, there_and_back(value))


@pytest.mark.parametrize(
    "key", [True, 1, 1.0, None, b"k", "k", np.str_("k"), Mode.FAST, Level.LOW, (1, "a"), 2**64]
)
def test_a_key_keeps_its_type(key):
    ((back, _),) = there_and_back({key: (1,)}).items()
    assert same(key, back)


def test_a_key_of_thousands_of_digits_is_a_key_like_others():
    assert there_and_back({10**5000: (1,)}) == {10**5000: (1,)}


def test_what_plain_means_is_what_msgpack_alone_would_keep():
    assert is_plain({"a": [1, 2.5, None, {"b": b"x", 3: True}]})
    for value in [(1,), {"a": {1}}, [Mode.FAST], {Mode.FAST: 1}, bytearray(b"x"), {(1, 2): 3}, Level.LOW]:
        assert not is_plain(value)


@pytest.mark.parametrize("size", [OUT_OF_BAND_BYTES - 1, OUT_OF_BAND_BYTES, 3_000_000])
@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_large_bytes_travel_beside_the_message(kind, size):
    value = kind(b"7") * size
    body, buffers = Codec().encode({"data": [value, "after"]}, "value")
    assert (buffers is not None) == (size >= OUT_OF_BAND_BYTES)
    assert sum(map(len, buffers or ())) + len(body) < size + 100
    assert same({"data": [value, "after"]}, Codec().decode(body, buffers or ()))


def test_several_buffers_find_their_places():
    parts = [bytes([n]) * OUT_OF_BAND_BYTES for n in range(4)]
    value = {"a": parts[0], "b": [parts[1], bytearray(parts[2])], "c": np.frombuffer(parts[3], np.int16)}
    body, buffers = Codec().encode(value, "value")
    assert len(buffers) == 4
    assert same(value, Codec().decode(body, buffers))


def test_a_large_array_or_scalar_travels_beside_the_message():
    for value in [np.arange(50_000.0).reshape(500, 100), np.str_("x" * 100_000), np.bytes_(b"y" * 100_000)]:
        body, buffers = Codec().encode(value, "value")
        assert len(body) < 200
        assert same(value, Codec().decode(body, buffers))


def test_large_buffers_are_not_copied_and_who_keeps_them_has_to():
    value = bytearray(OUT_OF_BAND_BYTES)
    array = np.zeros((2, OUT_OF_BAND_BYTES), np.int8)
    text = bytes(OUT_OF_BAND_BYTES)
    body, buffers = Codec().encode([value, array, text], "value")
    kept = stable(buffers)
    value[0] = array[0, 0] = 1
    assert [memoryview(buffer).readonly for buffer in buffers] == [True] * 3
    assert [buffer[0] for buffer in buffers] == [1, 1, 0]
    assert buffers[2] is kept[2] is text
    back = Codec().decode(body, kept)
    assert (back[0][0], back[1][0, 0]) == (0, 0)


def test_an_array_that_does_not_lie_in_order_is_copied():
    array = np.arange(100_000).reshape(100, 1000)
    for value in (array.T, array[:, ::2], np.asfortranarray(array)):
        body, buffers = Codec().encode(value, "value")
        assert same(value, Codec().decode(body, buffers))


def test_a_memoryview_of_bytes_arrives_as_one():
    assert same(memoryview(b"abc"), there_and_back(memoryview(b"abc")))
    assert there_and_back(memoryview(b"abcdef")[::2].tobytes()) == b"ace"


def test_an_array_in_another_order_or_not_contiguous_arrives_equal():
    array = np.arange(24).reshape(2, 3, 4)
    for value in [np.asfortranarray(array), array[:, ::2], array.T]:
        assert np.array_equal(value, there_and_back(value))


def test_what_a_dataclass_keeps_beside_its_fields_travels_too():
    value = Tagged("a")
    assert value.loud == "A"
    back = there_and_back(value)
    assert (back, back.tag) == (value, ("a", 1))
    assert "loud" not in vars(back)  # it is computed again
    assert back.loud == "A"


def test_what_a_struct_keeps_beside_its_fields_travels_too():
    value = Loose("a")
    value.more = {1, 2}
    assert there_and_back(value).more == {1, 2}


def test_an_unset_field_stays_unset():
    assert there_and_back(Maybe()).value is msgspec.UNSET
    assert there_and_back(Maybe(5)) == Maybe(5)


def test_a_pydantic_model_arrives_with_extra_fields_private_attributes_and_what_was_set():
    value = Model(theWide=(1, {2}), more=decimal.Decimal("1.50"))
    value._secret = [b"x"]
    back = there_and_back(value)
    assert back == value
    assert value.doubled == there_and_back(value).doubled  # computed again, not sent
    assert (back.model_fields_set, back._secret) == (value.model_fields_set, [b"x"])
    assert there_and_back(Root([1, 2])) == Root([1, 2])


def test_a_field_that_the_sender_did_not_know_takes_its_default():
    def objects(form, name, fields, *further):
        body = pack(Ext(OBJECT, pack([form, f"{Box.__module__}:{name}", fields, *further])))
        return Codec().decode(body)

    assert objects("dataclass", "Box", {"content": 1}) == Box(1, 3)
    assert objects("struct", "Record", {"long_name": 1}) == Record(1, None)
    assert objects("namedtuple", "Point", {"x": 1}) == Point(1, 0)
    assert objects("pydantic", "Model", {}, [], {}, {"_secret": None}) == Model()
    for form, name in [
        ("dataclass", "Box"),
        ("struct", "Record"),
        ("namedtuple", "Point"),
        ("pydantic", "Root"),
    ]:
        with pytest.raises(DecodeError):
            objects(form, name, {})
        with pytest.raises(DecodeError):
            objects(form, name, {"content": 1, "long_name": 1, "x": 1, "root": [], "novel": 1}, [], {}, None)


@given(st.integers(1, 600))
def test_a_value_nested_deeply_arrives_or_is_refused_on_one_side(depth):
    value: Any = "core"
    for level in range(depth):
        value = [value] if level % 2 else (value,)
    if depth <= 100:
        assert there_and_back(value) == value
    else:
        with contextlib.suppress(EncodeError, DecodeError):
            assert there_and_back(value) == value


FORMS = [
    ((1, 2), Ext(TUPLE, pack([1, 2]))),
    ({1}, Ext(SET, pack([1]))),
    (frozenset([1]), Ext(FROZENSET, pack([1]))),
    (2**64, Ext(BIGINT, b"\x01" + bytes(8))),
    (-(2**64), Ext(BIGINT, b"\xff" + bytes(8))),
    ({(1,): 2}, Ext(PAIRS, pack([[Ext(TUPLE, pack([1])), 2]]))),
    (bytearray(b"x"), Ext(BUFFER, pack(["bytearray", b"x"]))),
    (np.int16([1, 2]), Ext(BUFFER, pack(["ndarray", b"\1\0\2\0", "<i2", [2]]))),
    (np.float64(0), Ext(BUFFER, pack(["scalar", bytes(8), "<f8", []]))),
    (Point(1, 2), Ext(OBJECT, pack(["namedtuple", f"{Point.__module__}:Point", {"x": 1, "y": 2}]))),
    (Box(1), Ext(OBJECT, pack(["dataclass", f"{Box.__module__}:Box", {"content": 1, "size": 3}]))),
    (Mode.FAST, Ext(OBJECT, pack(["enum", f"{Mode.__module__}:Mode", "FAST"]))),
    (Rights(3), Ext(OBJECT, pack(["flag", f"{Mode.__module__}:Rights", 3]))),
    (decimal.Decimal("1.50"), Ext(TEXT, pack(["decimal", "1.50"]))),
    (datetime.datetime(2024, 7, 1, 12), Ext(TEXT, pack(["datetime", "2024-07-01T12:00:00"]))),
    (
        datetime.datetime(2024, 7, 1, 12, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")),
        Ext(TEXT, pack(["datetime", "2024-07-01T12:00:00", 0, "Europe/Berlin"])),
    ),
]


@pytest.mark.parametrize(("value", "form"), FORMS, ids=lambda case: type(case).__name__)
def test_the_forms_on_the_wire_stay_what_they_are(value, form):
    """Processes of different versions talk to each other."""
    body, buffers = Codec().encode(value, "value")
    assert (body, buffers) == (pack(form), None)
    assert same(Codec().decode(body), value)


class Decoding(msgspec.Struct):
    """Has something decoded while it is built."""

    def __post_init__(self):
        nested.decode(*nested.encode([b"y" * 70_000], "a value"))


nested = Codec()


def test_what_is_decoded_meanwhile_leaves_the_buffers_of_a_value_alone():
    value = [Decoding(), b"x" * 70_000]
    assert nested.decode(*nested.encode(value, "a value"))[1] == value[1]
