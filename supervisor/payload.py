"""Class and arguments of an actor that a script spawns, on their way into a child of its own.

cloudpickle carries what cannot be imported there. What can be is sent by name, so that a class is the same
object for all who use it: also a class of the script (the child imports the script, as ``spawn`` does) and of
a module that was loaded from a file outside ``sys.path`` (as pytest does; the child loads the same file).
References become references of the child's node.
"""

from __future__ import annotations

import importlib.util
import io
import pickle
import sys
from collections.abc import Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import FunctionType, ModuleType
from typing import Any

import cloudpickle  # type: ignore[import-untyped]

from .process import MainModule

GUARD_NOTE = (
    "callboard: the script is imported by its children; what starts the system belongs under\n"
    '    if __name__ == "__main__":'
)


def dump(cls: type, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bytes:
    """Pack ``cls(*args, **kwargs)`` for `load`. Raises `TypeError` naming what cannot be packed."""
    body = io.BytesIO()
    pickler = _Pickler(body)
    try:
        pickler.dump((cls, tuple(args), dict(kwargs)))
    except Exception as error:  # pickling runs the code of every object in the arguments
        raise TypeError(f"the arguments of {cls.__name__} cannot be sent to a process: {error}") from error
    main = pickler.main if pickler.uses_main else None
    return pickle.dumps((main, pickler.files(), body.getvalue()))


def load(payload: bytes) -> tuple[type, tuple[Any, ...], dict[str, Any]]:
    """Unpack in a child; raises whatever the import of the modules raises.

    Only for bytes that came over the inherited control channel: unpickling runs code.
    """
    main, files, body = pickle.loads(payload)
    if main is not None and sys.modules["__main__"].__name__ != "__mp_main__":
        try:
            main.restore()
        except BaseException as error:
            error.add_note(GUARD_NOTE)
            raise
    if files:
        sys.meta_path.append(_FileFinder(files))
    unpacked: tuple[type, tuple[Any, ...], dict[str, Any]] = _Unpickler(io.BytesIO(body)).load()
    return unpacked


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Notes which modules are needed by name, and sends what is in the script by name."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.main = MainModule.of_this_process()
        self.uses_main = False
        self._modules: set[str] = set()

    def persistent_id(self, obj: Any) -> tuple[str, str] | None:
        if not isinstance(obj, type | FunctionType):
            return None
        if obj.__module__ != "__main__":
            self._modules.add(obj.__module__)
            return None
        if (
            not (self.main.name or self.main.path)
            or _find(sys.modules["__main__"], obj.__qualname__) is not obj
        ):
            return None
        self.uses_main = True
        return "__main__", obj.__qualname__

    def files(self) -> dict[str, str]:
        """The modules that only their file leads to, packages around them included."""
        found = {}
        for name in self._modules:
            parts = (name or "").split(".")
            for length in range(1, len(parts) + 1):
                package = ".".join(parts[:length])
                module = sys.modules.get(package)
                file = getattr(module, "__file__", None)
                if module is not None and file and not _is_importable(package, module):
                    found[package] = file
        return found


class _Unpickler(pickle.Unpickler):
    def persistent_load(self, pid: Any) -> Any:
        module, qualname = pid
        return _find(sys.modules[module], qualname)


class _FileFinder(MetaPathFinder):
    """Finds the modules that their file alone leads to."""

    def __init__(self, files: dict[str, str]) -> None:
        self._files = files

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Called by the import system."""
        if fullname in self._files:
            return importlib.util.spec_from_file_location(fullname, self._files[fullname])
        if any(name.startswith(f"{fullname}.") for name in self._files):
            package = ModuleSpec(fullname, None, is_package=True)
            package.submodule_search_locations = []
            return package
        return None


def _find(module: ModuleType, qualname: str) -> Any:
    found: Any = module
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found


def _is_importable(name: str, module: ModuleType) -> bool:
    """True if a child with our ``sys.path`` finds the same module by its name."""
    parent, _, _ = name.rpartition(".")
    search = getattr(sys.modules.get(parent), "__path__", None) if parent else None
    if parent and search is None:
        return False
    try:
        spec = PathFinder.find_spec(name, search)
    except (ImportError, ValueError):
        return False
    if spec is None:
        return name in sys.builtin_module_names
    if parent and not _is_importable(parent, sys.modules[parent]):
        return False
    return spec.origin == getattr(module, "__file__", None)
