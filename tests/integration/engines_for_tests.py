"""An engine whose answers end when the test says so, and workers in processes of their own around it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

from callboard.serving import Worker
from callboard.serving.protocol import (
    Delta,
    Finish,
    FinishReason,
    GenerateRequest,
    Load,
    ModelInfo,
    Piece,
    Token,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GatedSettings:
    gate: str
    """Nothing passes until this file exists."""
    model: str = "gated"
    """"pid" stands for the pid of the process: another one after each restart."""


class GatedEngine:
    """Streams "<pid>", then as many "." as ``max_tokens`` says; before one of them it waits for the gate.

    An answer that another has begun goes on with the dots that are missing.

    The prompt says where: "open" behind the pid, "silent" before it, "through" nowhere, "fail" raises instead.
    """

    Settings = GatedSettings

    def __init__(self, settings: GatedSettings) -> None:
        self.settings = settings
        self.running = self.finished = self.cancelled = 0

    async def start(self) -> None:
        pass

    async def close(self) -> None:
        pass

    def describe(self) -> ModelInfo:
        model = str(os.getpid()) if self.settings.model == "pid" else self.settings.model
        return ModelInfo(model=model, engine="gated", context_tokens=1000)

    def load(self) -> Load:
        return Load(
            running=self.running, finished=self.finished, cancelled=self.cancelled, failed=0, tokens=0
        )

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Piece, None]:
        prompt = request.prompt or request.messages[-1].content
        if prompt == "fail":
            raise RuntimeError("the engine broke")
        count = request.max_tokens or 3 - max(0, len(request.done) - 1)
        self.running += 1
        ended = False
        try:
            if prompt == "silent":
                await self.passed()
            if not request.done:
                yield str(os.getpid())
            if prompt == "open":
                await self.passed()
            for _ in range(count):
                yield "."
            ended = True
        finally:
            self.running -= 1
            if ended:
                self.finished += 1
            else:
                self.cancelled += 1
        yield Finish(reason=FinishReason.STOP, prompt_tokens=1, completion_tokens=count + 1)

    async def passed(self) -> None:
        gate = Path(self.settings.gate)
        while not gate.exists():  # noqa: ASYNC110 (it is opened by another process)
            await asyncio.sleep(0.01)


class NarrowWorker(Worker):
    """Answers one request at a time."""

    concurrency = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolSettings:
    model: str = "tools"


class ToolEngine(GatedEngine):
    """Calls the first tool that it is given, with the last message as its argument; says "yes" without tools."""

    Settings = ToolSettings  # type: ignore[assignment]

    def __init__(self, settings: ToolSettings) -> None:
        super().__init__(GatedSettings(gate="", model=settings.model))

    def describe(self) -> ModelInfo:
        return ModelInfo(
            model="tools", engine="tools", context_tokens=1000, takes_extra=True, gives_logprobs=True
        )

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Piece, None]:
        reason, last = FinishReason.STOP, request.messages[-1]
        if last.role == "tool":
            yield f"{last.fields['tool_call_id']} gave {last.content}"
        elif request.logprobs is not None:
            for text in ("ye", "s"):
                yield Token(7, text, -0.25, [(7, text, -0.25), (8, "no", -1.5)][: request.logprobs])
        elif tools := request.extra.get("tools"):
            reason = FinishReason.TOOL_CALLS
            function = {"name": tools[0]["function"]["name"], "arguments": ""}
            yield Delta(
                {"tool_calls": [{"index": 0, "id": "call-1", "type": "function", "function": function}]}
            )
            for part in ('{"said": "', last.content, '"}'):
                yield Delta({"tool_calls": [{"index": 0, "function": {"arguments": part}}]})
        else:
            yield "yes"
        yield Finish(reason=reason, prompt_tokens=1, completion_tokens=2)
