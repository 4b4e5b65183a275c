"""The workers of one component: who is up, and what each serves."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from callboard.actors.directory import split_name
from callboard.actors.ref import Ref

from .protocol import ModelInfo, Role
from .scheduling.demand import Rank
from .worker import Worker

DESCRIBE_S = 1.0
"""Deadline of asking a worker what it serves."""

AGAIN_S = 0.5
"""Pause before one that did not say it is asked again."""


@dataclass(slots=True)
class Member:
    """One instance that is up."""

    index: int
    incarnation: int
    ref: Ref[Worker]
    info: ModelInfo | None = None
    ranks: tuple[Rank, ...] = field(default=())


class Pool:
    """Follows the directory, and asks each new incarnation what it serves; only those with one of ``roles`` count.

    ``joined`` and ``left`` are called with each member that has said what it serves or is gone, ``changed`` after that.
    """

    def __init__(
        self,
        workers: Ref[Worker],
        log: logging.Logger,
        roles: Collection[Role] = (Role.BOTH, Role.DECODE),
    ) -> None:
        # Retries are made by the router: a reference to one instance would only try the same one again.
        self._workers = workers.options(retries=0)
        self.name = workers.name
        self.members: dict[int, Member] = {}
        self.known_models: set[str] = set()
        self.joined: Callable[[Member], object] = _nothing
        self.left: Callable[[Member], object] = _nothing
        self.changed: Callable[[], object] = _nothing
        self._log, self._roles = log, roles
        self._asking: dict[int, asyncio.Task[None]] = {}
        """By the identity of the member: one that does not answer keeps nobody else from being known, not even itself
        when it was frozen and is up again, of the same incarnation."""
        self._again_timer: asyncio.TimerHandle | None = None
        self._dirty = True
        self._closed = False
        self._news = asyncio.Event()
        self._unfollow: Callable[[], None] = lambda: None

    def __repr__(self) -> str:
        return f"<Pool {self.name}, {len(self.members)} up>"

    async def start(self) -> None:
        """Begin to follow; returns when those that are up were asked."""
        self._unfollow = self._workers.on_change(self._directory_changed)
        self.look()
        await self.asked()

    async def close(self) -> None:
        """Follow no more."""
        self._unfollow()
        self._closed = True
        if self._again_timer is not None:
            self._again_timer.cancel()
        for task in self._asking.values():
            task.cancel()
        await self.asked()
        self._asking.clear()  # one that had not begun yet

    def look(self) -> dict[int, Member]:
        """Return the members, by number."""
        if self._dirty:
            self._dirty = False
            self._update()
        return self.members

    def serving(self, model: str) -> list[Member]:
        """Return the members that serve a model."""
        return [
            member
            for member in self.look().values()
            if member.info is not None and member.info.model == model and member.info.role in self._roles
        ]

    @property
    def is_settled(self) -> bool:
        """True if every member has said what it serves."""
        return all(member.info is not None for member in self.look().values())

    async def grown(self, count: int) -> None:
        """Return when so many members have said what they serve, and have one of the roles."""
        while self._ready < count:
            self._log.info(
                "%d of %d workers of %s serve (min_initial_workers)", self._ready, count, self.name
            )
            self._news.clear()
            await self._news.wait()

    @property
    def _ready(self) -> int:
        infos = [member.info for member in self.look().values()]
        return sum(info is not None and info.role in self._roles for info in infos)

    def doubt(self, member: Member) -> None:
        """What is known of a member turned out to be wrong: ask it again."""
        if self.members.get(member.index) is member:
            member.info = None
            self._ask_soon()

    async def asked(self) -> None:
        """Return when whoever is being asked has answered."""
        if self._asking:
            await asyncio.wait(list(self._asking.values()))

    def _directory_changed(self) -> None:
        self._dirty = True
        self.look()

    def _update(self) -> None:
        up = {split_name(ref.name)[1] or 0: ref for ref in self._workers.instances()}
        changed = False
        for index, member in list(self.members.items()):
            if index not in up or up[index].incarnation != member.incarnation:
                del self.members[index]
                self.left(member)
                changed = True
        for index in sorted(up.keys() - self.members.keys()):
            ref = up[index]
            self.members[index] = Member(index, ref.incarnation, ref)
        self.members = dict(sorted(self.members.items()))
        self._ask_soon()
        if changed:
            self.changed()

    def _ask_soon(self) -> None:
        """Ask each member that has not said what it serves, if it is not being asked."""
        for member in self.members.values():
            if member.info is None and id(member) not in self._asking and not self._closed:
                # With a context of its own: the deadline of the message being handled is not the deadline of this.
                task = asyncio.get_running_loop().create_task(
                    self._ask(member), name=f"asks {member.ref.name}", context=contextvars.Context()
                )
                self._asking[id(member)] = task

    def _ask_again(self) -> None:
        self._again_timer = None
        self._ask_soon()

    async def _ask(self, member: Member) -> None:
        try:
            info = await member.ref.options(deadline_s=DESCRIBE_S).ask(Worker.describe)
            self._says(member, info)
        except Exception as error:  # whatever it is, the member may say it later
            self._log.warning("%s does not say what it serves: %s", member.ref.name, error)
            if self._again_timer is None and not self._closed:
                self._again_timer = asyncio.get_running_loop().call_later(AGAIN_S, self._ask_again)
        finally:
            del self._asking[id(member)]

    def _says(self, member: Member, info: ModelInfo) -> None:
        if self.members.get(member.index) is not member:
            return
        member.info = info
        member.ranks = tuple(Rank(member.index, number) for number in range(info.dp_ranks))
        self.known_models.add(info.model)
        self.joined(member)
        self._news.set()
        self.changed()


def _nothing(*_: object) -> None:
    """Nobody listens."""
