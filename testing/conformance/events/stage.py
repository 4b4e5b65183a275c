"""Sources and readers of one topic on one event plane, with as many sides as a test wants to have processes."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from callboard.transports.events.base import EventPlane, EventPlaneContext, Source
from callboard.transports.events.faults import LossyEvents
from callboard.transports.events.inflow import Events, State, Step
from callboard.transports.events.publisher import EventPublisher
from callboard.transports.events.registry import make_event_plane
from callboard.transports.events.subscription import QUEUED_EVENTS, EventSubscription, Gone

from ..rig import Rig

TOPIC = "words"
PATIENCE_S = 30.0
"""How long a condition may take to come true."""


class Speaker:
    """A source that remembers what it said."""

    def __init__(self, name: str, identifier: int, *, has_snapshot: bool) -> None:
        self.name, self.id = name, identifier
        self.said: list[bytes] = []
        self.trouble: Exception | None = None
        """What its snapshot function raises."""
        self.publisher = EventPublisher(TOPIC, self.id, self._state if has_snapshot else None)

    def _state(self) -> list[bytes]:
        if self.trouble is not None:
            raise self.trouble
        return self.said

    def say(self, count: int, size_bytes: int = 0) -> None:
        """Send so many events, each of them another."""
        for _ in range(count):
            event = b"%d" % len(self.said) + bytes(size_bytes)
            self.said.append(event)
            assert self.publisher.send(event) == len(self.said)

    @property
    def source(self) -> Source:
        """As discovery knows it."""
        return self.publisher.source


class Reader:
    """Takes what a subscription tells, and fails if there is a gap that nobody spoke of."""

    def __init__(self, subscription: EventSubscription) -> None:
        self.subscription = subscription
        self.view: dict[int, list[bytes]] = {}
        self.numbers: dict[int, int] = {}
        self.states: list[int] = []
        """Ids of the sources whose snapshots came, one entry for each."""
        self.left: dict[int, str] = {}
        self.lost = 0
        self.problems: list[str] = []
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to read."""
        self._task = asyncio.get_running_loop().create_task(self._read())

    async def stop(self) -> None:
        """Read no more; raises what went wrong in it."""
        if self._task is not None:
            task, self._task = self._task, None
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _read(self) -> None:
        while taken := await self.subscription.take():
            for source, step in taken:
                self._apply(source.id, step)

    def _apply(self, source: int, step: Step | Gone) -> None:
        if isinstance(step, Gone):
            self.left[source] = step.why
            self.view.pop(source, None)
            self.numbers.pop(source, None)
        elif isinstance(step, State):
            self.states.append(source)
            self.view[source], self.numbers[source] = list(step.values), step.number
        elif isinstance(step, Events):
            before = self.numbers.get(source)
            if before is not None and step.first != before + 1:
                self.problems.append(f"{step.first} came after {before}")
            self.view.setdefault(source, []).extend(step.values)
            self.numbers[source] = step.first + len(step.values) - 1
        else:
            before = self.numbers.get(source, step.first - 1)
            if step.first != before + 1:
                self.problems.append(f"{step.first} was said to be lost after {before}")
            self.lost += step.last - step.first + 1
            self.numbers[source] = step.last

    def knows(self, *speakers: Speaker) -> bool:
        """True if exactly what these said is known, item by item."""
        return self.view == {speaker.id: speaker.said for speaker in speakers}


class Stage:
    """Two event planes of one namespace: one for speakers, one for readers."""

    def __init__(self, rig: Rig, name: str) -> None:
        self.rig, self.name = rig, name
        self._namespace = f"n{secrets.token_hex(4)}"
        self._planes: list[EventPlane] = []
        self._speakers: list[Speaker] = []
        self._readers: list[Reader] = []

    async def start(self) -> None:
        """Open both sides."""
        self._near, self._far = self.plane(), self.plane()

    def plane(self) -> EventPlane:
        """Return what a further process would have."""
        settings = replace(self.rig.settings(), event_plane=self.name)
        context = EventPlaneContext(
            namespace=self._namespace,
            node=secrets.token_hex(8),
            settings=settings,
            directory=str(self.rig.directory),
        )
        made = make_event_plane(self.name, context)
        self._planes.append(made)
        return made

    async def speaker(
        self, name: str = "speaker.0", *, has_snapshot: bool = True, loss: float = 0.0, identifier: int = 0
    ) -> Speaker:
        """Open a source, whose plane loses a share of its frames: which, depends on its identifier."""
        made = Speaker(name, identifier or secrets.randbits(63), has_snapshot=has_snapshot)
        source = Source(topic=TOPIC, component="speaker", name=name, incarnation=1, node="n", id=made.id)
        await made.publisher.open(LossyEvents(self._far, loss) if loss else self._far, source)
        self._speakers.append(made)
        return made

    async def reader(
        self, *speakers: Speaker, queued_events: int = QUEUED_EVENTS, reading: bool = True
    ) -> Reader:
        """Open a subscription that follows these; returns when it knows their state."""
        made = Reader(EventSubscription(TOPIC, queued_events=queued_events))
        await made.subscription.open(self._near)
        self._readers.append(made)
        for speaker in speakers:
            made.subscription.add(speaker.source)
        if reading:
            made.start()
        await asyncio.wait_for(made.subscription.synced(), PATIENCE_S)
        return made

    async def until(self, condition: Callable[[], bool], about: Callable[[], object] = lambda: "") -> None:
        """Wait until a condition holds."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not condition():  # noqa: ASYNC110 - conditions are of all sorts
                    await asyncio.sleep(0.005)
        except TimeoutError:
            told = [(reader.numbers, dict(reader.subscription.statistics())) for reader in self._readers]
            raise AssertionError(f"it did not come true in {PATIENCE_S:g} s; {told} {about()}") from None

    async def close(self) -> None:
        """Close everything."""
        for reader in self._readers:
            await reader.subscription.close()
            await reader.stop()
        for speaker in self._speakers:
            await speaker.publisher.close()
        for plane in self._planes:
            await plane.close()

    def check(self) -> None:
        """Fail if a reader saw a gap."""
        problems = [problem for reader in self._readers for problem in reader.problems]
        assert problems == []
