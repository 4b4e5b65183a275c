"""Three processes in a row: a router streams from two workers and passes their items on.

Leaving a stream early stops the handler at the other end, through all processes in between.
"""

import asyncio
from collections.abc import AsyncIterator

from callboard import Actor, Ref, System


class Worker(Actor):
    concurrency = 8

    def __init__(self) -> None:
        self.cancelled = 0

    async def tokens(self, prompt: str) -> AsyncIterator[str]:
        try:
            for number in range(1_000_000):
                yield f"{prompt}-{number}"
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled += 1
            raise

    async def count_cancelled(self) -> int:
        return self.cancelled


class Router(Actor):
    concurrency = 100

    def __init__(self, workers: Ref[Worker]) -> None:
        self.workers = workers  # the component: each stream goes to one of its instances in turn

    async def tokens(self, prompt: str) -> AsyncIterator[str]:
        async for token in self.workers.stream(Worker.tokens, prompt):
            yield token


async def main() -> None:
    async with System() as system:
        workers = await system.spawn(Worker, replicas=2, processes=2)
        router = await system.spawn(Router, workers)
        for prompt in ("a", "b"):
            async with router.stream(Router.tokens, prompt) as stream:
                async for token in stream:
                    print(token)
                    if token.endswith("-2"):
                        break
        stopped = 0
        while stopped < 2:  # the news travels through the router
            stopped = sum([await one.ask(Worker.count_cancelled) for one in workers.instances()])
        print(f"{stopped} workers were told to stop")


if __name__ == "__main__":
    asyncio.run(main())
