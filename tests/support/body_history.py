"""GitHub's history of an issue's bodies, which the tests' server has not: kept by the proxy, from what went through.

The thread's clock tells when a body came to be, so that the history can lag behind.
"""

import json

from tests.support import github_api
from tests.support.github_api import Answer, Client, Fault, FaultOf, Proxy
from tests.support.issue_thread import Thread


class BodyHistory:
    """Answers the query for edits. `meanwhile` has the bodies that a person saves right before the n-th write of the
    body arrives, by n; `lag_s` is how long each body takes to show; `fault` comes first."""

    def __init__(self, proxy: Proxy, thread: Thread, meanwhile: dict[int, str] | None = None) -> None:
        self.meanwhile = dict(meanwhile or {})
        self.lag_s = 0.0
        self.fault: FaultOf = lambda method, path, number: None
        self.writes = 0
        self._thread = thread
        self._bodies = [(thread.clock.now(), thread.body)]
        proxy.before, proxy.fault = self._before, self._choose

    def look(self) -> None:
        """Take down the body as it is now."""
        body = self._thread.body
        if body != self._bodies[-1][1]:
            self._bodies.append((self._thread.clock.now(), body))

    def save(self, body: str) -> None:
        """A person saves a body."""
        self.look()
        self._thread.repository.edit_issue(self._thread.number, body=body)
        self.look()

    def _before(self, method: str, path: str) -> None:
        if method != "PATCH":
            return
        self.writes += 1
        if self.writes in self.meanwhile:
            self.save(self.meanwhile[self.writes])
        self.look()

    def _choose(self, method: str, path: str, number: int) -> Fault | None:
        fault = self.fault(method, path, number)
        return fault if fault or not path.endswith("/graphql") else Fault("edits", False, self._show)

    def _show(self, client: Client, _: Answer) -> None:
        self.look()
        until = self._thread.clock.now() - self.lag_s
        # GitHub begins a history with the first edit.
        shown = [{"diff": text} for when, text in reversed(self._bodies) if when <= until or text == self._bodies[0][1]]
        nodes = shown if len(shown) > 1 else []
        data = {"data": {"repository": {"issue": {"userContentEdits": {"nodes": nodes}}}}}
        client.send(github_api.Answer(200, {"content-type": "application/json"}, json.dumps(data).encode()))


def refused(kind: str) -> Fault:
    """GitHub answers a query with an error, in an answer of 200."""
    answer = json.dumps({"errors": [{"type": kind, "message": "no"}]}).encode()
    return Fault(kind, False, lambda client, _: client.send(Answer(200, {"content-type": "application/json"}, answer)))
