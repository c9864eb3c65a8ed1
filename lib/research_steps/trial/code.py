"""The code of a measure function: its module and what that imports, followed through the experiment's own files; and
that of a command: the files of the repository that it names, and what its Python scripts import there.

Its digest is part of a trial's identity, so that an edited kernel is measured again. A module belongs to the
experiment when its dotted name resolves under the same import root as the measure function's module; anything else
(JAX, Levanter, this package) is a library: its version is provenance, and the launcher imports it ahead of time.
Data files, compiled modules and what is imported by a computed name are not seen.

The environment variables that it reads by name are told as well, because their values change what it measures.
"""

import ast
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from research_steps.errors import UsageError
from research_steps.git import Checkout
from research_steps.records.configurations import importable_name
from research_steps.records.encoding import canonical, sha256
from research_steps.records.model import version_text
from research_steps.trial.command import Command

Measure = Callable[[Any], Any]
# CPython 3.11 counts the depth of all trees that are being built in one place, so that two threads at it at once can
# fail with SystemError; steps run side by side.
_parsing = threading.Lock()


@dataclass(frozen=True)
class WorkTree:
    """A copy at `root` of the checkout at `of`, as that was at a commit with a patch on it (its hash)."""

    root: str
    of: str
    commit: str
    patch: str | None

    @property
    def version(self) -> tuple[str, str | None]:
        return self.commit, self.patch

    @property
    def named(self) -> str:
        return version_text(self.commit, self.patch)

    def moved(self, path: str) -> str:
        """Where the copy has what lies at a path of the checkout; another path as it is."""
        below = Path(path)
        # The copy may lie in the checkout itself.
        if not below.is_relative_to(self.of) or below.is_relative_to(self.root) or "site-packages" in path:
            return path
        return str(self.root / below.relative_to(self.of))

    def holds(self, path: str) -> bool:
        """Whether it holds a file of the checkout as that is now."""
        try:
            return Path(self.moved(path)).read_bytes() == Path(path).read_bytes()
        except OSError:
            return False


@dataclass(frozen=True)
class Code:
    """`name` is 'module:function' below the import root `root`; `files` maps each file, relative to that, to the hash
    of its bytes (LF); `variables` are those of the environment that they read. It lies in the checkout, or in a `tree`
    that stands in for that."""

    name: str
    root: str
    files: dict[str, str]
    libraries: tuple[str, ...]
    variables: tuple[str, ...] = ()
    tree: WorkTree | None = None

    @property
    def digest(self) -> str:
        return sha256(canonical({"name": self.name, "files": self.files}))

    def now(self) -> "Code":
        """The same files, as far as they are there, with what they hold now."""
        hashes = {}
        for file in self.files:
            with suppress(OSError):
                hashes[file] = sha256(_content(Path(self.root, file)))
        return replace(self, files=hashes)


def trace(measure: Measure | Command) -> Code:
    """The code that `measure` runs, as it is on disk. Raises UsageError when it can't be imported again by name."""
    if isinstance(measure, Command):
        return trace_name(measure.name, Checkout.find().root)
    module = sys.modules.get(getattr(measure, "__module__", ""))
    source = getattr(module, "__file__", None)
    name = getattr(measure, "__qualname__", "")
    if source is None or getattr(module, name, None) is not measure:
        raise UsageError(
            f"The measure function {name or repr(measure)} can't be run in a process of its own: expected a function "
            "that is defined at the top level of a module under its own name; move it there, away from any function, "
            "class, lambda or partial."
        )
    module_name = importable_name(measure.__module__)
    path = Path(source).absolute()
    levels = len(module_name.split(".")) + (path.name == "__init__.py")
    return trace_name(f"{module_name}:{name}", path.parents[levels - 1])


def trace_name(name: str, root: Path, tree: WorkTree | None = None) -> Code:
    """The code of 'module:function' under an import root, or of a command that runs there, as it is on disk, in a `tree`
    where one stands in for the checkout. Raises UsageError when it isn't there."""
    command = Command.named(name)
    files: dict[str, str] = {}
    paths: dict[str, Path | None] = {}
    variables: set[str] = set()
    pending, folders = [name.partition(":")[0]], [root]

    def take(path: Path, module: str) -> None:
        content = _content(path)
        files[path.relative_to(root).as_posix()] = sha256(content)
        if path.suffix == ".py":
            parsed = _parsed(content, path)
            pending.extend(_imports(parsed, module, path))
            variables.update(_variables(parsed))

    if command is not None:
        pending[:] = (f"{module}{part}" for module in command.modules() for part in ("", ".__main__"))
        for script in command.files(root):
            # Python finds a script's own modules beside it.
            folders.insert(0, script.parent)
            take(script, "")
    while pending:
        module = pending.pop()
        if module not in paths:
            found = (path for folder in folders if (path := _resolve(module, folder)) is not None)
            path = paths[module] = next(found, None)
            if path is not None:
                take(path, module)
    if command is not None:
        # Its processes import what they need themselves.
        return Code(name, str(root), dict(sorted(files.items())), (), tuple(sorted(variables)), tree)
    if not files:
        raise UsageError(f"There is no source file of {name} below {root}: the module was moved or deleted.")
    # A name below one of the experiment's own packages that is no module is a function, a class or a plain folder.
    own = {file.partition("/")[0].removesuffix(".py") for file in files}
    elsewhere = sorted(module for module, path in paths.items() if path is None)
    libraries = tuple(module for module in elsewhere if module.partition(".")[0] not in own)
    return Code(name, str(root), dict(sorted(files.items())), libraries, tuple(sorted(variables)), tree)


def imported(modules: Iterable[str], root: Path) -> set[str]:
    """The files below an import root that these modules are, or import; what does not parse imports nothing."""
    files, seen, pending = set[str](), set[str](), list(modules)
    while pending:
        module = pending.pop()
        path = _resolve(module, root) if module not in seen else None
        seen.add(module)
        if path is not None:
            files.add(path.relative_to(root).as_posix())
            with suppress(UsageError):
                pending += _imports(_parsed(_content(path), path), module, path)
    return files


def source_folders(root: Path) -> list[str]:
    """The folders of this checkout, other than its top, from which packages are imported that people edit there."""
    folders = dict.fromkeys(map(os.path.realpath, [*sys.path, *_mapped()]))
    own = (folder for folder in folders if Path(folder).is_relative_to(root) and folder != str(root))
    return [folder for folder in own if "site-packages" not in folder]


def _mapped() -> Iterator[str]:
    """Folders of packages that setuptools finds for an editable installation."""
    for finder in sys.meta_path:
        module = sys.modules.get(getattr(finder, "__module__", ""))
        yield from getattr(module, "MAPPING", {}).values()


def _content(path: Path) -> bytes:
    return path.read_bytes().replace(b"\r\n", b"\n")


def _resolve(module: str, root: Path) -> Path | None:
    path = root.joinpath(*module.split("."))
    candidates = (path / "__init__.py", path.with_name(path.name + ".py"))
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def _parsed(content: bytes, path: Path) -> ast.Module:
    try:
        with _parsing:
            return ast.parse(content, filename=str(path))
    except (SyntaxError, ValueError) as error:
        where = f"{path}:{error.lineno}" if isinstance(error, SyntaxError) else str(path)
        raise UsageError(f"{where} does not parse ({getattr(error, 'msg', error)}): mend it, then run again.") from error


def _variables(tree: ast.Module) -> Iterator[str]:
    """The environment variables that a module asks for by a name that is written out."""
    for node in ast.walk(tree):
        match node:
            case ast.Subscript(value=mapping, slice=ast.Constant(value=str(name))) if _is_environment(mapping):
                yield name
            case ast.Compare(left=ast.Constant(value=str(name)), comparators=[mapping]) if _is_environment(mapping):
                yield name
            case ast.Call(func=function, args=[ast.Constant(value=str(name)), *_]):
                called = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
                of = function.value if isinstance(function, ast.Attribute) else None
                if called == "getenv" or (called in ("get", "pop", "setdefault") and _is_environment(of)):
                    yield name


def _is_environment(node: ast.AST | None) -> bool:
    return getattr(node, "attr", getattr(node, "id", "")) == "environ"


def _imports(tree: ast.Module, module: str, path: Path) -> Iterator[str]:
    """The names of all modules that a module may import, and of its own packages, whose __init__ runs first."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    parts = package.split(".")
    yield from _with_parents(package)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _with_parents(alias.name)
        elif isinstance(node, ast.ImportFrom):
            above = parts[: len(parts) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from _with_parents(base)
            # 'from package import name' may name a module; of a library only its own modules are worth knowing.
            if base.partition(".")[0] not in sys.stdlib_module_names:
                yield from (f"{base}.{alias.name}" for alias in node.names if alias.name != "*")


def _with_parents(module: str) -> Iterator[str]:
    parts = module.split(".")
    return (".".join(parts[:length]) for length in range(1, len(parts) + 1) if module)
