"""What is installed is what is meant: the package list, the wheel in a clean environment, cheap imports."""

import configparser
import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("actors", "bench", "serving", "supervisor", "testing", "transports")
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}


def output(*command, cwd=None):
    """Return what the command printed, or fail with all that it said."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.fail(f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}", pytrace=False)
    return done.stdout


def modules_after(code):
    """Return the top-level modules that a fresh interpreter has loaded after ``code``."""
    text = f"import atexit, sys\natexit.register(lambda: print('\\n', *sys.modules))\n{code}"
    lines = output(sys.executable, "-P", "-c", text).splitlines()
    return {name.partition(".")[0] for name in lines[-1].split()}


@pytest.fixture(scope="module")
def options():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser["options"]


def test_the_package_list_is_the_tree(options):
    found = {
        ".".join(["callboard", *path.parent.relative_to(ROOT).parts])
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("__init__.py")
    }
    assert sorted(options["packages"].split()) == sorted(found | {"callboard"})


def test_every_folder_is_linked_by_a_relative_link():
    links = {path.name: os.readlink(path) for path in (ROOT / "src/callboard").iterdir() if path.is_symlink()}
    assert links == {folder: f"../../{folder}" for folder in FOLDERS}


def test_no_folder_can_be_imported_by_its_bare_name():
    assert not set(FOLDERS) & set(sys.modules)
    code = f"import importlib.util as u; print(*[n for n in {FOLDERS!r} if u.find_spec(n)])"
    assert output(sys.executable, "-P", "-c", code).split() == []


def test_importing_callboard_loads_nothing_heavy():
    loaded = modules_after("import callboard; assert 'System' in dir(callboard)")
    assert not loaded & {
        "asyncio",
        "click",
        "msgspec",
        "multiprocessing",
        "orjson",
        "psutil",
        "rich",
        "uvloop",
        "zmq",
    }


def test_every_public_name_can_be_loaded():
    output(sys.executable, "-P", "-c", "from callboard import *; import callboard; System, callboard.Ref")


def test_an_unknown_public_name_is_an_attribute_error():
    import callboard

    with pytest.raises(AttributeError, match="has no attribute 'Sytem'"):
        callboard.Sytem  # noqa: B018


def test_the_help_text_loads_no_driver():
    code = "import sys; sys.argv = ['callboard', '--help']; from callboard.supervisor.cli import main; main()"
    assert not modules_after(code) & {"zmq", "nats", "uvloop", "rich", "psutil", "uvicorn", "multiprocessing"}


def build(folder):
    """Build the sdist, and the wheel from it, from a copy: nothing is written into the tree."""
    ignored = shutil.ignore_patterns(
        ".git", ".venv*", "*.egg-info", "__pycache__", "build", "dist", ".*_cache"
    )
    shutil.copytree(ROOT, folder / "tree", symlinks=True, ignore=ignored)
    installer = ["--installer", "uv"] if importlib.util.find_spec("uv") else []
    output(sys.executable, "-m", "build", *installer, folder / "tree", "--outdir", folder)
    (wheel,) = folder.glob("*.whl")
    return wheel


def install(folder, *requirements):
    """Make an environment with the requirements and return its Python."""
    python = folder / "bin" / "python"
    if importlib.util.find_spec("uv"):
        output(sys.executable, "-m", "uv", "venv", "--python", sys.executable, folder)
        output(sys.executable, "-m", "uv", "pip", "install", "--python", python, *requirements)
    else:
        output(sys.executable, "-m", "venv", folder)
        output(python, "-m", "pip", "install", *requirements)
    return python


@pytest.mark.timeout(400)
def test_the_wheel_works_in_a_clean_environment_beside_the_package_called_supervisor(tmp_path):
    wheel = build(tmp_path)
    files = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert {name.partition("/")[0] for name in files} == {"callboard"}
    assert "callboard/py.typed" in files
    for folder in FOLDERS:
        sources = {f"callboard/{p.relative_to(ROOT)}" for p in (ROOT / folder).rglob("*.py")}
        assert sources <= files

    python = install(tmp_path / "clean", wheel, "supervisor")
    assert "hello" in output(python, ROOT / "examples" / "hello.py", cwd=tmp_path).lower()
    assert output(python.with_name("callboard"), "--help", cwd=tmp_path).startswith("Usage: callboard")
    assert output(python.with_name("supervisord"), "--version", cwd=tmp_path)
    both = (
        "import supervisor.options, callboard.supervisor.system as s; print(supervisor.__name__, s.__name__)"
    )
    assert output(python, "-c", both, cwd=tmp_path).split() == ["supervisor", "callboard.supervisor.system"]
    others = [folder for folder in FOLDERS if folder != "supervisor"]
    code = f"import importlib.util as u; print(*[n for n in {others!r} if u.find_spec(n)])"
    assert output(python, "-c", code, cwd=tmp_path).split() == []
