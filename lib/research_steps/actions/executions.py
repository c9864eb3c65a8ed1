"""Commands that were run on a held TPU, each an entry of a series' log."""

import shlex

from research_steps.journal.entries import Finding
from research_steps.publish.entry_writer import EntryWriter, digest, short
from research_steps.records.encoding import Stored
from research_steps.records.model import EntryRecord
from research_steps.records.redaction import redact_arguments
from research_steps.records.step_kinds import Ran, plain_details
from research_steps.records.times import duration
from research_steps.remote.ray.execution import CommandOutcome
from research_steps.remote.ray.tpu import HeldTpu


def record(
    writer: EntryWriter, label: str, tpu: HeldTpu, argv: list[str], env: dict[str, str], outcome: CommandOutcome
) -> Stored[EntryRecord]:
    """Leave an entry that says how a command ended."""
    command = shlex.join(redact_arguments(argv))
    details = Ran(
        command=command,
        tpu=tpu.about["type"],
        node=tpu.about["node"],
        env=tuple(sorted(env)),
        exit=outcome.code,
        duration_s=round(outcome.seconds, 1),
        output_tail=outcome.tail,
    )
    ended = f"{'ok' if outcome.code == 0 else 'failed'}: exit code {outcome.code}"
    result = f"{f'lost: {outcome.lost}' if outcome.lost else ended} after {duration(outcome.seconds)}"
    if outcome.edited:
        result += "; the work tree was edited while it ran, so commit and patch are not what ran"
    key = f"execute/{digest(plain_details(details), outcome.started_at)}"
    return writer.write(writer.scan(), "step", key, short(label or command), details, Finding(result))
