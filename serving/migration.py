"""What is left of a request when a part of its answer is there. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from .protocol import Delta, Finish, GenerateRequest, Piece, Routed, Token


def given(pieces: Iterable[Piece]) -> list[str | int] | None:
    """Return pieces as a request's ``done`` has them; None if an answer with them cannot be continued elsewhere."""
    done: list[str | int] = []
    for piece in pieces:
        if isinstance(piece, str | int):
            done.append(piece)
        elif isinstance(piece, Token):
            done.append(piece.id if piece.id >= 0 else piece.text)
        elif isinstance(piece, Delta):
            return None
        else:
            assert isinstance(piece, Routed | Finish)
    return done


def resume(request: GenerateRequest, done: list[str | int]) -> GenerateRequest:
    """Return the request for the rest of the answer after ``done``, which continues the request's own."""
    limit = request.max_tokens
    return replace(
        request,
        done=[*request.done, *done],
        max_tokens=None if limit is None else max(0, limit - len(done)),
        handover=None,
        explain=False,
    )


def whole(finish: Finish, before: int) -> Finish:
    """Return the end of the whole answer, of which ``before`` tokens came from others than the last worker."""
    return replace(finish, completion_tokens=finish.completion_tokens + before) if before else finish
