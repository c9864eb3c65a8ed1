"""A series is refused with one sentence while it is being written, before anything is named after it."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from research_steps import Hypothesis, Metric, Series, UsageError
from research_steps.records.series import check_topic, format_id, trial_id


def series(**changes: Any) -> Series:
    given = {"topic": "moe_hc", "prefix": "MOE-HC", "goal": "less time", "metrics": (Metric("time_s", "min"),)}
    return Series(**{**given, **changes})


def refusal(act: Any) -> str:
    with pytest.raises(UsageError) as told:
        act()
    text = str(told.value)
    assert "\n" not in text
    assert len(text) < 400
    return text


BAD_TOPICS = [
    "", ".", "..", "../up", "a/b", "/etc", "a b", "Upper", "-leads", "_leads", "a\n", "a\x00", "é", "CON:", "a" * 200,
]  # fmt: skip


@pytest.mark.parametrize("topic", BAD_TOPICS, ids=lambda topic: repr(topic[:20]))
def test_a_topic_that_is_no_safe_file_name_is_refused(topic: str) -> None:
    """It names the logbook, the journal's folder and the tags."""
    text = refusal(lambda: series(topic=topic))
    assert text.startswith("Topic ")
    assert "expected lower-case letters, digits, _ and -, at most 64 characters, such as " in text
    usable = text.partition("such as ")[2].partition(";")[0]
    assert check_topic(usable) == usable
    assert ("(200 characters)" in text) == (len(topic) == 200)


@given(st.text(max_size=80))
def test_a_topic_that_is_taken_is_safe_everywhere(topic: str) -> None:
    """In a path, a git tag, a shell and an object's name."""
    try:
        check_topic(topic)
    except UsageError:
        return
    assert 0 < len(topic) <= 64
    assert set(topic) <= set("abcdefghijklmnopqrstuvwxyz0123456789_-")
    assert topic[0].isalnum()


@pytest.mark.parametrize("topic", ["a", "0", "moe_hc", "moe-hc-2", "a" * 64])
def test_an_ordinary_topic_is_taken(topic: str) -> None:
    assert series(topic=topic).topic == topic


@pytest.mark.parametrize("prefix", ["", "moe", "1A", "-A", "A-", "A B", "A/B", "A\n", "Ä", "A.B", "A" * 33])
def test_a_prefix_that_makes_no_experiment_id_is_refused(prefix: str) -> None:
    """IDs are found again in headings, tags and file names by their form."""
    text = refusal(lambda: series(prefix=prefix))
    assert repr(prefix) in text
    assert "expected capitals, digits and inner hyphens, at most 32 characters, such as " in text
    usable = text.partition("such as ")[2].removesuffix(".")
    assert series(prefix=usable).prefix == usable


@pytest.mark.parametrize(
    ("name", "usable"),
    [("exp2917.v2", "exp2917_v2"), ("ShampooMoE", "shampoomoe"), ("2026 dense/sparse", "2026_dense_sparse")],
)
def test_a_name_as_people_give_them_is_told_how_to_spell(name: str, usable: str) -> None:
    text = refusal(lambda: series(topic=name))
    assert f"such as {usable}; a logbook of that name is renamed with 'git mv' first." in text


@pytest.mark.parametrize("name", ["", "1st", "time s", "a\nb", "a|b", "é", "a" * 65, "_a"])
def test_a_metric_name_that_breaks_a_table_is_refused(name: str) -> None:
    text = refusal(lambda: Metric(name))
    assert "expected a letter, then letters, digits or _ . / -, at most 64 characters, such as time_s." in text


BAD = {
    "no metric": ({"metrics": ()}, "has no metric: give at least one, such as Metric('time_s', 'min')"),
    "a metric twice": ({"metrics": (Metric("a"), Metric("b"), Metric("a", "max"))}, "the metric 'a' twice"),
    "one metric, not in a tuple": ({"metrics": Metric("a")}, "expected a tuple of Metric"),
    "a metric as text": ({"metrics": ("time_s",)}, "metrics=('time_s',): expected a tuple of Metric"),
    "no metrics at all": ({"metrics": None}, "metrics=None: expected a tuple of Metric"),
    "a hypothesis twice": ({"hypotheses": (Hypothesis("H1", "a"), Hypothesis("H1", "b"))}, "hypothesis 'H1' twice"),
    "tags as one text": ({"tags": "moe"}, "tags='moe': expected a tuple of str"),
    "no pairs": ({"max_pairs": 0}, "max_pairs=0: expected a finite number above 0"),
    "negative time": ({"sampling_s": -1.0}, "sampling_s=-1.0: expected a finite number above 0"),
    "time that is no number": ({"time_limit_s": math.nan}, "time_limit_s=nan: expected a finite number above 0"),
    "endless time": ({"sampling_s": math.inf}, "sampling_s=inf: expected a finite number above 0"),
}


@pytest.mark.parametrize(("changes", "sentence"), BAD.values(), ids=BAD)
def test_a_series_that_can_not_work_is_refused(changes: dict[str, Any], sentence: str) -> None:
    """The sentence names the series, what it was given, and what was expected."""
    text = refusal(lambda: series(**changes))
    assert text.startswith("Series 'moe_hc' ")
    assert sentence in text


def test_a_direction_or_hypothesis_id_that_means_nothing_is_refused() -> None:
    """'lower' is not a direction; hypotheses are counted from H1."""
    assert "'lower': expected 'min', 'max' or 'target'" in refusal(lambda: Metric("time_s", "lower"))  # type: ignore[arg-type]
    for id in ("1", "H0", "h1", "H01", "H1 "):
        assert "expected H1, H2" in refusal(lambda id=id: Hypothesis(id, "text"))


def test_lists_are_taken_and_kept_as_tuples() -> None:
    """What a thread declares can't be changed by appending to a list later."""
    tags = ["a", "b"]
    declared = series(metrics=[Metric("a"), Metric("b")], tags=tags)
    tags.append("c")
    assert declared.tags == ("a", "b")
    assert declared.primary == Metric("a")


def test_experiment_ids_sort_and_grow() -> None:
    """Three digits, more when they are needed; a sweep's trials are counted below their sweep."""
    assert [format_id("MOE-HC", number) for number in (1, 42, 1234)] == ["MOE-HC-001", "MOE-HC-042", "MOE-HC-1234"]
    assert trial_id("MOE-HC-007", 3) == "MOE-HC-007.03"
