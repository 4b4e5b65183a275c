"""Requests of the OpenAI interface: what is understood, and that every mistake is named at its place."""

import orjson
import pytest

from callboard.serving.http_errors import HttpError
from callboard.serving.openai_requests import (
    COMPLETION_TOKENS,
    STOPS,
    parse_chat,
    parse_completion,
)
from callboard.serving.protocol import Message

HELLO = [{"role": "user", "content": "Hello"}]


def chat(**fields):
    body = {"model": "m", "messages": HELLO} | fields
    return parse_chat(orjson.dumps(body), "chatcmpl-1")


def completion(**fields):
    body = {"model": "m", "prompt": "Hello"} | fields
    return parse_completion(orjson.dumps(body), "cmpl-1")


def refused(parse, **fields):
    with pytest.raises(HttpError) as caught:
        parse(**fields)
    assert caught.value.status == 400
    return caught.value


def test_a_chat_is_understood_with_all_that_shapes_its_answer():
    asked = chat(
        messages=[{"role": "system", "content": "Be short."}, *HELLO],
        max_tokens=7,
        stop=["END", "\n"],
        temperature=0,
        top_p=0.5,
        frequency_penalty=-2,
        presence_penalty=2,
        seed=-(2**63),
        stream=True,
        stream_options={"include_usage": True},
    )
    request = asked.request
    assert (asked.chat, asked.stream, asked.include_usage) == (True, True, True)
    assert request.messages == [Message("system", "Be short."), Message("user", "Hello")]
    assert (request.request_id, request.model, request.prompt) == ("chatcmpl-1", "m", "")
    assert (request.max_tokens, request.stop, request.seed) == (7, ["END", "\n"], -(2**63))
    assert (request.temperature, request.top_p) == (0.0, 0.5)
    assert (request.frequency_penalty, request.presence_penalty) == (-2.0, 2.0)


def test_what_is_not_given_has_the_defaults_of_openai():
    request = chat().request
    assert (request.max_tokens, request.stop, request.seed) == (None, [], None)
    assert (request.temperature, request.top_p) == (None, None)
    assert (chat().stream, chat().include_usage) == (False, False)
    assert completion().request.max_tokens == COMPLETION_TOKENS


def test_null_means_not_given():
    fields = dict.fromkeys(
        ("max_tokens", "stop", "temperature", "seed", "stream", "stream_options", "tools", "n", "user")
    )
    assert chat(**fields) == chat()


def test_a_completion_takes_a_prompt_alone_or_in_a_list():
    asked = completion(prompt=["Hello"], max_tokens=3)
    assert (asked.chat, asked.request.prompt, asked.request.messages) == (False, "Hello", [])
    assert asked == completion(max_tokens=3)
    assert completion(prompt="").request.prompt == ""


def test_text_parts_of_a_message_become_lines():
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert chat(messages=[{"role": "user", "content": parts}]).request.messages == [
        Message("user", "one\ntwo")
    ]


def test_an_answer_can_be_sent_back_as_the_client_holds_it():
    answer = {"role": "assistant", "content": "Hi", "refusal": None, "tool_calls": None, "annotations": []}
    assert chat(messages=[*HELLO, answer]).request.messages[1] == Message("assistant", "Hi")


def test_either_name_of_the_limit_of_tokens_counts():
    assert chat(max_completion_tokens=5).request.max_tokens == 5
    assert chat(max_completion_tokens=5, max_tokens=5).request.max_tokens == 5
    assert refused(chat, max_completion_tokens=5, max_tokens=6).param == "max_tokens"


def test_a_single_stop_string_is_a_list_of_one():
    assert chat(stop="END").request.stop == ["END"]


def test_values_that_ask_for_nothing_special_are_accepted():
    asked = chat(
        n=1,
        logprobs=False,
        tools=[],
        tool_choice="none",
        response_format={"type": "text"},
        logit_bias={},
        store=False,
        service_tier="auto",
        user="somebody",
        metadata={"a": "b"},
    )
    assert asked == chat()
    assert completion(n=1, best_of=1, echo=False, logit_bias={}, user="somebody") == completion()


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "no body"),
        (b'{"model": "m",\n "messages": [}', "line 2 column 15"),
        (b'{"model": "m"', "line 1 column 14"),
        (b'{"temperature": NaN}', "not valid JSON"),
        (b'{"model": "\xff"}', "not valid JSON"),
        (b'{"model": "\\ud800"}', "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"[1]", "the body is [1]; it must be a JSON object"),
        (b"null", "the body is null"),
    ],
)
def test_a_body_that_is_no_json_object_is_refused_with_the_place(body, text):
    for parse in (parse_chat, parse_completion):
        with pytest.raises(HttpError) as caught:
            parse(body, "id")
        assert (caught.value.status, caught.value.code) == (400, "invalid_json")
        assert text in caught.value.message


@pytest.mark.parametrize(
    ("fields", "param", "text"),
    [
        ({"model": None}, "model", "is missing"),
        ({"model": ""}, "model", 'is ""'),
        ({"model": 3}, "model", "is 3; it must be a text"),
        ({"max_tokens": 0}, "max_tokens", "is 0; it must be from 1 to 2147483647"),
        ({"max_tokens": 2**31}, "max_tokens", "it must be from 1 to 2147483647"),
        ({"max_tokens": 2.0}, "max_tokens", "must be a whole number"),
        ({"max_tokens": True}, "max_tokens", "is true; it must be a whole number"),
        ({"temperature": 2.1}, "temperature", "is 2.1; it must be from 0 to 2"),
        ({"temperature": "hot"}, "temperature", 'is "hot"; it must be a number'),
        ({"top_p": -0.1}, "top_p", "from 0 to 1"),
        ({"top_p": False}, "top_p", "must be a number"),
        ({"frequency_penalty": 3}, "frequency_penalty", "from -2 to 2"),
        ({"presence_penalty": -3}, "presence_penalty", "from -2 to 2"),
        ({"seed": 1.5}, "seed", "must be a whole number"),
        ({"seed": 2**63}, "seed", "it must be from -9223372036854775808 to 9223372036854775807"),
        ({"stop": ""}, "stop", "empty text"),
        ({"stop": ["a", 1]}, "stop", "must be a text or a list of texts"),
        ({"stop": {"a": 1}}, "stop", "must be a text or a list of texts"),
        ({"stop": ["a"] * (STOPS + 1)}, "stop", f"it may hold {STOPS}"),
        ({"stream": "yes"}, "stream", 'is "yes"; it must be true or false'),
        ({"stream": 1}, "stream", "is 1; it must be true or false"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "for streams only"),
        ({"stream": True, "stream_options": True}, "stream_options", "must be an object"),
        (
            {"stream": True, "stream_options": {"include_usage": 1}},
            "stream_options.include_usage",
            "must be true or false",
        ),
        (
            {"stream": True, "stream_options": {"include_use": True}},
            "stream_options.include_use",
            'did you mean "include_usage"?',
        ),
        ({"n": 17}, "n", "is 17; it must be from 1 to 16"),
        ({"n": True}, "n", "is true; it must be a whole number"),
        ({"temprature": 1}, "temprature", 'did you mean "temperature"?'),
        ({"topk": 5}, "topk", 'not a field that this server knows; did you mean "top_k"?'),
    ],
)
def test_a_field_that_is_wrong_is_named_with_what_it_may_be(fields, param, text):
    for parse in (chat, completion):
        error = refused(parse, **fields)
        assert error.param == param
        assert error.message.startswith(param)
        assert text in error.message


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"functions": [{}]}, "functions"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"store": True}, "store"),
        ({"service_tier": "flex"}, "service_tier"),
    ],
)
def test_what_a_chat_cannot_do_here_is_refused_and_not_ignored(fields, param):
    error = refused(chat, **fields)
    assert (error.param, error.code) == (param, "unsupported_parameter")
    assert "not supported" in error.message


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"echo": True}, "echo"),
        ({"best_of": 2}, "best_of"),
        ({"suffix": "x"}, "suffix"),
    ],
)
def test_what_a_completion_cannot_do_here_is_refused_and_not_ignored(fields, param):
    error = refused(completion, **fields)
    assert (error.param, error.code) == (param, "unsupported_parameter")


@pytest.mark.parametrize(
    ("messages", "param", "text"),
    [
        (None, "messages", "is missing"),
        ([], "messages", "at least one message"),
        ("hello", "messages", "at least one message"),
        (["hello"], "messages[0]", "must be an object"),
        ([{"content": "a"}], "messages[0].role", "is missing"),
        ([*HELLO, {"role": "usr", "content": "a"}], "messages[1].role", 'did you mean "user"?'),
        ([{"role": "user"}], "messages[0].content", "is missing"),
        ([{"role": "user", "content": 3}], "messages[0].content", "is 3"),
        ([{"role": "user", "content": []}], "messages[0].content", "a list of parts"),
        ([{"role": "user", "content": ["a"]}], "messages[0].content[0]", 'must be {"type": "text"'),
        (
            [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url"}]}],
            "messages[0].content[1].type",
            'is "image_url"; this server takes text only',
        ),
        ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text", "is missing"),
        ([{"role": "user", "content": [{"text": "a"}]}], "messages[0].content[0].type", "is missing"),
        ([{"role": "user", "content": "a", "colour": 1}], "messages[0].colour", "not a field"),
    ],
)
def test_a_message_that_is_wrong_is_named_by_its_place(messages, param, text):
    error = refused(chat, messages=messages)
    assert error.param == param
    assert text in error.message


def test_what_only_an_engine_understands_is_kept_for_it():
    extra = {
        "tools": [{"type": "function"}], "tool_choice": "auto", "response_format": {"type": "json_object"},
        "top_k": 5, "logit_bias": {"5": 1}, "chat_template_kwargs": {"thinking": True},
    }  # fmt: skip
    assert chat(**extra).request.extra == extra
    assert (
        chat(tools=[], tool_choice="none", logit_bias={}, response_format={"type": "text"}).request.extra
        == {}
    )
    forbidden = {"tools": [{"type": "function"}], "tool_choice": "none", "parallel_tool_calls": False}
    assert chat(**forbidden).request.extra == forbidden


def test_calls_of_tools_and_their_answers_keep_what_belongs_to_them():
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [
        *HELLO,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "3", "tool_call_id": "c1"},
    ]
    assert chat(messages=messages).request.messages[1:] == [
        Message("assistant", "", {"tool_calls": [call]}),
        Message("tool", "3", {"tool_call_id": "c1"}),
    ]


@pytest.mark.parametrize("prompt", [[1, 258], [[1, 258]]])
def test_a_prompt_may_be_token_ids(prompt):
    assert completion(prompt=prompt).request.tokens == b"\x01\0\0\0\x02\x01\0\0"


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        (None, "is missing"),
        (3, "is 3; it must be a text"),
        ([], "must be a text"),
        ([1, -2], "token ids beyond 0"),
        ([1, "a"], "must be a text or a list of token ids"),
        ([[1, 2], [3]], "holds 2 prompts; send one request for each"),
        (["a", "b"], "holds 2 prompts; send one request for each"),
    ],
)
def test_a_prompt_that_is_no_text_is_refused(prompt, text):
    error = refused(completion, prompt=prompt)
    assert error.param == "prompt"
    assert text in error.message


def test_every_mistake_is_named_in_one_answer():
    error = refused(chat, model=None, messages=[{"role": "x", "content": 1}], temperature=9, n=0, what=1)
    places = [line.split(" ")[0] for line in error.message.splitlines()]
    assert sorted(places) == sorted(
        ["messages[0].role", "messages[0].content", "model", "temperature", "n", "what"]
    )
    assert error.param == places[0]


def test_long_values_are_shortened_in_messages():
    assert len(refused(chat, temperature="x" * 10_000).message) < 200


def test_probabilities_are_asked_for_as_each_interface_has_it():
    assert chat(logprobs=True).request.logprobs == 0
    assert chat(logprobs=True, top_logprobs=5).request.logprobs == 5
    assert chat(logprobs=False, top_logprobs=0).request.logprobs is None
    assert completion(logprobs=0).request.logprobs == 0
    assert completion().request.logprobs is None
    assert "set logprobs to true" in refused(chat, top_logprobs=5).message
    assert refused(chat, logprobs=True, top_logprobs=21).param == "top_logprobs"
    assert refused(completion, logprobs=True).param == "logprobs"
