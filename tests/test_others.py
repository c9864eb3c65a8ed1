"""What others measured, taken over from their logs: shown, searched, and never evidence."""

import json
import math
from pathlib import Path
from typing import Any

import msgspec
import pytest
from research_steps.actions.others import MOST_ROWS
from research_steps.evidence.state import ThreadState, thread_state
from research_steps.evidence.undecided import undecided
from research_steps.journal.journal import Journal
from research_steps.journal.store import open_store
from research_steps.records.step_kinds import Adopted

from tests.support.toy_thread import Repository, cli, started

# As autoresearch keeps it, with a metric of this series.
RESULTS = """commit\ttime_s\tmemory_gb\tstatus\tdescription
a1b2c3d\t0.997900\t44.0\tkeep\tbaseline
b2c3d4e\t0.993200\t44.2\tkeep\tset work=1000
c3d4e5f\t1.005000\t44.0\tdiscard\tswitch to GeLU, <script>alert(1)</script> @everyone
d4e5f6g\t0.000000\t0.0\tcrash\tdouble model width (OOM)
"""


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    repository = started(tmp_path_factory.mktemp("others") / "checkout")
    done = repository.run()
    assert done.code == 0, done.output
    return repository


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return started(tmp_path / "checkout")


def adopt(repository: Repository, text: str | bytes, name: str = "results.tsv") -> tuple[int, str]:
    path = repository.root.parent / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return cli(repository, "adopt", "toy", "--from", str(path))


def rows(repository: Repository) -> list[dict[str, Any]]:
    """All rows that are recorded, oldest first."""
    entries = Journal(open_store(str(repository.root / "local_store")), "toy").scan().in_order
    details = [entry.record.details for entry in entries if entry.record.step == "adopted"]
    return [msgspec.to_builtins(row) for one in details if isinstance(one, Adopted) for row in one.rows]


def state(repository: Repository) -> ThreadState:
    journal = Journal(open_store(str(repository.root / "local_store")), "toy")
    return thread_state(journal.series(), journal.scan())


def test_rows_of_others_are_shown_searched_and_no_evidence(measured: Repository) -> None:
    """In the logbook's one entry, in what is asked and in the dead ends; claims, winners, what is undecided and the
    hypotheses with their evidence are the same with and without."""
    before = state(measured)
    table = "work,mode,time_s,status\n" + "".join(f"{work},ok,1e-9,keep\n" for work in (1000, 4000, 2000) for _ in "123")
    code, told = adopt(measured, RESULTS)
    assert code == 0, told
    assert adopt(measured, table, "runs.csv")[0] == 0
    after = state(measured)
    same = (
        *("claims", "machines", "best", "reached", "winners", "unsettled", "baselines", "hypotheses", "stuck"),
        *("reading", "sealed", "unfounded", "by_older_rule"),
    )  # fmt: skip
    assert [getattr(after, name) for name in same] == [getattr(before, name) for name in same]
    assert undecided(after) == undecided(before) and after.next_commands == before.next_commands
    assert cli(measured, "verify", "toy")[0] == 0

    assert measured.logbook.count(" - TOY-005 rows of results.tsv") == 1
    assert "| 993 ms | `keep` | `set work=1000` |" in measured.logbook
    assert "they are no evidence here" in measured.logbook.lower()
    assert "`switch to GeLU, <script>alert(1)</script> @everyone`" in measured.logbook
    asked = cli(measured, "ask", "toy", "work=1000")[1]
    assert "tried before, by others (TOY-006, row 1 of runs.csv): keep; time_s 1 ns" in asked
    assert "others may have tried it (TOY-005, row 2 of results.tsv): keep; time_s 993 ms; set work=1000" in asked
    assert "by others" not in cli(measured, "ask", "toy", "work=3000")[1]
    given_up = "Tried before, by others, and given up (TOY-005)"
    assert f"{given_up}, 2 of 4 rows of results.tsv: switch to GeLU" in cli(measured, "brief", "toy")[1]
    assert given_up in cli(measured, "status", "toy")[1]
    shown = cli(measured, "show", "TOY-005")[1]
    assert "row 4: crash; double model width (OOM) commit=d4e5f6g memory_gb=0.0 time_s=0.000000" in shown


def test_only_what_is_new_is_added(repository: Repository) -> None:
    """Of a file that is given again nothing, of one that grew the new rows; the same measured twice is two."""
    for text, known in [(RESULTS, 4), (RESULTS, 4), (RESULTS + "e\t1.5\t44\tkeep\tmore\n", 5), (RESULTS, 5)]:
        assert adopt(repository, text)[0] == 0
        assert len(rows(repository)) == known
    assert adopt(repository, RESULTS, "copy.tsv")[1] == f"toy: nothing new in {repository.root.parent / 'copy.tsv'}\n"
    again = RESULTS + RESULTS.splitlines(keepends=True)[1]
    assert adopt(repository, again)[0] == 0 and adopt(repository, again)[0] == 0
    assert len(rows(repository)) == 6
    assert repository.ids == ["TOY-001", "TOY-002", "TOY-003", "TOY-004"]
    assert cli(repository, "retract", "TOY-002", "it was another machine")[0] == 0
    assert adopt(repository, RESULTS)[0] == 0
    assert repository.ids[-1] == "TOY-006" and len(rows(repository)) == 9


WANDB_RUN = {
    "name": "brisk-sea-1", "state": "finished", "config": {"lr": {"value": 0.1}, "seed": 1, "betas": [0.9, 0.95]},
    "summary": {"time_s": 2.5, "_step": 10},
}  # fmt: skip
AGENTS_LOG = """{"type":"config","name":"sort","metricName":"time_s","bestDirection":"lower"}
{"run":1,"commit":"abc1234","metric":15.5,"metrics":{"compile_s":4.2},"status":"keep","description":"baseline"}
not json
[1]
{"run":2,"run":3}
{"run":2,"metric":"slow","status":"discard"}
{"run":3,"metric":NaN,"status":"discard","description":"diverged"}
"""


def test_the_logs_that_people_keep_are_read(repository: Repository) -> None:
    """Exports of W&B as CSV and as JSON, and an agent's JSON lines; a row that can't be read is named by its line."""
    header, two = '"Name","State","Notes","lr","time_s"', '"run, one","finished","two\nlines","0.1","2.5"'
    export = f'{header}\n{two}\n"b","crashed","","0.2",""\n'
    assert adopt(repository, b"\xef\xbb\xbf" + export.encode(), "wandb.csv")[0] == 0
    assert adopt(repository, json.dumps([WANDB_RUN]), "wandb.json")[0] == 0
    code, told = adopt(repository, AGENTS_LOG, "autoresearch.jsonl")
    assert code == 0
    assert rows(repository) == [
        {
            "fields": {"Name": "run, one", "lr": "0.1"}, "metrics": {"time_s": 2.5}, "outcome": "finished",
            "note": "two\nlines",
        },
        {"fields": {"Name": "b", "lr": "0.2"}, "outcome": "crashed"},
        {
            "fields": {"name": "brisk-sea-1", "lr": 0.1, "seed": 1, "betas": "[0.9, 0.95]", "_step": 10},
            "metrics": {"time_s": 2.5}, "outcome": "finished",
        },
        {
            "fields": {"run": 1, "commit": "abc1234", "compile_s": 4.2}, "metrics": {"time_s": 15.5}, "outcome": "keep",
            "note": "baseline",
        },
        {"fields": {"run": 3, "time_s": "nan"}, "outcome": "discard", "note": "diverged"},
    ]  # fmt: skip
    for line, why in {3: "it is no JSON", 4: "it is no object", 5: "it is no JSON (it names 'run' twice)"}.items():
        assert f"not read: line {line}: {why}" in told
    assert "not read: line 6: time_s is 'slow', expected a number" in told
    assert "4 could not be read" in repository.logbook and "line 6: time_s is" in repository.logbook


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"time_s,lr\n1,\xe9\n", "is no UTF-8 text (byte 0xe9 at 12): save it as UTF-8."),
        ("time_s\n1\n".encode("utf-16"), "is no UTF-8 text (byte 0xff at 0)"),
        ("lr,time_s,lr\n1,2,3\n", "has two columns called 'lr': expected a name of its own for each."),
        ('time_s,note\n1,"open\n2,b\n', "can't be read as a table from line 3 on"),
        ("loss,lr\n1,2\n", "has no column that is called as a metric of toy (time_s): its columns are loss, lr."),
        ("time_s\nfast\n", "its columns are none (line 2: time_s is 'fast', expected a number)"),
        ("", "its columns are none (it has no row)"),
        ("[{]", "is no JSON that can be read"),
        ("[" * 100_000, "is no JSON that can be read"),
        ("time_s\n" + "1\n" * 100_000, f"has more than {MOST_ROWS} rows"),
        ("time_s\n" + "1" * 6_000_000, "has more than 5000000 bytes"),
    ],
)
def test_what_is_no_log_is_refused_in_one_sentence(repository: Repository, text: str | bytes, told: str) -> None:
    code, output = adopt(repository, text, "given")
    assert code == 1 and output.count("\n") == 1 and told in output, output[-300:]
    assert rows(repository) == []


def test_odd_numbers_and_secrets_stay_text(repository: Repository) -> None:
    """What no record can hold as a number is a field's text; what looks like a secret is redacted, and given again adds
    nothing; many rows that can't be read are counted."""
    odd = f"time_s,seed,key\nnan,1e999,a\n1e200,{'9' * 400},ghp_{'aB3' * 12}\n-inf,2,c\n" + "1\n" * 30
    code, told = adopt(repository, odd, "odd.csv")
    assert code == 0 and told.count("not read: line") == 10 and "not read: and 20 more" in told
    assert all("metrics" not in row for row in rows(repository)) and len(rows(repository)) == 3
    assert "ghp_" not in repository.logbook + json.dumps(rows(repository))
    assert "nothing new" in adopt(repository, odd, "odd.csv")[1]
    assert adopt(repository, json.dumps([{"time_s": 10**400, "n": 10**400, "x": math.inf}]), "odd.json")[0] == 0
    assert rows(repository)[-1]["fields"] == {"time_s": str(10**400), "n": str(10**400), "x": "inf"}


def test_an_entry_of_many_rows_is_bounded(repository: Repository) -> None:
    """The logbook shows the first ones, and where the others are."""
    table = "time_s,lr\n" + "".join(f"{1 + number / 7},{number}\n" for number in range(300))
    assert adopt(repository, table, "sweep.csv")[0] == 0
    assert "280 more rows are in [TOY-002.jsonl](toy/TOY-002.jsonl)." in repository.logbook
    assert len(repository.logbook) < 8_000 and len(rows(repository)) == 300
