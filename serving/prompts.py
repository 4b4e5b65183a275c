"""What a request asks, as one text. Pure."""

from __future__ import annotations

from .protocol import GenerateRequest


def prompt_text(request: GenerateRequest) -> str:
    """Return the prompt as one text; a chat has one line per message."""
    if request.messages:
        return "\n".join(f"{message.role}: {message.content}" for message in request.messages)
    return request.prompt
