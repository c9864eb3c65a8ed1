"""Samples a pair whose sides run different code, each in a process of its own.

Both are there at once, and take turns sample by sample as in one process. Where a machine does not hold both, as an
accelerator that admits one process, they take turns as processes, in the order ABBA or BAAB: each is set up, gives a
quarter of the samples and ends before the next begins. That a side fails beside the other and not alone tells which it
is; nothing has to be known of the machine.
"""

import random
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from itertools import count

import msgspec

from research_steps.errors import BadMetrics, DevicesDiffer, FailedElsewhere, Side, SideFailed
from research_steps.records.model import Device
from research_steps.records.series import Series
from research_steps.trial.launcher.protocol import ChildResult
from research_steps.trial.launcher.sampling import LEAST_PAIRS, Values, failing, letters, paired, sampled, unpaired
from research_steps.trial.launcher.side_process import SideProcess, SideRun

SESSIONS = 4
SIDES: tuple[Side, Side] = ("candidate", "baseline")


class TwoVersions:
    """The two sides of a pair: `start` begins the process of one. `ran` tells what the candidate ran on, also when it
    failed."""

    def __init__(self, start: Callable[[Side], SideProcess], series: Series, seed: int) -> None:
        self._start, self._series, self._seed = start, series, seed
        self.ran = SideRun()

    def sample(self, sampling: Callable[[], None]) -> ChildResult:
        """Sample both; `sampling` is called when their set-up is done. Raises SideFailed, and DevicesDiffer."""
        started = time.perf_counter()
        with closing(self._start("candidate")) as candidate:
            try:
                with failing("candidate"):
                    returned = candidate.begin()
                if returned is not None:
                    return unpaired(returned, time.perf_counter() - started)
                with closing(self._start("baseline")) as baseline:
                    result = self._at_once(candidate, baseline, sampling)
            finally:
                # Where it crashed, nothing can be asked.
                with suppress(FailedElsewhere):
                    self.ran = candidate.ran()
        if not isinstance(result, ChildResult):
            result = self._by_turns(result, sampling)
        setup_s = time.perf_counter() - started - result.sampling_s - self.ran.import_s
        return msgspec.structs.replace(result, setup_s=setup_s)

    def _at_once(
        self, candidate: SideProcess, baseline: SideProcess, sampling: Callable[[], None]
    ) -> ChildResult | tuple[Side, Side]:
        """What both say; or in which order they are to be set up alone, where one of them could not be beside the
        other, or got other devices than that."""
        sides, are_set_up = {"candidate": candidate, "baseline": baseline}, False

        def ready() -> None:
            nonlocal are_set_up
            _check_same_devices(candidate.ran().devices, baseline.ran().devices)
            are_set_up = True
            sampling()

        try:
            _begin(baseline, "baseline")
            # The first sample of a side ends its set-up, and counts in no block.
            return paired(
                lambda side, taken: sides[side].sample(max(0, taken - 1) // 2), self._series, self._seed, ready
            )
        except (SideFailed, DevicesDiffer) as error:
            if are_set_up:
                raise
            failed = error.side if isinstance(error, SideFailed) else random.Random(self._seed).choice(SIDES)
            return SIDES if failed == SIDES[0] else SIDES[::-1]

    def _by_turns(self, order: tuple[Side, Side], sampling: Callable[[], None]) -> ChildResult:
        """What each says alone."""
        devices: dict[Side, tuple[Device, ...]] = {}
        taken: dict[Side, list[Values]] = {"candidate": [], "baseline": []}
        came: list[Side] = []
        sampling_s = 0.0
        for turn in (order, order[::-1]):
            sessions: list[list[Values]] = []
            for side in turn:
                try:
                    with closing(self._start(side)) as process:
                        _set_up(process, side)
                        sampling()
                        started = time.perf_counter()
                        sessions.append(self._session(process, side))
                        sampling_s += time.perf_counter() - started
                        devices[side] = process.ran().devices
                except SideFailed:
                    if side == "candidate" and not devices:
                        # What the baseline can't do either is not the candidate's fault.
                        with closing(self._start("baseline")) as other:
                            _set_up(other, "baseline")
                    raise
            _check_same_devices(devices["candidate"], devices["baseline"])
            both = min(map(len, sessions))
            for side, samples in zip(turn, sessions, strict=True):
                taken[side] += samples[:both]
                came += [side] * both
        return ChildResult(**sampled(taken, letters(came)), sampling_s=sampling_s)

    def _session(self, process: SideProcess, side: Side) -> list[Values]:
        """A quarter of what sampling may take."""
        started, samples = time.perf_counter(), list[Values]()
        with failing(side):
            for number in count():
                spent = time.perf_counter() - started >= self._series.sampling_s / SESSIONS
                if number >= max(1, self._series.max_pairs // 2) or (number >= LEAST_PAIRS and spent):
                    break
                samples += process.sample(number // 2)
        return samples


def _begin(process: SideProcess, side: Side) -> None:
    with failing(side):
        if process.begin() is not None:
            raise BadMetrics(
                f"The {side}'s version of the measure function returned and the other's yields: expected both to yield, "
                "so that they can take turns."
            )


def _set_up(process: SideProcess, side: Side) -> None:
    _begin(process, side)
    with failing(side):
        process.sample(0)


def _check_same_devices(candidate: Sequence[Device], baseline: Sequence[Device]) -> None:
    """A backend that can't have an accelerator for a second process may take another one in silence."""
    # A side that started no backend says nothing of its devices.
    if candidate and baseline and candidate != baseline:
        told = [", ".join(map(str, devices)) for devices in (candidate, baseline)]
        raise DevicesDiffer(
            f"The candidate ran on {told[0]} and the baseline, in its own process, on {told[1]}: expected the same."
        )
