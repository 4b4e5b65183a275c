"""What an actor class understands: its methods, and whether arguments fit them."""

import asyncio
import collections.abc
import dataclasses
import datetime
import enum
import pathlib
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Generic, Literal, NewType, Optional, Protocol, Self, TypedDict, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
import pydantic
import pytest

from callboard.actors.actor import Actor, blocking, idempotent, interleave
from callboard.actors.errors import BadArguments
from callboard.actors.fitting import fit
from callboard.actors.ref import Ref
from callboard.actors.signature import Run, methods_of, unknown_method

T = TypeVar("T")
Count = NewType("Count", int)


class Plain:
    pass


class Derived(Plain):
    pass


class Other:
    pass


class Reader(Protocol):
    def read(self) -> int: ...


class Options(TypedDict):
    size: int


class Level(enum.IntEnum):
    LOW = 1


class Mode(enum.StrEnum):
    FAST = "fast"


@dataclasses.dataclass
class Point:
    x: int
    y: int = 0


@dataclasses.dataclass
class Pair(Generic[T]):
    one: T


class Record(msgspec.Struct):
    name: str


class Model(pydantic.BaseModel):
    size: int

    @pydantic.field_validator("size")
    @classmethod
    def small(cls, size: int) -> int:
        if size > 100:
            raise RuntimeError("a validator that fails otherwise")
        return size


class Everything(Actor):
    async def ask(self, a: int, b: str = "b") -> int:
        return a

    def plain(self, a: int) -> int:
        return a

    async def stream(self, a: int) -> AsyncIterator[int]:
        yield a

    def plain_stream(self, a: int) -> Iterator[int]:
        yield a

    @blocking
    def slow(self) -> None: ...

    @interleave
    async def beside(self) -> None: ...

    @idempotent
    async def again(self) -> None: ...

    async def keywords(self, a: int, *, b: str, c: float = 1.0) -> None: ...

    async def variadic(self, *parts: int, **named: int) -> None: ...

    async def positional(self, a: int, /, b: int) -> None: ...

    async def point(self, point: Point) -> None: ...

    async def model(self, model: Model) -> None: ...

    async def unresolved(self, a: "Nowhere") -> None: ...  # noqa: F821

    async def on_start(self) -> None: ...

    def _private(self) -> None: ...

    @staticmethod
    def static() -> None: ...

    @classmethod
    def of_class(cls) -> None: ...

    @property
    def size(self) -> int:
        return 1

    value = 5


def bind(name, *args, **kwargs):
    """Bind as a cell does: the positional arguments, and what is left of the named ones."""
    return methods_of(Everything)[name].bind(list(args), kwargs or None), kwargs


def test_public_functions_are_messages_and_nothing_else_is():
    assert set(methods_of(Everything)) == {
        "ask", "plain", "stream", "plain_stream", "slow", "beside", "again", "keywords", "variadic",
        "positional", "point", "model", "unresolved",
    }  # fmt: skip


def test_a_method_of_a_base_or_a_mixin_is_a_message_too():
    class Mixin:
        def mixed(self) -> int:
            return 1

    class More(Mixin, Everything):
        async def ask(self, a: str) -> str:
            return a

    methods = methods_of(More)
    assert {"mixed", "ask", "stream"} <= set(methods)
    assert methods["ask"].bind(["text"], None) == ["text"]


def test_how_a_method_runs_is_read_from_its_function():
    methods = methods_of(Everything)
    runs = {name: methods[name].run for name in ("ask", "plain", "stream", "plain_stream")}
    assert runs == {
        "ask": Run.COROUTINE,
        "plain": Run.PLAIN,
        "stream": Run.STREAM,
        "plain_stream": Run.PLAIN_STREAM,
    }
    assert [name for name, method in methods.items() if method.streams] == ["plain_stream", "stream"]
    assert (methods["slow"].blocking, methods["beside"].interleave, methods["again"].idempotent) == (
        True,
    ) * 3


# -- binding


def test_arguments_are_bound_by_position_and_by_name():
    assert bind("ask", 1) == ([1], {})
    assert bind("ask", 1, "x") == ([1, "x"], {})
    assert bind("ask", a=1, b="x") == ([1, "x"], {})
    assert bind("keywords", 1, b="x") == ([1], {"b": "x"})
    assert bind("variadic", 1, 2, k=3) == ([1, 2], {"k": 3})
    assert bind("variadic") == ([], {})
    assert bind("positional", 1, b=2) == ([1, 2], {})


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (
            lambda: bind("ask"),
            r"ask\(a: int, b: str = b\) was called wrongly: missing a required argument: 'a'",
        ),
        (lambda: bind("ask", 1, "b", 3), "too many positional arguments"),
        (lambda: bind("ask", 1, bb="x"), 'keyword argument .bb.; did you mean "b"'),
        (lambda: bind("ask", 1, a=2), "multiple values for argument 'a'"),
        (lambda: bind("keywords", 1), "missing a required.* argument: 'b'"),
        (lambda: bind("keywords", 1, "b"), "too many positional arguments"),
        (lambda: bind("positional", a=1, b=2), "positional only"),
        (lambda: bind("ask", "one"), r"takes int as 'a', got str 'one': Expected `int`, got `str`"),
        (lambda: bind("ask", 1, 2), r"takes str as 'b', got int 2"),
        (lambda: bind("keywords", 1, b=b"x"), r"takes str as 'b', got bytes b'x'"),
        (
            lambda: bind("point", {"x": "one"}),
            r"takes Point as 'point', got dict .*Expected `int`.* at `\$.x`",
        ),
        (lambda: bind("point", {}), "missing required field `x`"),
        (lambda: bind("model", {"size": "many"}), "takes Model as 'model'"),
        (lambda: bind("model", {"size": 500}), "a validator that fails otherwise"),
        (lambda: bind("ask", [10**5000]), r"takes int as 'a', got a list"),
    ],
)
def test_a_wrong_call_names_the_method_the_parameter_and_what_came(call, text):
    with pytest.raises(BadArguments) as caught:
        call()
    assert re.search(text, str(caught.value))


def test_plain_data_becomes_what_is_annotated():
    assert bind("point", {"x": 1}) == ([Point(1, 0)], {})
    assert bind("model", {"size": 3}) == ([Model(size=3)], {})


def test_an_annotation_that_cannot_be_resolved_accepts_everything():
    assert bind("unresolved", object) == ([object], {})


FITTING: list[tuple[Any, Any]] = [
    (Any, 1),
    (object, 1),
    (int, 3),
    (int, True),
    (float, 1),
    (float, np.float64(1)),
    (str, "a"),
    (None, None),
    (bytes | bytearray | memoryview, memoryview(b"")),
    (list[int], [1, 2]),
    (list[int] | None, [1]),
    (list[int] | None, None),
    (Optional[list[int]], [1]),  # noqa: UP045 the older spelling is another class
    (list[int] | dict[str, int], {"a": 1}),
    (list[int] | list[str], ["a"]),
    (str | list[Plain], [Derived()]),
    (int | str, "a"),
    (datetime.datetime | str, "2020-01-01T00:00:00"),
    (Plain | Other, Derived()),
    (Plain | None, None),
    (Sequence[int], (1, 2)),
    (Mapping[str, int], {"a": 1}),
    (collections.abc.Set[int], {1}),
    (dict[int, str], {1: "a"}),
    (tuple[int, str], (1, "a")),
    (tuple[int, ...], (1, 2, 3)),
    (frozenset[str], frozenset("ab")),
    (Annotated[int, "doc"], 3),
    (Count, 3),
    (Literal["a", "b"], "b"),
    (T, 3),
    (list[T], [object()]),
    (Self, object()),
    (list["Nowhere"], [object()]),  # noqa: F821
    (Plain, Derived()),
    (Reader, object()),
    (type, int),
    (type[Plain], Derived),
    (pathlib.Path, pathlib.Path("a")),
    (Callable[[int], int], len),
    (list[Callable[[], int]], [len]),
    (complex, 1j),
    (range, range(3)),
    (npt.NDArray[np.float64], np.zeros(3)),
    (list[np.ndarray], [np.zeros(3), np.zeros(2)]),
    (Point, Point(1)),
    (list[Point], [Point(1)]),
    (dict[str, Point], {"a": Point(1)}),
    (Pair[int], Pair(1)),
    (Record, Record("a")),
    (Model, Model(size=1)),
    (list[Model], [Model(size=1)]),
    (Model | None, Model(size=1)),
    (Mode, Mode.FAST),
    (Exception, ValueError("a")),
    (asyncio.Event, asyncio.Event()),
]


@pytest.mark.parametrize(("annotation", "value"), FITTING, ids=[str(case[0]) for case in FITTING])
def test_a_value_that_fits_is_passed_on_as_the_same_object(annotation, value):
    assert fit(value, annotation) is value


CONVERTED = [
    (Point, {"x": 1}, Point(1)),
    (list[Point], [{"x": 1}], [Point(1)]),
    (list[Point] | None, [{"x": 1}], [Point(1)]),
    (Point | None, {"x": 1, "y": 2}, Point(1, 2)),
    (Record, {"name": "a"}, Record("a")),
    (Model, {"size": "5"}, Model(size=5)),
    (Model | None, {"size": 5}, Model(size=5)),
    (list[Model], [{"size": 5}], [Model(size=5)]),
    (Level, 1, Level.LOW),
    (list[Mode], ["fast"], [Mode.FAST]),
    (set[Level], {1}, {Level.LOW}),
    (dict[Mode, int], {"fast": 1}, {Mode.FAST: 1}),
    (tuple[int, str], [1, "a"], (1, "a")),
    (list[int], (1, 2), [1, 2]),
    (datetime.datetime, "2020-01-01T00:00:00", datetime.datetime(2020, 1, 1)),
    (Options, {"size": 1}, {"size": 1}),
]


@pytest.mark.parametrize(
    ("annotation", "value", "wanted"), CONVERTED, ids=[str(case[0]) for case in CONVERTED]
)
def test_plain_data_is_converted_to_what_is_annotated(annotation, value, wanted):
    fitted = fit(value, annotation)
    assert fitted == wanted
    assert type(fitted) is type(wanted)
    parts = zip(fitted, wanted, strict=True) if isinstance(wanted, list | tuple | set | dict) else ()
    assert all(type(one) is type(other) for one, other in parts)


UNFIT: list[tuple[Any, Any]] = [
    (int, "1"),
    (int, 1.5),
    (float, True),
    (str, 1),
    (bool, 1),
    (list[int], ["a"]),
    (list[int] | None, ["a"]),
    (int | str, 1.5),
    (dict[str, int], {1: 1}),
    (Literal["a"], "b"),
    (Plain, Other()),
    (Plain | Other, 1),
    (Ref[Any], "name"),
    (list[Ref[Any]], [1]),
    (Point, {"x": "a"}),
    (Record, {}),
    (Model, {"size": "a"}),
    (Options, {"size": "a"}),
    (Mode, "slow"),
    (Annotated[int, "doc"], "a"),
    (tuple[int, str], (1,)),
]


@pytest.mark.parametrize(("annotation", "value"), UNFIT, ids=[str(case[0]) for case in UNFIT])
def test_a_value_that_does_not_fit_is_refused(annotation, value):
    with pytest.raises((TypeError, ValueError)):
        fit(value, annotation)


# -- unknown methods


@pytest.mark.parametrize(
    ("name", "streams", "text"),
    [
        ("asc", False, "Everything has no message 'asc'; it has: again, ask, beside,"),
        ("asc", False, 'did you mean "ask"?'),
        ("stream", False, "Everything.stream is a stream; use stream"),
        ("ask", True, "Everything.ask is not a stream; use ask or tell"),
        ("_private", False, "Everything._private is not a message: names with _ and the hooks"),
        ("__init__", False, "is not a message"),
        ("on_start", False, "is not a message"),
    ],
)
def test_the_text_of_an_unknown_method_says_what_there_is(name, streams, text):
    assert text in unknown_method(Everything, name, streams=streams)


def test_an_actor_without_messages_says_so():
    class Silent(Actor):
        pass

    assert unknown_method(Silent, "x", streams=False) == "Silent has no message 'x'; it has: none"
