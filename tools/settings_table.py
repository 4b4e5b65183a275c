"""Prints docs/settings.md: every setting, from the classes that hold them.

    python tools/settings_table.py > docs/settings.md

The meaning is the docstring of the field; what follows "On nats:" in it is the column for that plane.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import Field, fields

from callboard.supervisor.spec import Limits, Strategy
from callboard.transports import nats_settings, settings
from callboard.transports.nats_settings import NatsSettings
from callboard.transports.settings import MIB, NetworkSettings

ON_NATS = "On nats:"
VARIABLES = {**settings.VARIABLES, "DYN_REQUEST_PLANE": "request_plane"}

HEAD = """\
# Settings

Made by `python tools/settings_table.py > docs/settings.md` from the classes that hold the settings; do not edit it.

A setting comes from, highest first: a flag of the command (`--plane`, `--event-plane`, `--namespace`), the
environment, the config file, the default. An empty variable sets nothing. Every mistake is reported in one run, with
variable or line, value, and what is allowed; `callboard check FILE` looks and starts nothing. Sizes in a file may have
units (`"64MiB"`), in the environment they are bytes. An unknown `DYN_REQUEST_PLANE` is a warning and means `tcp`, an
unknown `DYN_EVENT_PLANE` `zmq`; with `strict_env = true` each is an error.

## The system: top of the file
| key | variable | default | meaning |
|---|---|---|---|
| `namespace` | `DYN_NAMESPACE` | `default` | Keeps systems on one machine or one broker apart. |
| `request_plane` | `DYN_REQUEST_PLANE` | `tcp` | How messages travel: `tcp`, `nats`, `ipc`, or a plane of your own. |
| `event_plane` | `DYN_EVENT_PLANE` | `zmq` | How events travel: `zmq`, `nats`, `jetstream`, `none`, or your own. |
"""

NETWORK = """
## `[network]`, class `NetworkSettings`
Variables that begin with `DYN_` are named as in NVIDIA Dynamo; all hold on every plane, unless it says otherwise.

| field | variable | default | unit | meaning on tcp | on nats |
|---|---|---|---|---|---|
"""

NATS = """
## `[network.nats]`, class `NatsSettings`
Read on every plane, used where something goes through NATS. Of several credentials the first complete ones are used:
user and password, token, nkey, file. Credentials in the environment put those of another kind in the file out of use.
Paths in a file are relative to it. A setting of TLS makes TLS required, whatever the URLs say. Secrets are in no
message and no `repr`.

| field | variable | default | unit | meaning |
|---|---|---|---|---|
"""


SUPERVISOR = """
## `[supervisor]`, class `Limits`
How long things may take, and what else is restarted when something failed. There are no variables for it. In a script:
`System(limits=Limits(stop_grace_s=60))`, from `callboard.supervisor.spec`.

| field | default | unit | meaning |
|---|---|---|---|
"""

ONLY_ONE = "What else is restarted when something failed: nothing. There is no other strategy."

GRACE = """
`stop_grace_s` is for everything together: requests that run, `on_drain`, `on_stop`, and the end of the processes. What
is not done by then is cut off. Where answers of an LLM take minutes, it should be as long as the longest of them; a
stop takes no longer than it needs. `callboard stop --grace SECONDS` is another grace for one stop; a second Ctrl-C
kills what is left.
"""


def documentation(cls: type) -> dict[str, str]:
    """The docstring below each field of a class, on one line."""
    (tree,) = ast.parse(inspect.getsource(cls)).body
    assert isinstance(tree, ast.ClassDef)
    found: dict[str, str] = {}
    for node, below in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            assert isinstance(below, ast.Expr), f"{node.target.id} has no docstring"
            found[node.target.id] = " ".join(str(ast.literal_eval(below.value)).split())
    return found


def rows(cls: type, variables: Mapping[str, str]) -> Iterator[list[str]]:
    """Field, variable, default, unit, and meaning of each field, as Markdown."""
    by_field = {name: variable for variable, name in variables.items()}
    meanings = documentation(cls)
    for entry in fields(cls):
        variable = by_field.get(entry.name, "")
        meaning = meanings[entry.name].removeprefix(f"``{variable}``: ").replace("``", "`")
        yield [
            f"`{entry.name}`",
            f"`{variable}`" if variable else "",
            default_of(entry),
            unit_of(entry.name),
            f"{meaning[:1].upper()}{meaning[1:]}",
        ]


def default_of(entry: Field[object]) -> str:
    """The default as one writes it."""
    value = entry.default
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return f"`{','.join(value)}`"
    if isinstance(value, int) and entry.name.endswith("_bytes"):
        return f"{value // MIB} MiB"
    if isinstance(value, int | float):
        return f"{value:g}"
    return f"`{value}`" if value else ""


def unit_of(name: str) -> str:
    """What the number counts."""
    units = {"_s": "seconds", "_bytes": "bytes"}
    return next((unit for end, unit in units.items() if name.endswith(end)), "")


def supervisor() -> Iterator[str]:
    """The table of ``[supervisor]``: the strategy, and the limits."""
    yield SUPERVISOR
    others = [kind for kind in Strategy if kind is not Strategy.ONE_FOR_ONE]
    assert not others, f"say what {others} mean"
    yield f"| `strategy` | `{Strategy.ONE_FOR_ONE.value}` |  | {ONLY_ONE} |\n"
    for field, _, *cells in rows(Limits, {}):
        yield f"| {' | '.join([field, *cells])} |\n"
    yield GRACE


def page() -> str:
    """The whole page."""
    lines = [HEAD, *supervisor(), NETWORK]
    for *cells, meaning in rows(NetworkSettings, VARIABLES):
        if cells[0] in ("`request_plane`", "`event_plane`", "`nats`"):  # which have tables of their own
            continue
        on_tcp, _, on_nats = (part.strip() for part in meaning.partition(ON_NATS))
        cells += [on_tcp, f"{on_nats[:1].upper()}{on_nats[1:]}" or "The same."]
        lines.append(f"| {' | '.join(cells)} |\n")
    lines.append(NATS)
    lines += [f"| {' | '.join(cells)} |\n" for cells in rows(NatsSettings, nats_settings.VARIABLES)]
    return "".join(lines)


if __name__ == "__main__":
    print(page(), end="")
