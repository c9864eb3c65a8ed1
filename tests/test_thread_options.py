"""A thread with options of its own, beside those of every thread: on its command line, and where nobody gives them."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from research_steps import Metric, Series, UsageError, main
from research_steps.thread.options import own_options

from tests.support.dev_checkout import DevCheckout, checkout
from tests.support.toy_thread import Repository, research

MAIN = """
from __future__ import annotations

from dataclasses import dataclass, field

from experiments.toy.measure import Config, measure
from research_steps import Metric, Series, Steps, main

series = Series(
    topic="toy", prefix="TOY", goal="see what is given", metrics=[Metric("cost", timed=False)], max_pairs=20,
    contention_wait_s=0, floor_processes=3,
)


@dataclass
class Toys:
    '''What is varied.'''

    base_work: int = 2000  # how much the baseline does
    works: list[int] = field(default_factory=lambda: [1000])


def thread(steps: Steps, toys: Toys) -> None:
    base = steps.baseline(measure, Config(work=toys.base_work))
    steps.interpret(base, steps.sweep(base, ("work", toys.works)))


if __name__ == "__main__":
    main(series, thread, options=Toys)
"""


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[DevCheckout]:
    with checkout(tmp_path) as made:
        (made.experiment / "__main__.py").write_text(MAIN)
        yield made


def test_a_threads_own_options_stand_beside_marins(repository: DevCheckout) -> None:
    """In any order, spelled with - or _, and the records say what was given."""
    dry = repository.run("--works", "[500,600]", "--dry_run", "true")
    assert (dry.code, (repository.root / "local_store").exists()) == (0, False), dry.output
    repository.ok("--base-work", "3000", "--force_run_failed", "false", "--works", "[500,600]")
    sweep, *_ = [stored.record for stored in repository.known().entries.values() if stored.record.step == "sweep"]
    assert sweep.config["baseline_case"]["work"] == 3000
    assert sorted(row.changes["work"] for row in sweep.rows) == [500, 600]
    assert "--base-work 3000 --force_run_failed false --works '[500,600]'" in sweep.provenance.command


def test_what_is_no_option_is_refused(repository: DevCheckout) -> None:
    """As it was before; a value of another kind is one sentence, and nothing ran."""
    unknown = repository.run("--base_work", "3000", "--worsk", "[1]")
    assert unknown.code == 2
    assert "unrecognized arguments: --worsk [1]" in unknown.output
    wrong = repository.run("--base_work", "many")
    assert (wrong.code, wrong.output) == (1, "error: `base_work`: Couldn't parse 'many' into an int\n")
    assert not (repository.root / "local_store").exists()


def test_help_shows_both(repository: DevCheckout) -> None:
    """Each with what its file says of it."""
    shown = repository.run("--help")
    assert shown.code == 0
    for text in ("--base_work int", "how much the baseline does", "What is varied", "--skip_known", "--prefix"):
        assert text in shown.output


def test_dev_mode_and_its_confirmation_take_the_defaults(repository: DevCheckout) -> None:
    """Nobody gives options there, and the baseline is the same in both."""
    assert repository.run("--dev", "true", "--set", "work=1000").code == 0
    (record,) = repository.trials()
    assert record.baseline_config["work"] == 2000
    repository.command("confirm", "TOY-001.01").ok()


@dataclass
class Fine:
    works: list[int] = field(default_factory=list)


@dataclass
class Clashing:
    force: str = ""


@dataclass
class Reserved:
    config_path: str = ""


@dataclass
class Unset:
    works: int


def clashing(steps: Any, options: Clashing) -> None: ...
def reserved(steps: Any, options: Reserved) -> None: ...
def unset(steps: Any, options: Unset) -> None: ...
def unsaid(steps, options): ...
def fine(steps: Any, options: Fine) -> None: ...
def alone(steps: Any, extra: int = 0) -> None: ...


@pytest.mark.parametrize(
    ("thread", "sentence"),
    [
        (clashing, "Clashing has the option 'force', which every thread has already: expected another name."),
        (reserved, "Reserved has the option 'config_path', which every thread has already: expected another name."),
        (unset, "Unset has no default for 'works': expected one for each option."),
        (unsaid, "The thread has a second parameter 'options' without the annotation of a dataclass"),
    ],
)
def test_options_that_can_not_work_are_refused_in_a_sentence(thread: Callable[..., None], sentence: str) -> None:
    """Before anything runs, in every mode."""
    with pytest.raises(UsageError) as refused:
        own_options(thread)
    assert str(refused.value).startswith(sentence)


def test_main_and_the_thread_agree_on_the_options(capsys: pytest.CaptureFixture[str]) -> None:
    """So that dev mode, which never calls main, knows them too."""
    assert (own_options(fine), own_options(alone)) == (Fine, None)
    series = Series(topic="toy", prefix="TOY", goal="agree", metrics=[Metric("cost")])
    for thread, options in ((fine, Unset), (fine, None), (alone, Fine)):
        with pytest.raises(SystemExit) as ended:
            main(series, thread, [], options=options)  # type: ignore[call-overload]
        assert ended.value.code == 1 and "expected the same dataclass in both" in capsys.readouterr().err


def test_a_thread_that_runs_whenever_it_is_imported_is_told_at_once(tmp_path: Path) -> None:
    """By dev mode, and by the trial that imports the measure function from its file, which runs no thread."""
    repository = Repository(tmp_path / "checkout")
    repository.thread("\n    steps.baseline(own, Config())")
    main = repository.experiment / "__main__.py"
    own = "def own(config):\n    return {'time_s': 1.0}\n\n\ndef thread"
    main.write_text(main.read_text().replace("def thread", own).replace('if __name__ == "__main__":\n    main', "main"))
    repository.commit()
    done = repository.run()
    assert done.code == 1
    for told in (done.output, research(repository.root, "dev", "toy").stderr):
        assert re.search(r"__main__\.py calls main\(…\) whenever it is imported: expected it below if __name__", told), (
            told
        )


def test_a_seal_that_the_thread_does_not_build_is_refused(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "checkout")
    repository.thread("\n    steps.baseline(measure, Config())")
    done = repository.run("--seal", "true")
    assert done.code == 1 and not (repository.root / ".agents").exists()
    assert "the thread of toy builds no seal step: expected steps.seal(…) in it; 'research seal toy'" in done.output
