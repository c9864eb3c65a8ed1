"""Marin's steps as what trials measure, and their outputs in configurations: through Marin's executor and dev mode."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from research_steps.errors import BadMetrics, UsageError
from research_steps.journal.journal import Journal
from research_steps.journal.store import open_store
from research_steps.records.configurations import step_names, step_paths
from research_steps.records.model import EntryRecord, TrialRecord
from research_steps.records.series import Metric, Series
from research_steps.thread.builders import StepBuilder
from research_steps.thread.measured_step import metrics_of

from tests.support import failing_measures
from tests.support.dev_checkout import DevCheckout, checkout
from tests.support.marin_steps import outputs
from tests.support.toy_thread import Repository, copy_marin_steps, research

TRAIN = """
import json, os
from dataclasses import dataclass
from pathlib import Path
from marin.execution.remote import remote
from experiments.toy.marin_steps import own_path, path_of, step, versioned
from research_steps import run


@dataclass(frozen=True)
class Config:
    lr: float = 0.3
    seed: int = 0
    how: str = "returns"


def tokenize(config):
    Path(config["out"]).mkdir(parents=True, exist_ok=True)
    Path(config["out"], "rows").write_text("3")
    Path("tokenized").open("a").write("once\\n")


def work(config):
    out = Path(config["out"])
    out.mkdir(exist_ok=True)
    checkpoint = out / "checkpoint"
    data = Path(config["data"])
    rows = int((data / "rows" if data.is_dir() else data).read_text())
    for step in range(int(checkpoint.read_text()) if checkpoint.exists() else 0, 3):
        Path("trained").open("a").write(f"{config['lr']} {config['seed']} {step}\\n")
        checkpoint.write_text(str(step + 1))
        if step == 1 and Path("killed").exists():
            Path("killed").unlink()
            os._exit(3)
    loss = config["lr"] + config["seed"] + rows
    if config["how"] == "returns":
        return {"loss": loss, "note": "text", "stable": True}
    (out / "checkpoints").mkdir(exist_ok=True)
    lines = [{"step": 1, "loss": 99.0}, {"step": 3, "loss": loss}]
    (out / "checkpoints" / "eval_metrics.jsonl").write_text("".join(json.dumps(line) + "\\n" for line in lines))


def train(config):
    data = step("toy/tokens", tokenize, {"out": own_path()})
    parts = {"lr": versioned(config.lr), "seed": config.seed, "how": config.how, "data": path_of(data, "rows")}
    return step("toy/train", remote(work), {**parts, "out": own_path()})


def measure(config):
    return run(train(config))
"""
SWEEP = """
    base = steps.baseline(measure, Config(), over=("seed", range(2)))
    rates = steps.sweep(base, ("lr", [0.1]))
    steps.interpret(base, rates)
"""


def untimed(repository: Repository, measure: str, body: str) -> None:
    repository.measure(measure)
    repository.thread(body)
    main = repository.experiment / "__main__.py"
    main.write_text(main.read_text().replace('Metric("time_s", "min")', 'Metric("loss", "min", timed=False)'))
    repository.commit()


def trials(store: Path) -> dict[str, TrialRecord]:
    snapshot = Journal(open_store(str(store)), "toy").scan()
    records = (stored.record for stored in snapshot.trials.values())
    return {record.id: record for record in sorted(records, key=lambda record: record.attempt)}


def entries(repository: Repository) -> list[EntryRecord]:
    snapshot = Journal(open_store(str(repository.root / "local_store")), "toy").scan()
    return [stored.record for stored in snapshot.entries.values()]


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "checkout")


def test_a_measure_runs_a_step_of_marin(repository: Repository) -> None:
    """Each in the trial's directory, from its checkpoint after it was cut off; what it rests on is made once, where
    Marin has it. Numbers become metrics, by what it returned or what Levanter left."""
    untimed(
        repository,
        TRAIN,
        SWEEP.replace("Config()", 'Config(how="leaves")') + '    steps.sweep(base, ("how", ["returns"]))\n',
    )
    store = repository.root / "local_store"
    (repository.root / "killed").touch()
    first = repository.run("--retry", "failed")
    assert first.code == 1, first.output
    again = repository.run("--retry", "failed")
    assert again.code == 0, again.output
    records = trials(store).values()
    found = {(r.config["how"], r.config["lr"], r.config["seed"]): r.samples for r in records}
    for (how, lr, seed), samples in found.items():
        assert samples is not None and samples.candidate["loss"] == [pytest.approx(3 + lr + seed)]
        assert sorted(samples.candidate) == (["loss"] if how == "returns" else ["loss", "step"])
    assert sorted(found) == sorted(
        (how, lr, s) for how, lr in (("leaves", 0.3), ("leaves", 0.1), ("returns", 0.3)) for s in (0, 1)
    )
    lines = (repository.root / "trained").read_text().splitlines()
    # Cut off after its second step, it went on with the third.
    assert [line for line in lines if line.startswith("0.3 0")][:3] == ["0.3 0 0", "0.3 0 1", "0.3 0 2"]
    assert len(lines) == 6 * 3
    assert (repository.root / "tokenized").read_text() == "once\n"
    assert len(outputs(store, "toy/tokens")) == 1 and not outputs(store, "toy/train")
    named = {path.parent.name for path in store.glob("trials/toy/*/candidate/train-*/checkpoint")}
    assert len(named) == 6, "a W&B run is named by it"


def test_the_metrics_of_a_step_are_found_or_asked_for(tmp_path: Path) -> None:
    """The returned numbers, else the last evaluation over the tracker's summary, else a refusal; or as `read` says."""
    out = str(tmp_path)
    assert metrics_of("s", {"loss": 1, "ok": True, "name": "x"}, out, None) == {"loss": 1.0}
    with pytest.raises(BadMetrics, match="The step s returned NoneType without numbers"):
        metrics_of("s", None, out, None)
    (tmp_path / "tracker_metrics.jsonl").write_text(json.dumps({"config": {"a": 1}, "summary": {"x": 2, "loss": 5}}))
    assert metrics_of("s", None, out, None) == {"x": 2.0, "loss": 5.0}
    (tmp_path / "checkpoints" / "run").mkdir(parents=True)
    (tmp_path / "checkpoints" / "run" / "eval_metrics.jsonl").write_text('{"loss": 9}\n{"loss": 4}\n')
    assert metrics_of("s", None, out, None) == {"x": 2.0, "loss": 4.0}
    assert metrics_of("s", None, out, lambda path: {"found": float(path == out)}) == {"found": 1.0}


# -- recorded steps with their metrics -------------------------------------------------------------------------------

RECORDED = """
    first = steps.recorded(by_fields({"lr": 0.3, "seed": 0})METRICS)
    other = steps.recorded(by_fields({"lr": 0.2, "seed": 0})METRICS, label="other")
"""
WITH_METRICS = RECORDED.replace("METRICS", ', metrics=True, fields=["lr", "seed"]')
BY_FIELDS = (
    TRAIN
    + """

def by_fields(fields):
    return train(Config(**fields))


def read(output):
    return {"loss": 7.0}
"""
)


def test_a_recorded_step_has_its_metrics_as_a_trial(repository: Repository) -> None:
    """Also one that ran before it was asked for them, which is not run again. Its entry has a row, so that it can be
    interpreted, sealed, shown and compared."""
    untimed(repository, BY_FIELDS, RECORDED.replace("METRICS", ""))
    main = repository.experiment / "__main__.py"
    for body in (
        RECORDED.replace("METRICS", ""),
        WITH_METRICS + "    steps.seal(steps.interpret(first, other), first)\n",
    ):
        repository.thread(body)
        text = main.read_text().replace("import Config, measure", "import Config, by_fields, measure, read")
        main.write_text(text.replace('Metric("time_s", "min")', 'Metric("loss", "min", timed=False)'))
        repository.commit()
        done = repository.run(*(("--seal", "true") if "steps.seal(" in body else ()))
        assert done.code == 0, done.output
    assert len((repository.root / "trained").read_text().splitlines()) == 2 * 3
    found = trials(repository.root / "local_store")
    values = {r.config["lr"]: r.samples.candidate for r in found.values() if r.samples is not None}
    assert values == {0.3: {"loss": [3.3]}, 0.2: {"loss": [3.2]}}
    one, two = sorted(found)
    for command in (["show", one], ["compare", one, two], ["verify", "toy"], ["status", "toy"]):
        answer = research(repository.root, *command)
        assert answer.returncode == 0, answer.stdout + answer.stderr
        assert command[0] != "compare" or "3.2" in answer.stdout
    assert "loss 3.3" in repository.logbook and repository.git("tag").strip()


def test_a_recorded_step_is_swept_by_its_training(repository: Repository) -> None:
    """The base is trained anew beside the candidates, at each seed, so that like is compared with like."""
    first = WITH_METRICS.partition("    other")[0].replace("metrics=True", "metrics=read")
    sweep = """
    rates = steps.sweep(first, ("lr", [0.1]), step=by_fields, over=("seed", range(2)))
    steps.interpret(first, rates)
"""
    untimed(repository, BY_FIELDS, first + sweep)
    main = repository.experiment / "__main__.py"
    main.write_text(main.read_text().replace("import Config, measure", "import Config, by_fields, measure, read"))
    repository.commit()
    done = repository.run()
    assert done.code == 0, done.output
    found = [
        (r.config, r.samples.candidate["loss"]) for r in trials(repository.root / "local_store").values() if r.samples
    ]
    assert ({"lr": 0.3, "seed": 0}, [7.0]) in found
    for lr, seed in ((0.3, 0), (0.3, 1), (0.1, 0), (0.1, 1)):
        assert ({"lr": lr, "seed": seed}, [pytest.approx(3 + lr + seed)]) in found
    assert len(found) == 5 and "lr=0.1" in repository.logbook


def test_fields_that_move_together_are_one_axis(repository: Repository) -> None:
    """One point has all of them, under the axis's own name; whatever moves beside them is refused."""
    body = """
    base = steps.baseline(measure, Config(data=__file__))
    budgets = steps.sweep(base, ("budget", [{"work": 1000, "size": 2}, {"work": 500, "size": 4}]))
    sizes = steps.sweep(base, ("size", [3]))
    steps.interpret(base, budgets, steps.interact(budgets, ("kind", ["a"])))
"""
    data = DATA.replace("    data: str", '    size: int = 1\n    kind: str = ""\n    data: str')
    untimed(repository, data.replace('int((data / "rows" if data.is_dir() else data).read_text())', "config.size"), body)
    done = repository.run("--force", "true")
    assert done.code == 0, done.output
    sweep = next(entry for entry in entries(repository) if entry.step == "sweep" and entry.label == "budget")
    assert sweep.config["axis"] == "budget"
    assert sorted((row.changes["work"], row.changes["size"]) for row in sweep.rows) == [(500, 4), (1000, 2)]
    repository.thread(body.replace('steps.interact(budgets, ("kind", ["a"]))', "steps.interact(budgets, sizes)"))
    assert "expected each sweep to vary another one" in repository.run().output


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (
            'steps.sweep(steps.baseline(measure, Config()), ("both", [{"lr": 1}, {"seed": 2}]))',
            "dict of the same fields",
        ),
        (
            'steps.recorded(by_fields({"lr": 0.1}), metrics=True, fields=["rate"])',
            "has no field 'rate': expected one of lr",
        ),
        ('steps.recorded(by_fields({"lr": 0.1}), metrics=True, fields="lr")', "expected a list of names"),
        ('steps.sweep(steps.baseline(measure, Config()), ("lr", [1]), step=by_fields)', "a base of steps.recorded"),
        (
            'steps.sweep(steps.baseline(measure, Config()), ("lr", [1]), over=("seed", [1, 2]))',
            "has over=…: expected step",
        ),
    ],
)
def test_what_can_not_be_recorded_or_swept_is_refused(line: str, told: str) -> None:
    namespace: dict[str, Any] = {}
    exec(BY_FIELDS.replace("experiments.toy", "tests.support"), namespace)  # the experiment of the other tests
    series = Series("toy", "TOY", "", (Metric("loss", "min", timed=False),))
    namespace |= {"steps": StepBuilder(series), "measure": failing_measures.steady}
    with pytest.raises(UsageError, match=told):
        eval(line, namespace)  # one of the lines above


# -- outputs of steps in configurations ------------------------------------------------------------------------------

DATA = """
import os, random
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Config:
    work: int = 2000
    data: str = ""


def measure(config):
    data = Path(config.data)
    rows = int((data / "rows" if data.is_dir() else data).read_text())
    Path("measured").open("a").write(f"{config.data}\\n")
    noise = random.Random(f"{config} {os.getpid()} {len(Path('measured').read_text())}")
    while True:
        yield {"loss": config.work * rows * noise.uniform(1, 1.01)}
"""
STEPS = """
    from experiments.toy.marin_steps import own_path, path_of, step

    def prepare(config):
        path = __import__("pathlib").Path(config["out"])
        path.mkdir(parents=True, exist_ok=True)
        (path / "rows").write_text(config["rows"])

    def made(rows):
        return step(f"toy/data{rows}", prepare, {"out": own_path(), "rows": rows})

    data = steps.recorded(made("3"), label="prepare")
    base = steps.baseline(measure, Config(data=path_of(data, "rows")))
    works = steps.sweep(base, ("work", [1000]))
    others = steps.sweep(base, ("data", [path_of(made("4"), "rows")]))
    steps.seal(steps.interpret(base, works))
"""


def test_a_path_is_that_of_its_step_in_every_store() -> None:
    given = {"a": "/store/x/rows", "b": ["/storey", 3, ("/store/y",)], "c": "s3://b/p"}
    named = {"a": "step:x/rows", "b": ["/storey", 3, ("step:y",)], "c": "s3://b/p"}
    assert step_names(given, "/store") == named and step_paths(named, "/store") == given
    assert step_names("s3://b/p/x", "s3://b/p/") == "step:x"


def test_a_trial_is_the_same_in_two_stores(repository: Repository, tmp_path: Path) -> None:
    """Its configuration names the step and its hash, and no place; the measure function gets the real path."""
    untimed(repository, DATA, STEPS)
    stores = [tmp_path / "one", tmp_path / "two"]
    for store in stores:
        done = repository.run("--prefix", str(store))
        assert done.code == 0, done.output
        assert all(line.startswith(f"{store}/toy/data") for line in repository.measured)
        (repository.root / "measured").unlink()
    one, two = map(trials, stores)
    assert {t.key: t.config for t in one.values()} == {t.key: t.config for t in two.values()} and len(one) == 3
    assert {str(t.config["data"])[:14] for t in one.values()} == {"step:toy/data3", "step:toy/data4"}
    assert f"={tmp_path}" not in repository.logbook and "out=step:toy/data3" in repository.logbook
    assert "data=step:toy/data4" in repository.logbook


def test_a_thread_that_rests_on_a_step_is_reproduced_elsewhere(repository: Repository) -> None:
    untimed(repository, DATA, STEPS)
    done = repository.run("--seal", "true")
    assert done.code == 0, done.output
    (tag,) = repository.git("tag").split()
    again = research(repository.root, "reproduce", tag, "--here")
    assert again.returncode == 0 and "reproduced" in again.stdout, again.stdout + again.stderr


@pytest.fixture
def developed(tmp_path: Path) -> Iterator[DevCheckout]:
    with checkout(tmp_path) as made:
        yield made


def test_dev_mode_takes_what_a_step_has_put_out(developed: DevCheckout) -> None:
    """And says which step to run first where it is not there."""
    main = developed.experiment / "__main__.py"
    metric = next(line for line in main.read_text().splitlines() if "Metric(" in line).split('Metric("')[1].split('"')[0]
    developed.measure(DATA.replace("loss", metric))
    copy_marin_steps(developed.experiment)
    body = main.read_text().partition("def thread(steps):\n")
    main.write_text(
        body[0] + body[1] + STEPS.strip("\n") + '\n\n\nif __name__ == "__main__":\n    main(series, thread)\n'
    )
    developed.commit()
    told = developed.dev("--set", "work=1000", code=1)
    assert "rests on what the step toy/data3 puts out" in told and "--run_only toy/data3" in told
    done = developed.run()
    assert done.code == 0, done.output
    assert "work=1000" in developed.dev("--set", "work=1000")
    (record,) = [trial for trial in developed.trials() if trial.mode == "dev"][-1:]
    assert str(record.config["data"]).startswith("step:toy/data3")
