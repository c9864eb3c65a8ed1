"""Comments of the issue, when GitHub lists, answers and refuses as it should not, or many write at once."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from research_steps.publish.issue import surface

from tests.support import github_api
from tests.support.github_api import Answer, Client, Fault, Proxy, Repository, Request, some
from tests.support.issue_thread import Thread, linked_thread
from tests.support.scratch_logbook import Desk

COMMENTS = r"/issues/\d+/comments"


@pytest.fixture
def thread(tmp_path: Path, github_repository: Repository, github_proxy: Proxy) -> Iterator[Thread]:
    with linked_thread(tmp_path, github_repository, github_proxy) as thread:
        yield thread


def a_page_and_more(thread: Thread) -> list[str]:
    """Three milestones: the first comment, the hundredth, which is the last of a page, and one more; their hashes."""
    records = [thread.milestone("the first")]
    assert thread.publish().problems == ()
    for number in range(98):
        thread.repository.comment(thread.number, f"early {number}")
    records += [thread.milestone("the hundredth"), thread.milestone("one more")]
    assert thread.publish().problems == ()
    assert thread.shown == records
    return records


def test_a_list_that_repeats_a_comment_deletes_none(thread: Thread, github_proxy: Proxy) -> None:
    """An older comment comes to be shown between two pages, so the next page begins with the last one again."""
    records = a_page_and_more(thread)
    last = thread.comments[99]

    def show(client: Client, answer: Answer) -> None:
        shown = [{"id": last.id, "body": last.body, "user": {"login": "researcher"}, "author_association": "OWNER"}]
        client.send(replace(answer, body=json.dumps(shown + json.loads(answer.body)).encode()))

    github_proxy.fault = some(Fault("repeats", True, show), "GET", r"comments\?(.*&)?page=2\b", times=9)
    thread.surface = thread.publisher()
    assert thread.publish(final=True).problems == ()
    assert thread.shown == records


def moved(status: int, address: str) -> Fault:
    """GitHub answers with another address, without a query."""
    return Fault(str(status), False, lambda client, _: client.send(Answer(status, {"location": address}, b"{}")))


def test_a_name_that_changes_between_two_pages_loses_no_page(thread: Thread, github_proxy: Proxy) -> None:
    """The new address comes without the number of the page, which is asked for all the same."""
    records = a_page_and_more(thread)
    path = f"{github_proxy.url}/repos/{thread.repository.full_name}/issues/{thread.number}/comments"
    github_proxy.fault = some(moved(301, path), "GET", r"comments\?(.*&)?page=2\b")
    thread.surface = thread.publisher()
    assert thread.publish(final=True).problems == ()
    assert thread.shown == records


@pytest.mark.parametrize("status", [301, 307, 308])
def test_a_rename_is_followed_by_reads_and_writes(
    thread: Thread, github_proxy: Proxy, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    """A driver that runs for long knows the old name; after the rename its comments and the body go to the new one."""
    new, old = thread.repository.full_name, "lab/old-name"
    monkeypatch.setenv("GITHUB_REPOSITORY", old)
    issue = thread.desk.store / "journal" / "toy" / "issue.json"
    issue.write_bytes(issue.read_bytes().replace(new.encode(), old.encode()))
    thread.desk = Desk(thread.desk.root, thread.desk.store)

    def under_the_old_name(client: Client, _: Answer) -> None:
        asked = client.request
        request = Request(asked.number, asked.method, asked.path.replace(old, new), asked.body)
        answer = github_proxy._forward(request, dict(client.headers))
        client.send(replace(answer, body=answer.body.replace(new.encode(), old.encode())))

    github_proxy.fault = lambda method, path, number: Fault("old", False, under_the_old_name) if old in path else None
    thread.surface = thread.publisher()
    records = [thread.milestone("before")]
    assert thread.publish(final=True).problems == ()

    def rename(method: str, path: str, number: int) -> Fault | None:
        address = f"{github_proxy.url}{path.replace(old, new).partition('?')[0]}"
        return moved(status, address) if old in path else None

    github_proxy.fault = rename
    records.append(thread.milestone("after"))
    assert thread.publish(final=True).problems == ()
    assert thread.shown == records and "## TL;DR" in thread.body
    assert github_proxy.count("", old) > 0


def test_an_address_of_another_server_is_not_followed(
    thread: Thread, github_proxy: Proxy, github_server: github_api.Server
) -> None:
    """The token goes to the API that was configured, and nowhere else."""
    record = thread.milestone()
    with Proxy(github_server) as other:
        github_proxy.fault = lambda method, path, number: moved(307, f"{other.url}{path}")
        assert "another server's address" in thread.publish().problems[0]
        assert other.count() == 0
    github_proxy.fault = lambda method, path, number: None
    thread.clock.sleep(600)
    assert thread.publish().problems == () and thread.shown == [record]


@pytest.mark.parametrize("lost", [github_api.reset(forward=True), github_api.unavailable(502, forward=True)])
def test_the_comments_of_ones_own_token_are_receipts(
    thread: Thread, github_proxy: Proxy, monkeypatch: pytest.MonkeyPatch, lost: Fault
) -> None:
    """Who is no member of the organization posts once too, when an answer is lost."""
    monkeypatch.setenv("GITHUB_TOKEN", github_api.token("stranger"))
    records = [thread.milestone(str(number)) for number in range(2)]
    github_proxy.fault = some(lost, "POST", COMMENTS)
    assert thread.publish(final=True).problems == ()
    assert thread.shown == records
    thread.surface = thread.publisher()
    assert thread.publish(final=True).problems == ()
    assert thread.shown == records


def test_a_comment_that_was_acknowledged_and_not_stored(thread: Thread, github_proxy: Proxy) -> None:
    """It counts as posted once the issue shows it: until then that is told, and a later pass posts it."""
    record = thread.milestone()
    made = {"id": 999_999, "body": "x", "user": {"login": "researcher"}, "author_association": "MEMBER"}
    answer = Answer(201, {"content-type": "application/json"}, json.dumps(made).encode())
    github_proxy.fault = some(Fault("a lie", False, lambda client, _: client.send(answer)), "POST", COMMENTS)
    assert "does not show 1 comments that it accepted" in thread.publish(final=True).problems[0]
    assert thread.shown == []
    thread.clock.sleep(60)
    thread.surface = thread.publisher()
    assert thread.publish(final=True).problems == ()
    assert thread.shown == [record]


def test_one_update_that_is_refused_holds_back_no_other(thread: Thread, github_proxy: Proxy) -> None:
    """GitHub never takes the text of one milestone: it is named, the later ones are posted."""
    records = [thread.milestone(f"finding {number}") for number in range(3)]

    def refuse(method: str, path: str, number: int) -> Fault | None:
        is_it = method == "POST" and b"finding 1" in github_proxy.requests[-1].body
        return github_api.invalid() if is_it else None

    github_proxy.fault = refuse
    (problem,) = thread.publish(final=True).problems
    assert problem.startswith("TOY-002 is not on ") and "422" in problem
    assert thread.shown == [records[0], records[2]]


def test_a_limit_is_kept_to_by_the_next_command(thread: Thread, github_proxy: Proxy) -> None:
    """Asked to come back in half an hour, no later process of the checkout sends anything before that."""
    record = thread.milestone()
    github_proxy.fault = some(github_api.rate_limit(1800), times=1)
    assert "asks to wait" in thread.publish(final=True).problems[0]
    sent = github_proxy.count()
    thread.surface = thread.publisher()
    assert "is tried again after" in thread.publish(final=True).problems[0]
    assert github_proxy.count() == sent
    # The server counts by the machine's clock, which goes on meanwhile.
    thread.clock.sleep(1860)
    thread.surface = thread.publisher()
    assert thread.publish(final=True).problems == ()
    assert thread.shown == [record]


def test_the_last_pass_waits_for_what_may_still_arrive(thread: Thread, github_proxy: Proxy) -> None:
    """A comment whose answer was lost shows late, when another one was posted: nobody syncs after the end, so this pass
    waits for it and deletes it."""
    record = thread.milestone()
    late: list[int] = []

    def arrive(seconds: float) -> None:
        posts = [each for each in list(github_proxy.requests) if each.method == "POST" and "comments" in each.path]
        if len(posts) == 2 and not late and seconds > 1:
            body = json.loads(posts[0].body)["body"]
            late.append(thread.repository.comment(thread.number, body, login="researcher"))

    github_proxy.fault = some(github_api.unavailable(502), "POST", COMMENTS)
    thread.clock.on_sleep = arrive
    assert thread.publish(final=True).problems == ()
    assert late and thread.shown == [record]


def test_a_publisher_waits_for_its_turn_in_the_end(thread: Thread) -> None:
    """Another one writes for a while: this one goes on afterwards, with all that was recorded by then."""
    first = thread.milestone("mine")
    recorded: list[str] = []
    held = ExitStack()
    assert held.enter_context(thread.desk.journal.leases.of_publisher("issue")) is None

    def give_back(seconds: float) -> None:
        if not recorded:
            recorded.append(thread.milestone("another's"))
            held.close()

    thread.clock.on_sleep = give_back
    assert thread.publish(final=True).problems == ()
    assert thread.shown == [first, *recorded]


def test_a_limit_lasts_as_long_whatever_the_clock_says(thread: Thread, github_proxy: Proxy) -> None:
    """While the machine's clock is set back by five hours, and from there to where GitHub's own is."""
    record = thread.milestone()
    github_proxy.fault = some(github_api.rate_limit(1800), times=1)
    thread.clock.off = 5 * 3600
    assert "asks to wait 180" in thread.publish(final=True).problems[0]
    thread.clock.off = 0
    thread.surface = thread.publisher()
    assert "is tried again after" in thread.publish(final=True).problems[0]
    thread.clock.sleep(1802)
    thread.surface = thread.publisher()
    assert thread.publish(final=True).problems == ()
    assert thread.shown == [record]


def test_a_limit_of_another_machine_keeps_nobody_waiting(
    thread: Thread, github_proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its time counts for none but itself, until it is started anew; GitHub says itself whether the limit holds."""
    record = thread.milestone()
    github_proxy.fault = some(github_api.secondary_limit(1800), times=1)
    with monkeypatch.context() as patch:
        patch.setattr(surface, "machine", lambda: "another")
        assert "asks to wait" in thread.publish(final=True).problems[0]
    thread.surface = thread.publisher()
    assert thread.publish(final=True).problems == ()
    assert thread.shown == [record]
