"""Several answers to one request (``n``): as many generations side by side, whose pieces come as one stream."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from msgspec.structs import replace

from .protocol import Finish, FinishReason, GenerateRequest, Piece

QUEUED = 64
"""Batches that wait for the client, of all choices together: beyond, the generations wait."""

Generate = Callable[[GenerateRequest], AsyncGenerator[list[Piece], None]]


def requests_of(request: GenerateRequest, count: int) -> list[GenerateRequest]:
    """Return a request per choice; each but the first has a seed of its own: after the request's, or any."""
    first = random.getrandbits(62) if request.seed is None else request.seed
    return [
        request
        if index == 0
        else replace(request, request_id=f"{request.request_id}-{index}", seed=(first + index) % 2**63)
        for index in range(count)
    ]


async def side_by_side(
    generate: Generate, requests: list[GenerateRequest]
) -> AsyncGenerator[tuple[int, list[Piece]], None]:
    """Yield batches with the number of their choice. The first failure ends all of them, and is raised."""
    queue: asyncio.Queue[tuple[int, list[Piece]] | Exception | None] = asyncio.Queue(QUEUED)

    async def read(index: int, request: GenerateRequest) -> None:
        try:
            async with aclosing(generate(request)) as batches:
                async for batch in batches:
                    await queue.put((index, batch))
            await queue.put(None)
        except Exception as error:
            await queue.put(error)

    tasks = [asyncio.create_task(read(index, request)) for index, request in enumerate(requests)]
    try:
        left = len(tasks)
        while left:
            item = await queue.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                left -= 1
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def together(finishes: list[Finish]) -> Finish:
    """Return the counts of all choices: the prompt once, the answers added up."""
    return Finish(
        reason=FinishReason.STOP,
        prompt_tokens=finishes[0].prompt_tokens,
        completion_tokens=sum(finish.completion_tokens for finish in finishes),
        cached_tokens=finishes[0].cached_tokens,
    )
