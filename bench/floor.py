"""The yardstick: a blocking round trip of 130 bytes between two DEALER sockets, each in a process of its own.

No Python runtime on pyzmq can be faster one at a time. Every run measures it, because absolute figures drift from
machine to machine and from minute to minute.
"""

from __future__ import annotations

import multiprocessing
import tempfile
from multiprocessing.connection import Connection
from time import perf_counter

BODY = b"x" * 130
WARM_UP = 500


def round_trips(plane: str, seconds: float) -> list[float]:
    """Return the round trip times of ``seconds`` seconds, in seconds. Blocks."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="callboard-floor-") as directory:
        endpoint = "tcp://127.0.0.1:*" if plane == "tcp" else f"ipc://{directory}/floor"
        near, far = context.Pipe()
        echo = context.Process(target=_echo, args=(endpoint, far))
        echo.start()
        results, other = context.Pipe()
        asker = context.Process(target=_ask, args=(near.recv(), seconds, other))
        asker.start()
        try:
            times: list[float] = results.recv()
            near.send(None)
        finally:
            for process in (asker, echo):
                process.join(5)
                process.kill()
                process.join()
                process.close()
            for end in (near, far, results, other):
                end.close()
    return times


def _echo(endpoint: str, channel: Connection) -> None:
    import zmq

    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        socket.bind(endpoint)
        channel.send(socket.getsockopt_string(zmq.LAST_ENDPOINT))
        while (message := socket.recv()) != b"":
            socket.send(message)


def _ask(endpoint: str, seconds: float, results: Connection) -> None:
    import zmq

    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.connect(endpoint)
        for _ in range(WARM_UP):
            socket.send(BODY)
            socket.recv()
        times = []
        end = perf_counter() + seconds
        while (start := perf_counter()) < end:
            socket.send(BODY)
            socket.recv()
            times.append(perf_counter() - start)
        results.send(times)
        socket.send(b"")
