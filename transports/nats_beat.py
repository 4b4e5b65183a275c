"""The sign of life of a process, from a thread of its own: a handler that holds the loop must not look like a death.

The tcp plane has this from libzmq, whose thread answers for us. A NATS client lives on the event loop, so a second
connection, with nothing else on it, says once per heartbeat that the process runs.
"""

from __future__ import annotations

import asyncio
import logging
import threading

from .nats_client import close, connect
from .settings import NetworkSettings

RETRY_S = 0.2
AGAIN_S = 0.1

log = logging.getLogger("callboard.transports.nats")


class Beat:
    """Publishes an empty message on ``subject`` each heartbeat, until it is stopped."""

    def __init__(self, settings: NetworkSettings, name: str, subject: str) -> None:
        self._settings = settings
        self._name = name
        self._subject = subject
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end: asyncio.Event | None = None
        self._stopped = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name=f"callboard beat {name}", daemon=True)

    def __repr__(self) -> str:
        return f"<Beat {self._subject} every {self._settings.heartbeat_interval_s:g} s>"

    def start(self) -> None:
        """Begin; returns at once."""
        self._thread.start()

    async def stop(self) -> None:
        """End, and wait for the thread; the event loop goes on meanwhile."""
        with self._lock:
            self._stopped = True
            if self._loop is not None and self._end is not None:
                self._loop.call_soon_threadsafe(self._end.set)
        await asyncio.get_running_loop().run_in_executor(None, self._thread.join)

    def _run(self) -> None:
        with asyncio.Runner() as runner:
            try:
                runner.run(self._main())
            finally:
                with self._lock:
                    self._loop = None

    async def _main(self) -> None:
        end = asyncio.Event()
        with self._lock:
            if self._stopped:
                return
            self._loop, self._end = asyncio.get_running_loop(), end
        work = asyncio.ensure_future(self._beat(end))
        await end.wait()
        while not work.done():  # nats-py swallows a cancellation here and there
            work.cancel()
            await asyncio.wait([work], timeout=AGAIN_S)

    async def _beat(self, end: asyncio.Event) -> None:
        interval_s = self._settings.heartbeat_interval_s
        while not end.is_set():
            try:
                client = await connect(
                    self._settings, f"{self._name} (alive)", limit_s=self._settings.connect_timeout_s
                )
            except Exception as error:  # whatever it is, nobody else would try again
                log.debug("no sign of life can be given: %s", error)
                await asyncio.sleep(RETRY_S)
                continue
            try:
                while client.is_connected and not end.is_set():
                    await client.publish(self._subject)
                    await asyncio.sleep(interval_s)
            except Exception as error:  # a lost connection in any of its forms
                log.debug("a sign of life was lost: %s", error)
            finally:
                await close(client)
