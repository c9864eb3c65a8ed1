"""People and publishers who do what they may, at random, in one repository, its branches, its stores and its clones."""

import random
import subprocess
from pathlib import Path

from research_steps.publish.logbook import format as logbook_format
from research_steps.publish.logbook.adoption import adopt

from tests.support.sealed_logbook import SealedDesk

BY_HAND = b"# Toy\n\n## Log\n\n### 2026-01-01 - by hand\n- Result: 1\n"


class Honest:
    """A history in which people and publishers do what they may, at random, in one repository and its clones."""

    def __init__(self, where: Path, dice: random.Random) -> None:
        self.where, self.dice = where, dice
        self.desk = SealedDesk.make(where, dice.choice(["", ".agents/issues/*.md merge=union"]))
        self.home = self.desk
        self.branches = ["main"]
        self.clones = 0
        self.done: list[str] = []
        if dice.random() < 0.3:
            self.desk.path.parent.mkdir(parents=True)
            self.desk.path.write_bytes(BY_HAND)
            adopt(self.desk.checkout, "toy", "TOY")

    def run(self) -> int:
        """Work on one branch and on another, sometimes at once, and merges; returns how often that was checked."""
        self.measure()
        checked = 0
        for act in (self.branch, self.work, self.switch, self.work, self.merge, self.work):
            if act == self.work or self.dice.random() < 0.8:
                act()
                checked += 1
                verified = self.desk.checked()
                assert verified.problems == (), (self.done, act, verified)
        return checked

    def work(self) -> None:
        todo = self.dice.choice([self.measure, self.measure, self.seal, self.seal, self.note, self.summary, self.clone])
        self.done.append(todo.__name__)
        todo()

    def measure(self) -> None:
        kind = self.dice.choice(["sweep", "baseline", "interpret"])
        self.desk.measured(f"{kind} {self.dice.random()}", step=kind, trials=self.dice.randint(0, 2))
        assert self.desk.publish().problems == ()

    def seal(self) -> None:
        if self.desk.store == self.home.store:
            self.desk.seal()
        else:
            # Of two stores that used one ID only one can have the tag of that name.
            self.measure()

    def branch(self) -> None:
        self.desk.commit()
        name = self.dice.choice(["research/toy", f"side-{len(self.branches)}"])
        if name not in self.branches:
            self.desk.git("switch", "--quiet", "--create", name)
            self.branches.append(name)

    def switch(self) -> None:
        """To another branch: with the comments committed, or carried along as they are where git lets them."""
        only_logbook = self.dice.random() < 0.5
        if only_logbook and self.desk.path.exists():
            self.desk.git("add", "--", ".agents/logbooks")
            self.desk.git("commit", "--quiet", "--allow-empty", "--message", "logbook")
        else:
            self.desk.commit()
        other = self.dice.choice(self.branches)
        if subprocess.run(["git", "switch", "--quiet", other], cwd=self.desk.root, capture_output=True).returncode:
            self.desk.commit()
            self.desk.git("switch", "--quiet", other)
        stores = ["store", "store", "other"]
        self.desk = self.home.with_store(self.dice.choice(stores))

    def merge(self) -> None:
        self.desk.commit()
        self._merge(self.dice.choice(self.branches))

    def _merge(self, branch: str) -> None:
        if not self.desk.merge(branch):
            # Of the comments one side is taken, as people do; the logbook is for sync.
            for name in self.desk.git("diff", "--name-only", "--diff-filter=U").split():
                if name.startswith(".agents/issues"):
                    self.desk.git("checkout", self.dice.choice(["--ours", "--theirs"]), "--", name)
        rebuilt, published = self.desk.sync()
        if rebuilt and self.dice.random() < 0.5:
            self.desk.commit("merge")
        # Also in an unfinished merge, because each seal had its commit before.
        assert published.problems == (), (self.done, published)
        self.desk.commit("merge")

    def note(self) -> None:
        """What people write behind an entry is theirs."""
        self.desk.publish()
        with self.desk.path.open("ab") as file:
            file.write(b"\nA note by hand, %d.\n" % self.dice.randrange(1000))

    def summary(self) -> None:
        self.desk.publish()
        data = self.desk.data
        if span := logbook_format.summary_span(data):
            self.desk.path.write_bytes(data[: span[0]] + b"## TL;DR\n- Changed.\n" + data[span[1] :])

    def clone(self) -> None:
        """Somebody goes on in a clone, with this store or an own one, and that is merged here."""
        self.desk.commit()
        self.clones += 1
        clone = self.desk.clone(self.where / f"clone-{self.clones}")
        assert clone.with_store("empty").checked().problems == ()
        if self.dice.random() < 0.5:
            clone = clone.with_store(f"own-{self.clones}")
        clone.measured("in the clone")
        assert clone.publish().problems == ()
        clone.commit()
        assert clone.checked().problems == ()
        self.desk.git("fetch", "--quiet", "--tags", str(clone.root), f"HEAD:refs/heads/clone-{self.clones}")
        assert self.desk.checked().problems == ()
        self._merge(f"clone-{self.clones}")
