"""What can be installed as a hook for metrics and traces, and what a hook of an actor is."""

from __future__ import annotations

import pytest

from callboard.actors.actor import Actor, objection
from callboard.actors.hooks import HOOKS, install_hooks


@pytest.mark.parametrize(
    ("hooks", "text"),
    [
        ({"metrics": object()}, "metrics is <object .*>, which has no method handled"),
        ({"tracing": object()}, "tracing is <object .*>, which has no method sending"),
    ],
)
def test_what_is_no_hook_is_refused_where_it_is_installed(hooks, text):
    with pytest.raises(TypeError, match=text):
        install_hooks(**hooks)
    assert not HOOKS.on


class Sync(Actor):
    def on_ready(self) -> None: ...  # type: ignore[override]


def test_a_hook_that_is_no_coroutine_function_is_said_before_anything_starts():
    assert objection(Sync) == "Sync.on_ready is a plain method; a hook is awaited: async def on_ready"
