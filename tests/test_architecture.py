"""The layers and sizes of ARCHITECTURE.md, read from the source: nothing is imported to check an import."""

import ast
import runpy
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LAYERS = {"transports": 0, "actors": 1, "supervisor": 2, "serving": 3, "testing": 3, "bench": 4}
PLANES = {"memory": "memory", "tcp": "tcp", "ipc": "tcp", "zmq": "tcp", "nats": "nats"}
"""Families of plane modules by the first word of their file name; `tcp` holds everything on zmq."""


def module_name(path):
    parts = ["callboard", *path.relative_to(ROOT).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {
    module_name(path): path
    for folder in LAYERS
    for path in sorted((ROOT / folder).rglob("*.py"))
    if "__pycache__" not in path.parts
}


def imports_of(module):
    """Yield (line, dotted name) of everything imported, anywhere in the file, for types only or not."""
    path = SOURCES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((node.lineno, target(base, alias.name)) for alias in node.names)


def target(base, name):
    return f"{base}.{name}" if f"{base}.{name}" in SOURCES or base == "callboard" else base


def layer_of(module):
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in LAYERS else None


def is_allowed(importer, imported):
    mine, theirs = layer_of(importer), layer_of(imported)
    if theirs is None:  # the façade, or a name in it: for the layers above what it shows
        return LAYERS[mine] > LAYERS["supervisor"]
    return mine == theirs or LAYERS[theirs] < LAYERS[mine]


def within(prefix=""):
    return [
        (module, line, imported)
        for module in SOURCES
        for line, imported in imports_of(module)
        if imported.partition(".")[0] == (prefix or "callboard")
    ]


def test_every_folder_of_the_library_is_read():
    assert {layer_of(module) for module in SOURCES} == set(LAYERS)
    assert len(within()) > len(SOURCES)


def test_no_layer_imports_one_above_or_beside_it():
    wrong = [
        f"{SOURCES[module].relative_to(ROOT)}:{line} imports {imported}"
        for module, line, imported in within()
        if not is_allowed(module, imported)
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("importer", "imported", "allowed"),
    [
        ("callboard.actors.node", "callboard.transports.base", True),
        ("callboard.transports.base", "callboard.actors.node", False),
        ("callboard.testing.cluster", "callboard.serving.router", False),
        ("callboard.serving.router", "callboard.bench.cli", False),
        ("callboard.bench.routing", "callboard.serving.router", True),
        ("callboard.serving.router", "callboard.Actor", True),
        ("callboard.actors.node", "callboard.System", False),
    ],
)
def test_the_rule_itself_tells_up_from_down(importer, imported, allowed):
    assert is_allowed(importer, imported) is allowed


def test_no_modules_import_each_other_in_a_circle():
    graph = {module: set() for module in SOURCES}
    for module, _, imported in within():
        if imported in SOURCES and imported != module:
            graph[module].add(imported)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])), pytrace=False)


def test_inside_a_package_imports_are_relative_and_across_packages_absolute():
    wrong = []
    for module, path in SOURCES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                own = not node.level and (node.module or "").startswith(f"callboard.{layer_of(module)}.")
                out = node.level > len(module.split(".")) - (2 if path.name != "__init__.py" else 1)
                if own or out:
                    wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert wrong == []


def family(module):
    if layer_of(module) != "transports":
        return None
    return PLANES.get(module.split(".")[-1].partition("_")[0])


def test_planes_do_not_know_each_other():
    wrong = [
        f"{module} imports {imported}"
        for module, _, imported in within()
        if family(module) and family(imported) and family(module) != family(imported)
    ]
    assert wrong == []


SPEAK_ZMQ = {"callboard.transports.events.zmq", "callboard.serving.kv.zmq_source"}
"""Besides the tcp plane: the event plane, and the reader of what engines publish."""


def test_only_who_speaks_zmq_touches_it():
    wrong = [
        f"{module}:{line}"
        for module, line, _ in within("zmq")
        if family(module) != "tcp" and layer_of(module) != "bench" and module not in SPEAK_ZMQ
    ]
    assert wrong == []


def test_no_module_is_named_for_having_no_subject():
    assert [m for m in SOURCES if m.split(".")[-1] in {"utils", "util", "common", "helpers", "misc"}] == []


def test_files_and_functions_fit_and_what_is_public_is_documented():
    report = runpy.run_path(str(ROOT / "tools" / "report.py"))
    assert list(report["problems"]()) == []
