"""A series whose issue is on a GitHub that keeps state, its publishers, and a clock that nobody has to wait for."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from research_steps.publish.issue import github
from research_steps.publish.issue.comment import Comment
from research_steps.publish.issue.linked_issue import permit
from research_steps.publish.issue.surface import IssueSurface
from research_steps.publish.publisher import Published, publish
from research_steps.records.objects import IssueLink
from research_steps.records.series import Metric, Series
from research_steps.records.times import utc

from tests.support.github_api import Proxy, Repository
from tests.support.scratch_logbook import Desk

SERIES = Series(
    topic="toy", prefix="TOY", goal="see it published", metrics=(Metric("time_s", "min"),), stop="after three"
)


class Clock(github.Clock):
    """Time that passes when somebody sleeps; the time of day is `off`. `on_sleep` is called with the seconds."""

    def __init__(self, start: datetime | None = None) -> None:
        self.time = (start or datetime.now(UTC)).timestamp()
        self.off = 0.0
        self.slept: list[float] = []
        self.on_sleep: Callable[[float], None] = lambda seconds: None

    def now(self) -> float:
        return self.time + self.off

    def monotonic(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += seconds
        self.on_sleep(seconds)


class Thread:
    """A desk whose series has an issue; without a repository, the embedded one."""

    def __init__(self, desk: Desk, series: Series, repository: Repository | None = None, body: str = "") -> None:
        self.desk = desk
        self.series = series
        self.clock = Clock()
        self.repository = repository
        self.number = 0
        if repository is not None:
            self.link(repository, body)
        self.surface = self.publisher()

    def link(self, repository: Repository, body: str = "") -> None:
        self.repository = repository
        self.number = repository.create_issue("Experiment: toy", body)
        name = repository.full_name
        link = IssueLink(name, self.number, f"https://github.com/{name}/issues/{self.number}", utc())
        self.desk.journal.decide("issue", link)
        permit(self.desk.checkout, self.series.topic, link)

    def publisher(self) -> IssueSurface:
        """One that has seen nothing before."""
        return IssueSurface(self.desk.checkout, self.desk.journal, self.series, lambda sha256: "", self.clock)

    def publish(self, final: bool = False) -> Published:
        return publish(self.desk.journal, [self.surface], final)

    def milestone(self, label: str = "a finding", **changes: Any) -> str:
        """Record an entry that belongs on the issue; its hash."""
        return self.desk.record(label, **{"trials": 0, "step": "interpret", **changes}).sha256

    @property
    def comments(self) -> list[Comment]:
        assert self.repository is not None
        return [Comment(comment.id, comment.body) for comment in self.repository.comments(self.number)]

    @property
    def shown(self) -> list[str]:
        """The records that the issue's comments show, in order."""
        return [comment.marker.removeprefix("record ") for comment in self.comments if comment.marker]

    @property
    def body(self) -> str:
        assert self.repository is not None
        return self.repository.issue(self.number).body


def environment(proxy: Proxy, login: str = "researcher") -> dict[str, str]:
    """What a process needs to reach GitHub through the proxy."""
    from tests.support.github_api import token

    return {"GITHUB_TOKEN": token(login), "GITHUB_API_URL": proxy.url}


@contextmanager
def linked_thread(where: Path, repository: Repository, proxy: Proxy, body: str = "") -> Iterator[Thread]:
    """A thread with an issue of this body, while this process reaches GitHub through the proxy."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment(proxy).items():
            patch.setenv(name, value)
        yield Thread(Desk.make(where), SERIES, repository, body)
