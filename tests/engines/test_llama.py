"""A real llama.cpp (with a tiny model made here) behind two workers. ``make test-llama`` makes the environment.

Two servers: ``native`` is llama.cpp's own, which the package xllamacpp carries; ``python`` is that of llama-cpp-python.
Without ``CALLBOARD_LLAMA_PYTHON``, a Python that has gguf and one of them, the tests are skipped.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import openai
import pytest

from callboard.serving import Worker
from callboard.serving.protocol import Load
from callboard.supervisor.system import System
from callboard.testing import tiny_gguf
from callboard.testing.cluster import Cluster

from .servers import client_of, environment, free_ports, frozen, read, running

PYTHON = os.environ.get("CALLBOARD_LLAMA_PYTHON", "")
READY_S = 120.0
LONG = 600
ALL = 3500
"""More tokens than any other test asks for."""
PACKAGES = {"native": "xllamacpp", "python": "llama_cpp.server"}

pytestmark = [
    pytest.mark.skipif(
        not PYTHON, reason="CALLBOARD_LLAMA_PYTHON names no Python with llama.cpp; make test-llama"
    ),
    pytest.mark.timeout(300),
]

CONFIG = """
namespace = "llama"

[actor.frontend]
class = "callboard.serving:Frontend"
args = {{ port = 8000, router = {{ ref = "router" }} }}

[actor.router]
class = "callboard.serving:Router"
args = {{ workers = {{ ref = "worker" }} }}

[actor.worker]
class = "callboard.serving:Worker"
replicas = 2
[actor.worker.args.engine]
kind = "openai"
url = "http://127.0.0.1:{port}"
model = "tiny"
continuation = "prefill"
"""


@dataclass(frozen=True)
class Llama:
    """A running server."""

    kind: str
    port: int
    log: Path
    group: int = 0
    """Of its processes."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def is_up(self) -> bool:
        """True if it serves its model."""
        try:
            return b"tiny" in read(f"{self.url}/v1/models")
        except OSError:
            return False

    def aborted(self) -> int:
        """How many answers it has left unfinished because their reader was gone; for ``python``."""
        return self.log.read_text(errors="replace").count("Disconnected from client")

    def metric(self, name: str) -> float:
        """A number of its own; for ``native``."""
        (value,) = re.findall(rf"^llamacpp:{name} (\S+)$", read(f"{self.url}/metrics").decode(), re.MULTILINE)
        return float(value)


def command_of(kind: str, model: Path, port: int) -> list[str]:
    if kind == "native":
        return [PYTHON, str(Path(__file__).with_name("native_llama_server.py")), str(model), str(port)]
    return [
        PYTHON, "-m", PACKAGES[kind], "--host", "127.0.0.1", "--port", str(port), "--model", str(model),
        "--model_alias", "tiny", "--n_ctx", "4096", "--n_threads", "1", "--n_threads_batch", "1",
        "--type_k", "0", "--type_v", "0", "--interrupt_requests", "false",
    ]  # fmt: skip


@pytest.fixture(scope="module", params=PACKAGES, name="llama")
def started(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Llama]:
    kind = request.param
    env = environment({"PYTHONUNBUFFERED": "1"})
    found = subprocess.run(
        [PYTHON, "-c", f"import {PACKAGES[kind]}"], check=False, capture_output=True, env=env
    )
    if found.returncode:
        pytest.skip(f"{PYTHON} has no {PACKAGES[kind]}")
    directory = tmp_path_factory.mktemp("llama")
    model = directory / "tiny.gguf"
    # The other one closes every message: a begun answer would be followed by a second one, not continued.
    template = "closed" if kind == "native" else "open"
    subprocess.run([PYTHON, tiny_gguf.__file__, str(model), "1", template], check=True, env=env)
    (port,) = free_ports(1)
    llama = Llama(kind, port, directory / "log")
    with running(command_of(kind, model, port), env, llama.log, llama.is_up, READY_S) as group:
        yield replace(llama, group=group)


async def until(true: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(30):
        while not await true():  # noqa: ASYNC110 (it is another process)
            await asyncio.sleep(0.01)


@asynccontextmanager
async def served(cluster: Cluster, llama: Llama) -> AsyncIterator[tuple[System, openai.AsyncOpenAI]]:
    system = await cluster.up(CONFIG.format(port=llama.port), plane="tcp")
    async with client_of(system) as client:
        yield system, client


async def begin(client: openai.AsyncOpenAI, chat: bool, prompt: str, tokens: int, **more: Any) -> Any:
    """A stream of greedy choices."""
    fields: dict[str, Any] = {"model": "tiny", "max_tokens": tokens, "temperature": 0, "stream": True, **more}
    # By itself the server of llama-cpp-python takes 1.1, and counts only what this request has made.
    fields["extra_body"] = {"repeat_penalty": 1.0}
    if chat:
        return await client.chat.completions.create(messages=[{"role": "user", "content": prompt}], **fields)
    return await client.completions.create(prompt=prompt, **fields)


def text_of(chunk: Any) -> str:
    return "".join(
        (choice.delta.content if hasattr(choice, "delta") else choice.text) or "" for choice in chunk.choices
    )


def joined(chunks: list[Any]) -> tuple[str, str]:
    """Text and finish reason."""
    (reason,) = (choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason)
    return "".join(map(text_of, chunks)), reason


async def answer(
    client: openai.AsyncOpenAI, chat: bool, prompt: str, tokens: int, **more: Any
) -> tuple[str, str]:
    return joined([chunk async for chunk in await begin(client, chat, prompt, tokens, **more)])


async def loads(system: System) -> list[Load]:
    return [await system.ref(f"worker.{index}", Worker).ask(Worker.load) for index in range(2)]


@dataclass(frozen=True)
class Caught:
    """An answer that is being made, by a worker before a server that stands still."""

    stream: Any
    chunks: list[Any]
    """What the client has of it."""
    worker: int
    loads: list[Load]
    """Of all workers."""


@asynccontextmanager
async def in_the_middle(
    system: System, llama: Llama, ask: Callable[[], Awaitable[Any]]
) -> AsyncIterator[Caught]:
    """Ask until an answer is caught in the making: on a busy machine some are over when their begin is seen."""
    async with asyncio.timeout(120):
        while True:
            stream = await ask()
            chunks = [await anext(stream)]
            with frozen(llama.group):
                now = await loads(system)
                if running := [index for index, load in enumerate(now) if load.running]:
                    yield Caught(stream, chunks, running[0], now)
                    return
            await stream.close()


both = pytest.mark.parametrize("chat", [True, False], ids=["chat", "completion"])


@both
async def test_what_the_client_gets_is_what_the_server_says(
    cluster: Cluster, llama: Llama, chat: bool
) -> None:
    async with (
        served(cluster, llama) as (_, client),
        openai.AsyncOpenAI(base_url=f"{llama.url}/v1", api_key="none", max_retries=0) as direct,
    ):
        text, reason = await answer(direct, chat, "hello there", 40)
        assert await answer(client, chat, "hello there", 40) == (text, reason) == (text, "length")
        assert len(text) == 40
        stream = await begin(client, chat, "hello there", 25, stream_options={"include_usage": True})
        chunks = [chunk async for chunk in stream]
        assert "".join(map(text_of, chunks)) == text[:25]
        usage = chunks[-1].usage
        assert usage.completion_tokens == 25
        # The server of llama-cpp-python counts nothing in a stream: what is known is what came.
        prompt_tokens = len("hello there") + 3 * chat
        assert usage.prompt_tokens == (prompt_tokens if llama.kind == "native" else 0)


@both
async def test_a_stop_string_ends_the_answer_before_it(cluster: Cluster, llama: Llama, chat: bool) -> None:
    async with served(cluster, llama) as (_, client):
        text, _ = await answer(client, chat, "hello there", 60)
        stop = text[30:34]
        assert await answer(client, chat, "hello there", 60, stop=["not in it", stop]) == (
            text[: text.index(stop)],
            "stop",
        )


async def test_a_client_that_leaves_ends_the_answer_in_the_server(cluster: Cluster, llama: Llama) -> None:
    async def is_cancelled() -> bool:
        found = await loads(system)
        return (sum(load.running for load in found), sum(load.cancelled for load in found)) == (0, 1)

    async def is_over() -> bool:
        if llama.kind == "python":
            return llama.aborted() == before + 1
        return await asyncio.to_thread(llama.metric, "requests_processing") == 0

    async with served(cluster, llama) as (system, client):
        before = llama.aborted()
        async with in_the_middle(system, llama, lambda: begin(client, False, "who leaves", ALL)) as caught:
            await caught.stream.close()
            await until(is_cancelled)
        await until(is_over)
        if llama.kind == "native":
            assert await asyncio.to_thread(llama.metric, "n_tokens_max") < ALL


@both
async def test_an_answer_survives_the_death_of_its_worker(cluster: Cluster, llama: Llama, chat: bool) -> None:
    async with served(cluster, llama) as (system, client):
        whole = await answer(client, chat, "a long story", LONG)
        assert len(whole[0]) == LONG
        async with in_the_middle(system, llama, lambda: begin(client, chat, "a long story", LONG)) as caught:
            await system.kill(f"worker.{caught.worker}")
        assert joined([*caught.chunks, *[chunk async for chunk in caught.stream]]) == whole
        other = 1 - caught.worker
        after = await system.ref(f"worker.{other}", Worker).ask(Worker.load)
        assert after.finished == caught.loads[other].finished + 1
        assert 0 < after.tokens - caught.loads[other].tokens < LONG
