"""An engine without a model: the same request gives the same words, at the pace that the config asks for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from hashlib import blake2b

from callboard.transports.errors import ConfigError

from ..errors import ContextTooLong
from ..protocol import Finish, FinishReason, GenerateRequest, Load, ModelInfo, Piece
from .stopping import StopScanner

WORDS = (
    "a", "actor", "and", "answers", "are", "as", "asks", "at", "board", "call", "comes", "cue",
    "curtain", "each", "every", "finds", "goes", "hears", "in", "is", "it", "keeps", "light", "line",
    "mail", "makes", "message", "moves", "name", "next", "night", "no", "of", "on", "one", "opens",
    "or", "part", "plays", "reads", "role", "runs", "says", "scene", "sends", "she", "so",
    "speaks", "stage", "stands", "stays", "stops", "takes", "tells", "the", "then", "they",
    "time", "to", "turns", "waits", "who", "with", "works",
)  # fmt: skip
_PICK = 64 - 6
_MASK = (1 << 64) - 1
assert len(WORDS) == 1 << (64 - _PICK)


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedSettings:
    """The keys of ``engine = { kind = "simulated", ... }``. Raises `ConfigError` with every problem."""

    model: str = "simulated"
    first_token_ms: float = 0.0
    """From the request to its first token."""
    per_token_ms: float = 0.0
    """From each token to the next."""
    answer_tokens: int = 16
    """Length of an answer whose request sets no ``max_tokens``."""
    context_tokens: int = 131_072
    """Prompt and answer together."""

    def __post_init__(self) -> None:
        problems = [
            f"engine.{name} is {value!r}; it must be a number from 0 to 600000"
            for name in ("first_token_ms", "per_token_ms")
            if not _is_number(value := getattr(self, name)) or not 0 <= value <= 600_000
        ]
        problems += [
            f"engine.{name} is {value!r}; it must be a whole number, at least 1"
            for name in ("answer_tokens", "context_tokens")
            if type(value := getattr(self, name)) is not int or value < 1
        ]
        if not isinstance(self.model, str) or not self.model:
            problems.append(f"engine.model is {self.model!r}; it must be a name")
        if problems:
            raise ConfigError(problems)

    @property
    def is_paced(self) -> bool:
        """True if a token ever waits."""
        return self.first_token_ms > 0 or self.per_token_ms > 0


def _is_number(value: object) -> bool:
    return type(value) in (int, float)


class SimulatedEngine:
    """Deterministic words for tests, benchmarks and a first look.

    Without delays it never sleeps. A request with ``max_tokens`` gets exactly that many tokens, unless a stop
    string or the context ends it.
    """

    Settings = SimulatedSettings

    def __init__(self, settings: SimulatedSettings) -> None:
        self.settings = settings
        self.running = self.finished = self.cancelled = self.failed = self.tokens = 0
        self._created_s = int(time.time())

    def __repr__(self) -> str:
        return f"<SimulatedEngine {self.settings.model}, {self.running} run, {self.cancelled} cancelled>"

    async def start(self) -> None:
        """There is nothing to load."""

    async def close(self) -> None:
        """There is nothing to give back."""

    def describe(self) -> ModelInfo:
        """Return the name and the limits of the model."""
        return ModelInfo(
            model=self.settings.model,
            engine="simulated",
            context_tokens=self.settings.context_tokens,
            created_s=self._created_s,
        )

    def load(self) -> Load:
        """Return the counters."""
        return Load(
            running=self.running,
            finished=self.finished,
            cancelled=self.cancelled,
            failed=self.failed,
            tokens=self.tokens,
        )

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Piece, None]:
        """Yield words, then a `Finish`. Raises `ContextTooLong`."""
        prompt = prompt_text(request)
        prompt_tokens = len(prompt.split())
        limit, reason = self._length(request, prompt_tokens)
        scanner = StopScanner(request.stop) if request.stop else None
        count, ended = 0, False
        words = words_of(prompt, request.seed)
        pace = _Pace(self.settings) if self.settings.is_paced else None
        self.running += 1
        try:
            while count < limit:
                if pace is not None:
                    await pace.next()
                count += 1
                word = next(words)
                if scanner is None:
                    yield word
                    continue
                yield scanner.feed(word)
                if scanner.stopped:
                    reason = FinishReason.STOP
                    break
            if scanner is not None and not scanner.stopped:
                rest = scanner.flush()
                if rest:
                    yield rest
            ended = True
        finally:
            self.running -= 1
            self.tokens += count
            if ended:
                self.finished += 1
            else:
                self.cancelled += 1
        yield Finish(reason=reason, prompt_tokens=prompt_tokens, completion_tokens=count)

    def _length(self, request: GenerateRequest, prompt_tokens: int) -> tuple[int, FinishReason]:
        room = self.settings.context_tokens - prompt_tokens
        if room < 1:
            self.failed += 1
            raise ContextTooLong(prompt_tokens, self.settings.context_tokens)
        wanted = request.max_tokens
        if wanted is None and self.settings.answer_tokens <= room:
            return self.settings.answer_tokens, FinishReason.STOP
        return min(wanted or room, room), FinishReason.LENGTH


class _Pace:
    """Waits until the next token is due: by a plan, because the time that the loop takes must not add up."""

    __slots__ = ("_due", "_per_token_s")

    def __init__(self, settings: SimulatedSettings) -> None:
        self._due = time.monotonic() + settings.first_token_ms / 1000
        self._per_token_s = settings.per_token_ms / 1000

    async def next(self) -> None:
        delay = self._due - time.monotonic()
        if delay > 0:
            await asyncio.sleep(delay)
        self._due += self._per_token_s


def prompt_text(request: GenerateRequest) -> str:
    """Return the prompt as one text; a chat has one line per message."""
    if request.messages:
        return "\n".join(f"{message.role}: {message.content}" for message in request.messages)
    return request.prompt


def words_of(prompt: str, seed: int | None) -> Iterator[str]:
    """Yield words without end, always the same for the same prompt and seed; all but the first begin with a space."""
    digest = blake2b(prompt.encode(), digest_size=8, key=str(seed or 0).encode()[:64]).digest()
    state = int.from_bytes(digest, "little")
    space = ""
    while True:
        state = (state * 6364136223846793005 + 1442695040888963407) & _MASK  # Knuth's MMIX generator
        yield space + WORDS[state >> _PICK]
        space = " "
