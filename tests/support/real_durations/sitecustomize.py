"""What a process under libfaketime 0.9.10 needs for durations to last as long as they do: Python reads it at its start.

With a clock for durations of its own making, that library makes every timed wait of a thread last for ever (it does not
know `sem_clockwait`). Told to leave that clock alone, it answers `clock_nanosleep` until a time with 'invalid argument'.
"""

import threading
import time


def _sleep(seconds: float) -> None:
    threading.Event().wait(seconds)


time.sleep = _sleep
