"""What clients of the serving application see when processes die, stop, or cannot start."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest

from callboard.actors.policy import OnDown
from callboard.actors.ref import Ref
from callboard.serving import Router, Worker
from callboard.serving.errors import UnknownModel
from callboard.serving.protocol import Finish, GenerateRequest
from callboard.supervisor.errors import StartupFailed
from callboard.supervisor.system import System
from callboard.testing.cluster import Cluster
from callboard.transports.errors import ConfigError

from .http_for_tests import http, is_closed, parsed, request, send, url_of
from .test_serving import HELLO, client_of, config, ends, gated, load_of
from .waiting import until

pytestmark = pytest.mark.parametrize("cluster", ["tcp", "nats"], indirect=True)

STREAMS = 32
"""Of each kind, when a worker is killed: with a token, and without one."""


async def test_killing_a_worker_is_seen_by_no_client(cluster: Cluster, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    system = await cluster.up(config(router='mode = "least-loaded"', engine=gated(gate)))
    victim = str(system.status().process("worker.0").pid)
    async with client_of(system) as client:
        ask: dict[str, Any] = {"model": "gated", "stream": True}
        begun = [await client.completions.create(**ask, prompt="open") for _ in range(STREAMS)]
        homes = [(await anext(stream)).choices[0].text for stream in begun]
        assert homes.count(victim) == STREAMS // 2
        silent = [
            asyncio.create_task(text_of(client.completions.create(**ask, prompt="silent")))
            for _ in range(STREAMS)
        ]
        await until(lambda: outstanding(system, 2 * STREAMS))

        await system.kill("worker.0")
        gate.touch()
        # Those that had begun there go on elsewhere, after what their clients have: of 16 tokens the first is the pid.
        for stream, home in zip(begun, homes, strict=True):
            assert await rest_of(stream) == "." * (15 if home == victim else 16)
        texts = await asyncio.gather(*silent)
        assert victim not in {text.rstrip(".") for text in texts}
        assert all(text.endswith("." * 16) for text in texts)

        await system.wait_ready(20)
        await until(lambda: serves_again(system, client))
    assert (await load_of(system, "worker.0")).finished >= 1


async def rest_of(stream: Any) -> str:
    """The text that comes until a regular end."""
    *texts, last = [chunk async for chunk in stream]
    assert last.choices[0].finish_reason == "stop"
    return "".join(chunk.choices[0].text for chunk in texts)


async def text_of(opening: Any) -> str:
    return "".join([chunk.choices[0].text async for chunk in await opening])


async def outstanding(system: System, count: int) -> bool:
    router = system.ref("router", Router).options(on_down=OnDown.WAIT)
    return sum((await router.ask(Router.load)).values()) == count


async def serves_again(system: System, client: openai.AsyncOpenAI) -> bool:
    await client.completions.create(model="gated", prompt="through")
    return (await load_of(system, "worker.0")).finished > 0


async def test_a_router_tries_another_worker_by_itself(cluster: Cluster, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    system = await cluster.up(config(engine=gated(gate)))
    router = system.ref("router", Router).options(retries=0)
    ask = GenerateRequest(request_id="r", model="gated", prompt="silent", max_tokens=1)
    stream = router.stream(Router.generate, ask)
    first = asyncio.ensure_future(anext(stream))
    await until(lambda: outstanding(system, 1))
    (home,) = [name for name, count in (await router.ask(Router.load)).items() if count]
    (other,) = {"worker.0", "worker.1"} - {home}
    await system.kill(home)
    gate.touch()
    assert await first == str(system.status().process(other).pid)
    assert [type(piece) for piece in [piece async for piece in stream]] == [str, Finish]


async def test_the_first_request_after_the_only_worker_came_back_is_answered(cluster: Cluster) -> None:
    system = await cluster.up(config(workers=1))
    router = system.ref("router", Router)
    async with client_of(system) as client:
        await system.kill("worker.0")
        await until(lambda: is_up(router, "worker.0", up=False))
        await until(lambda: is_up(router, "worker.0"))
        assert (await client.completions.create(model="simulated", prompt="x")).choices


async def is_up(router: Ref[Router], name: str, *, up: bool = True) -> bool:
    return (name in await router.ask(Router.load)) is up


async def test_a_worker_that_comes_back_with_another_model_is_asked_for_that_one(
    cluster: Cluster, tmp_path: Path
) -> None:
    engine = f'{{ kind = "engines_for_tests:GatedEngine", gate = "{tmp_path}/gate", model = "pid" }}'
    system = await cluster.up(config(router="wait_s = 0.5", workers=1, engine=engine))
    async with client_of(system) as client:
        (old,) = [model.id async for model in client.models.list()]
        assert (await client.completions.create(model=old, prompt="through")).choices
        await system.kill("worker.0")
        await system.wait_ready(20)
        new = str(system.status().process("worker.0").pid)
        await until(lambda: is_up(system.ref("router", Router), "worker.0"))
        assert (await client.completions.create(model=new, prompt="through")).choices
        with pytest.raises(openai.APIStatusError) as caught:
            await client.completions.create(model=old, prompt="through")
        assert caught.value.code in ("model_not_found", "no_workers")


async def test_a_worker_refuses_a_model_that_it_does_not_serve(cluster: Cluster) -> None:
    system = await cluster.up(config(workers=1))
    ask = GenerateRequest(request_id="r", model="simulatd", prompt="x")
    with pytest.raises(UnknownModel, match='did you mean "simulated"'):
        await anext(system.ref("worker", Worker).stream(Worker.generate, ask))


async def test_a_full_mailbox_sends_a_request_to_another_worker_or_back(
    cluster: Cluster, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    text = config(engine=gated(gate), restart="mailbox = { messages = 1 }")
    text = text.replace("callboard.serving:Worker", "engines_for_tests:NarrowWorker")
    # In one process the router sees a full mailbox as it is; between processes its message would wait.
    system = await cluster.up(f'{text}\n[process.all]\nactors = ["frontend", "router", "worker"]\n')
    async with client_of(system) as client:
        body = {"model": "gated", "prompt": "open"}
        asked = []
        for count in range(1, 5):  # each of two workers answers one and holds one
            asked.append(asyncio.create_task(client.completions.create(**body)))  # type: ignore[call-overload]
            await until(lambda count=count: outstanding(system, count))  # type: ignore[misc]
        seen = await http(url_of(system), "POST", "/v1/completions", body)
        assert (seen.status, seen.error["code"]) == (529, "overloaded")
        gate.touch()
        assert all(answer.choices for answer in await asyncio.gather(*asked))


async def test_an_answer_in_one_piece_says_that_it_was_cut_off(cluster: Cluster, tmp_path: Path) -> None:
    engine = gated(tmp_path / "gate")
    system = await cluster.up(config(router="migration_limit = 0", workers=1, engine=engine))
    async with client_of(system) as client:
        asking = asyncio.create_task(client.completions.create(model="gated", prompt="open"))
        await until(lambda: outstanding(system, 1))
        await until(lambda: running(system))
        await system.kill("worker.0")
        with pytest.raises(openai.InternalServerError) as caught:
            await asking
    assert caught.value.status_code == 503
    assert caught.value.response.headers["retry-after"] == "1"


async def test_an_answer_waits_for_the_successor_of_its_only_worker(cluster: Cluster, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    system = await cluster.up(config(router="wait_s = 30", workers=1, engine=gated(gate)))
    async with client_of(system) as client:
        ask: dict[str, Any] = {"model": "gated", "prompt": "open", "stream": True}
        stream = await client.completions.create(**ask)
        assert (await anext(stream)).choices[0].text == str(system.status().process("worker.0").pid)
        await system.kill("worker.0")
        gate.touch()
        assert await rest_of(stream) == "." * 15  # of 16 tokens the first is the pid


async def running(system: System) -> bool:
    return (await load_of(system, "worker.0")).running > 0


async def test_without_workers_requests_are_refused_with_the_reason(cluster: Cluster) -> None:
    policy = 'restart = { policy = "temporary" }'
    system = await cluster.up(config(router="wait_s = 0.2", workers=1, restart=policy))
    url = url_of(system)
    async with client_of(system) as client:
        await client.completions.create(model="simulated", prompt="x")
        await system.kill("worker.0")
        await until(lambda: has_status(url, "/health", 503))
        for stream in (False, True):
            with pytest.raises(openai.InternalServerError, match="no instance of worker") as caught:
                await client.completions.create(model="simulated", prompt="x", stream=stream)
            assert (caught.value.status_code, caught.value.code) == (503, "no_workers")
            assert caught.value.response.headers["retry-after"] == "1"
        with pytest.raises(openai.NotFoundError):
            await client.completions.create(model="another", prompt="x")
    seen = await http(url, "GET", "/health")
    assert (seen.status, seen.headers["retry-after"]) == (503, "1")
    assert seen.json() == {"status": "unavailable", "reason": "no worker is up"}
    assert (await http(url, "GET", "/live")).status == 200


async def has_status(url: str, path: str, status: int) -> bool:
    return (await http(url, "GET", path)).status == status


async def test_requests_outlive_their_router_with_a_token_without_and_while_it_is_away(
    cluster: Cluster, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    system = await cluster.up(config(engine=gated(gate)))
    async with client_of(system) as client:
        begun = await client.completions.create(model="gated", prompt="open", stream=True)
        await anext(begun)
        silent = asyncio.create_task(client.completions.create(model="gated", prompt="silent"))
        await until(lambda: outstanding(system, 2))
        await system.kill("router.0")
        new = [asyncio.create_task(client.completions.create(model="gated", prompt="silent")) for _ in "ab"]
        await until(lambda: outstanding(system, 4))  # at the next incarnation
        gate.touch()
        assert await rest_of(begun) == "." * 15  # of 16 tokens the first came before
        assert [(await one).choices[0].finish_reason for one in (silent, *new)] == ["stop"] * 3


async def test_without_a_router_requests_are_refused_and_none_waits_for_ever(cluster: Cluster) -> None:
    text = "[network]\nrequest_timeout_s = 1.0\n" + config(
        engine='{ kind = "simulated", first_token_ms = 60000 }'
    )
    system = await cluster.up(
        text.replace("[actor.worker]", 'restart = { policy = "temporary" }\n\n[actor.worker]')
    )
    url = url_of(system)
    body = {"model": "simulated", "prompt": "x"}
    reader, writer = await send(url, request("POST", "/v1/completions", body))
    await until(lambda: outstanding(system, 1))
    await system.kill("router.0")
    await until(lambda: has_status(url, "/health", 503))
    for seen in (await http(url, "POST", "/v1/completions", body), parsed(await reader.read())):
        assert (seen.status, seen.headers["retry-after"]) == (503, "1")
        assert seen.error["code"] == "unavailable"
        assert re.fullmatch(r"router(\.0)? is not available", seen.error["message"])
    writer.close()
    assert "router" in (await http(url, "GET", "/health")).json()["reason"]
    assert (await http(url, "GET", "/v1/models")).status == 503
    assert (await http(url, "GET", "/live")).status == 200


async def test_what_an_engine_raises_is_an_error_of_this_request_alone(
    cluster: Cluster, tmp_path: Path
) -> None:
    system = await cluster.up(config(workers=1, engine=gated(tmp_path / "gate")))
    async with client_of(system) as client:
        for stream in (False, True):
            with pytest.raises(openai.InternalServerError, match="the engine broke") as caught:
                await client.completions.create(model="gated", prompt="fail", stream=stream)
            assert (caught.value.status_code, caught.value.code) == (500, "internal_error")
            assert "Traceback" not in caught.value.response.text
        assert (await client.completions.create(model="gated", prompt="through")).choices
    assert "the engine broke" in system.logs("frontend.0")


async def test_a_killed_frontend_is_back_on_its_port(cluster: Cluster) -> None:
    with free_port() as port:
        pass
    text = config().replace("port = 8000", f"port = {port}")
    system = await cluster.up(text, fixed_ports=True)
    assert url_of(system) == f"http://127.0.0.1:{port}"
    async with client_of(system) as client:
        stream = await client.completions.create(model="simulated", prompt="x", stream=True)
        assert await stream_text(stream)
        await system.kill("frontend.0")
        await system.wait_ready(20)
        stream = await client.completions.create(model="simulated", prompt="x", stream=True)
        assert await stream_text(stream)


async def stream_text(stream: Any) -> str:
    return "".join([chunk.choices[0].text async for chunk in stream])


@contextmanager
def free_port(*, taken: bool = False) -> Iterator[int]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        if taken:
            sock.listen()
        yield sock.getsockname()[1]


async def test_a_port_that_is_taken_is_an_error_at_the_start_with_the_ways_out(cluster: Cluster) -> None:
    with free_port(taken=True) as port:
        text = config().replace("port = 8000", f"port = {port}")
        with pytest.raises(StartupFailed) as caught:
            await cluster.up(text, fixed_ports=True)
    assert caught.value.place == "frontend.0"
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in caught.value.why
    assert "port = 0 for a free one" in caught.value.why


async def test_a_host_that_is_not_loopback_is_refused_with_the_reason(cluster: Cluster) -> None:
    with pytest.raises(ConfigError, match=r"not loopback.* there are no keys.* set insecure = true"):
        await cluster.up(config(frontend='host = "0.0.0.0", max_requests = 0'))


async def test_a_mode_that_does_not_exist_is_refused_with_a_suggestion(cluster: Cluster) -> None:
    with pytest.raises(ConfigError, match='did you mean "round-robin"'):
        await cluster.up(config(router='mode = "round_robin"'))


# -- the stop


async def test_a_stop_lets_running_answers_finish_and_takes_no_new_ones(
    cluster: Cluster, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    system = await cluster.up(config(engine=gated(gate)))
    url = url_of(system)
    idle, idle_writer = await send(url, b"")
    async with client_of(system) as client:
        ask: dict[str, Any] = {"model": "gated", "prompt": "open"}
        stream = await client.completions.create(**ask, stream=True)
        await anext(stream)
        whole = asyncio.create_task(client.completions.create(**ask))
        await until(lambda: outstanding(system, 2))
        stopping = asyncio.create_task(system.stop(30))
        assert await idle.read() == b""  # a connection without a request is closed at once
        idle_writer.close()
        await until(lambda: is_closed(url))
        assert not stopping.done()
        gate.touch()
        assert await ends(stream)
        assert (await whole).choices[0].finish_reason == "stop"
        await stopping


async def test_what_is_not_done_when_the_grace_is_over_is_cut_off_with_an_error(
    cluster: Cluster, tmp_path: Path
) -> None:
    system = await cluster.up(config(engine=gated(tmp_path / "gate")))
    async with client_of(system) as client:
        ask: dict[str, Any] = {"model": "gated", "prompt": "open"}
        stream = await client.completions.create(**ask, stream=True)
        await anext(stream)
        whole = asyncio.create_task(client.completions.create(**ask))
        await until(lambda: outstanding(system, 2))
        with Path(system.status().process("frontend.0").log).open() as log:  # the stop removes its name
            await system.stop(1.5)
            written = log.read()
        with pytest.raises(openai.APIError, match="the frontend is stopping"):
            await ends(stream)
        with pytest.raises(openai.InternalServerError, match="the frontend is stopping"):
            await whole
    assert "2 answers were cut off: the grace was over" in written
    assert "Traceback" not in written


async def test_the_announcement_of_a_frontend_is_a_line_that_can_be_run(cluster: Cluster) -> None:
    system = await cluster.up(config(engine='{ kind = "simulated", model = "it\'s" }'))
    (announced,) = system.announcements
    assert announced.actor == "frontend.0"
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+   try: curl -N http://\S+ -d '.*'", announced.text)
    async with client_of(system) as client:
        answer = await client.chat.completions.create(model="it's", messages=HELLO)
    assert answer.choices[0].finish_reason == "stop"


async def test_a_worker_that_is_frozen_does_not_keep_a_new_router_from_serving(cluster: Cluster) -> None:
    system = await cluster.up(config())
    await system.pause("worker.1")
    await system.kill("router.0")
    await system.wait_ready(20)
    async with client_of(system) as client:
        assert [model.id async for model in client.models.list()] == ["simulated"]
        answers = [await client.completions.create(model="simulated", prompt="x") for _ in range(4)]
    assert all(answer.choices[0].text for answer in answers)
