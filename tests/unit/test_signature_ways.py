"""The fast way to bind arguments and the slow one give the same result, and the same words when they refuse."""

import dataclasses
import functools
from typing import Annotated, Any, Literal, Optional

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from callboard.actors.errors import BadArguments
from callboard.actors.fitting import fit, fit_of, quick_test_of
from callboard.actors.signature import methods_of


@dataclasses.dataclass
class Point:
    x: int
    y: int = 0


class Record(msgspec.Struct):
    name: str


ANNOTATIONS = {
    "Any": Any, "int": int, "str": str, "float": float, "bool": bool, "list": list, "list[int]": list[int],
    "dict[str, int]": dict[str, int], "set[str]": set[str], "Optional[list[int]]": Optional[list[int]],  # noqa: UP045
    "None | list[float]": None | list[float], "tuple[int, ...]": tuple[int, ...], "Point": Point,
    "list[Point]": list[Point], "Record | int": Record | int, "Literal['a']": Literal["a"],
    "list[int] | dict[str, int]": list[int] | dict[str, int], "list[list[int]]": list[list[int]],
}  # fmt: skip
NAMES = ("a", "b", "c", "d")
scalars = st.sampled_from([0, 1, -1, 2**63, 2**70, True, False, None, 1.5, 0.0, "a", "", b"x"])
arguments = st.one_of(
    scalars,
    st.lists(scalars, max_size=3),
    st.lists(st.integers(), max_size=3),
    st.lists(st.lists(st.integers(), max_size=2), max_size=2),
    st.sets(st.sampled_from(["a", "b", 1]), max_size=2),
    st.lists(st.integers() | st.booleans(), max_size=2).map(tuple),
    st.dictionaries(st.sampled_from(["a", "x", "name", 1]), scalars, max_size=2),
    st.builds(Point, scalars),
    st.lists(st.builds(Point, scalars), max_size=2),
    st.builds(Record, st.just("r")),
)
calls = st.tuples(
    st.lists(arguments, max_size=5),
    st.dictionaries(st.sampled_from([*NAMES, "e"]), arguments, max_size=4),
)


@functools.cache
def method_of(text):
    space = {**globals(), "Optional": Optional, "Literal": Literal}
    exec(f"class Built:\n    def message(self, {text}): ...", space)
    return methods_of(space["Built"])["message"]


@st.composite
def signatures(draw):
    """The text of parameters: any kinds in the order that Python wants, any of them with a default or a type."""
    count = draw(st.integers(0, len(NAMES)))
    first, last = sorted(draw(st.tuples(st.integers(0, count), st.integers(0, count))))
    defaulted = draw(st.integers(0, last))
    parts = []
    for place, name in enumerate(NAMES[:count]):
        if place == last:
            parts.append(draw(st.sampled_from(["*", "*rest: int"])))
        annotation = draw(st.sampled_from([None, *ANNOTATIONS]))
        text = name if annotation is None else f"{name}: {annotation}"
        if place >= last:
            text += draw(st.sampled_from(["", " = 0"]))
        elif place >= defaulted:
            text += " = 0"
        parts.append(text)
        if place + 1 == first:
            parts.append("/")
    if draw(st.booleans()) and draw(st.booleans()):
        parts.append("**named: int")
    return ", ".join(parts)


def outcome(bind, args, kwargs):
    args, kwargs = list(args), dict(kwargs)
    try:
        bound = bind(args, kwargs)
    except BadArguments as error:
        return str(error)
    return [(type(value), value) for value in bound], {name: (type(v), v) for name, v in kwargs.items()}


@given(signatures(), calls)
def test_both_ways_to_bind_give_the_same_arguments_or_the_same_error(signature, call):
    method = method_of(signature)
    assert outcome(method.bind, *call) == outcome(method._bind_slowly, *call)


@given(st.data())
def test_both_ways_agree_where_everything_is_given(data):
    """Calls that would be right but for the types, which random ones seldom are."""
    annotations = data.draw(st.lists(st.sampled_from([*ANNOTATIONS]), min_size=1, max_size=4))
    names = NAMES[: len(annotations)]
    kinds = data.draw(st.sampled_from(["", "*, "]))
    method = method_of(kinds + ", ".join(map("{}: {}".format, names, annotations)))
    count = 0 if kinds else data.draw(st.integers(0, len(names)))
    values = [data.draw(arguments) for _ in names]
    call = values[:count], dict(zip(names[count:], values[count:], strict=True))
    assert outcome(method.bind, *call) == outcome(method._bind_slowly, *call)


@pytest.mark.parametrize("annotation", ANNOTATIONS.values(), ids=ANNOTATIONS)
@given(value=arguments)
def test_what_needs_no_further_look_is_what_msgspec_takes_unchanged(annotation, value):
    if quick_test_of(annotation)(value):
        converted = msgspec.convert(value, annotation)
        assert (type(converted), repr(converted)) == (type(value), repr(value))
        assert fit(value, annotation) is value


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (list[int], [1, 2]),
        (list[str] | None, ["a"]),
        (dict[str, int], {"a": 1}),
        (set[bool], {True}),
        (frozenset[bytes], frozenset([b"x"])),
        (tuple[float, ...], (1.0,)),
        (list[int | None], [1, None]),
        (list[Point], [Point(1)]),
        (list[Record], [Record("a")]),
        (list[int] | dict[str, str], {"a": "b"}),
    ],
    ids=str,
)
def test_containers_of_plain_values_and_records_need_no_further_look(annotation, value):
    assert quick_test_of(annotation)(value)


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (list[int], [True]),
        (list[float], [1]),
        (list[list[int]], [[1]]),
        (list[int], (1,)),
        (int, 1),
        (Any, [1]),
    ],
    ids=str,
)
def test_what_msgspec_would_change_or_refuse_needs_a_look(annotation, value):
    assert not quick_test_of(annotation)(value)


def test_a_union_takes_the_first_member_that_can_be_made_although_its_members_in_another_order_are_equal():
    @dataclasses.dataclass
    class Other:
        x: int

    assert (Point | Other) == (Other | Point)
    assert type(fit({"x": 1}, Point | Other)) is Point
    assert type(fit({"x": 1}, Other | Point)) is Other
    one = fit_of(Other | Point)
    assert [type(one({"x": 1})) for _ in range(2)] == [Other, Other]


def test_an_annotation_without_a_hash_is_read_all_the_same():
    assert fit(5, Annotated[int, []]) == 5
