"""The command `research`, as a person or agent uses it."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest
from research_steps.cli.main import main
from research_steps.journal.journal import Journal
from research_steps.journal.store import open_store

from tests.support.scratch_logbook import SERIES, Desk
from tests.support.toy_thread import Repository, research


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "checkout")


def test_every_command_explains_itself(tmp_path: Path) -> None:
    """--help names every command, and each has its own help."""
    overview = research(tmp_path, "--help").stdout
    for command in ("status", "sync", "verify", "adopt", "show", "compare"):
        assert command in overview
        assert "Usage:" in research(tmp_path, command, "--help").stdout


def test_commands_are_listed_under_what_a_person_wants(tmp_path: Path) -> None:
    """--help has five groups, and every command stands in one of them, once."""
    overview = research(tmp_path, "--help").stdout
    headings = [line.removesuffix(":") for line in overview.splitlines() if line.endswith(":") and line[0] != " "]
    groups = ["Where does it stand", "Try something", "Say something", "Hand it over", "Set up and publish"]
    assert headings == ["Options", *groups]
    listed = [line.split()[0] for line in overview.partition(groups[0])[2].splitlines() if line.startswith("  ")]
    assert len(set(listed)) == len(listed) and set(listed) == set(main.list_commands(click.Context(main)))


@pytest.mark.parametrize("group", [(), ("hypothesis",), ("source",)])
def test_no_line_of_an_overview_is_cut(tmp_path: Path, group: tuple[str, ...]) -> None:
    """In a terminal of 80 columns every command says in one whole sentence what it is for."""
    lines = research(tmp_path, *group, "--help", COLUMNS="80").stdout.splitlines()
    assert [line for line in lines if line.startswith("  ") and line.endswith("...")] == []


def test_a_look_at_the_status_imports_no_command_of_another_group(tmp_path: Path) -> None:
    """Who asks where a series stands doesn't wait for what measures, writes or publishes."""
    code = (
        "import sys; from research_steps.cli.main import main; main(['status'], standalone_mode=False)\n"
        "print([name for name in ('measure', 'annotate', 'set_up') if f'research_steps.cli.{name}' in sys.modules])\n"
        "names = ('thread.builders', 'thread.run', 'remote', 'seal')\n"
        "print([name for name in names if f'research_steps.{name}' in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-2:] == ["[]", "[]"]


@pytest.mark.parametrize("topic", ["../up", "two words", "x" * 200, "Capital", ""])
@pytest.mark.parametrize("command", ["status", "sync", "verify"])
def test_a_bad_topic_is_told_in_a_sentence(tmp_path: Path, command: str, topic: str) -> None:
    """A topic that is no safe file name is refused before anything is read or written."""
    done = research(tmp_path, command, topic)
    assert done.returncode == 1
    assert done.stderr.startswith("error: Topic") and "expected lower-case letters" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_empty_place_says_that_nothing_is_here(tmp_path: Path) -> None:
    """Without a logbook and a journal, status is no error."""
    done = research(tmp_path, "status")
    assert (done.returncode, done.stderr) == (0, "")
    assert "No series here" in done.stdout


def test_the_record_can_be_read_and_checked_from_any_checkout(repository: Repository, tmp_path: Path) -> None:
    """After a run: status, show, compare and verify; and a clone without the logbook catches up by sync."""
    done = repository.run()
    assert done.code == 0, done.output

    (status,) = json.loads(research(repository.root, "status", "--json").stdout)
    assert (status["entries"], status["trials"], status["open"], status["unpublished"]) == (3, 3, [], [])
    assert "3 entries, 3 trials" in research(repository.root / "experiments", "status", "toy").stdout

    shown = research(repository.root, "show", "TOY-002.01", "--json")
    (record,) = json.loads(shown.stdout)
    assert record["config"]["work"] == 1000
    compared = research(repository.root, "compare", "TOY-002.01", "TOY-002.02")
    assert "varied: work: 1000  |  4000" in compared.stdout and "first beside second: " in compared.stdout
    assert research(repository.root, "compare", "TOY-002", "TOY-002.02").returncode == 1
    missing = research(repository.root, "show", "TOY-999")
    assert missing.returncode == 1 and "No record has the ID 'TOY-999'" in missing.stderr

    clone = tmp_path / "clone"
    repository.git("clone", "--quiet", str(repository.root), str(clone))
    store = str(repository.root / "local_store")
    assert research(clone, "sync", "toy", "--prefix", store).stdout.count("appended to the logbook") == 3
    assert "nothing new" in research(clone, "sync", "toy", "--prefix", store).stdout
    assert research(clone, "verify", "toy", "--prefix", store).returncode == 0
    theirs = (clone / ".agents" / "logbooks" / "toy.md").read_text()
    assert theirs.partition("### ")[2] == repository.logbook.partition("### ")[2]


def test_a_clone_with_an_empty_store_knows_what_was_published(repository: Repository, tmp_path: Path) -> None:
    """Records in git are enough to show and verify; new experiment IDs continue after them."""
    assert repository.run().code == 0
    repository.commit()
    clone = tmp_path / "clone"
    repository.git("clone", "--quiet", str(repository.root), str(clone))
    assert research(clone, "verify", "toy").returncode == 0
    assert "TOY-002.01" in research(clone, "show", "TOY-002.01").stdout

    copy = Repository.__new__(Repository)
    copy.root, copy.experiment = clone, clone / "experiments" / "toy"
    done = copy.run()
    assert done.code == 0, done.output
    assert copy.ids == [f"TOY-00{number}" for number in range(1, 7)]


def test_verify_names_an_edited_entry_and_exits_with_1(repository: Repository) -> None:
    """One changed character in an old entry is found and named."""
    assert repository.run().code == 0
    path = repository.root / ".agents" / "logbooks" / "toy.md"
    path.write_text(path.read_text().replace("work=1000", "work=1001"))
    done = research(repository.root, "verify", "toy")
    assert done.returncode == 1
    assert "TOY-002 was edited after it was appended" in done.stdout


def test_status_tells_what_runs_and_what_was_orphaned(repository: Repository) -> None:
    """While a process is at a trial it is running; killed, it is orphaned at once on the same machine."""
    code = (
        "import sys, time\n"
        "from research_steps.journal.journal import Journal\n"
        "from research_steps.journal.store import open_store\n"
        "journal = Journal(open_store(sys.argv[1]), 'toy')\n"
        "with journal.attempts.begin('trial', 'a' * 64, 0, id='TOY-001', label='a trial', config={}):\n"
        "    print('begun', flush=True)\n"
        "    time.sleep(60)\n"
    )
    store = repository.root / "local_store"
    with subprocess.Popen([sys.executable, "-c", code, str(store)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        assert f"running: TOY-001 a trial, process {process.pid}" in research(repository.root, "status").stdout
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert "orphaned: TOY-001 a trial" in research(repository.root, "status").stdout


def test_a_journal_object_from_the_future_is_named_and_left_alone(repository: Repository) -> None:
    """A newer schema or broken JSON is a problem that status tells; nothing is overwritten and the rest is read."""
    assert repository.run().code == 0
    folder = repository.root / "local_store" / "journal" / "toy" / "trials" / "records"
    (folder / f"{'b' * 64}-0.json").write_text('{"schema":99,"kind":"trial"}')
    (folder / f"{'c' * 64}-0.json").write_text("{broken")
    done = research(repository.root, "status", "toy")
    assert done.returncode == 0
    assert "  newer: " in done.stdout and "has schema 99, and this version reads up to 5" in done.stdout
    assert "is not a record" in done.stdout
    assert "3 entries, 3 trials" in done.stdout
    assert (folder / f"{'c' * 64}-0.json").read_text() == "{broken"


def test_adopting_keeps_every_byte_and_continues_the_numbers(repository: Repository) -> None:
    """A logbook that people wrote takes entries at its end, numbered after those in its headings."""
    folder = repository.root / ".agents" / "logbooks"
    folder.mkdir(parents=True)
    old = b"# toy: Research Logbook\r\n\r\n## Experiment Log\r\n### 2026-01-01 10:00 - TOY-041 by hand\r\n- Result: fast"
    (folder / "toy.md").write_bytes(old)

    refused = repository.run("--run_only", "[toy/baseline]")
    assert refused.code == 0
    assert "research adopt toy" in refused.output
    assert (folder / "toy.md").read_bytes() == old

    adopted = research(repository.root, "adopt", "toy", "--id-prefix", "TOY")
    assert adopted.returncode == 0, adopted.stderr
    assert "TOY numbers up to 41 are used" in adopted.stdout
    assert repository.run().code == 0
    assert (folder / "toy.md").read_bytes().startswith(old)
    assert research(repository.root, "verify", "toy").returncode == 0
    assert repository.ids == ["TOY-041", "TOY-042", "TOY-043", "TOY-044"]
    assert research(repository.root, "adopt", "toy", "--id-prefix", "TOY").returncode == 1


def test_after_a_conflicting_merge_sync_rebuilds_both_sides(repository: Repository) -> None:
    """Two branches that both ran the thread: no entry of either is lost, and verify is green."""
    assert repository.run("--run_only", "[toy/baseline]").code == 0
    repository.commit()
    repository.git("branch", "other")
    assert repository.run().code == 0
    repository.commit()
    ours = set(repository.ids)
    repository.git("checkout", "--quiet", "other")
    theirs_store = str(repository.root / "local_store" / "other")
    assert repository.run(MARIN_PREFIX=theirs_store).code == 0
    theirs = set(repository.ids)
    repository.commit()
    repository.git("checkout", "--quiet", "main")
    with pytest.raises(subprocess.CalledProcessError):
        repository.git("merge", "--quiet", "other")
    assert "conflict marker" in research(repository.root, "verify", "toy").stdout

    done = research(repository.root, "sync", "toy")

    assert done.returncode == 0, done.stderr
    assert "rebuilt from the whole entries of both sides" in done.stdout
    assert set(repository.ids) == ours | theirs
    assert research(repository.root, "verify", "toy").returncode == 0
    repository.commit()
    assert repository.run("--retry", "contended").code == 0
    assert research(repository.root, "verify", "toy").returncode == 0


def test_a_store_that_refuses_is_told_and_nothing_is_lost(repository: Repository) -> None:
    """A file where the store should be: one sentence, exit code 1, no logbook."""
    (repository.root / "local_store").write_text("in the way")
    done = repository.run()
    assert done.code == 1
    assert "The store could not" in done.output and "Traceback" not in done.output
    assert not (repository.root / ".agents").exists()


def test_ctrl_c_ends_a_run_and_the_next_one_goes_on(repository: Repository) -> None:
    """Ctrl-C during a run ends it, says how to go on, and the next run completes."""
    repository.thread(
        """
    base = steps.baseline(measure, Config())
    works = steps.sweep(base, ("work", list(range(1, 40))))
    steps.interpret(base, works)
"""
    )
    environment = {**os.environ, "PYTHONPATH": str(repository.root)}
    process = subprocess.Popen(
        [sys.executable, "-m", "experiments.toy"],
        cwd=repository.root,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "5/39" in line:
            break
    process.send_signal(signal.SIGINT)
    output = process.stderr.read()
    assert process.wait(60) == 1, output
    assert "The run was stopped; start it again" in output
    journal = Journal(open_store(str(repository.root / "local_store")), "toy")
    assert [attempt for attempt in journal.scan().open if not attempt.orphaned()] == []
    done = repository.run()
    assert done.code == 0, done.output
    # The executor's locks were released, and not waited out.
    assert "another driver has" not in done.output
    assert repository.ids[-1].startswith("TOY-")


@pytest.mark.parametrize("id", ["2", "002", "toy-002", "Toy-2", "TOY-002"])
def test_an_id_is_understood_however_it_is_spelled(repository: Repository, id: str) -> None:
    """In any case, without zeros, and without the prefix of the only series; a trial's too."""
    desk = Desk(repository.root, repository.root / "local_store")
    desk.journal.declare(SERIES)
    desk.record()
    desk.record()
    (shown,) = json.loads(research(repository.root, "show", id, "--json").stdout)
    assert shown["id"] == "TOY-002"
    (below,) = json.loads(research(repository.root, "show", f"{id}.1", "--json").stdout)
    assert below["id"] == "TOY-002.01"
    missed = research(repository.root, "show", "TOY-022")
    assert missed.returncode == 1 and "Did you mean TOY-002" in missed.stderr


@pytest.mark.parametrize("command", ["status", "sync", "verify"])
def test_a_mistyped_topic_is_an_error_that_names_the_nearest(repository: Repository, command: str) -> None:
    """It exits with 1, and no series is made of it."""
    desk = Desk(repository.root, repository.root / "local_store")
    desk.journal.declare(SERIES)
    desk.record()
    desk.publish()
    done = research(repository.root, command, "tory")
    assert done.returncode == 1 and "Did you mean toy?" in done.stderr
    assert not (repository.root / ".agents" / "logbooks" / "tory.md").exists()
