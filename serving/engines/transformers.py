"""A model of Hugging Face's transformers on the CPU, in the worker's own process: small models, tests, a reference.

One thread computes; the requests that run are computed a token each in turn, so none waits for another to end. Weights,
tokenizer and config come from a local directory, nothing is downloaded, and no code of the directory is run.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import queue
import threading
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from callboard.transports.errors import ConfigError

from ..errors import ContextTooLong, EmptyPrompt, EngineFailed, MissingServingExtra, RequestRefused
from ..kv.hashing import unpack
from ..protocol import Finish, FinishReason, GenerateRequest, Input, Load, ModelInfo, Piece, Token


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformersSettings:
    """The keys of ``engine = { kind = "transformers", ... }``. Raises `ConfigError` with every problem."""

    path: str
    """Directory with ``config.json``, weights and tokenizer."""
    model: str
    """Name of the model here."""
    threads: int = 1
    """Threads of torch."""
    max_running: int = 8
    """Requests that are computed at a time; others wait."""
    answer_tokens: int = 256
    """Length of an answer whose request sets no ``max_tokens``."""

    def __post_init__(self) -> None:
        problems = [
            f"engine.{name} is {value!r}; it must be a whole number, at least 1"
            for name in ("threads", "max_running", "answer_tokens")
            if type(value := getattr(self, name)) is not int or value < 1
        ]
        if not isinstance(self.model, str) or not self.model:
            problems.append(f"engine.model is {self.model!r}; it must be a name")
        if not isinstance(self.path, str) or not Path(self.path, "config.json").exists():
            problems.append(f'engine.path is "{self.path}"; there is no config.json in it')
        if problems:
            raise ConfigError(problems)


@dataclass(slots=True, eq=False)
class _Job:
    """One request, as the computing thread knows it."""

    request: GenerateRequest
    ids: list[int]
    limit: int
    out: asyncio.Queue[Any]
    generator: Any = None
    cache: Any = None
    made: list[int] = field(default_factory=list)
    left: bool = False
    """Its caller is gone."""


class TransformersEngine:
    """Gives token ids, by greedy choice at temperature 0, else drawn by a generator with the request's seed."""

    Settings = TransformersSettings

    def __init__(self, settings: TransformersSettings) -> None:
        self.settings = settings
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._places = asyncio.Semaphore(settings.max_running)
        self._context_tokens, self._vocabulary, self._eos = 0, 0, frozenset[int]()
        self._created_s = int(time.time())
        self.running = self.waiting = self.finished = self.cancelled = self.failed = 0
        self.tokens = self.prompt_tokens = 0

    def __repr__(self) -> str:
        return f"<TransformersEngine {self.settings.path}, {self.running} run>"

    async def start(self) -> None:
        """Load the model. Raises `MissingServingExtra` and `EngineFailed`."""
        self._loop = asyncio.get_running_loop()
        try:
            self._model = await asyncio.to_thread(self._load_model)
        except ImportError as error:
            raise MissingServingExtra(error.name or "transformers", extra="transformers") from None
        except (OSError, ValueError, RuntimeError) as error:
            raise EngineFailed(f"{self.settings.path} cannot be loaded: {error}") from None
        names = inspect.signature(self._model.forward).parameters
        self._cache_name = "cache" if "cache" in names else "past_key_values"  # which was its name before
        config = self._model.config
        self._context_tokens = int(getattr(config, "max_position_embeddings", 0) or 4096)
        self._vocabulary = int(self._model.get_input_embeddings().weight.shape[0])
        eos = self._model.generation_config.eos_token_id
        self._eos = frozenset(eos if isinstance(eos, list) else [] if eos is None else [eos])
        self._thread = threading.Thread(target=self._compute, name="transformers", daemon=True)
        self._thread.start()

    def _load_model(self) -> Any:
        import torch
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(self.settings.threads)
        model = AutoModelForCausalLM.from_pretrained(
            self.settings.path, local_files_only=True, trust_remote_code=False, use_safetensors=True
        )
        model.eval()  # type: ignore[no-untyped-call]
        return model

    async def close(self) -> None:
        """End the thread."""
        if self._thread is not None:
            self._jobs.put(None)
            await asyncio.to_thread(self._thread.join)

    def describe(self) -> ModelInfo:
        """Return what is served."""
        return ModelInfo(
            model=self.settings.model,
            engine="transformers",
            context_tokens=self._context_tokens,
            created_s=self._created_s,
            input=Input.TOKENS,
            tokenizer=self.settings.path,
            max_running=self.settings.max_running,
            gives_logprobs=True,
        )

    def load(self) -> Load:
        """Return the counters."""
        return Load(
            running=self.running,
            waiting=self.waiting,
            finished=self.finished,
            cancelled=self.cancelled,
            failed=self.failed,
            tokens=self.tokens,
            prompt_tokens=self.prompt_tokens,
        )

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Piece, None]:
        """Yield ids, then a `Finish`.

        Raises `EmptyPrompt`, `ContextTooLong`, `RequestRefused` for an id that the model does not have, and
        `EngineFailed` if the computation fails.
        """
        prompt = list(unpack(request.tokens))
        ids = prompt + [piece for piece in request.done if isinstance(piece, int)]
        room = self._context_tokens - len(ids)
        if not ids:
            self.failed += 1
            raise EmptyPrompt
        if room < 1:
            self.failed += 1
            raise ContextTooLong(len(ids), self._context_tokens)
        if (largest := max(ids)) >= self._vocabulary:
            self.failed += 1
            raise RequestRefused(
                f"token id {largest} is not in the model's vocabulary of {self._vocabulary}; "
                "encode the prompt with the model's own tokenizer"
            )
        wanted = self.settings.answer_tokens if request.max_tokens is None else request.max_tokens
        job = _Job(request, ids, min(wanted, room), asyncio.Queue())
        reason, count, ended, failed = FinishReason.LENGTH, 0, False, False
        await self._wait_for_place()
        self.running += 1
        self.prompt_tokens += len(prompt)
        try:
            if job.limit > 0:
                self._jobs.put(job)
            while count < job.limit:
                piece = await job.out.get()
                if failed := isinstance(piece, Exception):
                    raise EngineFailed(f"{type(piece).__name__}: {piece}")
                if piece is None:
                    reason = FinishReason.STOP
                    break
                count += 1
                yield piece
            ended = True
        finally:
            job.left = True
            self._places.release()
            self.running -= 1
            self.tokens += count
            self.finished += ended
            self.failed += failed
            self.cancelled += not (ended or failed)
        yield Finish(reason=reason, prompt_tokens=len(prompt), completion_tokens=count)

    async def _wait_for_place(self) -> None:
        self.waiting += 1
        try:
            await self._places.acquire()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.waiting -= 1

    # -- in the thread

    def _compute(self) -> None:
        """Compute a token for each request in turn, until the engine is closed."""
        running: list[_Job] = []
        while True:
            while not running or not self._jobs.empty():
                job = self._jobs.get()
                if job is None:
                    return
                running.append(job)
            for job in list(running):
                if job.left or self._step(job):
                    running.remove(job)

    def _step(self, job: _Job) -> bool:
        """Compute one token; True if the request is done."""
        try:
            token, piece = self._next(job)
        except Exception as error:
            self._give(job, error)
            return True
        if token in self._eos and not job.request.extra.get("ignore_eos"):
            self._give(job, None)
            return True
        job.made.append(token)
        self._give(job, piece)
        return len(job.made) >= job.limit

    def _give(self, job: _Job, piece: Any) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(job.out.put_nowait, piece)
        except RuntimeError:  # the loop is closed: so is the engine
            job.left = True

    def _next(self, job: _Job) -> tuple[int, Piece]:
        import torch

        fresh = job.made[-1:] or job.ids
        with torch.inference_mode():
            output = self._model(
                input_ids=torch.tensor([fresh]),
                use_cache=True,
                logits_to_keep=1,
                **{self._cache_name: job.cache},
            )
        job.cache = output["cache"] if "cache" in output else output["past_key_values"]
        logits = output.logits[0, -1].float()
        token = self._choose(job, logits)
        if job.request.logprobs is None:
            return token, token
        logprobs = torch.log_softmax(logits, -1)
        top = torch.topk(logprobs, min(job.request.logprobs, len(logprobs))) if job.request.logprobs else None
        likeliest = [] if top is None else list(zip(top.indices.tolist(), top.values.tolist(), strict=True))
        return token, Token(token, "", float(logprobs[token]), [(i, "", value) for i, value in likeliest])

    def _choose(self, job: _Job, logits: Any) -> int:
        import torch

        request = job.request
        if request.frequency_penalty or request.presence_penalty:
            answer = [piece for piece in request.done if isinstance(piece, int)] + job.made
            if answer:
                counts = torch.bincount(torch.tensor(answer), minlength=len(logits))[: len(logits)]
                logits = logits - request.frequency_penalty * counts - request.presence_penalty * (counts > 0)
        temperature = 1.0 if request.temperature is None else request.temperature
        if temperature <= 0:
            return int(torch.argmax(logits))
        probabilities = torch.softmax(logits / temperature, -1)
        if request.top_p is not None and request.top_p < 1:
            ordered, order = torch.sort(probabilities, descending=True)
            beyond = torch.cumsum(ordered, -1) - ordered >= max(request.top_p, math.ulp(1.0))
            probabilities[order[beyond]] = 0.0
        if job.generator is None:
            job.generator = torch.Generator()
            seed = request.seed if request.seed is not None else time.time_ns()
            job.generator.manual_seed((seed + len(request.done)) % 2**63)
        return int(torch.multinomial(probabilities, 1, generator=job.generator))
