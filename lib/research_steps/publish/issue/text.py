"""What the experiment issue says, made from records: comments, the heartbeat, and the managed sections of the body.

Pure functions. Everything is written for a reader who knows Marin and not this thread, and text that comes from
measurements mentions nobody, links nothing and closes nothing.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import accumulate

from research_steps.evidence.claim_text import changes_text, verdict_text
from research_steps.evidence.standing import best, claims_in, on_primary, standing, together
from research_steps.evidence.state import ThreadState, numbers
from research_steps.evidence.statistics import ranked
from research_steps.journal.snapshot import Snapshot
from research_steps.publish import rendering, state_text
from research_steps.publish.issue.links import Links
from research_steps.publish.markdown import address, code, table, unlinked
from research_steps.publish.state_text import Words
from research_steps.records.conditions import conditions_at
from research_steps.records.encoding import Stored
from research_steps.records.model import Actor, Claim, EntryRecord, Row, TrialRecord
from research_steps.records.numbers import quantity
from research_steps.records.objects import Seal
from research_steps.records.series import Series
from research_steps.records.step_kinds import STEP_KINDS, Decision, Finish, Measurement

ROWS_SHOWN = 20
# Of the table at the head of the body.
TABLE_LINES = 10
# Commands, kinds of machines, environments.
FACTS_SHOWN = 10
LONGEST = 65_536
# What the lines above an update may take, its marker and its link in the logbook's chain.
_HEAD = 200
# Characters of one of the eight sections; the next where people's own text leaves less room.
SECTION_LENGTHS = (7_000, 3_000, 1_000, 300)
MANAGED = "rebuilt from records; write above or below it, what is in it is replaced"
# The sections of the body, in the order of the template.
SECTIONS = {
    "tldr": "TL;DR",
    "scope": "Scope",
    "baseline": "Current baseline",
    "decisions": "Decision log",
    "hypotheses": "Hypothesis queue",
    "negative": "Negative results index",
    "revisions": "Corrected and moved",
    "conclusion": "Conclusion",
    "links": "Links",
}
_NEWEST = ("decisions", "negative")
# Not over the beginning of another one: where people took out an end, what follows is theirs.
_MANAGED_SECTION = (
    r"(?ms)^<!-- research-steps section ({key})\b[^\n]*-->\r?$(?:(?!^<!-- research-steps section ).)*?"
    r"^<!-- research-steps end \1 -->"
)


def comment(
    record: EntryRecord,
    rests_on: Sequence[EntryRecord],
    baselines: Sequence[EntryRecord],
    series: Series,
    seal: Seal | None,
    links: Links,
    trials: Snapshot,
) -> str:
    """The update for one milestone. `rests_on` are the entries below it, oldest first; `baselines` what it is compared
    with; `seal` the snapshot that it makes or names. `trials` holds those of their rows that are known here."""
    commit = record.provenance.commit
    mark = marked_as(series, record.provenance.actor)
    lines = [
        f"{mark}Update: {record.id} {unlinked(record.label)}",
        "",
        f"_{unlinked(series.goal)}_ {_against(series, baselines)}",
        "",
        f"- Change: {_change(record)}",
        f"- Command: {code(record.provenance.command)}, commit {links.commit(commit) if commit else 'none'}",
        f"- Result delta: {'**failed**: ' if record.status == 'failed' else ''}{unlinked(record.result)}",
    ]
    if record.interpretation:
        lines.append(f"- Interpretation: {unlinked(record.interpretation)}")
    read = [entry.id for entry in rests_on if entry.step == "interpret"]
    shown = record.rows or tuple(row for entry in rests_on for row in entry.rows if row.changes)
    if shown and read and not record.rows:
        lines.append(f"- Table: in the update of {read[-1]}")
    elif shown:
        claims = claims_in(record) or standing(rests_on)
        lines += ["", *_table(shown, claims, series, trials), ""]
    lines.append(f"- Confidence: {unlinked(confidence(series, record, rests_on))}")
    sealed_here = seal if record.step == "seal" else None
    lines += ["- Measured:", *_measured(rests_on, trials.trials, links)] if sealed_here else []
    lines += ["- Links:", f"  - Tag: {links.tag(seal) if seal else 'not sealed'}"]
    if sealed_here:
        contents = links.snapshot(sealed_here, _code_folders(series, rests_on))
        lines += [f"  - {name}: {where}" for name, where in contents.items()]
    details = record.details
    pull = details.production_pr if isinstance(details, Decision | Finish) and not record.private else ""
    lines += [f"  - Production PR: {address(pull)}"] if pull else []
    lines += [
        f"  - Logbook section: {links.section(record)}",
        f"  - W&B: {links.runs}",
        f"- Next: {unlinked(record.next_action) or '–'}",
    ]
    return cut("\n".join(lines) + "\n", links.section(record))


def confidence(series: Series, record: EntryRecord, rests_on: Sequence[EntryRecord]) -> str:
    """What the record's claims on the primary metric amount to: the confidence of its best candidate, and how many
    candidates got which."""
    claims = claims_in(record) or together(series, standing(rests_on))
    primary = on_primary(series, claims)
    if not primary:
        return "no claim of its own"
    counts = Counter(map(verdict_text, primary))
    all_of_them = "; ".join(f"{count} × {what}" for what, count in counts.most_common())
    winner = best(series, primary)
    return f"{winner.confidence if winner else 'exploratory'} ({all_of_them}; {primary[0].method})"


def marked_as(series: Series, actor: Actor) -> str:
    """What a comment begins with that is of this actor, as the host repository asks of agents."""
    return f"{unlinked(series.agent_mark)} " if series.agent_mark and actor.kind == "agent" else ""


def heartbeat(series: Series, actor: Actor, running: Sequence[str], blockers: Sequence[str], eta: str) -> str:
    """The brief update when no milestone came for a while, posted by this actor."""
    mark = marked_as(series, actor)
    lines = [
        f"{mark}Heartbeat: {series.prefix}, no milestone for {series.heartbeat_s / 3600:g} hours of work",
        "",
        f"_{unlinked(series.goal)}_",
        "",
        f"- Status: {'; '.join(running) or 'trials are being recorded'}",
        f"- Blockers: {'; '.join(blockers) or 'none known'}",
        f"- Next ETA: {eta}",
    ]
    return cut("\n".join(lines) + "\n", "the logbook")


def sections(state: ThreadState, links: Links, longest: int) -> dict[str, str]:
    """The managed sections of the body, by key, each of at most so many characters. The state is that of what may be
    shown."""
    series, pull = state.series, state.production_pr
    texts = {
        "tldr": _first_screen(state),
        "scope": _scope(state, links),
        "baseline": rendering.baselines(state, unlinked),
        "decisions": rendering.decisions(state, unlinked, links.record, scope=False),
        "hypotheses": rendering.hypotheses(state.hypotheses, unlinked, links.record),
        "negative": rendering.negative_results(state, unlinked),
        "revisions": rendering.revisions(state, unlinked, links.record),
        "conclusion": _conclusion(state.finish),
        "links": [
            f"- Research logbook: {links.logbook}",
            f"- Report: {code(f'research report {series.topic}')} in a checkout makes it, as one page",
            f"- W&B: {links.runs}",
            f"- Sealed snapshots: {'; '.join(links.tags) or 'none yet'}",
            *(f"- Code: {code(path)}" for path in series.code_paths),
            *(f"- Reference: {address(reference)}" for reference in series.references),
            f"- Production PR: {address(pull) if pull else 'none yet'}",
        ],
    }
    return {
        key: f"## {SECTIONS[key]}\n\n{_fitting(lines, links.logbook, longest, key in _NEWEST)}"
        for key, lines in texts.items()
    }


def merged(body: str, managed: Mapping[str, str]) -> str:
    """The body with its managed sections as they should be; what stands outside of them stays, byte for byte.

    A section that is not there yet follows at the end.
    """
    for key, text in managed.items():
        block = f"<!-- research-steps section {key}: {MANAGED} -->\n{text}\n<!-- research-steps end {key} -->"
        section = re.search(_MANAGED_SECTION.format(key=key), body)
        if section is None:
            gap = "" if not body else "\n" if body.endswith("\n") else "\n\n"
            body = f"{body}{gap}{block}\n"
        # A browser that saves the body writes other line ends; that alone is no reason to write it again.
        elif section[0].replace("\r\n", "\n") != block:
            body = body[: section.start()] + block + body[section.end() :]
    return body


def unmanaged(body: str) -> str:
    """What people wrote in a body."""
    return re.sub(_MANAGED_SECTION.format(key=r"\w+") + r"\s*", "", body)


def from_template(template: str, topic: str) -> tuple[str, str, list[str]]:
    """Title, body and labels of a new issue from `.github/ISSUE_TEMPLATE/experiment.md`.

    The template's own text under a heading that is managed gives way to the managed section.
    """
    head, body = "", template
    if template.startswith("---\n"):
        head, _, body = template[4:].partition("\n---\n")
    fields = dict(re.findall(r"(?m)^(\w+): *\"?(.*?)\"? *$", head))
    parts = re.split(r"(?m)^(?=## )", body.lstrip("\n"))
    keys = {f"## {title}": key for key, title in SECTIONS.items()}
    for index, part in enumerate(parts):
        if key := keys.get(part.partition("\n")[0].strip()):
            parts[index] = f"<!-- research-steps section {key} -->\n<!-- research-steps end {key} -->\n\n"
    title = f"{fields.get('title', 'Experiment: ').rstrip()} {topic}"
    labels = [name.strip() for name in fields.get("labels", "").split(",") if name.strip()]
    return title, "".join(parts), labels


def cut(text: str, where: str) -> str:
    """The text as far as GitHub takes it, with a word on where the rest is."""
    if len(text) <= LONGEST - _HEAD:
        return text
    end = f"\n\n… cut here, it is longer than GitHub takes; the whole: {where}\n"
    return text[: text.rfind("\n", 0, LONGEST - _HEAD - len(end))] + end


def _fitting(lines: Sequence[str], where: str, room: int, newest: bool) -> str:
    """As many of the lines as there is room for: the first ones, or the newest where they are a history."""
    lengths = accumulate(len(line) + 1 for line in (reversed(lines) if newest else lines))
    left_out = sum(length > room for length in lengths)
    more = [f"- … and {left_out} {'older' if newest else 'more'} lines: {where}"] if left_out else []
    return "\n".join([*more, *lines[left_out:]] if newest else [*lines[: len(lines) - left_out], *more])


def _against(series: Series, entries: Sequence[EntryRecord]) -> str:
    name = series.primary.name
    baselines = [
        f"{entry.id} ({unlinked(entry.label)}, {name} {quantity(name, values[name])})"
        for entry in entries
        if name in (values := numbers(entry))
    ]
    return f"Baseline: {', '.join(baselines)}." if baselines else ""


def _change(record: EntryRecord) -> str:
    details = record.details
    owner = f" Owner: {unlinked(details.owner)}." if isinstance(details, Decision) else ""
    ids = ", ".join(ref.id for ref in record.inputs)
    return f"{STEP_KINDS[record.step].change}{owner}{f' Rests on {ids}.' if ids else ''}"


def _measured(rests_on: Sequence[EntryRecord], trials: Mapping[str, Stored[TrialRecord]], links: Links) -> list[str]:
    """How what was sealed was measured: the commands with what each was run at, the hardware with its devices, and the
    environment as far as it changes a result. Where no trial is known here, only its entry tells of it."""
    commands: dict[str, list[str]] = {}
    hardware: Counter[str] = Counter()
    settings: Counter[str] = Counter()
    for entry in rests_on:
        source = entry.provenance
        at = links.commit(source.commit) if source.commit else "no commit"
        patch = f" with patch {code(source.patch[:12])}" if source.patch else ""
        commands.setdefault(f"{code(source.command)} at {at}{patch}", []).append(entry.id)
    seen = {row.trial.sha256: entry for entry in rests_on for row in entry.rows}
    for sha, entry in seen.items():
        trial = trials[sha].record if sha in trials else None
        source = (trial or entry).provenance
        hardware[rendering.machine(trial) if trial else "known to records that are not here"] += 1
        # Under which a trial counts as measured alike; the kind of machine is told above.
        conditions = conditions_at("", source).items()
        settings[", ".join(code(f"{name}={value}") for name, value in conditions if value)] += 1
    facts = {
        "Command": [f"{', '.join(ids)} by {command}" for command, ids in commands.items()],
        "Hardware": [_counted(machine, trials) for machine, trials in hardware.most_common()],
        "Environment": [_counted(setting, trials) for setting, trials in settings.most_common()],
    }
    lines = []
    for name, values in facts.items():
        lines += [f"  - {name}: {value}" for value in values[:FACTS_SHOWN]]
        more = len(values) - FACTS_SHOWN
        lines += [f"  - {name}: … and {more} more in the bundle"] if more > 0 else []
    return lines


def _counted(what: str, trials: int) -> str:
    return f"{what} ({trials} {'trial' if trials == 1 else 'trials'})"


def _code_folders(series: Series, rests_on: Sequence[EntryRecord]) -> list[str]:
    """Where the experiment's code lies: its own folder, and those of its measure functions."""
    steps = [entry.details for entry in rests_on]
    modules = [details.measure.partition(":")[0] for details in steps if isinstance(details, Measurement)]
    folders = [module.rpartition(".")[0].replace(".", "/") for module in modules]
    return list(dict.fromkeys((f"experiments/{series.topic}", *filter(None, folders))))


def _table(rows: Sequence[Row], claims: Sequence[Claim], series: Series, trials: Snapshot) -> list[str]:
    shown = ranked(series.primary, rows, claims)
    lines = [rendering.rows(shown[:ROWS_SHOWN], claims, series.primary, "", unlinked, trials.samples)]
    if len(shown) > ROWS_SHOWN:
        lines += ["", f"… and {len(shown) - ROWS_SHOWN} more rows in the logbook."]
    return lines


def _first_screen(state: ThreadState) -> list[str]:
    """What somebody needs who has never heard of the thread."""
    words = Words(unlinked, code)
    lines = [f"**Question.** {unlinked(state.series.goal)} {state_text.stop(state, words)}", ""]
    for answer in state_text.answers(state, words):
        lines += [f"- **{answer.best}**", *(f"  - {line}" for line in (*answer.against, *answer.more))]
    for winner in state.winners[:1]:
        case = code(changes_text(winner.claim.case))
        lines += [
            f"- How sure: {state_text.sure(winner, words)}.",
            f"- Holds for {unlinked(winner.machine) or 'a machine that is not known here'}, at {case}. "
            "Nothing is known of other machines and shapes than those that are named here.",
        ]
    header, cells = state_text.table(state, words, TABLE_LINES)
    if cells:
        lines += ["", table(header, cells, ""), ""]
    lines += [f"- Not settled: {text}" for text in state_text.unsettled(state, words)]
    lines += [f"- Not counted: {unlinked(text)}" for text in state.unfounded]
    lines += [f"- {text}" for text in state_text.reading(state, words)]
    again = f" Measure it again: {code(f'research reproduce {state.sealed[-1]}')}" if state.sealed else ""
    lines.append(f"- {state_text.sealed(state, words)}{again}")
    return [*lines, f"- Next: {'; '.join(state_text.next_commands(state, words)) or 'nothing that a rule names'}"]


def _scope(state: ThreadState, links: Links) -> list[str]:
    series, kickoff = state.series, state.kickoff
    metrics = ", ".join(f"{metric.name} ({metric.direction})" for metric in series.metrics)
    lines = [
        f"- Motivation: {unlinked(series.motivation) or '–'}",
        f"- Problem: {unlinked(series.problem) or '–'}",
        f"- Goal: {unlinked(series.goal)}",
        f"- Success metrics: {unlinked(metrics)}{f'; {unlinked(series.success)}' if series.success else ''}",
        f"- Constraints: {unlinked(series.constraints) or '–'}",
        f"- Stop criteria: {unlinked(series.stop) or '–'}",
        f"- Hypotheses: {'; '.join(f'{item.id}: {unlinked(item.text)}' for item in series.hypotheses) or '–'}",
        f"- First experiment matrix: {'; '.join(map(unlinked, series.matrix)) or '–'}",
    ]
    if kickoff is not None:
        lines.append(f"- Started: {kickoff.finished_at[:10]} with {kickoff.id}")
    changes = rendering.decisions(state, unlinked, links.record, scope=True)
    return [*lines, "- Changes of the scope:", *(f"  {line}" for line in changes)]


def _conclusion(finish: EntryRecord | None) -> list[str]:
    if finish is None:
        return ["_None yet: the thread goes on._"]
    details = finish.details_as(Finish)
    return [
        # Behind a word of ours, so that nothing in it can begin a heading or a list.
        f"Conclusion: {unlinked(finish.result)}",
        "",
        f"- What worked: {unlinked(details.worked)}",
        f"- What did not: {unlinked(details.did_not)}",
        f"- Confidence and limitations: {unlinked(details.confidence)}; {unlinked(details.limitations)}",
        "- Next steps:",
        *(f"  - {number}: {unlinked(step)}" for number, step in enumerate(details.next_steps, 1)),
    ]
