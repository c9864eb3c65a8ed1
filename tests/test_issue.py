"""The experiment issue on a GitHub that keeps state: one comment for each milestone, whatever fails in between."""

import dataclasses
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from research_steps.journal.experiment_ids import NoOthers
from research_steps.journal.journal import Journal
from research_steps.journal.progress import plan
from research_steps.publish.issue.local_file import IssueFile
from research_steps.publish.issue.text import SECTIONS
from research_steps.publish.logbook import format as logbook_format
from research_steps.publish.publisher import Published
from research_steps.records.objects import Pushed, Seal
from research_steps.records.times import utc

from tests.support import github_api
from tests.support.github_api import Fault, Proxy, Repository, some
from tests.support.issue_thread import SERIES, Thread, linked_thread
from tests.support.scratch_logbook import PROVENANCE, Desk, trial

FINISHED = {"worked": "x", "did_not": "x", "confidence": "x", "limitations": "x", "next_steps": ["x"]}


@pytest.fixture
def thread(tmp_path: Path, github_repository: Repository, github_proxy: Proxy) -> Iterator[Thread]:
    with linked_thread(tmp_path, github_repository, github_proxy) as thread:
        yield thread


def test_milestones_become_comments_in_order(thread: Thread) -> None:
    """Each milestone has one comment that can be read alone; publishing again adds nothing."""
    records = [thread.milestone(f"finding {number}") for number in range(3)]
    thread.desk.record("a sweep that is no milestone")
    published = thread.publish()
    assert published.problems == ()
    assert [done.what for done in published.done] == 3 * [f"posted on {thread.repository.full_name}#{thread.number}"]
    assert thread.shown == records
    assert thread.publish(final=True).done == ()
    thread.surface = thread.publisher()
    assert thread.publish(final=True).done == ()
    assert thread.shown == records
    text = thread.comments[0].body
    for part in ("Update: TOY-001 finding 0", "_see it published_", "- Command: `python -m experiments.toy`",
                 "- Confidence: ", "  - Logbook section: ", "(not pushed yet)", "- Next: "):  # fmt: skip
        assert part in text


FAULTS = {
    "reset before": github_api.reset(),
    "reset after": github_api.reset(forward=True),
    "cut off": github_api.truncate(),
    "half a JSON": github_api.cut_json(),
    "500": github_api.unavailable(500),
    "502 before": github_api.unavailable(502),
    "502 after": github_api.unavailable(502, forward=True),
    "503": github_api.unavailable(503),
    "403 limit": github_api.rate_limit(20),
    "429 limit": github_api.rate_limit(20, status=429),
    "403 retry-after": github_api.secondary_limit(7),
    "403 no time told": github_api.secondary_limit(),
    "429 retry-after": github_api.secondary_limit(7, status=429),
    "429 no time told": github_api.secondary_limit(status=429),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_one_comment_whatever_fails(thread: Thread, github_proxy: Proxy, fault: Fault, method: str) -> None:
    """A request that fails, or whose answer is lost, once or twice: in the end there is one comment a milestone."""
    records = [thread.milestone(str(number)) for number in range(2)]
    github_proxy.fault = some(fault, method, "comments", after=1, times=2)
    for _ in range(6):
        if not thread.publish().problems:
            break
        thread.clock.sleep(60)
    assert thread.shown == records


@pytest.mark.parametrize("fault", [github_api.bad_credentials(), github_api.forbidden(), github_api.invalid()])
def test_what_a_person_has_to_mend_is_told_at_once(thread: Thread, github_proxy: Proxy, fault: Fault) -> None:
    """A bad token or a missing right is no reason to try again and again; the milestones wait."""
    records = [thread.milestone(str(number)) for number in range(2)]
    github_proxy.fault = lambda method, path, number: fault
    published = thread.publish(final=True)
    assert len(published.problems) == 1 and "2 milestones wait for" in published.problems[0]
    assert github_proxy.count() == 1
    github_proxy.fault = lambda method, path, number: None
    thread.clock.sleep(600)
    assert thread.publish().problems == ()
    assert thread.shown == records


def test_a_limit_is_kept_to(thread: Thread, github_proxy: Proxy) -> None:
    """Asked to come back in an hour, the publisher sends nothing before that, and says when it goes on."""
    record = thread.milestone()
    github_proxy.fault = some(github_api.rate_limit(3600), times=1)
    assert "asks to wait" in thread.publish().problems[0]
    sent = github_proxy.count()
    thread.clock.sleep(1800)
    assert "is tried again after" in thread.publish().problems[0]
    assert github_proxy.count() == sent
    thread.clock.sleep(1900)
    assert thread.publish().problems == ()
    assert thread.shown == [record]


def test_a_server_that_hangs_is_given_up(thread: Thread, github_proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass ends although GitHub never answers, and the next one goes on."""
    record = thread.milestone()
    github_proxy.fault = lambda method, path, number: github_api.hang(60)
    with monkeypatch.context() as hasty:
        # The next pass keeps this one, with the client.
        hasty.setattr("research_steps.publish.issue.github.TIMEOUT_S", 5)
        hasty.setattr("research_steps.publish.issue.surface.PATIENCE_S", 1)
        assert "did not answer" in thread.publish().problems[0]
    github_proxy.fault = lambda method, path, number: None
    thread.clock.sleep(600)
    assert thread.publish().problems == ()
    assert thread.shown == [record]


def test_an_answer_in_drops_is_given_up(thread: Thread, github_proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each read is in time and the answer never ends: the pass ends all the same, and the next one goes on."""
    record = thread.milestone()
    github_proxy.fault = lambda method, path, number: github_api.slow(60)
    began = time.monotonic()
    with monkeypatch.context() as hasty:
        hasty.setattr("research_steps.publish.issue.github.DEADLINE_S", 1)
        hasty.setattr("research_steps.publish.issue.surface.PATIENCE_S", 2)
        assert "had not answered" in thread.publish().problems[0]
    assert time.monotonic() - began < 30
    github_proxy.fault = lambda method, path, number: None
    thread.clock.sleep(600)
    assert thread.publish().problems == ()
    assert thread.shown == [record]


def test_at_most_one_write_a_second(thread: Thread) -> None:
    """GitHub asks for that of whoever makes content."""
    for number in range(4):
        thread.milestone(str(number))
    start = thread.clock.now()
    thread.publish()
    assert thread.clock.now() - start >= 4


def test_two_publishers_write_once(thread: Thread, github_proxy: Proxy) -> None:
    """Right before one posts, another one, which does not see its lease, has posted the same."""
    records = [thread.milestone(str(number)) for number in range(2)]
    posted = []

    def intrude(method: str, path: str) -> None:
        if method == "POST" and not posted:
            posted.append(thread.repository.comment(thread.number, request_body(), login="researcher"))

    def request_body() -> str:
        return str(json.loads(github_proxy.requests[-1].body)["body"])

    github_proxy.before = intrude
    assert thread.publish(final=True).problems == ()
    assert thread.shown == records
    assert thread.comments[0].id == posted[0]


def test_a_publisher_leaves_the_issue_to_the_one_that_has_it(thread: Thread) -> None:
    """Of two drivers one posts; the other one says who does, at its end."""
    record = thread.milestone()
    with Journal(thread.desk.journal.store, "toy").leases.of_publisher("issue") as other:
        assert other is None
        assert thread.publish() == Published()
        assert "is being written to by process" in thread.publish(final=True).problems[0]
        assert thread.shown == []
    thread.publish()
    assert thread.shown == [record]


def test_comments_of_people_don_t_matter(thread: Thread) -> None:
    """Between ours, before and after, also many, edited and deleted ones."""
    first = thread.milestone("first")
    early = [thread.repository.comment(thread.number, f"early {number}") for number in range(130)]
    thread.publish()
    second = thread.milestone("second")
    for number in early[:40]:
        thread.repository.delete_comment(number)
    thread.repository.comment(thread.number, "<!-- research-steps record -->\nnot ours")
    thread.publish(final=True)
    third = thread.milestone("third")
    thread.repository.edit_comment(early[50], "changed")
    thread.publish(final=True)
    assert thread.shown == [first, second, third]
    assert len(thread.comments) == 94


def test_an_update_anchors_the_logbook(thread: Thread) -> None:
    """Its second line is the link of its entry, as it stands in the logbook here; it is left out where none does."""
    early = thread.milestone("posted before the logbook has it")
    thread.publish()
    later = thread.milestone("appended, then posted")
    thread.desk.publish()
    thread.publish()
    links = {entry.record: entry.link for entry in logbook_format.parse(thread.desk.data).entries}
    assert thread.shown == [early, later] and set(links) == {early, later}
    first, second = (comment.body.splitlines() for comment in thread.comments)
    assert first[1].startswith("Update: ")
    assert second[1] == f"<!-- research-steps chain {links[later]} -->" and second[2].startswith("Update: ")


@pytest.mark.parametrize("chain", ["", f"<!-- research-steps chain {'0' * 64} -->\n"])
def test_the_same_update_with_another_anchor_is_posted_once(thread: Thread, chain: str) -> None:
    """Another checkout's logbook has another chain, or lacks the entry: of two that slipped through one stays."""
    record = thread.milestone()
    thread.desk.publish()
    thread.publish()
    marker, anchor, rest = thread.comments[0].body.split("\n", 2)
    assert "chain" in anchor
    thread.repository.comment(thread.number, f"{marker}\n{chain}{rest}", login="researcher")
    thread.surface = thread.publisher()
    thread.publish(final=True)
    assert thread.shown == [record] and anchor in thread.comments[0].body


def sealed(thread: Thread) -> str:
    """Have a seal with a tag that holds some of what a seal's tag holds; the tag's commit."""
    desk = thread.desk
    desk.record("a sweep")
    base = next(iter(desk.journal.entries().entries.values()))
    seal = desk.record("seal", trials=0, step="seal", inputs=(base.ref,), result="sealed on request")
    desk.publish()
    for name in (f"toy/{seal.record.id}.bundle.md", f"toy/{seal.record.id}.table.csv"):
        (desk.path.parent / name).write_text("what was found\n")
    (desk.root / "experiments" / "toy").mkdir(parents=True)
    (desk.root / "experiments" / "toy" / "measure.py").touch()
    desk.commit("Seal")
    commit = desk.git("rev-parse", "HEAD").strip()
    made = Seal(seal.record.id, f"toy/{seal.record.id}", commit, utc(), "here")
    desk.journal.decide(f"seals/{seal.record.id}", made)
    return commit


def test_a_seal_links_what_its_tag_holds(thread: Thread) -> None:
    """Tag, tree, code, logbook and bundle are pinned to the commit, which is said to be there once the tag is pushed;
    what the commit lacks is not linked."""
    commit = sealed(thread)
    thread.publish(final=True)
    web, logbooks = f"https://github.com/{thread.repository.full_name}", ".agents/logbooks"
    lines = thread.comments[-1].body.splitlines()
    begin = lines.index("- Links:")
    tag = f"[`toy/TOY-002`]({web}/tree/{commit}) at `{commit}`"
    assert lines[begin + 1 : begin + 5] == [
        f"  - Tag: {tag} (once the tag is pushed)",
        f"  - Code: [`experiments/toy`]({web}/tree/{commit}/experiments/toy)",
        f"  - Logbook as sealed: [`{logbooks}/toy.md`]({web}/blob/{commit}/{logbooks}/toy.md)",
        f"  - Bundle: [`TOY-002.bundle.md`]({web}/blob/{commit}/{logbooks}/toy/TOY-002.bundle.md), "
        f"[`TOY-002.table.csv`]({web}/blob/{commit}/{logbooks}/toy/TOY-002.table.csv)",
    ]
    assert "  - Hardware: `cpu`, devices: none seen by JAX (1 trial)" in lines
    assert f"- Sealed snapshots: {tag} (once the tag is pushed)" in thread.body
    thread.desk.journal.decide("pushed/TOY-002", Pushed("origin", utc()))
    thread.publish(final=True)
    assert f"- Sealed snapshots: {tag}\n" in thread.body


def test_what_a_pushed_tag_took_along_is_linked(thread: Thread) -> None:
    """The commit that was measured is below the tag's: it is pushed with it, on whatever branch it is."""
    commit = thread.desk.git("rev-parse", "HEAD").strip()
    sealed(thread)
    thread.desk.journal.decide("pushed/TOY-002", Pushed("origin", utc()))
    made = msgspec.structs.replace(PROVENANCE, commit=commit)
    seal = next(stored for stored in thread.desk.journal.entries().entries.values() if stored.record.step == "seal")
    thread.milestone("the end", step="finish", inputs=(seal.ref,), provenance=made, config=FINISHED)
    thread.publish(final=True)
    end = thread.comments[-1].body
    assert f"commit [`{commit[:12]}`](https://github.com/{thread.repository.full_name}/tree/{commit})" in end
    assert "  - Tag: [`toy/TOY-002`]" in end and "once the tag is pushed" not in end


def test_a_snapshot_without_github_is_shown_by_git(tmp_path: Path) -> None:
    """From the file no link leads to what only the tag holds, so each part has the command that prints it."""
    alone = Thread(Desk.make(tmp_path), SERIES)
    commit = sealed(alone)
    alone.publish(final=True)
    text = (alone.desk.root / ".agents" / "issues" / "toy.md").read_text()
    assert f"  - Tag: `toy/TOY-002` at `{commit}`\n" in text and "](" not in text.split("research-steps comment 1")[1]
    alone.desk.git("tag", "toy/TOY-002", commit)
    bundle = re.search(r"(?m)^  - Bundle: `git (show \S+)`", text)
    assert bundle is not None and alone.desk.git(*bundle[1].split()) == "what was found\n"


def test_a_long_update_is_cut_with_a_link(thread: Thread) -> None:
    """What GitHub would refuse for its length is shortened and says where the whole is."""
    thread.milestone(interpretation="word " * 30_000)
    assert thread.publish().problems == ()
    text = thread.comments[0].body
    assert len(text) < 65_536 and "cut here" in text and ".agents/logbooks/toy.md" in text


def test_the_body_is_rebuilt_and_what_people_wrote_stays(thread: Thread) -> None:
    """Managed sections follow the records; every other byte of the body stays, whatever line ends it has."""
    own = "Our thoughts @here\r\n\r\n## TL;DR of ours\r\nfixes #1  \r\n\r\ntail without end"
    thread.repository.edit_issue(thread.number, body=own)
    thread.milestone("one", step="decision", result="it is *faster*", config={"owner": "me", "scope": False})
    thread.publish(final=True)
    assert thread.body.startswith(own)
    for title in SECTIONS.values():
        assert thread.body.count(f"\n## {title}\n") == 1
    assert r"it is \*faster\*" in thread.body
    between = thread.body.replace(
        "<!-- research-steps end scope -->", "<!-- research-steps end scope -->\r\nby hand\r\n"
    )
    thread.repository.edit_issue(thread.number, body=between.replace("\r\n", "\n").replace("\n", "\r\n"))
    thread.milestone("two", step="decision", result="it is slower", config={"owner": "me", "scope": False})
    thread.surface = thread.publisher()
    thread.publish(final=True)
    assert "it is slower" in thread.body and thread.body.count(r"it is \*faster\*") == 1
    assert thread.body.startswith(own) and thread.body.count("by hand") == 1
    written = thread.body
    thread.publish(final=True)
    assert thread.body == written


def test_an_edit_at_the_same_moment_is_put_back(thread: Thread, github_proxy: Proxy) -> None:
    """Somebody saves the body between our reading and our writing it: their text is there in the end, and ours.

    GitHub tells by its history of edits, which this server has not; the proxy answers for it from what it forwarded.
    """
    bodies = [""]

    def before(method: str, path: str) -> None:
        if method == "PATCH" and len(bodies) == 1:
            thread.repository.edit_issue(thread.number, body="saved at the same moment")
            bodies.append("saved at the same moment")

    def history(client: github_api.Client, _: github_api.Answer) -> None:
        written = [json.loads(each.body)["body"] for each in github_proxy.requests if each.method == "PATCH"]
        nodes = [{"diff": text} for text in reversed(bodies + written)]
        data = {"data": {"repository": {"issue": {"userContentEdits": {"nodes": nodes}}}}}
        client.send(github_api.Answer(200, {"content-type": "application/json"}, json.dumps(data).encode()))

    github_proxy.before = before
    github_proxy.fault = lambda method, path, number: (
        Fault("edits", False, history) if path.endswith("/graphql") else None
    )
    assert thread.publish(final=True).problems == ()
    assert thread.body.startswith("saved at the same moment\n")
    assert thread.body.count("## TL;DR") == 1


def history(github_proxy: Proxy, before: list[str]) -> Fault:
    """GitHub's history of edits, which this server has not: what came before, and what was forwarded since."""

    def show(client: github_api.Client, _: github_api.Answer) -> None:
        requests = list(github_proxy.requests)
        written = [json.loads(each.body)["body"] for each in requests if each.method == "PATCH" and each.forwarded]
        nodes = [{"diff": text} for text in reversed(before + written)]
        data = {"data": {"repository": {"issue": {"userContentEdits": {"nodes": nodes}}}}}
        client.send(github_api.Answer(200, {"content-type": "application/json"}, json.dumps(data).encode()))

    return Fault("edits", False, show)


@pytest.mark.parametrize("lost", ["the answer to the write", "the history, once"])
def test_an_edit_at_the_same_moment_is_put_back_whatever_fails(thread: Thread, github_proxy: Proxy, lost: str) -> None:
    """Also when nobody heard whether the body was written, or when GitHub can't tell for a moment."""
    bodies = [""]

    def before(method: str, path: str) -> None:
        if method == "PATCH" and len(bodies) == 1:
            thread.repository.edit_issue(thread.number, body="saved at the same moment")
            bodies.append("saved at the same moment")

    failed = []

    def fault(method: str, path: str, number: int) -> Fault | None:
        if lost == "the answer to the write" and method == "PATCH" and not failed:
            failed.append(path)
            return github_api.reset(forward=True)
        if path.endswith("/graphql"):
            if lost == "the history, once" and not failed:
                failed.append(path)
                return github_api.unavailable(502)
            return history(github_proxy, bodies)
        return None

    github_proxy.before, github_proxy.fault = before, fault
    assert thread.publish(final=True).problems == ()
    assert failed and thread.body.startswith("saved at the same moment\n")
    assert thread.body.count("## TL;DR") == 1


def test_what_people_do_with_our_comments_is_theirs(thread: Thread) -> None:
    """A copy with an answer below it stays; one of ours that somebody deleted stays away."""
    first, second = thread.milestone("first"), thread.milestone("second")
    thread.publish()
    original = thread.comments[0]
    thread.repository.comment(thread.number, f"{original.body}\nI disagree.", login="researcher")
    thread.repository.delete_comment(thread.comments[1].id)
    thread.surface = thread.publisher()
    assert thread.publish(final=True).done == ()
    assert thread.shown == [first, first] and thread.comments[-1].body.endswith("I disagree.")
    assert second not in thread.shown


def test_an_outsiders_comment_is_no_receipt(thread: Thread) -> None:
    """Whoever reads the logbook could write our marker; that keeps nothing from being posted."""
    record = thread.milestone()
    thread.repository.comment(thread.number, f"<!-- research-steps record {record} -->\nspam", login="stranger")
    thread.publish(final=True)
    assert len(thread.comments) == 2 and "Update: TOY-001" in thread.comments[1].body


def test_a_broken_try_keeps_nothing_back(thread: Thread) -> None:
    """A power cut may leave the note of a try empty; the comments tell what became of it."""
    record = thread.milestone()
    path = thread.desk.store / "journal" / "toy" / "postings" / f"{thread.number}-record-{record}.json"
    path.parent.mkdir(parents=True)
    path.touch()
    assert thread.publish().problems == ()
    assert thread.shown == [record]


def test_another_store_keeps_what_the_body_says(thread: Thread, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second checkout with a store of its own knows from git what was found before, and which issue of its repository
    the kickoff has named."""
    monkeypatch.setenv("GITHUB_REPOSITORY", thread.repository.full_name)
    issue = f"{thread.repository.full_name}#{thread.number}"
    thread.desk.record("kickoff", trials=0, step="kickoff", config={"issue": issue})
    thread.desk.record(
        "a decision", trials=0, step="decision", result="Keep it.", config={"owner": "me", "scope": False}
    )
    thread.desk.publish()
    thread.publish(final=True)
    assert "Keep it." in thread.body
    other = Thread(thread.desk.with_store("other"), SERIES)
    other.repository, other.number = thread.repository, thread.number
    other.milestone("later")
    assert other.publish(final=True).problems == ()
    assert "Keep it." in thread.body
    assert len(thread.comments) == 2


def test_a_long_body_of_people_leaves_room_for_short_sections(thread: Thread) -> None:
    """Their text stays whole, and ours is cut with a link."""
    own = "we wrote this\n" * 4300
    thread.repository.edit_issue(thread.number, body=own)
    for number in range(40):
        thread.milestone(
            f"decision {number:02d}", step="decision", result="x" * 200, config={"owner": "me", "scope": False}
        )
    assert thread.publish(final=True).problems == ()
    assert thread.body.startswith(own) and "older lines" in thread.body
    assert "decision" not in thread.body or "TOY-040" in thread.body


def test_a_moved_repository_is_found(thread: Thread, github_proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a rename everything goes to the new name, and what was posted before is seen."""
    records = [thread.milestone(str(number)) for number in range(40)]
    old = "lab/old-name"
    monkeypatch.setenv("GITHUB_REPOSITORY", old)
    folder = thread.desk.store / "journal" / "toy" / "issue.json"
    folder.write_bytes(folder.read_bytes().replace(thread.repository.full_name.encode(), old.encode()))
    thread.desk = Desk(thread.desk.root, thread.desk.store)

    def redirect(client: github_api.Client, _: github_api.Answer) -> None:
        path = client.path.replace(old, thread.repository.full_name)
        client.send(github_api.Answer(301, {"location": f"{github_proxy.url}{path.partition('?')[0]}"}, b"{}"))

    github_proxy.fault = lambda method, path, number: Fault("moved", False, redirect) if old in path else None
    for _ in range(3):
        thread.surface = thread.publisher()
        assert thread.publish(final=True).problems == ()
    assert thread.shown == records


def test_a_person_who_sets_the_clock_back_does_not_stop_the_publisher(thread: Thread) -> None:
    """One second between writes stays one second."""
    thread.milestone("one")
    thread.publish()
    thread.clock.off -= 3600
    thread.milestone("two")
    thread.publish()
    assert max(thread.clock.slept) < 20


def test_an_end_that_people_took_out_does_not_swallow_what_follows(thread: Thread) -> None:
    """Where a marker is missing, nothing between it and the next one is replaced."""
    thread.publish(final=True)
    broken = thread.body.replace("<!-- research-steps end tldr -->", "by hand")
    thread.repository.edit_issue(thread.number, body=broken)
    thread.surface = thread.publisher()
    thread.publish(final=True)
    assert thread.body.startswith(broken)
    thread.surface = thread.publisher()
    thread.publish(final=True)
    assert thread.body.startswith(broken)


def test_private_work_is_not_in_the_heartbeat(thread: Thread) -> None:
    """Neither its name nor its errors, nor that it goes on at all."""
    thread.milestone()
    thread.publish()
    id = thread.desk.journal.ids.reserve("TOY", "toy/hidden", NoOthers())
    with thread.desk.journal.attempts.begin("entry", id, 0, id=id, label="hidden", config={}, private=True) as begun:
        assert begun
        thread.clock.time += 7 * 3600
        thread.publish(final=True)
    assert len(thread.comments) == 1


def test_nothing_private_reaches_the_issue(thread: Thread) -> None:
    """Neither an entry that is private, nor its name, nor a whole private series."""
    thread.milestone("hidden one", private=True)
    shown = thread.milestone("open one")
    thread.publish(final=True)
    assert thread.shown == [shown]
    assert "hidden" not in thread.body + thread.comments[0].body
    thread.series = dataclasses.replace(SERIES, private=True)
    thread.surface = thread.publisher()
    thread.milestone("another")
    assert thread.publish(final=True) == Published()
    assert thread.shown == [shown]


def test_no_token_means_that_milestones_wait(thread: Thread, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver without a token says so and goes on; whoever has one posts everything later."""
    monkeypatch.delenv("GITHUB_TOKEN")
    record = thread.milestone()
    assert "neither GITHUB_TOKEN nor GH_TOKEN is set" in thread.publish(final=True).problems[0]
    monkeypatch.setenv("GITHUB_TOKEN", github_api.token("researcher"))
    thread.surface = thread.publisher()
    assert thread.publish(final=True).problems == ()
    assert thread.shown == [record]


def test_the_embedded_issue_moves_to_github(tmp_path: Path, thread: Thread) -> None:
    """With nothing configured a file stands for the issue; once one is linked, everything is posted there in order."""
    alone = Thread(Desk.make(tmp_path / "alone"), SERIES)
    records = [alone.milestone(f"finding {number}") for number in range(3)]
    assert alone.publish(final=True).problems == ()
    path = alone.desk.root / ".agents" / "issues" / "toy.md"
    text = path.read_text()
    assert [comment.marker for comment in IssueFile(alone.desk.checkout, "toy").comments()] == [
        f"record {record}" for record in records
    ]
    path.write_text(text.replace("## TL;DR", "## TL;DR", 1) + "by hand\n")
    alone.publish(final=True)
    alone.surface = alone.publisher()
    alone.publish(final=True)
    assert path.read_text().endswith("by hand\n") and path.read_text().count("Update: ") == 3
    alone.link(thread.repository)
    assert alone.publish().problems == ()
    assert alone.shown == records


def test_a_heartbeat_comes_once_while_work_goes_on(thread: Thread) -> None:
    """Six hours of work without a milestone: one brief update with status and ETA, whoever publishes; then the next."""
    thread.milestone()
    thread.publish()
    id = thread.desk.journal.ids.reserve("TOY", "toy/long", NoOthers())
    plan(thread.desk.journal, id, "a long sweep", 3)
    with thread.desk.journal.attempts.begin("entry", id, 0, id=id, label="a long sweep", config={}) as begun:
        assert begun
        for _ in range(3):
            thread.surface = thread.publisher()
            thread.publish()
        assert len(thread.comments) == 1
        for _ in range(2):
            thread.clock.time += 6 * 3600 + 60
            for _ in range(3):
                thread.surface = thread.publisher()
                assert thread.publish().problems == ()
        for number in (1, 2):
            thread.desk.journal.attempts.finish("trial", trial(f"{id}.{number:02d}", f"{number:064x}"))
        thread.clock.time += 6 * 3600
        assert thread.publish().problems == ()
    assert len(thread.comments) == 4
    assert "2 of 3 trials done" in thread.comments[3].body
    assert re.search(r"- Next ETA: \d{4}-\d\d-\d\dT", thread.comments[3].body)
    text = thread.comments[1].body
    assert "Heartbeat: TOY" in text and f"{id} a long sweep runs since" in text
    assert "0 of 3 trials done" in text and "- Blockers: none known" in text and "- Next ETA: unknown" in text


def test_an_idle_night_is_no_work(thread: Thread) -> None:
    """What has just begun after a break of many hours has six hours of its own."""
    thread.milestone()
    thread.publish()
    id = thread.desk.journal.ids.reserve("TOY", "toy/long", NoOthers())
    with thread.desk.journal.attempts.begin("entry", id, 0, id=id, label="a long sweep", config={}) as begun:
        assert begun
        # The milestone was long ago when this began.
        path = next((thread.desk.store / "journal" / "toy" / "entries" / "records").glob("TOY-001-*.json"))
        old, number = re.subn(rb'"finished_at":"\d{4}', b'"finished_at":"2020', path.read_bytes())
        assert number == 1
        path.write_bytes(old)
        thread.desk = Desk(thread.desk.root, thread.desk.store)
        thread.surface = thread.publisher()
        thread.clock.time += 60
        assert not [done for done in thread.publish(final=True).done if "heartbeat" in done.what]
        thread.clock.time += 6 * 3600
        assert [done for done in thread.publish(final=True).done if "heartbeat" in done.what]


def test_no_heartbeat_when_nothing_runs(thread: Thread) -> None:
    """A thread at rest keeps silent."""
    thread.milestone()
    thread.publish()
    thread.clock.time += 7 * 3600
    thread.publish(final=True)
    assert len(thread.comments) == 1
