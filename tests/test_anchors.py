"""The logbook held against sealed tags and milestones: real repositories, real seals, and everything done to them."""

import json
import random
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from research_steps.errors import UsageError
from research_steps.publish.logbook.adoption import adopt
from research_steps.records.encoding import sha256
from research_steps.seal.bundle import read
from research_steps.seal.sealed_tag import Tag, damage
from research_steps.seal.tags import files_at
from research_steps.seal.verify import UNSEEN

from tests.support.honest_history import BY_HAND, Honest
from tests.support.scratch_logbook import PROVENANCE
from tests.support.sealed_logbook import Piece, SealedDesk, rechained
from tests.support.tampering import ATTACKS, Attack, Kept

PATCH = b"diff --git a/x b/x\n"
PLOT = b"<svg>1 2 3</svg>\n"
TAMPERINGS, HISTORIES, WALKS = 200, 200, 44


def sealed_history(where: Path, branch: str, adopted: bool, committed: bool) -> SealedDesk:
    """Seven entries and two seals: TOY-004, and TOY-009 with everything before it; nothing follows."""
    desk = SealedDesk.make(where)
    if branch != "main":
        desk.git("switch", "--quiet", "--create", branch)
    if adopted:
        desk.path.parent.mkdir(parents=True)
        desk.path.write_bytes(BY_HAND)
        adopt(desk.checkout, "toy", "TOY")
    desk.journal.keep_patch(sha256(PATCH), PATCH)
    plot = f"{sha256(PLOT)[:12]}-plot.svg"
    desk.journal.keep_attachment(plot, PLOT)
    made = msgspec.structs.replace(PROVENANCE, commit=desk.checkout.head(), patch=sha256(PATCH))
    for number, step in enumerate(
        ["baseline", "sweep", "interpret", "", "sweep", "attachment", "interpret", "sweep", ""]
    ):
        if not step:
            desk.seal()
            continue
        changes = (
            {"config": {"file": plot, "sha256": sha256(PLOT)}}
            if step == "attachment"
            else {"provenance": made}
            if number == 1
            else {}
        )
        desk.measured(f"step {number}", trials=2, step=step, result=f"result {number}", **changes)
        desk.publish()
        if committed:
            desk.commit()
    if committed:
        desk.commit()
    assert desk.ids == [f"TOY-00{number}" for number in range(1, 10)]
    return desk


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> list[SealedDesk]:
    """Histories on a branch of people and on the research branch, with and without an adopted part or commits."""
    where = tmp_path_factory.mktemp("sealed")
    kinds = [("main", False, True), ("main", True, False), ("research/toy", True, True), ("research/toy", False, False)]
    return [sealed_history(where / str(number), *kind) for number, kind in enumerate(kinds)]


@pytest.fixture
def desk(made: list[SealedDesk], tmp_path: Path) -> SealedDesk:
    """A copy of the first of them, to do anything with."""
    shutil.copytree(made[0].root.parent, tmp_path / "desk", symlinks=True)
    return SealedDesk(tmp_path / "desk" / "checkout", tmp_path / "desk" / "store")


@pytest.mark.parametrize("part", range(4))
def test_tamperings_are_found_and_named(made: list[SealedDesk], part: int) -> None:
    """Whatever is done to entries, markers, records, files, tags or comments, and however well the hashes are made to
    fit: verify finds it, and names the entry, record, tag or comment."""
    kept = Kept(made[part])
    dice = random.Random(part)
    untouched = made[part].checked()
    assert (untouched.problems, untouched.tags) == ((), ("toy/TOY-004", "toy/TOY-009")), untouched
    assert untouched.milestones == 5 and untouched.notes == ()
    for number in range(TAMPERINGS // 4):
        attack = ATTACKS[number % len(ATTACKS)]
        named = attack(Attack(made[part], dice))
        problems = made[part].checked().problems
        assert any(word in problem for word in named for problem in problems), (attack.__name__, named, problems)
        kept.restore()
    assert made[part].checked().problems == ()


@pytest.mark.parametrize("what", ["cut off", "written anew with its hashes"])
def test_what_stands_behind_the_newest_anchor_is_not_seen(desk: SealedDesk, what: str) -> None:
    """No milestone and no tag names the last entry: nothing tells that it was another one, which the command states."""
    desk.measured("the last", step="sweep", result="result 10")
    desk.publish()
    whole = desk.data
    if what == "cut off":
        desk.path.write_bytes(whole[: whole.rindex(b"<!-- research-steps entry TOY-010")])
        (desk.beside / "TOY-010.jsonl").unlink()
    else:
        desk.path.write_bytes(rechained(whole, lambda entries: [*entries[:-1], _edited(entries[-1])]))
    assert desk.data != whole
    assert desk.checked().problems == ()


def _edited(piece: Piece) -> Piece:
    return replace(piece, text=piece.text.replace(b"result 10", b"result 11"))


def test_a_tag_on_a_branch_that_is_not_merged_is_a_note(desk: SealedDesk) -> None:
    """Sealing beside this branch says nothing against it; when it is named, what it holds is asked for."""
    desk.git("switch", "--quiet", "--create", "aside", "HEAD~5")
    assert desk.ids == ["TOY-001", "TOY-002", "TOY-003"]
    verified = desk.with_store("empty").checked()
    assert verified.problems == () and verified.tags == ("toy/TOY-004",)
    (note,) = (note for note in verified.notes if "was sealed on main" in note)
    assert note.startswith("tag toy/TOY-009 was sealed on main; 5 of its entries are not in this logbook")
    asked = desk.checked("toy/TOY-009")
    assert asked.tags == ("toy/TOY-009",)
    assert any(problem.startswith("TOY-005, which tag toy/TOY-009 holds with record") for problem in asked.problems)


def test_what_was_committed_here_is_missed_on_any_branch(desk: SealedDesk) -> None:
    """A tail that this branch held, and that is gone with its records, is no entry of another branch."""
    desk.git("switch", "--quiet", "--create", "aside")
    at = desk.data.index(b"<!-- research-steps entry TOY-008 -->")
    desk.path.write_bytes(desk.data[:at])
    for id in ("TOY-008", "TOY-009"):
        (desk.beside / f"{id}.jsonl").unlink()
    desk.commit()
    problems = desk.with_store("empty").checked().problems
    assert any(problem.startswith("TOY-008, which tag toy/TOY-009 holds") for problem in problems), problems


def test_a_tag_that_is_not_here_is_a_note(desk: SealedDesk) -> None:
    """A clone may lack tags; the entry of the seal names it, and while the commit is here it is held against that."""
    desk.git("tag", "--delete", "toy/TOY-009")
    verified = desk.checked()
    assert verified.problems == ()
    assert verified.notes == ("tag toy/TOY-009 is not here; 'git fetch --tags' brings it from where it was pushed",)
    desk.path.write_bytes(desk.data.replace(b"result 7", b"result 8"))
    assert any("TOY-008 was edited" in problem for problem in desk.checked().problems)


def test_a_tag_that_was_never_made_is_refused(desk: SealedDesk) -> None:
    """Asking for a tag that nothing names is a mistake, and says which there may be."""
    with pytest.raises(UsageError, match=r"There is no tag 'toy/TOY-099' of toy .* expected toy/ and the ID of a seal"):
        desk.checked("toy/TOY-099")


def test_a_tag_of_people_is_theirs(desk: SealedDesk) -> None:
    """A tag below the topic that no seal made is passed over, unless it is asked for."""
    desk.git("tag", "toy/paper-draft")
    assert desk.checked().problems == ()
    (problem,) = desk.checked("toy/paper-draft").problems
    assert problem.startswith("tag toy/paper-draft: commit ") and "is no snapshot" in problem


def rewritten(desk: SealedDesk, tag: str, changes: dict[str, bytes]) -> None:
    """A tag whose commit holds other files, and which the journal and the seal's entry know nothing of."""
    index = {"GIT_INDEX_FILE": str(desk.root / ".git" / "forged")}
    desk.checkout.git("read-tree", f"{tag}^{{commit}}", env=index)
    for name, data in changes.items():
        blob = desk.checkout.git("hash-object", "-w", "--stdin", input=data).decode().strip()
        path = f".agents/logbooks/toy/{name}"
        desk.checkout.git("update-index", "--add", "--cacheinfo", f"100644,{blob},{path}", env=index)
    tree = desk.checkout.git("write-tree", env=index).decode().strip()
    commit = desk.git("commit-tree", tree, "-p", "HEAD", "-m", "forged").strip()
    desk.git("tag", "--force", tag, commit)


def test_a_tag_of_an_older_version_still_vouches_for_entries_and_records(desk: SealedDesk) -> None:
    """Its bundle can't be read any more; the logbook and the records beside it can."""
    shutil.rmtree(desk.store / "journal" / "toy" / "seals")
    rewritten(desk, "toy/TOY-004", {"TOY-004.bundle.json": b'{"schema": 1, "series": "toy", "id": "TOY-004"}'})
    (problem,) = desk.checked().problems
    assert problem.startswith("tag toy/TOY-004 names ") and "but it was sealed as" in problem
    data = rechained(
        desk.data, lambda entries: [replace(entries[0], text=entries[0].text + b"- And: more\n"), *entries[1:]]
    )
    desk.path.write_bytes(data)
    assert any("TOY-001 reads otherwise than in tag toy/TOY-004" in problem for problem in desk.checked().problems)


def test_a_bundle_of_schema_2_is_held_against_what_it_says(desk: SealedDesk) -> None:
    """One of schema 2: when and by whom it was sealed, and who made its tag, is not asked; its message is."""
    text = desk.git("show", "toy/TOY-009:.agents/logbooks/toy/TOY-009.bundle.json")
    old = {name: value for name, value in json.loads(text).items() if name not in ("recorded", "tagger", "signed")}
    message = desk.git("for-each-ref", "--format=%(contents)", "refs/tags/toy/TOY-009")
    rewritten(desk, "toy/TOY-009", {"TOY-009.bundle.json": json.dumps({**old, "schema": 2}).encode()})
    for said, problems in ((message, 0), (message.replace("see it published", "0.101 ×"), 1)):
        made = ("tag", "--annotate", "--force", "--file=-", "toy/TOY-009", "toy/TOY-009^{commit}")
        desk.checkout.git(*made, env={"GIT_COMMITTER_NAME": "Somebody"}, input=said.encode())
        commit = desk.git("rev-parse", "toy/TOY-009^{commit}").strip()
        tag = Tag("toy/TOY-009", commit, files_at(desk.checkout, "toy", commit), read(desk.checkout, "toy/TOY-009"))
        assert len(list(damage(desk.checkout, tag))) == problems


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"bundle.json": b"{"}, "its bundle can't be read"),
        ({"bundle.json": b'{"schema": 99}'}, "its bundle has schema 99, this version reads up to 4"),
    ],
)
def test_a_bundle_that_can_not_be_read_is_told(desk: SealedDesk, changes: dict[str, bytes], expected: str) -> None:
    """A tag beside the sealed ones whose bundle is broken, or newer, is named with the reason."""
    desk.git("tag", "toy/TOY-099", "toy/TOY-009^{commit}")
    rewritten(desk, "toy/TOY-099", {f"TOY-099.{name}": data for name, data in changes.items()})
    (problem,) = desk.checked().problems
    assert problem.startswith("tag toy/TOY-099: ") and expected in problem


def test_a_changed_copy_of_a_bundle_is_told(desk: SealedDesk) -> None:
    """What people read beside the logbook is what the tag holds."""
    path = desk.beside / "TOY-009.table.csv"
    path.write_bytes(desk.checkout.git("cat-file", "blob", "toy/TOY-009:.agents/logbooks/toy/TOY-009.table.csv"))
    assert desk.checked().problems == ()
    path.write_bytes(path.read_bytes() + b"dense,,time_s\n")
    assert desk.checked().problems == ("TOY-009.table.csv is not what it was in tag toy/TOY-009",)


def test_a_clone_with_the_same_store_may_have_appended_in_another_order(tmp_path: Path) -> None:
    """Where a seal had to wait, an entry that was recorded after it was appended first; elsewhere it is the other way
    round, and neither logbook is accused."""
    desk = SealedDesk.make(tmp_path / "one")
    first = desk.measured(step="baseline")
    desk.publish()
    desk.commit()
    clone = desk.clone(tmp_path / "two")
    desk.measured("seal", trials=0, step="seal", inputs=(first.ref,))
    waits = desk.root / ".git" / "MERGE_HEAD"
    waits.write_text(desk.git("rev-parse", "HEAD"))
    desk.measured("after")
    assert "is unfinished" in desk.publish().problems[0]
    waits.unlink()
    assert desk.publish().problems == () and desk.ids == ["TOY-001", "TOY-003", "TOY-002"]
    clone.git("fetch", "--quiet", "--tags", str(desk.root))
    clone.publish()
    assert clone.ids == ["TOY-001", "TOY-002", "TOY-003"]
    for checkout in (desk, clone):
        assert checkout.checked().problems == (), checkout.root
    assert desk.checked().tags == ("toy/TOY-002",)


def test_outside_git_there_is_no_tag_to_name(desk: SealedDesk) -> None:
    """Which is said, in place of checking nothing."""
    shutil.rmtree(desk.root / ".git")
    desk = SealedDesk(desk.root, desk.store)
    assert desk.checked().tags == ()
    with pytest.raises(UsageError, match=r"There is no tag 'toy/TOY-009' of toy in .*: expected toy/ and the ID of a"):
        desk.checked("toy/TOY-009")


def test_a_tag_that_is_not_whole_in_itself_is_told(desk: SealedDesk) -> None:
    """Who moves a tag to a changed copy of its tree is told by that too, where neither journal nor entry is left."""
    text = desk.git("show", "toy/TOY-009:.agents/logbooks/toy/TOY-009.bundle.json")
    bundle = json.loads(text)
    desk.git("tag", "toy/TOY-099", "toy/TOY-009^{commit}")
    changed = {**bundle, "logbook": ["0" * 64], "records": [{**bundle["records"][0], "sha256": "1" * 64}]}
    rewritten(desk, "toy/TOY-099", {"TOY-099.bundle.json": json.dumps(changed).encode(), "TOY-002.jsonl": b""})
    problems = [problem for problem in desk.checked().problems if problem.startswith("tag toy/TOY-099")]
    assert len(problems) == 6, problems
    assert "in its own tree: TOY-002: its record" in problems[0]
    assert "its bundle says that it belongs to toy/TOY-009" in problems[1]
    assert "its logbook does not end where its bundle says that it does" in problems[2]
    assert "its bundle rests on record 111111111111 of TOY-001, which is not in the tag" in problems[3]
    assert "it is a lightweight tag, and was sealed as an annotated one" in problems[4]
    assert problems[5].endswith("its bundle rests on no entry")


def made_anew(desk: SealedDesk, tag: str, **changes: str) -> None:
    """The object of a tag as somebody makes it anew over the very commit that was sealed."""
    fields = "%(taggername)%00%(taggeremail:trim)%00%(contents)"
    name, address, message = desk.git("for-each-ref", f"--format={fields}", f"refs/tags/{tag}").split("\0")
    made = {"name": name, "address": address, "message": message, **changes}
    env = {"GIT_COMMITTER_NAME": made["name"], "GIT_COMMITTER_EMAIL": made["address"]}
    new = ("-c", "tag.gpgSign=false", "tag", "--annotate", "--force", "--cleanup=verbatim", "--file=-")
    desk.checkout.git(*new, tag, f"{tag}^{{commit}}", env=env, input=made["message"].encode())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"message": "toy: dense: time_s 0.101 ×\n"},
            "its message says 'toy: dense: time_s 0.101 ×', and its bundle 'toy: see",
        ),
        ({"name": "Somebody"}, "Somebody <person@example.org> made it, and A Person <person@example.org> sealed it"),
        ({"address": "a@example.org"}, "A Person <a@example.org> made it, and A Person <person@example.org> sealed it"),
    ],
)
def test_a_tag_that_was_made_anew_is_told(desk: SealedDesk, changes: dict[str, str], says: str) -> None:
    """Over the commit that was sealed, with another message or by somebody else; and as no object of its own at all."""
    made_anew(desk, "toy/TOY-009")
    assert desk.checked().problems == ()
    made_anew(desk, "toy/TOY-009", **changes)
    (problem,) = desk.with_store("empty").checked("toy/TOY-009").problems
    assert problem.startswith(f"tag toy/TOY-009: {says}"), problem
    desk.git("tag", "--force", "toy/TOY-009", "toy/TOY-009^{commit}")
    (problem,) = desk.checked().problems
    assert problem.startswith("tag toy/TOY-009: it is a lightweight tag, and was sealed as an annotated one")


def test_a_signature_that_was_taken_off_is_told(tmp_path: Path) -> None:
    """The bundle says that there was one; whoever makes the tag anew here without a key is stopped."""
    desk, key = SealedDesk.make(tmp_path), tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    for name, value in (("gpg.format", "ssh"), ("user.signingKey", str(key)), ("tag.gpgSign", "true")):
        desk.git("config", name, value)
    desk.measured(step="baseline")
    tag = desk.seal()
    assert desk.checked().problems == ()
    signed = desk.git("for-each-ref", "--format=%(contents)", f"refs/tags/{tag}").partition("-----BEGIN ")
    assert signed[1]
    made_anew(desk, tag, message=signed[0])
    (problem,) = desk.checked().problems
    assert problem == f"tag {tag}: it was sealed with a signature, and has none: the tag was made anew"
    desk.git("tag", "--delete", tag)
    desk.git("config", "tag.gpgSign", "false")
    (problem,) = desk.publish().problems
    assert "it was sealed with a signature, and git in " in problem and "'git fetch --tags' brings the tag" in problem
    desk.git("config", "tag.gpgSign", "true")
    assert desk.publish().problems == () and desk.checked().problems == ()


def test_a_lost_tag_is_made_again_as_it_was(desk: SealedDesk, tmp_path: Path) -> None:
    """By whoever has the commit and the store, so that nobody is told of another tagger."""
    before = desk.git("rev-parse", "refs/tags/toy/TOY-009")
    desk.git("tag", "--delete", "toy/TOY-009")
    desk.git("config", "user.name", "Another Person")
    assert desk.publish().problems == ()
    assert desk.git("rev-parse", "refs/tags/toy/TOY-009") == before


def test_the_command_names_problems_notes_and_what_it_can_not_see(desk: SealedDesk) -> None:
    """What people read, and what programs get; exit code 1 where something does not agree."""
    desk.git("tag", "--delete", "toy/TOY-004")
    store = ("--prefix", str(desk.store))
    done = research(desk.root, "verify", "toy", *store)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "note: tag toy/TOY-004 is not here; 'git fetch --tags' brings it from where it was pushed",
        "toy: 9 entries, 2 tags, 5 milestones checked, no problems",
        UNSEEN,
    ]
    desk.path.write_bytes(desk.data.replace(b"result 1", b"result 2"))
    told = research(desk.root, "verify", "toy", "--tag", "toy/TOY-009", "--json", *store)
    answer = json.loads(told.stdout)
    assert told.returncode == 1
    assert (answer["entries"], answer["anchors"]) == (9, {"tags": ["toy/TOY-009"], "milestones": 0})
    assert "TOY-002 was edited after it was appended" in answer["problems"][0]


def research(where: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "research_steps", *arguments]
    return subprocess.run(command, cwd=where, capture_output=True, text=True)


@pytest.mark.parametrize("part", range(4))
def test_honest_histories_raise_no_alarm(tmp_path: Path, part: int) -> None:
    """Branches, stores, clones, merges with and without conflict, adoption, notes by hand, seals: no problem in any.

    Each history is one until its next step, so that every walk is several of them.
    """
    checked = 0
    for number in range(part, WALKS, 4):
        checked += Honest(tmp_path / str(number), random.Random(number)).run()
        shutil.rmtree(tmp_path / str(number))
    assert checked >= HISTORIES // 4
