"""How a run of a thread ends on the terminal: with what is known by now, and what to look at next."""

import re
from pathlib import Path

import pytest

from tests.support.toy_thread import STEADY, Repository, research

SWEPT = """
    base = steps.baseline(measure, Config())
    steps.interpret(base, steps.sweep(base, ("work", [1000, 4000])))
"""


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    repository = Repository(tmp_path / "checkout")
    repository.measure(STEADY)
    _thread(repository, SWEPT)
    return repository


def _thread(repository: Repository, body: str) -> None:
    """Have what is measured not hang on what else loads the machine."""
    repository.thread(body)
    main = repository.experiment / "__main__.py"
    main.write_text(main.read_text().replace('Metric("time_s", "min")', 'Metric("time_s", "min", timed=False)'))


def _end(output: str) -> list[str]:
    """The lines after the one that names the logbook."""
    lines = output.splitlines()
    (place,) = [number for number, line in enumerate(lines) if "toy.md" in line and line.startswith("toy: ")]
    return lines[place + 1 :]


def test_a_run_ends_with_the_answer_and_what_to_look_at(repository: Repository) -> None:
    """After the path of the logbook, in the words of every surface; again when nothing was new."""
    done = repository.run()
    assert done.code == 0, done.output
    best, *rest, look = _end(done.output)
    assert re.match(r"Best against TOY-001 \(baseline\) on .*: work=1000 with time_s 0\.5.*\(TOY-002\.01\)\.$", best)
    assert "next: research replicate TOY-002.01" in rest
    assert look == "look: research status toy; research show TOY-002; research report toy"
    assert _end(repository.run().output) == [best, *rest, look]
    assert research(repository.root, "show", "TOY-002").returncode == 0


def test_a_run_that_failed_tells_the_answer_and_then_why(repository: Repository) -> None:
    """What other steps found is known all the same; the error stays the last line."""
    _thread(repository, SWEPT + '    steps.baseline(measure, Config(mode="raise"), label="broken")\n')
    done = repository.run()
    assert done.code == 1
    *_, look, error = _end(done.output)
    assert look.startswith("look: research status toy") and error.startswith("error: ") and "broken" in error
