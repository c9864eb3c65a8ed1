"""The digest of a measure function's code: it changes with what is run, and with nothing else.

Each experiment lies in a folder of its own and is imported by a real, fresh interpreter.
"""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from research_steps.errors import UsageError
from research_steps.trial.code import trace_name

MEASURE = """
import json
import numpy
from collections.abc import Mapping
from experiments.toy import kernels
from experiments.toy.absolute import fast
from .relative import helper
from . import sibling
from .nested.deep import deepest
from ..shared import util

def measure(config):
    from experiments.toy import inside_function
    if config:
        import experiments.toy.conditional as conditional
    yield {"time_s": 1.0}
"""

FILES = {
    "experiments/__init__.py": "",
    "experiments/toy/__init__.py": "from .from_init import name\n",
    "experiments/toy/from_init.py": "name = 1\n",
    "experiments/toy/__main__.py": "from experiments.toy.measure import measure\n",
    "experiments/toy/measure.py": MEASURE,
    "experiments/toy/kernels/__init__.py": "from experiments.toy.kernels.one import one\n",
    "experiments/toy/kernels/one.py": "from experiments.toy.kernels import two\none = 1\n",
    "experiments/toy/kernels/two.py": "from experiments.toy import measure\n",
    "experiments/toy/absolute.py": "fast = 1\n",
    "experiments/toy/relative.py": "helper = 1\n",
    "experiments/toy/sibling.py": "value = 1\n",
    "experiments/toy/nested/deep.py": "from .deeper import deepest\n",
    "experiments/toy/nested/deeper.py": "deepest = 1\n",
    "experiments/shared/util.py": "value = 1\n",
    "experiments/toy/inside_function.py": "value = 1\n",
    "experiments/toy/conditional.py": "value = 1\n",
    "experiments/toy/unrelated.py": "value = 1\n",
    "experiments/other/measure.py": "def measure(config): ...\n",
    "conftest.py": "",
    "data/table.csv": "1,2\n",
}
RUN = [name for name in FILES if not name.endswith(("__main__.py", "unrelated.py", "conftest.py", ".csv"))]
RUN.remove("experiments/other/measure.py")


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    return root


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return write(tmp_path / "checkout", FILES)


def digest(root: Path, name: str = "experiments.toy.measure:measure") -> str:
    return trace_name(name, root).digest


def traced(root: Path, program: str, *command: str) -> dict:
    """What `trace` says in a process that is started in the checkout, as the thread is."""
    done = subprocess.run(
        [sys.executable, *command, *(["-c", program] if program else [])], cwd=root, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


TRACE = """
import json
from research_steps.trial.code import trace
def tell(measure):
    code = trace(measure)
    print(json.dumps({"name": code.name, "root": str(code.root), "files": list(code.files), "digest": code.digest}))
"""


def test_the_code_is_the_module_and_what_it_imports(checkout: Path) -> None:
    """Absolute, relative, nested, through a package's __init__, inside functions and conditions; nothing else."""
    code = trace_name("experiments.toy.measure:measure", checkout)
    assert sorted(code.files) == sorted(RUN)
    assert "numpy" in code.libraries
    assert not any(name.startswith("experiments") for name in code.libraries)


@pytest.mark.parametrize("name", RUN)
def test_an_edit_of_what_is_run_changes_the_digest(checkout: Path, name: str) -> None:
    """So an edited kernel is measured again."""
    before = digest(checkout)
    (checkout / name).write_text((checkout / name).read_text() + "# edited\n")
    assert digest(checkout) != before


@pytest.mark.parametrize("name", sorted(set(FILES) - set(RUN)))
def test_an_edit_of_anything_else_changes_nothing(checkout: Path, name: str) -> None:
    """So the thread file, another experiment and the data can change, and what was measured still counts."""
    before = digest(checkout)
    (checkout / name).write_text("def measure(config): 1/0\n")
    assert digest(checkout) == before


def test_line_ends_and_place_change_nothing(checkout: Path, tmp_path: Path) -> None:
    """A checkout on Windows, or at another place, has the same code."""
    other = write(tmp_path / "elsewhere" / "checkout", FILES)
    for name in FILES:
        path = other / name
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert digest(other) == digest(checkout)


def test_a_new_file_that_is_imported_instead_changes_the_digest(checkout: Path) -> None:
    """A module that becomes a package, and a file that takes the place of a library."""
    before = digest(checkout)
    (checkout / "experiments/toy/relative").mkdir()
    (checkout / "experiments/toy/relative/__init__.py").write_text("helper = 1\n")
    package = digest(checkout)
    assert package != before
    (checkout / "numpy.py").write_text("")
    assert digest(checkout) != package


def test_namespace_packages_at_every_level_are_followed(tmp_path: Path) -> None:
    """Folders without __init__ are packages too, also the topmost one with only folders in it."""
    root = write(
        tmp_path,
        {
            "experiments/a/b/measure.py": "from experiments.c.d import kernel\nimport wandb\ndef measure(config): ...\n",
            "experiments/c/d/kernel.py": "value = 1\n",
            "wandb/run-1/log.txt": "",
        },
    )
    code = trace_name("experiments.a.b.measure:measure", root)
    assert list(code.files) == ["experiments/a/b/measure.py", "experiments/c/d/kernel.py"]
    assert code.libraries == ("wandb",)


def test_a_programs_measure_function_has_its_importable_name(tmp_path: Path) -> None:
    """`python -m package`, `python -m package.module` and a plain script: a child can import each of them."""
    thread = TRACE + "from pkg.kernel import value\ndef measure(config): ...\ntell(measure)\n"
    script = TRACE + "from kernel import value\ndef measure(config): ...\ntell(measure)\n"
    root = write(
        tmp_path,
        {
            "pkg/__init__.py": "",
            "pkg/__main__.py": thread,
            "pkg/thread.py": thread,
            "pkg/kernel.py": "value = 1\n",
            "scripts/my-script.py": script,
            "scripts/kernel.py": "value = 1\n",
        },
    )
    whole = traced(root, "", "-m", "pkg")
    assert (whole["name"], whole["root"]) == ("pkg.__main__:measure", str(root))
    assert whole["files"] == ["pkg/__init__.py", "pkg/__main__.py", "pkg/kernel.py"]
    module = traced(root, "", "-m", "pkg.thread")
    assert (module["name"], module["root"]) == ("pkg.thread:measure", str(root))
    plain = traced(root, "", "scripts/my-script.py")
    assert (plain["name"], plain["root"]) == ("my-script:measure", str(root / "scripts"))
    assert plain["files"] == ["kernel.py", "my-script.py"]


def test_a_decorated_measure_function_is_traced_where_it_is_defined(tmp_path: Path) -> None:
    """Not where its decorator is; the decorator's module counts as well, because it runs."""
    decorators = "import functools\ndef timed(function):\n    @functools.wraps(function)\n    def wrapped(config):\n"
    decorators += "        return function(config)\n    return wrapped\n"
    root = write(
        tmp_path,
        {
            "tools/decorators.py": decorators,
            "pkg/measure.py": "from tools.decorators import timed\n@timed\ndef measure(config): ...\n",
        },
    )
    trace = traced(root, TRACE + "from pkg.measure import measure\ntell(measure)\n")
    assert (trace["name"], trace["root"]) == ("pkg.measure:measure", str(root))
    assert trace["files"] == ["pkg/measure.py", "tools/decorators.py"]


REFUSED = {
    "lambda": "measure = lambda config: {}",
    "nested": "def outer():\n    def measure(config): ...\n    return measure\nmeasure = outer()",
    "method": "class Kernel:\n    def measure(self, config): ...\nmeasure = Kernel().measure",
    "static method": "class Kernel:\n    @staticmethod\n    def measure(config): ...\nmeasure = Kernel.measure",
    "partial": "import functools\ndef of(size, config): ...\nmeasure = functools.partial(of, 3)",
    "object": "class Kernel:\n    def __call__(self, config): ...\nmeasure = Kernel()",
    "built-in": "import time\nmeasure = time.sleep",
    "defined twice": "def one(config): ...\nmeasure = one\ndef one(config): 1",
    "number": "measure = 3",
}


@pytest.mark.parametrize("text", REFUSED.values(), ids=REFUSED)
def test_a_measure_function_that_no_other_process_can_import_is_refused(tmp_path: Path, text: str) -> None:
    """The sentence says what is expected of one, before anything is measured."""
    root = write(tmp_path, {"given.py": text})
    program = (
        "import json\nfrom given import measure\nfrom research_steps.trial.code import trace\n"
        "from research_steps.errors import UsageError\n"
        "try:\n    trace(measure)\nexcept UsageError as error:\n    print(json.dumps({'told': str(error)}))\n"
    )
    told = traced(root, program)["told"]
    assert told.startswith("The measure function ")
    assert "expected a function that is defined at the top level of a module" in told
    assert "\n" not in told


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("x = 1\ndef broken(:\n", r"kernels/one\.py:2 does not parse"),
        ("x = '\x00'\n", r"kernels/one\.py.* does not parse"),
    ],
    ids=["syntax", "NUL"],
)
def test_a_file_that_does_not_parse_is_told_with_its_place(checkout: Path, text: str, where: str) -> None:
    """Also when it is only imported by what is imported."""
    (checkout / "experiments/toy/kernels/one.py").write_text(text)
    with pytest.raises(UsageError, match=where):
        digest(checkout)


def test_a_measure_function_whose_file_is_gone_is_told(checkout: Path) -> None:
    """A step that was built from it must not run with the digest of nothing."""
    (checkout / "experiments/toy/measure.py").unlink()
    with pytest.raises(UsageError, match=r"no source file of experiments\.toy\.measure:measure below"):
        digest(checkout)


def test_many_steps_may_trace_their_code_at_once() -> None:
    """Marin runs steps in threads. Python 3.11 can fail with SystemError when two of them build syntax trees while JAX,
    which is called at each garbage collection, lets another thread run."""
    program = """
import threading
from pathlib import Path
import jax
from research_steps.trial.code import trace_name

def trace():
    for _ in range(180):
        trace_name("tests.support.failing_measures:sleeps", Path())

failures = []
threading.excepthook = lambda failed: failures.append(failed.exc_value)
threads = [threading.Thread(target=trace) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
raise SystemExit(str(failures) if failures else 0)
"""
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_environment_variables_that_are_read_by_name_are_told(tmp_path: Path) -> None:
    """However they are asked for, in whatever module; a name that is computed is not seen."""
    body = """
        import os
        from os import environ, getenv
        os.environ["BY_INDEX"], os.environ.get("BY_GET", ""), os.getenv("BY_GETENV"), environ["IMPORTED"]
        getenv("GETENV"), "ASKED" in os.environ, {}.get("NO_VARIABLE"), os.environ["COMP" + "UTED"]
        """
    files = {"toy.py": "import kernels\ndef measure(config): ...\n", "kernels.py": textwrap.dedent(body)}
    code = trace_name("toy:measure", write(tmp_path, files))
    assert code.variables == ("ASKED", "BY_GET", "BY_GETENV", "BY_INDEX", "GETENV", "IMPORTED")
