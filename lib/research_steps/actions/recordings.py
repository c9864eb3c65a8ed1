"""A command that somebody runs, recorded: one trial in a process of its own, outside of any thread, and an entry of it.

It is compared with a baseline of the series only where that was measured by the same command line, filled in with other
settings, on the same files and the same kind of machine. Like whatever is measured without the executor, exploratory.
"""

import os
import re
import resource
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from research_steps.errors import BadMetrics, CommandFailed, Diverged, StoreError, UsageError
from research_steps.evidence.claim_text import changes_text
from research_steps.evidence.hypotheses import queue, spelled_out
from research_steps.git import Checkout
from research_steps.journal.journal import Journal
from research_steps.journal.logbook_place import logbook_of
from research_steps.journal.snapshot import entries_of
from research_steps.publish.entry_writer import short
from research_steps.publish.logbook.numbers import CheckoutNumbers
from research_steps.records.configurations import as_typed, configuration_of
from research_steps.records.encoding import Stored, canonical, sha256
from research_steps.records.model import CommandRun, EntryRecord, Error, TrialRecord
from research_steps.records.names import METRIC
from research_steps.records.redaction import redact_arguments
from research_steps.records.series import Series, trial_id
from research_steps.records.step_kinds import Measurement
from research_steps.records.times import utc
from research_steps.thread.dev.command import new_occasion
from research_steps.thread.dev.evidence import DevEvidence
from research_steps.thread.dev.keep import KeptAttempt, write_kept
from research_steps.trial.code import Code, trace_name
from research_steps.trial.command import Command, Rule
from research_steps.trial.contention import HERE, CpuWatch
from research_steps.trial.launcher.protocol import ChildResult
from research_steps.trial.launcher.sampling import numbers, unpaired
from research_steps.trial.printed import Printed
from research_steps.trial.provenance import capture, command_line, facts_here


class Recording:
    """What is known of a command while it runs: made beside it, and ended with it. Raises ResearchError."""

    def __init__(
        self,
        checkout: Checkout,
        journal: Journal,
        series: Series,
        argv: Sequence[str],
        settings: Mapping[str, str],
        rules: Sequence[str],
        label: str,
        hypothesis: str,
    ) -> None:
        self._watch, self._started_at = CpuWatch(HERE), utc()
        self._checkout, self._journal, self._series, self._argv = checkout, journal, series, list(argv)
        rule = rule_of(rules)
        self.printed = Printed(rule)
        self._file = Path(rule) if isinstance(rule, str) else None
        known = journal.published(logbook_of(checkout, series.topic).records)
        self._evidence = DevEvidence(series, journal, known.counting, known.retracted)
        self._hypothesis = spelled_out(queue(series, entries_of(known)), hypothesis) if hypothesis else ""
        self._shown = shlex.join(redact_arguments(argv))
        self._label = label or short(self._shown)
        self._measure, self._config_type, self._config, self._case = self._compared(settings, rule)
        self._code = _code(self._measure, checkout.root)
        self._captured = capture(checkout, command_line(), series.topic)
        journal.keep_patch(self._captured.provenance.patch, self._captured.patch)
        journal.declare(series)
        self._occasion = new_occasion()
        numbers = CheckoutNumbers(checkout, series.topic, series.prefix, journal.dry_run)
        self._id = journal.ids.reserve(series.prefix, self._occasion, numbers)

    @property
    def planned(self) -> str:
        """What is to be recorded, and what it is compared with."""
        beside = changes_text(self._case) if self._case else "nothing: no baseline of the series was measured by it"
        return f"{self._id} {self._label}: {changes_text(self._config)}, compared with {beside}"

    def end(self, wait: Any, signals: Sequence[int]) -> tuple[int, Stored[EntryRecord] | None]:
        """Record how the command ended: its exit code, and the entry; None where a signal had told it to end, and it was
        interrupted. `wait` tells the exit code, and how long it took (seconds)."""
        facts, id = facts_here(self._code.variables), trial_id(self._id, 1)
        key = sha256(canonical([self._config, self._case, self._code.digest, facts.conditions, self._occasion]))
        attempts = self._journal.attempts
        about: dict[str, Any] = {"id": id, "label": self._label, "config": self._config}
        with attempts.begin("trial", key, 0, **about, private=self._series.private) as begun:
            assert begun is not None, "nobody else has this occasion"
            code, took_s = wait()
            self.printed.close()
            if signals:
                attempts.interrupt(begun, f"The command was told to end by signal {signals[0]}: exit code {code}.")
                return code, None
            result = self._result(code, took_s)
            used = resource.getrusage(resource.RUSAGE_CHILDREN)
            record = TrialRecord(
                series=self._series.topic,
                key=key,
                attempt=0,
                id=id,
                label=self._label,
                started_at=self._started_at,
                finished_at=utc(),
                status="ok" if result.samples else "failed",
                mode="dev",
                measure=self._measure,
                code=self._code.digest,
                config_type=self._config_type,
                config=self._config,
                baseline_config=self._case,
                device_class=facts.device_class,
                replicate=0,
                devices=(),
                samples=result.samples,
                ratios={},
                error=result.error,
                contended=self._watch.contended(used.ru_utime + used.ru_stime),
                launch=None,
                provenance=self._captured.provenance,
                without=result.without or msgspec.UNSET,
                command=result.command or msgspec.UNSET,
            )
            stored = attempts.finish("trial", record)
        said, next_action = "", ""
        if not self._case:
            said = "No baseline of the series was measured by this command, so it is compared with nothing."
            next_action = "Measure it in a thread, as steps.baseline(Command(…), …), before anything rests on it."
        if self._code.now().digest != self._code.digest:
            said = f"{said} Its files were edited while it ran, so commit and patch may not be what ran.".strip()
        kept = KeptAttempt(
            self._checkout, self._evidence, self._id, self._occasion,
            label=self._label, hypothesis=self._hypothesis, interpretation=said, next_action=next_action,
            how="recorded",
        )  # fmt: skip
        return code, write_kept(kept, [stored])

    def _result(self, code: int, took_s: float) -> ChildResult:
        run = CommandRun(tuple(redact_arguments(self._argv)), code, took_s, self.printed.text(os.environ))
        try:
            if code:
                raise CommandFailed(self.printed.failure(code, took_s, os.environ))
            result = unpaired(numbers(self.printed.samples(self._file), self._series), took_s)
        except (CommandFailed, BadMetrics, Diverged, OSError) as error:
            result = ChildResult(error=Error(type(error).__name__, str(error), (), "child", ""))
        return msgspec.structs.replace(result, command=run)

    def _compared(self, settings: Mapping[str, str], rule: Rule) -> tuple[str, str, dict[str, Any], dict[str, Any]]:
        """The measure, the type of its configurations, the configuration and the case that it is compared with: those of
        a baseline whose command this is, with these settings; else its own."""
        for entry in reversed(self._evidence.entries):
            if entry.record.step != "baseline":
                continue
            details = entry.record.details_as(Measurement)
            command = Command.named(details.measure)
            if command is None or command.metrics != rule:
                continue
            case = configuration_of(details.baseline_case, {})
            config = {**case, **{name: _read(text, case.get(name)) for name, text in settings.items()}}
            with suppress(UsageError, StoreError):
                # In another folder the same words name other files.
                same = command.arguments(config) == self._argv and Path.cwd() == self._checkout.root
                if same and set(config) == set(case):
                    measured = self._journal.load("trial", entry.record.rows[0].trial).record
                    return details.measure, measured.config_type, config, case
        template = self._shown.replace("{", "{{").replace("}", "}}")
        own = {name: _read(text, None) for name, text in settings.items()} or {"command": self._shown}
        return Command(template, rule).name, "dict", own, {}


def rule_of(rules: Sequence[str]) -> Rule:
    """What --metrics says: the name of a JSON file, or NAME=EXPRESSION for each metric. Raises UsageError."""
    if len(rules) <= 1 and not any("=" in rule for rule in rules):
        return rules[0] if rules else None
    named = dict(rule.partition("=")[::2] for rule in rules)
    if not all(re.fullmatch(METRIC, name) and expression for name, expression in named.items()):
        raise UsageError(f"--metrics was given {' '.join(rules)}: expected one FILE, or NAME=EXPRESSION for each.")
    return named


def settings_of(given: Sequence[str]) -> dict[str, str]:
    """What --set says. Raises UsageError."""
    for setting in given:
        if not setting.partition("=")[0] or "=" not in setting:
            raise UsageError(f"--set was given {setting!r}: expected key=value, such as implementation=dense.")
    return dict(setting.partition("=")[::2] for setting in given)


def _read(text: str, like: Any) -> Any:
    """A value of the kind that it stands in for; a truth is one as Python spells it, too."""
    spelled = text in ("True", "False") and not isinstance(like, str)
    return as_typed(text, text == "True" if spelled else like)


def _code(measure: str, root: Path) -> Code:
    try:
        return trace_name(measure, root)
    except UsageError:
        # What does not parse, or is named from elsewhere, is known by its name alone.
        return Code(measure, str(root), {}, ())
