"""What a handler receives equals what was sent, on every plane; what comes back does, too."""

import asyncio
import dataclasses
import datetime
import decimal
import math
import random
import zoneinfo

import numpy as np
import pytest

from .classes import Echo, Gate
from .values import Box, Colour, Frozen, Level, Mode, Model, Point, Record, Rights, Root, Tagged, same

VALUES = [
    [1, 2.5, True, None, "text", b"bytes", {"k": [{}]}],
    (1, (2, [3, (4,)])),
    {1: "a", None: "b", False: "c", (1, 2): "d", 2.5: "e", b"k": "f"} | {Mode.FAST: "g"},
    [{1, 2}, frozenset({(1, 2)}), bytearray(b"x"), memoryview(b"y")],
    [2**64, -(2**64), 2**63, -(2**63), math.inf, -0.0],
    [Colour.RED, Level.LOW, Mode.FAST, Rights.READ | Rights.WRITE],
    [Box([Frozen((1, {2}))]), Record(1, {"deep": Box(2)}), Point(1, 2), Tagged("a")],
    [Model(theWide=(1, 2), more={3}), Root([1, 2, 3])],
    [decimal.Decimal("1.50"), datetime.timedelta(1, 2, 3), datetime.date(2024, 1, 2), 1 + 2j],
    [datetime.datetime(2024, 7, 1, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")), datetime.time(1, 2, fold=1)],
    [np.arange(6).reshape(2, 3), np.float32(1.5), np.array("2024-01-01", "M8[D]"), np.zeros((0, 3), ">i2")],
    [bytes(100_000), np.arange(50_000.0), {"nested": (bytearray(200_000), np.ones((300, 300), np.float32))}],
]


class Typed(Echo):
    """Checks what it gets against its annotations."""

    async def box(self, box: Box) -> str:
        return f"{type(box).__name__} {box.content}"

    async def several(self, boxes: list[Box] | None = None, level: Level = Level.LOW) -> list:
        return [boxes, level]


@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
async def test_a_value_arrives_equal_and_of_the_same_type_in_every_direction(pair, value):
    ref = await pair.spawn(Echo)
    assert same(await ref.ask(Echo.echo, value), value)
    assert same(await ref.ask(Echo.any_number, value, named=value), [[value], {"named": value}])
    (item,) = [item async for item in ref.stream(Echo.items, [value])]
    assert same(item, value)
    gate = await pair.spawn(Gate, name="g.0")
    await gate.tell_wait(Gate.note, value)
    await gate.ask(Gate.look)
    await pair.quiet("g.0")
    (seen,) = pair.actor("g.0").seen
    assert same(seen, value)


async def test_nan_arrives_as_nan(pair):
    ref = await pair.spawn(Echo)
    assert math.isnan(await ref.ask(Echo.echo, math.nan))


async def test_large_buffers_arrive_whole_and_in_order(remote):
    ref = await remote.spawn(Echo)
    parts = [random.randbytes(size) for size in (1, 65_535, 65_536, 1_000_000, 8_000_000)]
    assert await ref.ask(Echo.echo, parts) == parts
    array = np.frombuffer(parts[-1], np.uint16).reshape(-1, 100)
    back = await ref.ask(Echo.echo, {"array": array, "bytes": parts[3]})
    assert np.array_equal(back["array"], array)
    assert back["bytes"] == parts[3]


async def test_plain_data_becomes_what_the_handler_annotates(pair):
    ref = await pair.spawn(Typed)
    assert await ref.ask("box", {"content": 5}) == "Box 5"
    assert await ref.ask("box", Box(6)) == "Box 6"
    boxes, level = await ref.ask("several", [{"content": 1}], level=1)
    assert (boxes, level, type(level)) == ([Box(1)], Level.LOW, Level)
    assert await ref.ask("several") == [None, Level.LOW]


async def test_the_caller_may_change_what_it_sent(remote):
    ref = await remote.spawn(Echo)
    value = {"list": [1], "array": np.zeros(20_000), "box": Box([1])}
    sent = dataclasses.replace(value["box"]), value["array"].copy()
    asking = asyncio.create_task(ref.ask(Echo.echo, value))
    await asyncio.sleep(0)
    value["list"].append(2)
    value["array"][0] = 1
    value["box"].content = 2
    back = await asking
    assert back["list"] == [1]
    assert (back["box"], back["array"][0]) == (sent[0], sent[1][0])
