"""One streamed answer of an OpenAI-compatible server, event by event, as pieces. Pure."""

from __future__ import annotations

from typing import Any

from msgspec import structs

from ..errors import EngineFailed, RequestRefused
from ..protocol import Delta, Finish, FinishReason, GenerateRequest, Piece, Token

BROKEN = ("abort", "error")
"""What vLLM and SGLang call an end that nobody asked for."""
FAULTS = (400, 413, 422)
"""Of an error that begins a stream, as vLLM sends it under HTTP 200: the request is wrong, not the engine."""
TEXT_BYTES = 500
"""Of an upstream's error that is passed on."""


class UpstreamAnswer:
    """One answer as it comes."""

    def __init__(self, request: GenerateRequest, gives_ids: bool) -> None:
        self._done = len(request.done)
        self._wants = request.max_tokens != 0
        self._gives_ids = gives_ids
        self._logprobs = request.logprobs is not None
        self.count = 0
        self.reason: FinishReason | None = None
        self._usage: dict[str, Any] = {}

    def take(self, event: dict[str, Any]) -> list[Piece]:
        """Return the pieces of an event. Raises `EngineFailed`, also for one of another shape."""
        try:
            return self._take(event)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            if isinstance(error, RequestRefused):
                raise
            raise EngineFailed(f"the upstream's event has another shape: {error}") from None

    def _take(self, event: dict[str, Any]) -> list[Piece]:
        if error := event.get("error"):
            code = error.get("code") if isinstance(error, dict) else None
            if type(code) is int and code in FAULTS and not self.count:
                raise RequestRefused(f"the upstream says: {str(error.get('message'))[:TEXT_BYTES]}", code)
            raise EngineFailed(f"the upstream says: {str(error)[:TEXT_BYTES]}")
        usage = event.get("usage")
        if isinstance(usage, dict):
            self._usage = usage
        pieces: list[Piece] = []
        for choice in event.get("choices") or ():
            pieces += self._pieces(choice)
            if (reason := choice.get("finish_reason")) is not None:
                if reason in BROKEN:
                    raise EngineFailed(f'the upstream ended the answer with "{reason}"')
                self.reason = _REASONS.get(reason, FinishReason.STOP)
        return pieces if self._wants else []

    def _pieces(self, choice: dict[str, Any]) -> list[Piece]:
        delta = choice.get("delta")
        if self._gives_ids:
            ids = choice.get("token_ids")
            if ids is None and choice.get("text"):
                raise RequestRefused(
                    "the upstream gives no token ids (return_token_ids); use input = text", 501
                )
            self.count += len(ids or ())
            return list(ids or ())
        text = delta.get("content") if isinstance(delta, dict) else choice.get("text")
        if text is not None and not isinstance(text, str):
            raise TypeError(f"text is {type(text).__name__}")
        pieces: list[Piece] = []
        logprobs = choice.get("logprobs") if self._logprobs else None
        if text or logprobs:  # a token that is part of a character has no text yet
            self.count += 1
            pieces += _tokens(text or "", logprobs) if logprobs else [text or ""]
        if isinstance(delta, dict):
            others = {
                k: v for k, v in delta.items() if k not in ("content", "role") and v not in (None, [], "")
            }
            if others:
                pieces.append(Delta(others))
        return pieces

    def finish(self) -> Finish:
        """Return the end; the counts are the server's if it gives them."""
        details = self._usage.get("prompt_tokens_details") or {}
        prompt = self._usage.get("prompt_tokens") or 0
        return Finish(
            reason=self.reason if self._wants and self.reason is not None else FinishReason.LENGTH,
            prompt_tokens=max(0, prompt - self._done),  # a piece of text is a token, as these servers stream
            completion_tokens=(self._usage.get("completion_tokens") or self.count) if self._wants else 0,
            cached_tokens=details.get("cached_tokens") or 0,
        )


_REASONS = {reason.value: reason for reason in FinishReason}


def _tokens(text: str, logprobs: dict[str, Any]) -> list[Piece]:
    """The tokens of a text, from the ``logprobs`` of a chat (``content``) or of a completion (``tokens``)."""
    tokens: list[Token] = []
    if isinstance(logprobs.get("tokens"), list):
        names, values = logprobs["tokens"], logprobs.get("token_logprobs") or ()
        tops = logprobs.get("top_logprobs") or [None] * len(names)
        for name, value, top in zip(names, values, tops, strict=False):
            likeliest = [(-1, str(key), float(one)) for key, one in (top or {}).items()]
            tokens.append(Token(-1, str(name), float(value or 0.0), likeliest))
    for entry in logprobs.get("content") or ():
        likeliest = [_token(top) for top in entry.get("top_logprobs") or ()]
        tokens.append(Token(*_token(entry), likeliest))
    if "".join(token.text for token in tokens) != text:  # names of parts of characters: the text counts
        tokens = [structs.replace(token, text="") for token in tokens]
        if tokens:
            tokens[-1] = structs.replace(tokens[-1], text=text)
    return [*tokens] or ([text] if text else [])


def _token(entry: dict[str, Any]) -> tuple[int, str, float]:
    return -1, str(entry.get("token", "")), float(entry.get("logprob", 0.0))
