"""The body of the issue, which people write at the same moment: nothing that they wrote is lost in the end."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import github_api
from tests.support.body_history import BodyHistory, refused
from tests.support.github_api import Fault, Proxy, Repository, some
from tests.support.issue_thread import Thread, linked_thread

GRAPHQL = "/graphql$"


@pytest.fixture
def thread(tmp_path: Path, github_repository: Repository, github_proxy: Proxy) -> Iterator[Thread]:
    with linked_thread(tmp_path, github_repository, github_proxy, "our plan") as thread:
        yield thread


def again(thread: Thread) -> tuple[str, ...]:
    """A later sync, by a process that knows nothing of the one before; its problems."""
    thread.surface = thread.publisher()
    return thread.publish(final=True).problems


def test_nothing_is_waited_for_between_reading_and_writing(thread: Thread, github_proxy: Proxy) -> None:
    """The second between two writes passes before the body is read, not while somebody may change it."""
    slept: list[int] = []
    thread.clock.on_sleep = lambda seconds: slept.append(github_proxy.count())
    assert thread.publish(final=True).problems == ()
    asked = [(each.method, each.path.rpartition("/issues/")[2]) for each in github_proxy.requests]
    (write,) = [number for number, (method, _) in enumerate(asked) if method == "PATCH"]
    assert asked[write - 1] == ("GET", str(thread.number)), "what is written was read right before"
    assert slept and write not in slept


def test_line_ends_of_a_lost_edit_come_back_as_they_were(thread: Thread, github_proxy: Proxy) -> None:
    """A browser saves other ones, and every byte is theirs."""
    theirs = "our plan\r\n\r\nand a word on it\r\n"
    BodyHistory(github_proxy, thread, {1: theirs})
    assert thread.publish(final=True).problems == ()
    assert thread.body.startswith(theirs) and thread.body.count("## TL;DR") == 1


def test_of_two_edits_at_the_same_moments_both_are_put_back(thread: Thread, github_proxy: Proxy) -> None:
    """One comes while the body is written, and one while the first is put back."""
    history = BodyHistory(github_proxy, thread, {1: "our plan\nAnn's word", 2: "our plan\nBob's word"})
    assert thread.publish(final=True).problems == ()
    assert history.writes == 3
    assert thread.body.count("Ann's word") == 1 and thread.body.count("Bob's word") == 1
    written = thread.body
    thread.clock.sleep(60)
    assert again(thread) == () and thread.body == written


DOUBTFUL = {
    "403": github_api.forbidden(),
    "502": github_api.unavailable(502),
    "a limit in an answer of 200": refused("RATE_LIMITED"),
    "an error in an answer of 200": refused("INTERNAL"),
}


@pytest.mark.parametrize("fault", DOUBTFUL.values(), ids=DOUBTFUL.keys())
def test_an_edit_waits_for_a_history_that_can_be_read(thread: Thread, github_proxy: Proxy, fault: Fault) -> None:
    """What isn't known is told, and looked at again by whoever syncs next; the body is written all the same."""
    history = BodyHistory(github_proxy, thread, {1: "our plan\nAnn's word"})
    history.fault = some(fault, "POST", GRAPHQL, times=100)
    (problem,) = thread.publish(final=True).problems
    assert "whether an edit of its body was lost is not known" in problem
    assert "## TL;DR" in thread.body and "Ann's word" not in thread.body
    history.fault = lambda method, path, number: None
    thread.clock.sleep(120)
    assert again(thread) == ()
    assert thread.body.startswith("our plan\nAnn's word\n") and thread.body.count("## TL;DR") == 1


def test_a_history_that_lags_is_waited_for(thread: Thread, github_proxy: Proxy) -> None:
    """Three seconds later it shows what came in between."""
    history = BodyHistory(github_proxy, thread, {1: "our plan\nAnn's word"})
    history.lag_s = 3.0
    assert thread.publish(final=True).problems == ()
    assert thread.body.startswith("our plan\nAnn's word\n")


def test_a_write_that_arrives_late_takes_nothing_along(thread: Thread, github_proxy: Proxy) -> None:
    """Nobody heard of it, it was made again, somebody saved, and then it arrived."""
    history = BodyHistory(github_proxy, thread)
    history.fault = some(github_api.reset(), "PATCH")
    assert thread.publish(final=True).problems == ()
    late = next(json.loads(each.body)["body"] for each in github_proxy.requests if each.method == "PATCH")
    history.save(f"Ann's word\n\n{thread.body}")
    history.save(late)
    thread.clock.sleep(60)
    assert again(thread) == ()
    assert thread.body.startswith("Ann's word\n\nour plan\n")


def test_who_is_killed_after_writing_leaves_it_to_the_next(thread: Thread, github_proxy: Proxy) -> None:
    """What the write should replace lies in the store before it is sent, so anybody can tell that it replaced more."""
    history = BodyHistory(github_proxy, thread, {1: "our plan\nAnn's word"})
    written: list[str] = []

    def dead_from_then_on(method: str, path: str, number: int) -> Fault | None:
        written.extend([path] if method == "PATCH" else [])
        return github_api.reset(forward=method == "PATCH" and len(written) == 1) if written else None

    history.fault = dead_from_then_on
    assert thread.publish(final=True).problems
    history.fault = lambda method, path, number: None
    thread.clock.sleep(600)
    assert again(thread) == ()
    assert thread.body.startswith("our plan\nAnn's word\n")


def test_who_went_on_writing_keeps_both(thread: Thread, github_proxy: Proxy) -> None:
    """An edit was replaced while nobody could see it, and somebody wrote on: the lost one stands below, once."""
    history = BodyHistory(github_proxy, thread, {1: "our plan\nAnn's word"})
    history.fault = some(github_api.unavailable(502), "POST", GRAPHQL, times=100)
    assert thread.publish(final=True).problems
    history.save(f"Bob's word\n\n{thread.body}")
    history.fault = lambda method, path, number: None
    for _ in range(2):
        thread.clock.sleep(600)
        assert again(thread) == ()
    assert thread.body.startswith("Bob's word\n\nour plan\n") and thread.body.count("Ann's word") == 1


def test_a_text_that_people_took_out_again_stays_out(thread: Thread, github_proxy: Proxy) -> None:
    """What was put back once, and what somebody deleted later, is not put back again."""
    history = BodyHistory(github_proxy, thread, {1: "our plan\nAnn's word"})
    assert thread.publish(final=True).problems == ()
    history.save(thread.body.replace("\nAnn's word", ""))
    thread.clock.sleep(60)
    assert again(thread) == ()
    assert "Ann's word" not in thread.body and thread.body.startswith("our plan\n")
