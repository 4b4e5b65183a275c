"""An engine without a model: the same request gives the same words, at the pace that the config asks for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from itertools import islice
from typing import Any

from ..errors import ContextTooLong, EmptyPrompt, WrongRole
from ..kv.changes import EngineChange, no_changes
from ..kv.hashing import unpack
from ..kv.words import word_id, word_ids
from ..prompts import prompt_text
from ..protocol import Finish, FinishReason, GenerateRequest, Input, Load, ModelInfo, Piece, Role
from ..simulation import chain
from ..simulation.batching import Sequence as Running
from ..simulation.settings import SimulatedSettings
from .stepping import Job, Rank
from .stopping import StopScanner

_WORD_IDS = {word: word_id(word) for word in chain.WORDS}


@dataclass(slots=True)
class _Answer:
    """One answer under way."""

    pieces: Iterator[Any]
    prompt_tokens: int
    held_back: str = ""
    """Text of pieces in ``done`` that the client has not got: it may become a stop string."""
    count: int = 0
    cached: int = 0


class SimulatedEngine:
    """Deterministic words for tests, benchmarks and a first look.

    Without delays it never sleeps. A request with ``max_tokens`` gets exactly that many tokens, unless a stop
    string or the context ends it. With ``blocks`` it behaves like a real engine: requests are computed in batches,
    prompts are found in a prefix cache, and it tells what is in the cache (`EventingEngine`, `HandoverEngine`,
    `TruthfulEngine`).
    """

    Settings = SimulatedSettings

    def __init__(self, settings: SimulatedSettings) -> None:
        self.settings = settings
        self.running = self.finished = self.cancelled = self.failed = self.tokens = 0
        self._is_text = settings.input == "text"
        self._created_s = int(time.time())
        self._told: Callable[[Sequence[EngineChange]], None] = no_changes
        count = settings.dp_ranks if settings.blocks else 0
        self._ranks = [Rank(settings, number, self._changed) for number in range(count)]

    def __repr__(self) -> str:
        return f"<SimulatedEngine {self.settings.model}, {self.running} run, {self.cancelled} cancelled>"

    async def start(self) -> None:
        """There is nothing to load."""

    async def close(self) -> None:
        """Stop working."""
        for rank in self._ranks:
            rank.close()

    def describe(self) -> ModelInfo:
        """Return the name and the limits of the model."""
        settings, has_blocks = self.settings, bool(self._ranks)
        return ModelInfo(
            model=settings.model,
            engine="simulated",
            context_tokens=settings.context_tokens,
            created_s=self._created_s,
            input=Input(settings.input),
            tokenizer=settings.tokenizer,
            role=Role(settings.role),
            block_size=settings.block_size if has_blocks else 0,
            total_blocks=settings.blocks,
            max_batch_tokens=settings.max_batch_tokens if has_blocks else 0,
            max_running=settings.max_running if has_blocks else 0,
            dp_ranks=max(1, len(self._ranks)),
            kv_events=has_blocks and settings.kv_events,
        )

    def load(self) -> Load:
        """Return the counters."""
        return Load(
            running=self.running,
            finished=self.finished,
            cancelled=self.cancelled,
            failed=self.failed,
            tokens=self.tokens,
            waiting=sum(len(rank.batcher.waiting) for rank in self._ranks),
            prompt_tokens=sum(rank.batcher.prompt_tokens for rank in self._ranks),
            cached_tokens=sum(rank.batcher.cached_tokens for rank in self._ranks),
            ranks=[rank.load() for rank in self._ranks],
        )

    # -- what is in the cache

    def on_kv_changes(self, listener: Callable[[Sequence[EngineChange]], None]) -> None:
        """Call ``listener`` with what enters and leaves the cache, if ``kv_events`` is on."""
        if self.settings.kv_events:
            self._told = listener

    def resident_blocks(self) -> dict[int, set[int]]:
        """Return the sequence hashes of what is in the cache, by rank."""
        return {rank.dp_rank: rank.pool.resident() for rank in self._ranks}

    def _changed(self, changes: Sequence[EngineChange]) -> None:
        self._told(changes)

    # -- generating

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Piece, None]:
        """Yield words or ids, then a `Finish`. Raises `ContextTooLong`, and `WrongRole` in a prefill worker."""
        if self.settings.role == "prefill":
            raise WrongRole("prefill", "generate")
        answer = self._answer(request)
        limit, reason = self._length(request, answer.prompt_tokens)
        scanner = StopScanner(request.stop) if request.stop and self._is_text else None
        if scanner is not None:
            scanner.feed(answer.held_back)
        ended = False
        self.running += 1
        try:
            if scanner is None and not self._ranks and not self.settings.is_paced:
                for piece in islice(answer.pieces, limit):
                    answer.count += 1
                    yield piece
            else:
                async with aclosing(self._made(request, answer, limit)) as made:
                    async for piece in made:
                        yield scanner.feed(piece) if scanner is not None else piece
                        if scanner is not None and scanner.stopped:
                            reason = FinishReason.STOP
                            break
                if scanner is not None and not scanner.stopped and (rest := scanner.flush()):
                    yield rest
            ended = True
        finally:
            self.running -= 1
            self.tokens += answer.count
            if ended:
                self.finished += 1
            else:
                self.cancelled += 1
        yield Finish(
            reason=reason,
            prompt_tokens=answer.prompt_tokens,
            completion_tokens=answer.count,
            cached_tokens=answer.cached,
        )

    async def prefill(self, request: GenerateRequest) -> dict[str, Any]:
        """Compute the prompt. Raises `ContextTooLong`, and `WrongRole` in a decode worker or without blocks."""
        if self.settings.role == "decode" or not self._ranks:
            raise WrongRole(self.settings.role, "prefill")
        answer = self._answer(request)
        self._length(request, answer.prompt_tokens)
        self.running += 1
        try:
            async with aclosing(self._batched(request, answer, 1)) as made:
                async for _ in made:
                    pass
        finally:
            self.running -= 1
        self.finished += 1
        return {"tokens": answer.prompt_tokens, "cached": answer.cached}

    def _answer(self, request: GenerateRequest) -> _Answer:
        if not self._is_text:
            ids = unpack(request.tokens)
            state = chain.start_of(request.tokens, request.seed)
            state = chain.state_after_ids(state, (piece for piece in request.done if isinstance(piece, int)))
            return _Answer(chain.ids_from(state, self.settings.vocabulary), len(ids))
        prompt = prompt_text(request)
        state, held_back = chain.start_of(prompt.encode("utf-8", "surrogatepass"), request.seed), ""
        if request.done:
            state, held_back = chain.state_after_words(
                state, "".join(map(str, request.done)), len(request.done)
            )
        return _Answer(chain.words_from(state, not request.done), len(prompt.split()), held_back)

    async def _made(self, request: GenerateRequest, answer: _Answer, limit: int) -> AsyncGenerator[Any, None]:
        """Yield the pieces as they are made."""
        if self._ranks:
            async with aclosing(self._batched(request, answer, limit)) as made:
                async for piece in made:
                    yield piece
            return
        pace = _Pace(self.settings) if self.settings.is_paced else None
        for piece in islice(answer.pieces, limit):
            if pace is not None:
                await pace.next()
            answer.count += 1
            yield piece

    async def _batched(
        self, request: GenerateRequest, answer: _Answer, limit: int
    ) -> AsyncGenerator[Any, None]:
        if limit < 1:
            return
        rank = self._rank_for(request)
        sequence = Running(
            tokens=bytearray(self._ids(request)),
            prompt_tokens=answer.prompt_tokens,
            lora=request.lora,
            transferred=request.handover is not None,
        )
        if not sequence.tokens:
            self.failed += 1
            raise EmptyPrompt
        if not rank.batcher.fits(len(sequence) + limit):
            self.failed += 1
            raise ContextTooLong(len(sequence), self.settings.blocks * self.settings.block_size)
        if request.handover is not None:
            await asyncio.sleep(rank.timing.transfer_s(len(sequence)))
        job = Job(sequence, answer.pieces, limit, _word_id if self._is_text else int)
        rank.add(job)
        try:
            while True:
                while job.made:
                    answer.cached = sequence.cached
                    answer.count += 1
                    yield job.made.popleft()
                if job.done:
                    return
                await job.wait()
        finally:
            rank.drop(job)

    def _ids(self, request: GenerateRequest) -> bytes:
        """The packed numbers of the prompt and of what was given before: what blocks are made of."""
        if not self._is_text:
            done = unpack(request.tokens)
            done.extend(piece for piece in request.done if isinstance(piece, int))
            return done.tobytes()
        return word_ids(prompt_text(request)) + word_ids("".join(map(str, request.done)))

    def _rank_for(self, request: GenerateRequest) -> Rank:
        if request.dp_rank is not None and request.dp_rank < len(self._ranks):
            return self._ranks[request.dp_rank]
        return min(self._ranks, key=lambda rank: len(rank.batcher.running) + len(rank.batcher.waiting))

    def _length(self, request: GenerateRequest, prompt_tokens: int) -> tuple[int, FinishReason]:
        room = self.settings.context_tokens - prompt_tokens - len(request.done)
        if room < 1 and not request.done:
            self.failed += 1
            raise ContextTooLong(prompt_tokens, self.settings.context_tokens)
        wanted = request.max_tokens
        natural = self.settings.answer_tokens - len(request.done)
        if wanted is None and natural <= room:
            return max(0, natural), FinishReason.STOP
        return max(0, min(room if wanted is None else wanted, room)), FinishReason.LENGTH


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


def _word_id(piece: str) -> int:
    return _WORD_IDS[piece.strip()]
