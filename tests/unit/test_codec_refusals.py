"""What does not travel is refused where it is passed, and the error names its path."""

import collections
import dataclasses
import datetime
import functools

import msgspec
import numpy as np
import pytest

from callboard.actors.codec import Codec
from callboard.actors.errors import EncodeError
from callboard.actors.extension import Ext
from callboard.testing.conformance.actors.values import (
    Awkward,
    Box,
    Colour,
    Frozen,
    Hostile,
    Listed,
    Model,
    Point,
    Record,
    Unfilled,
)

LOOP: list = []
LOOP.append(LOOP)
DEEP = functools.reduce(lambda inner, _: [inner], range(5000), 1)
BAD_KEYS = {Frozen(object()): 1}

UNSENDABLE = [
    (object(), "value"),
    ([1, object()], "value[1]"),
    ({"a": [0, {"b": object()}]}, "value['a'][1]['b']"),
    ({"a": (0, object())}, "value['a'][1]"),
    ({"a": {frozenset([lambda: 1])}}, "value['a'][0][0]"),
    (Box([object()]), "value.content[0]"),
    (Record(1, {"k": object()}), "value.other_name['k']"),
    (Point(1, object()), "value.y"),
    (Model(theWide=[object()]), "value.wide[0]"),
    ({1: object()}, "value[1]"),
    (BAD_KEYS, f"key {next(iter(BAD_KEYS))!r} of value.content"),
    (Unfilled(), "value.value"),
    (Listed("n"), "value"),
    (collections.OrderedDict(a=1), "value"),
    (collections.deque([1]), "value"),
    (range(3), "value"),
    (Hostile, "value"),
    (Box, "value"),
    (Hostile(), "value"),
    (ValueError("x"), "value"),
    ([LOOP], "value"),
    (DEEP, "value"),
    ("\ud800", "value"),
    ({"a": ["ok", "\udfff"]}, "value['a'][1]"),
    ({"a": ("\udfff",)}, "value['a'][0]"),
    ({"\ud800": 1}, "key '\\ud800' of value"),
    (Box("\ud800"), "value.content"),
    (memoryview(b"abcd")[::2], "value"),
    (memoryview(np.zeros(3)), "value"),
    (datetime.datetime(2024, 1, 1, tzinfo=type("Own", (datetime.tzinfo,), {})()), "value"),
    (np.array([1, "a"], object), "value"),
    (np.zeros(2, [("a", int)]), "value"),
    (np.ma.array([1, 2], mask=[0, 1]), "value"),
    (np.zeros(1).view(np.ma.MaskedArray), "value"),
    ([1, np.zeros(2).view(np.recarray)], "value[1]"),
    (Ext(5, b""), "value"),
    (msgspec.Raw(b"\xc0"), "value"),
    (dataclasses.make_dataclass("Nowhere", ["a"])(1), "value"),
    (Colour, "value"),
    ({Awkward: 1}, f"key {Awkward!r} of value"),
    ({10**5000: object()}, "value[<int>]"),
    ({Awkward(1): object()}, "key <Awkward> of value"),
]
if hasattr(np.dtypes, "StringDType"):  # numpy 2
    UNSENDABLE.append((np.array(["a"], np.dtypes.StringDType()), "value"))


@pytest.mark.parametrize(
    ("value", "path"), UNSENDABLE, ids=lambda case: "" if isinstance(case, str) else None
)
def test_a_value_that_does_not_travel_is_refused_with_its_path(value, path):
    with pytest.raises(EncodeError) as caught:
        Codec().encode(value, "value")
    assert caught.value.path == path
    assert str(caught.value).startswith(f"cannot send {path}: ")


def test_a_class_inside_a_function_is_refused_with_the_way_out():
    @dataclasses.dataclass
    class Inner:
        x: int

    with pytest.raises(EncodeError, match="defined inside a function; move it to a module"):
        Codec().encode([Inner(1)], "value")


def test_a_value_whose_own_code_fails_is_refused():
    with pytest.raises(EncodeError, match=r"cannot send value\[1\]: RuntimeError: no attribute"):
        Codec().encode([1, Awkward(2)], "value")
