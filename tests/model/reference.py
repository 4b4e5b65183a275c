"""The reference: what may become of messages. Pure; it is told what happened and knows what must not.

It predicts little and forbids much. Handlers, callers and whoever starts and ends actors report to one `Reference`; a
report that no promise of SEMANTICS.md allows is a `Breach`, which tells the whole story in order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from callboard.actors.errors import (
    ActorError,
    ActorNotFound,
    ActorStopped,
    ActorUnavailable,
    CallCycle,
    DeadlineExceeded,
    MailboxFull,
)
from callboard.actors.policy import Executed, Overflow


class Breach(AssertionError):
    """Something happened that was promised not to."""


class Boom(Exception):
    """What handlers raise on purpose."""


@dataclass(slots=True)
class Run:
    """One handler of one message in one incarnation."""

    actor: str
    incarnation: int
    keeps_order: bool = True
    """False for a method that interleaves."""
    ended: str = ""
    """How: returned, raised, cancelled; empty while it runs."""
    produced: int = 0


@dataclass(slots=True, eq=False)
class Message:
    """One message, from the call to its outcome."""

    number: int
    kind: str
    """tell, tell_wait, ask or stream."""
    sender: str
    target: str
    """An instance, or a component."""
    method: str
    deadline_s: float
    chain: tuple[str, ...] = ()
    """The actors that wait for it and cannot handle another message meanwhile."""
    nested: bool = False
    """A handler waits for it."""
    items: int = 0
    known: int = 0
    """The incarnation that it is meant for; 0 if it may be sent to a later one as well."""
    sent: int = 0
    """Its place among all messages in the order they were sent; 0: not sent yet."""
    runs: list[Run] = field(default_factory=list)
    arrived: int = 0
    """Items that the caller has got."""
    outcome: str = ""
    executed: Executed | None = None
    cancelled: bool = False
    """Its caller was told to leave."""
    lost: bool = False
    """Its caller, or its sender with it, died."""
    gone: bool = False
    """Its caller had an outcome, or had left, when everything was quiet: nothing may happen with it any more."""
    settled: bool = False
    """It did not wait any more when everything was quiet."""

    def __str__(self) -> str:
        return f"message {self.number}: {self.kind} {self.target}.{self.method} from {self.sender}"

    @property
    def over(self) -> bool:
        """True if its caller waits for nothing any more."""
        return bool(self.outcome) or self.lost

    @property
    def open_runs(self) -> list[Run]:
        """Handlers that have not ended."""
        return [run for run in self.runs if not run.ended]


@dataclass(slots=True)
class Life:
    """One incarnation of one actor."""

    actor: str
    incarnation: int
    home: str
    limit: int
    overflow: Overflow
    concurrency: int
    told: bool = True
    """Everybody knows of it."""
    stopping: bool = False
    """Somebody has commanded its end."""
    ended: str = ""
    """Why nothing may begin in it any more."""
    troubled: str = ""
    """Why it may be unavailable to somebody: it ends, or a way to it had a fault."""
    last: dict[str, Message] = field(default_factory=dict)
    """Per sender, the message that began last, of those that keep the order."""


@dataclass(slots=True, eq=False)
class Watched:
    """One watch of one incarnation."""

    node: str
    watcher: str
    actor: str
    incarnation: int
    """0 if the watcher knew of none that was up."""
    told: str = ""
    cancelled: bool = False

    def __str__(self) -> str:
        return f"watch of {self.actor} incarnation {self.incarnation} by {self.watcher}"

    @property
    def over(self) -> bool:
        """True if nothing may be told any more."""
        return bool(self.told) or self.cancelled


class Reference:
    """All messages and all incarnations of one example."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._start_s = now()
        self.messages: dict[int, Message] = {}
        self.lives: dict[str, list[Life]] = {}
        self.story: list[str] = []
        self._sent = 0

    @property
    def now_s(self) -> float:
        """What time it is."""
        return self._now()

    # -- reports

    def note(self, text: str) -> None:
        """Add a line to the story."""
        self.story.append(f"{self.now_s - self._start_s:6.2f}  {text}")

    def breach(self, text: str) -> Breach:
        """The error that ends the example."""
        return Breach("\n".join([text, "the story, by the clock:", *self.story, f"BREACH  {text}"]))

    def spawned(self, life: Life) -> None:
        """An incarnation is about to start."""
        self.lives.setdefault(life.actor, []).append(life)
        self.note(f"{life.actor} starts in {life.home}, incarnation {life.incarnation}")

    def current(self, actor: str) -> Life | None:
        """The last incarnation of an actor, if it has not ended."""
        lives = self.lives.get(actor, [])
        return lives[-1] if lives and not lives[-1].ended else None

    def trouble(self, home: str, why: str) -> None:
        """A fault: whatever lives in ``home`` may be unavailable from now on."""
        self.note(f"{home}: {why}")
        for lives in self.lives.values():
            for life in lives:
                if life.home == home and not life.ended:
                    life.troubled = why

    def ended(self, life: Life, why: str) -> None:
        """Nothing may begin in this incarnation any more."""
        if not life.ended:
            life.ended = life.troubled = why
            self.note(f"{life.actor} incarnation {life.incarnation} is over: {why}")

    def sends(self, message: Message, known: int) -> None:
        """The call is made now."""
        self._sent += 1
        message.sent, message.known = self._sent, known
        meant = f", meant for incarnation {known}" if known else ""
        self.note(f"{message}{meant}")

    def began(self, number: int, run: Run) -> None:
        """A handler begins."""
        message, actor, incarnation = self.messages[number], run.actor, run.incarnation
        self.note(f"{number} runs in {actor} incarnation {incarnation}")
        (life,) = (life for life in self.lives[actor] if life.incarnation == incarnation)
        if message.target not in (actor, actor.partition(".")[0]):
            raise self.breach(f"{message} ran in {actor}")
        if message.runs:
            raise self.breach(f"{message} ran twice")
        if life.ended:
            raise self.breach(f"{message} began in an incarnation that was over: {life.ended}")
        if message.known and incarnation != message.known:
            raise self.breach(f"{message} was meant for incarnation {message.known}, ran in {incarnation}")
        if message.executed is Executed.NEVER:
            raise self.breach(f"{message} ran after its caller was told executed=never")
        if message.gone:
            raise self.breach(f"{message} ran although its caller had left and everything had been quiet")
        if run.keeps_order and message.known:
            before = life.last.get(message.sender)
            if before is not None and before.sent > message.sent:
                raise self.breach(f"{message} was sent before {before}, and began after it")
            life.last[message.sender] = message
        message.runs.append(run)

    def ends(self, number: int, run: Run, how: str) -> None:
        """A handler returned, raised, or was cancelled."""
        message = self.messages[number]
        self.note(f"{number} {how}")
        if run.ended:
            raise self.breach(f"{message} ended twice: {run.ended}, and {how}")
        run.ended = how
        (life,) = (life for life in self.lives[run.actor] if life.incarnation == run.incarnation)
        if how == "raised" and message.kind.startswith("tell"):
            life.troubled = life.troubled or "it failed"
        left = message.cancelled or message.over or self.now_s >= message.deadline_s
        if how == "cancelled" and not (self._troubled(life) or (left and message.kind in ("ask", "stream"))):
            raise self.breach(f"{message} was cancelled, and its caller had not left")

    def item(self, number: int, item: list[int]) -> None:
        """The caller of a stream got an item: number of the message, index, incarnation."""
        message = self.messages[number]
        if message.outcome:
            raise self.breach(f"{message} gave an item after its end")
        due = [number, message.arrived, *(run.incarnation for run in message.runs)]
        if item != due:
            raise self.breach(f"{message} gave the item {item} when {due} was due")
        message.arrived += 1

    def watches(self, watched: Watched) -> None:
        """Somebody begins to watch."""
        self.note(str(watched))

    def told(self, watched: Watched, incarnation: int, kind: str) -> None:
        """A watcher is told that an incarnation is down."""
        self.note(f"{watched} hears: {kind}")
        if watched.over:
            raise self.breach(f"{watched} hears {kind} after {watched.told or 'it was cancelled'}")
        watched.told = kind
        if watched.incarnation and incarnation != watched.incarnation:
            raise self.breach(f"{watched} hears of incarnation {incarnation}")
        if watched.incarnation:
            life = self.lives[watched.actor][watched.incarnation - 1]
            if not life.ended and not self._troubled(life):
                raise self.breach(f"{watched} hears {kind}, and it is up")

    def is_down(self, watched: Watched) -> bool:
        """True if a watcher must have heard, once everybody was told."""
        return not watched.incarnation or bool(self.lives[watched.actor][watched.incarnation - 1].ended)

    def left(self, number: int) -> None:
        """The caller ended by its cancellation, or left its stream."""
        message = self.messages[number]
        if message.lost:
            return
        if not message.cancelled:
            raise self.breach(f"{message}: its caller was cancelled, and nobody had asked for that")
        self._over(message, "left")

    def value(self, number: int, answer: list[int] | None) -> None:
        """The caller got its answer (number, incarnation), the end of its stream, or its tell was accepted (None)."""
        message = self.messages[number]
        if message.lost:
            return
        self._over(message, "accepted" if answer is None else "value")
        if answer is not None:
            if [number, *(run.incarnation for run in message.runs if run.ended == "returned")] != answer:
                raise self.breach(f"{message} was answered {answer}, but its runs are {message.runs}")
            if message.kind == "stream" and message.arrived != message.items:
                raise self.breach(f"{message} ended after {message.arrived} of {message.items} items")

    def error(self, number: int, error: Exception) -> None:
        """The caller got an error."""
        message = self.messages[number]
        if message.lost:
            return
        text = f"{type(error).__name__}: {error}".partition("\n")[0]
        self._over(message, text)
        if isinstance(error, ActorError):
            message.executed = error.executed
            if error.executed is Executed.NEVER and message.runs:
                raise self.breach(f"{message} ran, and its caller was told {text}")
            if error.executed is Executed.YES and not message.runs:
                raise self.breach(f"{message} did not run, and its caller was told {text}")
            if message.kind == "stream" and error.items != message.arrived:
                raise self.breach(f"{message} ended after {message.arrived} items with {text}")
        if not self._justified(message, error):
            raise self.breach(f"{message} had no reason to fail with {text}")

    def _over(self, message: Message, outcome: str) -> None:
        self.note(f"{message.number} has its outcome: {outcome}")
        if message.outcome:
            raise self.breach(f"{message} has two outcomes: {message.outcome}, and {outcome}")
        message.outcome = outcome

    # -- what follows

    def _justified(self, message: Message, error: Exception) -> bool:
        raised = any(run.ended == "raised" for run in message.runs)
        if raised and (not isinstance(error, ActorError) or error.executed is Executed.YES):
            return True
        if isinstance(error, CallCycle):
            return message.target in message.chain
        lives = self._lives(message.target)
        if isinstance(error, ActorStopped | ActorUnavailable | ActorNotFound):
            return not lives or any(self._troubled(life) for life in lives)
        if isinstance(error, DeadlineExceeded):
            return self.now_s >= message.deadline_s - 1e-6
        if isinstance(error, MailboxFull):
            waits = message.kind in ("tell_wait", "ask", "stream")
            return any(
                self.waiting(life.actor) > life.limit and not (waits and life.overflow is Overflow.BLOCK)
                for life in lives
            )
        return False

    def _troubled(self, life: Life) -> bool:
        if life.overflow is Overflow.FAIL and self.waiting(life.actor) > life.limit:
            life.troubled = life.troubled or "its mailbox may have overflowed"
        return bool(life.troubled)

    def _lives(self, target: str) -> list[Life]:
        return [
            life
            for lives in self.lives.values()
            for life in lives
            if target in (life.actor, life.actor.partition(".")[0])
        ]

    def waiting(self, actor: str) -> int:
        """How many messages for an actor have been waiting since everything was last quiet, this one included."""
        names = (actor, actor.partition(".")[0])
        return sum(m.target in names and not m.settled for m in self.messages.values())

    def quiet(self, *, faulty: frozenset[str]) -> None:
        """Nothing happens any more by itself: what has left must be gone. Ways to ``faulty`` homes carry nothing."""
        for message in self.messages.values():
            beside = any(not run.keeps_order for run in message.open_runs)  # has a place until it ends
            begun = bool(message.runs) and not beside
            message.settled = message.settled or begun or message.outcome not in ("", "accepted")
            if message.kind.startswith("tell") or not message.over or message.gone:
                continue
            lives = self._lives(message.target)
            if any(life.home in faulty for life in lives):
                continue
            message.gone = True
            if message.open_runs and message.method != "deaf":
                raise self.breach(
                    f"{message} still runs, although its caller has its outcome: {message.outcome}"
                )

        if not faulty:
            self._nobody_waits_for_nothing()

    def _nobody_waits_for_nothing(self) -> None:
        """A message that has not begun waits for handlers that run; one for an incarnation that is over for nothing."""
        for message in self.messages.values():
            if not message.sent or message.over or message.runs:
                continue
            lives = self.lives.get(message.target, [])
            if message.known and lives[message.known - 1].ended:
                raise self.breach(f"{message} still waits for incarnation {message.known}, which is over")
            life = self.current(message.target)
            if life is not None and life.told and not life.troubled and self._idle(life):
                raise self.breach(f"{message} waits, and {message.target} has nothing to do")

    def _idle(self, life: Life) -> bool:
        runs = [
            run
            for message in self.messages.values()
            for run in message.open_runs
            if run.actor == life.actor and run.incarnation == life.incarnation
        ]
        # One that interleaves takes no turn, but keeps its place in the window of its sender.
        return len(runs) < life.concurrency and all(run.keeps_order for run in runs)

    def finished(self, dropped_tells: int) -> None:
        """The end: every caller has its outcome, and every accepted tell ran or has a reason not to."""
        missing = []
        for message in self.messages.values():
            if not message.over and message.sent:
                raise self.breach(f"{message} never had an outcome")
            if message.open_runs:
                raise self.breach(f"{message} has begun and never ended")
            if message.outcome == "accepted" and not message.runs and not message.lost:
                lives = self._lives(message.target)
                if not any(self._troubled(life) for life in lives):
                    missing.append(message)
        allowed = (Overflow.DROP_NEWEST, Overflow.DROP_OLDEST, Overflow.FAIL)
        for message in missing:
            if not any(life.overflow in allowed for life in self._lives(message.target)):
                raise self.breach(f"{message} was accepted and never ran")
        if len(missing) > dropped_tells:
            raise self.breach(
                f"{len(missing)} tells were accepted and never ran, only {dropped_tells} are counted: "
                + "; ".join(map(str, missing))
            )
