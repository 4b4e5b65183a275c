"""Who shares an attempt to dial, and what those who wait for it are told."""

import asyncio

import pytest

from callboard.transports.base import Identity
from callboard.transports.dialler import Dialler
from callboard.transports.errors import Closed, HandshakeRefused, NoRoute

ADDRESS = "tcp://127.0.0.1:1"


class Link:
    """As much of a link as a dialler looks at."""

    def __init__(self, node):
        self.peer = Identity(node=node, name=node, namespace="n")
        self.is_up = True


class Network:
    """An address at which one node answers as soon as the test says so."""

    def __init__(self, node="a"):
        self.node = node
        self.links = {}
        self.dialled = []
        self.answers = asyncio.Event()
        self.dialler = Dialler(self.links.get, self.dial)

    async def dial(self, address, node):
        self.dialled.append(node)
        await self.answers.wait()
        if node not in (None, self.node):
            raise HandshakeRefused(address, f"{node} was expected")
        link = self.links[address] = Link(self.node)
        return link

    def callers(self, *nodes):
        return [asyncio.create_task(self.dialler.connect(ADDRESS, node)) for node in nodes]


async def results(callers):
    return await asyncio.gather(*callers, return_exceptions=True)


async def test_callers_of_the_same_node_share_one_attempt():
    network = Network()
    callers = network.callers("a", "a", None)
    await asyncio.sleep(0)
    network.answers.set()
    assert await results(callers) == [network.links[ADDRESS]] * 3
    assert network.dialled == ["a"]


async def test_a_caller_of_another_node_waits_and_tries_for_itself():
    network = Network()
    callers = network.callers("b", "a", "b", None)
    await asyncio.sleep(0)
    network.answers.set()
    wrong, right, wrong_too, any_node = await results(callers)
    assert isinstance(wrong, HandshakeRefused)
    assert isinstance(wrong_too, HandshakeRefused)
    assert right is any_node is network.links[ADDRESS]
    assert network.dialled in (["b", "a"], ["b", None])


async def test_a_link_that_is_up_is_found_without_dialling():
    network = Network()
    link = network.links[ADDRESS] = Link("a")
    assert await network.dialler.connect(ADDRESS, None) is link
    assert await network.dialler.connect(ADDRESS, "a") is link
    assert network.dialled == []


async def test_a_link_that_is_down_before_its_callers_run_is_no_route():
    """They would wait for a link_down that has been."""
    network = Network()

    async def dial(address, node):
        link = Link("a")
        asyncio.get_running_loop().call_soon(setattr, link, "is_up", False)
        return link

    network.dialler = Dialler(network.links.get, dial)
    with pytest.raises(NoRoute, match="broke as soon as it was up"):
        await network.dialler.connect(ADDRESS, None)


async def test_closing_tells_all_who_wait_and_all_who_come():
    network = Network()
    callers = network.callers("a", "b", None)
    await asyncio.sleep(0)
    await network.dialler.close()
    assert [type(error) for error in await results(callers)] == [Closed] * 3
    with pytest.raises(Closed):
        await network.dialler.connect(ADDRESS, None)
    assert len(network.dialler) == 0


async def test_a_caller_that_is_cancelled_is_cancelled_and_not_told_that_it_closed():
    network = Network()
    (caller,) = network.callers("a")
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    await network.dialler.close()


async def test_an_attempt_that_fails_is_over_and_the_next_caller_tries_again():
    network = Network(node="b")
    network.answers.set()
    for _ in range(2):
        with pytest.raises(HandshakeRefused):
            await network.dialler.connect(ADDRESS, "a")
    assert network.dialled == ["a", "a"]
    assert "idle" in repr(network.dialler)
