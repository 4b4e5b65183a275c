"""Answers of the OpenAI interface: the bytes of a stream, whole answers, and errors."""

import pickle

import orjson
import pytest

from callboard.actors.errors import ActorUnavailable, DeadlineExceeded, MailboxFull, RemoteError
from callboard.actors.policy import Executed
from callboard.serving.errors import (
    BadTokenizer,
    ContextTooLong,
    EngineFailed,
    MissingServingExtra,
    NoWorkers,
    OtherTokenizer,
    PortTaken,
    UnknownModel,
    WorkersLost,
)
from callboard.serving.http_errors import HttpError, as_http_error
from callboard.serving.openai_answers import Events, error_event, model, models, whole
from callboard.serving.openai_pieces import Shown
from callboard.serving.openai_requests import Asked
from callboard.serving.protocol import Delta, Finish, FinishReason, GenerateRequest, ModelInfo, Token
from callboard.transports.errors import TooLarge

FINISH = Finish(reason=FinishReason.LENGTH, prompt_tokens=3, completion_tokens=2)
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
TEXTS = ["one", ' "two"\n', "\u2028é\x00"]


def asked(*, chat=True, usage=False, name="m"):
    request = GenerateRequest(request_id="id-1", model=name)
    return Asked(request=request, chat=chat, stream=True, include_usage=usage)


def read(data):
    """Parse server-sent events as strictly as a client may: one data line each, then an empty line."""
    assert data.endswith(b"\n\n")
    events = data[:-2].split(b"\n\n")
    assert all(event.startswith(b"data: ") and b"\n" not in event for event in events)
    return [orjson.loads(event[6:]) if event != b"data: [DONE]" else "DONE" for event in events]


def test_a_streamed_chat_says_who_speaks_then_each_text_then_why_it_ended():
    events = Events(asked(), 7)
    chunks = read(events.begin() + events.pieces(TEXTS) + events.end(FINISH))
    assert chunks.pop() == "DONE"
    head = {"id": "id-1", "object": "chat.completion.chunk", "created": 7, "model": "m"}
    assert all(chunk.items() >= head.items() and "usage" not in chunk for chunk in chunks)
    assert [chunk["choices"] for chunk in chunks] == [
        [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}]
        for delta, reason in [
            ({"role": "assistant", "content": ""}, None),
            *(({"content": text}, None) for text in TEXTS),
            ({}, "length"),
        ]
    ]


def test_a_streamed_completion_has_texts_and_no_role():
    events = Events(asked(chat=False), 7)
    assert events.begin() == b""
    chunks = read(events.pieces(TEXTS) + events.end(FINISH))
    assert chunks.pop() == "DONE"
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}
    assert [(c["choices"][0]["text"], c["choices"][0]["finish_reason"]) for c in chunks] == [
        *((text, None) for text in TEXTS),
        ("", "length"),
    ]


@pytest.mark.parametrize("chat", [True, False])
def test_usage_comes_last_without_choices_and_every_other_event_says_null(chat):
    events = Events(asked(chat=chat, usage=True), 7)
    *chunks, last, done = read(events.begin() + events.pieces(TEXTS) + events.end(FINISH))
    assert (last["usage"], last["choices"], done) == (USAGE, [], "DONE")
    assert all(chunk["usage"] is None for chunk in chunks)


def test_an_empty_text_has_no_event():
    events = Events(asked(), 7)
    assert events.pieces([]) == events.pieces(["", ""]) == b""
    assert events.pieces(["a", "", "b"]) == events.pieces(["a"]) + events.pieces(["b"])


def test_the_name_of_a_model_cannot_break_an_event():
    for name in ("\x00", '"}', "a\n\nb", "é"):
        events = Events(asked(name=name), 7)
        (chunk,) = read(events.pieces(["x"]))
        assert (chunk["model"], chunk["choices"][0]["delta"]) == (name, {"content": "x"})


def test_a_whole_chat_and_a_whole_completion_are_complete():
    answer = orjson.loads(whole(asked(), 7, TEXTS, FINISH))
    assert (answer["object"], answer["usage"], answer["created"]) == ("chat.completion", USAGE, 7)
    assert answer["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "".join(TEXTS), "refusal": None},
            "logprobs": None,
            "finish_reason": "length",
        }
    ]
    answer = orjson.loads(whole(asked(chat=False), 7, TEXTS, FINISH))
    assert answer["object"] == "text_completion"
    assert answer["choices"][0]["text"] == "".join(TEXTS)


CALLS = [
    Delta(
        {
            "tool_calls": [
                {"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": ""}}
            ]
        }
    ),
    Delta(
        {
            "tool_calls": [
                {"index": 1, "id": "b", "type": "function", "function": {"name": "g", "arguments": "{"}}
            ]
        }
    ),
    Delta({"tool_calls": [{"index": 0, "function": {"arguments": '{"x":'}}]}),
    Delta(
        {
            "tool_calls": [
                {"index": 0, "function": {"arguments": " 1}"}},
                {"index": 1, "function": {"arguments": "}"}},
            ]
        }
    ),
]


def test_tool_calls_come_as_the_engine_gave_them_and_whole_ones_are_put_together():
    events = Events(asked(), 7)
    chunks = read(events.pieces(["so: ", *CALLS]))
    assert chunks[0]["choices"][0]["delta"] == {"content": "so: "}
    assert [chunk["choices"][0]["delta"] for chunk in chunks[1:]] == [
        {"content": None, **call.fields} for call in CALLS
    ]
    answer = orjson.loads(whole(asked(), 7, CALLS, FINISH))
    assert answer["choices"][0]["message"] == {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}},
            {"id": "b", "type": "function", "function": {"name": "g", "arguments": "{}"}},
        ],
    }


def test_other_fields_of_an_engine_are_kept_and_their_texts_joined():
    thoughts = [Delta({"reasoning_content": "hm"}), Delta({"reasoning_content": "m"}), "yes"]
    message = orjson.loads(whole(asked(), 7, thoughts, FINISH))["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == ("hmm", "yes")


LIKELY = [Token(1, "é", -0.5, [(1, "é", -0.5), (2, "b", -1.5)]), Shown(3, "c", -2.0, [], "")]


def test_probabilities_of_a_chat_are_those_of_its_tokens():
    def entry(text, logprob):
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}

    content = [
        entry("é", -0.5) | {"top_logprobs": [entry("é", -0.5), entry("b", -1.5)]},
        entry("c", -2.0) | {"top_logprobs": []},
    ]
    first, second = (chunk["choices"][0] for chunk in read(Events(asked(), 7).pieces(LIKELY)))
    assert first["logprobs"] == {"content": content[:1], "refusal": None}
    assert second["logprobs"] == {"content": content[1:], "refusal": None}
    assert (first["delta"], second["delta"]) == ({"content": "é"}, {"content": ""})
    choice = orjson.loads(whole(asked(), 7, LIKELY, FINISH))["choices"][0]
    assert (choice["logprobs"]["content"], choice["message"]["content"]) == (content, "é")


def test_probabilities_of_a_completion_say_where_each_token_begins():
    tokens = [Token(1, "ab", -0.5, [(1, "ab", -0.5)]), Token(2, "c", -1.0)]
    wanted = {
        "tokens": ["ab", "c"],
        "token_logprobs": [-0.5, -1.0],
        "top_logprobs": [{"ab": -0.5}, {}],
        "text_offset": [0, 2],
    }
    assert orjson.loads(whole(asked(chat=False), 7, tokens, FINISH))["choices"][0]["logprobs"] == wanted
    events = Events(asked(chat=False), 7)
    seen = [event["choices"][0]["logprobs"] for one in tokens for event in read(events.pieces([one]))]
    assert {key: [value for one in seen for value in one[key]] for key in wanted} == wanted


def test_models_are_listed_as_openai_does():
    info = ModelInfo(model="m", engine="simulated", context_tokens=100, created_s=5)
    assert models([info]) == {"object": "list", "data": [model(info)]}
    assert (
        model(info).items() >= {"id": "m", "object": "model", "created": 5, "owned_by": "callboard"}.items()
    )


def test_an_error_in_a_stream_is_an_event_and_no_end_mark_follows():
    (event,) = read(error_event(HttpError(503, "gone", code="worker_lost")))
    assert event == {
        "error": {"message": "gone", "type": "server_error", "param": None, "code": "worker_lost"}
    }


@pytest.mark.parametrize(
    ("error", "status", "code", "retry_after_s"),
    [
        (UnknownModel("simulatd", ["simulated"]), 404, "model_not_found", None),
        (ContextTooLong(10, 5), 400, "context_length_exceeded", None),
        (NoWorkers("none is up", 3), 503, "no_workers", 3),
        (WorkersLost(4, "tcp://127.0.0.1:4000 broke"), 500, "workers_lost", None),
        (MailboxFull("full", actor="worker.0"), 529, "overloaded", 1),
        (ActorUnavailable("killed", actor="worker.0"), 503, "unavailable", 1),
        (ActorUnavailable("killed", actor="worker.0", executed=Executed.YES, items=4), 503, "worker_lost", 1),
        (DeadlineExceeded("late"), 504, "timeout", None),
        (TooLarge(2, 1, "max"), 413, "request_too_large", None),
        (OtherTokenizer("m"), 503, "other_tokenizer", 1),
        (EngineFailed("why"), 503, "engine_failed", 1),
        (BadTokenizer("here", "why"), 500, "internal_error", None),
        (KeyError("x"), 500, "internal_error", None),
    ],
)
def test_every_failure_has_its_status_and_says_when_to_come_back(error, status, code, retry_after_s):
    seen = as_http_error(error)
    assert (seen.status, seen.code, seen.retry_after_s) == (status, code, retry_after_s)
    headers = dict(seen.headers())
    assert headers.get(b"retry-after") == (None if retry_after_s is None else b"%d" % retry_after_s)
    assert orjson.loads(seen.body())["error"]["type"] == (
        "server_error" if status >= 500 else "invalid_request_error"
    )


def test_neither_addresses_nor_paths_are_shown_to_clients():
    for items in (0, 3):
        error = ActorUnavailable("tcp://127.0.0.1:4000?ipc=/tmp/x broke", actor="worker.0", items=items)
        seen = as_http_error(error)
        assert "worker.0" in seen.message
        assert "/" not in seen.message
    assert "/" not in as_http_error(WorkersLost(4, str(error))).message
    assert "/" not in as_http_error(EngineFailed("http://10.0.0.1:8000: refused")).message
    assert "/" not in as_http_error(BadTokenizer("/models/one", "it is none")).message


def test_a_remote_traceback_is_not_shown_to_clients():
    error = RemoteError("boom", kind="engine:Oops", remote_traceback="File secret.py", actor="worker.0")
    seen = as_http_error(error)
    assert seen.message == "worker.0 failed: engine:Oops: boom"


@pytest.mark.parametrize(
    "error",
    [
        UnknownModel("a", ["b"]),
        NoWorkers("why", 2),
        WorkersLost(4, "why"),
        MissingServingExtra("uvicorn"),
        PortTaken("127.0.0.1", 80, "taken"),
        ContextTooLong(3, 2),
        OtherTokenizer("m"),
        HttpError(405, "no", code="x", param="y", retry_after_s=1, allow="GET"),
    ],
)
def test_serving_errors_survive_pickling(error):
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))
