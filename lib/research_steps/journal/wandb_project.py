"""Where the W&B runs of a series go, and what they have in common. The project is decided once, because runs can't be
moved."""

import importlib.util
import os
import re

from research_steps.errors import UsageError
from research_steps.journal.journal import Journal
from research_steps.records.names import PROJECT
from research_steps.records.objects import IssueLink, Project
from research_steps.records.redaction import redact
from research_steps.records.series import Series
from research_steps.records.times import utc
from research_steps.records.wandb_names import accepted_tags, named


def project_of(journal: Journal, series: Series) -> str:
    """The W&B project of a series, decided for good now if it wasn't. Raises UsageError as `check_project` does."""
    decided = journal.decided("project", Project)
    if decided is not None:
        return decided.name
    wanted = Project(name=_checked(series, _named(journal, series) or series.topic), decided_at=utc())
    return journal.decide("project", wanted).name


def check_project(journal: Journal, series: Series) -> None:
    """Raise UsageError when the series names another project than was decided, or one that W&B would not take."""
    named = _named(journal, series)
    if named is None:
        return
    _checked(series, named)
    decided = journal.decided("project", Project)
    if decided is not None and decided.name != named:
        raise UsageError(
            f"Series {series.topic!r} names the W&B project {named!r}, but {decided.name!r} was decided at "
            f"{decided.decided_at}, and runs can't be moved: name {decided.name!r}, or start a series of another topic."
        )


def _named(journal: Journal, series: Series, below: frozenset[str] = frozenset()) -> str | None:
    """The project that a series asks for by name, or by its parent's; None when it takes its own topic."""
    if series.wandb_project or not series.parent or series.parent in below | {series.topic}:
        return series.wandb_project or None
    parent = Journal(journal.store, series.parent)
    declared = parent.declared()
    if declared is not None and declared.private:
        # Its name reaches no public surface, and nobody may look where its runs would be.
        return None
    decided = parent.decided("project", Project)
    if decided is not None:
        return decided.name
    return (_named(parent, declared, below | {series.topic}) if declared else None) or series.parent


def _checked(series: Series, name: str) -> str:
    """The name itself, once it is known to be one of a W&B project."""
    if not name.strip() or not re.fullmatch(PROJECT, name):
        raise UsageError(
            f"Series {series.topic!r} has the W&B project {name[:80]!r}: expected 1 to 128 characters on one "
            r"line, without any of /\#?%:."
        )
    return name


def is_installed() -> bool:
    # A folder of this name, which W&B makes wherever it is used, is a package without a file.
    spec = importlib.util.find_spec("wandb")
    return spec is not None and spec.origin is not None


def step_environment(journal: Journal, series: Series, id: str, label: str) -> dict[str, str]:
    """What the W&B runs that a step's trials start have in common, as variables; nothing where W&B is not used. Raises
    UsageError for a project that can't be had."""
    if not is_installed() or os.environ.get("WANDB_MODE") == "disabled":
        return {}
    link = journal.decided("issue", IssueLink)
    shared = series.without_secrets().shared_tags(link.number if link else None)
    # W&B splits at commas; such a tag is put on when the run's summary is.
    tags = [tag for tag in accepted_tags(shared) if "," not in tag]
    project = project_of(journal, series)
    return {"WANDB_PROJECT": project, "WANDB_RUN_GROUP": redact(named(id, label)), "WANDB_TAGS": ",".join(tags)}
