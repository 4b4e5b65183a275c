"""Tokenizers from a directory: ids, templates, text that comes in pieces, and what is wrong with a directory."""

from __future__ import annotations

import random
from pathlib import Path

import orjson
import pytest

from callboard.serving.errors import BadTokenizer, RequestRefused
from callboard.serving.kv.hashing import unpack
from callboard.serving.protocol import Finish, FinishReason, Message, Token
from callboard.serving.text import _Text
from callboard.serving.tokenizer import Tokenizer
from callboard.testing.tiny_model import make_tiny_tokenizer

TEXT = "größer than life: こんにちは 🎭 and so on"


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    make_tiny_tokenizer(path, 1)
    return path


def test_text_comes_back_whatever_the_tokens_cut(directory: Path) -> None:
    tokenizer = Tokenizer(str(directory))
    ids = unpack(tokenizer.encode(TEXT))
    decoder = tokenizer.decoder()
    pieces = [decoder.step(token) for token in ids]
    assert "".join(pieces) == TEXT
    assert "" in pieces  # a character of several tokens comes when it is complete
    assert "\ufffd" not in "".join(pieces)


def test_a_chat_is_rendered_by_the_models_template(directory: Path) -> None:
    tokenizer = Tokenizer(str(directory))
    messages = [Message("system", "be brief"), Message("user", "hello")]
    plain = tokenizer.encode("<|system|>be brief<|end|><|user|>hello<|end|><|assistant|>", special=False)
    assert tokenizer.encode_chat(messages, {}) == plain
    with_tools = tokenizer.encode_chat(messages, {"tools": [{"name": "größe"}]})
    decoder = tokenizer.decoder()
    assert 'größe"}]' in "".join(decoder.step(token) for token in unpack(with_tools))


def test_a_template_can_refuse_and_cannot_reach_out(directory: Path, tmp_path: Path) -> None:
    for template, message in (
        ("{{ raise_exception('only one message') }}", "only one message"),
        ("{{ messages.__class__.__mro__ }}", "refuses"),
        ("{{ ''.__class__.__base__.__subclasses__() }}", "refuses"),
    ):
        config = {"chat_template": template}
        (tmp_path / "tokenizer_config.json").write_bytes(orjson.dumps(config))
        (tmp_path / "tokenizer.json").write_bytes((directory / "tokenizer.json").read_bytes())
        with pytest.raises(RequestRefused, match=message):
            Tokenizer(str(tmp_path)).encode_chat([Message("user", "x")], {})


def test_a_template_may_stand_in_a_file_of_its_own_or_be_missing(directory: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes((directory / "tokenizer.json").read_bytes())
    with pytest.raises(RequestRefused, match="no chat template"):
        Tokenizer(str(tmp_path)).encode_chat([Message("user", "x")], {})
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0].content }}!")
    tokenizer = Tokenizer(str(tmp_path))
    assert tokenizer.encode_chat([Message("user", "x")], {}) == tokenizer.encode("x!", special=False)


def test_what_is_wrong_with_a_directory_is_said(directory: Path, tmp_path: Path) -> None:
    with pytest.raises(BadTokenizer, match=r"tokenizer\.json cannot be read"):
        Tokenizer(str(tmp_path))
    (tmp_path / "tokenizer.json").write_bytes((directory / "tokenizer.json").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(BadTokenizer, match=r"tokenizer_config\.json"):
        Tokenizer(str(tmp_path))
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "{% if %}"}')
    with pytest.raises(BadTokenizer, match="template is wrong"):
        Tokenizer(str(tmp_path))


FINISH = Finish(reason=FinishReason.LENGTH, prompt_tokens=5, completion_tokens=9)


@pytest.mark.parametrize("seed", range(5))
def test_a_stop_string_ends_an_answer_of_ids_wherever_it_is_cut(directory: Path, seed: int) -> None:
    tokenizer, rng = Tokenizer(str(directory)), random.Random(seed)
    ids = list(unpack(tokenizer.encode("one two STOP three four")))
    text, at = _Text(tokenizer.decoder(), ["STOP"], 5), 0
    shown: list[object] = []
    while at < len(ids) and not text.stopped:
        size = rng.randint(1, 4)
        shown += text.take(list(ids[at : at + size]))
        at += size
    *pieces, finish = shown
    assert "".join(map(str, pieces)) == "one two "
    assert isinstance(finish, Finish)
    assert finish.reason is FinishReason.STOP
    assert finish.completion_tokens <= len(ids)


def test_what_was_held_back_comes_before_the_end(directory: Path) -> None:
    tokenizer = Tokenizer(str(directory))
    text = _Text(tokenizer.decoder(), ["four!"], 5)
    shown = text.take([*unpack(tokenizer.encode("three four")), FINISH])
    assert "".join(piece for piece in shown if isinstance(piece, str)) == "three four"
    assert shown[-1] is FINISH


def test_probabilities_keep_their_tokens_and_get_text(directory: Path) -> None:
    tokenizer = Tokenizer(str(directory))
    text = _Text(tokenizer.decoder(), [], 5)
    ids = unpack(tokenizer.encode("three"))
    shown = text.take([Token(token, "", -0.5) for token in ids])
    assert "".join(piece.text for piece in shown if isinstance(piece, Token)) == "three"
