"""The rules of a thread, held before anything is measured: one axis first, and a baseline that stays where it is."""

from typing import Any

from research_steps.errors import UsageError
from research_steps.record import EntryRecord
from research_steps.steps.configs import StepConfig
from research_steps.steps.session import Session


def check(session: Session, config: StepConfig) -> list[str]:
    """Raises UsageError when a step breaks a rule; returns what was forced."""
    if config.kind == "baseline":
        _check_baseline(session, config)
    if config.kind == "interact":
        return _check_axes(session, config)
    return []


def _check_baseline(session: Session, config: StepConfig) -> None:
    """A baseline case, once measured under its label, moves only by a rebase."""
    case = config.case
    fixed: dict[str, Any] | None = None
    since = ""
    for entry in _entries(session):
        if entry.step == "baseline" and entry.label == config.label:
            fixed, since = entry.config["baseline_case"], entry.id
        elif entry.step == "rebase" and entry.config["baseline"] == config.label:
            fixed, since = entry.config["to"], entry.id
    if fixed is not None and fixed != case:
        moved = ", ".join(f"{name}={fixed.get(name)}" for name in {**fixed, **case} if fixed.get(name) != case.get(name))
        raise UsageError(
            f"The baseline {config.label!r} is fixed since {since} with {moved}; the thread gives another case. Move it "
            "with 'research rebase' and replicated evidence, or give the other case a label of its own."
        )


def _check_axes(session: Session, config: StepConfig) -> list[str]:
    """Axes that come without a sweep must have been swept alone before."""
    swept = {
        entry.config.get("axis")
        for entry in _entries(session)
        if entry.step == "sweep" and entry.config.get("baseline_case") == config.case
    }
    missing = [axis for axis, _ in config.axes if axis not in swept]
    if not missing:
        return []
    told = f"not swept alone before: {', '.join(missing)}"
    if session.force:
        return [told]
    raise UsageError(
        f"The interaction {config.label!r} takes axes that were {told}. Sweep each first with steps.sweep, so that its "
        "own effect is known, or run with --force true, which is recorded."
    )


def _entries(session: Session) -> list[EntryRecord]:
    found = session.journal.published(session.repository).entries.values()
    standing = [stored.record for stored in found if stored.record.status == "ok" and not stored.record.late]
    return sorted(standing, key=lambda entry: (entry.finished_at, entry.id))
