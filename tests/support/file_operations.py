"""What a process does to files, one operation after the other: where it can be ended, and where it can fail."""

import os
import signal
import sys
from collections.abc import Callable

_EVENTS = frozenset(("open", "os.rename", "os.link", "os.remove", "os.mkdir", "os.symlink", "subprocess.Popen"))


def before_each(concerned: Callable[[str], bool], do: Callable[[int, str], None]) -> None:
    """Have this process call `do` with the number and path of each operation on files that are `concerned`, before it is
    done; what that raises, the operation raises. Starting another program counts as one, too."""
    number = 0

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal number
        if event not in _EVENTS:
            return
        path = os.fsdecode(arguments[0]) if isinstance(arguments[0], str | bytes) else ""
        if event == "open" and isinstance(arguments[2], int) and not arguments[2] & (os.O_WRONLY | os.O_RDWR):
            return
        if event == "subprocess.Popen" or concerned(path):
            number += 1
            do(number, path)

    sys.addaudithook(hook)


def killed_before(wanted: int, concerned: Callable[[str], bool]) -> Callable[[], None]:
    """What has a process end by SIGKILL right before its operation of this number."""

    def end(number: int, path: str) -> None:
        if number == wanted:
            os.kill(os.getpid(), signal.SIGKILL)

    return lambda: before_each(concerned, end)
