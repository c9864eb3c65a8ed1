"""W&B runs that a recorded step starts by itself, through Marin's executor, Levanter's tracker and W&B offline."""

import copy
import dataclasses
import os
import pickle
import sys
from collections import defaultdict, namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import cloudpickle
import pytest
from research_steps.thread.tagging import Tagged, Tagging, tagged_config

from tests.support.marin_steps import outputs, returned
from tests.support.toy_thread import Repository
from tests.support.wandb_files import RunContents, read

TRAIN = """
    from dataclasses import dataclass, field
    from levanter.tracker.wandb import WandbConfig
    from experiments.toy.marin_steps import own_path, step

    @dataclass(frozen=True)
    class Trainer:
        tracker: tuple = (WandbConfig(project="training", tags=["mine"], save_code=False, background=False),)

    @dataclass(frozen=True)
    class Config:
        trainer: Trainer = Trainer()
        out: str = ""

    def train(config):
        tracker = config.trainer.tracker[0].init("run-a")
        tracker.log({"loss": 1.0}, step=0)
        tracker.finish()
        return {"tags": list(config.trainer.tracker[0].tags)}

    training = step("toy/train", train, Config(out=own_path()))
"""


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "checkout")


def run(repository: Repository, body: str, of_series: str = "") -> list[RunContents]:
    """Run a thread with W&B offline, and read the runs that it left, by name."""
    repository.thread(body)
    main = repository.experiment / "__main__.py"
    main.write_text(main.read_text().replace('topic="toy",', f'topic="toy", {of_series}'))
    where = repository.root.parent / "runs"
    where.mkdir()
    done = repository.run(WANDB_MODE="offline", WANDB_DIR=str(where), WANDB_SILENT="true", JAX_PLATFORMS="cpu")
    assert done.code == 0, done.output
    parsed = [read(path) for path in where.glob("*/offline-run-*/*.wandb")]
    return sorted(parsed, key=lambda contents: contents.run.display_name)


def test_a_recorded_levanter_run_has_tags_group_and_name(repository: Repository) -> None:
    """Beside its own tags, and without another output path: what was trained before is not trained again."""
    (trained,) = run(repository, TRAIN + '    steps.recorded(training, label="train it")\n')
    assert list(trained.run.tags) == ["mine", "TOY", "toy"]
    assert trained.run.run_group == "TOY-001 train it"
    assert trained.run.display_name == "TOY-001"
    assert trained.run.project == "training"
    assert trained.history[0]["loss"] == 1.0
    (output,) = outputs(repository.root / "local_store", "toy/train")
    repository.thread(TRAIN + "    steps.built.append(training)\n")
    plain = repository.run("--dry_run", "true")
    assert plain.code == 0 and str(output) in plain.output


def test_a_run_with_a_name_and_a_group_of_its_own_keeps_them(repository: Repository) -> None:
    """Only what is missing is added."""
    body = TRAIN.replace('tags=["mine"]', 'name="baseline", group="pile"')
    (trained,) = run(repository, body + "    steps.recorded(training)\n")
    assert (trained.run.display_name, trained.run.run_group) == ("baseline", "pile")
    assert list(trained.run.tags) == ["TOY", "toy"]


def test_runs_that_a_step_starts_in_its_own_way_are_tagged_too(repository: Repository) -> None:
    """Also one that names tags of its own, in place of those of the environment, once it has begun."""
    body = """
    from experiments.toy.marin_steps import step

    def first(config):
        import wandb
        with wandb.init(project="p", name="first") as run:
            run.log({"loss": 1.0})
        return {}

    def second(config):
        import time, wandb
        with wandb.init(project="p", name="second", tags=["mine"]) as run:
            run.log({"loss": 1.0})
            for _ in range(6000):
                if "TOY" in run.tags:
                    break
                time.sleep(0.01)
        return {}

    one = steps.recorded(step("toy/first", first, {}), label="one")
    steps.recorded(step("toy/second", second, {"after": one}), label="two")
"""
    first, second = run(repository, body)
    assert list(first.run.tags) == ["TOY", "toy"]
    assert first.run.run_group == "TOY-001 one"
    assert list(second.run.tags) == ["mine", "TOY", "toy"]


def test_a_remote_step_takes_its_tags_along(repository: Repository) -> None:
    """The function that Marin sends away carries them in its configuration and in its wrapper."""
    body = """
    from fray.types import ResourceConfig
    from experiments.toy.marin_steps import step

    def work(config):
        import os, wandb
        with wandb.init(project="p", name="far"):
            pass
        return {"tags": os.environ["WANDB_TAGS"], "group": os.environ["WANDB_RUN_GROUP"]}

    steps.recorded(step("toy/far", work, {}, ResourceConfig.with_cpu()), label="far away")
"""
    (far,) = run(repository, body)
    assert list(far.run.tags) == ["TOY", "toy"]
    assert far.run.run_group == "TOY-001 far away"
    (output,) = outputs(repository.root / "local_store", "toy/far")
    assert returned(output) == {"tags": "TOY,toy", "group": "TOY-001 far away"}


@pytest.mark.parametrize(("of_series", "of_step"), [("private=True,", ""), ("", ", private=True")])
def test_a_private_step_puts_nothing_on_the_runs_of_its_function(
    repository: Repository, of_series: str, of_step: str
) -> None:
    """They go where the function sends them, and nothing there names the series."""
    (trained,) = run(repository, TRAIN + f"    steps.recorded(training{of_step})\n", of_series)
    assert list(trained.run.tags) == ["mine"]
    assert trained.run.run_group == ""
    assert "TOY" not in trained.run.display_name


# -- the configuration alone ---------------------------------------------------------------------------------------

TAGGING = Tagging(("TOY", "toy"), "TOY-001 a step", "TOY-001")
Pair = namedtuple("Pair", "left right")


@dataclasses.dataclass(frozen=True)
class Holder:
    """A configuration that must not be made twice."""

    inner: Any
    made: int = dataclasses.field(default=0, init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "made", self.made + 1)


def wandb_config(**fields: Any) -> Any:
    from levanter.tracker.wandb import WandbConfig

    return WandbConfig(**fields)


def test_a_tracker_is_found_wherever_a_configuration_holds_it() -> None:
    """In dataclasses, dicts, lists, tuples and named tuples; the configuration that was given is not changed."""
    config = wandb_config(tags=["own"])
    for shape in (
        lambda tracker: tracker,
        lambda tracker: Holder(Holder(tracker)),
        lambda tracker: {"a": [1, {"b": tracker}]},
        lambda tracker: ("x", tracker),
        lambda tracker: Pair(tracker, 3),
        lambda tracker: defaultdict(list, {"trackers": [tracker]}),
    ):
        given = shape(config)
        before = copy.deepcopy(given)
        with_tags = tagged_config(given, TAGGING)
        assert given == before
        expected = wandb_config(tags=["own", "TOY", "toy"], group="TOY-001 a step", name="TOY-001")
        assert with_tags == shape(expected) and type(with_tags) is type(given)


def test_what_holds_no_tracker_comes_back_itself() -> None:
    """So a step without W&B gets the very object that it would have got."""
    assert wandb_config() is not None
    loop: dict[str, Any] = {"a": Holder((1, [2]))}
    loop["self"] = loop
    for config in (None, 3, "text", {"a": 1}, Holder([1]), loop):
        assert tagged_config(config, TAGGING) is config


def test_one_tracker_that_is_held_twice_stays_one() -> None:
    config = wandb_config()
    with_tags = tagged_config([config, config], TAGGING)
    assert with_tags[0] is with_tags[1] and list(with_tags[0].tags) == ["TOY", "toy"]


def test_without_levanter_or_without_tags_the_configuration_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is imported to find out."""
    config = [wandb_config()]
    assert tagged_config(config, None) is config
    monkeypatch.delitem(sys.modules, "levanter.tracker.wandb")
    assert tagged_config(config, TAGGING) is config
    assert "levanter.tracker.wandb" not in sys.modules


def test_tags_that_wandb_would_refuse_are_left_out() -> None:
    """W&B raises at the start of a run for a tag that is empty or over 64 characters."""
    tagging = Tagging.of(("", "a" * 65, "a" * 64), "TOY-001", "label " * 40)
    assert tagging.tags == ("a" * 64,)
    assert tagging.group.startswith("TOY-001 label") and len(tagging.group) <= 64 and tagging.group.endswith("…")


# -- the environment -------------------------------------------------------------------------------------------------


def seen(config: Any) -> dict[str, str | None]:
    return {name: os.environ.get(name) for name in ("WANDB_TAGS", "WANDB_RUN_GROUP")}


@pytest.fixture
def process_of_a_step() -> Iterator[None]:
    """What is called here as in a step's own process changes the environment, which tests after it share."""
    with mock.patch.dict(os.environ):
        for name in ("WANDB_TAGS", "WANDB_RUN_GROUP"):
            os.environ.pop(name, None)
        yield


@pytest.mark.usefixtures("process_of_a_step")
def test_the_environment_says_it_beside_what_was_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the process of the step, which has none after it. A tag with a comma is not put there."""
    tagging = Tagging(("TOY", "a,b", "toy"), "TOY-001 a step", "TOY-001")
    assert Tagged(seen, tagging)(None) == {"WANDB_TAGS": "TOY,toy", "WANDB_RUN_GROUP": "TOY-001 a step"}
    monkeypatch.setenv("WANDB_TAGS", "mine,TOY")
    monkeypatch.setenv("WANDB_RUN_GROUP", "ours")
    assert Tagged(seen, TAGGING)(None) == {"WANDB_TAGS": "mine,TOY,toy", "WANDB_RUN_GROUP": "ours"}


@pytest.mark.usefixtures("process_of_a_step")
def test_the_wrapper_travels_and_loads_no_wandb() -> None:
    """Workers get it by pickle; a function that uses no W&B does not pay for it."""
    wrapper = cloudpickle.loads(cloudpickle.dumps(Tagged(len, TAGGING)))
    assert wrapper("abc") == 3
    assert pickle.loads(pickle.dumps(wrapper)) == wrapper
