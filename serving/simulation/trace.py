"""A trace of chats: users who come back with what was said, under system prompts that many share. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from heapq import merge
from random import Random

from ..kv.hashing import TOKEN_BYTES, pack

VOCABULARY = 32_000


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceSettings:
    """The shape of a trace. Every text is up to half longer or shorter than its setting says, evenly drawn."""

    sessions: int = 400
    sessions_per_s: float = 2.0
    """They come as a Poisson process."""
    turns: int = 6
    """Requests of a session; the next one repeats all that was said."""
    pause_s: float = 10.0
    """Mean time that a user takes, exponential; it begins when an answer is through at ``per_token_s``."""
    per_token_s: float = 0.02
    system_tokens: tuple[int, ...] = (500, 1000, 2000, 4000, 8000) * 4
    """Lengths of the system prompts, of which each session has one: the n-th is used 1/n as often as the first."""
    user_tokens: int = 150
    answer_tokens: int = 200
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request of a trace."""

    arrival_s: float
    session: int
    prompt: bytes
    """Packed token ids."""
    answer: bytes
    """What the model will say, packed; the next turn's prompt contains it."""

    @property
    def prompt_tokens(self) -> int:
        """How long the prompt is."""
        return len(self.prompt) // TOKEN_BYTES

    @property
    def answer_tokens(self) -> int:
        """How long the answer is."""
        return len(self.answer) // TOKEN_BYTES


def make_trace(settings: TraceSettings) -> list[Arrival]:
    """Return the requests in the order in which they arrive; the same ones for the same settings."""
    rng = Random(settings.seed)
    prompts = [_text(rng, length) for length in settings.system_tokens]
    weights = [1 / number for number in range(1, len(prompts) + 1)]
    rng.shuffle(weights)  # else the short ones would be the common ones
    sessions = []
    start_s = 0.0
    for number in range(settings.sessions):
        start_s += rng.expovariate(settings.sessions_per_s)
        (system,) = rng.choices(prompts, weights)
        sessions.append(_session(settings, rng, number, start_s, system))
    return list(merge(*sessions, key=lambda arrival: arrival.arrival_s))


def _session(settings: TraceSettings, rng: Random, number: int, at_s: float, said: bytes) -> list[Arrival]:
    arrivals = []
    for _ in range(settings.turns):
        said += _text(rng, settings.user_tokens)
        answer = _text(rng, settings.answer_tokens)
        arrivals.append(Arrival(at_s, number, said, answer))
        said += answer
        at_s += arrivals[-1].answer_tokens * settings.per_token_s + rng.expovariate(1 / settings.pause_s)
    return arrivals


def _text(rng: Random, mean: int) -> bytes:
    length = max(1, rng.randint(mean - mean // 2, mean + mean // 2))
    return pack(rng.randrange(VOCABULARY) for _ in range(length))
