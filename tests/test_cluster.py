"""A thread whose steps ask for resources, on a real Ray cluster: the same records, whatever is killed."""

import importlib
import re
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from research_steps import Resources, UsageError
from research_steps.journal.journal import Journal
from research_steps.journal.store import open_store
from research_steps.remote import worker as away
from research_steps.trial.trials import CUT_OFF_TRIES

from tests.support.command_thread import command_thread
from tests.support.ray_cluster import LOCAL, Cluster, eventually
from tests.support.toy_thread import MEASURE, RESEARCH, SPREAD, STEADY, Done, Repository, told


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    repository = Repository(tmp_path / "checkout")
    repository.spread()
    repository.commit()
    return repository


def on(ray: Cluster, repository: Repository, *arguments: str, **environment: str) -> Done:
    """Run the thread with its driver here."""
    return repository.run(*arguments, RAY_ADDRESS=ray.address, **environment)


def journal(repository: Repository) -> Journal:
    return Journal(open_store(str(repository.root / "local_store")), "toy")


def test_a_thread_leaves_the_same_records_here_and_on_a_cluster(ray: Cluster, repository: Repository) -> None:
    """IDs, keys, configurations, tables: only what was measured, and where and when, differs. What the jobs print
    comes with their names, and a second run adds nothing."""
    here = Repository(repository.root.parent / "here")
    here.spread()
    assert here.run().code == 0
    done = on(ray, repository)
    assert done.code == 0, done.output
    assert told(repository.root / "local_store") == told(here.root / "local_store")
    assert "(work-shard-0-" in done.output and "(replication-of-work-" in done.output
    trials = [stored.record for stored in journal(repository).scan().trials.values()]
    assert len({trial.launch.parent_pid for trial in trials}) < 4, "launchers stay for the next of four jobs"
    # The nodes are one machine.
    times = sorted((trial.started_at, trial.finished_at) for trial in trials)
    assert all(end <= start for (_, end), (start, _) in pairwise(times)), "timed trials take turns"
    assert on(ray, repository).code == 0
    assert told(repository.root / "local_store") == told(here.root / "local_store")


COMMANDS = """
    base = steps.baseline(
        Command("python -S tools/bench.py --work {work} --mode {mode}"), Config(), resources=Resources(ram="200m")
    )
    steps.sweep(base, ("work", [8000]))
    steps.sweep(base, ("mode", ["fail"]))
"""


def test_a_command_line_is_measured_on_the_cluster(ray: Cluster, tmp_path: Path) -> None:
    """Its runs take turns on the worker as they do here, with the files that the driver's checkout has."""
    repository = command_thread(tmp_path / "checkout", COMMANDS)
    done = on(ray, repository)
    assert done.code == 0, done.output
    trials = [stored.record for stored in journal(repository).scan().trials.values()]
    assert sorted(trial.status for trial in trials) == ["failed", "ok", "ok"]
    for trial in trials:
        assert trial.command and trial.command.argv[2] == "tools/bench.py", trial.error
        assert trial.status == "ok" or "exit code 7" in trial.error.message
        assert trial.status == "failed" or trial.samples.order in ("AABBBBAA", "BBAAAABB")


def test_what_asks_for_no_resources_is_told_to_run_in_the_driver(ray: Cluster, tmp_path: Path) -> None:
    """Its shards too: nobody is left to think that the cluster measures."""
    repository = Repository(tmp_path / "checkout")
    repository.thread(SPREAD.replace(', resources=Resources(ram="200m")', ""))
    done = on(ray, repository)
    assert done.code == 0, done.output
    here = "by no other machine of the cluster: baseline, work shard 0, work shard 1, work, "
    assert "measured by this driver, on " in done.output and here in done.output
    assert "resources=Resources(…)" in done.output


def test_a_failing_measure_function_is_a_result_and_a_killed_worker_is_not(
    ray: Cluster, repository: Repository, tmp_path: Path
) -> None:
    """The first is a failed row and is not measured twice. Of the other nothing is left but an interrupted attempt, and
    the trial that Ray has had started again."""
    repository.measure(
        MEASURE.replace(
            'if config.mode == "exit":',
            'if config.mode == "slow" and not Path(config.data).exists():\n'
            '        Path(config.data).touch()\n        time.sleep(60)\n    if config.mode == "exit":',
        )
    )
    slow = tmp_path / "slow"
    repository.thread(
        f"""
    base = steps.baseline(measure, Config(data="{slow}"), resources=Resources(ram="200m"))
    steps.sweep(base, ("mode", ["raise", "exit", "slow"]), label="modes")
    """,
    )
    with ThreadPoolExecutor() as pool:
        done = pool.submit(on, ray, repository)
        eventually(lambda: slow.exists() or done.done(), 240)
        (worker,) = [process for node in ray.nodes for process in node.workers("modes")]
        worker.kill()
        assert done.result().code == 0, done.result().output
    snapshot = journal(repository).scan()
    (table,) = [stored.record for stored in snapshot.entries.values() if stored.record.step == "sweep"]
    assert {row.changes["mode"]: row.status for row in table.rows} == {"raise": "failed", "exit": "failed", "slow": "ok"}
    assert [stored.record.id for stored in snapshot.interrupted.values()] == ["TOY-002.03"]
    assert len(snapshot.trials) == 4


def test_a_trial_that_ends_its_worker_is_left_after_a_few_times(ray: Cluster, repository: Repository) -> None:
    """What takes its process down each time, such as memory, does not hold up the others for ever."""
    repository.measure(
        MEASURE.replace(
            'if config.mode == "exit":',
            'if config.mode == "deadly":\n'
            "        import psutil\n"
            "        [up.kill() for up in psutil.Process().parents() if 'ray::' in ' '.join(up.cmdline())]\n"
            "        time.sleep(60)\n"
            '    if config.mode == "exit":',
        )
    )
    repository.thread(
        """
    base = steps.baseline(measure, Config(), resources=Resources(ram="200m"))
    steps.sweep(base, ("mode", ["deadly", "exit"]), label="modes")
    """
    )
    done = on(ray, repository)
    assert done.code == 0, done.output
    snapshot = journal(repository).scan()
    (table,) = [stored.record for stored in snapshot.entries.values() if stored.record.step == "sweep"]
    assert {row.changes["mode"]: row.status for row in table.rows} == {"deadly": "interrupted", "exit": "failed"}
    assert len(snapshot.interrupted) == CUT_OFF_TRIES


def test_any_step_with_resources_runs_on_the_cluster(ray: Cluster, repository: Repository) -> None:
    """Marin's own steps too, recorded or not, by `resources` or by `remote`. They see the store, and what they return is
    there for others."""
    repository.thread(
        """
    import os
    from fray.types import ResourceConfig
    from marin.execution.remote import remote
    from experiments.toy.marin_steps import own_path, step

    small = ResourceConfig.with_cpu(cpu=1, ram="200m")
    raw = step("toy/raw", remote(prepare, resources=small), {"out": own_path()})
    wide = step("toy/own", prepare, {"out": own_path(), "data": raw}, small)
    steps.recorded(wide, label="prepared")
    """
    )
    repository.measure(
        MEASURE
        + """

def prepare(config):
    print("prepared by", os.getpid(), "for", os.environ["MARIN_PREFIX"], "from", config.get("data"), flush=True)
    Path(config["out"]).mkdir(parents=True, exist_ok=True)
    return {"pid": os.getpid()}
"""
    )
    main = repository.experiment / "__main__.py"
    main.write_text(main.read_text().replace("import Config, measure", "import Config, measure, prepare"))
    done = on(ray, repository, MARIN_PREFIX=str(repository.root / "local_store"))
    assert done.code == 0, done.output
    assert "(toy-raw" in done.output and "(toy-own" in done.output and done.output.count("prepared by") == 2
    (entry,) = [stored.record for stored in journal(repository).scan().entries.values()]
    assert (entry.label, entry.status) == ("prepared", "ok")


def test_what_no_machine_has_is_told_and_given_up(ray: Cluster, tmp_path: Path) -> None:
    """A request that can't be met does not wait for ever; one for several hosts, or an actor, is refused at once."""
    done = client(
        ray,
        """
        ray_client.INFEASIBLE_S = 1
        for asked in (ResourceConfig.with_tpu("v5p-8", ram="1g", cpu=1), ResourceConfig.with_cpu(cpu=64, ram="1g")):
            try:
                job = RayClient().submit(JobRequest("big", entry, resources=asked))
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
    assert "no machine of the cluster has CPU 1, memory 1 GiB, TPU 4, TPU-v5p-8-head 1; the most" in done
    assert "no machine of the cluster has CPU 64" in done and "one of 2 has is CPU 2" in done
    assert done.count("stopped") == 2
    assert "wide asks for v4-16 on 2 hosts: expected one host" in done
    assert "wide asks for cpu on 2 hosts: expected one host" in done
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
                  "MARIN_TOKEN", "OMP_NUM_THREADS", "MKL_NUM_THREADS")))
            print("shown by Ray:", "hush" in str(ray.get_runtime_context().runtime_env))
        request = JobRequest("show", Entrypoint.from_callable(show), resources=small, environment=environment)
        print(RayClient().submit(request).wait())
        def outer():
            from fray.current_client import current_client
            inner = JobRequest("inner", Entrypoint.from_binary("sh", ["-c", "echo from within"]), resources=small)
            current_client().submit(inner).wait()
        print(RayClient().submit(JobRequest("outer", Entrypoint.from_callable(outer), resources=small)).wait())
        def fail():
            raise KeyError("mine")
        job = RayClient().submit(JobRequest("fail", Entrypoint.from_callable(fail), resources=small))
        try:
            job.wait()
        except KeyError as error:
            print("caught", repr(error), job.status(), job.wait(raise_on_failure=False))
        """,
        MARIN_PREFIX="/there", XLA_FLAGS="--xla_x", SECRET="s", MARIN_TOKEN="hush", MKL_NUM_THREADS="2",
    )  # fmt: skip
    seen = {"MARIN_PREFIX": "/there", "MARIN_TOKEN": "hush", "MINE": "1", "MKL_NUM_THREADS": "2", "XLA_FLAGS": "--xla_x"}
    assert str(list(seen.items())) in done and "shown by Ray: False" in done
    assert "from within" in done
    assert "caught KeyError('mine') failed failed" in done


def test_a_worker_that_gets_another_accelerator_imports_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was imported under the environment of one job is not measured under that of another."""
    monkeypatch.setattr(away, "_warm", None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    first = away._launcher()
    assert away._launcher() is first
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert away._launcher() is not first and first.closed


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"cpu": "4"}, "cpu='4'"),
        ({"cpu": 0}, "cpu=0"),
        ({"ram": 4}, "ram=4"),
        ({"ram": "lots"}, "ram='lots'"),
        ({"tpu": 8}, "tpu=8"),
        ({"tpu": "v4-8", "gpu": "H100"}, "expected one of them"),
        ({"gpus": 8}, "gpus=8 and gpu=''"),
        ({"gpu": "H100", "gpus": 1.5}, "gpus=1.5"),
    ],
)
def test_resources_that_mean_nothing_are_refused(given: dict[str, Any], told: str) -> None:
    """In the thread's own file, where they are written."""
    with pytest.raises(UsageError, match=re.escape(told)):
        Resources(**given)


def test_resources_that_are_not_there_are_refused_first(ray: Cluster, repository: Repository) -> None:
    """Here for a TPU that this machine lacks, on Ray for a slice of several hosts, and everywhere for what is none."""
    for tpu, told_here, told_there in (
        ("v4-16", "and this machine is cpu/", "asks for v4-16 on 2 hosts"),
        ("banana", "and this machine is cpu/", "what Marin doesn't know"),
    ):
        repository.thread(f'\n    steps.baseline(measure, Config(), resources=Resources(tpu="{tpu}"))\n')
        assert told_here in repository.run().output
        assert told_there in on(ray, repository).output
    assert not journal(repository).ids.reserved()


def client(ray: Cluster, script: str, **environment: str) -> str:
    """What a process prints that uses the client by itself."""
    prelude = """
        import os, ray
        from fray.client import *
        from fray.types import *
        from research_steps.remote.ray import client as ray_client
        from research_steps.remote.ray.client import RayClient
        from research_steps.errors import UsageError
        small = ResourceConfig.with_cpu(cpu=1, ram="100m")
        entry = Entrypoint.from_callable(lambda: None)
        ray.init(os.environ["RAY_ADDRESS"], logging_level="WARNING")
        """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(prelude) + textwrap.dedent(script)],
        env=ray.environment(**environment), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_a_submitted_thread_is_the_same_from_every_checkout(ray: Cluster, repository: Repository) -> None:
    """Its driver is a job without git: the records say which code it was, with what was not committed. Whoever follows
    it, and whoever comes later with an empty clone, gets the same logbook, byte for byte."""
    here = Repository(repository.root.parent / "here")
    here.spread()
    assert here.run().code == 0
    head = repository.git("rev-parse", "HEAD").strip()
    (repository.experiment / "measure.py").write_text(STEADY + "\n# not committed\n")
    store = repository.root.parent / "shared"
    submitted = research(
        repository,
        ray,
        "submit",
        "--cluster",
        str(LOCAL),
        "--prefix",
        str(store),
        "--",
        "python",
        "-m",
        "experiments.toy",
    )
    assert "(work-shard-1-" in submitted and "TOY-004: appended to the logbook" in submitted
    trials = Journal(open_store(str(store)), "toy").scan().trials.values()
    made = {(stored.record.provenance.commit, stored.record.provenance.patch) for stored in trials}
    ((commit, patch),) = made
    assert commit == head and b"# not committed" in (store / "journal/toy/patches" / f"{patch}.patch").read_bytes()
    again = repository.root.parent / "again"
    repository.git("clone", "--quiet", ".", str(again))
    clone = Repository.__new__(Repository)
    clone.root = again
    research(clone, ray, "sync", "toy", "--prefix", str(store))
    folders = [checkout.root / ".agents" / "logbooks" for checkout in (repository, clone)]
    files = [{path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.*")} for folder in folders]
    assert files[0] == files[1]
    assert clone.ids == here.ids


@pytest.mark.parametrize("name", ["bench_cluster_dispatch", "bench_cluster_kills"])
def test_a_benchmark_runs_on_the_cluster(ray: Cluster, name: str, tmp_path: Path) -> None:
    """In its short form it comes to its end, and whatever it counts or concludes is right."""
    assert importlib.import_module(f"benchmarks.{name}").quick(tmp_path, ray) == []


def research(repository: Repository, ray: Cluster, *arguments: str) -> str:
    """What the command prints."""
    done = subprocess.run(
        [*RESEARCH, *arguments], cwd=repository.root, env=ray.environment(RAY_API_SERVER_ADDRESS=ray.jobs),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout
