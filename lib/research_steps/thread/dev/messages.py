"""What the command of dev mode asks of a helper, and what that answers."""

import msgspec

from research_steps.records.model import Claim


class Attempted(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it, for the table of attempts: an experiment ID, and in `ids` its trials. `gain` is for finding the
    best, `estimate` that of the primary metric where it is a ratio, `claim` all that is said of that. Of one that is
    watched, `edited` says in what it differs from the commit, and `sources` which of the files that people edit were
    imported for it."""

    id: str
    ids: str
    what: str
    status: str
    told: str
    verdict: str
    gain: float
    estimate: float | None = None
    claim: Claim | None = None
    edited: str = ""
    sources: tuple[str, ...] = ()


class DevRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What the command asks for. `occasion` is the step key of its experiment ID, under which `done` trials have been
    begun already, `watched` that another follows. `settings` are changes to the case of the `baseline` with that label.
    `env` names the variables that go to the `host`; `against` the version of the code that the baseline runs (default:
    that which it was fixed with), `best` the best attempt so far of those that are watched."""

    cwd: str
    store: str
    topic: str
    command: tuple[str, ...]
    occasion: str
    done: int = 0
    watched: bool = False
    baseline: str = ""
    settings: tuple[str, ...] = ()
    processes: int = 1
    label: str = ""
    hypothesis: str = ""
    in_process: bool = False
    host: str = ""
    env: tuple[str, ...] = ()
    against: str = ""
    best: Attempted | None = None
