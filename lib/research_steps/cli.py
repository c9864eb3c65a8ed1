"""The command `research`: parse, call, print. What it reads loads no Marin, JAX or cloud library."""

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import wraps
from typing import Any

import click

from research_steps.errors import ResearchError, UsageError
from research_steps.git import Checkout
from research_steps.journal import Journal
from research_steps.record import EntryRecord, InterruptedRecord, IssueLink, TrialRecord
from research_steps.run import store_url
from research_steps.series import check_topic
from research_steps.store import open_store

as_json = click.option("--json", "json_output", is_flag=True, help="Print one JSON document instead of text.")
in_store = click.option("--prefix", help="The store. Default: MARIN_PREFIX, else local_store/ in the checkout.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="research-steps")
def main() -> None:
    """The record of Marin research threads: what is known, what is open, and whether it is whole.

    Run inside the checkout that holds .agents/logbooks/.
    """


def command(function: Callable[..., Any]) -> click.Command:
    @wraps(function)
    def wrapped(*arguments: Any, **options: Any) -> None:
        try:
            function(*arguments, **options)
        except ResearchError as error:
            click.echo(f"error: {error}", err=True)
            sys.exit(1)

    return main.command()(wrapped)


@command
@click.argument("topic", required=False)
@in_store
@as_json
def status(topic: str | None, prefix: str | None, json_output: bool) -> None:
    """What each series holds, what is running, and what was left open.

    An attempt is orphaned when its process is gone or its lease ran out; running the thread again ends it as
    interrupted and goes on.
    """
    checkout = Checkout.find()
    found = [_status(checkout, name, prefix) for name in _topics(checkout, topic, prefix)]
    if json_output:
        _print_json(found)
        return
    for series in found:
        click.echo(f"{series['topic']}  (store: {series['store']})")
        counts = [f"{series['entries']} entries, {series['trials']} trials"]
        counts += [f"{series[name]} {name}" for name in ("failed", "interrupted", "late") if series[name]]
        click.echo(f"  {', '.join(counts)}")
        click.echo(f"  issue: {series['issue']}")
        for attempt in series["open"]:
            state = "orphaned" if attempt["orphaned"] else "running"
            where = f"process {attempt['pid']} on {attempt['host']}"
            click.echo(f"  {state}: {attempt['id']} {attempt['label']}, {where}, since {attempt['started_at']}")
        for id in series["unpublished"]:
            click.echo(f"  not in the logbook yet: {id}; run 'research sync {series['topic']}'")
        for problem in series["problems"]:
            click.echo(f"  problem: {problem}")
    if not found:
        click.echo("No series here: no logbook in .agents/logbooks/ and no journal in the store.")


@command
@click.argument("topic")
@click.option("--branch", default="", help="The research branch. Default: research/TOPIC; '.' is the one checked out.")
@click.option("--carry-changes", is_flag=True, help="Take uncommitted changes along to the branch.")
@click.option("--issue", type=click.IntRange(min=1), help="Take this issue of the repository.")
@click.option("--create-issue", is_flag=True, help="Make a public issue from the template, without asking.")
@click.option("--repository", default="", help="owner/name. Default: GITHUB_REPOSITORY, else the remote 'origin'.")
@in_store
@as_json
def kickoff(
    topic: str,
    branch: str,
    carry_changes: bool,
    issue: int | None,
    create_issue: bool,
    repository: str,
    prefix: str | None,
    json_output: bool,
) -> None:
    """Start the series that experiments/TOPIC declares: branch, logbook, issue, W&B project, and its first entry.

    Without an issue, .agents/issues/TOPIC.md stands for it until 'research sync TOPIC --issue N'. May be repeated.
    """
    from research_steps.kickoff import IssueRequest, link_issue, load_series, take_branch
    from research_steps.notes import Desk
    from research_steps.sinks.wandb import check_project, project_of

    checkout = Checkout.find()
    series = load_series(checkout, check_topic(topic))
    asks = sys.stdin.isatty() and not json_output
    name = take_branch(
        checkout, topic, branch, lambda to: carry_changes or (asks and click.confirm(f"Take the changes along to {to}?"))
    )
    journal = Journal(open_store(store_url(checkout, prefix)), topic)
    check_project(journal, series)
    journal.declare(series)
    open_question = issue is None and not create_issue and not series.private
    if open_question and asks and journal.decided("issue", IssueLink) is None:
        create_issue = click.confirm("Make a public issue for it?")
    link = link_issue(checkout, journal, series, IssueRequest(issue, create_issue, repository))
    entry = Desk(checkout, journal, series).kickoff(name, project_of(journal, series))
    found = {"topic": topic, "branch": name, "issue": link.url if link else None, "entry": entry.record.id}
    if not json_output:
        click.echo(f"{topic}: on branch {name}, kickoff is {entry.record.id}")
        where = link.url if link else "none, the series is private" if series.private else f".agents/issues/{topic}.md"
        click.echo(f"{topic}: the issue is {where}")
    _publish(checkout, journal, found, json_output)


@command
@click.argument("topic")
@click.argument("decision")
@click.option("--evidence", multiple=True, metavar="ID", help="A record that it rests on, such as MOE-HC-003.05.")
@click.option("--owner", default="", help="Who answers for it. Default: who runs this.")
@click.option("--scope", is_flag=True, help="It changes the scope of the series.")
@in_store
@as_json
def decide(
    topic: str, decision: str, evidence: tuple[str, ...], owner: str, scope: bool, prefix: str | None, json_output: bool
) -> None:
    """Record a decision, with its evidence and owner: an entry, a comment and a line of the decision log."""
    from research_steps.notes import Desk

    checkout = Checkout.find()
    journal = Journal(open_store(store_url(checkout, prefix)), check_topic(topic))
    entry = Desk(checkout, journal, journal.series()).decide(decision, evidence, owner, scope)
    if not json_output:
        click.echo(f"{entry.record.id}: {entry.record.label}")
    _publish(checkout, journal, {"topic": topic, "entry": entry.record.id}, json_output)


@command
@click.argument("topic")
@click.option("--worked", default="", help="What worked.")
@click.option("--did-not", default="", help="What did not.")
@click.option("--limitations", default="", help="What the conclusion does not cover.")
@click.option("--next", "next_steps", multiple=True, help="A next step; once for each, in order.")
@click.option("--conclusion", default="", help="What is now known.")
@click.option("--production-pr", default="", help="The pull request that came of it.")
@in_store
@as_json
def finish(topic: str, prefix: str | None, json_output: bool, **parts: Any) -> None:
    """Write the final summary, as the last entry and on the issue, and close the issue.

    Refused while a part is missing: the text parts, a sealed snapshot, a measured baseline, the end of what runs.
    """
    from research_steps.notes import Desk

    checkout = Checkout.find()
    journal = Journal(open_store(store_url(checkout, prefix)), check_topic(topic))
    entry = Desk(checkout, journal, journal.series()).finish(**parts)
    if not json_output:
        click.echo(f"{entry.record.id}: {entry.record.label}")
    _publish(checkout, journal, {"topic": topic, "entry": entry.record.id}, json_output)


@command
@click.argument("topic")
@click.option("--issue", type=click.IntRange(min=1), help="Link this issue, and post everything on it, in order.")
@click.option("--repository", default="", help="owner/name of the issue. Default: as for kickoff.")
@in_store
@as_json
def sync(topic: str, issue: int | None, repository: str, prefix: str | None, json_output: bool) -> None:
    """Bring logbook, issue and W&B up to date with the journal, from any checkout.

    After a merge with conflicts the logbook is rebuilt first, from the whole entries of both sides.
    """
    from research_steps.kickoff import IssueRequest, link_issue
    from research_steps.sinks.logbook import path_of, rebuild

    checkout = Checkout.find()
    journal = Journal(open_store(store_url(checkout, prefix)), check_topic(topic))
    rebuilt = path_of(checkout, topic).exists() and rebuild(checkout, topic)
    found = {"topic": topic, "rebuilt": rebuilt}
    if rebuilt and not json_output:
        click.echo(f"{topic}: rebuilt from the whole entries of both sides of the merge")
    # A merge can be mended without the store that the entries came from.
    if not rebuilt or journal.store.read(f"journal/{topic}/series.json") is not None:
        if issue is not None:
            link_issue(checkout, journal, journal.series(), IssueRequest(issue, repository=repository))
        _publish(checkout, journal, found, json_output)
    elif json_output:
        _print_json(found)


@command
@click.argument("topic")
@in_store
@as_json
def verify(topic: str, prefix: str | None, json_output: bool) -> None:
    """Check that the logbook's entries, their records and the journal agree; exits with 1 and names what does not.

    A cut-off end of the logbook can't be seen here: nothing after it says that it was there.
    """
    from research_steps.sinks.logbook import verify as check

    checkout = Checkout.find()
    journal = Journal(open_store(store_url(checkout, prefix)), check_topic(topic))
    count, problems = check(checkout, topic, journal)
    if json_output:
        _print_json({"entries": count, "problems": problems})
    else:
        for problem in problems:
            click.echo(problem)
        click.echo(f"{topic}: {count} entries, {len(problems) or 'no'} problems")
    if problems:
        sys.exit(1)


@command
@click.argument("topic")
@click.option("--id-prefix", required=True, help="The series' experiment ID prefix, such as MOE-HC.")
@as_json
def adopt(topic: str, id_prefix: str, json_output: bool) -> None:
    """Have entries follow at the end of .agents/logbooks/TOPIC.md, which people wrote; no byte of it changes."""
    from research_steps.sinks.logbook import adopt as take
    from research_steps.sinks.logbook import numbers_used

    checkout = Checkout.find()
    size = take(checkout, check_topic(topic), id_prefix)
    used = sorted(numbers_used(checkout, topic, id_prefix))
    if json_output:
        _print_json({"topic": topic, "bytes_kept": size, "numbers_used": used})
        return
    click.echo(f"{topic}: adopted, {size} bytes stay as they were")
    if used:
        click.echo(f"{id_prefix} numbers up to {used[-1]} are used in its headings; new entries continue after them")


@command
@click.argument("id")
@click.option("--topic", help="The series. Default: every series of this checkout is searched.")
@in_store
@as_json
def show(id: str, topic: str | None, prefix: str | None, json_output: bool) -> None:
    """Every record with an experiment ID, such as MOE-HC-007 or MOE-HC-007.03, with its hash."""
    records = _find(id, topic, prefix)
    if json_output:
        _print_json([{"sha256": stored.sha256, **json.loads(stored.line)} for stored in records])
        return
    for stored in records:
        for line in _described(stored.record):
            click.echo(line)
        click.echo(f"  sha256 {stored.sha256}")


@command
@click.argument("first")
@click.argument("second")
@click.option("--topic", help="The series. Default: every series of this checkout is searched.")
@in_store
@as_json
def compare(first: str, second: str, topic: str | None, prefix: str | None, json_output: bool) -> None:
    """Two trials side by side: what differs between them, and their metrics.

    The quotient is of two medians from different processes; ratios taken in pairs stand in the trials' own rows.
    """
    from research_steps.comparison import medians
    from research_steps.config import differences

    one, other = _trial(first, topic, prefix), _trial(second, topic, prefix)
    differ: dict[str, tuple[Any, Any]] = dict(differences(one.config, other.config))
    mine, others = one.provenance, other.provenance
    pairs = {
        "baseline case": (one.baseline_config, other.baseline_config),
        "code": (one.code[:12], other.code[:12]),
        "device class": (one.device_class, other.device_class),
        "commit": (mine.commit, others.commit),
        "patch": (mine.patch, others.patch),
        **{name: (mine.packages.get(name), others.packages.get(name)) for name in {**mine.packages, **others.packages}},
        **{name: (mine.env.get(name), others.env.get(name)) for name in {**mine.env, **others.env}},
    }
    differ |= {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
    values = [medians(trial.samples.candidate) if trial.samples else {} for trial in (one, other)]
    metrics = {name: (values[0].get(name), values[1].get(name)) for name in {**values[0], **values[1]}}
    if json_output:
        _print_json({"differences": differ, "metrics": metrics, "status": [one.status, other.status]})
        return
    click.echo(f"{one.id} {one.label} ({one.status})  |  {other.id} {other.label} ({other.status})")
    for name, (left, right) in differ.items():
        click.echo(f"  differs: {name}: {left}  |  {right}")
    for name, (was, now) in metrics.items():
        quotient = f"  quotient {was / now:.3f}" if was is not None and now else ""
        click.echo(f"  {name}: {was}  |  {now}{quotient}")


def _publish(checkout: Checkout, journal: Journal, found: dict[str, Any], json_output: bool) -> None:
    """One pass over all sinks, told; exits with 1 when something is left to publish."""
    from research_steps.publish import publish, sinks_of

    published = publish(journal, sinks_of(checkout, journal, journal.series()))
    if json_output:
        _print_json({**found, "done": [asdict(done) for done in published.done], "problems": published.problems})
    else:
        for done in published.done:
            click.echo(f"{done.id}: {done.what}")
        if not published.done:
            click.echo(f"{journal.topic}: nothing new")
        for problem in published.problems:
            click.echo(f"not published: {problem}", err=True)
    if published.problems:
        sys.exit(1)


def _topics(checkout: Checkout, topic: str | None, prefix: str | None) -> list[str]:
    if topic is not None:
        return [check_topic(topic)]
    store = open_store(store_url(checkout, prefix))
    logbooks = {path.stem for path in checkout.logbooks.glob("*.md")}
    return sorted(logbooks | {name.rsplit("/", 1)[-1] for name in store.names("journal")})


def _status(checkout: Checkout, topic: str, prefix: str | None) -> dict[str, Any]:
    from research_steps.sinks import logbook, logbook_file

    journal = Journal(open_store(store_url(checkout, prefix)), topic)
    path = logbook.path_of(checkout, topic)
    found = journal.scan(path.with_suffix(""))
    data = path.read_bytes() if path.is_file() else b""
    shown = logbook_file.parse(data).records
    standing = [stored for stored in found.entries.values() if not stored.record.late]
    trials = [stored.record for stored in found.trials.values()]
    everything: list[Any] = [*found.entries.values(), *found.trials.values(), *found.interrupted.values()]
    conflicts = logbook_file.conflicts(data)
    link = journal.decided("issue", IssueLink)
    return {
        "topic": topic,
        "store": journal.store.url,
        "issue": link.url if link else f".agents/issues/{topic}.md",
        "entries": len(standing),
        "trials": sum(not trial.late for trial in trials),
        "failed": sum(trial.status == "failed" and not trial.late for trial in trials),
        "interrupted": len(found.interrupted),
        "late": sum(stored.record.late for stored in everything),
        "open": [
            {
                "id": attempt.intent.id,
                "label": attempt.intent.label,
                "orphaned": attempt.orphaned(),
                "host": attempt.intent.owner.host,
                "pid": attempt.intent.owner.pid,
                "started_at": attempt.intent.started_at,
            }
            for attempt in found.open
        ],
        "unpublished": sorted(
            stored.record.id for stored in standing if stored.sha256 not in shown and not stored.record.private
        ),
        "problems": found.problems
        + ([f"{path} has conflict markers; run 'research sync {topic}'"] if conflicts else []),
    }


def _find(id: str, topic: str | None, prefix: str | None) -> list[Any]:
    checkout = Checkout.find()
    found = []
    for name in _topics(checkout, topic, prefix):
        journal = Journal(open_store(store_url(checkout, prefix)), name)
        found += journal.scan(checkout.logbooks / name).find(id)
    if not found:
        raise UsageError(
            f"No record has the ID {id!r}: expected one such as MOE-HC-007; 'research status' tells what is here."
        )
    return found


def _trial(id: str, topic: str | None, prefix: str | None) -> TrialRecord:
    trials = [stored.record for stored in _find(id, topic, prefix) if isinstance(stored.record, TrialRecord)]
    if not trials:
        raise UsageError(f"{id} is no trial: expected the ID of a row, such as {id}.01.")
    return trials[-1]


def _described(record: EntryRecord | TrialRecord | InterruptedRecord) -> list[str]:
    lines = [f"{record.id} {record.label}: {type(record).__name__.removesuffix('Record').lower()}, {record.status}"]
    lines.append(f"  {record.started_at} to {record.finished_at}{', late' if record.late else ''}")
    if isinstance(record, InterruptedRecord):
        return [*lines, f"  {record.reason}"]
    lines.append(f"  {record.provenance.command}  at {record.provenance.commit} on {record.provenance.host}")
    if isinstance(record, EntryRecord):
        lines += [f"  {text}" for text in (record.result, record.interpretation, record.next_action) if text]
        lines += [f"  {row.trial.id} {row.changes}: {row.status} {row.values} {row.note}" for row in record.rows]
    else:
        lines.append(f"  {record.config}")
        lines += [
            f"  {name}: {ratio.median:.4f} × baseline, {ratio.pairs} pairs" for name, ratio in record.ratios.items()
        ]
        lines += [f"  contended: {record.contended}"] if record.contended else []
    if record.error is not None:
        lines += [f"  {record.error.type}: {record.error.message}", *(f"    {frame}" for frame in record.error.frames)]
        lines += [f"    | {line}" for line in record.error.output_tail.splitlines()[-20:]]
    return lines


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2))
