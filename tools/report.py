"""Reports sizes and missing docstrings of the library; exits with 1 if a limit is broken.

Limits: 450 lines a file, 60 lines a function, a docstring on everything public.
"""

from __future__ import annotations

import ast
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = ("src/callboard", "actors", "bench", "serving", "supervisor", "testing", "transports")
OTHERS = ("examples", "tests", "tools")
FILE_LINES, FUNCTION_LINES = 450, 60
SUITE = "testing/conformance"
SUITE_API = ("rig", "network", "pairs", "fixtures", "selection", "__init__")
"""Modules of the conformance suite that others use; the names of its tests and their actors say what they are."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


def python_files(*folders: str) -> list[Path]:
    """Every Python file below the folders of the repository; links are not followed."""
    return sorted(
        path
        for folder in folders
        for path in (ROOT / folder).rglob("*.py")
        if "__pycache__" not in path.parts
    )


def functions(tree: ast.AST) -> Iterator[Function]:
    """Every function of a module, nested ones too."""
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def length(node: Function) -> int:
    """Lines from ``def`` to the end, without the docstring."""
    lines = (node.end_lineno or node.lineno) - node.lineno + 1
    first = node.body[0]
    if ast.get_docstring(node, clean=False) is not None:
        lines -= (first.end_lineno or first.lineno) - first.lineno + 1
    return lines


def undocumented(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and name of each public class, function and method of public classes that has no docstring."""
    if ast.get_docstring(tree) is None and tree.body:
        yield 1, "module"
    yield from _undocumented_in(tree.body, "")


def _undocumented_in(body: list[ast.stmt], prefix: str) -> Iterator[tuple[int, str]]:
    for node in body:
        if not isinstance(node, Function | ast.ClassDef) or node.name.startswith("_"):
            continue
        name = prefix + node.name
        if ast.get_docstring(node) is None and not _is_overload(node):
            yield node.lineno, name
        if isinstance(node, ast.ClassDef):
            yield from _undocumented_in(node.body, f"{name}.")


def _is_overload(node: ast.stmt) -> bool:
    decorators = getattr(node, "decorator_list", [])
    return any("overload" in ast.unparse(d) or ast.unparse(d).endswith(".setter") for d in decorators)


def problems() -> Iterator[str]:
    """One line for each broken limit."""
    library = set(python_files(*LIBRARY))
    for path in sorted(library | set(python_files(*OTHERS))):
        where = path.relative_to(ROOT)
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text, filename=str(path))
        if (lines := text.count("\n")) > FILE_LINES:
            yield f"{where}: {lines} lines, the limit is {FILE_LINES}"
        for node in functions(tree):
            if (lines := length(node)) > FUNCTION_LINES:
                yield f"{where}:{node.lineno}: {node.name} has {lines} lines, the limit is {FUNCTION_LINES}"
        if path in library and not (where.is_relative_to(SUITE) and path.stem not in SUITE_API):
            for line, name in undocumented(tree):
                yield f"{where}:{line}: {name} has no docstring"


def summary(folder: str) -> str:
    """One line: how much there is in a folder, and how large its files and functions are."""
    texts = [path.read_text(encoding="utf-8") for path in python_files(folder)]
    files = [text.count("\n") for text in texts] or [0]
    bodies = [length(node) for text in texts for node in functions(ast.parse(text))] or [0]
    return (
        f"{folder:<15} {len(texts):>3} files {sum(files):>6} lines"
        f"   a file: median {int(statistics.median(files)):>3}, longest {max(files):>3}"
        f"   a function: median {int(statistics.median(bodies)):>2}, longest {max(bodies):>2}"
    )


def main() -> int:
    """Print the report."""
    for folder in LIBRARY:
        print(summary(folder))
    found = list(problems())
    for line in found:
        print(line)
    print(f"{len(found)} problems" if found else "sizes and docstrings: no problems")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
