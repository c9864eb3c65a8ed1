"""Commands that answer what to measure, and what need not be measured. They change nothing."""

from typing import Any

import click
import msgspec

from research_steps.cli.common import OpenSeries, SeriesCommand, print_result
from research_steps.evidence.claim_text import candidate_text, changes_text, claim_text
from research_steps.evidence.known import Known
from research_steps.evidence.known import known as known_of
from research_steps.evidence.second_look import discards_of
from research_steps.evidence.undecided import MOST_PROCESSES, Pair
from research_steps.evidence.undecided import undecided as pairs_of
from research_steps.publish.markdown import one_line
from research_steps.publish.state_here import state_here
from research_steps.records.times import duration

SHOWN = 10


@click.command(cls=SeriesCommand)
def undecided(series: OpenSeries) -> None:
    """Candidates not separated from the best. How many processes would separate them, as commands to paste.

    That is an estimate: it takes how processes scatter in today's intervals for how they will. What was discarded for a
    reason that has changed since is named below.
    """
    outline = series.journal.outline(series.records)
    state = state_here(series.checkout, series.journal, outline)
    pairs = pairs_of(state)
    shown, more = pairs[:SHOWN], len(pairs[SHOWN:])
    lines = [line for pair in shown for line in _pair_lines(pair)]
    lines += [f"and {more} more"] if more else []
    lines = lines or [f"{series.topic}: nothing is as good as a winner, as far as is known"]
    discards = discards_of(state, outline)
    if discards:
        lines += ["Discarded for a reason that has changed since:", *(f"  {one_line(text)}" for text in discards)]
    data = {"topic": series.topic, "pairs": list(map(_pair_data, shown)), "more": more}
    print_result(series.json_output, {**data, "second_look": discards}, lines)


@click.command(cls=SeriesCommand)
@click.argument("settings", nargs=-1, required=True, metavar="KEY=VALUE...")
def ask(series: OpenSeries, settings: tuple[str, ...]) -> None:
    """Whether a configuration was measured already. It says with what result, or what measuring it would cost.

    The configuration is the baseline case with these fields changed, against each baseline case in force.
    """
    snapshot = series.journal.outline(series.records)
    state = state_here(series.checkout, series.journal, snapshot)
    answers = known_of(state, series.snapshot, settings)
    lines = [line for answer in answers for line in _known_lines(answer)]
    print_result(series.json_output, {"topic": series.topic, "answers": list(map(_known_data, answers))}, lines)


def _pair_lines(pair: Pair) -> list[str]:
    winner = pair.winner.claim
    sides = [f"{candidate_text(claim, winner.case)} ({claim_text(claim)})" for claim in (winner, pair.other)]
    where = f" on {pair.winner.machine}" if pair.winner.machine else ""
    lines = [one_line(f"{sides[0]} and {sides[1]}{where} are not separated in {winner.metric}:")]
    if pair.processes is None:
        return [*lines, f"  {MOST_PROCESSES} processes of each would not separate them: take either"]
    return [*lines, *(f"  {command}" for command in pair.commands)]


def _pair_data(pair: Pair) -> dict[str, Any]:
    return {
        "winner": msgspec.to_builtins(pair.winner.claim),
        "other": msgspec.to_builtins(pair.other),
        "machine": pair.winner.machine,
        "processes": pair.processes,
        "commands": pair.commands,
    }


def _known_lines(known: Known) -> list[str]:
    what = f"{changes_text(known.changes)} against {known.baseline.entry.id} ({known.baseline.label})"
    lines = [f"measured ({claim.trials[0].id}): {claim.metric} {claim_text(claim)}" for claim in known.claims]
    lines += [f"failed ({trial.id}): {trial.error.line}" for trial in known.failed if trial.error]
    measured = [trial.id for trial in known.trials if trial.status == "ok"]
    if measured and not known.claims:
        lines.append(f"measured ({', '.join(measured)}), and no claim rests on that yet")
    lines = lines or ["never measured"]
    lines += known.by_others[:SHOWN]
    lines += [f"and {len(known.by_others[SHOWN:])} more rows of others"] if known.by_others[SHOWN:] else []
    if known.further and known.cost_s is not None:
        time = duration(known.cost_s)
        lines.append(f"to have it replicated: about {time}, an estimate for {known.further} further processes")
    return [one_line(f"{what}: {lines[0]}"), *(f"  {one_line(line)}" for line in lines[1:])]


def _known_data(known: Known) -> dict[str, Any]:
    return {
        "baseline": known.baseline.entry.id,
        "changes": known.changes,
        "claims": msgspec.to_builtins(known.claims),
        "trials": [{"id": trial.id, "status": trial.status} for trial in known.trials],
        "failed": [{"id": trial.id, "why": trial.error.line if trial.error else ""} for trial in known.failed],
        "by_others": known.by_others,
        "further_processes": known.further,
        "estimated_s": known.cost_s,
    }
