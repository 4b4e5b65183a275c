"""The documents keep their word: examples run, files exist, each promise names a test that exists."""

import ast
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from callboard.serving.openai_requests import PASSED

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted(path.name for path in ROOT.glob("*.md"))


def text(name):
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(name, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", text(name), re.MULTILINE | re.DOTALL)


def promises():
    """Each bullet of SEMANTICS.md with the tests that it names; lists below "not promised" have none."""
    promised, _, _ = text("SEMANTICS.md").partition("## What is not promised")
    for bullet in re.split(r"^- ", promised, flags=re.MULTILINE)[1:]:
        yield bullet.partition("\n")[0], re.findall(r"`((?:tests|testing)/[\w/]+\.py)::(\w+)`", bullet)


def test_every_promise_names_a_test():
    bare = [line for line, tests in promises() if not tests]
    assert bare == []
    assert len(list(promises())) >= 20


def test_every_test_that_a_promise_names_exists():
    missing = []
    for _, tests in promises():
        for path, name in tests:
            file = ROOT / path
            tree = ast.parse(file.read_text(encoding="utf-8")) if file.exists() else ast.Module([], [])
            functions = (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))
            if name not in {function.name for function in functions}:
                missing.append(f"{path}::{name}")
    assert missing == []


def test_the_example_of_the_readme_runs(tmp_path):
    example = blocks("README.md", "python")[0]
    assert len(example.splitlines()) <= 25
    script = tmp_path / "example.py"
    script.write_text(example)
    done = subprocess.run(
        [sys.executable, "-P", script], capture_output=True, text=True, cwd=tmp_path, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == blocks("README.md", "text")[0].splitlines()


def test_the_test_of_the_readme_passes(tmp_path):
    example, test = blocks("README.md", "python")[:2]
    (tmp_path / "test_readme.py").write_text(example.partition("async def main")[0] + test)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        tmp_path,
        tmp_path,
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert "1 passed" in done.stdout, done.stdout + done.stderr


def test_the_curl_line_of_the_readme_fits_the_config_that_make_serve_starts():
    (line,) = [
        line for block in blocks("README.md", "console") for line in block.splitlines() if "curl" in line
    ]
    words = shlex.split(line.lstrip("$ "))
    config = (ROOT / "examples/serving/serve.toml").read_text(encoding="utf-8")
    (port,) = re.search(r"http://127\.0\.0\.1:(\d+)/v1/chat/completions", " ".join(words)).groups()
    assert re.search(rf"\bport = {port}\b", config)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_file_that_a_document_links_exists(name):
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text(name))
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_the_map_of_the_repository_is_the_repository():
    table = text("README.md").partition("## Map")[2].partition("\n## ")[0]
    named = set(re.findall(r"^\| `([\w/.]+)/` \|", table, re.MULTILINE))
    ignored = {"build", "dist"}
    folders = {
        path.name
        for path in ROOT.iterdir()
        if path.is_dir() and not path.name.startswith(".") and path.name not in ignored
    }
    assert named == folders


def test_the_changelog_has_an_entry_for_this_version():
    import callboard

    assert re.search(rf"^## {re.escape(callboard.__version__)}\b", text("CHANGELOG.md"), re.MULTILINE)


def test_every_make_target_is_in_the_contributing_guide():
    targets = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert [target for target in targets if f"make {target}" not in text("CONTRIBUTING.md")] == []


def test_the_limits_in_the_contributing_guide_are_those_that_are_checked():
    report = runpy.run_path(str(ROOT / "tools" / "report.py"))
    guide = text("CONTRIBUTING.md")
    assert f"{report['FILE_LINES']} lines" in guide
    assert f"{report['FUNCTION_LINES']} lines" in guide


def test_the_table_of_settings_is_what_the_classes_say():
    table = runpy.run_path(str(ROOT / "tools" / "settings_table.py"))
    assert text("docs/settings.md") == table["page"](), "python tools/settings_table.py > docs/settings.md"


def test_the_table_of_errors_is_the_one_that_the_suite_runs():
    table = runpy.run_path(str(ROOT / "tools" / "errors_table.py"))
    assert text("docs/errors.md") == table["page"](), "python tools/errors_table.py > docs/errors.md"


def test_the_table_of_settings_names_every_setting_and_every_variable():
    import dataclasses

    from callboard.transports import nats_settings, settings

    page = text("docs/settings.md")
    for cls in (settings.NetworkSettings, nats_settings.NatsSettings):
        names = [field.name for field in dataclasses.fields(cls) if field.name != "nats"]
        assert [name for name in names if f"| `{name}` |" not in page] == []
    variables = {*settings.VARIABLES, *nats_settings.VARIABLES}
    variables |= {"DYN_REQUEST_PLANE", "DYN_EVENT_PLANE", "DYN_NAMESPACE"}
    assert [name for name in variables if f"| `{name}` |" not in page] == []


def test_the_page_of_the_frontend_lists_the_fields_that_are_passed_on():
    (listed,) = (block for block in blocks("docs/frontend.md", "text") if block.startswith("tools,"))
    assert sorted(name.strip() for name in listed.split(",")) == sorted(PASSED)
