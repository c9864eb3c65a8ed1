"""`research dev --watch` as a person uses it, with the real command, real saves and a real terminal; and what each
attempt was measured on, from `research show --patch`."""

import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.support.dev_checkout import DevCheckout, checkout
from tests.support.untimed_thread import COST, SWEEP

MEASURE = """
import time
from dataclasses import dataclass
from pathlib import Path

COST = 0.9


@dataclass(frozen=True)
class Config:
    fast: bool = False


def measure(config):
    Path("measured").touch()
    while Path("hold").exists():
        time.sleep(0.02)
    while True:
        yield {"cost": COST if config.fast else 1.0}
"""
SOON_S = 60.0
WAITS = "waiting for another save"


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[DevCheckout]:
    with checkout(tmp_path) as made:
        made.measure(MEASURE)
        made.write(SWEEP, COST.replace("timed=False", "timed=False, exact=True"))
        made.commit()
        yield made


class Session:
    """A command that watches, and what it has said so far on both streams."""

    def __init__(self, process: "subprocess.Popen[bytes]", output: int) -> None:
        self.process = process
        self._output = output
        self._data = b""
        self._read = 0
        os.set_blocking(output, False)

    @property
    def printed(self) -> str:
        # A terminal whose program has ended is an error to read.
        with suppress(OSError):
            while data := os.read(self._output, 1 << 16):
                self._data += data
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self._data.decode("utf-8", "replace"))

    def wait_for(self, text: str) -> None:
        """Wait until it says this, after what was waited for before."""
        deadline = time.monotonic() + SOON_S
        while (at := self.printed.find(text, self._read)) < 0:
            assert time.monotonic() < deadline and self.process.poll() is None, self.printed
            time.sleep(0.02)
        self._read = at + len(text)

    def end(self, number: int = signal.SIGINT) -> int:
        self.process.send_signal(number)
        return self.process.wait(SOON_S)


@contextmanager
def watching(
    repository: DevCheckout, *settings: str, output: tuple[int, int] | None = None, **environment: str
) -> Iterator[Session]:
    """With these settings, by default that of the candidate; an empty one for none."""
    read, write = output or os.pipe()
    given = [setting for setting in settings or ("fast=true",) if setting]
    command = [sys.executable, "-m", "research_steps", "dev", "toy", "--watch", *given]
    env = {**repository.environment, **environment}
    with subprocess.Popen(command, cwd=repository.root, env=env, stdin=write, stdout=write, stderr=write) as process:
        os.close(write)
        try:
            yield Session(process, read)
        finally:
            process.kill()
            os.close(read)


def costs(text: str) -> str:
    return MEASURE.replace("COST = 0.9", f"COST = {text}")


def ids(repository: DevCheckout) -> list[str]:
    return [trial.id for trial in repository.trials()]


def hold(repository: DevCheckout) -> None:
    """Have the next trial wait until it is let go by removing this file."""
    (repository.root / "measured").unlink(missing_ok=True)
    (repository.root / "hold").touch()


def wait_until_held(repository: DevCheckout) -> None:
    deadline = time.monotonic() + SOON_S
    while not (repository.root / "measured").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_each_save_is_an_attempt_and_ctrl_c_leaves_a_summary(repository: DevCheckout) -> None:
    """All under one experiment ID, which the summary says how to keep; the best is marked."""
    with watching(repository) as session:
        session.wait_for(WAITS)
        assert "TOY-001.01 fast=True: cost 0.900 ×" in session.printed
        repository.measure(costs("0.5"))
        session.wait_for("TOY-001.02 fast=True: cost 0.500 ×")
        repository.measure(costs("1.5"))
        session.wait_for("TOY-001.03 fast=True: cost 1.500 ×")
        session.wait_for(WAITS)
        assert session.end() == 0
        summary = session.printed.rpartition(WAITS)[2]

    rows = {line.split()[0]: line.split() for line in summary.splitlines() if line.strip().startswith("TOY-")}
    assert list(rows) == ids(repository) == ["TOY-001.01", "TOY-001.02", "TOY-001.03"]
    assert [row[-1] for row in rows.values()] == ["improved", "best", "regressed"]
    assert "as committed" in " ".join(rows["TOY-001.01"])
    assert "measure.py +1 -1 cost 0.500 × (0.500 to 0.500) improved best" in " ".join(rows["TOY-001.02"])
    assert "fast=True. To make it one entry: research keep TOY-001 --hypothesis" in summary
    assert [attempt["id"] for attempt in repository.status()["scratch"]] == ["TOY-001", "TOY-002"]


def test_an_edit_is_held_against_the_commit_and_the_best_so_far(repository: DevCheckout) -> None:
    """Without a setting each save asks whether the code is better than what was committed."""
    with watching(repository, "") as session:
        session.wait_for("measured against itself")
        session.wait_for(WAITS)
        for cost, best in (("0.8", ""), ("0.6", "0.750 × the best so far (TOY-001.02, cost 0.800 ×")):
            repository.measure(MEASURE.replace("else 1.0", f"else {cost}"))
            session.wait_for(f"measure.py +1 -1: cost {float(cost):.3f} ×")
            session.wait_for(best)
            session.wait_for(WAITS)
        assert session.end() == 0
        assert ids(repository) == ["TOY-001.01", "TOY-001.02", "TOY-001.03"]
        assert re.search(r"TOY-001\.03 +measure\.py \+1 -1 +cost 0\.600 × .*improved +best", session.printed)


def test_only_what_changes_bytes_is_a_save(repository: DevCheckout) -> None:
    """The same bytes again, and a file that the trial does not import, begin nothing."""
    with watching(repository) as session:
        session.wait_for(WAITS)
        repository.measure(MEASURE)
        (repository.experiment / "plot.py").write_text("drawn = True\n")
        time.sleep(2)
        repository.measure(costs("0.5"))
        session.wait_for("TOY-001.02 fast=True: cost 0.500 ×")
        assert session.end() == 0
    assert len(ids(repository)) == 2


def test_editors_that_write_aside_and_rename_save_too(repository: DevCheckout) -> None:
    """A new file takes the place of the old one, at once or after the old one was moved away."""
    path = repository.experiment / "measure.py"
    with watching(repository) as session:
        session.wait_for(WAITS)
        aside = path.with_suffix(".new")
        aside.write_text(costs("0.5"))
        aside.replace(path)
        session.wait_for("TOY-001.02 fast=True: cost 0.500 ×")
        session.wait_for(WAITS)
        path.rename(path.with_suffix(".py~"))
        time.sleep(0.5)
        path.write_text(costs("0.4"))
        session.wait_for("TOY-001.03 fast=True: cost 0.400 ×")
        assert session.end() == 0


def test_what_does_not_parse_is_told_in_a_line_and_waited_for(repository: DevCheckout) -> None:
    """At the start as in between; a trial that fails is an attempt, and the next save goes on."""
    repository.measure(costs("0.9 ("))
    with watching(repository) as session:
        session.wait_for(WAITS)
        (line,) = [line for line in session.printed.splitlines() if "was never closed" in line]
        assert line.startswith("not attempted: ") and "measure.py, line 6" in line
        repository.measure(costs("0.9"))
        session.wait_for("TOY-001.01 fast=True: cost 0.900 ×")
        session.wait_for(WAITS)
        repository.measure(costs("0.5 ("))
        session.wait_for("was never closed")
        session.wait_for(WAITS)
        repository.measure(costs("int('no number')"))
        session.wait_for("invalid literal")
        session.wait_for(WAITS)
        repository.measure(
            MEASURE.replace("    while True:", "    from experiments.toy.kernel import COST\n    while True:")
        )
        session.wait_for("No module named 'experiments.toy.kernel'")
        session.wait_for(WAITS)
        (repository.experiment / "kernel.py").write_text("COST = 0.3\n")
        session.wait_for("TOY-001.03 fast=True: cost 0.300 ×")
        assert session.end() == 0
    assert [trial.status for trial in repository.trials()] == ["ok", "failed", "ok"]


def test_a_save_that_empties_the_file_first_is_one_change(repository: DevCheckout) -> None:
    """As editors and `open(…, "w")` do: what is read in between is no attempt, however long it takes."""
    repository.measure(costs("0.9"))
    with watching(repository) as session:
        session.wait_for("TOY-001.01 fast=True: cost 0.900 ×")
        session.wait_for(WAITS)
        with (repository.experiment / "measure.py").open("w") as file:
            # Longer than a change that the system tells of, or does not tell of, needs to be seen.
            time.sleep(2.5)
            file.write(costs("0.5"))
        session.wait_for("TOY-001.02 fast=True: cost 0.500 ×")
        assert session.end() == 0
        assert "not attempted" not in session.printed
    assert len(repository.trials()) == 2


def test_a_library_that_is_edited_is_watched(repository: DevCheckout, tmp_path: Path) -> None:
    """A module on PYTHONPATH that the trial imports, outside the checkout; also when it is saved before the first
    attempt has told that it was imported."""
    library = tmp_path / "library"
    library.mkdir()
    (library / "kernels.py").write_text("COST = 0.9\n")
    repository.measure(MEASURE.replace("COST = 0.9", "from kernels import COST"))
    hold(repository)
    with watching(repository, PYTHONPATH=f"{library}:{os.environ.get('PYTHONPATH', '')}") as session:
        wait_until_held(repository)
        (library / "kernels.py").write_text("COST = 0.8\n")
        (repository.root / "hold").unlink()
        session.wait_for("TOY-001.02 fast=True: cost 0.800 ×")
        session.wait_for(WAITS)
        (library / "kernels.py").write_text("COST = 0.5\n")
        session.wait_for("TOY-001.03 fast=True: cost 0.500 ×")
        assert session.end() == 0


def test_a_save_in_the_middle_of_an_attempt_begins_the_next(repository: DevCheckout) -> None:
    """The attempt that runs ends as it began, and the next has what was saved last."""
    with watching(repository) as session:
        session.wait_for(WAITS)
        hold(repository)
        repository.measure(costs("0.8"))
        wait_until_held(repository)
        repository.measure(costs("0.6"))
        repository.measure(costs("0.5"))
        (repository.root / "hold").unlink()
        session.wait_for("TOY-001.03 fast=True: cost 0.500 ×")
        assert "TOY-001.02 fast=True: cost 0.800 ×" in session.printed
        assert session.end() == 0


def test_what_was_begun_keeps_its_number(repository: DevCheckout) -> None:
    """Also when the kept parent is killed under it: the next save gets another one."""
    with watching(repository) as session:
        session.wait_for(WAITS)
        hold(repository)
        repository.measure(costs("0.8"))
        wait_until_held(repository)
        os.kill(repository.parent, signal.SIGKILL)
        session.wait_for("not attempted: The kept parent ended")
        session.wait_for(WAITS)
        (repository.root / "hold").unlink()
        repository.measure(costs("0.7"))
        session.wait_for("TOY-001.03 fast=True: cost 0.700 ×")
        assert session.end() == 0
    known = repository.known()
    made = [*known.trials.values(), *known.interrupted.values()]
    assert sorted(stored.record.id for stored in made if stored.record.id.startswith("TOY-001")) == [
        "TOY-001.01", "TOY-001.02", "TOY-001.03",
    ]  # fmt: skip


def test_a_session_in_which_nothing_was_attempted_exits_as_interrupted(repository: DevCheckout) -> None:
    """There is nothing to sum up, and nothing to keep."""
    repository.measure(costs("0.9 ("))
    with watching(repository) as session:
        session.wait_for(WAITS)
        assert session.end() == 130
        assert "research keep" not in session.printed


def test_being_ended_in_the_middle_of_an_attempt_sums_up_those_before(repository: DevCheckout) -> None:
    """By SIGTERM as by Ctrl-C. The trial that was cut off is recorded as interrupted, and none is left open."""
    with watching(repository) as session:
        session.wait_for(WAITS)
        hold(repository)
        repository.measure(costs("0.8"))
        wait_until_held(repository)
        assert session.end(signal.SIGTERM) == 0
        assert "To make it one entry: research keep TOY-001" in session.printed
    deadline = time.monotonic() + SOON_S
    while not repository.status()["interrupted"]:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert (repository.status()["open"], ids(repository)) == ([], ["TOY-001.01"])


def test_a_terminal_shows_the_table_live(repository: DevCheckout) -> None:
    """Attempts with what is waited for below them, drawn again as they come; the summary is what stays."""
    with watching(repository, output=pty.openpty(), TERM="xterm", COLUMNS="120") as session:
        session.wait_for(WAITS)
        assert re.search(r"attempt +edited +result +verdict.*TOY-001\.01 .*best.*" + WAITS, session.printed, re.DOTALL)
        repository.measure(costs("0.5"))
        session.wait_for("TOY-001.02   ")
        assert session.end() == 0
        assert "To make it one entry" in session.printed


def test_a_label_is_refused_while_watching(repository: DevCheckout) -> None:
    """What a session found is named when it has ended."""
    assert "'research keep' takes them" in repository.dev("--watch", "--label", "faster", code=1)


def test_the_exact_patch_of_an_attempt_can_be_applied(repository: DevCheckout, tmp_path: Path) -> None:
    """Piped to git in a clean checkout it gives back, to the byte, what was measured; others are told apart."""
    edited = costs("0.5").encode() + b"NOTE = 'caf\xc3\xa9'\r\n# no end of line"
    (repository.experiment / "measure.py").write_bytes(edited)
    (repository.experiment / "new.bin").write_bytes(bytes(range(256)))
    with watching(repository) as session:
        session.wait_for(WAITS)
        (repository.experiment / "new.bin").unlink()
        repository.git("checkout", "--quiet", ".")
        session.wait_for("TOY-001.02 ")
        assert session.end() == 0

    clean = tmp_path / "clean"
    repository.git("clone", "--quiet", str(repository.root), str(clean))
    with repository.start("show", "TOY-001.01", "--patch") as show:
        subprocess.run(["git", "apply"], cwd=clean, stdin=show.stdout, check=True)
    assert (clean / "experiments" / "toy" / "measure.py").read_bytes() == edited
    assert (clean / "experiments" / "toy" / "new.bin").read_bytes() == bytes(range(256))

    told = repository.research("show", "TOY-001.02", "--patch")
    assert told == f"TOY-001.02: nothing differed from commit {repository.trials()[1].provenance.commit}\n"
    several = repository.research("show", "TOY-001", "--patch", code=1)
    assert "have 2 different patches: name one of TOY-001.01, TOY-001.02" in several
    assert repository.research("show", "TOY-002", "--patch").startswith("diff --git ")
