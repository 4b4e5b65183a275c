"""A model's tokenizer and chat template, from a local directory as Hugging Face lays it out. Nothing is downloaded.

``tokenizer.json`` is read by the tokenizers library; the template is ``chat_template`` of ``tokenizer_config.json`` or
the file ``chat_template.jinja``, rendered in jinja2's sandbox: a template is data of somebody else. No code of the
directory is ever run.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import orjson

from .errors import BadTokenizer, MissingServingExtra, RequestRefused
from .kv.hashing import pack
from .protocol import Message

if TYPE_CHECKING:
    from jinja2 import Template
    from tokenizers import Tokenizer as Loaded

TEMPLATE_BYTES = 1024 * 1024


class Tokenizer:
    """Turns texts and chats into packed token ids, and ids into text."""

    def __init__(self, directory: str) -> None:
        """Load it. Raises `BadTokenizer` and `MissingServingExtra`."""
        try:
            from tokenizers import Tokenizer as Library
        except ImportError as error:
            raise MissingServingExtra(error.name or "tokenizers", extra="llm") from None
        self.directory = Path(directory)
        file = self.directory / "tokenizer.json"
        try:
            self._loaded: Loaded = Library.from_file(str(file))
        except Exception as error:  # the library raises bare exceptions
            raise BadTokenizer(directory, f"{file.name} cannot be read: {error}") from None
        self._config = self._read_config()
        self._template = self._compile()

    def __repr__(self) -> str:
        return f"<Tokenizer {self.directory}, {self._loaded.get_vocab_size()} tokens>"

    def encode(self, text: str, *, special: bool = True) -> bytes:
        """Return the packed ids of a text, with what the tokenizer puts around it if ``special``."""
        return pack(self._loaded.encode(text, add_special_tokens=special).ids)

    def encode_chat(self, messages: Sequence[Message], extra: dict[str, Any]) -> bytes:
        """Return the packed ids of a chat that asks for an answer.

        ``extra`` may hold ``tools`` and ``chat_template_kwargs``. Raises `RequestRefused` if there is no template, or
        the template does not take these messages.
        """
        if self._template is None:
            raise RequestRefused("this model has no chat template; use /v1/completions")
        values: dict[str, Any] = dict(extra.get("chat_template_kwargs") or {})
        values |= {
            "messages": [{"role": m.role, "content": m.content, **m.fields} for m in messages],
            "add_generation_prompt": True,
            "tools": extra.get("tools"),
        }
        try:
            text = self._template.render(**self._special_tokens(), **values)
        except Exception as error:  # whatever a template raises, it is about this request
            raise RequestRefused(f"the model's chat template refuses it: {error}") from None
        return self.encode(text, special=False)

    def decoder(self) -> Decoder:
        """Return what turns the ids of one answer into text."""
        return Decoder(self._loaded)

    def _read_config(self) -> dict[str, Any]:
        file = self.directory / "tokenizer_config.json"
        if not file.exists():
            return {}
        try:
            config = orjson.loads(file.read_bytes())
        except (OSError, orjson.JSONDecodeError) as error:
            raise BadTokenizer(str(self.directory), f"{file.name} cannot be read: {error}") from None
        return config if isinstance(config, dict) else {}

    def _special_tokens(self) -> dict[str, str]:
        found = {}
        for name in ("bos_token", "eos_token", "unk_token", "pad_token"):
            value = self._config.get(name)
            text = value.get("content") if isinstance(value, dict) else value
            if isinstance(text, str):
                found[name] = text
        return found

    def _compile(self) -> Template | None:
        source = self._config.get("chat_template")
        if isinstance(source, list):  # several, by name
            named = {entry.get("name"): entry.get("template") for entry in source if isinstance(entry, dict)}
            source = named.get("default")
        file = self.directory / "chat_template.jinja"
        if source is None and file.exists() and file.stat().st_size <= TEMPLATE_BYTES:
            source = file.read_text(encoding="utf-8")
        if not isinstance(source, str):
            return None
        try:
            from jinja2.exceptions import TemplateError
            from jinja2.sandbox import ImmutableSandboxedEnvironment
        except ImportError as error:
            raise MissingServingExtra(error.name or "jinja2", extra="llm") from None
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
        try:
            return environment.from_string(source)
        except TemplateError as error:
            raise BadTokenizer(str(self.directory), f"its chat template is wrong: {error}") from None


class Decoder:
    """Turns the ids of one answer into text, a piece at a time; a piece may be empty until a character is complete."""

    __slots__ = ("_loaded", "_stream")

    def __init__(self, loaded: Loaded) -> None:
        from tokenizers.decoders import DecodeStream

        self._loaded, self._stream = loaded, DecodeStream(skip_special_tokens=True)

    def step(self, token: int) -> str:
        """Return the text that a token completes."""
        return self._stream.step(self._loaded, token) or ""


def _to_json(value: Any, indent: int | None = None, **_: Any) -> str:
    import json

    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(message: str) -> NoReturn:
    raise ValueError(message)
