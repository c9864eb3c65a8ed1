"""A thread whose steps ask for resources, on a real Ray cluster: the same records, whatever is killed."""

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from research_steps.journal import Journal
from research_steps.store import open_store

from tests.rays import Cluster, cluster, eventually
from tests.threads import MEASURE, Done, Repository

BODY = """
    base = steps.baseline(measure, Config(), resources=Resources(ram="200m"))
    works = steps.sweep(base, ("work", [1000, 3000, 4000]), shards=2, hypothesis="H1")
    steps.interpret(base, works, steps.replicate(works, n=1))
"""


@pytest.fixture(scope="module")
def ray() -> Iterator[Cluster]:
    """Two nodes of two cores."""
    with cluster(1) as found:
        yield found


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    found = Repository(tmp_path / "checkout")
    thread(found, BODY)
    found.commit()
    return found


def thread(repository: Repository, body: str) -> None:
    repository.thread(body)
    main = repository.experiment / "__main__.py"
    main.write_text(main.read_text().replace("import Hypothesis,", "import Hypothesis, Resources,"))


def on(ray: Cluster, repository: Repository, *arguments: str, **environment: str) -> Done:
    """Run the thread with its driver here."""
    return repository.run(*arguments, RAY_ADDRESS=ray.address, **environment)


def journal(repository: Repository) -> Journal:
    return Journal(open_store(str(repository.root / "local_store")), "toy")


def told(repository: Repository) -> list[Any]:
    """What the records say, but for where and when and how fast."""
    found = journal(repository).scan()
    elsewhere = {
        *("provenance", "started_at", "finished_at", "launch", "samples", "ratios", "contended", "claims", "floor"),
        *("interpretation", "next_action", "result", "sha256", "values", "note"),
    }

    def without(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: without(inner) for name, inner in value.items() if name not in elsewhere}
        # Tables have the best candidate first.
        return sorted(map(without, value), key=str) if isinstance(value, list) else value

    records = [*found.entries.values(), *found.trials.values(), *found.interrupted.values()]
    plain = [without(json.loads(stored.line)) for stored in records]
    return sorted(plain, key=lambda one: (one["id"], one["attempt"]))


def test_a_thread_leaves_the_same_records_here_and_on_a_cluster(ray: Cluster, repository: Repository) -> None:
    """IDs, keys, configurations, tables: only what was measured, and where and when, differs. What the jobs print
    comes with their names, and a second run adds nothing."""
    here = Repository(repository.root.parent / "here")
    thread(here, BODY)
    assert here.run().code == 0
    done = on(ray, repository)
    assert done.code == 0, done.output
    assert told(repository) == told(here)
    assert "(work-shard-0-" in done.output and "(replication-of-work-" in done.output
    parents = {one.record.launch.parent_pid for one in journal(repository).scan().trials.values()}
    assert len(parents) < len(journal(repository).scan().trials), "launchers stay for the next job"
    assert on(ray, repository).code == 0
    assert told(repository) == told(here)


def test_a_failing_measure_function_is_a_result_and_a_killed_worker_is_not(ray: Cluster, repository: Repository) -> None:
    """The first is a failed row and is not measured twice. Of the other nothing is left but an interrupted attempt, and
    the trial that Ray has had started again."""
    repository.measure(
        MEASURE.replace(
            'if config.mode == "exit":',
            'if config.mode == "slow" and not Path("/tmp", config.data).exists():\n'
            '        Path("/tmp", config.data).touch()\n        time.sleep(60)\n    if config.mode == "exit":',
        )
    )
    name = f"research-slow-{os.getpid()}"
    thread(
        repository,
        f"""
    base = steps.baseline(measure, Config(data="{name}"), resources=Resources(ram="200m"))
    steps.sweep(base, ("mode", ["raise", "exit", "slow"]), label="modes")
    """,
    )
    with ThreadPoolExecutor() as pool:
        done = pool.submit(on, ray, repository)
        eventually(lambda: Path("/tmp", name).exists() or done.done(), 60)
        (worker,) = [one for node in ray.nodes for one in node.workers("modes")]
        worker.kill()
        assert done.result().code == 0, done.result().output
    Path("/tmp", name).unlink()
    found = journal(repository).scan()
    (table,) = [one.record for one in found.entries.values() if one.record.step == "sweep"]
    assert {row.changes["mode"]: row.status for row in table.rows} == {"raise": "failed", "exit": "failed", "slow": "ok"}
    assert [one.record.id for one in found.interrupted.values()] == ["TOY-002.03"]
    assert len(found.trials) == 4


def test_what_no_machine_has_is_told_and_given_up(ray: Cluster, tmp_path: Path) -> None:
    """A request that can't be met does not wait for ever; one for several hosts, or an actor, is refused at once."""
    done = client(
        ray,
        """
        for asked in (ResourceConfig.with_tpu("v4-8", ram="1g", cpu=1), ResourceConfig.with_cpu(cpu=64, ram="1g")):
            try:
                job = RayClient(infeasible_s=1).submit(JobRequest("big", entry, resources=asked))
                job.wait()
            except UsageError as error:
                print(error, job.status())
        for asked in (ResourceConfig.with_tpu("v4-16"), ResourceConfig.with_cpu(replicas=2)):
            try:
                RayClient().submit(JobRequest("wide", entry, resources=asked))
            except UsageError as error:
                print(error)
        try:
            RayClient().create_actor(dict, name="x")
        except UsageError as error:
            print(error)
        """,
    )
    assert "no machine of the cluster has CPU 1, memory 1 GiB, TPU 4, TPU-v4-8-head 1; the most" in done
    assert "no machine of the cluster has CPU 64" in done and "one of 2 has is CPU 2" in done
    assert done.count("stopped") == 2
    assert "The job wide asks for v4-16 on 2 hosts: expected one host" in done
    assert "The job wide asks for cpu on 2 hosts: expected one host" in done
    assert "runs jobs, no actors" in done


def test_a_job_sees_what_its_driver_and_its_request_have_set(ray: Cluster) -> None:
    """The store and what changes a compilation, but neither the driver's backend for an accelerator nor what Ray sets
    for itself. A job can submit jobs, and its exception is the one that is raised."""
    done = client(
        ray,
        """
        environment = EnvironmentConfig(workspace=".", env_vars={"MINE": "1"})
        def show():
            print(sorted((k, v) for k, v in os.environ.items() if k in ("MARIN_PREFIX", "XLA_FLAGS", "MINE", "SECRET",
                  "OMP_NUM_THREADS")))
        request = JobRequest("show", Entrypoint.from_callable(show), resources=small, environment=environment)
        print(RayClient().submit(request).wait())
        def outer():
            import fray
            inner = JobRequest("inner", Entrypoint.from_binary("sh", ["-c", "echo from within"]), resources=small)
            fray.current_client().submit(inner).wait()
        print(RayClient().submit(JobRequest("outer", Entrypoint.from_callable(outer), resources=small)).wait())
        def fail():
            raise KeyError("mine")
        job = RayClient().submit(JobRequest("fail", Entrypoint.from_callable(fail), resources=small))
        try:
            job.wait()
        except KeyError as error:
            print("caught", repr(error), job.status(), job.wait(raise_on_failure=False))
        """,
        MARIN_PREFIX="/there", XLA_FLAGS="--xla_x", SECRET="s", OMP_NUM_THREADS="3",
    )  # fmt: skip
    assert "[('MARIN_PREFIX', '/there'), ('MINE', '1'), ('XLA_FLAGS', '--xla_x')]" in done
    assert "from within" in done
    assert "caught KeyError('mine') failed failed" in done


def client(ray: Cluster, script: str, **environment: str) -> str:
    """What a process prints that uses the client by itself."""
    prelude = """
        import os, ray
        from fray import *
        from research_steps.cluster.client import RayClient
        from research_steps.errors import UsageError
        small = ResourceConfig.with_cpu(cpu=1, ram="100m")
        entry = Entrypoint.from_callable(lambda: None)
        ray.init(os.environ["RAY_ADDRESS"], logging_level="WARNING")
        """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(prelude) + textwrap.dedent(script)],
        env=ray.environment(**environment), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout
