"""Requests of the OpenAI interface: JSON bytes in, a checked `Asked` out, or one error that names every mistake. Pure.

What this server cannot do is refused, never ignored: a field is understood, or has the value that changes
nothing, or is an error. ``null`` means "not given" everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from callboard.transports.errors import did_you_mean

from .http_errors import HttpError
from .kv.hashing import pack
from .protocol import GenerateRequest, Message

ROLES = ("system", "developer", "user", "assistant", "tool")
CHOICES = 16
"""How many answers one request may ask for."""
TOP_LOGPROBS = 20
"""How many of the likeliest tokens may be asked for at each place."""
STOPS = 16
"""How many stop strings a request may have."""
COMPLETION_TOKENS = 16
"""What ``/v1/completions`` gives without ``max_tokens``, as OpenAI's reference says."""
INT32 = 2**31 - 1
INT64 = 2**63 - 1

Neutral = Mapping[str, tuple[Any, ...]]

CHAT_UNSUPPORTED: Neutral = {
    "logit_bias": ({},),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "reasoning_effort": (),
    "verbosity": (),
    "web_search_options": (),
    "tools": ([],),
    "tool_choice": ("none",),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "function_call": ("none",),
    "store": (False,),
    "service_tier": ("auto", "default"),
}
"""Fields that this server knows and cannot honour, with the values that ask for nothing."""

OF_TOOLS = ("tool_choice", "parallel_tool_calls")

COMPLETION_UNSUPPORTED: Neutral = {
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "logit_bias": ({},),
}

MESSAGE_PASSED = ("tool_calls", "tool_call_id", "name")

MESSAGE_UNSUPPORTED: Neutral = {
    "name": (),
    "refusal": (),
    "audio": (),
    "annotations": ([],),
    "tool_calls": ([],),
    "tool_call_id": (),
    "function_call": (),
}

PASSED = (
    "tools", "tool_choice", "parallel_tool_calls", "response_format", "logit_bias", "reasoning_effort", "top_k",
    "min_p", "repetition_penalty", "length_penalty", "min_tokens", "ignore_eos", "stop_token_ids",
    "skip_special_tokens", "spaces_between_special_tokens", "chat_template_kwargs", "guided_json", "guided_regex",
    "guided_choice", "guided_grammar", "structured_outputs", "bad_words", "include_stop_str_in_output",
    "repeat_penalty", "repeat_last_n", "grammar", "include_reasoning", "cache_salt", "prompt_logprobs",
    "use_beam_search", "kv_transfer_params", "vllm_xargs", "regex", "ebnf", "json_schema", "lora_path", "thinking",
    "options", "keep_alive", "cache_prompt", "separate_reasoning", "typical_p",
)  # fmt: skip
"""Fields that are the engine's affair: they are passed on, if its kind takes any (``ModelInfo.takes_extra``)."""

LABELS = ("user", "metadata", "safety_identifier", "prompt_cache_key")
"""Fields that say who asks, and change no answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One generation as an HTTP client asked for it."""

    request: GenerateRequest
    chat: bool
    stream: bool
    include_usage: bool
    choices: int = 1


def parse_chat(body: bytes | bytearray, request_id: str) -> Asked:
    """Read the body of ``/v1/chat/completions``. Raises `HttpError` (400) with every mistake."""
    fields = Fields(_object(body))
    messages = _messages(fields)
    limit = fields.whole("max_tokens", 1, INT32)
    newer = fields.whole("max_completion_tokens", 1, INT32)
    if limit is not None and newer is not None and limit != newer:
        fields.wrong("max_tokens", f"is {limit}, and max_completion_tokens is {newer}; give one of them")
    return _asked(
        fields,
        request_id,
        CHAT_UNSUPPORTED,
        chat=True,
        messages=messages,
        max_tokens=limit if newer is None else newer,
        logprobs=_logprobs(fields),
    )


def parse_completion(body: bytes | bytearray, request_id: str) -> Asked:
    """Read the body of ``/v1/completions``. Raises `HttpError` (400) with every mistake."""
    fields = Fields(_object(body))
    prompt, tokens = _prompt(fields)
    limit = fields.whole("max_tokens", 1, INT32)
    return _asked(
        fields,
        request_id,
        COMPLETION_UNSUPPORTED,
        chat=False,
        prompt=prompt,
        tokens=tokens,
        max_tokens=COMPLETION_TOKENS if limit is None else limit,
        logprobs=fields.whole("logprobs", 0, TOP_LOGPROBS),
    )


def _object(body: bytes | bytearray) -> dict[str, Any]:
    if not body:
        raise HttpError(400, "the request has no body; it must be a JSON object", code="invalid_json")
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise HttpError(400, f"the body is not valid JSON: {error}", code="invalid_json") from None
    if not isinstance(value, dict):
        raise HttpError(400, f"the body is {show(value)}; it must be a JSON object", code="invalid_json")
    return value


def show(value: Any) -> str:
    """A JSON value in an error message, shortened."""
    text = orjson.dumps(value).decode()
    return text if len(text) <= 60 else f"{text[:57]}..."


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in a request."""

    param: str
    text: str
    code: str


class Fields:
    """The members of a JSON object, taken one by one; what is wrong with them is collected."""

    def __init__(
        self, members: dict[str, Any], place: str = "", problems: list[Problem] | None = None
    ) -> None:
        self.members = members
        self.place = place
        self.problems: list[Problem] = [] if problems is None else problems
        self._taken: set[str] = set()

    def wrong(self, name: str, text: str, code: str = "invalid_value") -> None:
        """Note that the member ``name`` is wrong."""
        param = self.place + name
        self.problems.append(Problem(param, f"{param} {text}", code))

    def inside(self, place: str, members: dict[str, Any]) -> Fields:
        """Return the fields of an object within this one; problems are collected here."""
        return Fields(members, f"{self.place}{place}.", self.problems)

    def take(self, name: str) -> Any:
        """Return a member, None if it is not there or null."""
        self._taken.add(name)
        return self.members.get(name)

    def text(self, name: str, *, required: bool = False) -> str:
        """Return a text."""
        value = self.take(name)
        if value is None:
            if required:
                self.wrong(name, "is missing", "missing_required_parameter")
            return ""
        if not isinstance(value, str) or (required and not value):
            self.wrong(name, f"is {show(value)}; it must be a text", "invalid_type")
            return ""
        return value

    def flag(self, name: str) -> bool:
        """Return a boolean, False if it is not there."""
        value = self.take(name)
        if value is not None and not isinstance(value, bool):
            self.wrong(name, f"is {show(value)}; it must be true or false", "invalid_type")
        return value is True

    def number(self, name: str, low: float, high: float) -> float | None:
        """Return a number from ``low`` to ``high``."""
        value = self.take(name)
        if value is None:
            return None
        if type(value) not in (int, float):
            self.wrong(name, f"is {show(value)}; it must be a number", "invalid_type")
        elif not low <= value <= high:
            self.wrong(name, f"is {show(value)}; it must be from {low:g} to {high:g}")
        else:
            return float(value)
        return None

    def whole(self, name: str, low: int, high: int) -> int | None:
        """Return a whole number from ``low`` to ``high``."""
        value = self.take(name)
        if value is None:
            return None
        if type(value) is not int:
            self.wrong(name, f"is {show(value)}; it must be a whole number", "invalid_type")
            return None
        if not low <= value <= high:
            self.wrong(name, f"is {value}; it must be from {low} to {high}")
            return None
        return value

    def passed(self, names: tuple[str, ...], neutral: Neutral) -> dict[str, Any]:
        """Return the members of these names that ask for something."""
        found = {}
        for name in names:
            value = self.members.get(name)
            # With tools, that none may be called asks for something.
            values = () if name in OF_TOOLS and self.members.get("tools") else neutral.get(name, ())
            if value is not None and not any(_same(value, one) for one in values):
                found[name] = value
                self._taken.add(name)
        return found

    def finish(self, unsupported: Neutral, labels: tuple[str, ...] = ()) -> None:
        """Look at what nobody took: it must ask for nothing."""
        for name, value in self.members.items():
            if name in self._taken or name in labels:
                continue
            neutral = unsupported.get(name)
            if neutral is None:
                known = sorted({*self._taken, *unsupported, *labels, *PASSED})
                self.wrong(
                    name,
                    f"is not a field that this server knows{did_you_mean(name, known)}",
                    "unknown_parameter",
                )
            elif value is not None and not any(_same(value, one) for one in neutral):
                rest = (
                    f"; only {' or '.join(show(one) for one in neutral)} is" if neutral else "; leave it out"
                )
                self.wrong(name, f"is {show(value)}, which is not supported{rest}", "unsupported_parameter")

    def check(self) -> None:
        """Raise the problems, if there are any, as one `HttpError`."""
        if self.problems:
            first = self.problems[0]
            text = "\n".join(problem.text for problem in self.problems)
            raise HttpError(400, text, code=first.code, param=first.param)


def _same(value: Any, other: Any) -> bool:
    return type(value) is type(other) and value == other  # True is no 1 here


def _asked(
    fields: Fields,
    request_id: str,
    unsupported: Neutral,
    *,
    chat: bool,
    max_tokens: int | None,
    logprobs: int | None,
    messages: list[Message] | None = None,
    prompt: str = "",
    tokens: bytes = b"",
) -> Asked:
    model = fields.text("model", required=True)
    stream = fields.flag("stream")
    include_usage = _stream_options(fields, stream)
    stop = _stop(fields)
    temperature = fields.number("temperature", 0, 2)
    top_p = fields.number("top_p", 0, 1)
    frequency_penalty = fields.number("frequency_penalty", -2, 2) or 0.0
    presence_penalty = fields.number("presence_penalty", -2, 2) or 0.0
    seed = fields.whole("seed", -INT64 - 1, INT64)
    choices = fields.whole("n", 1, CHOICES) or 1
    extra = fields.passed(PASSED, unsupported)
    fields.finish(unsupported, LABELS)
    fields.check()
    request = GenerateRequest(
        request_id=request_id,
        model=model,
        prompt=prompt,
        tokens=tokens,
        messages=messages or [],
        max_tokens=max_tokens,
        stop=stop,
        temperature=temperature,
        top_p=top_p,
        frequency_penalty=frequency_penalty,
        presence_penalty=presence_penalty,
        seed=seed,
        logprobs=logprobs,
        extra=extra,
    )
    return Asked(request=request, chat=chat, stream=stream, include_usage=include_usage, choices=choices)


def _logprobs(fields: Fields) -> int | None:
    """How many of the likeliest tokens a chat asks for; None: no probabilities."""
    wanted, top = fields.flag("logprobs"), fields.whole("top_logprobs", 0, TOP_LOGPROBS)
    if top and not wanted:
        fields.wrong("top_logprobs", f"is {top}, which needs logprobs: set logprobs to true")
    return (top or 0) if wanted else None


def _stream_options(fields: Fields, stream: bool) -> bool:
    value = fields.take("stream_options")
    if value is None:
        return False
    if not isinstance(value, dict):
        fields.wrong("stream_options", f"is {show(value)}; it must be an object", "invalid_type")
        return False
    if not stream:
        fields.wrong("stream_options", "is for streams only; set stream to true, or leave it out")
    options = fields.inside("stream_options", value)
    include_usage = options.flag("include_usage")
    options.finish({"include_obfuscation": (False,), "continuous_usage_stats": (False,)})
    return include_usage


def _stop(fields: Fields) -> list[str]:
    value = fields.take("stop")
    if value is None:
        return []
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
        fields.wrong("stop", f"is {show(value)}; it must be a text or a list of texts", "invalid_type")
    elif not all(stops):
        fields.wrong("stop", "holds an empty text, which would stop every answer before it begins")
    elif len(stops) > STOPS:
        fields.wrong("stop", f"holds {len(stops)} texts; it may hold {STOPS}")
    else:
        return stops
    return []


def _prompt(fields: Fields) -> tuple[str, bytes]:
    """A text, or token ids (packed) for models that take them."""
    value = fields.take("prompt")
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], list):
        (value,) = value
    if value is None:
        fields.wrong("prompt", "is missing", "missing_required_parameter")
    elif isinstance(value, str):
        return value, b""
    elif isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
        return value[0], b""
    elif isinstance(value, list) and value and all(type(item) is int for item in value):
        try:
            return "", pack(value)
        except OverflowError:
            fields.wrong("prompt", f"holds token ids beyond 0 to {2**32 - 1}")
    elif isinstance(value, list) and value and all(isinstance(item, str | list) for item in value):
        fields.wrong("prompt", f"holds {len(value)} prompts; send one request for each", "unsupported_value")
    else:
        fields.wrong("prompt", f"is {show(value)}; it must be a text or a list of token ids", "invalid_type")
    return "", b""


def _messages(fields: Fields) -> list[Message]:
    value = fields.take("messages")
    if value is None:
        fields.wrong("messages", "is missing", "missing_required_parameter")
    elif not isinstance(value, list) or not value:
        fields.wrong(
            "messages", f"is {show(value)}; it must be a list with at least one message", "invalid_type"
        )
    else:
        return [_message(fields, f"messages[{index}]", item) for index, item in enumerate(value)]
    return []


def _message(fields: Fields, place: str, value: Any) -> Message:
    if not isinstance(value, dict):
        fields.wrong(place, f"is {show(value)}; it must be an object with role and content", "invalid_type")
        return Message("", "")
    message = fields.inside(place, value)
    role = message.text("role", required=True)
    if role and role not in ROLES:
        message.wrong("role", f"is {show(role)}; roles are: {', '.join(ROLES)}{did_you_mean(role, ROLES)}")
    kept = message.passed(MESSAGE_PASSED, MESSAGE_UNSUPPORTED)
    content = "" if "tool_calls" in kept and value.get("content") is None else _content(message)
    message.finish(MESSAGE_UNSUPPORTED, ("content",))
    return Message(role, content, kept) if kept else Message(role, content)


def _content(message: Fields) -> str:
    """The text of a message; the parts of a list become lines."""
    value = message.take("content")
    if value is None:
        message.wrong("content", "is missing", "missing_required_parameter")
    elif isinstance(value, str):
        return value
    elif isinstance(value, list) and value:
        return "\n".join(_part(message, f"content[{index}]", item) for index, item in enumerate(value))
    else:
        message.wrong("content", f"is {show(value)}; it must be a text or a list of parts", "invalid_type")
    return ""


def _part(message: Fields, place: str, value: Any) -> str:
    if not isinstance(value, dict):
        message.wrong(place, f'is {show(value)}; it must be {{"type": "text", "text": ...}}', "invalid_type")
        return ""
    part = message.inside(place, value)
    kind = part.text("type", required=True)
    if kind and kind != "text":
        part.wrong("type", f"is {show(kind)}; this server takes text only", "unsupported_value")
        return ""
    text = part.text("text")
    if "text" not in value:
        part.wrong("text", "is missing", "missing_required_parameter")
    part.finish({})
    return text
