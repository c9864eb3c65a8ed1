"""The binding to Marin, which everybody else takes from here. Another generation of Marin is another file beside
`executor_steps` with these names, and the choice between the two here.
"""

from research_steps.thread.marin.executor_steps import (
    ExecutorPlan,
    Recorded,
    check,
    dispatch,
    end_jobs,
    has_engine,
    here,
    make_step,
    plan,
    read_artifact,
    unwrap,
    using,
    version,
    wrap,
)

__all__ = [
    "ExecutorPlan",
    "Recorded",
    "check",
    "dispatch",
    "end_jobs",
    "has_engine",
    "here",
    "make_step",
    "plan",
    "read_artifact",
    "unwrap",
    "using",
    "version",
    "wrap",
]
