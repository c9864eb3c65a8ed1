"""A command line as the measure function of a trial's process: each sample, or few, is a run of it."""

import math
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from research_steps.errors import BadMetrics, CommandFailed
from research_steps.records.model import CommandRun
from research_steps.records.redaction import redact_arguments
from research_steps.trial.command import Command
from research_steps.trial.printed import Printed
from research_steps.trial.process import Process


class CommandMeasure:
    """Called as a measure function with a plain configuration. Its first run warms up, and tells how long one takes: is
    that more than `budget_s` (seconds), it stands alone and is what was measured; else there is a run for each sample.

    It runs in `root`, and finds programs as in the environment of this Python. A configuration is said to be the first
    one by its first run."""

    def __init__(self, command: Command, root: Path, budget_s: float) -> None:
        self._ran: tuple[list[str], int, float, Printed] | None = None
        self._command, self._root, self._budget_s = command, root, budget_s

    def __call__(self, config: Mapping[str, Any]) -> Any:
        is_first = self._ran is None
        samples, took_s = self._run(config, is_first)
        if took_s > self._budget_s:
            return samples
        # Whether runs stand alone is told once in a process.
        self._budget_s = math.inf
        return self._sampled(samples, config, is_first)

    @property
    def ran(self) -> CommandRun | None:
        """The last run of the first configuration, or the one that failed; None before the first."""
        if self._ran is None:
            return None
        argv, code, took_s, printed = self._ran
        return CommandRun(tuple(redact_arguments(argv)), code, took_s, printed.text(os.environ))

    def _sampled(self, samples: list[dict[str, float]], config: Mapping[str, Any], is_first: bool) -> Iterator[Any]:
        while True:
            yield samples
            samples, _ = self._run(config, is_first)

    def _run(self, config: Mapping[str, Any], is_first: bool) -> tuple[list[dict[str, float]], float]:
        """The samples of a run, and how long it took (seconds). Raises CommandFailed, and BadMetrics."""
        command, printed = self._command, Printed(self._command.metrics)
        argv, named = command.arguments(config), command.file(config)
        file = self._root / named if named is not None else None
        before = _written(file)
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
        process = Process(
            argv, printed.take, cwd=str(self._root), env={**os.environ, "PATH": path}, stdin=subprocess.DEVNULL
        )
        code, took_s = process.wait()
        printed.close()
        earlier, self._ran = self._ran, (argv, code, took_s, printed)
        if code:
            raise CommandFailed(printed.failure(code, took_s, os.environ))
        if file is not None and _written(file) in (None, before):
            raise BadMetrics(f"The command exited with 0 and did not write {named}, which its metrics are in.")
        samples = printed.samples(file)
        if not is_first:
            self._ran = earlier
        return samples, took_s


def _written(file: Path | None) -> tuple[int, int, int] | None:
    """What changes when a file is written, None where there is none."""
    if file is None or not file.is_file():
        return None
    status = file.stat()
    return status.st_mtime_ns, status.st_size, status.st_ino
