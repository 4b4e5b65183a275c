"""Which way a message takes after it failed, and when it gives up."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from callboard.actors.directory import Directory, Location
from callboard.actors.errors import ActorUnavailable
from callboard.actors.policy import Executed
from callboard.actors.retry import Attempts
from callboard.actors.target import Target


@dataclass
class Way:
    location: Location


class Host:
    """A node that can reach whatever its directory names."""

    def __init__(self, *names: str) -> None:
        self.directory = Directory()
        self.directory.on_change(self._changed)
        self.epoch = 0
        for name in names:
            self.appears(name)

    def _changed(self) -> None:
        self.epoch += 1

    def appears(self, name: str, incarnation: int = 1) -> None:
        self.directory.add(Location(name, f"node of {name}", "", 1, incarnation))

    def route(self, location: Location) -> Way:
        return Way(location)

    def target(self, name: str) -> Target:
        return Target(self, name, is_component="." not in name)  # type: ignore[arg-type]


MAYBE = ActorUnavailable("it died", executed=Executed.MAYBE)
NEVER = ActorUnavailable("it cannot be reached", executed=Executed.NEVER)


async def ways(attempts: Attempts, target: Target, error: ActorUnavailable, limit: int = 9) -> list[str]:
    """The ways taken while each of them fails."""
    taken = []
    while len(taken) < limit:
        try:
            route = await attempts.way(target, 0.01)
        except ActorUnavailable:
            break
        taken.append(route.location.name)
        attempts.failed(route.location, error)
    return taken


def first_failed(
    target: Target, error: ActorUnavailable, *, tries: int = 2, patient: bool = False
) -> Attempts:
    attempts = Attempts(tries, patient=patient)
    attempts.failed(target.pick().location, error)
    return attempts


async def test_others_are_tried_before_the_one_that_failed() -> None:
    target = Host("a.0", "a.1", "a.2").target("a")
    attempts = first_failed(target, NEVER)
    taken = await ways(attempts, target, NEVER)
    assert sorted(taken[:2]) == ["a.0", "a.2"]


async def test_no_more_others_are_tried_than_allowed() -> None:
    target = Host(*(f"a.{index}" for index in range(9))).target("a")
    assert len(await ways(first_failed(target, NEVER, tries=2), target, NEVER)) == 2


async def test_the_only_one_is_tried_once_more_and_then_left_alone() -> None:
    target = Host("a.0").target("a.0")
    attempts = first_failed(target, NEVER)
    assert await ways(attempts, target, NEVER) == ["a.0"]
    assert attempts.error is NEVER


async def test_what_may_have_run_is_reported_even_if_the_last_try_never_did() -> None:
    target = Host("a.0").target("a.0")
    attempts = first_failed(target, MAYBE)
    assert await ways(attempts, target, NEVER) == ["a.0"]
    assert attempts.error is MAYBE


@pytest.mark.parametrize("news", ["successor", "thaw"])
async def test_who_may_wait_waits_until_the_directory_says_something_new(news: str) -> None:
    host = Host("a.0")
    target = host.target("a.0")
    attempts = first_failed(target, MAYBE)
    attempts.failed((await attempts.way(target, 1)).location, NEVER)
    waiting = asyncio.create_task(attempts.way(target, 60))
    await asyncio.sleep(0)
    host.directory.remove("a.0", 1, "it died")
    await asyncio.sleep(0)
    assert not waiting.done()
    host.appears("a.0", 2 if news == "successor" else 1)
    route = await waiting
    assert route.location is host.directory.get("a.0")


async def test_the_wait_ends_with_the_deadline() -> None:
    host = Host("a.0")
    target = host.target("a.0")
    attempts = first_failed(target, NEVER, patient=True)
    host.directory.remove("a.0", 1, "it died")
    with pytest.raises(ActorUnavailable) as caught:
        await attempts.way(target, 0.01)
    assert caught.value is NEVER
