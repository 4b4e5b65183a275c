"""Nearly valid MessagePack: what this runtime sends, with a field or a length that is wrong.

Random bytes seldom get past the first check. Everything here is built from a `Source`. For a new kind of frame: a
builder here, and a target in targets.py with its place in TARGETS.
"""

import struct

import msgspec

from callboard.actors import extension
from callboard.actors.envelope import array_header

pack = msgspec.msgpack.encode

HERE = "callboard.testing.conformance.actors.values"
CLASSES = [
    *(f"{HERE}:{name}" for name in ("Record", "Box", "Model", "Colour", "Rights", "Point", "Hostile", "OwnTuple")),
    "callboard.actors.directory:Location", "callboard.transports.base:Identity", "builtins:int", "os:system",
    "callboard:System", "decimal:Decimal", "nowhere:X", ":", "", "builtins:LookupError", "builtins:KeyError",
]  # fmt: skip
FORMS = ["enum", "flag", "struct", "dataclass", "pydantic", "namedtuple", "?"]
TEXT_KINDS = ["datetime", "date", "time", "timedelta", "decimal", "uuid", "complex", "?"]
TEXTS = [
    "2024-02-29T12:00:00", "2024-02-29", "12:00:00.5", "1 2 3", "999999999 0 0", "-1 -1 -1", "1e999999999", "NaN",
    "sNaN", "-0", "1" * 5000, "12345678-1234-5678-1234-567812345678", "1+2j", "nan+infj", "0001-01-01T00:00:00",
    "9999-12-31T23:59:59.999999", "1_0", "\u0661", "",
]  # fmt: skip
ZONES = ["UTC", "Europe/Berlin", "../etc/passwd", "a" * 300, "/", ".", "", "posix/UTC", "\0"]
BUFFERS = ["bytes", "bytearray", "memoryview", "ndarray", "scalar", "?"]
DTYPES = [
    "<f8", "|u1", "<i4", "|S0", "<U1", "|V8", "|V2000000000", "<M8[ns]", "<M8[25s]", "<m8", "O", "|O", "T", "i4,i4",
    "(2,2)i4", "(99999,99999)f8", "?", "", ">c16", "S2147483647", "f2," * 50,
]  # fmt: skip
FIELDS = [
    "a",
    "b",
    "x",
    "name",
    "content",
    "args",
    "key",
    "__class__",
    "__dict__",
    "c",
    "w",
    "k",
    "p",
    "d",
    "t",
    "s",
]


def array(source, parts):
    """An array, whose header lies now and then."""
    count = len(parts)
    if source.one_in(32):
        count = source.pick((0, count + 1, 15, 16, 65535, 65536, 2**32 - 1))
    return array_header(count) + b"".join(parts)


def table(source, pairs):
    count = len(pairs)
    if source.one_in(32):
        return b"\xdf" + struct.pack(">I", source.pick((count + 1, 2**31, 2**32 - 1))) + b"".join(pairs)
    return b"\xde" + struct.pack(">H", count) + b"".join(pairs)


def ext(source, code, payload):
    size = len(payload)
    if source.one_in(48):
        size = source.pick((0, size + 1, 2**31, 2**32 - 1))
    if size < 256:
        return b"\xc7" + struct.pack(">Bb", size, code) + payload
    return b"\xc9" + struct.pack(">Ib", size, code) + payload


def scalar(source):
    kind = source.below(10)
    if kind < 2:
        return pack(source.below(3))
    if kind == 2:
        return pack(source.wild())
    if kind == 3:
        return b"\xcb" + source.take(8).ljust(8, b"\x7f")
    if kind == 4:
        return pack(source.pick((None, True, False)))
    if kind == 5:
        return pack(source.take(source.below(20)))
    if kind == 6:
        text = source.take(source.below(20))
        return b"\xd9" + bytes([len(text)]) + text  # not valid Unicode, most of the time
    if kind == 7:
        return source.pick((b"\xc1", b"\xdc", b"\xc6\xff\xff\xff\xff", b"\xdb\x00\x00\x00\x05ab"))
    return pack(source.text())


def parts(source, depth, most=4):
    return [value(source, depth) for _ in range(source.below(most + 1))]


def fields(source, depth):
    return table(
        source,
        [pack(source.pick(FIELDS)) + value(source, depth) for _ in range(source.below(4))],
    )


def value(source, depth=5):
    """Some value; one that cannot be, now and then."""
    if depth <= 0 or not len(source):
        return scalar(source)
    depth -= 1
    kind = source.below(16)
    if kind < 4:
        return scalar(source)
    if kind == 4:
        return array(source, parts(source, depth))
    if kind == 5:
        return table(source, [value(source, depth) + value(source, depth) for _ in range(source.below(4))])
    if kind == 6:
        return ext(source, source.number() % 256 - 128, source.take(source.below(20)))
    if kind == 7:
        return array_header(1) * source.pick((1, 3, 200)) + value(source, depth)
    code = source.below(9) + 1
    return ext(source, code, PAYLOADS[code](source, depth))


def _object(source, depth):
    further = parts(source, depth, 3)
    return array(
        source, [pack(source.pick(FORMS)), pack(source.pick(CLASSES)), fields(source, depth), *further]
    )


def _buffer(source, depth):
    data = source.pick((lambda: pack(source.take(source.below(40))), lambda: pack(source.wild() % 2**64)))()
    content = [pack(source.pick(BUFFERS)), data]
    if source.below(3):
        shape = [
            value(source, 1) if source.one_in(4) else pack(source.wild()) for _ in range(source.below(4))
        ]
        content += [pack(source.pick(DTYPES)), array(source, shape)]
    return array(source, content)


def _text(source, depth):
    content = [pack(source.pick(TEXT_KINDS)), pack(source.pick(TEXTS) if source.below(4) else source.text())]
    if source.below(3) == 0:
        zone = source.pick((lambda: pack(source.pick(ZONES)), lambda: array(source, parts(source, depth))))()
        content += [pack(source.below(3)), zone]
    return array(source, content)


def _pairs(source, depth):
    return array(
        source, [array(source, [value(source, depth), value(source, depth)]) for _ in range(source.below(4))]
    )


def _some(source, depth):
    return array(source, parts(source, depth))


PAYLOADS = {
    extension.TUPLE: _some,
    extension.SET: _some,
    extension.FROZENSET: _some,
    extension.BIGINT: lambda source, depth: source.take(source.below(24)) * source.pick((1, 1, 1, 400)),
    extension.OBJECT: _object,
    extension.BUFFER: _buffer,
    extension.REF: lambda source, depth: array(source, [pack(source.text()), *parts(source, depth, 2)]),
    extension.TEXT: _text,
    extension.PAIRS: _pairs,
}


def damaged(source, data):
    """The same bytes; now and then with one changed, or cut."""
    if data and source.one_in(16):
        broken = bytearray(data)
        broken[source.number(2) % len(broken)] = source.below(256)
        return bytes(broken)
    if source.one_in(24):
        return data[: source.number(2) % (len(data) + 1)]
    return data


METHODS = ["add", "name", "anything", "typed", "count", "sleep", "note", "nope", "__init__", "on_stop", ""]


def envelope(source, kinds):
    """One message: every field is what it should be, or now and then anything."""
    right = [
        pack(source.pick(kinds)),
        pack(source.below(6)),
        _body(source),
        pack(source.pick((1, 1, 1, 2, 9))),
        pack(source.pick(METHODS)),
        pack(source.pick((10.0, 0.0, 1e-9, 5, -1.0, float("inf"), float("nan"), 1e308))),
        _extra(source),
    ]
    if source.one_in(6):
        right[source.below(7)] = value(source, 3)
    return array(source, right[: source.pick((7, 7, 7, 3, 4, 6, 8))])


def _body(source):
    kind = source.below(6)
    if kind < 2:
        return array(source, parts(source, 4))
    if kind == 2:
        named = table(source, [pack(source.pick(("a", "b", "x", "self"))) + value(source, 3)])
        return table(source, [pack("a") + array(source, parts(source, 3)), pack("k") + named])
    if kind == 3:
        return array(source, [pack(source.wild()), pack(source.wild())])
    if kind == 4:
        facts = [pack(source.pick(FIELDS)) + value(source, 3) for _ in range(source.below(6))]
        codes = ("remote", "unavailable", "deadline", "full", "x")
        names = [pack("c") + pack(source.pick(codes)), pack("k") + pack(source.pick(CLASSES))]
        return table(source, [*names, pack("p") + array(source, parts(source, 3)), *facts])
    return value(source, 4)


def _extra(source):
    kind = source.below(5)
    if kind < 2:
        return pack(None)
    if kind == 2:
        return pack({"w": [source.wild(), source.wild()]})
    if kind == 3:
        return table(source, [pack("c") + value(source, 3), pack("w") + value(source, 2)])
    return value(source, 2)


def message(source, kinds):
    """The frames of one message of a plane."""
    batch = array(source, [envelope(source, kinds) for _ in range(source.below(4) + 1)])
    frames = [damaged(source, batch)]
    for _ in range(source.pick((0, 0, 0, 1, 2))):
        frames.append(source.take(source.below(30)))
    return frames


def handshake(source):
    """The map of a hello."""
    names = (
        "node",
        "name",
        "namespace",
        "incarnation",
        "pid",
        "host",
        "address",
        "max_message_bytes",
        "features",
    )
    texts = ("n-1", "x", "default", "tcp://127.0.0.1:1", "\n\x1b[31m", "\u202e", "x" * 300)
    identity = []
    for name in names:
        wild = (lambda: value(source, 2), lambda: pack(source.wild()), lambda: pack(source.pick(texts)))
        usual = pack(
            [] if name == "features" else source.below(9) if name[0] in "im" or name == "pid" else "n"
        )
        identity.append(pack(name) + (source.pick(wild)() if source.one_in(5) else usual))
    version = array(source, [value(source, 1), pack(0)]) if source.one_in(6) else pack([1, 0])
    body = [
        pack("v") + version,
        pack("e") + pack(source.pick(("", "n", "m"))),
        pack("i") + table(source, identity),
    ]
    if source.one_in(6):
        body.append(pack(source.pick(("why", "v", "i"))) + value(source, 3))
    return source.pick((b"\xc1H", b"\xc1A", b"\xc1R", b"\xc1B")) + damaged(source, table(source, body))


def piece(source):
    """A piece of a message on NATS; mostly the one that is expected next."""
    kind = source.pick((1, 1, 1, 1, 2, 3, 4, 0, 9))
    flags = source.pick((1, 2, 3, 7, 0, 4, 255))
    number = source.below(4) if source.below(4) else source.wild() % 2**64
    head = struct.pack(">BBHIQQ", kind, flags, source.pick((0, 0, 1, 65535)), 0, 1, number)
    if source.below(2):
        lengths = [
            source.wild() % 2**64 if source.one_in(8) else source.below(9) for _ in range(source.below(4))
        ]
        body = struct.pack(f">I{len(lengths)}Q", len(lengths), *lengths)
        if source.one_in(8):
            body = struct.pack(">I", source.wild() % 2**32)
        body += bytes(min(64, sum(lengths)))
    else:
        body = source.take(source.below(40))
    return damaged(source, head + body)


JSON = [
    b"1", b"-1", b"1e999", b"NaN", b'"x"', b"null", b"true", b"[]", b"{}", b"[[[[1]]]]", b'"\\ud800"', b'"\xff"',
    b"1" * 400, b"[" * 2000, b'{"a":' * 1200, b"0.1", b'"\\u0000"', b"18446744073709551616", b"{", b"]",
]  # fmt: skip


def request(source):
    """A request of a stranger in JSON."""
    lines = [
        b'"method": ' + (source.pick(JSON) if source.one_in(8) else b'"%s"' % source.pick(METHODS).encode())
    ]
    if source.below(4):
        listed = b", ".join(source.pick(JSON) for _ in range(source.below(4)))
        lines.append(b'"args": ' + (source.pick(JSON) if source.one_in(8) else b"[%s]" % listed))
    if source.below(2):
        named = b", ".join(
            b'"%s": %s' % (source.pick(("a", "b", "x", "self", "")).encode(), source.pick(JSON))
            for _ in range(source.below(3))
        )
        lines.append(b'"kwargs": ' + (source.pick(JSON) if source.one_in(8) else b"{%s}" % named))
    if source.one_in(4):
        lines.append(b'"deadline_s": ' + source.pick(JSON))
    if source.one_in(12):
        lines.append(b'"more": 1')
    return damaged(source, b"{" + b", ".join(lines) + b"}")
