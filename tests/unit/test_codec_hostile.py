"""What a stranger may send: a decoder raises nothing but `DecodeError`, imports nothing and builds only data."""

import contextlib
import sys
import tracemalloc

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from callboard.actors.codec import OUT_OF_BAND_BYTES, Codec, decode_plain
from callboard.actors.errors import DecodeError
from callboard.actors.extension import BIGINT, BUFFER, OBJECT, PAIRS, SET, TEXT, TUPLE, Ext
from callboard.actors.failure import from_facts
from callboard.testing.conformance.actors.values import Hostile, OwnTuple

from .values import values

HERE = Hostile.__module__
pack = msgspec.msgpack.encode


def chunks(children):
    """Bytes that look like this codec's own, but mean nothing."""
    names = st.sampled_from(
        [
            f"{HERE}:{name}"
            for name in ("Hostile", "OwnTuple", "Box", "Record", "Model", "Colour", "pytest", "Nope")
        ]
        + [
            "os:system",
            "subprocess:Popen",
            "builtins:eval",
            "collections:deque",
            "callboard:System",
            "nowhere:X",
            ":",
            "",
            "typing:Any",
        ]
    )
    forms = st.sampled_from(["enum", "flag", "struct", "dataclass", "pydantic", "namedtuple", "own", 5])
    texts = st.sampled_from(["datetime", "date", "time", "timedelta", "decimal", "uuid", "complex", "?"])
    kinds = st.sampled_from(["bytes", "bytearray", "memoryview", "ndarray", "scalar", "?"])
    dtypes = st.sampled_from(["<f8", "O", "|O8", "T", "<U0", "i4,i4", "<M8[ns]", "V3", "x", 5])
    shapes = st.lists(st.integers(-2, 2**40), max_size=3)
    maps = st.dictionaries(
        st.sampled_from(["content", "x", "a", "__class__", "__dict__", "args"]), children, max_size=3
    )
    return st.one_of(
        children,
        st.lists(children, max_size=3),
        st.builds(
            lambda *parts: Ext(OBJECT, pack(list(parts))), forms, names, maps | children, maps | children
        ),
        st.builds(
            lambda *parts: Ext(TEXT, pack(list(parts))),
            texts,
            st.text() | st.just("1 2 3"),
            st.integers(0, 1),
            children,
        ),
        st.builds(
            lambda *parts: Ext(BUFFER, pack(list(parts))),
            kinds,
            st.binary() | st.integers(-2, 2),
            dtypes,
            shapes,
        ),
        st.builds(lambda code, content: Ext(code, pack(content)), st.integers(-128, 127), children),
        st.builds(Ext, st.integers(-128, 127), st.binary()),
    )


plausible = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(),
    chunks,
    max_leaves=8,
)


def read(body, buffers=()):
    """Decode and say whether it is a value; anything but a `DecodeError` is a failure of the test."""
    imported, built = set(sys.modules), (Hostile.built, OwnTuple.built)
    with contextlib.suppress(DecodeError):
        Codec().decode(body, buffers)
    assert set(sys.modules) - imported - {"zoneinfo._tzpath"} == set()
    assert (Hostile.built, OwnTuple.built) == built


@given(st.binary(max_size=200), st.lists(st.binary(), max_size=2))
def test_random_bytes_raise_nothing_but_a_decode_error(body, buffers):
    read(body, buffers)
    with contextlib.suppress(DecodeError):
        decode_plain(body)


@given(plausible, st.lists(st.binary(), max_size=2))
def test_bytes_made_to_hurt_raise_nothing_but_a_decode_error_and_import_and_build_nothing(value, buffers):
    read(pack(value), buffers)


@pytest.mark.parametrize("key", [b"\x80", b"\x91\x80", pack(Ext(SET, pack([])))])
def test_a_key_that_cannot_be_one_is_a_decode_error(key):
    read(b"\x81" + key + b"\x01")


@given(values, st.data())
def test_a_cut_or_changed_message_raises_nothing_but_a_decode_error(value, data):
    body, buffers = Codec().encode(value, "value")
    broken = bytearray(body)
    for _ in range(data.draw(st.integers(1, 3))):
        broken[data.draw(st.integers(0, len(broken) - 1))] = data.draw(st.integers(0, 255))
    read(bytes(broken), buffers or ())
    read(body[: data.draw(st.integers(0, len(body)))], buffers or ())


def test_a_name_is_looked_up_without_running_the_code_of_its_module():
    """``callboard`` loads its names on first use: looking one up as attributes are would import it."""
    import callboard

    assert "System" not in vars(callboard) or sys.modules.get("callboard.supervisor.system")
    module = type(sys)("lazy_module")
    module.__getattr__ = lambda name: pytest.fail("it was asked")
    sys.modules["lazy_module"] = module
    try:
        with pytest.raises(DecodeError, match="not imported here or lacks it"):
            Codec().decode(pack(Ext(OBJECT, pack(["struct", "lazy_module:X", {}]))))
    finally:
        del sys.modules["lazy_module"]


@pytest.mark.parametrize("form", ["enum", "flag", "struct", "dataclass", "pydantic", "namedtuple"])
@pytest.mark.parametrize("name", ["subprocess:Popen", "builtins:ValueError", f"{HERE}:Hostile", "typing:Any"])
def test_only_data_classes_of_the_form_named_are_built(form, name):
    with pytest.raises(DecodeError, match=f"is not a {form} in this process|not imported here or lacks it"):
        Codec().decode(pack(Ext(OBJECT, pack([form, name, {}]))))


def test_a_named_tuple_is_built_without_its_constructor():
    before = OwnTuple.built
    assert Codec().decode(pack(Ext(OBJECT, pack(["namedtuple", f"{HERE}:OwnTuple", {"a": 1}])))) == (1,)
    assert OwnTuple.built == before


@pytest.mark.parametrize(
    "header",
    [b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc9\xff\xff\xff\xff\x01", b"\xc6\xff\xff\xff\xff"],
)
def test_a_length_that_is_not_there_takes_no_memory(header):
    with pytest.raises(DecodeError):
        Codec().decode(header)


def test_nesting_without_end_is_a_decode_error():
    with pytest.raises(DecodeError):
        Codec().decode(b"\x91" * 1_000_000 + b"\x01")
    body = pack(1)
    for _ in range(2000):
        body = pack(Ext(TUPLE, b"\x91" + body))
    with pytest.raises(DecodeError):
        Codec().decode(body)


def test_an_unknown_extension_says_that_the_peer_is_newer():
    with pytest.raises(DecodeError, match="unknown extension type 99; the peer is newer"):
        Codec().decode(pack(Ext(99, b"\xc0")))


@pytest.mark.parametrize(
    ("data", "shape"), [(bytes(17), [2]), (bytes(8), [2]), (bytes(16), [2, 2]), (b"", [1])]
)
def test_an_array_has_as_many_bytes_as_its_shape_says(data, shape):
    with pytest.raises(DecodeError, match="bytes are not an array of shape"):
        Codec().decode(pack(Ext(BUFFER, pack(["ndarray", data, "<f8", shape]))))


def test_a_frame_that_is_missing_is_a_decode_error():
    body, _ = Codec().encode(b"x" * OUT_OF_BAND_BYTES, "value")
    with pytest.raises(DecodeError, match="frame 0 is missing"):
        Codec().decode(body)


def peak_of(body, buffers=()):
    """Bytes of memory that decoding took at most, above what there was; it may be refused."""
    tracemalloc.start()
    try:
        read(body, buffers)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_nested_extensions_are_not_copied_once_per_level():
    body = pack(b"x" * 100_000)
    for _ in range(100):
        body = pack(Ext(TUPLE, b"\x91" + body))
    read(body)
    assert peak_of(body) < 10 * len(body)


@pytest.mark.parametrize("kind", ["bytes", "bytearray"])
def test_a_frame_is_taken_once_and_not_copied_as_often_as_it_is_named(kind):
    frame = memoryview(bytes(100_000))
    body = pack([Ext(BUFFER, pack([kind, 0]))] * 1000)
    assert peak_of(body, [frame]) < 10 * len(frame)
    with pytest.raises(DecodeError, match="frame 0 of the message is in two places"):
        Codec().decode(body, [frame])
    codec = Codec()
    body, buffers = codec.encode([bytes(OUT_OF_BAND_BYTES)] * 2, "value")
    for _ in range(2):
        assert codec.decode(body, buffers) == [bytes(OUT_OF_BAND_BYTES)] * 2


@pytest.mark.parametrize("length", [Ext(BIGINT, b"\x7f" * 100_000), -1, 1.0, True, "1", None, [1]])
def test_a_length_in_a_shape_that_is_no_length_is_refused_before_anything_is_computed(length):
    with pytest.raises(DecodeError, match="no short list of lengths"):
        Codec().decode(pack(Ext(BUFFER, pack(["ndarray", b"", "<f8", [length] * 8]))))


@pytest.mark.parametrize("dtype", ["f4," * 1000, {"names": ["a"], "formats": ["f4"]}, [["a", "f4"]], 5, None])
def test_what_is_no_short_description_of_an_array_never_reaches_numpy(dtype):
    with pytest.raises(DecodeError, match="dtype is no short text"):
        Codec().decode(pack(Ext(BUFFER, pack(["ndarray", bytes(4), dtype, [1]]))))


def of_one_hash(count):
    """Integers that Python cannot tell apart by their hash."""
    return [Ext(BIGINT, (number * (2**61 - 1)).to_bytes(12, "big", signed=True)) for number in range(count)]


def test_keys_that_share_one_hash_are_refused_when_they_are_too_many_for_a_table():
    with pytest.raises(DecodeError, match="1,000 of 1,000 keys have one hash; the limit is 256"):
        Codec().decode(pack(Ext(SET, pack(of_one_hash(1000)))))
    with pytest.raises(DecodeError, match="have one hash"):
        Codec().decode(pack(Ext(PAIRS, pack([[key, 0] for key in of_one_hash(1000)]))))
    assert len(Codec().decode(pack(Ext(SET, pack(of_one_hash(200)))))) == 200
    many = {(number, -number) for number in range(-2000, 2000)} | set(range(5000))
    assert Codec().decode(Codec().encode(many, "value")[0]) == many


def test_an_error_is_short_however_long_what_it_names_is():
    for content in (["struct", "m:" + "x" * 100_000, {}], ["dataclass", f"{HERE}:Box", {"y" * 100_000: 1}]):
        with pytest.raises(DecodeError) as error:
            Codec().decode(pack(Ext(OBJECT, pack(content))))
        assert len(str(error.value)) < 600


def test_facts_of_an_error_with_an_integer_that_has_no_text_are_an_error_as_well():
    huge = 10**5000
    for facts in (huge, [huge], {"c": huge}, {"c": "remote", "k": huge}, {"w": huge}):
        assert isinstance(from_facts(facts), Exception)
