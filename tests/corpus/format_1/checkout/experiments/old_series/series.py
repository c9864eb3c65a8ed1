"""The series, for each of its threads."""

from research_steps import Hypothesis, Metric, Series

series = Series(
    topic="old_series",
    prefix="OLD",
    goal="Add numbers at less cost.",
    metrics=(Metric("cost", "min", timed=False), Metric("time_s", "min", min_effect=0.1)),
    hypotheses=(Hypothesis("H1", "less work costs less"), Hypothesis("H2", "blocks cost less than one pass")),
    tags=("format-1", "regression"),
    motivation="Later code has to read what this code wrote.",
    problem="A sum in one pass.",
    baseline_case="2000 numbers in one pass",
    stop="when half of the cost is saved",
    matrix=("work: 1000, 13", "mode: folded, blocked"),
    code_paths=("experiments/old_series/measure.py",),
    references=("https://example.org/sums",),
    variants=("size",),
    milestones=("decision", "rebase", "retraction", "seal", "reproduction", "finish"),
    max_pairs=4,
    sampling_s=0.05,
    time_limit_s=60,
    contention_wait_s=0,
    floor_processes=2,
)
