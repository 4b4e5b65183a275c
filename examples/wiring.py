"""The actors of wiring.toml. Start them with `callboard up examples/wiring.toml`, then, in another terminal:

callboard call -n wiring counter.add '[5]'
callboard call -n wiring report.line
callboard ps -n wiring
"""

from callboard import Actor, Ref


class Counter(Actor):
    def __init__(self, start: int = 0) -> None:
        self.total = start

    async def add(self, number: int) -> int:
        self.total += number
        return self.total

    async def current(self) -> int:
        return self.total


class Report(Actor):
    def __init__(self, counter: Ref[Counter], unit: str) -> None:
        self.counter, self.unit = counter, unit

    async def line(self) -> str:
        return f"{await self.counter.ask(Counter.current)} {self.unit}"
