"""What only today's Iris does: preempt jobs by its own command, and go by the dates of both builds."""

from pathlib import Path

from research_steps.journal.journal import Journal
from research_steps.journal.store import open_store

from tests.support import iris_cluster
from tests.support.ray_cluster import eventually
from tests.support.scratch_logbook import git
from tests.support.toy_thread import STEADY, Repository

FIELD = """
    base = steps.baseline(measure, Config(), resources=Resources(ram="200m", cpu=0.4))
    steps.sweep(base, ("work", [1000 + number for number in range(100)]), shards=4)
"""


def test_an_outdated_client_is_refused(controller: iris_cluster.Controller, tmp_path: Path) -> None:
    """By the controller's own rule, which the tests leave as it is: with both dates, and what to do."""
    from iris._build_info import BUILD_DATE

    git(tmp_path, "init", "--quiet")
    job = ("job", "run", "--job-name", "old", "--", "true")
    done = controller.iris(tmp_path, *job, IRIS_REVISION_DATE="2026-01-05")
    said = " ".join(done.stderr.split())
    assert done.returncode == 1 and "your build is 2026-01-05" in said, done.stderr
    assert f"this controller runs {BUILD_DATE}" in said and "upgrade it" in said, done.stderr


def test_a_preempted_shard_goes_on_where_it_was(
    controller: iris_cluster.Controller, tmp_path: Path, shared: Path
) -> None:
    """A hundred trials in four shards, of which two are preempted while they run: each trial has one standing record."""
    repository = Repository(tmp_path / "there")
    repository.spread()
    # So that a shard runs for a while.
    repository.measure(STEADY.replace("sum(range(config.work))", "time.sleep(0.04)"))
    repository.thread(FIELD)
    repository.commit()
    origin = iris_cluster.research(repository, "origin", "toy", "--prefix", str(shared)).strip()
    variables = ["-e", "RESEARCH_ORIGIN", origin, "-e", "MARIN_PREFIX", str(shared), "-e", "JAX_PLATFORMS", "cpu"]
    command = ["--no-wait", "--job-name", "field", *variables, "--", "python", "-m", "experiments.toy"]
    done = controller.iris(repository.root, "job", "run", *command)
    assert done.returncode == 0, done.stderr
    measured = shared / "journal" / "toy" / "trials" / "records"
    job = next(line.split()[-1] for line in done.stderr.splitlines() if "Job submitted:" in line)

    def preempted() -> bool:
        """Whether a shard that ran was preempted; one may end in between."""
        running = controller.iris(repository.root, "job", "list", "--state", "running", "--prefix", f"{job}/").stdout
        shards = [word for word in running.split() if word.startswith(f"{job}/work-shard")]
        return any(controller.iris(repository.root, "task", "preempt", f"{shard}/0").returncode == 0 for shard in shards)

    for count in (5, 30):
        eventually(lambda count=count: len(list(measured.glob("**/*.json"))) >= count, 240)
        eventually(preempted, 60)
    ended = controller.iris(repository.root, "job", "wait", job)
    assert ended.returncode == 0, ended.stdout + ended.stderr + controller.iris(tmp_path, "job", "logs", job).stdout
    iris_cluster.research(repository, "sync", "toy", "--prefix", str(shared))
    snapshot = Journal(open_store(str(shared)), "toy").scan()
    standing = [stored.record for stored in snapshot.trials.values() if stored.record.id.startswith("TOY-002.")]
    assert len({record.key for record in standing}) == len(standing) == 100
    assert {record.status for record in standing} == {"ok"} and repository.ids == ["TOY-001", "TOY-002"]
    logs = controller.iris(repository.root, "job", "logs", job)
    assert "TOY-002.100" in logs.stdout + logs.stderr
