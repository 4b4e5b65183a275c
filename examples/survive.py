"""A process is killed: what waited for it fails at once and says whether it ran, and the actor comes back."""

import asyncio
import os

from callboard import Actor, ActorUnavailable, OnDown, System, idempotent


class Worker(Actor):
    concurrency = 10

    async def wait(self) -> None:
        await asyncio.Event().wait()

    @idempotent  # may run twice for one ask, so it is retried when the process dies
    async def pid(self) -> int:
        return os.getpid()


async def main() -> None:
    async with System() as system:
        worker = await system.spawn(Worker)
        before = await worker.ask(Worker.pid)

        waiting = asyncio.create_task(worker.ask(Worker.wait))
        await asyncio.sleep(0)
        await worker.ask(Worker.pid)  # in order: the first message has arrived
        await system.kill("worker.0")
        try:
            await waiting
        except ActorUnavailable as error:
            print(f"failed, executed={error.executed.value}")

        patient = worker.options(on_down=OnDown.WAIT)  # wait for the next incarnation instead of failing
        after = await patient.ask(Worker.pid)
        print("back in another process" if after != before else "the same process?")
        print(f"restarts: {system.status().actor('worker.0').restarts}")


if __name__ == "__main__":
    asyncio.run(main())
