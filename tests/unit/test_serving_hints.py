"""What headers of a request say about where it shall go."""

from __future__ import annotations

import pytest

from callboard.serving.hints import with_hints
from callboard.serving.http_errors import HttpError
from callboard.serving.protocol import GenerateRequest

PLAIN = GenerateRequest(request_id="r", model="m", prompt="x")


@pytest.mark.parametrize(
    ("header", "value", "field", "found"),
    [
        (b"x-callboard-worker-id", b"3", "worker", 3),
        (b"x-callboard-worker-id", b"worker.3", "worker", 3),
        (b"x-worker-instance-id", b"3", "worker", 3),
        (b"x-callboard-dp-rank", b"1", "dp_rank", 1),
        (b"x-dynamo-request-priority", b"-5", "priority", -5),
        (b"x-dynamo-session-id", b"s", "session", "s"),
    ],
)
def test_a_header_sets_its_field(header: bytes, value: bytes, field: str, found: object) -> None:
    assert getattr(with_hints(PLAIN, {header: value}), field) == found


@pytest.mark.parametrize("value", [b"-1", b"one", b"worker.x", b"1.", b"99999999999"])
def test_a_worker_that_is_no_number_is_refused_with_the_header(value: bytes) -> None:
    with pytest.raises(HttpError, match="the header x-callboard-worker-id is"):
        with_hints(PLAIN, {b"x-callboard-worker-id": value})
