"""An actor in another process: ask it, tell it, stream from it."""

import asyncio
from collections.abc import AsyncIterator

from callboard import Actor, System


class Greeter(Actor):
    def __init__(self, greeting: str) -> None:
        self.greeting = greeting
        self.greeted: list[str] = []

    async def greet(self, name: str) -> str:
        self.greeted.append(name)
        return f"{self.greeting}, {name}!"

    async def remember(self, name: str) -> None:
        self.greeted.append(name)

    async def names(self) -> AsyncIterator[str]:
        for name in self.greeted:
            yield name


async def main() -> None:
    async with System() as system:
        greeter = await system.spawn(Greeter, "Hello")
        print(await greeter.ask(Greeter.greet, "world"))  # wait for the answer: a str, the type checker knows
        greeter.tell(Greeter.remember, "nobody")  # send and go on
        async for name in greeter.stream(Greeter.names):  # items as they are yielded
            print(name)


if __name__ == "__main__":
    asyncio.run(main())
