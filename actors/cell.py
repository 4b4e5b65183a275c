"""One running actor: its mailbox, the tasks that empty it, and its life from start to stop.

An idle actor owns no task. Mail starts a *drainer*, a task that takes letters until none is left; an actor with
``concurrency = n`` may have n of them. A drainer that takes a letter while others wait first starts two more, so that n
concurrent handlers are reached in log n turns of the loop, while handlers that never wait are all run by the first one.
The loop gets its turn after `TURN_LETTERS` letters (a power of two) or about `TURN_S` seconds, for cancellations, stops
and signs of life; the clock is read after 1, 2, 4, ... letters.

Hot path: `deliver` and `_drain`; they are longer and plainer than the rest for that reason.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from contextvars import Context
from time import monotonic
from typing import Any, Protocol

from .beside import run_beside
from .codec import Codec
from .current import CURRENT
from .directory import Location
from .dropped import note_dropped
from .ending import end_tasks, run_hook
from .envelope import ASK, TELL
from .errors import ActorStopped, DeadlineExceeded, MailboxFull
from .failing import close_failed
from .hooks import HOOKS
from .lifecycle import Hook
from .mailbox import NO_QUEUE, Admit, Letter, Mailbox, Waiter
from .pending import INFINITE
from .policy import Executed, MailboxPolicy, State, StopReason
from .running import absorb, open_body, run_handler
from .signature import Method, hook_of, methods_of
from .stash import Stash

TURN_LETTERS = 256
TURN_S = 0.001

log = logging.getLogger("callboard.actors")


class Host(Protocol):
    """What a cell needs from its node."""

    codec: Codec
    context: Context
    dropped_tells: int

    def actor_failed(self, cell: Cell, error: BaseException) -> None:
        """A tell raised: stop the actor and tell the supervisor."""


class Inner(Protocol):
    """What an actor has besides its mailbox."""

    stash: Stash

    def close(self) -> list[Letter]:
        """End watches and timers; returns what is stashed."""


NOBODY: set[asyncio.Task[None]] = set()
NO_ROOMS: deque[Waiter] = deque(maxlen=0)
"""Never put anything into these: all idle actors share them."""


class Cell:
    """The runtime's side of one incarnation of one actor."""

    __slots__ = (
        "_began_s", "_ended", "_loop", "_pausing", "_starting", "actor", "cls", "concurrency", "drainers",
        "expired", "failed", "handled", "host", "inner", "location", "loose", "mailbox", "methods", "queued",
        "reserved", "rooms", "started_at_s", "state",
    )  # fmt: skip

    def __init__(
        self, host: Host, cls: type, location: Location, policy: MailboxPolicy, concurrency: int
    ) -> None:
        self.host = host
        self.cls = cls
        self.location = location
        self.methods: dict[str, Method] = methods_of(cls)
        self.mailbox = Mailbox(policy)
        self.concurrency = concurrency
        self.actor: Any = None
        self.state = State.STARTING
        # An idle actor has no containers of its own: they would be most of what it takes.
        self.drainers = self.loose = NOBODY
        """Tasks of letters for interleaving methods."""
        self.rooms = NO_ROOMS
        """Senders of this process that wait for room in the mailbox, and inlets that withhold credit until then."""
        self.reserved = 0
        """Places in the mailbox that are kept for senders who waited for them."""
        self.queued = False
        """True while such senders wait, or have not taken their place yet: nobody may go before them."""
        self.handled = self.failed = self.expired = 0
        self.inner: Inner | None = None
        """Its watches, timers and stash, from when it uses one."""
        self.started_at_s = monotonic()
        self._starting = 0
        self._pausing, self._began_s = False, 0.0
        self._ended: asyncio.Event | None = None
        self._loop = asyncio.get_running_loop()

    def __repr__(self) -> str:
        return f"<Cell {self.location.name} {self.state.value}, {len(self.mailbox)} wait, {self.running} run>"

    @property
    def running(self) -> int:
        """How many handlers have begun and not ended."""
        return len(self.drainers) - self._starting + len(self.loose)

    @property
    def takes_mail(self) -> bool:
        """False once the actor stops or has failed."""
        return self.state is State.READY or self.state is State.STARTING

    @property
    def sequential(self) -> bool:
        """True if one message is handled at a time."""
        return self.concurrency == 1

    # -- in

    def deliver(self, letter: Letter) -> None:
        """Take a letter, or answer it with the reason why not."""
        state, mailbox = self.state, self.mailbox
        if state is not _READY and state is not _STARTING:
            self._turn_away(letter, ActorStopped("it is stopping"))
            return
        if letter.method.interleave and state is _READY:
            if mailbox.lend() or self._overflow(letter, beside=True):
                run_beside(self, letter)
            return
        queue = mailbox.queue
        if queue is NO_QUEUE:
            queue = mailbox.open_queue()
        if len(queue) - mailbox.husks < mailbox.limit and mailbox.bytes < mailbox.limit_bytes:
            queue.append(letter)
            mailbox.bytes += letter.size
        elif not self._overflow(letter):
            return
        drainers = self.drainers
        if (not drainers or (not self._starting and len(drainers) < self.concurrency)) and state is _READY:
            self._start_drainer()

    def _overflow(self, letter: Letter, *, beside: bool = False) -> bool:
        """Do what the policy says; True if the letter has a place now."""
        mailbox, admit = self.mailbox, Admit.TAKEN
        if letter.inlet is not None and not letter.inlet.overflows(letter.size):
            self._turn_away(letter, MailboxFull("its sender had no credit for it"))
            letter.inlet.reject()  # only now: the end of a link cancels what is open
            return False
        # A tell that came with credit, or whose sender waited for room, has a place: nobody can be told any more.
        if letter.kind == TELL and mailbox.policy.rejects:
            mailbox.put(letter, beside=beside)
        else:
            admit, victims = mailbox.overflow(letter, beside=beside)
            for victim in victims:
                limit = mailbox.policy
                why = f"its mailbox is full ({limit.messages} messages or {limit.bytes:,} bytes)"
                self._turn_away(victim, MailboxFull(why))
            if admit is Admit.FAIL:
                self.host.actor_failed(self, MailboxFull("its mailbox overflowed", actor=self.location.name))
        return admit is Admit.TAKEN

    def cancel(self, letter: Letter) -> None:
        """The caller has left: take the letter out, or cancel its handler."""
        if letter.cancelled:
            return
        if letter.task is not None:
            letter.cancelled = True
            if letter.producer is not None:
                letter.producer.abandon()
            letter.task.cancel()
        else:
            size = letter.size
            self.mailbox.cancel(letter)
            if letter.inlet is not None:
                letter.inlet.taken(size)
            if self.rooms:
                self.let_in()

    def open(self) -> None:
        """The start is done: begin with what has come meanwhile, but after ``on_ready``."""
        self.state = State.READY
        if hook := hook_of(self.cls, "on_ready"):
            Hook(self).run(hook)
        elif self.mailbox.queue:
            self._start_drainer()

    def post(self, letter: Letter) -> None:
        """Take a letter of the actor itself, whatever the bounds."""
        if letter.method.interleave and self.state is _READY:
            self.mailbox.put(letter, beside=True)
            run_beside(self, letter)
            return
        if letter.origin.urgent:
            self.mailbox.put_first([letter])
        else:
            self.mailbox.put(letter)
        self.wake()

    def wake(self) -> None:
        """Something waits in the mailbox."""
        drainers = self.drainers
        if self.state is _READY and (
            not drainers or (not self._starting and len(drainers) < self.concurrency)
        ):
            self._start_drainer()

    def _start_drainer(self) -> None:
        self._starting += 1
        context = self.host.context.copy()  # not that of the first sender
        task = self._loop.create_task(self._drain(), name=self.location.name, context=context)
        if self.drainers:
            self.drainers.add(task)
        else:
            self.drainers = {task}

    def refuse(self, letter: Letter, error: Exception) -> None:
        """Answer a letter that is not handled; a tell is counted."""
        if letter.kind == TELL:
            self.host.dropped_tells += 1
            note_dropped(letter.method.name, self.location.name, error)
        letter.origin.fail(letter, error, ran=False)

    def _turn_away(self, letter: Letter, error: Exception) -> None:
        self.count_out(letter)
        self.refuse(letter, error)

    def send_back(self, letters: list[Letter]) -> None:
        """Refuse letters that were taken out of the mailbox, because of a stop."""
        for letter in letters:
            self._turn_away(letter, ActorStopped("it was stopped before the message was handled"))

    def count_out(self, letter: Letter) -> None:
        """A letter has left the mailbox: its sender's credit comes back."""
        if letter.inlet is not None:
            letter.inlet.taken(letter.size)

    # -- the drainer

    async def _drain(self) -> None:
        self._starting -= 1
        task = asyncio.current_task()
        assert task is not None
        waiting = len(self.mailbox.queue)
        if waiting > 1 and self.concurrency > 1:
            self._start_more(waiting - 1)
        try:
            await self._empty(task)
            if self.rooms:
                self.let_in()
        finally:  # at once, not in a done callback: mail that comes next must start a new drainer
            self.drainers.discard(task)
            if not self.drainers:
                self.drainers = NOBODY
                if self.mailbox.queue and self.state is State.READY:
                    self._start_drainer()
                else:
                    self.mailbox.rest()

    async def _empty(self, task: asyncio.Task[None]) -> None:
        mailbox, queue, decode = self.mailbox, self.mailbox.queue, self.host.codec.decode_body
        actor, several, set_current, hooks = self.actor, self.concurrency > 1, CURRENT.set, HOOKS
        turn, look = 0, 1
        while queue and self.state is _READY:
            letter = queue.popleft()
            if letter.cancelled:
                mailbox.husks -= 1
                continue
            size = letter.size
            mailbox.bytes -= size
            inlet = letter.inlet
            if inlet is not None:
                count = inlet.count = inlet.count + 1
                taken = inlet.bytes = inlet.bytes + size
                if count >= inlet.half or taken >= inlet.half_bytes:
                    inlet.settle()
            if self.rooms:
                self.let_in()
            if several and queue and not self._starting:
                self._start_more(len(queue))
            if letter.deadline != INFINITE and letter.deadline < monotonic():
                self._expire(letter)
                continue
            method, ran = letter.method, False
            letter.task = task
            set_current(letter)
            try:
                args = decode(letter.body) if letter.body is not None and not letter.buffers else None
                if type(args) is not list:
                    args = open_body(letter, self.host.codec, args)
                letter.body = None
                kwargs = letter.kwargs
                if kwargs is not None or len(args) != 1 or type(args[0]) not in method.only:
                    args = method.bind(args, kwargs)
                ran = True
                if kwargs or method.special or hooks.on:
                    result = await run_handler(actor, letter, args, kwargs or {})
                elif method.waits:
                    result = await method.function(actor, *args)
                else:
                    result = method.function(actor, *args)
            except BaseException as error:
                if ran:
                    letter.args = args  # a stashed message is bound again
                await close_failed(self, letter, error, task, ran=ran)
            else:
                letter.task = None
                self.handled += 1
                if letter.cancelled:  # the handler did not let it end itself
                    await absorb(task)
                if letter.kind == ASK:
                    letter.origin.reply(letter, result)
                elif letter.kind != TELL:  # a stream, or nonsense of a peer
                    letter.origin.forget(letter)
            turn += 1
            if turn == look and queue:
                turn, look = await self._rest(turn)
                if not look:
                    return

    async def _rest(self, turn: int) -> tuple[int, int]:
        """Let the loop run if a drainer has had its turn.

        Returns the letters in the turn, and after how many to call this again: 1, 2, 4, ...; 0 for never, if another
        drainer pauses, which goes on at once: one is enough.
        """
        now = monotonic()
        if turn == 1:
            self._began_s = now
        if turn < TURN_LETTERS and now - self._began_s < TURN_S:
            return turn, 2 * turn
        if self._pausing:
            return 0, 0
        self._pausing = True
        try:
            await asyncio.sleep(0)
        finally:
            self._pausing = False
        return 0, 1

    def wait_for_room(self, waiter: Waiter) -> None:
        """Admit ``waiter`` when there is room, after those who wait already."""
        if self.rooms is NO_ROOMS:
            self.rooms = deque()
        self.rooms.append(waiter)

    def let_in(self) -> None:
        """Admit in turn who waits for room, as long as there is some."""
        rooms, mailbox = self.rooms, self.mailbox
        while rooms and (not self.takes_mail or mailbox.has_room(self.reserved)):
            if rooms.popleft().admit(open_=self.takes_mail):
                self.reserved += 1
        self.queued = bool(rooms or self.reserved)

    def _start_more(self, waiting: int) -> None:
        if self._pausing:
            return
        for _ in range(min(2, waiting, self.concurrency - len(self.drainers))):
            self._start_drainer()

    def _expire(self, letter: Letter) -> None:
        self.expired += 1
        why = "its deadline passed while it waited in the mailbox"
        letter.origin.fail(letter, DeadlineExceeded(why, executed=Executed.NEVER), ran=False)

    # -- handlers beside the mailbox

    def keep(self, task: asyncio.Task[None]) -> None:
        """A task works for the actor beside its drainers; a stop waits for it, and cancels it."""
        if not self.loose:
            self.loose = {task}
        else:
            self.loose.add(task)
        task.add_done_callback(self._let_go)

    def _let_go(self, task: asyncio.Task[None]) -> None:
        self.loose.discard(task)
        if not self.loose:
            self.loose = NOBODY

    # -- out

    async def stop(self, reason: StopReason, grace_s: float) -> None:
        """Refuse what waits, give running handlers ``grace_s`` seconds, cancel them, then run ``on_stop``.

        Returns when the actor has stopped, whoever began it.
        """
        if self._ended is not None:
            await self._ended.wait()
            return
        ended = self._ended = asyncio.Event()
        was_ready = self.state in (State.READY, State.FAILED)
        self.state = State.STOPPING
        try:
            self.let_in()
            stashed = self.inner.close() if self.inner is not None else []
            self.send_back([*stashed, *self.mailbox.drain()])
            tasks = (self.drainers | self.loose) - {asyncio.current_task()}
            await end_tasks(tasks, 0 if reason is StopReason.FAILED else grace_s, max(grace_s, 1.0))
            if was_ready:
                name = f"{self.location.name}: on_stop"
                await run_hook(name, lambda: self.actor.on_stop(reason), max(grace_s, 1.0))
        finally:
            self.state = State.STOPPED
            ended.set()

    def statistics(self) -> dict[str, Any]:
        """Counters and state as plain data."""
        return {
            "state": self.state.value,
            "incarnation": self.location.incarnation,
            "class": f"{self.cls.__module__}:{self.cls.__qualname__}",
            "mailbox": len(self.mailbox),
            "mailbox_bytes": self.mailbox.bytes,
            "stashed": len(self.inner.stash) if self.inner is not None else 0,
            "overflows": self.mailbox.overflows,
            "running": self.running,
            "handled": self.handled,
            "failed": self.failed,
            "expired": self.expired,
        }


_READY, _STARTING = State.READY, State.STARTING
