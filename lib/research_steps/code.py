"""The code of a measure function: its module and what that imports, followed through the experiment's own files.

Its digest is part of a trial's identity, so that an edited kernel is measured again. A module belongs to the
experiment when its dotted name resolves under the same import root as the measure function's module; anything else
(JAX, Levanter, this package) is a library: its version is provenance, and the launcher imports it ahead of time.
Data files that the code reads at run time are not seen.
"""

import ast
import inspect
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from research_steps.errors import UsageError
from research_steps.record import canonical, sha256

Measure = Callable[[Any], Any]


@dataclass(frozen=True)
class Code:
    """`name` is 'module:function'; `files` maps each file, relative to `root`, to the hash of its bytes (LF)."""

    name: str
    root: Path
    files: dict[str, str]
    libraries: tuple[str, ...]

    @property
    def digest(self) -> str:
        return sha256(canonical({"name": self.name, "files": self.files}))


def trace(measure: Measure) -> Code:
    """The code that `measure` runs, as it is on disk. Raises UsageError when it can't be imported again by name."""
    module = inspect.getmodule(measure)
    source = inspect.getsourcefile(measure) if module else None
    name = getattr(measure, "__qualname__", "")
    if module is None or source is None or not name.isidentifier():
        raise UsageError(
            f"The measure function {measure!r} can't be run in a process of its own: expected a function defined at "
            "the top level of a module, found one that has no importable name."
        )
    module_name = _importable_name(module, source)
    root = Path(source).resolve()
    for _ in range(len(module_name.split(".")) + (1 if root.name == "__init__.py" else 0)):
        root = root.parent
    return trace_name(f"{module_name}:{name}", root)


def trace_name(name: str, root: Path) -> Code:
    """The code of 'module:function' under an import root, as it is on disk."""
    files: dict[str, str] = {}
    libraries: set[str] = set()
    pending = [name.partition(":")[0]]
    seen = set(pending)
    while pending:
        module = pending.pop()
        path = _resolve(module, root)
        if path is None:
            if _resolve(module.partition(".")[0], root) is None:
                libraries.add(module)
            continue
        if path.is_dir():
            continue
        content = path.read_bytes().replace(b"\r\n", b"\n")
        files[path.relative_to(root).as_posix()] = sha256(content)
        for found in _imports(content, module, path):
            if found not in seen:
                seen.add(found)
                pending.append(found)
    return Code(name, root, dict(sorted(files.items())), tuple(sorted(libraries)))


def _importable_name(module: Any, source: str) -> str:
    if module.__name__ != "__main__":
        return str(module.__name__)
    spec = getattr(module, "__spec__", None)
    return str(spec.name) if spec is not None else Path(source).stem


def _resolve(module: str, root: Path) -> Path | None:
    path = root.joinpath(*module.split("."))
    for candidate in (path / "__init__.py", path.with_name(path.name + ".py")):
        if candidate.is_file():
            return candidate
    # A folder without __init__.py is a namespace package: nothing of it runs. 'lib/' and the like are none.
    return path if path.is_dir() and path.name.isidentifier() and any(path.glob("*.py")) else None


def _imports(content: bytes, module: str, path: Path) -> Iterator[str]:
    try:
        tree = ast.parse(content, filename=str(path))
    except SyntaxError as error:
        raise UsageError(f"{path}:{error.lineno} does not parse ({error.msg}): mend it, then run again.") from error
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _with_parents(alias.name)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([base] if base else [])])
            yield from _with_parents(base)
            # 'from package import name' may name a module; of a library only its own modules are worth knowing.
            if base.partition(".")[0] not in sys.stdlib_module_names:
                yield from (f"{base}.{alias.name}" for alias in node.names if alias.name != "*")
    yield from _with_parents(package)


def _with_parents(module: str) -> Iterator[str]:
    parts = module.split(".")
    for length in range(1, len(parts) + 1):
        if parts[0]:
            yield ".".join(parts[:length])
