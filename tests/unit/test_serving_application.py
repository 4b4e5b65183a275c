"""The frontend's application as plain ASGI, in front of a backend of a few lines."""

import asyncio

import orjson
import pytest

from callboard.serving import exchange
from callboard.serving.application import Application
from callboard.serving.protocol import Finish, FinishReason

FINISH = Finish(reason=FinishReason.STOP, prompt_tokens=1, completion_tokens=2)
ASK = {"model": "m", "prompt": "x"}


class Backend:
    """Yields what it was given; an exception among the batches is raised."""

    def __init__(self, *batches):
        self.batches = batches
        self.closed = False

    async def generate(self, request):
        try:
            for batch in self.batches:
                if isinstance(batch, Exception):
                    raise batch
                yield batch
        finally:
            self.closed = True

    async def models(self):
        return []

    async def workers(self):
        return {"worker.0": 0}


class Client:
    """One request: what it sends, whether it leaves, and what it has received."""

    def __init__(self, method, path, body=b"", *, leaves=False):
        self.scope = {"type": "http", "method": method, "path": path, "headers": []}
        self.incoming = [{"type": "http.request", "body": body, "more_body": False}]
        if leaves:
            self.incoming[0]["more_body"] = True
            self.incoming.append({"type": "http.disconnect"})
        self.sent = []

    async def receive(self):
        if self.incoming:
            return self.incoming.pop(0)
        return await asyncio.get_running_loop().create_future()  # it stays

    async def send(self, message):
        self.sent.append(message)

    @property
    def status(self):
        return self.sent[0]["status"]

    @property
    def body(self):
        assert self.sent[-1]["more_body"] is False
        return b"".join(message["body"] for message in self.sent[1:])


async def call(application, method, path, body=b"", **options):
    client = Client(method, path, body if isinstance(body, bytes) else orjson.dumps(body), **options)
    await application(client.scope, client.receive, client.send)
    return client


def application(*batches):
    return Application(Backend(*batches), max_body_bytes=1000, max_requests=10)


async def test_each_batch_of_pieces_is_one_message_and_the_last_one_ends_the_answer():
    client = await call(
        application(["a", "b"], ["c"], ["d", FINISH]), "POST", "/v1/completions", ASK | {"stream": True}
    )
    assert [message["type"] for message in client.sent] == ["http.response.start"] + [
        "http.response.body"
    ] * 3
    assert [message["body"].count(b"data: ") for message in client.sent[1:]] == [2, 1, 3]
    assert client.body.endswith(b"data: [DONE]\n\n")


async def test_a_batch_without_text_sends_nothing():
    client = await call(application([""], ["a", FINISH]), "POST", "/v1/completions", ASK | {"stream": True})
    assert len(client.sent) == 2


@pytest.mark.parametrize("stream", [True, False])
async def test_a_failure_before_the_first_piece_is_the_status_of_the_answer(stream):
    app = application(KeyError("x"))
    client = await call(app, "POST", "/v1/completions", ASK | {"stream": stream})
    assert client.status == 500
    assert orjson.loads(client.body)["error"]["message"] == "KeyError: 'x'"
    assert (app.load().failed, app.load().finished, app.load().running) == (1, 0, 0)


async def test_a_failure_within_a_stream_is_its_last_event():
    client = await call(application(["a"], KeyError("x")), "POST", "/v1/completions", ASK | {"stream": True})
    assert client.status == 200
    events = client.body.split(b"\n\n")
    assert orjson.loads(events[-2][6:])["error"]["code"] == "internal_error"
    assert b"[DONE]" not in client.body


@pytest.mark.parametrize("stream", [True, False])
async def test_an_answer_without_a_finish_is_an_error(stream):
    client = await call(application(["a"]), "POST", "/v1/completions", ASK | {"stream": stream})
    assert b"no Finish" in client.body
    assert b"[DONE]" not in client.body


async def test_what_drains_refuses_new_requests_and_says_so_to_health_checks():
    app = application(["a", FINISH])
    assert (await call(app, "GET", "/health")).status == 200
    app.drain()
    for method, path in (("POST", "/v1/completions"), ("GET", "/health")):
        client = await call(app, method, path, ASK)
        assert client.status == 503
        assert (b"retry-after", b"1") in client.sent[0]["headers"]
        assert b"the frontend is stopping" in client.body
    assert (await call(app, "GET", "/live")).status == 200


async def test_a_client_that_leaves_within_its_body_gets_nothing():
    app = application(["a", FINISH])
    client = await call(app, "POST", "/v1/completions", b"{", leaves=True)
    assert client.sent == []
    assert (app.load().disconnected, app.load().running) == (1, 0)


async def test_a_client_that_does_not_send_its_body_gives_its_place_back(monkeypatch):
    monkeypatch.setattr(exchange, "BODY_S", 0.01)
    app = application(["a", FINISH])
    client = Client("POST", "/v1/completions", b"{")
    client.incoming[0]["more_body"] = True
    await asyncio.wait_for(app(client.scope, client.receive, client.send), 30)
    assert client.status == 408
    assert (b"connection", b"close") in client.sent[0]["headers"]
    assert (app.load().refused, app.load().running) == (1, 0)


class Waits(Backend):
    """Gives one piece, then nothing."""

    async def generate(self, request):
        try:
            yield ["a"]
            await asyncio.get_running_loop().create_future()
        finally:
            self.closed = True


async def test_what_is_aborted_closes_its_backend_and_tells_its_client():
    backend = Waits()
    app = Application(backend, max_body_bytes=1000, max_requests=10)
    client = Client("POST", "/v1/completions", orjson.dumps(ASK | {"stream": True}))
    answering = asyncio.create_task(app(client.scope, client.receive, client.send))
    for _ in range(10):  # turns of the loop, until it waits
        await asyncio.sleep(0)
    assert len(client.sent) == 2
    assert app.abort() == 1
    await answering
    assert backend.closed
    assert b"the frontend is stopping" in client.body
    assert (app.load().failed, app.load().running) == (1, 0)
