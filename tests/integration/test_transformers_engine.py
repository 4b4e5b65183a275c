"""A real model on the CPU: tiny, with random weights made here, computed by transformers."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Any

import pytest

from callboard.serving.engines.transformers import TransformersEngine, TransformersSettings
from callboard.serving.errors import ContextTooLong, EngineFailed, RequestRefused
from callboard.serving.kv.hashing import pack
from callboard.serving.protocol import Finish, FinishReason, GenerateRequest, Message, Token
from callboard.serving.tokenizer import Tokenizer
from callboard.testing.cluster import Cluster
from callboard.testing.tiny_model import make_tiny_model
from callboard.transports.errors import ConfigError

from .test_serving import client_of, config
from .waiting import until

PROMPT = list(range(100, 140))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    make_tiny_model(directory, 1)
    return directory


async def started(model: Path, **options: Any) -> TransformersEngine:
    made = TransformersEngine(TransformersSettings(path=str(model), model="tiny", **options))
    await made.start()
    return made


def request(**fields: Any) -> GenerateRequest:
    defaults: dict[str, Any] = {
        "request_id": "r", "model": "tiny", "tokens": pack(PROMPT), "temperature": 0.0, "max_tokens": 24,
        "extra": {"ignore_eos": True},
    }  # fmt: skip
    return GenerateRequest(**defaults | fields)


async def answer(engine: TransformersEngine, **fields: Any) -> tuple[list[Any], Finish]:
    *pieces, finish = [piece async for piece in engine.generate(request(**fields))]
    assert isinstance(finish, Finish)
    return pieces, finish


def reference(engine: TransformersEngine, prompt: list[int], count: int) -> list[int]:
    """What transformers itself generates."""
    import torch

    with torch.inference_mode():
        made = engine._model.generate(
            torch.tensor([prompt]),
            do_sample=False,
            max_new_tokens=count,
            min_new_tokens=count,
            pad_token_id=0,
        )
    return [int(token) for token in made[0][len(prompt) :]]


async def test_it_computes_what_transformers_computes_and_continues_what_another_began(model: Path) -> None:
    engine, other = await started(model), await started(model)
    try:
        whole, finish = await answer(engine)
        assert whole == reference(engine, PROMPT, 24)
        assert (finish.prompt_tokens, finish.completion_tokens, finish.reason) == (
            40,
            24,
            FinishReason.LENGTH,
        )
        for cut in (1, 10, 23):
            rest, end = await answer(other, done=whole[:cut], max_tokens=24 - cut)
            assert whole[:cut] + rest == whole
            assert (end.prompt_tokens, end.completion_tokens) == (40, 24 - cut)
    finally:
        await engine.close()
        await other.close()


async def test_requests_side_by_side_do_not_disturb_each_other(model: Path) -> None:
    engine = await started(model, max_running=3)
    try:
        prompts = [[*PROMPT, 200 + number] for number in range(7)]
        answers = await asyncio.gather(
            *(answer(engine, tokens=pack(prompt), max_tokens=9) for prompt in prompts)
        )
        for prompt, (pieces, _) in zip(prompts, answers, strict=True):
            assert pieces == reference(engine, prompt, 9)
        assert (engine.running, engine.waiting, engine.finished) == (0, 0, 7)
    finally:
        await engine.close()


async def test_drawing_follows_the_seed_and_probabilities_are_the_models(model: Path) -> None:
    engine = await started(model)
    try:
        one, _ = await answer(engine, temperature=1.0, seed=5)
        same, _ = await answer(engine, temperature=1.0, seed=5)
        other, _ = await answer(engine, temperature=1.0, seed=6)
        assert one == same != other
        narrow, _ = await answer(engine, temperature=1.0, top_p=0.0, seed=7)
        assert narrow == (await answer(engine))[0]
        tokens, _ = await answer(engine, logprobs=3)
        for token in tokens:
            assert isinstance(token, Token)
            assert token.top[0][0] == token.id
            assert math.isclose(token.top[0][2], token.logprob, rel_tol=1e-4)
            assert len(token.top) == 3
        penalized, _ = await answer(engine, presence_penalty=2.0, frequency_penalty=2.0)
        assert len(set(penalized)) >= len({token.id for token in tokens})
    finally:
        await engine.close()


async def test_who_leaves_ends_the_work_and_a_prompt_that_is_too_long_is_refused(model: Path) -> None:
    engine = await started(model)
    try:
        pieces = engine.generate(request(max_tokens=3000))
        await anext(pieces)
        await pieces.aclose()
        assert (engine.running, engine.cancelled) == (0, 1)
        assert len((await answer(engine, max_tokens=3))[0]) == 3
        with pytest.raises(ContextTooLong, match="holds 4096"):
            await answer(engine, tokens=pack(PROMPT * 110))
        assert (await answer(engine, max_tokens=0))[0] == []
        with pytest.raises(RequestRefused, match="token id 4000000 is not in the model's vocabulary of"):
            await answer(engine, tokens=pack([*PROMPT, 4_000_000]))
    finally:
        await engine.close()


async def test_who_leaves_while_waiting_is_counted_once_and_a_failure_is_no_cancellation(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = await started(model, max_running=1)
    try:
        first = engine.generate(request(max_tokens=3000))
        await anext(first)
        second = asyncio.ensure_future(answer(engine))
        await until(lambda: engine.waiting == 1)
        second.cancel()
        await asyncio.wait([second])
        assert (engine.running, engine.waiting, engine.cancelled) == (1, 0, 1)
        await first.aclose()
        monkeypatch.setattr(engine, "_model", None)
        with pytest.raises(EngineFailed, match="NoneType"):
            await answer(engine)
        assert (engine.running, engine.cancelled, engine.failed) == (0, 2, 1)
    finally:
        await engine.close()


async def test_what_cannot_be_loaded_is_said(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no config\.json"):
        TransformersSettings(path=str(tmp_path), model="tiny")
    (tmp_path / "config.json").write_bytes((model / "config.json").read_bytes())
    with pytest.raises(EngineFailed, match="cannot be loaded"):
        await started(tmp_path)


async def test_it_answers_chats_behind_a_frontend(cluster: Cluster, model: Path) -> None:
    engine = f'{{ kind = "transformers", path = "{model}", model = "tiny" }}'
    system = await cluster.up(config(engine=engine, workers=1), plane="tcp")
    hello: Any = [{"role": "user", "content": "hello there"}]
    async with client_of(system) as client:
        chat = await client.chat.completions.create(
            model="tiny", messages=hello, max_tokens=12, temperature=0
        )
        stream = await client.chat.completions.create(
            model="tiny", messages=hello, max_tokens=12, temperature=0, stream=True
        )
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    assert text == chat.choices[0].message.content
    assert chat.usage is not None
    prompt = Tokenizer(str(model)).encode_chat([Message("user", "hello there")], {})
    assert chat.usage.prompt_tokens == len(prompt) // 4
    assert 0 < chat.usage.completion_tokens <= 12 or chat.choices[0].finish_reason == "stop"
