"""What travels between frontend, router and workers.

The stream of a generation is made of plain pieces, one per token, and ends with one `Finish`: text and numbers are what
a stream carries most cheaply, and the facts come once.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

from msgspec import Struct


class FinishReason(Enum):
    """Why a generation ended, in the words of the OpenAI interface."""

    STOP = "stop"
    """The model ended its answer, or a stop string was met."""
    LENGTH = "length"
    """``max_tokens``, or the length of the model's context, was reached."""
    TOOL_CALLS = "tool_calls"
    """The model asks for tools; the calls came as `Delta` pieces."""
    CONTENT_FILTER = "content_filter"
    """What is behind an upstream left something out."""


class Input(Enum):
    """What an engine takes, and gives."""

    TEXT = "text"
    """``prompt`` or ``messages``; its pieces are text. It honours ``stop`` itself."""
    TOKENS = "tokens"
    """``tokens``; its pieces are token ids. Templates, text and stop strings are the frontend's affair."""


class Role(Enum):
    """What part of a generation a worker does."""

    BOTH = "both"
    PREFILL = "prefill"
    DECODE = "decode"


class Message(Struct, frozen=True):
    """One turn of a chat; ``fields`` is what else the client said of it (``tool_calls``, ``name``)."""

    role: str
    content: str
    fields: dict[str, Any] = {}


class Token(Struct, frozen=True):
    """A piece with its probability, for requests with ``logprobs``."""

    id: int
    """-1 from an engine of text, whose ``done`` is text, too."""
    text: str
    """Empty if the engine gives ids only."""
    logprob: float
    top: list[tuple[int, str, float]] = []
    """The likeliest tokens at this place: id, text, log probability; the likeliest first."""


class Delta(Struct, frozen=True):
    """A piece that is not text: fields of the delta as the engine gave them, passed on (``tool_calls``)."""

    fields: dict[str, Any]


class Finish(Struct, frozen=True, kw_only=True):
    """The last item of a generation. Neither count contains ``done`` of the request."""

    reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    """How many tokens of the prompt the engine had in its cache."""


class Routed(Struct, frozen=True, kw_only=True):
    """Why a worker was chosen: the first item of a generation whose request has ``explain``, and a structured event."""

    request_id: str
    worker: str
    """Name of the instance, ``worker.3``."""
    dp_rank: int
    mode: str
    overlap_blocks: int
    """Blocks of the prompt that the router believes to be in the worker's cache."""
    prompt_blocks: int
    cost: float
    """The cost of the one that was chosen; 0 for modes without one."""
    costs: dict[str, float]
    """Costs of all that could be chosen, by ``worker.3/0`` (instance and rank)."""
    attempt: int
    """0, and one more after each worker that failed."""
    queued_s: float
    prefill_worker: str = ""


Piece = str | int | Token | Delta | Routed | Finish
"""Text of one token, id of one token, or one of the others; a generation's last piece is its `Finish`."""


class GenerateRequest(Struct, frozen=True, kw_only=True):
    """What one generation is asked for; ``messages`` (a chat), ``prompt`` (plain text) or ``tokens`` is set."""

    request_id: str
    model: str
    prompt: str = ""
    messages: list[Message] = []
    tokens: bytes = b""
    """The prompt as token ids, little-endian u32 one after the other (`callboard.serving.kv.hashing.pack`)."""
    tokenizer: str = ""
    """Whose ids these are, as `ModelInfo.tokenizer` has it: a worker with another one refuses. Empty: not known."""
    done: list[str | int] = []
    """Pieces of the answer that the client has: an engine continues after them as if it had made them.

    They count towards neither ``max_tokens`` nor the counts of `Finish`.
    """
    max_tokens: int | None = None
    """How many are wanted after ``done``; None: as many as the engine gives by itself."""
    stop: list[str] = []
    """The generation ends before the first of these texts."""
    temperature: float | None = None
    """None, here and below: as the engine, or the model's own configuration, has it."""
    top_p: float | None = None
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    seed: int | None = None
    logprobs: int | None = None
    """Give `Token` pieces, each with as many of the likeliest; None: plain pieces."""
    extra: dict[str, Any] = {}
    """Fields of the HTTP request that callboard does not know or only passes on (``tools``, ``top_k``)."""
    lora: str = ""
    """Name of the adapter; it is part of the block hashes."""
    priority: int = 0
    """Higher goes first where requests wait."""
    session: str = ""
    """Requests of one session go to one worker, if the router has session affinity."""
    worker: int | None = None
    """Number of the instance that shall take it (mode ``direct``, or a pin in any mode)."""
    dp_rank: int | None = None
    """Data-parallel rank within the worker; set by the router."""
    handover: dict[str, Any] | None = None
    """What a prefill worker's engine gave for the decode worker's; opaque to everybody else."""
    explain: bool = False
    """Give a `Routed` first."""
    traceparent: str = ""
    """W3C trace context of the client, passed on to engines that take it."""
    tracestate: str = ""


class ModelInfo(Struct, frozen=True, kw_only=True):
    """What a worker serves; the same for all instances of one component."""

    model: str
    engine: str
    context_tokens: int
    created_s: int = 0
    """Unix time of its start, 0 if unknown."""
    input: Input = Input.TEXT
    tokenizer: str = ""
    """Directory with ``tokenizer.json`` and the chat template; empty if there is none."""
    role: Role = Role.BOTH
    block_size: int = 0
    """Tokens per KV block; 0 if the engine has no blocks that anybody hears of."""
    total_blocks: int = 0
    """KV blocks per data-parallel rank; 0 if unknown."""
    max_batch_tokens: int = 0
    """Tokens that one step of the engine computes at most (``max_num_batched_tokens``); 0 if unknown."""
    max_running: int = 0
    """Requests per data-parallel rank that run at once (``max_num_seqs``); 0 if unknown."""
    dp_ranks: int = 1
    gives_logprobs: bool = False
    """True if it gives `Token` pieces to requests with ``logprobs``; others are refused."""
    takes_extra: bool = False
    """True if it takes what callboard only passes on (``GenerateRequest.extra``, ``Message.fields``)."""
    kv_events: bool = False
    """True if it says on the event plane what is in its cache."""


class RankLoad(Struct, frozen=True, kw_only=True):
    """What one data-parallel rank of an engine has to do; published on topic ``load``."""

    dp_rank: int
    running: int
    waiting: int
    used_blocks: int
    prefill_tokens: int
    """Tokens of prompts that are not computed yet."""


class Load(Struct, frozen=True, kw_only=True):
    """What a worker is doing and has done."""

    running: int
    finished: int
    cancelled: int
    failed: int
    tokens: int
    waiting: int = 0
    prompt_tokens: int = 0
    """Of all prompts that began."""
    cached_tokens: int = 0
    """Of those, how many were in the cache."""
    healthy: bool = True
    ranks: list[RankLoad] = []


class FrontendLoad(Struct, frozen=True, kw_only=True):
    """What a frontend is doing and has done; each request ends as one of the last four."""

    running: int
    finished: int
    failed: int
    """Answered with a status of 500 or above, or cut off."""
    disconnected: int
    """The client left first."""
    refused: int
    """Answered with a status from 400 to 499."""
