"""Dynamo's HTTP frontend with its simulated engine, the mocker: two processes, on the request plane of the run."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import socket
import subprocess
import sys
from pathlib import Path
from time import monotonic

from ..measuring import Skipped, Values
from .driving import Servers, run
from .sse import answer, events_per_second, request_of

NEEDED = {
    "tokenizers": "tokenizers",
    "msgspec": "msgspec",
    "zmq": "pyzmq",
    "dynamo.frontend": "--no-deps ai-dynamo==1.6.1",  # a dependency of it is not on PyPI, and not needed here
}
MODEL = "tiny"
SPEED_UP = 10_000
"""Simulated time is divided by it, so that it is no delay."""
START_LIMIT_S = 60.0
VOCABULARY = 32_000


def write_model(directory: Path) -> None:
    """Write a model without weights: a byte-level tokenizer in which every number is a token, and a chat template."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    directory.mkdir()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1000,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<s>", "</s>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(["hello world"] * 20, trainer)
    numbers = range(tokenizer.get_vocab_size(), VOCABULARY)
    tokenizer.add_tokens([AddedToken(f" w{number}", normalized=False) for number in numbers])
    tokenizer.save(str(directory / "tokenizer.json"))
    files = {
        "config.json": {
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64,
            "intermediate_size": 128, "num_attention_heads": 4, "num_hidden_layers": 2, "num_key_value_heads": 4,
            "vocab_size": VOCABULARY, "max_position_embeddings": 131_072, "bos_token_id": 0, "eos_token_id": 1,
            "rms_norm_eps": 1e-5, "torch_dtype": "bfloat16", "tie_word_embeddings": False,
        },
        "generation_config.json": {"bos_token_id": 0, "eos_token_id": 1},
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>",
            "model_max_length": 131_072,
            "chat_template": "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:",
        },
    }  # fmt: skip
    for name, content in files.items():
        (directory / name).write_text(json.dumps(content), encoding="utf-8")


def measured(servers: Servers, directory: str, seconds: float) -> Values:
    """Events per second of 32 connections. Raises `Skipped`."""
    for module, package in NEEDED.items():
        if importlib.util.find_spec(module) is None:
            raise Skipped(f"not installed: pip install {package}")
    model = Path(directory, MODEL)
    write_model(model)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    commands = (
        [
            "dynamo.mocker",
            "--model-path",
            str(model),
            "--model-name",
            MODEL,
            "--speedup-ratio",
            str(SPEED_UP),
        ],
        [
            "dynamo.frontend",
            "--http-host",
            "127.0.0.1",
            "--http-port",
            str(port),
            "--router-mode",
            "round-robin",
        ],
    )
    processes = []
    for command in commands:
        process = subprocess.Popen(
            [sys.executable, "-m", *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        servers.callback(process.wait)
        servers.callback(process.kill)
        processes.append(process)
    result: Values = run(_when_ready(port, seconds, processes))
    return result


async def _when_ready(port: int, seconds: float, processes: list[subprocess.Popen[bytes]]) -> Values:
    request = request_of(MODEL, tokens=3, ignore_eos=True)
    deadline = monotonic() + START_LIMIT_S
    while True:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                await answer(reader, writer, request)
                break
            finally:
                writer.close()
        except (OSError, RuntimeError, asyncio.IncompleteReadError):
            if monotonic() > deadline or any(process.poll() is not None for process in processes):
                raise RuntimeError("the frontend and the mocker did not start") from None
            await asyncio.sleep(0.2)
    return {
        "http_32": (await events_per_second(port, request_of(MODEL, ignore_eos=True), seconds), "events/s")
    }
