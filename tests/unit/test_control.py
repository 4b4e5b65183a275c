"""The control channel: frames survive any cut of the stream, nonsense ends it, and close delivers."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from callboard.supervisor import control
from callboard.supervisor.child import _trace, describe
from callboard.supervisor.control import Channel, FrameDecoder, encode_frame

Runner = Callable[[Any], Any]


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Runner:
    def runner(main: Any) -> Any:
        with asyncio.Runner(loop_factory=request.param) as loop:
            return loop.run(main)

    return runner


MESSAGES: list[Any] = [
    control.StartActor(
        "worker.0", 3, "pkg.mod:Worker", [1, "x", None], {"a": {"ref": "router"}}, b"\x00", {"messages": 5}
    ),
    control.DirectoryAdd([["worker.0", "n1", "tcp://127.0.0.1:1", 0, 3]]),
    control.NodeDown("n1", "killed by SIGKILL"),
    control.Stop(5.0),
]


@given(cuts=st.lists(st.integers(min_value=1, max_value=40)))
def test_messages_arrive_whole_however_the_stream_is_cut(cuts: list[int]) -> None:
    stream = b"".join(encode_frame(message) for message in MESSAGES)
    frames = FrameDecoder(msgspec.msgpack.Decoder(control.ToChild))
    received: list[Any] = []
    for size in [*cuts, len(stream)]:
        received += frames.feed(stream[:size])
        stream = stream[size:]
    assert received == MESSAGES


def test_a_length_above_the_limit_is_refused_before_memory_is_taken() -> None:
    frames = FrameDecoder(msgspec.msgpack.Decoder(control.ToChild))
    with pytest.raises(ValueError, match="exceeds the limit"):
        frames.feed(b"\xff\xff\xff\xff")


@given(st.binary(max_size=200))
def test_a_decoder_never_fails_in_a_way_of_its_own(data: bytes) -> None:
    frames = FrameDecoder(msgspec.msgpack.Decoder(control.ToChild))
    try:
        frames.feed(len(data).to_bytes(4, "big") + data)
    except (msgspec.DecodeError, ValueError):
        return


def pair(received: list[Any], lost: asyncio.Future[Exception | None]) -> Any:
    near, far = socket.socketpair()
    decoder = msgspec.msgpack.Decoder(control.ToChild)
    return Channel.over(near, decoder, received.append, lost.set_result), far


def test_close_delivers_what_was_sent(run: Runner) -> None:
    async def main() -> None:
        received: list[Any] = []
        lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        opening, far = pair(received, lost)
        near = await opening
        gone: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        other = await Channel.over(
            far, msgspec.msgpack.Decoder(control.FromChild), lambda _: None, gone.set_result
        )
        big = control.DirectoryAdd([["x" * 1000, "n", "a", i, 1] for i in range(2000)])
        assert other.send(big)
        await other.close()
        assert await lost is None
        assert received == [big]
        assert not near.send(control.Pong(1))
        await near.close()
        assert await gone is None

    run(main())


def test_what_came_before_the_channel_was_taken_over_can_be_answered(run: Runner) -> None:
    async def main() -> None:
        near, far = socket.socketpair()
        far.sendall(encode_frame(control.Ping(3)))
        decoder = msgspec.msgpack.Decoder(control.ToChild)
        channel: Channel[Any] = Channel(decoder, lambda ping: channel.send(control.Pong(ping.number)), print)
        await channel.take(near)
        answers: list[Any] = []
        answered = asyncio.Event()
        other = await Channel.over(
            far,
            msgspec.msgpack.Decoder(control.FromChild),
            lambda answer: (answers.append(answer), answered.set()),  # type: ignore[func-returns-value]
            lambda _: None,
        )
        await answered.wait()
        assert answers == [control.Pong(3)]
        await other.close()
        await channel.close()

    run(main())


def test_nonsense_from_the_other_side_ends_the_channel_and_is_reported(run: Runner) -> None:
    async def main() -> None:
        received: list[Any] = []
        lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        opening, far = pair(received, lost)
        channel = await opening
        far.sendall((5).to_bytes(4, "big") + b"\xc1abcd")
        assert isinstance(await lost, msgspec.DecodeError)
        assert received == []
        assert not channel.is_open
        far.close()

    run(main())


def test_an_error_whose_text_utf_8_cannot_carry_can_be_sent() -> None:
    error = ValueError("no file \udcff here")
    text = describe(error)
    assert text == r"ValueError: no file \udcff here"
    frame = encode_frame(control.ActorFailed("a", 1, text, _trace(error)))
    [sent] = FrameDecoder(msgspec.msgpack.Decoder(control.FromChild)).feed(frame)
    assert r"\udcff" in sent.traceback
