"""Text in front of models that take and give token ids: templates, tokens, text again, and stop strings.

It stands between the HTTP application and the routers. Requests for models that take text pass through untouched.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Any

from msgspec.structs import replace

from callboard.actors.errors import ActorError

from .backend import RouterBackend
from .engines.stopping import StopScanner
from .errors import ContextTooLong, OtherTokenizer, RequestRefused
from .http_errors import HttpError
from .openai_pieces import Shown
from .protocol import Finish, FinishReason, GenerateRequest, Input, ModelInfo, Piece, Token
from .tokenizer import Decoder, Tokenizer

AT_ONCE_BYTES = 16 * 1024
"""Longer prompts are tokenized in a thread."""

TOKENIZERS = 64
"""Directories that are kept loaded."""


class TextBackend:
    """A `Backend` that gives text for every model."""

    def __init__(self, routers: RouterBackend) -> None:
        self._routers = routers
        self._infos: dict[str, ModelInfo] = {}
        self._tokenizers: dict[str, Tokenizer] = {}

    def generate(self, request: GenerateRequest) -> AsyncGenerator[list[Piece], None]:
        """Yield batches of pieces, none of which is a token id."""
        if self._routers.outdated:
            self._remember([])
        info = self._infos.get(request.model)
        if info is None or info.input is not Input.TEXT or request.tokens or _objection(request, info):
            return self._generate(request, info)
        return self._routers.generate(request)

    async def _generate(
        self, request: GenerateRequest, info: ModelInfo | None
    ) -> AsyncGenerator[list[Piece], None]:
        is_new = info is None
        if info is None:
            info = await self._learn(request.model)
        while True:
            begun = False
            try:
                async with aclosing(self._answer(request, info)) as batches:
                    async for batch in batches:
                        begun = True
                        yield batch
                return
            except (OtherTokenizer, RequestRefused, ContextTooLong, HttpError) as error:
                # The worker may have come back as another one since it was asked what it serves.
                known, info = info, None
                if not (begun or is_new):
                    with suppress(ActorError):
                        info = await self._learn(request.model)
                if info is None or (info == known and not isinstance(error, OtherTokenizer)):
                    raise
                is_new = True

    async def _learn(self, model: str) -> ModelInfo | None:
        self._remember(await self._routers.models(wait=True))
        return self._infos.get(model)

    async def _answer(
        self, request: GenerateRequest, info: ModelInfo | None
    ) -> AsyncGenerator[list[Piece], None]:
        if info is not None and (objection := _objection(request, info)) is not None:
            raise objection
        if info is None or info.input is Input.TEXT:
            if request.tokens and info is not None:
                raise RequestRefused(f"{request.model} takes text, no token ids")
            async with aclosing(self._routers.generate(request)) as batches:
                async for batch in batches:
                    yield batch
            return
        tokenizer = await self._tokenizer(info)
        tokens = request.tokens or await _tokens(tokenizer, request)
        if len(tokens) // 4 >= info.context_tokens:
            raise ContextTooLong(len(tokens) // 4, info.context_tokens)
        asked = replace(request, tokens=tokens, tokenizer=info.tokenizer, prompt="", messages=[], stop=[])
        answer = _Text(tokenizer.decoder(), request.stop, len(tokens) // 4)
        async with aclosing(self._routers.generate(asked)) as batches:
            async for batch in batches:
                shown = answer.take(batch)
                if shown:
                    yield shown
                if answer.stopped:
                    return

    async def _tokenizer(self, info: ModelInfo) -> Tokenizer:
        if not info.tokenizer:
            raise RequestRefused(
                f"{info.model} takes token ids, and its worker names no tokenizer for text: set engine.tokenizer"
            )
        found = self._tokenizers.get(info.tokenizer)
        if found is None:
            found = await asyncio.to_thread(Tokenizer, info.tokenizer)
            while len(self._tokenizers) >= TOKENIZERS:
                del self._tokenizers[next(iter(self._tokenizers))]
            self._tokenizers[info.tokenizer] = found
        return found

    async def models(self) -> list[ModelInfo]:
        """Return what is served, and remember it."""
        infos = await self._routers.models()
        self._remember(infos)
        return infos

    def _remember(self, infos: list[ModelInfo]) -> None:
        self._routers.outdated = False
        self._infos = {info.model: info for info in infos}

    async def workers(self) -> dict[str, int]:
        """Return the workers that are up, with the requests outstanding on each."""
        return await self._routers.workers()

    async def statistics(self) -> dict[str, Any]:
        """Return what a router has counted."""
        return await self._routers.statistics()


def _objection(request: GenerateRequest, info: ModelInfo) -> HttpError | None:
    """Return why a request is refused that has a field which the engine would ignore."""
    if request.logprobs is not None and not info.gives_logprobs:
        text = f"logprobs: {info.model} has no probabilities (its engine is {info.engine}); leave it out"
        return HttpError(400, text, code="unsupported_parameter", param="logprobs")
    if info.takes_extra or not (request.extra or any(message.fields for message in request.messages)):
        return None
    names = sorted(request.extra) or sorted({name for m in request.messages for name in m.fields})
    text = (
        f"{', '.join(names)}: {info.model} does not support this (its engine is {info.engine}); leave it out"
    )
    return HttpError(400, text, code="unsupported_parameter", param=names[0])


async def _tokens(tokenizer: Tokenizer, request: GenerateRequest) -> bytes:
    if request.messages:
        size = sum(len(message.content) for message in request.messages)
        if size < AT_ONCE_BYTES:
            return tokenizer.encode_chat(request.messages, request.extra)
        return await asyncio.to_thread(tokenizer.encode_chat, request.messages, request.extra)
    if len(request.prompt) < AT_ONCE_BYTES:
        return tokenizer.encode(request.prompt)
    return await asyncio.to_thread(tokenizer.encode, request.prompt)


class _Text:
    """One answer as text."""

    def __init__(self, decoder: Decoder, stops: list[str], prompt_tokens: int) -> None:
        self._decoder, self._prompt_tokens = decoder, prompt_tokens
        self._scanner = StopScanner(stops) if stops else None
        self._count = 0
        self.stopped = False

    def take(self, batch: list[Piece]) -> list[Piece]:
        """Return a batch with text in the place of ids; with a stop string in it, the batch ends the answer."""
        shown: list[Piece] = []
        for piece in batch:
            if isinstance(piece, Finish):
                shown += self._rest()
                shown.append(self._end() if self.stopped else piece)
            elif isinstance(piece, int | Token):
                self._count += 1
                shown += self._text(piece)
                if self.stopped:
                    shown.append(self._end())
                    return shown
            else:
                shown.append(piece)
        return shown

    def _rest(self) -> list[Piece]:
        """What was held back, at the end of the answer."""
        rest = self._decoder.flush()
        if self._scanner is not None:
            rest = self._scanner.feed(rest)
            self.stopped = self._scanner.stopped
            rest += "" if self.stopped else self._scanner.flush()
        return [rest] if rest else []

    def _text(self, piece: int | Token) -> list[Piece]:
        token = piece if isinstance(piece, int) else piece.id
        text = self._decoder.step(token)
        if self._scanner is not None:
            text = self._scanner.feed(text)
            self.stopped = self._scanner.stopped
        if not isinstance(piece, Token):
            return [text] if text else []
        name = self._decoder.text_of
        top = [(token, name(token), logprob) for token, _, logprob in piece.top]
        return [Shown(piece.id, name(piece.id), piece.logprob, top, text)]

    def _end(self) -> Finish:
        return Finish(
            reason=FinishReason.STOP, prompt_tokens=self._prompt_tokens, completion_tokens=self._count
        )
