"""Before a result is posted: can it be made again, is it what was measured, and is it written where it can be found?"""

from collections.abc import Iterator

from research_steps.actions.check.reading import AGAIN, CheckLine, Facts, line
from research_steps.evidence.claims import incomparable
from research_steps.evidence.standing import DECIDED
from research_steps.evidence.statistics import medians
from research_steps.publish.logbook import format as logbook_format
from research_steps.publish.logbook.surface import path_of, verify
from research_steps.records.model import EntryRecord
from research_steps.records.step_kinds import Sweep

GROUP = "before posting"


def _command(known: Facts) -> CheckLine:
    wrong = []
    for stored in known.measured:
        made = stored.record.provenance
        folder = path_of(known.checkout, known.topic).with_suffix("")
        if made.commit is None:
            wrong.append(f"{stored.record.id} has no commit")
        elif made.patch_note.startswith("withheld"):
            wrong.append(f"the patch of {stored.record.id} was withheld for a secret")
        elif made.patch and not (folder / f"{made.patch}.patch").exists() and known.journal.patch(made.patch) is None:
            wrong.append(f"the patch of {stored.record.id} is gone")
    mend = f"commit the code, without any secret; {AGAIN}"
    return line(GROUP, "command reproducible", known.measured, wrong, mend)


def _config(known: Facts) -> CheckLine:
    wrong = []
    # What is reproduced stands in the tag.
    explicit = {"sweep": ("measure", "baseline_case", "points"), "reproduction": ("tag", "commands")}
    for stored in known.measured:
        wanted = explicit.get(stored.record.step, ("measure", "baseline_case"))
        missing = [name for name in wanted if name not in stored.record.config]
        wrong += [f"{stored.record.id} lacks {', '.join(missing)}"] if missing else []
    mend = f"measure with the builders of steps; {AGAIN}"
    return line(GROUP, "shapes and configs explicit", known.measured, wrong, mend)


def _comparable(known: Facts) -> CheckLine:
    wrong = []
    for stored in known.measured:
        held = (known.found.trials.get(row.trial.sha256) for row in stored.record.rows)
        trials = [trial.record for trial in held if trial is not None and trial.record.status == "ok"]
        differ = {name for trial in trials[1:] for name in incomparable(trial, trials[0])}
        wrong += [f"trials of {stored.record.id} differ in {', '.join(sorted(differ))}"] if differ else []
    for claim in known.claims:
        if claim.verdict == "not comparable":
            wrong.append(f"{claim.metric} of {', '.join(ref.id for ref in claim.trials)} can't be compared: {claim.why}")
    mend = f"measure candidate and baseline on one machine, with the same code and libraries; {AGAIN}"
    return line(GROUP, "apples to apples", known.measured, wrong, mend)


def _undisturbed(known: Facts) -> CheckLine:
    timed = {metric.name for metric in known.series.metrics if metric.timed}
    claims = [claim for claim in known.claims if claim.metric in timed and claim.verdict in DECIDED]
    wrong = []
    for claim in claims:
        held = (known.found.trials.get(ref.sha256) for ref in claim.trials)
        trials = [trial.record for trial in held if trial is not None]
        if trials and all(trial.contended for trial in trials):
            wrong.append(f"{claim.metric} of {', '.join(trial.id for trial in trials)}")
    mend = "run the thread again with '--retry contended' while the machine is quiet"
    return line(GROUP, "no claim from contended trials", claims, wrong, mend)


def _snapshot(known: Facts) -> CheckLine:
    # What is private is not sealed.
    newest = [stored for stored in known.of_step("interpret")[-1:] if stored in known.public]
    waiting = [stored for stored in known.of_step("seal") if stored not in known.seals]
    wrong = [f"{stored.record.id} is in no sealed snapshot" for stored in newest if stored.sha256 not in known.sealed]
    wrong += [f"{stored.record.id} waits for its tag" for stored in waiting]
    mend = f"run the thread with '--seal true'; 'research sync {known.topic}' tells what holds up one that waits"
    return line(GROUP, "snapshot exists", [*newest, *waiting], wrong, mend)


def _written(known: Facts) -> CheckLine:
    wrong = [stored.record.id for stored in known.public if stored.sha256 not in known.shown]
    return line(GROUP, "written in the logbook", known.public, wrong, f"research sync {known.topic}")


def _linked(known: Facts) -> CheckLine:
    linked = known.issue is not None or f".agents/logbooks/{known.topic}.md" in known.issue_file
    wrong = [] if linked or not known.public else ["no issue on GitHub is linked, and none in .agents/issues/ names it"]
    mend = f"'research sync {known.topic}' writes the one in .agents/issues/, with '--issue NUMBER' it links another"
    return line(GROUP, "logbook linked from the issue", known.public, wrong, mend)


def _extracted(known: Facts) -> CheckLine:
    wrong = [
        f"{stored.record.id}: {what}" for stored in known.measured for what in _badly_extracted(known, stored.record)
    ]
    for file in sorted(path_of(known.checkout, known.topic).with_suffix("").glob("*.jsonl")):
        lines = logbook_format.record_lines(file.read_bytes())
        wrong += [f"{file.name} holds a record twice"] if len(set(lines)) < len(lines) else []
    return line(GROUP, "extraction validated", known.measured, wrong, f"name each point of a sweep once; {AGAIN}")


def _badly_extracted(known: Facts, record: EntryRecord) -> Iterator[str]:
    details = record.details
    if isinstance(details, Sweep) and details.points and len(details.points) != len(record.rows):
        yield f"{len(record.rows)} rows for {len(details.points)} points"
    if len({row.trial.sha256 for row in record.rows}) < len(record.rows):
        yield "two rows show one trial"
    for row in record.rows:
        trial = known.found.trials.get(row.trial.sha256)
        if trial is not None and row.values != medians(trial.record.samples.candidate if trial.record.samples else {}):
            yield f"the row of {row.trial.id} does not show the medians of its samples"


def _whole(known: Facts) -> CheckLine:
    wrong = known.found.problems
    if known.logbook:
        wrong = verify(known.checkout, known.topic, known.journal)[1]
    mend = (
        f"'research verify {known.topic}' tells all of it; restore the file with git, then 'research sync {known.topic}'"
    )
    return line(GROUP, "logbook, records and journal agree", known.entries, wrong, mend)


LINES = (_command, _config, _comparable, _undisturbed, _snapshot, _written, _linked, _extracted, _whole)
