"""A fast sender and a slow actor: back-pressure instead of memory, deadlines instead of waiting for ever."""

import asyncio

from callboard import Actor, DeadlineExceeded, MailboxFull, MailboxPolicy, System


class Slow(Actor):
    def __init__(self) -> None:
        self.handled = 0

    async def work(self, number: int) -> None:
        await asyncio.sleep(0.0001)
        self.handled += 1

    async def count(self) -> int:
        return self.handled


class Gate(Actor):
    """Does not answer."""

    async def hold(self) -> None:
        await asyncio.Event().wait()


async def main() -> None:
    async with System() as system:
        slow = await system.spawn(Slow, mailbox=MailboxPolicy(messages=10))
        accepted = 0
        try:
            while True:
                slow.tell(Slow.work, accepted)  # accepted, or an error: never dropped in silence
                accepted += 1
        except MailboxFull:
            print("the mailbox and what may wait for it are full")
        for number in range(1000):
            await slow.tell_wait(Slow.work, number)  # waits for room
        print(f"all handled: {await slow.ask(Slow.count) == accepted + 1000}")

        gate = await system.spawn(Gate)
        try:
            await gate.options(deadline_s=0.05).ask(Gate.hold)
        except DeadlineExceeded as error:
            print(f"too slow, executed={error.executed.value}")


if __name__ == "__main__":
    asyncio.run(main())
