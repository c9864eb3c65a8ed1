"""How the process of a trial imports the experiment: from its sources as they are on disk now, or, for a version of the
code that is not the work tree's, from a copy that stands in for the checkout."""

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import (
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    ModuleSpec,
    SourceFileLoader,
)
from importlib.util import spec_from_file_location
from operator import attrgetter
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from research_steps.trial.code import Code, WorkTree

# This package measures both sides, so that it is the same in every process.
_OWN = __name__.partition(".")[0]


def load(name: str) -> Any:
    """What 'module:name' names."""
    module, _, attribute = name.partition(":")
    return attrgetter(attribute)(import_module(module))


def import_from(code: Code) -> None:
    """Have the experiment's modules imported from where its code is."""
    if code.root in sys.path:
        return
    if code.tree is None:
        sys.path.insert(0, code.root)
        sys.path_hooks.insert(0, _sources_below(code.root))
    else:
        _forget_other_versions(code.tree)
        sys.path[:] = [code.root, *map(code.tree.moved, sys.path)]
        sys.meta_path.insert(0, _Copied(code.tree))
    sys.path_importer_cache.clear()


def is_below(root: str, path: str) -> bool:
    """Whether a file is the checkout's own: below its root, and no installed package's."""
    return (path == root or path.startswith(f"{root.rstrip(os.sep)}{os.sep}")) and "site-packages" not in path


class _FromSource(SourceFileLoader):
    """Compiles a module's source each time. Cached bytecode is told apart by whole seconds and the file's size, so
    that it can be older than an edit."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


def _sources_below(root: str) -> Any:
    finder = FileFinder.path_hook((ExtensionFileLoader, EXTENSION_SUFFIXES), (_FromSource, SOURCE_SUFFIXES))

    def hook(entry: str) -> Any:
        if not is_below(root, entry):
            raise ImportError(f"{entry} is not the experiment's")
        return finder(entry)

    return hook


class _Copied(MetaPathFinder):
    """Finds in the copy whatever others find in the checkout, also what is installed from there to be edited."""

    def __init__(self, tree: WorkTree) -> None:
        self._tree = tree

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] == _OWN:
            return None
        for finder in sys.meta_path:
            spec = finder.find_spec(fullname, path, target) if finder is not self else None
            if spec is not None:
                return self._moved(spec)
        return None

    def _moved(self, spec: ModuleSpec) -> ModuleSpec:
        folders = spec.submodule_search_locations
        moved = None if folders is None else list(map(self._tree.moved, folders))
        origin = self._tree.moved(spec.origin or "")
        if spec.origin is None or origin == spec.origin:
            if moved is not None and moved != list(folders or ()):
                spec.submodule_search_locations = moved
            return spec
        again = spec_from_file_location(spec.name, origin, submodule_search_locations=moved)
        if again is None or not Path(origin).is_file():
            raise ModuleNotFoundError(f"No module named {spec.name!r} in {self._tree.named}", name=spec.name)
        return again


def _forget_other_versions(tree: WorkTree) -> None:
    """Forget what was imported from the checkout ahead, if any of it is not what the copy holds: what was imported
    beside that refers to it."""
    imported = {
        name: file
        for name, module in list(sys.modules.items())
        if (file := getattr(module, "__file__", None) or "") and is_below(tree.of, file)
        if name.partition(".")[0] != _OWN and name != "__main__"
    }
    if any(not tree.holds(file) for file in imported.values()):
        for name in imported:
            del sys.modules[name]
