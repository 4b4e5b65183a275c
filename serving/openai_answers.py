"""Answers of the OpenAI interface: whole ones, and the events of a stream. Pure.

A stream's events differ in one text each; what surrounds it is built once per answer, and a batch of pieces
becomes one ``bytes``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import orjson

from .http_errors import HttpError
from .openai_pieces import Choice, chat_logprobs, completion_logprobs, shown_text
from .openai_requests import Asked
from .protocol import Delta, Finish, ModelInfo, Piece, Token

DONE = b"data: [DONE]\n\n"
OWNER = "callboard"

_dumps = orjson.dumps
_MARK = "\x00"


class Events:
    """Makes the server-sent events of one streamed answer.

    >>> from .protocol import GenerateRequest
    >>> asked = Asked(
    ...     request=GenerateRequest(request_id="cmpl-1", model="m"), chat=False, stream=True, include_usage=False
    ... )
    >>> Events(asked, created_s=0).pieces([])
    b''
    """

    __slots__ = ("_after", "_asked", "_before", "_between", "_created_s", "_index", "_offset")

    def __init__(self, asked: Asked, created_s: int, index: int = 0) -> None:
        self._asked, self._created_s, self._index = asked, created_s, index
        self._offset = 0
        choice = self._choice({"content": _MARK} if asked.chat else _MARK, None)
        self._before, self._after = self._event([choice]).rsplit(_dumps(_MARK), 1)
        self._between = self._after + self._before

    def begin(self) -> bytes:
        """Return what comes before the first piece: who speaks, in a chat."""
        if not self._asked.chat:
            return b""
        return self._event([self._choice({"role": "assistant", "content": ""}, None)])

    def pieces(self, texts: Sequence[Piece]) -> bytes:
        """Return one event per piece; an empty text has none. No `Finish` and no `Routed` may be among them."""
        try:
            shown = [_dumps(text) for text in texts if text]
        except TypeError:  # hardly ever: there is more than text among them
            return b"".join(map(self._piece, texts))
        return self._before + self._between.join(shown) + self._after if shown else b""

    def _piece(self, piece: Piece) -> bytes:
        chat = self._asked.chat
        if isinstance(piece, Delta):
            delta = {"content": None, **piece.fields} if "tool_calls" in piece.fields else piece.fields
            return self._event([self._choice(delta, None)]) if chat else b""
        if not isinstance(piece, Token):
            return self._before + _dumps(piece) + self._after if piece else b""
        text = shown_text(piece)
        choice = self._choice({"content": text} if chat else text, None)
        choice["logprobs"] = chat_logprobs([piece]) if chat else completion_logprobs([piece], self._offset)
        self._offset += len(text)
        return self._event([choice])

    def end(self, finish: Finish) -> bytes:
        """Return what comes after the last piece: why it ended, the usage if asked for, and the end mark."""
        return self.ended(finish) + self.close(finish)

    def ended(self, finish: Finish) -> bytes:
        """Return the event that says why this choice ended."""
        return self._event([self._choice({} if self._asked.chat else "", finish.reason.value)])

    def close(self, finish: Finish) -> bytes:
        """Return what comes after the last choice."""
        return (self._event([], usage=usage(finish)) if self._asked.include_usage else b"") + DONE

    def _choice(self, content: Any, reason: str | None) -> dict[str, Any]:
        key = "delta" if self._asked.chat else "text"
        return {"index": self._index, key: content, "logprobs": None, "finish_reason": reason}

    def _event(self, choices: list[Any], usage: dict[str, Any] | None = None) -> bytes:
        kind = "chat.completion.chunk" if self._asked.chat else "text_completion"
        event = _head(self._asked, kind, self._created_s) | {"choices": choices}
        if self._asked.include_usage:
            event["usage"] = usage
        return b"data: " + _dumps(event) + b"\n\n"


def error_event(error: HttpError) -> bytes:
    """Return the event that ends a stream which cannot go on; no end mark follows it."""
    return b"data: " + error.body() + b"\n\n"


def whole(asked: Asked, created_s: int, pieces: Iterable[Piece], finish: Finish) -> bytes:
    """Return an answer in one piece."""
    choice = Choice()
    choice.take(pieces)
    return whole_of(asked, created_s, [(choice, finish)], finish)


def whole_of(asked: Asked, created_s: int, choices: Iterable[tuple[Choice, Finish]], counts: Finish) -> bytes:
    """Return the answer with these choices in one piece; ``counts`` are those of all together."""
    shown = [_whole_choice(asked, index, choice, finish) for index, (choice, finish) in enumerate(choices)]
    kind = "chat.completion" if asked.chat else "text_completion"
    return _dumps(_head(asked, kind, created_s) | {"choices": shown, "usage": usage(counts)})


def _whole_choice(asked: Asked, index: int, choice: Choice, finish: Finish) -> dict[str, Any]:
    said: dict[str, Any] = {"message": choice.message()} if asked.chat else {"text": choice.text}
    logprobs = choice.logprobs(asked.chat)
    return {"index": index, **said, "logprobs": logprobs, "finish_reason": finish.reason.value}


def usage(finish: Finish) -> dict[str, Any]:
    """Return the token counts of an answer; what was cached only if anything was."""
    counts: dict[str, Any] = {
        "prompt_tokens": finish.prompt_tokens,
        "completion_tokens": finish.completion_tokens,
        "total_tokens": finish.prompt_tokens + finish.completion_tokens,
    }
    if finish.cached_tokens:
        counts["prompt_tokens_details"] = {"cached_tokens": finish.cached_tokens}
    return counts


def model(info: ModelInfo) -> dict[str, Any]:
    """Return a model as ``/v1/models/{id}`` shows it; ``max_model_len`` is what vLLM calls its context."""
    return {
        "id": info.model,
        "object": "model",
        "created": info.created_s,
        "owned_by": OWNER,
        "max_model_len": info.context_tokens,
    }


def models(infos: Iterable[ModelInfo]) -> dict[str, Any]:
    """Return the list of ``/v1/models``."""
    return {"object": "list", "data": [model(info) for info in infos]}


def _head(asked: Asked, kind: str, created_s: int) -> dict[str, Any]:
    return {
        "id": asked.request.request_id,
        "object": kind,
        "created": created_s,
        "model": asked.request.model,
    }
