"""Objects of classes that were met before: what is known of a class changes no value and no error."""

import dataclasses
import enum
import sys
import types
from typing import Any

import msgspec
import pytest
from hypothesis import given

from callboard.actors.codec import OUT_OF_BAND_BYTES, Codec
from callboard.actors.errors import DecodeError, EncodeError
from callboard.actors.extension import OBJECT, Ext
from callboard.testing.conformance.actors.values import (
    Awkward,
    Box,
    Colour,
    Frozen,
    Loose,
    Maybe,
    Mode,
    Point,
    Record,
    Tagged,
    Unfilled,
    same,
)

from .values import values

pack = msgspec.msgpack.encode


@dataclasses.dataclass
class Lazy:
    """A field that is kept under another name."""

    size: int

    @property
    def size(self):
        return self._size

    @size.setter
    def size(self, value):
        self._size = value


@dataclasses.dataclass
class Defaulted:
    size: int = 5
    note: str = "none"


@dataclasses.dataclass(slots=True)
class Slotted:
    size: int
    note: str = ""


@dataclasses.dataclass
class Half(Slotted):
    """Slots of its base, and a ``__dict__``."""

    more: int = 0


@dataclasses.dataclass
class Guarded:
    """Refuses every attribute that is set from outside."""

    size: int

    def __post_init__(self):
        raise RuntimeError("a second time")

    def __setattr__(self, name, value):
        raise RuntimeError("not from outside")


@dataclasses.dataclass
class Order:
    """Names that a dict takes for pairs: of two characters."""

    id: int
    op: str


@dataclasses.dataclass
class Empty:
    pass


def guarded(size):
    value = object.__new__(Guarded)
    vars(value)["size"] = size
    return value


def known(*examples):
    """A codec that has met the classes of the examples."""
    codec = Codec()
    for example in examples:
        codec.decode(codec.encode(example, "value")[0])
    return codec


def back(codec, value):
    body, buffers = codec.encode(value, "value")
    return codec.decode(body, buffers or ())


EXAMPLES = (
    Box(1), Frozen(1), Record(1), Point(1), Colour.RED, Mode.FAST, Loose("a"), Maybe(1), Tagged("a"), Defaulted(),
    Slotted(1), Half(1), guarded(1), Empty(),
)  # fmt: skip
OLD = known(*EXAMPLES)


@given(values)
def test_a_class_that_is_known_gives_the_same_bytes_as_one_that_is_not(value):
    body, buffers = OLD.encode(value, "value")
    again, _ = Codec().encode(value, "value")
    assert body == again
    assert same(value, OLD.decode(body, buffers or ()))


@pytest.mark.parametrize("value", EXAMPLES, ids=lambda value: type(value).__name__)
def test_objects_of_a_known_class_come_back_alone_inside_and_beside_others(value):
    for whole in (
        value,
        [value],
        {"a": [], "k": {"b": value}},
        [[value] * 3, list(range(100))],
        (value, (value,)),
    ):
        assert same(whole, back(OLD, whole))
        assert OLD.encode(whole, "value") == Codec().encode(whole, "value")


def test_the_second_object_of_a_class_may_have_more_attributes_than_the_first():
    for first, second in [(Box(1), Box(2)), (Loose("a"), Loose("b"))]:
        codec = known(first)
        second.more = {1, 2}
        assert back(codec, second).more == {1, 2}
    tagged = Tagged("b")
    assert tagged.loud == "B"
    assert vars(back(known(Tagged("a")), tagged)) == {"name": "b", "tag": ("b", 1)}


def test_an_attribute_that_replaces_a_field_in_the_dictionary_is_none():
    codec, value = known(Defaulted()), Defaulted(7, "x")
    del value.note  # the default of the class shows through
    value.other = 1
    there = back(codec, value)
    assert (there.size, there.note, there.other) == (7, "none", 1)


def test_fields_that_came_in_another_order_are_all_there():
    value = object.__new__(Box)
    value.size, value.content = 5, [1]
    assert back(known(Box(1)), value) == Box([1], 5)


def test_a_field_that_is_a_property_is_set_as_one():
    codec = known(Lazy(1))
    there = back(codec, Lazy(5))
    assert (there.size, vars(there)) == (5, {"_size": 5})


def test_no_init_and_no_setattr_of_a_class_runs_when_an_object_arrives():
    assert vars(back(known(guarded(1)), guarded(5))) == {"size": 5}


def test_an_unset_field_of_a_known_struct_stays_unset():
    codec = known(Maybe(5), Maybe())
    assert back(codec, [Maybe(), Maybe(6)])[0].value is msgspec.UNSET


def test_large_bytes_in_a_known_object_travel_beside_the_message():
    codec = known(Box(1))
    for data in (bytes(OUT_OF_BAND_BYTES), [bytearray(OUT_OF_BAND_BYTES)], {"a": [bytes(OUT_OF_BAND_BYTES)]}):
        body, buffers = codec.encode([Box(data)], "value")
        assert len(body) < 500
        assert same(Box(data), codec.decode(body, buffers)[0])


UNSENDABLE: list[tuple[Any, Any, str]] = [
    (Box(1), Box(object()), "value.content"),
    (Box(1), Box([1, {"a": object()}]), "value.content[1]['a']"),
    (Box(1), Box("\ud800"), "value.content"),
    (Box(1), Box({"\ud800": 1}), "key '\\ud800' of value.content"),
    (Frozen(1), Frozen((1, object())), "value.content[1]"),
    (Record(1), Record(1, {"k": object()}), "value.other_name['k']"),
    (Point(1), Point(1, object()), "value.y"),
    (Point(1), tuple.__new__(Point, (1,)), "value"),
]


@pytest.mark.parametrize(("good", "bad", "path"), UNSENDABLE, ids=[case[2] for case in UNSENDABLE])
def test_what_does_not_travel_is_refused_with_the_same_words_by_who_knows_the_class(good, bad, path):
    texts = []
    for codec in (Codec(), known(good)):
        with pytest.raises(EncodeError) as caught:
            codec.encode(bad, "value")
        assert caught.value.path == path
        texts.append(str(caught.value))
    assert texts[0] == texts[1]


def test_a_field_without_a_value_or_whose_code_fails_is_refused_by_who_knows_the_class():
    codec, full = Codec(), Unfilled()
    full.value = 1
    assert back(codec, full).value == 1
    with pytest.raises(EncodeError, match=r"cannot send value\.value: this field of Unfilled has no value"):
        codec.encode(Unfilled(), "value")
    for _ in range(2):
        with pytest.raises(EncodeError, match="RuntimeError: no attribute"):
            codec.encode(Awkward(1), "value")


def test_what_is_nested_deeper_than_is_tried_arrives_all_the_same():
    value: Any = [1, 2, 3]
    for number in range(60):
        value = [{"n": number, "inner": [value, [number]]}] if number % 2 else Box((number, [value]))
    assert same(value, back(OLD, value))


# -- names


def of(form, name, fields, *further):
    return pack(Ext(OBJECT, pack([form, name, fields, *further])))


def test_a_name_means_what_the_module_holds_now():
    module = types.ModuleType("reloaded")
    sys.modules["reloaded"] = module
    body = of("dataclass", "reloaded:Item", {"size": 1})
    try:
        for _ in range(2):
            module.Item = dataclasses.make_dataclass("Item", ["size"], namespace={"__module__": "reloaded"})
            for _ in range(2):
                assert type(Codec().decode(body)) is module.Item
        module.Item = "no class"
        with pytest.raises(DecodeError, match="not imported here or lacks it"):
            Codec().decode(body)
        module.Item = enum.Enum("Item", ["size"], module="reloaded")
        with pytest.raises(DecodeError, match="is not a dataclass in this process"):
            Codec().decode(body)
    finally:
        del sys.modules["reloaded"]
    with pytest.raises(DecodeError, match="not imported here or lacks it"):
        Codec().decode(body)


def test_names_that_a_peer_makes_up_are_not_kept():
    from callboard.actors import objects

    Box.alias = Box
    try:
        before = dict(objects._KNOWN)
        for depth in range(1, 50):
            name = f"{Box.__module__}:Box" + ".alias" * depth
            assert Codec().decode(of("dataclass", name, {"content": 1, "size": 2})) == Box(1, 2)
        assert set(objects._KNOWN) == set(before)
    finally:
        del Box.alias


@pytest.mark.parametrize(
    "fields", [["id", "op"], [["id", 1], ["op", 2]], "id", 5, None, {"id": 1, "op": 2, "x": 3}]
)
def test_what_is_no_map_of_the_fields_is_refused_although_the_class_is_known(fields):
    known(Order(1, "buy"))
    with pytest.raises(DecodeError):
        Codec().decode(of("dataclass", f"{__name__}:Order", fields))


def test_a_known_class_is_still_not_another_form():
    known(Box(1))
    for form in ("struct", "enum", "namedtuple", 5, [], None):
        with pytest.raises(DecodeError):
            Codec().decode(of(form, f"{Box.__module__}:Box", {"content": 1, "size": 2}))


def test_the_fields_that_a_class_keeps_beside_are_set_although_it_is_known():
    known(Tagged("a"))
    there = Codec().decode(of("dataclass", f"{Tagged.__module__}:Tagged", {"name": "b"}, {"tag": 5}))
    assert (there.name, there.tag) == ("b", 5)
