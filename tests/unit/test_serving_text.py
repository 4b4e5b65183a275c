"""What a frontend knows of the models, and what it does when that is no longer so: with routers that are not there."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, cast

import pytest

from callboard.actors.errors import ActorUnavailable
from callboard.serving.errors import OtherTokenizer, RequestRefused
from callboard.serving.http_errors import HttpError
from callboard.serving.kv.hashing import unpack
from callboard.serving.protocol import Finish, FinishReason, GenerateRequest, Input, ModelInfo, Piece
from callboard.serving.text import TextBackend
from callboard.serving.tokenizer import Tokenizer
from callboard.testing.tiny_model import make_tiny_tokenizer

from .serving_fakes import info, request
from .test_serving_canary import worker

END = Finish(reason=FinishReason.STOP, prompt_tokens=3, completion_tokens=1)
TEXT = [["a"], [END]]


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Of two tokenizers."""
    made = [tmp_path_factory.mktemp("tokenizer") for _ in range(2)]
    for seed, directory in enumerate(made):
        make_tiny_tokenizer(directory, seed)
    return [str(directory) for directory in made]


class Routers:
    """What is behind it now; it refuses what its workers would refuse."""

    def __init__(self, *infos: ModelInfo) -> None:
        self.infos = list(infos)
        self.outdated = False
        self.asked = 0
        self.down = False
        self.plays: list[list[Any]] = []
        self.got: list[GenerateRequest] = []

    async def models(self, *, wait: bool = False) -> list[ModelInfo]:
        self.asked += 1
        if self.down:
            raise ActorUnavailable("gone", actor="router")
        return list(self.infos)

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[list[Piece], None]:
        self.got.append(request)
        tokenizer = self.infos[0].tokenizer
        if request.tokenizer != tokenizer and (request.tokenizer or not request.tokens):
            self.outdated = True
            raise OtherTokenizer(request.model)
        for batch in self.plays.pop(0) if self.plays else [[[END]], TEXT][not tokenizer]:
            if isinstance(batch, Exception):
                raise batch
            yield list(batch)


def backend(routers: Routers) -> TextBackend:
    return TextBackend(cast("Any", routers))


async def read(made: TextBackend, **fields: Any) -> list[Piece]:
    return [piece async for batch in made.generate(request(**fields)) for piece in batch]


def of_tokens(directory: str, **fields: Any) -> ModelInfo:
    return info(input=Input.TOKENS, tokenizer=directory, **fields)


async def test_what_is_served_is_asked_for_once() -> None:
    routers = Routers(info())
    made = backend(routers)
    for _ in range(3):
        assert await read(made) == ["a", END]
    assert routers.asked == 1


async def test_a_prompt_for_a_worker_with_another_tokenizer_than_before_is_tokenized_again(
    directories: list[str],
) -> None:
    one, other = directories
    routers = Routers(of_tokens(one))
    made = backend(routers)
    await read(made, prompt="hello there")
    routers.infos = [of_tokens(other)]
    await read(made, prompt="hello there")
    await read(made, prompt="hello there")
    assert [got.tokenizer for got in routers.got] == [one, one, other, other]
    assert [got.tokens for got in routers.got] == [
        Tokenizer(directory).encode("hello there") for directory in (one, one, other, other)
    ]
    assert routers.asked == 2


async def test_a_model_that_takes_tokens_now_is_not_asked_with_text_again(directories: list[str]) -> None:
    routers = Routers(info())
    made = backend(routers)
    await read(made)
    routers.infos = [of_tokens(directories[0])]
    with pytest.raises(OtherTokenizer):  # the short way: whoever asks again is answered
        await read(made)
    assert await read(made) == [END]


async def test_a_model_that_takes_text_now_is_asked_with_text(directories: list[str]) -> None:
    routers = Routers(of_tokens(directories[0]))
    made = backend(routers)
    await read(made)
    routers.infos = [info()]
    assert await read(made) == ["a", END]


async def test_nobody_is_refused_for_what_was_so_before(directories: list[str]) -> None:
    routers = Routers(info())
    made = backend(routers)
    await read(made)
    routers.infos = [info(gives_logprobs=True)]
    assert await read(made, logprobs=1) == ["a", END]
    routers = Routers(of_tokens(directories[0], context_tokens=2))
    made = backend(routers)
    await made.models()
    routers.infos = [of_tokens(directories[0])]
    assert await read(made, prompt="a long prompt") == [END]


async def test_a_refusal_stays_one_when_nothing_has_changed_or_nobody_knows() -> None:
    routers = Routers(info())
    made = backend(routers)
    await read(made)
    for routers.down in (False, True):
        with pytest.raises(HttpError, match="logprobs"):
            await read(made, logprobs=1)
    assert len(routers.got) == 1
    routers = Routers(info(gives_logprobs=True))
    made = backend(routers)
    with pytest.raises(RequestRefused):
        await read(made, tokens=b"\1\0\0\0")
    assert routers.asked == 1


async def test_an_answer_that_has_begun_is_not_begun_again(directories: list[str]) -> None:
    routers = Routers(of_tokens(directories[0]))
    ids = unpack(Tokenizer(directories[0]).encode("hello there"))
    routers.plays = [[[END]], [list(ids), OtherTokenizer("m")]]
    made = backend(routers)
    await read(made)
    with pytest.raises(OtherTokenizer):
        await read(made)
    assert len(routers.got) == 2


@pytest.mark.parametrize(
    ("fields", "refused"),
    [
        ({"tokens": b"\1\0\0\0", "tokenizer": "here"}, False),
        ({"tokens": b"\1\0\0\0"}, False),
        ({"tokens": b"\1\0\0\0", "tokenizer": "there"}, True),
        ({"prompt": "text"}, True),
    ],
)
async def test_a_worker_takes_the_ids_of_its_own_tokenizer(fields: dict[str, Any], refused: bool) -> None:
    made = worker(input="tokens", tokenizer="here")
    made._model, made._tokenizer = "simulated", "here"
    asked = GenerateRequest(request_id="r", model="simulated", max_tokens=1, **fields)
    if refused:
        with pytest.raises(OtherTokenizer):
            await anext(made.generate(asked))
    else:
        assert isinstance(await anext(made.generate(asked)), int)
