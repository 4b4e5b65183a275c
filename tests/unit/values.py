"""Values of every kind that travels: what the tests of the codec send."""

import datetime

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from callboard.actors.codec import Codec
from callboard.testing.conformance.actors.values import (
    Bits,
    Box,
    Colour,
    Frozen,
    Level,
    Mode,
    Point,
    Record,
    Rights,
)


def there_and_back(value):
    body, buffers = Codec().encode(value, "value")
    return Codec().decode(body, [memoryview(bytes(buffer)) for buffer in buffers or ()])


zones = (
    st.none()
    | st.timezones()
    | st.builds(
        datetime.timezone,
        st.timedeltas(min_value=datetime.timedelta(hours=-23), max_value=datetime.timedelta(hours=23)),
    )
    | st.just(datetime.timezone(datetime.timedelta(hours=2), "Here"))
)
folds = st.integers(0, 1)
keys = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=-(2**70), max_value=2**70),
    st.sampled_from([2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1, 10**400]),
    st.floats(),
    st.text(),
    st.binary(),
    st.dates(),
    st.builds(lambda moment, fold: moment.replace(fold=fold), st.datetimes(timezones=zones), folds),
    st.builds(lambda moment, fold: moment.replace(fold=fold), st.times(timezones=zones), folds),
    st.timedeltas(),
    st.decimals(allow_nan=False),
    st.uuids(),
    st.complex_numbers(),
    st.sampled_from([*Colour, *Mode, *Level, *Rights, *Bits]),
    st.sampled_from([Rights(0), Rights.READ | Rights.WRITE, Bits(5), Bits(0), Bits(64)]),
)
scalars = keys | st.decimals(allow_nan=True)  # whose signalling NaN has no hash
hashable = st.recursive(
    keys,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(tuple),
        st.frozensets(inner, max_size=3),
        st.builds(Point, inner, inner),
        st.builds(Frozen, inner),
    ),
    max_leaves=5,
)
arrays = npst.arrays(
    st.one_of(
        npst.scalar_dtypes(),
        npst.unicode_string_dtypes(),
        npst.byte_string_dtypes(),
        st.just(np.dtype(">f8")),
    ),
    npst.array_shapes(min_dims=0, min_side=0, max_side=3),
)
values = st.recursive(
    scalars
    | st.binary().map(bytearray)
    | arrays
    | arrays.filter(lambda a: a.size).map(lambda a: a.reshape(-1)[0]),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.text(max_size=5), inner, max_size=4),
        st.dictionaries(hashable, inner, max_size=3),
        st.sets(hashable, max_size=3),
        hashable,
        st.builds(Box, inner, st.integers()),
        st.builds(Record, inner, inner),
        st.builds(Point, inner, st.integers()),
    ),
    max_leaves=12,
)
