"""Before a result is posted: can it be made again, is it what was measured, and is it written where it can be found?"""

from collections.abc import Iterator

from research_steps.actions.check.reading import AGAIN, CheckedThread, CheckLine, line
from research_steps.evidence.comparable import incomparable
from research_steps.evidence.effects import medians
from research_steps.evidence.standing import DECIDED
from research_steps.publish.logbook.format import record_lines
from research_steps.publish.logbook.verify import check
from research_steps.records.model import EntryRecord
from research_steps.records.step_kinds import Sweep

GROUP = "before posting"
# What the configuration of an entry has to say, by its step. What is reproduced stands in the tag; a command that was
# recorded is compared with no case, and its row says how it was configured.
_EXPLICIT = {
    "sweep": ("measure", "baseline_case", "points"),
    "reproduction": ("tag", "commands"),
    "dev": ("measure",),
}


def _command(thread: CheckedThread) -> CheckLine:
    beside, wrong = thread.files.beside, []
    for stored in thread.measured:
        made = stored.record.provenance
        if made.commit is None:
            wrong.append(f"{stored.record.id} has no commit")
        elif made.patch_note.startswith("withheld"):
            wrong.append(f"the patch of {stored.record.id} was withheld for a secret")
        elif not made.is_whole:
            wrong.append(f"the patch of {stored.record.id} is not whole ({made.patch_note})")
        elif made.patch and f"{made.patch}.patch" not in beside and thread.journal.patch(made.patch) is None:
            wrong.append(f"the patch of {stored.record.id} is gone")
    mend = f"commit the code, without any secret; {AGAIN}"
    return line(GROUP, "command reproducible", thread.measured, wrong, mend)


def _config(thread: CheckedThread) -> CheckLine:
    wrong = []
    for record in (stored.record for stored in thread.measured):
        missing = [
            part for part in _EXPLICIT.get(record.step, ("measure", "baseline_case")) if part not in record.config
        ]
        wrong += [f"{record.id} lacks {', '.join(missing)}"] if missing else []
    mend = f"measure with the builders of steps; {AGAIN}"
    return line(GROUP, "shapes and configs explicit", thread.measured, wrong, mend)


def _comparable(thread: CheckedThread) -> CheckLine:
    wrong = []
    for stored in thread.measured:
        measured = [trial.record for trial in thread.snapshot.trials_of(row.trial for row in stored.record.rows)]
        trials = [trial for trial in measured if trial.status == "ok"]
        differ = {name for trial in trials[1:] for name in incomparable(trial, trials[0])}
        wrong += [f"trials of {stored.record.id} differ in {', '.join(sorted(differ))}"] if differ else []
    for claim in thread.claims:
        if claim.verdict == "not comparable":
            wrong.append(f"{claim.metric} of {', '.join(ref.id for ref in claim.trials)} can't be compared: {claim.why}")
    mend = f"measure candidate and baseline on one machine, with the same code and libraries; {AGAIN}"
    return line(GROUP, "apples to apples", thread.measured, wrong, mend)


def _undisturbed(thread: CheckedThread) -> CheckLine:
    timed = {metric.name for metric in thread.series.metrics if metric.timed}
    claims = [claim for claim in thread.claims if claim.metric in timed and claim.verdict in DECIDED]
    wrong = []
    for claim in claims:
        trials = [trial.record for trial in thread.snapshot.trials_of(claim.trials)]
        if trials and all(trial.contended for trial in trials):
            wrong.append(f"{claim.metric} of {', '.join(trial.id for trial in trials)}")
    mend = "run the thread again with '--retry contended' while the machine is quiet"
    return line(GROUP, "no claim from contended trials", claims, wrong, mend)


def _snapshot(thread: CheckedThread) -> CheckLine:
    # What is private is not sealed.
    newest = [stored for stored in thread.of_step("interpret")[-1:] if stored in thread.public]
    wrong = [f"{stored.record.id} is in no sealed snapshot" for stored in newest if stored.sha256 not in thread.sealed]
    wrong += [f"{stored.record.id} waits for its tag" for stored in thread.waiting]
    mend = f"run the thread with '--seal true'; 'research sync {thread.topic}' tells what holds up one that waits"
    return line(GROUP, "snapshot exists", [*newest, *thread.waiting], wrong, mend)


def _written(thread: CheckedThread) -> CheckLine:
    wrong = [stored.record.id for stored in thread.public if stored.sha256 not in thread.shown]
    return line(GROUP, "written in the logbook", thread.public, wrong, f"research sync {thread.topic}")


def _linked(thread: CheckedThread) -> CheckLine:
    linked = thread.issue is not None or thread.place.kind == "none" or thread.place.name in thread.issue_file.body()
    wrong = [] if linked or not thread.public else ["no issue on GitHub is linked, and none in .agents/issues/ names it"]
    mend = f"'research sync {thread.topic}' writes the one in .agents/issues/, with '--issue NUMBER' it links another"
    return line(GROUP, "logbook linked from the issue", thread.public, wrong, mend)


def _extracted(thread: CheckedThread) -> CheckLine:
    records = [stored.record for stored in thread.measured]
    wrong = [f"{record.id}: {what}" for record in records for what in _badly_extracted(thread, record)]
    for id, records_by_hash in thread.files.lines.items():
        twice = len(record_lines(thread.files.beside[f"{id}.jsonl"])) > len(records_by_hash)
        wrong += [f"{id}.jsonl holds a record twice"] if twice else []
    return line(GROUP, "extraction validated", records, wrong, f"name each point of a sweep once; {AGAIN}")


def _badly_extracted(thread: CheckedThread, record: EntryRecord) -> Iterator[str]:
    details = record.details
    if isinstance(details, Sweep) and details.points and len(details.points) != len(record.rows):
        yield f"{len(record.rows)} rows for {len(details.points)} points"
    if len({row.trial.sha256 for row in record.rows}) < len(record.rows):
        yield "two rows show one trial"
    for row in record.rows:
        for trial in thread.snapshot.trials_of([row.trial]):
            if row.values != medians(trial.record.samples.candidate if trial.record.samples else {}):
                yield f"the row of {row.trial.id} does not show the medians of its samples"


def _whole(thread: CheckedThread) -> CheckLine:
    wrong = check(thread.files, thread.journal).problems if thread.files.logbook else thread.snapshot.problems
    mend = (
        f"'research verify {thread.topic}' tells all of it; restore the file with git, then 'research sync "
        f"{thread.topic}'"
    )
    return line(GROUP, "logbook, records and journal agree", thread.entries, wrong, mend)


LINES = (_command, _config, _comparable, _undisturbed, _snapshot, _written, _linked, _extracted, _whole)
