"""What the command of dev mode asks of a helper, and what that answers."""

import msgspec


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What the command asks for. `occasion` is the step key of its experiment ID, under which `done` trials have been
    made already. `settings` are changes to the case of the `baseline` with that label. `env` names
    the variables that go to the `host`. Times are in seconds."""

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
    env: tuple[str, ...] = ()


class Attempted(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it, for the table of attempts: an experiment ID, and in `ids` its trials. `gain` is for finding the
    best. `sources` are the files that people edit among what was imported for it."""

    id: str
    ids: str
    trials: int
    what: str
    edited: str
    status: str
    told: str
    verdict: str
    gain: float
    sources: tuple[str, ...]
