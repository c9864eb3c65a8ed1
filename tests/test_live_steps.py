"""What a person sees on a terminal while a thread runs: its steps below its messages, and nothing overwritten."""

import fcntl
import os
import pty
import re
import select
import struct
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyte
import pytest

from tests.support.toy_thread import MEASURE, Repository, fork

# Two sweeps side by side, whose trials take turns by the device lock. Where somebody looks on, the first of them lasts
# until the other one was seen to wait and all is told. What is logged goes by a handler that was made before the run,
# as Marin's are.
UNTIL_SEEN = """
    until = time.monotonic() + 60
    while config != Config() and Path("watched").exists() and time.monotonic() < until:
        if Path("seen").exists() and Path("told").exists():
            break
        time.sleep(0.05)
"""
SLOW = MEASURE.replace("    while True:\n", f"{UNTIL_SEEN}    while True:\n")
SIDE_BY_SIDE = """
    import logging, sys
    log = logging.getLogger("elsewhere")
    log.addHandler(logging.StreamHandler(stream=sys.stderr))
    base = steps.baseline(measure, Config())
    steps.sweep(base, ("work", [1000, 4000]), label="the first sweep")
    steps.sweep(base, ("data", ["left", "right"]), label="the second sweep, whose label is longer than the room for it")
    import threading, time
    def tell():
        for number in range(40):
            log.warning("logged %02d: a line that is told while the steps are drawn", number)
            time.sleep(0.1)
        open("told", "w").close()
    threading.Thread(target=tell, daemon=True).start()
"""
COLUMNS, LINES = 80, 200


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    repository = Repository(tmp_path / "checkout")
    repository.measure(SLOW)
    repository.thread(SIDE_BY_SIDE)
    return repository


@contextmanager
def _running(repository: Repository) -> Iterator[tuple[int, int]]:
    """A run on a terminal of its own: the terminal, and the process."""
    main, side = pty.openpty()
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    environment = {"WANDB_MODE": "disabled", "TERM": "xterm"}
    pid = fork(repository.root, "experiments.toy", [], side, side, environment)
    os.close(side)
    try:
        yield main, pid
    finally:
        os.close(main)


def test_parallel_steps_stand_below_messages_and_overwrite_none(repository: Repository) -> None:
    """On 80 columns each sweep has a line of its own while it measures, with its bar and how far it is; the one that
    waits tells who has the device lock; and in the end every message is there, whole and once."""
    screen = pyte.Screen(COLUMNS, LINES)
    stream = pyte.ByteStream(screen)
    seen: set[str] = set()
    waited, both = False, False
    (repository.root / "watched").touch()
    with _running(repository) as (terminal, pid):
        while select.select([terminal], [], [], 120)[0]:
            try:
                stream.feed(os.read(terminal, 1 << 16))
            except OSError:
                break
            lines = [line.rstrip() for line in screen.display]
            drawn = [line for line in lines if "━" in line]
            seen.update(drawn)
            both = both or (any("the first" in line for line in drawn) and any("the second" in line for line in drawn))
            waited = waited or any(re.search(r"the device lock: TOY-00\d .* has it for \d", line) for line in lines)
            if both and waited:
                (repository.root / "seen").touch()
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    shown = "\n".join(line.rstrip() for line in screen.display).rstrip()
    assert code == 0, shown
    assert both and waited, "\n".join(sorted(seen))
    assert all(len(line) <= COLUMNS and re.search(r" \d/\d ", line) for line in seen)
    # In the end the table is gone, and each line stands once.
    assert "━" not in shown
    for number in range(40):
        assert shown.count(f"logged {number:02d}: a line that is told while the steps are drawn\n") == 1, shown
    assert re.search(r"^TOY-00\d the first sweep: 2/2 trials done$", shown, re.M), shown
    assert re.search(r"^TOY-00\d the second sweep, whose label is longer than the room for it: 2/2 ", shown, re.M), shown
    look = " ".join(shown[shown.rindex("look: ") :].split())
    assert look.startswith("look: research status toy") and look.endswith("; .agents/reports/toy.html"), shown
    assert (repository.root / ".agents/reports/toy.html").is_file()


def test_a_run_on_a_pipe_has_lines_and_no_control_characters(repository: Repository) -> None:
    """As before: a line for each trial."""
    done = repository.run()
    assert done.code == 0, done.output
    assert len(re.findall(r"^TOY-00\d\.0\d: \d/2 (?:work|data)=\w+: ", done.output, re.M)) == 4, done.output
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", done.output)
