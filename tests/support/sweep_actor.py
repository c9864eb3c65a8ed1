"""A sweep's driver and workers, played by processes that do what they are told on their standard input."""

import subprocess
import sys
from typing import Any

from research_steps.journal.journal import Journal
from research_steps.records.encoding import sha256
from research_steps.records.times import utc

from tests.support.records import trial

STEP = "MOE-HC-031"

ACTOR = """
import sys
from contextlib import ExitStack
from research_steps.journal import progress
from research_steps.journal.journal import Journal
from research_steps.journal.store import open_store
from tests.support.records import entry
from tests.support.sweep_actor import begin, end, step
journal = Journal(open_store(sys.argv[1]), "moe_hc")
with ExitStack() as held:
    for line in sys.stdin:
        match line.rstrip("\\n").split("|"):
            case ["plan", total, label]:
                progress.plan(journal, "MOE-HC-031", label, int(total))
            case ["step", attempt]:
                held.enter_context(step(journal, int(attempt)))
            case ["begin", number]:
                held.enter_context(begin(journal, int(number)))
            case ["end", number, status]:
                end(journal, int(number), status=status)
            case ["done"]:
                journal.attempts.finish("entry", entry(id="MOE-HC-031", key="MOE-HC-031", rows=(), result="one is best"))
        print("ok", flush=True)
"""


def key(number: int) -> str:
    return sha256(f"trial {number}".encode())


def step(journal: Journal, attempt: int = 0) -> Any:
    return journal.attempts.begin("entry", STEP, attempt, id=STEP, label="block sizes", config={})


def begin(journal: Journal, number: int, attempt: int = 0) -> Any:
    return journal.attempts.begin(
        "trial", key(number), attempt, id=f"{STEP}.{number:02d}", label=f"block={number}", config={}
    )


def end(journal: Journal, number: int, attempt: int = 0, **changes: Any) -> None:
    begun = journal.attempts.intent("trial", key(number), attempt)
    times = {"started_at": begun.started_at, "finished_at": utc()}
    journal.attempts.finish("trial", trial(key=key(number), attempt=attempt, id=begun.id, **{**times, **changes}))


class Actor:
    """A process at the journal, which does one thing after the other."""

    def __init__(self, journal: Journal, *inside: str) -> None:
        command = [*inside, sys.executable, "-c", ACTOR, journal.store.url]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def do(self, *tasks: str) -> "Actor":
        assert self.process.stdin is not None and self.process.stdout is not None
        for task in tasks:
            self.process.stdin.write(task + "\n")
            self.process.stdin.flush()
            assert self.process.stdout.readline() == "ok\n"
        return self

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()
