"""What is more than text in an answer of the OpenAI interface: probabilities and tool calls. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from .protocol import Delta, Piece, Token


class Shown(Token, frozen=True):
    """A token of which the client sees another text: none of a half character, nor of what may be a stop string."""

    shown: str = ""


def shown_text(token: Token) -> str:
    """Return what a token adds to the answer."""
    return token.shown if isinstance(token, Shown) else token.text


def chat_logprobs(tokens: Iterable[Token]) -> dict[str, Any]:
    """Return the ``logprobs`` of a chat's choice."""
    content = [
        _entry(token.text, token.logprob)
        | {"top_logprobs": [_entry(text, logprob) for _, text, logprob in token.top]}
        for token in tokens
    ]
    return {"content": content, "refusal": None}


def completion_logprobs(tokens: Sequence[Token], offset: int) -> dict[str, Any]:
    """Return the ``logprobs`` of a completion's choice; ``offset`` is how many characters came before these tokens."""
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(shown_text(token))
    return {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [{text: logprob for _, text, logprob in token.top} for token in tokens],
        "text_offset": offsets,
    }


def _entry(text: str, logprob: float) -> dict[str, Any]:
    return {"token": text, "logprob": logprob, "bytes": list(text.encode("utf-8", "surrogatepass"))}


class Choice:
    """One choice of an answer in one piece, as it is collected.

    >>> choice = Choice()
    >>> choice.take(["one", " two"])
    >>> choice.text
    'one two'
    """

    __slots__ = ("_fields", "_texts", "_tokens", "_tools")

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._tokens: list[Token] = []
        self._fields: dict[str, Any] = {}
        self._tools: dict[int, dict[str, Any]] = {}

    def take(self, pieces: Iterable[Piece]) -> None:
        """Add pieces, with no `Finish` and no `Routed` among them."""
        for piece in pieces:
            if isinstance(piece, Token):
                self._tokens.append(piece)
                self._texts.append(shown_text(piece))
            elif isinstance(piece, Delta):
                self._merge(piece.fields)
            else:
                self._texts.append(piece)  # type: ignore[arg-type]  # ids have become text before

    def _merge(self, fields: dict[str, Any]) -> None:
        for name, value in fields.items():
            if name == "tool_calls" and isinstance(value, list):
                for at, call in enumerate(value):
                    if isinstance(call, dict):
                        index = call.get("index", at)
                        _merge_call(self._tools.setdefault(index if isinstance(index, int) else at, {}), call)
            else:
                before = self._fields.get(name)
                both = isinstance(before, str) and isinstance(value, str)
                self._fields[name] = f"{before}{value}" if both else value

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(self._texts)

    def message(self) -> dict[str, Any]:
        """Return the message of a chat; one that only calls tools has no content."""
        calls = [self._tools[index] for index in sorted(self._tools)]
        message: dict[str, Any] = {"role": "assistant", "content": self.text, "refusal": None, **self._fields}
        if calls:
            message["tool_calls"] = calls
            message["content"] = message["content"] or None
        return message

    def logprobs(self, chat: bool) -> dict[str, Any] | None:
        """Return the probabilities; None if the engine gave none."""
        if not self._tokens:
            return None
        return chat_logprobs(self._tokens) if chat else completion_logprobs(self._tokens, 0)


def _merge_call(call: dict[str, Any], part: dict[str, Any]) -> None:
    """Add a part of a tool call: names and ids come once, the text of the arguments comes in parts."""
    for name, value in part.items():
        if name == "index" or value is None:
            continue
        if name == "function" and isinstance(value, dict):
            function = call.setdefault("function", {"name": "", "arguments": ""})
            for key in ("name", "arguments"):
                if isinstance(value.get(key), str):
                    function[key] += value[key]
        else:
            call[name] = value
