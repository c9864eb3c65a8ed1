"""What the command of dev mode asks of a helper, and what that answers."""

import msgspec


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What the command asks for. `occasion` is the step key of its experiment ID, under which `done` trials have been
    made already. `settings` are changes to the case of the `baseline` with that label. Times are in seconds."""

    cwd: str
    store: str
    topic: str
    command: tuple[str, ...]
    occasion: str
    done: int = 0
    baseline: str = ""
    settings: tuple[str, ...] = ()
    processes: int = 1
    label: str = ""
    hypothesis: str = ""
    in_process: bool = False
    host: str = ""


class Attempted(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it: for the table of attempts, and what to watch for a change. `gain` is for finding the best."""

    id: str
    trials: int
    what: str
    edited: str
    status: str
    told: str
    verdict: str
    gain: float
    sources: tuple[str, ...]
