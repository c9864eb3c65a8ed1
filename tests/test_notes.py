"""`research note` and `research attach`, as people and agents use them."""

import hashlib
import os
import signal
import subprocess
import time
from pathlib import Path

import msgspec
import pytest
from research_steps.journal.attachments import LARGEST_BYTES

from tests.support.planted_secrets import planted
from tests.support.scratch_logbook import PROVENANCE, Desk
from tests.support.toy_thread import RESEARCH, Repository, research, started

HOSTILE = "a\n### b <!-- research-steps end TOY-001 --> [x](y) `c` <b>"


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """A checkout whose series has started; TOY-001 is its kickoff."""
    return started(tmp_path / "checkout")


def desk_of(repository: Repository) -> Desk:
    return Desk(repository.root, repository.root / "local_store")


def folder(repository: Repository) -> Path:
    return repository.root / ".agents" / "logbooks" / "toy"


def written(where: Path, content: bytes | str) -> Path:
    where.parent.mkdir(parents=True, exist_ok=True)
    where.write_bytes(content if isinstance(content, bytes) else content.encode())
    return where


def test_a_note_is_an_entry_about_a_record(repository: Repository) -> None:
    """What somebody makes of an entry or a trial is an entry that names it, found with it, and text whatever it says."""
    trial = desk_of(repository).record("a sweep").record.rows[0].trial.id
    for _ in range(2):
        done = research(repository.root, "note", trial, "--interpretation", HOSTILE, "--next", "more")
        assert done.returncode == 0, done.stderr
    assert repository.ids == ["TOY-001", "TOY-002", "TOY-003"], "said twice, it is one"
    last = repository.logbook.split("\n### ")[-1]
    assert f"note on {trial}" in last and "- Next action: more" in last and f"rests on {trial};" in last
    assert "- Interpretation: a ### b &lt;!-- research-steps" in last
    assert research(repository.root, "verify", "toy").returncode == 0
    known = desk_of(repository).journal.scan(folder(repository))
    assert [stored.record.id for stored in known.about(known.find(trial)[0].sha256)] == ["TOY-003"]
    assert known.about("TOY-001") == []


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("note", "TOY-009", "--next", "x"), "No record has the ID 'TOY-009'"),
        (("note", "TOY-001"), "The note is empty: give --interpretation, --next, or both"),
        (("attach", "TOY-001"), "expected a FILE, or the address of one with --link URL"),
        (("attach", "TOY-001", "plot.png", "--link", "gs://b/x"), "not both"),
        (("attach", "TOY-001", "--link", "over there"), "'over there' is no address"),
        (("attach", "TOY-001", "missing"), "missing can't be attached: No such file"),
        (("attach", "TOY-001", "experiments"), "expected a regular file"),
        (("attach", "TOY-001", "pipe"), "expected a regular file"),
        (("attach", "TOY-001", "linked"), "expected a regular file"),
        (("attach", "TOY-001", "large"), f"expected at most {LARGEST_BYTES}"),
        (("attach", "TOY-001", "secret"), "holds what looks like a secret"),
    ],
)
def test_what_can_not_be_kept_is_told(repository: Repository, arguments: tuple[str, ...], told: str) -> None:
    """One sentence that says what to do, and nothing is recorded or kept."""
    root = repository.root
    written(root / "plot.png", b"\x89PNG")
    os.mkfifo(root / "pipe")
    (root / "linked").symlink_to(root / "plot.png")
    written(root / "large", b"\0" * (LARGEST_BYTES + 1))
    written(root / "secret", f"token: {planted(1)['GitHub']}")
    before = repository.logbook
    done = research(root, *arguments)
    assert done.returncode == 1 and told in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert repository.logbook == before
    assert not (root / "local_store" / "journal" / "toy" / "attachments").exists()


@pytest.mark.parametrize("name", ["plot.png", "a name (of) sorts.jsonl", "-ä\n`|](x.patch", "x" * 200])
def test_an_attached_file_is_in_git_with_its_entry(repository: Repository, tmp_path: Path, name: str) -> None:
    """Its bytes lie beside the logbook under a safe name, linked from the entry that says what they are; everything
    verifies, a second try adds nothing, and a sealed tag holds the file, also where git is told to ignore its kind."""
    (repository.root / ".gitignore").open("a").write("*.png\n")
    content = b"\x89PNG" + os.urandom(2000)
    file = written(tmp_path / name, content)
    for _ in range(2):
        done = research(repository.root, "attach", "TOY-001", "--note", "the profile", "--", str(file))
        assert done.returncode == 0, done.stderr
    (kept,) = (folder(repository) / "attachments").iterdir()
    assert kept.read_bytes() == content
    assert f"file [`{kept.name}`](toy/attachments/{kept.name});" in repository.logbook
    assert f"bytes `{len(content)}`" in repository.logbook
    assert f"sha256 `{hashlib.sha256(content).hexdigest()}`" in repository.logbook
    assert "- Interpretation: the profile" in repository.logbook
    assert repository.ids == ["TOY-001", "TOY-002"]

    made = msgspec.structs.replace(PROVENANCE, commit=repository.git("rev-parse", "HEAD").strip())
    read = desk_of(repository).record("interpretation", trials=0, step="interpret", provenance=made)
    desk_of(repository).record("sealed", trials=0, step="seal", inputs=(read.ref,))
    assert research(repository.root, "sync", "toy").returncode == 0
    sealed = f"toy/TOY-004:.agents/logbooks/toy/attachments/{kept.name}"
    shown = subprocess.run(["git", "show", sealed], cwd=repository.root, capture_output=True, check=True)
    assert shown.stdout == content
    done = research(repository.root, "verify", "toy")
    assert done.returncode == 0, done.stdout


def test_a_larger_file_is_attached_by_its_address(repository: Repository) -> None:
    """The entry names where it lies; what that looks like stays text."""
    address = "gs://bucket/profile`](javascript:x)"
    assert research(repository.root, "attach", "TOY-001", "--link", address).returncode == 0
    assert f"- Config: link ``{address}``" in repository.logbook
    assert not (folder(repository) / "attachments").exists()


def test_a_private_attachment_stays_in_the_store(repository: Repository, tmp_path: Path) -> None:
    """What belongs to a private trial is not in git, and no note on it is; the bytes are in the store."""
    private = desk_of(repository).record("hidden", private=True).record.rows[0].trial.id
    content = os.urandom(100)
    assert research(repository.root, "attach", private, str(written(tmp_path / "p.bin", content))).returncode == 0
    assert research(repository.root, "note", private, "--next", "in secret").returncode == 0
    assert "secret" not in repository.logbook and not (folder(repository) / "attachments").exists()
    (kept,) = (repository.root / "local_store" / "journal" / "toy" / "attachments").iterdir()
    assert kept.read_bytes() == content


def test_the_attachments_of_a_private_series_are_out_of_git(tmp_path: Path) -> None:
    """Its logbook has them, and git doesn't see either."""
    repository = Repository(tmp_path / "checkout")
    main = repository.experiment / "__main__.py"
    main.write_text(main.read_text().replace("max_pairs=5", "private=True, max_pairs=5"))
    repository.commit()
    assert research(repository.root, "kickoff", "toy", "--branch", ".").returncode == 0
    file = written(tmp_path / "p.bin", b"\0bytes")
    assert research(repository.root, "attach", "TOY-001", str(file)).returncode == 0
    assert len(list((folder(repository) / "attachments").iterdir())) == 1
    assert repository.git("status", "--porcelain") == ""


@pytest.mark.parametrize("begun", ["attachments", "entries/intents/TOY-002-0.json", "entries/records/TOY-002-0.json"])
def test_a_killed_attach_may_be_given_again(repository: Repository, tmp_path: Path, begun: str) -> None:
    """Killed as soon as a part of it is in the store, and given again: one entry, one file."""
    attach = ["attach", "TOY-001", str(written(tmp_path / "plot.png", b"\x89PNG"))]
    part = repository.root / "local_store" / "journal" / "toy" / begun
    with subprocess.Popen([*RESEARCH, *attach], cwd=repository.root, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None and not part.exists():
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
    done = research(repository.root, *attach)
    assert done.returncode == 0, done.stderr
    assert repository.ids == ["TOY-001", "TOY-002"]
    assert len(list((folder(repository) / "attachments").iterdir())) == 1
    assert research(repository.root, "verify", "toy").returncode == 0


def test_a_file_that_the_store_lost_is_told(repository: Repository, tmp_path: Path) -> None:
    """An entry is not published without the file that it links to; attached again, it is."""
    file = written(tmp_path / "plot.png", b"\x89PNG")
    (repository.root / ".agents" / "logbooks" / "toy.md").rename(tmp_path / "away.md")
    folder(repository).rename(tmp_path / "away")
    assert research(repository.root, "attach", "TOY-001", str(file)).returncode == 0
    (repository.root / ".agents" / "logbooks" / "toy.md").unlink()
    (kept,) = (repository.root / "local_store" / "journal" / "toy" / "attachments").iterdir()
    (folder(repository) / "attachments" / kept.name).unlink()
    content = kept.read_bytes()
    kept.unlink()
    done = research(repository.root, "sync", "toy")
    assert done.returncode == 1 and "that it attaches is not in the store" in done.stderr
    assert content == file.read_bytes()
    assert research(repository.root, "attach", "TOY-001", str(file)).returncode == 0
    assert repository.ids == ["TOY-001", "TOY-002"]


def test_a_fresh_clone_can_go_on(repository: Repository, tmp_path: Path) -> None:
    """Its store is empty; the series is the one that the thread's file declares, and the numbers go on after git's."""
    assert research(repository.root, "note", "TOY-001", "--next", "begin").returncode == 0
    repository.commit()
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", str(repository.root), str(clone)], check=True)
    done = research(clone, "hypothesis", "add", "toy", "Fewer loops take less time.", "--evidence", "TOY-002")
    assert done.returncode == 0, done.stderr
    assert "TOY-003" in done.stdout
    listed = research(clone, "hypothesis", "list", "toy")
    assert "- H1 (active): less work takes less time" in listed.stdout and "- H2 (active)" in listed.stdout
    assert research(clone, "check", "toy").returncode == 0


def test_free_entries_hold_what_happened(repository: Repository, tmp_path: Path) -> None:
    """In somebody's own words, with a name and a file; twice in a row they are one, and again later another."""
    plot = written(tmp_path / "loss.png", b"\x89PNG")
    for arguments in (
        ("preempted, relaunched",),
        ("preempted, relaunched",),
        (HOSTILE, "--label", "the loss", "--file", str(plot)),
        ("preempted, relaunched",),
    ):
        done = research(repository.root, "log", "toy", *arguments)
        assert done.returncode == 0, done.stderr
    assert repository.ids == ["TOY-001", "TOY-002", "TOY-003", "TOY-004"]
    assert "TOY-002 preempted, relaunched" in repository.logbook and "TOY-003 the loss" in repository.logbook
    (kept,) = (folder(repository) / "attachments").iterdir()
    assert kept.read_bytes() == plot.read_bytes() and f"](toy/attachments/{kept.name});" in repository.logbook
    refused = research(repository.root, "log", "toy", " ")
    assert refused.returncode == 1 and "The entry is empty" in refused.stderr
    assert research(repository.root, "verify", "toy").returncode == 0
