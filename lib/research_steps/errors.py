"""Every exception that this package raises on purpose, as one tree.

ResearchError
├── UsageError            what a person or agent gave is not usable: series, config, option, topic
├── StoreError            the store could not be read or written
│   ├── UnreadableObject  an object of the journal is broken
│   │   └── NewerObject   or was written by a later version of this package
│   └── JournalProblem    what one record rests on is gone or was changed
├── RepositoryError       git, or the checkout that should hold the logbook
├── LogbookError          the logbook can't be appended to as it is
│   └── ConflictedLogbook it holds git's conflict markers
├── SurfaceError          a public surface (GitHub, W&B) did not take what it should show
│   ├── SurfaceAway       not now: no network, a fault of the server, a limit on requests
│   └── SurfaceRefused    its answer to this request is no, with an HTTP status
├── BadMetrics            the measure function gave no set of numbers
├── CommandFailed         a command that is measured exited with another code than 0
├── Diverged              a metric is no number to count with, or above its bound: a result of the configuration
├── SideFailed            the measure function raised, as the candidate or as the baseline of the pair
├── FailedElsewhere       a side of a pair, or a step, raised in a process of its own
├── DevicesDiffer         the two sides of a pair, in processes of their own, ran on different devices
├── CodeChanged           its code is no longer the code that the trial was begun for
├── LauncherError         what was to run trials, or a run, died or could not start: no result
│   └── MachineLost       another machine that was to run something is gone, silent or out of reach: host, node, cluster
└── StepFailed            a step that others rest on failed; its record is in the journal

Messages say what, where, what was expected, what was found, and what to do next.
"""

import errno
import os
import traceback
from typing import Any, Literal

Side = Literal["candidate", "baseline"]


# A full or broken disk, and too many open files on the machine.
_LACKING = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ESTALE, errno.ENFILE)


def lacking(error: BaseException | None) -> str:
    """What the machine lacked, where that is why something was raised; empty where it was not."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _LACKING:
            return str(error)
        # Libraries in other languages tell it in their own errors.
        if os.strerror(errno.ENOSPC) in (told := traceback.format_exception_only(error)[-1]):
            return told.strip()
        error = error.__cause__ or error.__context__
    return ""


class ResearchError(Exception):
    """Base of all errors of this package; the command line prints it as one sentence."""


class UsageError(ResearchError):
    """Input from a person or agent that can't be used as it is."""


class StoreError(ResearchError):
    """The store refused a read or a write; nothing that was recorded before is affected."""


class UnreadableObject(StoreError):
    """A journal object that can't be read; it is skipped and never overwritten."""


class NewerObject(UnreadableObject):
    """A journal object that a later version of this package wrote: nothing is wrong with it, and it is left out."""


class JournalProblem(StoreError):
    """A record that another one rests on is gone, or is not the one that was meant."""


class RepositoryError(ResearchError):
    """Git failed, or there is no repository where one is needed."""


class LogbookError(ResearchError):
    """The logbook can't take an entry; the entry's records stay in the journal and are published later."""


class ConflictedLogbook(LogbookError):
    """The logbook holds conflict markers of a git merge."""


class SurfaceError(ResearchError):
    """A public surface refused what it should show; the records stay pending and are safe in the journal."""


class SurfaceAway(SurfaceError):
    """A public surface can't be used now. `after_s` is how long it asked to be left alone (seconds), 0 if it didn't."""

    def __init__(self, message: str, after_s: float = 0.0) -> None:
        super().__init__(message)
        self.after_s = after_s


class SurfaceRefused(SurfaceError):
    """A public surface understood a request and refused it; verb and status are those of HTTP."""

    def __init__(self, message: str, verb: str, status: int) -> None:
        super().__init__(message)
        self.verb = verb
        self.status = status


class BadMetrics(ResearchError):
    """What the measure function gave is not a set of numbers with the series' metrics in it."""


class CommandFailed(ResearchError):
    """A command that is measured ended with another exit code than 0."""


class Diverged(ResearchError):
    """The primary metric became NaN, infinite or nearly so, or a metric rose above its `diverged_above`: a result of
    what was measured, and no slip in its code."""


class SideFailed(ResearchError):
    """The measure function raised `error`; `side` tells which of the pair it was."""

    def __init__(self, side: Side, error: BaseException) -> None:
        super().__init__(side)
        self.side: Side = side
        self.error = error


class DevicesDiffer(ResearchError):
    """The two sides of a pair, in processes of their own, ran on different devices."""


class FailedElsewhere(ResearchError):
    """What ran in a process of its own raised what `described` tells: an error as a record has it."""

    def __init__(self, described: Any) -> None:
        super().__init__(described)
        self.described = described

    def __str__(self) -> str:
        return str(self.described.line)


class CodeChanged(ResearchError):
    """The files on disk are not the ones that the attempt was begun for."""


class LauncherError(ResearchError):
    """What was to run trials, or a whole run, died, was ended or did not start: no result of the measure function."""


class MachineLost(LauncherError):
    """A dev host, a cluster or one of its nodes is gone, silent or out of reach: no fault of what was to run there."""


class StepFailed(ResearchError):
    """A step failed and was recorded; what depends on it can't run."""
