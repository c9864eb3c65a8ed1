"""The W&B surface with W&B itself: offline files, its service, its command, and a server on loopback."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
from research_steps.errors import SurfaceError, UsageError
from research_steps.journal.experiment_ids import NoOthers
from research_steps.journal.journal import Journal
from research_steps.journal.wandb_project import check_project, project_of
from research_steps.publish.publisher import Published, publish
from research_steps.publish.wandb import sync
from research_steps.publish.wandb.run_file import log
from research_steps.publish.wandb.runs_on_disk import folder_of, is_sent, runs_in
from research_steps.publish.wandb.surface import WandbSurface, url_of
from research_steps.records.encoding import Stored
from research_steps.records.model import Samples
from research_steps.records.objects import IssueLink, Project
from research_steps.records.series import Hypothesis, Series
from research_steps.records.times import parse_utc, utc
from research_steps.records.wandb_names import accepted_tags

from tests.support import scratch_logbook
from tests.support.scratch_logbook import SERIES, Desk
from tests.support.wandb_files import RunContents, read, records
from tests.support.wandb_server import Server, server

KEY = "0123456789" * 4
SECRET = "hunter2-or-so-it-seems"
SAMPLES = Samples(
    paired=True,
    order="AB" * 5,
    candidate={"time_s": [0.1, 0.2, 0.3, 0.4, 0.5]},
    baseline={"time_s": [0.2, 0.2, 0.2, 0.2, 0.2]},
)


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No key, no settings and no server of whoever runs the tests; a secret that must not get anywhere."""
    for name in [name for name in os.environ if name.startswith("WANDB_") or name == "NETRC"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HUB_TOKEN", SECRET)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk.make(tmp_path)


def measure(desk: Desk, *trials: dict[str, Any], **changes: Any) -> Stored[Any]:
    """A step whose trials are given by what is special about each."""
    id = desk.journal.ids.reserve("TOY", f"toy/{os.urandom(4).hex()}", NoOthers())
    rows = []
    for number, special in enumerate(trials, 1):
        key = os.urandom(32).hex()
        record = msgspec.structs.replace(
            scratch_logbook.trial(f"{id}.{number:02d}", key),
            **{"samples": SAMPLES, "label": f"work={number}", **special},
        )
        rows.append(scratch_logbook.row(desk.journal.attempts.finish("trial", record)))
        rows[-1] = msgspec.structs.replace(rows[-1], status=record.status)
    return desk.journal.attempts.finish("entry", scratch_logbook.entry(id, **{"rows": tuple(rows), **changes}))


def show(desk: Desk, series: Series = SERIES, final: bool = True) -> Published:
    """One pass of the surface, by a publisher that has seen nothing before."""
    return publish(desk.journal, [WandbSurface(desk.checkout, desk.journal, series)], final)


def files(desk: Desk) -> dict[str, Path]:
    return runs_in(folder_of(desk.checkout, SERIES.topic))


def runs(desk: Desk) -> dict[str, RunContents]:
    """The runs in place, by name, read back from their files."""
    parsed = [read(path) for path in files(desk).values()]
    return {contents.run.display_name: contents for contents in parsed}


def place(desk: Desk) -> Path:
    """Where the runs of all series of a checkout lie."""
    return folder_of(desk.checkout, SERIES.topic).parent


def everything(desk: Desk) -> bytes:
    """All bytes that lie where W&B's runs are written, names included."""
    paths = sorted(place(desk).rglob("*"))
    return b"\n".join(str(path).encode() + b"\n" + (path.read_bytes() if path.is_file() else b"") for path in paths)


# -- what a run holds -----------------------------------------------------------------------------------------------


def test_a_trial_becomes_a_run_that_says_what_was_measured(desk: Desk) -> None:
    """Name, group, tags, configuration, every pair, medians, ratio and provenance, read from W&B's own file."""
    desk.journal.decide("issue", IssueLink("o/r", 42, "https://github.com/o/r/issues/42", utc()))
    started, finished = "2026-05-21T09:30:00.000Z", "2026-05-21T09:30:07.500Z"
    entry = measure(
        desk,
        {"contended": "other processes kept 2.00 cores busy", "started_at": started, "finished_at": finished},
        label="work",
        hypothesis="H1: less work takes less time",
    )
    published = show(desk)
    assert published.problems == ()
    assert [(done.id, done.what) for done in published.done] == [
        ("TOY-001", "2 runs for W&B in .git/research-steps/wandb/toy")
    ]

    contents = runs(desk)["TOY-001.01 work=1"]
    trial = desk.journal.load("trial", entry.record.rows[0].trial)
    assert contents.kinds[0] == "header" and contents.kinds[-1] == "exit" and contents.exit_code == 0
    assert contents.run.run_id == trial.sha256[:16]
    assert (contents.run.project, contents.run.run_group, contents.run.job_type) == ("toy", "TOY-001 work", "trial")
    assert list(contents.run.tags) == ["TOY", "toy", "#42", "sweep", "H1", "ok", "contended"]
    assert contents.run.notes == "H1: less work takes less time"
    assert contents.run.start_time.ToJsonString() == "2026-05-21T09:30:00Z"
    assert contents.config["config"] == {"work": 1} and contents.config["baseline"] == {"work": 2}
    assert contents.config["from"]["commit"] == "c" * 40
    assert contents.config["from"]["command"] == "python -m experiments.toy"
    assert [row["time_s"] for row in contents.history] == SAMPLES.candidate["time_s"]
    assert {row["_timestamp"] for row in contents.history} == {parse_utc(finished).timestamp()}
    assert [row["baseline/time_s"] for row in contents.history] == SAMPLES.baseline["time_s"]
    assert contents.history[3]["ratio/time_s"] == 2.0
    assert contents.summary["time_s"] == 0.3 and contents.summary["baseline/time_s"] == 0.2
    assert contents.summary["sha256"] == trial.sha256 and contents.summary["duration_s"] == 7.5
    assert contents.summary["status"] == "ok" and contents.summary["commit"] == "c" * 40


def test_a_sweep_has_a_run_with_its_raw_table(desk: Desk) -> None:
    """Every sample of every trial is in a table that W&B's own reader takes; the reason is where a person looks."""
    import wandb

    error = scratch_logbook.error("no room", "measure.py:3 in measure")
    measure(desk, {}, {"status": "failed", "samples": None, "error": error}, label="work", result="one of two")
    assert show(desk).problems == ()
    contents = runs(desk)["TOY-001 work"]
    assert (contents.run.run_group, contents.run.job_type) == ("TOY-001 work", "sweep")
    assert contents.summary["result"] == "one of two" and contents.summary["failed trials"] == 1
    (artifact,) = contents.artifacts
    (entry,) = artifact.manifest.contents
    assert entry.path == "samples.table.json"
    path = folder_of(desk.checkout, "toy") / entry.local_path
    table = wandb.Table.from_json(json.loads(path.read_bytes()), source_artifact=None)
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.data]
    assert len(rows) == 11
    assert [row["time_s"] for row in rows if row["side"] == "candidate"] == [*SAMPLES.candidate["time_s"], None]
    assert {row["trial"]: row["status"] for row in rows} == {"TOY-001.01": "ok", "TOY-001.02": "failed"}
    failed = runs(desk)["TOY-001.02 work=2"]
    assert failed.exit_code == 1 and "failed" in failed.run.tags and failed.history == []
    assert failed.run.notes == "ValueError: no room\nmeasure.py:3 in measure"


def test_interpretations_and_interrupted_trials_are_no_runs(desk: Desk) -> None:
    """There is nothing in them to plot."""
    measure(desk, step="interpret")
    measure(desk, {}, step="baseline", label="base")
    entry = measure(desk, {}, label="cut off")
    row = msgspec.structs.replace(entry.record.rows[0], status="interrupted")
    desk.journal.attempts.finish("entry", scratch_logbook.entry("TOY-009", rows=(row,), step="replicate", label="again"))
    assert show(desk).problems == ()
    assert sorted(runs(desk)) == [
        "TOY-002 base", "TOY-002.01 work=1", "TOY-003 cut off", "TOY-003.01 work=1", "TOY-009 again",
    ]  # fmt: skip


HOSTILE = "\x00\x1b[31m\r\n@everyone # closes #1 <!-- x --> `a` | 😀 \u2028 ../../etc %s {} " + "x" * 3000


def test_hostile_text_stays_text_and_fits(desk: Desk) -> None:
    """Names on one line that W&B accepts, and everything else as it was recorded."""
    samples = Samples(
        paired=False,
        order="AB",
        candidate={"a.b/c": [1e308, 5e-324], "time_s": [-0.0, 12345678901234567.0]},
        baseline={"time_s": [0.0]},
    )
    config = {"_wandb": {"x": 1}, "_type": "table-file", HOSTILE: [HOSTILE, {"": None}], "n": 2**70, "deep": {"a": []}}
    config["at"] = "wandb-artifact://a/b"
    measure(
        desk,
        {"label": HOSTILE, "config": config, "samples": samples, "baseline_config": {"_type": "artifactVersion"}},
        label=HOSTILE,
        hypothesis=HOSTILE,
        result=HOSTILE,
        config=config,
    )
    assert show(desk).problems == ()
    (trial,) = [contents for contents in runs(desk).values() if contents.run.job_type == "trial"]
    assert trial.run.display_name.startswith("TOY-001.01")
    assert len(trial.run.display_name) <= 64 and len(trial.run.run_group) <= 64
    assert "\n" not in trial.run.display_name + trial.run.run_group + "".join(trial.run.tags)
    assert trial.config["config"] == {**json.loads(json.dumps(config)), "at": " wandb-artifact://a/b"}
    assert trial.config["baseline"] == {" _type": "artifactVersion"}
    assert trial.config["from"]["label"] == HOSTILE
    assert [row["a.b/c"] for row in trial.history] == [1e308, 5e-324]
    assert [row["time_s"] for row in trial.history] == [0.0, 12345678901234567.0]
    assert "ratio/time_s" not in trial.history[0]


def test_tags_are_cut_to_what_wandb_takes() -> None:
    """An empty tag or one over 64 characters would end the run before it begins."""
    assert accepted_tags(["", " ", "a", "a", "b" * 65, "c\nd"]) == ["a", "b" * 63 + "…", "c d"]


def test_a_table_over_ten_megabytes_stays_away_and_a_long_history_does_not(desk: Desk) -> None:
    """The run says where the samples are; a history goes over many of the blocks that W&B's file is made of."""
    many = [i / 7 for i in range(2000)]
    samples = Samples(paired=True, order="AB" * 2000, candidate={"time_s": many}, baseline={"time_s": many})
    measure(desk, {"samples": samples, "label": "x" * 4000}, label="work")
    assert show(desk).problems == ()
    contents = runs(desk)["TOY-001 work"]
    assert contents.artifacts == [] and not list(place(desk).rglob("*.table.json"))
    assert "10 MB" in contents.config["raw table"] and ".agents/logbooks/toy" in contents.config["raw table"]
    assert "Raw table: left out" in contents.run.notes and str(desk.store) not in contents.run.notes
    (trial,) = [path for path in files(desk).values() if path.stat().st_size > 5 * 32768]
    assert [row["time_s"] for row in read(trial).history] == many


# -- once, whoever is killed -----------------------------------------------------------------------------------------


def test_each_trial_is_one_run_however_often_it_is_published(desk: Desk) -> None:
    """A second pass writes nothing; an entry that names an old trial again adds only its own run."""
    first = measure(desk, {}, {}, label="work")
    assert show(desk).ids == ("TOY-001",)
    before = {id: path.stat().st_mtime_ns for id, path in files(desk).items()}
    assert show(desk) == Published()
    desk.journal.attempts.finish("entry", scratch_logbook.entry("TOY-002", rows=first.record.rows, label="again"))
    assert [done.what for done in show(desk).done] == ["1 run for W&B in .git/research-steps/wandb/toy"]
    after = {id: path.stat().st_mtime_ns for id, path in files(desk).items()}
    assert len(after) == 4 and before.items() <= after.items()
    # Also when all are written anew.
    shutil.rmtree(place(desk))
    assert show(desk).problems == ()
    assert set(files(desk)) == set(after)
    assert runs(desk)["TOY-001.01 work=1"].run.run_group == "TOY-001 work"


def test_nothing_is_written_while_a_thread_runs(desk: Desk) -> None:
    """Writing runs takes a core, and a trial may be measured on it."""
    measure(desk, {})
    assert show(desk, final=False) == Published()
    assert not place(desk).exists()


@contextmanager
def in_background(call: Any) -> Iterator[list[Any]]:
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(call()))
    thread.start()
    yield answers
    thread.join(250)
    assert not thread.is_alive()


def children(name: str) -> list[psutil.Process]:
    """Processes below this one whose command line says this name."""
    processes = []
    for process in psutil.Process().children(recursive=True):
        try:
            if any(name in word for word in process.cmdline()):
                processes.append(process)
        except psutil.Error:
            continue
    return processes


def left_by_wandb(tmp_path: Path) -> list[psutil.Process]:
    """Processes that were started with a place below this in their environment, whoever's children they are now."""
    processes = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if any(str(tmp_path) in value for value in process.environ().values()):
                processes.append(process)
    return processes


def kill_one(name: str, after: float, number: int = signal.SIGKILL) -> bool:
    """Wait for such a process, and signal it so many seconds later."""
    deadline = time.monotonic() + 120
    while not children(name) and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(after)
    for process in children(name):
        process.send_signal(number)
        return True
    return False


def whole(desk: Desk, expected: int) -> None:
    """Every run is there once, and whole; nothing else lies beside them."""
    folder = folder_of(desk.checkout, "toy")
    parsed = [read(path) for path in folder.glob("*/*.wandb")]
    assert len(parsed) == len({contents.run.run_id for contents in parsed}) == expected
    for contents in parsed:
        assert contents.kinds[-1] == "exit"
        assert len(contents.history) == (5 if contents.run.job_type == "trial" else 0)
    assert sorted(folder.iterdir()) == sorted(path.parent for path in files(desk).values())


DRIVER = """
import sys
from pathlib import Path
from research_steps.publish.publisher import publish
from research_steps.publish.wandb.surface import WandbSurface
from tests.support.scratch_logbook import Desk, SERIES
desk = Desk(Path(sys.argv[1]), Path(sys.argv[2]))
publish(desk.journal, [WandbSurface(desk.checkout, desk.journal, SERIES)])
"""


def test_a_killed_driver_leaves_whole_runs(desk: Desk) -> None:
    """Killed at a random moment of its writing: what is in place is whole, and in the end all are there once."""
    measure(desk, *({} for _ in range(200)), label="work")
    command = [sys.executable, "-c", DRIVER, str(desk.root), str(desk.store)]
    chance = random.Random(1)
    for least in (1, 40, 80):
        driver = subprocess.Popen(command, cwd=Path(__file__).parents[1])
        deadline = time.monotonic() + 120
        while len(files(desk)) < least and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.01))
        driver.kill()
        assert driver.wait() == -signal.SIGKILL
        assert least <= len(files(desk)) < 201
        for path in files(desk).values():
            assert read(path).kinds[-1] == "exit"
    assert show(desk).problems == ()
    whole(desk, 201)


def test_runs_of_wandbs_own_client_are_sent_once(
    desk: Desk, wandb_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So did the version before: what it left is sent as it is, once."""
    entry = measure(desk, {}, {}, label="work")
    theirs, sent, _ = (run.sha256[:16] for run in (entry.record.rows[0].trial, entry.record.rows[1].trial, entry))
    where = folder_of(desk.checkout, "toy")
    for number, id in enumerate((theirs, sent)):
        code = f"import wandb; wandb.init(mode='offline', project='toy', id='{id}', dir={str(tmp_path)!r}).finish()"
        subprocess.run([sys.executable, "-c", code], check=True)
        (written,) = tmp_path.glob(f"wandb/offline-run-*-{id}/*.wandb")
        there = where / f"offline-run-20260521_09300{number}-{id}" / written.name
        there.parent.mkdir(parents=True)
        written.rename(there)
    files(desk)[sent].with_name(f"run-{sent}.wandb.synced").write_bytes(b"")
    before = {id: files(desk)[id].read_bytes() for id in (theirs, sent)}
    assert [done.what for done in show(desk).done] == [
        "1 run for W&B in .git/research-steps/wandb/toy",
        f"2 runs sent to W&B: {wandb_server.url}/ada/toy",
    ]
    assert before == {id: files(desk)[id].read_bytes() for id in before}
    assert wandb_server.runs.keys() == {theirs, entry.sha256[:16]}
    assert show(desk) == Published()


def test_two_publishers_of_one_work_tree_take_turns(desk: Desk) -> None:
    measure(desk, *({} for _ in range(4)), label="work")
    with in_background(lambda: show(desk)) as first, in_background(lambda: show(desk)) as second:
        pass
    assert first[0].problems == second[0].problems == ()
    assert len(first[0].done) + len(second[0].done) == 1
    whole(desk, 5)


# -- a full disk ------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(desk: Desk) -> Iterator[Path]:
    """Two megabytes for W&B's files."""
    where = place(desk)
    where.mkdir(parents=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(where)], capture_output=True)
    if done.returncode != 0:
        pytest.skip("mounting a small disk takes rights that are not given here")
    yield where
    subprocess.run(["umount", str(where)], check=True)


def fill(path: Path) -> None:
    """Write a file until its disk takes no more."""
    with pytest.raises(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)


def test_a_full_disk_is_told_and_leaves_no_half_run(desk: Desk, small_disk: Path) -> None:
    """Wherever it fills up: what is in place is whole, the disk is named, and nothing is counted as done that is not."""
    measure(desk, *({} for _ in range(8)), label="work")
    filler = small_disk / "filler"
    fill(filler)
    assert "No space left" in show(desk).problems[0]
    for free in (8192, 12288, 20480, 28672, 40960):
        shutil.rmtree(small_disk / "toy", ignore_errors=True)
        fill(filler)
        os.truncate(filler, filler.stat().st_size - free)
        published = show(desk)
        written = len(files(desk))
        assert written < 9
        assert [int(done.what.split()[0]) for done in published.done] == [written] * (written > 0)
        (problem,) = published.problems
        assert problem.startswith(f"{9 - written} run") and "No space left" in problem
        for path in files(desk).values():
            assert read(path).kinds[-1] == "exit"
        assert len(list(small_disk.glob("toy/*"))) == written
    filler.unlink()
    assert show(desk).problems == ()
    whole(desk, 9)


def test_a_record_at_the_end_of_a_block_is_in_two_parts() -> None:
    """There LevelDB's format has room for a part without a byte in it; and where it has none, zeros."""
    import struct
    import zlib

    def part(kind: int, body: bytes) -> bytes:
        return struct.pack("<IHB", zlib.crc32(body, zlib.crc32(bytes([kind]))), len(body), kind) + body

    first = b"x" * (32768 - 7 - 7 - 7)
    data = b":W&B\xe1\xbe\x00" + part(1, first) + part(2, b"") + part(4, b"the rest")
    assert log([first, b"the rest"]) == data
    for torn in (data[: -len(part(4, b"the rest"))], data[:-1], data + part(4, b"too much")):
        with pytest.raises(ValueError):
            list(records(torn))
    for size in range(32768 - 40, 32768 + 10):
        lines = [b"x" * size, b"", b"y" * 100_000, b"the rest"]
        assert list(records(log(lines))) == lines


# -- what stays here --------------------------------------------------------------------------------------------------


def test_private_series_and_records_leave_nothing(desk: Desk) -> None:
    """Not even a folder; and a private step beside a public one leaves no word."""
    measure(desk, {"label": "hidden-trial"}, label="hidden-step", private=True)
    assert show(desk) == Published()
    measure(desk, {}, label="open")
    assert show(desk, series(private=True)) == Published()
    assert not place(desk).exists()
    assert desk.journal.decided("project", Project) is None
    assert show(desk).problems == ()
    assert b"hidden" not in everything(desk)
    whole(desk, 2)


def test_nothing_of_this_machine_gets_into_a_run(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """No secret, no host, no user, no argument, no path, no remote and no environment, in any byte that W&B wrote."""
    import getpass
    import socket

    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("NOTES", "TAGS", "NAME", "RUN_GROUP", "JOB_TYPE", "USERNAME", "HOST", "PROGRAM", "ENTITY"):
        monkeypatch.setenv(f"WANDB_{name}", "of-the-environment")
    monkeypatch.setenv("WANDB_PROJECT", "elsewhere")
    desk.git("remote", "add", "origin", "https://example.org/a-remote.git")
    measure(desk, {}, label="work")
    # In a driver of its own, which loads no W&B: its import and its threads would disturb what is timed.
    code = DRIVER + "print([name for name in sys.modules if name.split('.')[0] == 'wandb'])\n"
    command = [sys.executable, "-c", code, str(desk.root), str(desk.store)]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    whole(desk, 2)
    wandb_files = place(desk).rglob("*")
    data = b"\n".join(path.read_bytes() for path in wandb_files if path.is_file())
    words = [SECRET, KEY, "of-the-environment", "elsewhere", "a-remote", str(desk.root), "pytest"]
    for word in [*words, sys.executable, *(name for name in [socket.gethostname()] if len(name) > 5)]:
        assert word.encode() not in data, word
    for contents in runs(desk).values():
        assert set(contents.kinds) <= {"header", "run", "telemetry", "summary", "history", "artifact", "exit", "config"}
        assert not contents.run.host and not contents.run.git.remote_url
        assert getpass.getuser() not in str(contents.run)
    assert "wandb" not in desk.git("status", "--short", "--untracked-files=all")


def test_wandb_can_be_switched_off(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    measure(desk, {})
    assert show(desk) == Published()
    assert not place(desk).exists()


def test_a_record_that_is_gone_keeps_back_only_its_own_runs(desk: Desk) -> None:
    """It is told, and the others are written."""
    entry = measure(desk, {}, {}, label="work")
    ref = entry.record.rows[0].trial
    (path,) = desk.store.rglob(f"records/{ref.key}-0.json")
    path.unlink()
    (problem,) = show(desk).problems
    assert problem.startswith("2 runs could not be written for W&B, TOY-001.01 first:") and "is gone" in problem
    assert sorted(runs(desk)) == ["TOY-001.02 work=2"]


# -- the project ------------------------------------------------------------------------------------------------------


def series(**changes: Any) -> Series:
    values = {"topic": "toy", "prefix": "TOY", "goal": "", "metrics": SERIES.metrics}
    return Series(**{**values, **changes})


def test_the_project_is_decided_once_and_another_name_is_refused(desk: Desk) -> None:
    """Runs can't be moved, so a series that changes its mind is told before anything runs."""
    check_project(desk.journal, series(wandb_project="first"))
    assert project_of(desk.journal, series(wandb_project="first")) == "first"
    assert project_of(desk.journal, series(wandb_project="second")) == "first"
    assert project_of(desk.journal, series()) == "first"
    check_project(desk.journal, series())
    check_project(desk.journal, series(wandb_project="first"))
    with pytest.raises(
        UsageError, match=r"names the W&B project 'second', but 'first' was decided at .* can't be moved"
    ):
        check_project(desk.journal, series(wandb_project="second"))
    measure(desk, {}, label="work")
    assert show(desk, series(hypotheses=(Hypothesis("H1", "x"),))).problems == ()
    assert {contents.run.project for contents in runs(desk).values()} == {"first"}


def test_a_follow_up_goes_where_its_parents_runs_are(desk: Desk) -> None:
    """Where the parent decided, where it would, or where its topic says, when this store does not know it."""

    def child(number: int, parent: str) -> tuple[Journal, Series]:
        name = f"child{number}"
        return Journal(desk.journal.store, name), series(topic=name, parent=parent)

    assert project_of(*child(1, "unknown")) == "unknown"
    parent = Journal(desk.journal.store, "parent")
    parent.declare(series(topic="parent", wandb_project="theirs"))
    assert project_of(*child(2, "parent")) == "theirs"
    project_of(parent, series(topic="parent", wandb_project="decided"))
    assert project_of(*child(3, "parent")) == "decided"
    with pytest.raises(UsageError, match="names the W&B project 'decided', but 'theirs' was decided"):
        check_project(*child(2, "parent"))
    parent.declare(series(topic="parent", private=True))
    assert project_of(*child(4, "parent")) == "child4"
    Journal(desk.journal.store, "a").declare(series(topic="a", parent="b"))
    Journal(desk.journal.store, "b").declare(series(topic="b", parent="a"))
    assert project_of(Journal(desk.journal.store, "a"), series(topic="a", parent="b")) in ("a", "b")


def test_a_project_that_wandb_would_refuse_is_refused_at_once(desk: Desk) -> None:
    for name in ("a/b", "x" * 129, " ", "a?b"):
        with pytest.raises(UsageError, match="expected 1 to 128 characters"):
            check_project(desk.journal, series(wandb_project=name))
        with pytest.raises(UsageError):
            project_of(desk.journal, series(wandb_project=name))
    assert desk.journal.decided("project", Project) is None


# -- sending ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def wandb_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server that a key is there for."""
    with server() as here:
        monkeypatch.setenv("WANDB_BASE_URL", here.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        yield here


def test_runs_are_sent_by_wandbs_own_command_and_once(
    desk: Desk, wandb_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a key they are on the server after the pass; the next one sends nothing."""
    monkeypatch.setenv("WANDB_ENTITY", "a-team")
    entry = measure(desk, {}, {"status": "failed", "samples": None}, label="work")
    published = show(desk)
    assert published.problems == ()
    url = f"{wandb_server.url}/a-team/toy"
    told = ["3 runs for W&B in .git/research-steps/wandb/toy", f"3 runs sent to W&B: {url}"]
    assert [done.what for done in published.done] == told
    assert all(map(is_sent, files(desk).values()))
    assert url_of(desk.checkout, "toy") == url
    assert url_of(desk.checkout, "toy", entry.sha256) == f"{url}/runs/{entry.sha256[:16]}"

    sent = wandb_server.runs[entry.record.rows[0].trial.sha256[:16]]
    assert sent.complete and sent.exit_code == 0
    assert [row["time_s"] for row in sent.history] == SAMPLES.candidate["time_s"]
    assert sent.summary["time_s"] == 0.3
    assert sent.variables["displayName"] == "TOY-001.01 work=1" and sent.variables["groupName"] == "TOY-001 work"
    assert sent.variables["tags"] == ["TOY", "toy", "sweep", "ok"]
    assert json.loads(sent.variables["config"])["config"] == {"value": {"work": 1}}
    assert wandb_server.runs[entry.record.rows[1].trial.sha256[:16]].exit_code == 1
    assert list(wandb_server.artifacts.values()) == ["COMMITTED"]
    assert wandb_server.unknown == []
    for _, _, body in wandb_server.requests:
        assert SECRET.encode() not in body and str(desk.root).encode() not in body
    before = len(wandb_server.requests)
    assert sent.variables["entity"] == "a-team"
    assert show(desk) == Published()
    assert len(wandb_server.requests) == before


def test_a_long_history_arrives_whole(desk: Desk, wandb_server: Server) -> None:
    """It goes over many of the blocks that a run's file is made of, and W&B reads them."""
    many = [i / 7 for i in range(3000)]
    measure(desk, {"samples": Samples(paired=True, order="AB" * 3000, candidate={"t": many}, baseline={"t": many})})
    assert show(desk).problems == ()
    (history,) = (run.history for run in wandb_server.runs.values() if run.history)
    assert [row["t"] for row in history] == many


def test_a_server_that_is_away_keeps_everything_pending_until_it_is_back(desk: Desk, wandb_server: Server) -> None:
    """A refused key is told in bounded time; when it is taken everything is sent."""
    entry = measure(desk, {}, label="work")
    wandb_server.mode = "401"
    start = time.monotonic()
    (problem,) = show(desk).problems
    assert time.monotonic() - start < 120
    assert problem.startswith("2 runs of toy did not get to W&B: ") and "you get 401" in problem
    assert "research sync toy" in problem and KEY not in problem
    assert not any(map(is_sent, files(desk).values()))
    assert url_of(desk.checkout, "toy", entry.sha256) == ""
    whole_runs = {id: path.read_bytes() for id, path in files(desk).items()}
    wandb_server.mode = "accepts"
    assert [done.what for done in show(desk).done] == [f"2 runs sent to W&B: {wandb_server.url}/ada/toy"]
    assert whole_runs == {id: path.read_bytes() for id, path in files(desk).items()}


def test_without_a_network_a_pass_ends_and_says_so(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody listens there."""
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    measure(desk, {}, label="work")
    start = time.monotonic()
    (problem,) = show(desk).problems
    assert time.monotonic() - start < 120
    assert "connection refused" in problem
    assert len(files(desk)) == 2 and not any(map(is_sent, files(desk).values()))


def test_a_server_that_hangs_is_given_up(
    desk: Desk, wandb_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within the bound, and nothing of W&B is left running, not even what has a session of its own."""
    monkeypatch.setattr(sync, "PATIENCE_S", 10.0)
    wandb_server.mode = "hangs"
    measure(desk, {}, label="work")
    start = time.monotonic()
    (problem,) = show(desk).problems
    left = left_by_wandb(tmp_path)
    assert time.monotonic() - start < 120
    assert "it took too long" in problem
    assert left == []
    assert len(files(desk)) == 2


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
def test_a_command_that_hangs_or_dies_leaves_no_service(
    desk: Desk, wandb_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """W&B starts it in a session of its own, and it may hang as well: nothing is left that writes into the folder."""
    monkeypatch.setattr(sync, "PATIENCE_S", 10.0)
    wandb_server.mode = "hangs"
    measure(desk, {}, label="work")
    with in_background(lambda: show(desk)) as answers:
        assert kill_one("wandb-core", 0.3, signal.SIGSTOP)
        # The command waits for it now.
        assert kill_one("sync", 0.0, number)
    assert answers[0].problems
    assert left_by_wandb(tmp_path) == []
    wandb_server.mode = "accepts"
    assert show(desk).problems == ()
    assert len(wandb_server.runs) == 2


def test_what_was_written_is_told_when_sending_can_not_begin(
    desk: Desk, wandb_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its program can't be found: the runs wait, and nothing says that none was written."""
    measure(desk, {}, label="work")
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert show(desk).problems == ()
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "gone"))
    (problem,) = show(desk).problems
    assert problem.startswith("2 runs of toy did not get to W&B: ") and "research sync toy" in problem


# Ends a sender at a moment at which W&B's command is through and nobody has read yet what it said.
KILLED = """
import os, signal, sys
from pathlib import Path
from research_steps.publish.wandb import sync
from tests.support.scratch_logbook import SERIES, Desk
from research_steps.publish.publisher import publish
from research_steps.publish.wandb.surface import WandbSurface
sync.kill_marked = lambda name, value: os.kill(os.getpid(), signal.SIGKILL)
desk = Desk(Path(sys.argv[1]), Path(sys.argv[2]))
publish(desk.journal, [WandbSurface(desk.checkout, desk.journal, SERIES)], True)
"""


def test_who_is_killed_while_sending_leaves_the_addresses(desk: Desk, wandb_server: Server) -> None:
    """The runs have arrived: the next sync knows where W&B shows each, and sends none again."""
    entry = measure(desk, {}, label="work")
    command = [sys.executable, "-c", KILLED, str(desk.root), str(desk.store)]
    killed = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert all(map(is_sent, files(desk).values())) and url_of(desk.checkout, "toy", entry.sha256) == ""
    before = len(wandb_server.requests)
    assert show(desk).problems == ()
    assert url_of(desk.checkout, "toy", entry.sha256) == f"{wandb_server.url}/ada/toy/runs/{entry.sha256[:16]}"
    assert len(wandb_server.requests) == before
    assert not list(folder_of(desk.checkout, "toy").glob(".sending-*"))


ODD_NAMES = ["_step", "_runtime", "_timestamp", "_wandb", "", "status", "samples", "duration_s", "trial", "ratio/time_s"]


def test_metrics_with_names_that_mean_something_to_wandb(desk: Desk, wandb_server: Server) -> None:
    """Each arrives, under a name of its own, and holds nothing up."""
    metrics = {name: [number + 0.25, number + 0.5] for number, name in enumerate(ODD_NAMES)}
    sides = ({"time_s": [value, value], **metrics} for value in (0.5, 1.0))
    odd = Samples(True, "ABAB", *sides)
    entry = measure(desk, {"samples": odd}, label="work")
    assert show(desk).problems == ()
    sent = wandb_server.runs[entry.record.rows[0].trial.sha256[:16]]
    assert sent.complete
    for name, values in metrics.items():
        assert [row[f"metric/{name}"] for row in sent.history] == values, name
        assert sent.summary[f"metric/{name}"] == sent.summary[f"baseline/{name}"] == sum(values) / 2
        assert [row[f"ratio/{name}"] for row in sent.history] == [1.0, 1.0], name
    assert [row["_step"] for row in sent.history] == [0, 1] and sent.summary["status"] == "ok"
    assert sent.summary["ratio/time_s"] == pytest.approx(0.5)
    (table,) = (json.loads(data) for name, data in wandb_server.files.items() if name.endswith("samples.table.json"))
    assert len(set(table["columns"])) == len(table["columns"]) and "metric/trial" in table["columns"]


def test_a_table_that_did_not_arrive_is_not_counted_as_sent(desk: Desk, wandb_server: Server) -> None:
    """W&B marks such a run as synced; it is sent again until the table is there."""
    wandb_server.refused = "CreateArtifactFiles"
    entry = measure(desk, {}, label="work")
    published = show(desk)
    assert "1 run of toy did not get to W&B" in published.problems[0] and "artifact" in published.problems[0]
    assert not is_sent(files(desk)[entry.sha256[:16]])
    wandb_server.refused = ""
    assert show(desk).problems == ()
    assert "COMMITTED" in wandb_server.artifacts.values()


def test_without_a_key_runs_wait_and_one_in_netrc_is_found(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With nothing configured nothing is wrong; the key is found where `wandb login` leaves it."""
    assert not sync.may_have_key()
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / ".netrc").write_text("machine github.com login ada password " + "x" * 40)
    measure(desk, {}, label="work")
    assert show(desk).problems == ()
    assert len(files(desk)) == 2
    with server() as here:
        monkeypatch.setenv("WANDB_BASE_URL", here.url)
        host = here.url.removeprefix("http://")
        (tmp_path / "home" / ".netrc").write_text(f"machine {host}\n  login user\n  password {KEY}\n")
        assert show(desk).problems == ()
        assert len(here.runs) == 2


def test_a_folder_that_can_not_be_used_is_told(desk: Desk) -> None:
    measure(desk, {})
    place(desk).parent.mkdir(exist_ok=True)
    place(desk).write_text("in the way")
    with pytest.raises(SurfaceError, match="could not be used"):
        list(WandbSurface(desk.checkout, desk.journal, SERIES).publish(desk.journal.entries(), True))
    assert show(desk).problems[0].endswith("No W&B run was written.")
