"""Classes of values of every kind that travels, and what it means that two values are the same."""

import dataclasses
import datetime
import decimal
import enum
import functools
import itertools
import math
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pydantic


class Colour(enum.Enum):
    RED = "red"
    BLUE = ("b", 1)


class Mode(enum.StrEnum):
    FAST = "fast"


class Level(enum.IntEnum):
    LOW = 1


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


class Bits(enum.IntFlag):
    A = 1
    B = 4


class Point(NamedTuple):
    x: Any
    y: Any = 0


@dataclasses.dataclass
class Box:
    content: Any
    size: int = 3


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    content: Any


@dataclasses.dataclass
class Tagged:
    """Keeps more than its fields."""

    name: str

    def __post_init__(self):
        self.tag = (self.name, 1)

    @functools.cached_property
    def loud(self):
        return self.name.upper()


@dataclasses.dataclass
class Unfilled:
    value: int = dataclasses.field(init=False)


@dataclasses.dataclass(frozen=True, repr=False)
class Awkward:
    """A class whose own code fails."""

    loud: int

    def __getattribute__(self, name):
        if name == "loud":
            raise RuntimeError("no attribute")
        return super().__getattribute__(name)

    def __hash__(self):
        return 1

    def __repr__(self):
        raise RuntimeError("no repr")


@dataclasses.dataclass
class Listed(list):
    name: str


class Record(msgspec.Struct, rename="camel"):
    long_name: Any
    other_name: Any = None


class Loose(msgspec.Struct, dict=True):
    name: str


class Maybe(msgspec.Struct):
    value: int | msgspec.UnsetType = msgspec.UNSET


class Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")
    wide: Any = pydantic.Field(alias="theWide", default=None)
    _secret: Any = pydantic.PrivateAttr(default=None)

    @functools.cached_property
    def doubled(self):
        return [self.wide, self.wide]


class Root(pydantic.RootModel[list[int]]):
    pass


class Hostile:
    """No data class: nothing may build it."""

    built = 0

    def __new__(cls, *args, **kwargs):
        Hostile.built += 1
        return super().__new__(cls)


class OwnTuple(tuple):
    _fields = ("a",)
    built = 0

    def __new__(cls, *args, **kwargs):
        OwnTuple.built += 1
        return super().__new__(cls, args)


def same(one, other):
    """Equal and of the same type, all the way down; NaN equals NaN, zeros differ by sign."""
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray | np.generic):
        one, other = np.asarray(one), np.asarray(other)
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    if isinstance(one, float):
        return (math.isnan(one) and math.isnan(other)) or (
            one == other and math.copysign(1, one) == math.copysign(1, other)
        )
    if isinstance(one, complex):
        return same(one.real, other.real) and same(one.imag, other.imag)
    if isinstance(one, decimal.Decimal):
        return one.as_tuple() == other.as_tuple()
    if isinstance(one, dict):
        pairs = zip(one.items(), other.items(), strict=True)
        return len(one) == len(other) and all(same(k, j) and same(v, w) for (k, v), (j, w) in pairs)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(itertools.starmap(same, zip(one, other, strict=True)))
    if isinstance(one, set | frozenset):
        return len(one) == len(other) and all(any(same(item, its) for its in other) for item in one)
    if isinstance(one, datetime.datetime | datetime.time):
        zones = [(type(t.tzinfo), str(t.tzinfo), t.fold, t.replace(tzinfo=None)) for t in (one, other)]
        return zones[0] == zones[1]
    if isinstance(one, msgspec.Struct):
        return same(msgspec.structs.asdict(one), msgspec.structs.asdict(other))
    if isinstance(one, Box | Frozen):
        return same(one.content, other.content)
    return one == other
