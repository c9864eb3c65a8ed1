"""The house rules that a machine can hold: which way imports point, what stays light, what is public."""

import ast
import builtins
import re
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
import research_steps
from research_steps import errors

PACKAGE = Path(research_steps.__file__).parent
# A room imports only from itself and the rooms before it.
ROOMS = ["records", "journal", "evidence", "trial", "remote", "publish", "seal", "thread", "actions", "cli"]
# Everybody may import these; the two doors import whatever they lead to.
GROUND, DOORS = {"errors.py", "files.py", "git.py", "terminal.py"}, {"__init__.py", "__main__.py"}
HEAVY = (
    *("marin", "levanter", "jax", "wandb", "github", "ray", "scipy", "numpy"),
    *("requests", "tenacity", "detect_secrets", "draccus", "pandas", "vl_convert"),
)
LONGEST_NAME = 70
# Who may import a library that another one could take the place of.
USERS = {
    "marin": {f"thread/marin/{name}.py" for name in ("executor_steps", "artifact_steps", "jobs", "outputs")},
    "rigging": {f"thread/marin/{name}.py" for name in ("executor_steps", "artifact_steps", "outputs")},
    # Retries, follows and waits by rules of its own.
    "github": set(),
    "requests": {"publish/issue/github.py"},
    "fray": {"thread/marin/jobs.py", "remote/ray/client.py", "remote/ray/task.py"},
    "ray": {
        *("remote/ray/config.py", "remote/ray/jobs.py", "remote/ray/task.py"),
    },
    "detect_secrets": {"records/secret_shapes.py"},
    # A driver that loads it would disturb what it times; its own command sends.
    "wandb": set(),
    # Large, and only the report needs it.
    "vl_convert": {"publish/report/files.py"},
}
# Who prints beside the one way to the terminal, and why it reaches none.
PRINTERS = {
    # The answer to another process of this package, over ssh.
    *(("trial/launcher/daemon.py", "print"), ("trial/launcher/daemon.py", "sys.exit")),
    # What stands in what rich draws was made by `terminal.cells`.
    *(("thread/dev/watch.py", "Console().print"), ("publish/terminal/watch.py", "live.console.print")),
    ("publish/terminal/live.py", "console.print"),
}
# Who opens files that are not below .agents: of the system, the store, W&B's folder and the git directory, those that a
# user names, and the code; and the package's own.
OTHER_FILES = {
    *("actions/templates/__init__.py", "actions/others.py"),
    # The terminal itself, to ask who is in its foreground.
    "cli/recorded_command.py",
    *("journal/leases.py", "journal/store.py", "journal/attachments.py", "journal/secrets_in_files.py"),
    *("publish/wandb/run_file.py", "publish/wandb/runs_on_disk.py", "publish/wandb/sync.py"),
    *("seal/sealing.py", "seal/tags.py", "seal/verify.py", "seal/reproduce/sandbox.py"),
}
# Errors outside of the one tree, each because whoever calls expects it.
RAISED_FOR_OTHERS = {
    # How Python hears that a module has no such name.
    ("__init__.py", "AttributeError"),
    # Fray's own contract for a job.
    *(("remote/ray/client.py", "JobFailed"), ("remote/ray/client.py", "TimeoutError")),
    # What Marin's other generation raises by itself.
    *(("thread/marin/artifact_steps.py", name) for name in ("FileNotFoundError", "RuntimeError", "TypeError")),
    # What opening any other file raises.
    ("files.py", "OSError"),
    # On a node that has none of this package.
    # How Python's import system hears that a path is not a hook's own, and that there is no such module.
    *(("trial/launcher/importing.py", "ImportError"), ("trial/launcher/importing.py", "ModuleNotFoundError")),
}


def _files() -> list[str]:
    return [path.relative_to(PACKAGE).as_posix() for path in sorted(PACKAGE.rglob("*.py"))]


def _imports(file: str) -> Iterator[str]:
    """Every name that a file imports, wherever in it: in a function and for type checking too."""
    for node in ast.walk(ast.parse((PACKAGE / file).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} uses a relative import"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _graph() -> dict[str, set[str]]:
    """Each file of the package with the files that it imports."""
    files = set(_files())
    graph: dict[str, set[str]] = {file: set() for file in files}
    for file in files:
        for name in _imports(file):
            first, *rest = name.split(".")
            if first == "research_steps" and rest:
                path = "/".join(rest)
                graph[file] |= {f"{path}.py", f"{path}/__init__.py"} & files - {file}
    return graph


def _floor(file: str) -> int:
    return 0 if file in GROUND else 1 + ROOMS.index(file.split("/")[0])


def test_the_house_has_ten_rooms() -> None:
    """A new file has a room, or is one of the six at the top."""
    top = {file.split("/")[0] for file in _files()}
    assert top == {*ROOMS, *GROUND, *DOORS}


def test_imports_point_down() -> None:
    """No file knows one of a room that is built upon its own, not even for a type."""
    graph = _graph()
    edges = [(file, other) for file in graph if file not in DOORS for other in graph[file]]
    assert [edge for edge in edges if edge[1] in DOORS or _floor(edge[1]) > _floor(edge[0])] == []


def test_no_two_files_need_each_other() -> None:
    """Whoever reads one file never has to have read one that builds upon it."""
    try:
        list(TopologicalSorter(_graph()).static_order())
    except CycleError as error:
        pytest.fail(f"a circle: {' -> '.join(error.args[1])}")


def _is_raised(node: ast.Raise, file: ast.Module) -> str:
    """The class that is raised, or, where a function makes the error, the class that this returns."""
    made = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
    name = ast.unparse(made).removeprefix("self.") if made is not None else ""
    functions = (
        function for function in ast.walk(file) if isinstance(function, ast.FunctionDef) and function.name == name
    )
    return next((ast.unparse(function.returns) for function in functions if function.returns is not None), name)


def test_every_error_stands_in_the_one_tree() -> None:
    """Whoever catches `ResearchError` catches whatever the package raises on purpose; what else is raised is somebody
    else's to catch, or goes no further than its file."""
    kinds = {**vars(builtins), **vars(errors)}.items()
    known = {name for name, value in kinds if isinstance(value, type) and issubclass(value, BaseException)}
    tree = known & set(vars(errors))
    raised, made = set(), []
    for name in _files():
        file = ast.parse((PACKAGE / name).read_text())
        for node in ast.walk(file):
            if isinstance(node, ast.ClassDef) and name != "errors.py":
                made += [node.name for base in node.bases if ast.unparse(base) in known]
            # What is named by a variable was caught before.
            elif isinstance(node, ast.Raise) and (what := _is_raised(node, file)).lstrip("_")[:1].isupper():
                raised |= {(name, what)} if what not in tree and not what.startswith("_") else set()
    assert raised == RAISED_FOR_OTHERS
    assert [name for name in made if not name.startswith("_")] == []


def _prints(node: ast.Call) -> str:
    """By what a call writes to the terminal, empty where it doesn't."""
    called = re.sub(r"\([^()]*(?:\([^()]*\))*[^()]*\)", "()", ast.unparse(node.func))
    if called == "sys.exit" and all(isinstance(given, ast.Constant | ast.Name | ast.Attribute) for given in node.args):
        # With an exit code.
        return ""
    own = ("print", "sys.exit", "Text", "click.echo", "click.secho", "echo", "secho")
    written = re.fullmatch(r"sys\.(?:stdout|stderr)(?:\.buffer)?\.write|.*\.print", called)
    return called if called in own or written else ""


def test_there_is_one_way_to_the_terminal() -> None:
    """What a record, a store or another machine says is text there: whatever is printed goes through `terminal`, which
    shows what would act. What a program of the user's own prints is passed on as it is, by `terminal` too."""
    prints = {
        (file, called)
        for file in _files()
        if file != "terminal.py"
        for node in ast.walk(ast.parse((PACKAGE / file).read_text()))
        if isinstance(node, ast.Call) and (called := _prints(node))
    }
    assert prints == PRINTERS


def test_a_file_holds_one_concept() -> None:
    """None is longer than 400 lines, and half of them have at most 130."""
    lengths = {file: len((PACKAGE / file).read_text().splitlines()) for file in _files() if "__init__" not in file}
    assert {file: length for file, length in lengths.items() if length > 400} == {}
    assert statistics.median(lengths.values()) <= 130


def test_one_word_has_one_meaning() -> None:
    """A class name is defined once in the whole package."""
    trees = (ast.parse((PACKAGE / file).read_text()) for file in _files())
    names = Counter(node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
    assert [name for name, count in names.items() if count > 1] == []


def test_what_entries_record_is_read_by_its_type() -> None:
    """No string key of a record's configuration stands in the code: what a step records is a field of its details."""
    keyed = []
    for file in _files():
        for node in ast.walk(ast.parse((PACKAGE / file).read_text())):
            match node:
                case ast.Subscript(value=ast.Attribute(attr="config"), slice=ast.Constant(value=str())):
                    keyed.append(f"{file}:{node.lineno}")
                case ast.Call(func=ast.Attribute(attr="get", value=ast.Attribute(attr="config"))):
                    keyed.append(f"{file}:{node.lineno}")
    assert keyed == []


def test_only_what_measures_loads_a_thread() -> None:
    """Whoever looks at a checkout runs none of its code; the kickoff takes the series from there."""
    users = set()
    for file in _files():
        for function in ast.walk(ast.parse((PACKAGE / file).read_text())):
            if isinstance(function, ast.FunctionDef):
                called = {ast.unparse(node.func) for node in ast.walk(function) if isinstance(node, ast.Call)}
                users |= {f"{file}:{function.name}"} if called & {"load_series", "load_thread"} else set()
    in_commands = {
        "cli/measure.py:confirm",
        "cli/measure.py:confirming",
        "cli/cluster.py:submit",
        "cli/set_up.py:kickoff",
    }
    # What a record says that it measured with is looked up in the thread.
    assert users == {*in_commands, "thread/dev/attempt.py:attempt", "thread/command_steps.py:_check_measure"}


def test_files_that_git_brings_are_read_in_one_way() -> None:
    """Nobody but `files` opens or lists what lies below .agents: each other use of a file is one of these."""
    rooms, calls = (
        ("journal", "publish", "seal", "actions", "cli"),
        {"open", "read_bytes", "read_text", "glob", "iterdir"},
    )
    users = set()
    for file in (file for file in _files() if file.split("/")[0] in rooms):
        for node in ast.walk(ast.parse((PACKAGE / file).read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in calls:
                users.add(file)
    assert users == OTHER_FILES


def test_no_test_file_needs_another() -> None:
    """What tests share stands in tests/support."""
    tests = Path(__file__).parent
    named = {file.stem: file.read_text() for file in tests.rglob("*.py")}
    assert [name for name, text in named.items() if re.search(r"(?m)^\s*(from|import) tests\.test_", text)] == []


def test_each_promise_of_security_has_a_test() -> None:
    """SECURITY.md names them, as they are called now."""
    tests = Path(__file__).parent
    promises = re.findall(r"(?m)^\| .* \| (`test_.*`) \|$", (tests.parent / "SECURITY.md").read_text())
    named = [name for promise in promises for name in re.findall(r"`(test_\w+\.py)::(\w+)`", promise)]
    assert len(named) >= len(promises) > 10
    assert [name for file, name in named if f"def {name}(" not in (tests / file).read_text()] == []


def test_each_library_has_its_place() -> None:
    """Another generation of Marin, or another client of GitHub, is another binding, and nothing else."""
    users: dict[str, set[str]] = {}
    for file in _files():
        for name in _imports(file):
            users.setdefault(name.split(".")[0], set()).add(file)
    assert {library: users.get(library, set()) for library in USERS} == USERS
    assert "levanter" not in users


@pytest.mark.parametrize(
    "modules",
    [
        "research_steps, research_steps.cli, research_steps.publish.publisher",
        "research_steps.remote.ray.task, research_steps.remote.worker",
    ],
)
def test_importing_loads_nothing_heavy(modules: str) -> None:
    """Neither a person who asks for the status nor a trial on a cluster waits for Marin, JAX or a cloud library."""
    code = f"import sys, {modules}\nprint([name for name in {(*HEAVY, 'fray')!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_public_names_are_these() -> None:
    """What threads import stays; adding to it is a decision."""
    assert sorted(research_steps.__all__) == [
        "Command", "Hypothesis", "Metric", "ResearchError", "Resources", "Series", "Step", "StepFailed", "Steps", "Stop",
        "UsageError", "load", "main", "progress", "run", "trial_directory",
    ]  # fmt: skip


def test_names_of_tests_can_be_read_in_a_terminal() -> None:
    """The sentence stands in the docstring."""
    names = [
        node.name
        for path in sorted(Path(__file__).parent.glob("test_*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]
    assert [name for name in names if len(name) > LONGEST_NAME] == []
