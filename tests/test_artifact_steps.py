"""What only today's Marin has: versions that an author states, and builds that each run makes anew."""

import json
from pathlib import Path

import pytest

from tests.support.marin_steps import outputs
from tests.support.toy_thread import Repository, cli

RECORDED = """
    from experiments.toy.marin_steps import step

    def work(config):
        with open("ran", "a") as file:
            file.write(f"{config['rate']}\\n")
        return {"loss": config["rate"]}

    train = steps.recorded(step("toy/train", work, {"rate": 1}, version="VERSION"))
"""
DEFERRED = """
    from marin.execution.artifact import Artifact
    from marin.execution.lazy import apply

    def work(rate):
        open("ran", "a").write(f"{rate}\\n")

    steps.recorded(apply("toy/data", work, rate=3))
"""


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "checkout")


def test_a_changed_configuration_under_one_version_is_refused(repository: Repository) -> None:
    """Marin would give out what the old one has put out, and a record would say that it is the new one's."""
    body = RECORDED.replace("VERSION", "2026.11.30")
    repository.thread(body)
    assert repository.run().code == 0
    repository.thread(body.replace('{"rate": 1}', '{"rate": 2}'))
    refused = repository.run()
    assert refused.code == 1 and "toy/train@2026.11.30 is pinned to expected_fingerprint" in refused.output
    assert repository.ids == ["TOY-001"] and (repository.root / "ran").read_text() == "1\n"
    repository.thread(
        body + '    steps.recorded(step("toy/train", work, {"rate": 3}, version="2026.11.30"), label="other")\n'
    )
    refused = repository.run()
    assert refused.code == 1 and "toy/train@2026.11.30 twice, with different configurations" in refused.output


def test_a_build_that_each_run_makes_anew_is_recorded_each_time(repository: Repository) -> None:
    """And nothing is measured on it, because it is another thing each time."""
    body = RECORDED.replace("VERSION", "dev")
    repository.thread(body)
    assert repository.run().code == 0 and repository.run().code == 0
    assert repository.ids == ["TOY-001", "TOY-002"] and (repository.root / "ran").read_text() == "1\n1\n"
    repository.thread(body + "    steps.baseline(measure, Config(data=train))\n")
    refused = repository.run()
    assert refused.code == 1 and "'baseline' rests on what toy/train puts out, which each run builds" in refused.output


def test_a_deferred_version_is_that_of_the_command_line(repository: Repository) -> None:
    repository.thread(DEFERRED)
    refused = repository.run()
    assert refused.code == 1 and "'toy/data' leaves its version to the command line" in refused.output
    for wrong, told in (
        (("--version", "v1"), "--version or --override is none that Marin takes"),
        (("--version", "dev", "--override", "[toy/date=2026.01.01]"), "--override names toy/date"),
        (("--executor_info_base_path", "info"), "is an option of executor steps"),
    ):
        refused = repository.run(*wrong)
        assert refused.code == 1 and told in refused.output, refused.output
    assert not (repository.root / "ran").exists()
    for wanted in (("--version", "2026.11.30"), ("--version", "dev", "--override", "[toy/data=2026.01.02]")):
        done = repository.run(*wanted)
        assert done.code == 0, done.output
    versions = [path.name for path in outputs(repository.root / "local_store", "toy/data")]
    assert versions == ["2026.01.02", "2026.11.30"]


def test_marins_provenance_leaves_the_index_as_it_is(repository: Repository) -> None:
    """Where Marin would write it anew; what is changed is in its provenance all the same, and no secret is."""
    repository.git("remote", "add", "origin", "https://name:hunter2hunter2@example.org/a.git")
    (repository.root / "experiments" / "__init__.py").write_text("# changed\n")
    index = repository.root / ".git" / "index"
    # Git would write it anew for the sake of these times.
    for path in (repository.experiment / "measure.py", repository.root / ".gitignore"):
        path.touch()
    before = index.read_bytes()
    done = repository.run("--dry_run", "true")
    assert done.code == 0 and index.read_bytes() == before, done.output
    done = repository.run()
    assert done.code == 0, done.output
    (artifact,) = (repository.root / "local_store" / "toy").glob("baseline-*/*/.artifact.json")
    provenance = json.loads(artifact.read_text())["provenance"]
    head = repository.git("rev-parse", "--short", "HEAD").strip()
    assert provenance["base_commit"] == head and provenance["dirty"] is True
    assert provenance["tree_hash"] != repository.git("rev-parse", "--short", "HEAD^{tree}").strip()
    assert "hunter2" not in artifact.read_text()
    # What Marin's processes are told of both is in no record, where it would be another thing in each run and place.
    (record, *_) = (repository.root / ".agents" / "logbooks" / "toy").glob("TOY-001.jsonl")
    assert "MARIN_PR" not in record.read_text() and str(repository.root) not in record.read_text()


def test_what_changed_is_made_anew_and_nothing_else(repository: Repository) -> None:
    """A sweep that was extended, and then the measure's code: each moves, with what rests on it."""
    body = """
    base = steps.baseline(measure, Config())
    works = steps.sweep(base, ("work", WORKS))
    modes = steps.sweep(base, ("data", ["a"]))
    steps.interpret(base, works)
"""
    repository.thread(body.replace("WORKS", "[1000]"))
    assert repository.run().code == 0
    first = {path.parent.name for path in (repository.root / "local_store" / "toy").glob("*/*")}
    repository.thread(body.replace("WORKS", "[1000, 4000]"))
    assert repository.run().code == 0
    second = {path.parent.name for path in (repository.root / "local_store" / "toy").glob("*/*")} - first
    assert sorted(name.rpartition("-")[0] for name in second) == ["interpretation", "sweep-work"]
    measure = (repository.experiment / "measure.py").read_text()
    repository.measure(measure.replace("sum(range(config.work))", "sum(range(config.work + 1))"))
    assert repository.run().code == 0
    third = {path.parent.name for path in (repository.root / "local_store" / "toy").glob("*/*")} - first - second
    assert sorted(name.rpartition("-")[0] for name in third) == [
        "baseline",
        "interpretation",
        "sweep-data",
        "sweep-work",
    ]
    assert cli(repository, "verify", "toy")[0] == 0
