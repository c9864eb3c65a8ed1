"""What the files of a pull request can make the software do for whoever checks them out: nothing. Each test has a
person's clone of a branch into which somebody else committed whatever they liked, and the commands as that person types
them."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from research_steps.git import Checkout
from research_steps.journal.journal import Journal
from research_steps.journal.store import open_store
from research_steps.publish.wandb import run_file
from research_steps.publish.wandb.runs import Place, of_entry, run_id
from research_steps.publish.wandb.runs_on_disk import folder_of
from research_steps.records.objects import IssueLink
from research_steps.records.times import utc

from tests.support.github_api import Proxy, Repository
from tests.support.issue_thread import Thread, environment
from tests.support.scratch_logbook import SERIES, Desk, git
from tests.support.toy_thread import RESEARCH, research
from tests.support.toy_thread import Repository as ToyRepository
from tests.support.wandb_server import server

PRIVATE = "a line of a file that is the user's own"


@pytest.fixture
def private(tmp_path: Path) -> Path:
    """A file of the user's, outside of every checkout."""
    path = tmp_path / "private"
    path.write_text(f"{PRIVATE}\n")
    return path


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """Where a series was measured and published, and where somebody else commits next."""
    desk = Desk.make(tmp_path)
    desk.journal.declare(SERIES)
    desk.record("work", trials=1)
    desk.publish()
    return desk


def cloned(desk: Desk, where: Path) -> Path:
    """The person's clone of all that the desk's work tree holds now."""
    desk.git("add", "--all", "--force")
    desk.git("commit", "--quiet", "--message", "a pull request")
    git(where, "clone", "--quiet", str(desk.root), str(where / "clone"))
    return where / "clone"


@pytest.mark.parametrize("has_git", [True, False])
def test_what_others_committed_is_not_sent_to_wandb(
    desk: Desk, tmp_path: Path, private: Path, monkeypatch: pytest.MonkeyPatch, has_git: bool
) -> None:
    """A run in the folder of older versions, with a link to a private file as its table, stays where it is; in an
    archive of the branch too. The person is told that this folder is not read any more, once, and their own runs are
    sent."""
    (entry,) = desk.journal.entries().entries.values()
    trial = desk.journal.load("trial", entry.record.rows[0].trial)
    planted = run_file.Run(**{**vars(of_entry(entry, [trial], Place(SERIES, "toy", (), ""))), "notes": "planted"})
    for place in (".agents/wandb/toy", ".agents/research-steps/wandb/toy"):
        (desk.root / place).mkdir(parents=True)
        run_file.write(desk.root / place, planted)
        (table,) = (desk.root / place).glob(f"offline-run-*/{run_file.TABLE}")
        table.unlink()
        table.symlink_to(private)
        (table.parent / "files" / "kept").touch()
    clone = cloned(desk, tmp_path)
    if not has_git:
        shutil.rmtree(clone / ".git")
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    with server() as wandb:
        environment = {"WANDB_MODE": "", "WANDB_BASE_URL": wandb.url, "WANDB_API_KEY": "0123456789" * 4}
        done = research(clone, "sync", "toy", "--prefix", str(desk.store), **environment)
        assert done.returncode == 0, done.stderr
        sent = b"".join(body for _, _, body in wandb.requests) + b"".join(wandb.files.values())
        assert wandb.runs.keys() == {run_id(entry.sha256), run_id(trial.sha256)}
    assert PRIVATE.encode() not in sent and b"planted" not in sent
    assert done.stdout.count(".agents/wandb/toy is not read any more and can be deleted") == 1
    assert folder_of(Checkout.find(clone), "toy").is_dir()
    assert not [path for path in (clone / ".agents").rglob("*") if path.name.endswith((".synced", "address"))]
    again = research(clone, "sync", "toy", "--prefix", str(desk.store))
    assert again.stdout == "toy: nothing new\n"


# -- links ------------------------------------------------------------------------------------------------------------

# What may be a link, and the commands that have to do with it.
_ALL = frozenset({"sync", "verify", "check", "source", "status"})
LINKED = {
    **dict.fromkeys((".agents", ".agents/logbooks", ".agents/logbooks/toy", ".agents/logbooks/toy/TOY-001.jsonl"), _ALL),
    **{".agents/logbooks/toy.md": _ALL, ".agents/logbooks/toy/attachments": frozenset({"verify", "check"})},
    **dict.fromkeys((".agents/issues", ".agents/issues/toy.md"), _ALL - {"status"}),
}


def contents(folder: Path) -> dict[Path, bytes]:
    """All files below a folder; of a link where it leads."""
    paths = [path for path in folder.rglob("*") if ".git" not in path.relative_to(folder).parts]
    files = {path: path.read_bytes() for path in paths if path.is_file() and not path.is_symlink()}
    return {**files, **{path: os.fsencode(os.readlink(path)) for path in paths if path.is_symlink()}}


@pytest.mark.parametrize("linked", LINKED)
def test_no_link_is_followed(desk: Desk, tmp_path: Path, linked: str) -> None:
    """Whatever file or folder of the tool's is a link, to a place that looks just like it: one sentence names it,
    nothing is written there, and what it leads to is in no file of the checkout afterwards."""
    (tmp_path / "plot.txt").write_text("a plot")
    assert (
        research(desk.root, "attach", "TOY-001", str(tmp_path / "plot.txt"), "--prefix", str(desk.store)).returncode == 0
    )
    clone, outside = cloned(desk, tmp_path), tmp_path / "outside" / linked
    outside.parent.mkdir(parents=True)
    shutil.move(clone / linked, outside)
    (clone / linked).symlink_to(outside)
    if outside.suffix == ".md":
        outside.write_bytes(outside.read_bytes() + f"\n{PRIVATE}\n".encode())
    desk.record("a milestone", trials=0, step="interpret")
    there, here = contents(tmp_path / "outside"), contents(clone)
    for command in (["sync", "toy"], ["verify", "toy"], ["check", "toy"], ["source", "brief", "toy", "--question", "?"],
                    ["adopt", "toy", "--id-prefix", "TOY"], ["status", "toy"]):  # fmt: skip
        store = [] if command[0] == "adopt" else ["--prefix", str(desk.store)]
        done = research(clone, *command, *store)
        assert contents(tmp_path / "outside") == there, command
        assert "Traceback" not in done.stderr
        if command[0] in LINKED[linked]:
            assert f"{linked} is a symbolic link" in done.stdout + done.stderr, (command, done)
            assert done.returncode == (command[0] != "status"), command
    assert not [path for path, data in contents(clone).items() if PRIVATE.encode() in data]
    assert contents(clone)[clone / linked] == here[clone / linked]


def test_no_link_is_followed_where_a_file_is_written_aside(desk: Desk, tmp_path: Path, private: Path) -> None:
    """The name that a writer uses before it renames the file is known, too."""
    places = ("logbooks/.toy.md.tmp", "logbooks/toy/.TOY-002.jsonl.tmp", "issues/.toy.md.tmp")
    for place in places:
        path = desk.root / ".agents" / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(private)
    clone = cloned(desk, tmp_path)
    desk.record("more")
    assert research(clone, "sync", "toy", "--prefix", str(desk.store)).returncode == 0
    assert private.read_text() == f"{PRIVATE}\n"


def test_a_logbook_that_is_a_link_is_not_adopted(desk: Desk, tmp_path: Path, private: Path) -> None:
    """What it leads to would be copied into a file that git tracks."""
    (desk.root / ".agents" / "logbooks" / "notes.md").symlink_to(private)
    clone = cloned(desk, tmp_path)
    done = research(clone, "adopt", "notes", "--id-prefix", "NOTES")
    assert done.returncode == 1 and "notes.md is a symbolic link" in done.stderr
    assert (clone / ".agents" / "logbooks" / "notes.md").is_symlink()


@pytest.mark.parametrize(
    "name", [".agents/logbooks/toy.md", ".agents/logbooks/toy/TOY-001.jsonl", ".agents/issues/toy.md"]
)
def test_nobody_waits_for_what_is_no_file(desk: Desk, tmp_path: Path, name: str) -> None:
    """A FIFO is named and left alone, where opening it would wait for ever."""
    clone = cloned(desk, tmp_path)
    (clone / name).unlink(missing_ok=True)
    (clone / name).parent.mkdir(exist_ok=True)
    os.mkfifo(clone / name)
    desk.record("a milestone", trials=0, step="interpret")
    command = [*RESEARCH, "sync", "toy", "--prefix", str(desk.store)]
    done = subprocess.run(command, cwd=clone, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and f"{name} is a FIFO" in done.stderr


# -- the issue --------------------------------------------------------------------------------------------------------


@pytest.fixture
def thread(
    desk: Desk, github_repository: Repository, github_proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Thread]:
    """A series with a milestone, in a checkout of a repository on GitHub."""
    for name, value in {**environment(github_proxy), "GITHUB_REPOSITORY": "lab/own"}.items():
        monkeypatch.setenv(name, value)
    thread = Thread(desk, SERIES)
    thread.repository, thread.number = github_repository, github_repository.create_issue("Experiment: theirs", "Body")
    thread.milestone()
    yield thread


def untouched(thread: Thread, proxy: Proxy) -> bool:
    """Whether the issue is as it was, and GitHub was not even asked."""
    return thread.comments == [] and thread.body == "Body" and proxy.requests == []


@pytest.mark.parametrize("own", [False, True])
def test_a_line_of_a_logbook_links_no_issue(thread: Thread, tmp_path: Path, github_proxy: Proxy, own: bool) -> None:
    """Hidden in what people write: nothing is posted, closed or decided, in the own repository neither; one sentence
    says how a person would link it, and no second issue is made beside it. Once a person has said so it is linked."""
    desk, name, issue = thread.desk, thread.repository.full_name, thread.number
    environment = {"GITHUB_REPOSITORY": name if own else "lab/own"}
    line = f"<details hidden>\n\n- Issue: [{name}#{issue}](https://github.com/{name}/issues/{issue})\n\n</details>\n"
    desk.path.write_bytes(desk.data + line.encode())
    clone, store = cloned(desk, tmp_path), ("--prefix", str(desk.store))
    say = f"research sync toy --issue {issue}{'' if own else f' --repository {name}'}"
    for command in (("sync", "toy"), ("decide", "toy", "Keep it.")):
        done = research(clone, *command, *store, **environment)
        assert done.returncode == 1 and f"'{say}'" in done.stderr
        assert untouched(thread, github_proxy) and desk.journal.decided("issue", IssueLink) is None
    assert (clone / ".agents" / "issues" / "toy.md").read_text().count("Update: ") == 2
    assert research(clone, *say.split()[1:], *store, **environment).returncode == 0
    assert len(thread.shown) == 2


def test_a_record_of_a_kickoff_links_no_issue_elsewhere(thread: Thread, tmp_path: Path, github_proxy: Proxy) -> None:
    """Only one in the repository of the checkout."""
    desk, issue = thread.desk, f"{thread.repository.full_name}#{thread.number}"
    desk.record("kickoff", trials=0, step="kickoff", config={"issue": issue})
    desk.publish()
    desk.path.write_bytes(desk.data + f"\n- Issue: [{issue}](https://github.com)\n".encode())
    clone = cloned(desk, tmp_path)
    done = research(clone, "sync", "toy", "--prefix", str(desk.store))
    assert done.returncode == 1 and "which nobody has linked here" in done.stderr
    assert untouched(thread, github_proxy) and desk.journal.decided("issue", IssueLink) is None


def test_a_store_links_no_issue_elsewhere(thread: Thread, tmp_path: Path, github_proxy: Proxy) -> None:
    """Whoever may write to the store names an issue of another repository: nobody posts there until a person names it,
    repository and number, and then once for all."""
    desk, name, issue = thread.desk, thread.repository.full_name, thread.number
    desk.journal.decide("issue", IssueLink(name, issue, f"https://github.com/{name}/issues/{issue}", utc()))
    clone, store = cloned(desk, tmp_path), ("--prefix", str(desk.store))
    say = ("sync", "toy", "--issue", str(issue), *store)
    for command in (("sync", "toy", *store), say, ("sync", "toy", *store)):
        done = research(clone, *command)
        assert done.returncode == 1 and f"--repository {name}" in done.stderr
        assert untouched(thread, github_proxy)
    assert research(clone, *say, "--repository", name).returncode == 0
    assert len(thread.shown) == 1
    thread.milestone("another")
    assert research(clone, "sync", "toy", *store).returncode == 0
    assert len(thread.shown) == 2


def test_what_is_kept_for_an_issue_is_not_posted(thread: Thread, tmp_path: Path) -> None:
    """Text in the embedded issue, and W&B's receipts, which others committed: the issue on GitHub says what records
    say."""
    desk, name, (entry, *_) = thread.desk, thread.repository.full_name, thread.desk.journal.entries().entries.values()
    planted = desk.root / ".agents" / "wandb" / "toy" / f"offline-run-1-{run_id(entry.sha256)}"
    planted.mkdir(parents=True)
    for ending in ("", ".synced"):
        (planted / f"run-{run_id(entry.sha256)}.wandb{ending}").touch()
    (planted / "address").write_text("https://w/x/runs/1> @everyone planted")
    (desk.root / ".agents" / "issues").mkdir()
    body = "planted body\n<!-- research-steps comment 1 -->\n<!-- research-steps record 0 -->\nplanted comment\n"
    (desk.root / ".agents" / "issues" / "toy.md").write_text(body)
    clone = cloned(desk, tmp_path)
    linking = ("--issue", str(thread.number), "--repository", name)
    assert research(clone, "sync", "toy", "--prefix", str(desk.store), *linking).returncode == 0
    assert len(thread.shown) == 1 and "planted" not in thread.body + thread.comments[0].body


# -- code -------------------------------------------------------------------------------------------------------------

READING = [
    *(("status",), ("status", "toy"), ("show", "TOY-002"), ("show", "TOY-002.01"), ("show", "TOY-002.01", "--patch")),
    *(("compare", "TOY-002.01", "TOY-002.02"), ("verify", "toy"), ("check", "toy"), ("check", "toy", "--closing")),
    *(("hypothesis", "list", "toy"), ("source", "list", "toy"), ("source", "brief", "toy", "--question", "Why?")),
    *(("origin", "toy"), ("decide", "toy", "Keep it."), ("note", "TOY-002", "--next", "More."), ("sync", "toy")),
]
PLANTED = "from pathlib import Path\nPath('{ran}').write_text('ran')\n"


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> ToyRepository:
    """A thread that has run."""
    repository = ToyRepository(tmp_path_factory.mktemp("measured") / "checkout")
    done = repository.run()
    assert done.code == 0, done.output
    return repository


def planted(measured: ToyRepository, where: Path) -> tuple[Path, Path]:
    """A clone of it whose code writes a file when it is imported, and that file."""
    clone, ran = where / "clone", where / "ran"
    shutil.copytree(measured.root, where / "theirs", ignore=shutil.ignore_patterns("local_store"))
    for file in ("__init__.py", "toy/__init__.py", "toy/__main__.py", "toy/measure.py"):
        path = where / "theirs" / "experiments" / file
        path.write_text(PLANTED.format(ran=ran) + path.read_text())
    git(where / "theirs", "add", "--all")
    git(where / "theirs", "commit", "--quiet", "--message", "a pull request")
    git(where, "clone", "--quiet", str(where / "theirs"), str(clone))
    return clone, ran


def test_whoever_reads_a_checkout_runs_none_of_its_code(measured: ToyRepository, tmp_path: Path) -> None:
    """With an empty store all that reads, and all that people say themselves, knows the series from git; the thread is
    imported where something is measured."""
    clone, ran = planted(measured, tmp_path)
    for command in READING:
        done = research(clone, *command)
        assert not ran.exists(), command
        assert done.returncode == (command[0] == "check"), (command, done)
    assert "H1" in research(clone, "hypothesis", "list", "toy").stdout
    code = f"import os, research_steps; os.chdir({str(clone)!r}); print(research_steps.load('toy').series.goal)"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=clone, capture_output=True, text=True)
    assert loaded.stdout == "see it run\n", loaded.stderr
    assert not ran.exists()
    assert research(clone, "dev", "toy", "--label", "by hand").returncode == 0
    assert ran.exists()
    research(clone, "dev", "--stop")


def test_a_series_that_is_nowhere_is_asked_for(measured: ToyRepository, tmp_path: Path) -> None:
    """Neither the store nor git has it, as where an older version published: the sentence says how to get it, and the
    thread is not imported for it."""
    clone, ran = planted(measured, tmp_path)
    (clone / ".agents" / "logbooks" / "toy" / "series.json").unlink()
    for command in (("check", "toy"), ("hypothesis", "list", "toy"), ("decide", "toy", "Keep it.")):
        done = research(clone, *command)
        assert done.returncode == 1 and "toy/series.json: name the store that the thread ran with" in done.stderr
        assert len(done.stderr.splitlines()) == 1
    for command in (("origin", "toy"), ("status", "toy"), ("show", "TOY-002"), ("source", "list", "toy")):
        assert research(clone, *command).returncode == 0
    assert not ran.exists()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{}", "is not a series"),
        ("[1]", "is not a series"),
        ("<<<<<<< ours", "is not a series"),
        ('{"topic": "../toy", "prefix": "TOY", "goal": "", "metrics": [{"name": "x"}]}', "is not usable as a name"),
        (
            '{"topic": "other", "prefix": "TOY", "goal": "", "metrics": [{"name": "x"}]}',
            "is the series other",
        ),
    ],
)
def test_a_series_of_others_is_checked(measured: ToyRepository, tmp_path: Path, content: str, told: str) -> None:
    """What git brings as a series is one, and this one."""
    clone, _ = planted(measured, tmp_path)
    (clone / ".agents" / "logbooks" / "toy" / "series.json").write_text(content)
    done = research(clone, "check", "toy")
    assert done.returncode == 1 and told in done.stderr and "Traceback" not in done.stderr


def test_a_series_of_others_names_no_place_for_runs(measured: ToyRepository, tmp_path: Path) -> None:
    """It may name a W&B project of the reader's: that is not read, and none is written where others would read it."""
    clone, _ = planted(measured, tmp_path)
    path = clone / ".agents" / "logbooks" / "toy" / "series.json"
    told = path.read_bytes()
    path.write_text(json.dumps({**json.loads(told), "wandb_project": "theirs"}))
    store = Journal(open_store(str(clone / "local_store")), "toy")
    assert research(clone, "decide", "toy", "Keep it.").returncode == 0
    series = store.declared()
    assert series is not None and (series.wandb_project, series.parent) == ("", "")
    assert path.read_bytes() == told
