"""What travels between frontend, router and workers.

The stream of a generation is made of plain ``str`` pieces, one per token, and ends with one `Finish`: text is what a
stream carries most cheaply, and the facts come once.
"""

from __future__ import annotations

from enum import Enum

from msgspec import Struct


class FinishReason(Enum):
    """Why a generation ended, in the words of the OpenAI interface."""

    STOP = "stop"
    """The model ended its answer, or a stop string was met."""
    LENGTH = "length"
    """``max_tokens``, or the length of the model's context, was reached."""


class Message(Struct, frozen=True):
    """One turn of a chat."""

    role: str
    content: str


class GenerateRequest(Struct, frozen=True, kw_only=True):
    """What one generation is asked for; ``messages`` (a chat) or ``prompt`` (plain text) is set."""

    request_id: str
    model: str
    prompt: str = ""
    messages: list[Message] = []
    max_tokens: int | None = None
    """None: as many as the engine gives by itself."""
    stop: list[str] = []
    """The generation ends before the first of these texts."""
    temperature: float = 1.0
    top_p: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    seed: int | None = None


class Finish(Struct, frozen=True, kw_only=True):
    """The last item of a generation."""

    reason: FinishReason
    prompt_tokens: int
    completion_tokens: int


class ModelInfo(Struct, frozen=True, kw_only=True):
    """What a worker serves; the same for all instances of one component."""

    model: str
    engine: str
    context_tokens: int
    created_s: int = 0
    """Unix time of its start, 0 if unknown."""


class Load(Struct, frozen=True, kw_only=True):
    """What a worker is doing and has done."""

    running: int
    finished: int
    cancelled: int
    failed: int
    tokens: int


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


Piece = str | Finish
