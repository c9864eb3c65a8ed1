"""`research_steps.load(topic)`: what a notebook gets of a thread that ran, and that it changes nothing."""

import sys
from pathlib import Path

import pytest
import research_steps
from research_steps import ResearchError, UsageError

from tests.support.dev_checkout import DevCheckout


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> DevCheckout:
    """A thread that has run: a baseline in three processes, a sweep of four with a failure, and what they say."""
    made = DevCheckout(tmp_path_factory.mktemp("notebook") / "checkout")
    made.ok()
    return made


@pytest.fixture
def notebook(ran: DevCheckout, monkeypatch: pytest.MonkeyPatch) -> DevCheckout:
    """The same, with this process in its checkout as a notebook is."""
    monkeypatch.chdir(ran.root)
    return ran


def test_a_notebook_gets_series_records_claims_and_state(notebook: DevCheckout) -> None:
    """The records as they are, and what follows from them as every other surface tells it; no file changes."""
    files = {path: path.read_bytes() for path in notebook.root.rglob("*") if path.is_file()}
    thread = research_steps.load("toy")
    assert thread.series.primary.name == "cost"
    assert [entry.record.id for entry in thread.records.in_order] == ["TOY-001", "TOY-002", "TOY-003"]
    assert len(thread.records.trials) == 7
    assert thread.state.best is not None and thread.state.best.changes == {"work": 1000}
    assert thread.state.best in thread.claims
    assert thread.state.unpublished == ()
    assert {path: path.read_bytes() for path in notebook.root.rglob("*") if path.is_file()} == files


def test_a_notebook_gets_a_table_with_one_row_for_each_trial(notebook: DevCheckout) -> None:
    """Configuration, medians and ratios in columns of their own, failures with their reason."""
    frame = research_steps.load("toy").table().set_index("id")
    assert list(frame["entry"].unique()) == ["TOY-001", "TOY-002"]
    fast, failed = frame.loc["TOY-002.01"], frame.loc["TOY-002.04"]
    assert (fast["status"], fast["changes"], fast["config.work"], fast["replicate"]) == ("ok", "work=1000", 1000, 0)
    assert fast["metric.cost"] == pytest.approx(1000, rel=0.03)
    assert fast["ratio.cost"] == pytest.approx(0.5, rel=0.03)
    assert fast["ratio.cost.low"] <= fast["ratio.cost"] <= fast["ratio.cost.high"]
    assert (failed["status"], failed["error"]) == ("failed", "ValueError: no such kernel")
    assert frame["metric.cost"].isna().sum() == 1
    assert frame["started_at"].is_monotonic_increasing
    assert set(frame["commit"]) == {notebook.git("rev-parse", "HEAD").strip()}
    assert not frame["retracted"].any()


def test_a_table_without_pandas_says_how_to_get_it(notebook: DevCheckout, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything else is there without it."""
    monkeypatch.setitem(sys.modules, "pandas", None)
    thread = research_steps.load("toy")
    with pytest.raises(UsageError, match="pip install pandas"):
        thread.table()


def test_a_thread_that_is_not_here_is_said_in_a_sentence(notebook: DevCheckout, tmp_path: Path) -> None:
    """A misspelt topic, a topic that can be none."""
    with pytest.raises(ResearchError, match="holds no series 'tyo'"):
        research_steps.load("tyo")
    with pytest.raises(UsageError, match="Topic '\\.\\./toy' is not usable"):
        research_steps.load("../toy")
