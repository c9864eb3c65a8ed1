"""The house rules that a machine can hold: which way imports point, what stays light, what is public."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import research_steps

PACKAGE = Path(research_steps.__file__).parent
# From the ground up: a module imports only from its own line and those above it.
HOUSE = [
    "errors", "redaction", "record", "resources", "series", "store", "files", "git", "provenance", "contention",
    "code", "config", "leases", "attachments", "holdings", "journal", "plans", "entry", "comparison", "claims",
    "hypotheses", "background", "launcher", "threads", "steps", "sinks", "snapshot", "publish", "notes", "reproduction",
    "cluster", "run", "revisions", "sources", "check", "kickoff", "dev", "cli", "program", "__main__",
]  # fmt: skip
HEAVY = (
    *("marin", "levanter", "jax", "wandb", "github", "ray", "scipy", "numpy"),
    *("requests", "tenacity", "detect_secrets", "draccus"),
)
# Who may import a library that another one could take the place of.
USERS = {
    "marin": {"steps/marin.py"},
    "rigging": {"steps/marin.py"},
    "github": {"sinks/github.py"},
    "requests": {"sinks/github.py"},
    "fray": {"steps/marin.py", "cluster/client.py", "cluster/task.py"},
    "ray": {
        *("cluster/client.py", "cluster/config.py", "cluster/jobs.py"),
        *("cluster/node.py", "cluster/task.py", "cluster/tpu.py"),
    },
    "detect_secrets": {"redaction.py"},
}


def _module_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} uses a relative import"
            found.add(str(node.module))
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_every_module_has_its_place_in_the_house() -> None:
    """A new module has to be given a place before it can be merged."""
    found = {_module_of(path) for path in PACKAGE.rglob("*.py")} - {"__init__"}
    assert found == set(HOUSE)


def test_imports_point_down() -> None:
    """No module knows one that is built upon it."""
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        module = _module_of(path)
        if module == "__init__":
            continue
        for name in _imports(path):
            parts = name.split(".")
            if parts[0] != "research_steps" or parts[1:2] == [] or parts[1] not in HOUSE:
                continue
            if HOUSE.index(parts[1]) > HOUSE.index(module) and not _type_only(path, parts[1]):
                wrong.append(f"{path.relative_to(PACKAGE)} imports {name}")
    assert wrong == []


def _type_only(path: Path, module: str) -> bool:
    return f"if TYPE_CHECKING:\n    from research_steps.{module}" in path.read_text()


def test_each_library_has_its_place() -> None:
    """Another generation of Marin, or another client of GitHub, is another binding, and nothing else."""
    users: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        for name in _imports(path):
            users.setdefault(name.split(".")[0], set()).add(path.relative_to(PACKAGE).as_posix())
    assert {library: users.get(library, set()) for library in USERS} == USERS
    assert "levanter" not in users


@pytest.mark.parametrize(
    "modules",
    [
        "research_steps, research_steps.cli, research_steps.publish, research_steps.sinks.logbook",
        "research_steps.cluster.task, research_steps.steps.away",
    ],
)
def test_importing_the_package_the_command_and_the_work_of_a_job_loads_nothing_heavy(modules: str) -> None:
    """Neither a person who asks for the status nor a trial on a cluster waits for Marin, JAX or a cloud library."""
    code = f"import sys, {modules}\nprint([name for name in {(*HEAVY, 'fray')!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_public_names_are_these() -> None:
    """What threads import stays; adding to it is a decision."""
    assert sorted(research_steps.__all__) == [
        "Hypothesis", "Metric", "ResearchError", "Resources", "Series", "StepFailed", "Stop", "UsageError", "main",
    ]  # fmt: skip
