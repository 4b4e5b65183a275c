"""Answers of the OpenAI interface: whole ones, and the events of a stream. Pure.

A stream's events differ in one text each; what surrounds it is built once per answer, and a batch of pieces
becomes one ``bytes``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import orjson

from .http_errors import HttpError
from .openai_requests import Asked
from .protocol import Finish, ModelInfo, Piece

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

    __slots__ = ("_after", "_asked", "_before", "_between", "_created_s")

    def __init__(self, asked: Asked, created_s: int) -> None:
        self._asked, self._created_s = asked, created_s
        choice = self._choice({"content": _MARK} if asked.chat else _MARK, None)
        self._before, self._after = self._event([choice]).rsplit(_dumps(_MARK), 1)
        self._between = self._after + self._before

    def begin(self) -> bytes:
        """Return what comes before the first piece: who speaks, in a chat."""
        if not self._asked.chat:
            return b""
        return self._event([self._choice({"role": "assistant", "content": ""}, None)])

    def pieces(self, texts: Sequence[Piece]) -> bytes:
        """Return one event per text; an empty text has none. No `Finish` may be among them."""
        shown = [_dumps(text) for text in texts if text]
        return self._before + self._between.join(shown) + self._after if shown else b""

    def end(self, finish: Finish) -> bytes:
        """Return what comes after the last piece: why it ended, the usage if asked for, and the end mark."""
        last = self._event([self._choice({} if self._asked.chat else "", finish.reason.value)])
        if self._asked.include_usage:
            last += self._event([], usage=usage(finish))
        return last + DONE

    def _choice(self, content: Any, reason: str | None) -> dict[str, Any]:
        key = "delta" if self._asked.chat else "text"
        return {"index": 0, key: content, "logprobs": None, "finish_reason": reason}

    def _event(self, choices: list[Any], usage: dict[str, Any] | None = None) -> bytes:
        kind = "chat.completion.chunk" if self._asked.chat else "text_completion"
        event = _head(self._asked, kind, self._created_s) | {"choices": choices}
        if self._asked.include_usage:
            event["usage"] = usage
        return b"data: " + _dumps(event) + b"\n\n"


def error_event(error: HttpError) -> bytes:
    """Return the event that ends a stream which cannot go on; no end mark follows it."""
    return b"data: " + error.body() + b"\n\n"


def whole(asked: Asked, created_s: int, texts: Iterable[str], finish: Finish) -> bytes:
    """Return an answer in one piece."""
    text = "".join(texts)
    reason = finish.reason.value
    choice: dict[str, Any] = {"index": 0}
    if asked.chat:
        choice["message"] = {"role": "assistant", "content": text, "refusal": None}
    else:
        choice["text"] = text
    choice |= {"logprobs": None, "finish_reason": reason}
    kind = "chat.completion" if asked.chat else "text_completion"
    return _dumps(_head(asked, kind, created_s) | {"choices": [choice], "usage": usage(finish)})


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
