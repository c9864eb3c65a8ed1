"""What a step measures, and on what; and what one of its trials does."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from research_steps.errors import UsageError
from research_steps.records.configurations import CODE, changed, plain, step_names
from research_steps.records.encoding import canonical, sha256
from research_steps.records.resources import Resources
from research_steps.trial.code import Code, trace_name


@dataclass(frozen=True)
class Measured:
    """What a step measures, and on what: the measure function's code, the baseline case, a configuration of the
    experiment, and the resources that a cluster's engine is asked for. `variables` are those of the environment that the
    code reads; repetitions go `over` these numbers of a field, such as the seed. Where versions of the code are
    compared, `versions` holds the commit and patch of each by the name that candidates give it; that of the baseline is
    named `baseline_version`, and is what is on disk where it is not among them. Paths below the `prefix` are those of
    what steps put out."""

    name: str
    root: str
    digest: str
    config_type: str
    case: Any
    resources: Resources | None = None
    variables: tuple[str, ...] = ()
    over: tuple[str, tuple[int, ...]] | None = None
    versions: dict[str, tuple[str, str | None]] = field(default_factory=dict)
    baseline_version: str = ""
    prefix: str = ""

    @property
    def repetitions(self) -> tuple[dict[str, Any], ...]:
        """What each repetition changes: nothing, or the field that it goes over."""
        return ({},) if self.over is None else tuple({self.over[0]: number} for number in self.over[1])

    def further(self, number: int) -> dict[str, Any]:
        """What the `number`-th repetition after these changes, from 1."""
        return {} if self.over is None else {self.over[0]: max(self.over[1]) + number}

    def code(self) -> Code:
        """The code on disk now. Raises UsageError when it is not what the step was built from."""
        code = trace_name(self.name, Path(self.root))
        if code.digest != self.digest:
            raise UsageError(
                f"The code of {self.name} under {self.root} is not what the run started with (digest {self.digest[:12]} "
                f"then, {code.digest[:12]} now): it changed on disk, or this machine has another work tree. Run the "
                "thread again, so that the steps that depend on it are new."
            )
        return code

    def changed(self, changes: Mapping[str, Any], what: str) -> dict[str, Any]:
        """The baseline case with some fields replaced, as a configuration."""
        fields = {name: value for name, value in changes.items() if name != CODE or not self.versions}
        fields = plain(changed(self.case, fields, what), what)
        return step_names(fields, self.prefix) if self.prefix else fields

    def named(self, case: dict[str, Any]) -> dict[str, Any]:
        """A configuration of the baseline's as claims name it: with the version of its code, where that has a name."""
        return {**case, CODE: self.baseline_version} if self.baseline_version else case


@dataclass(frozen=True)
class TrialSpec:
    """What is measured: plain configurations, the code as it was when the run started, and which replicate it is.

    Whoever measures the same for another `occasion` measures it anew: dev mode does each time. With a `baseline_code`
    the baseline's side runs that, in a second process.
    """

    code: Code
    config_type: str
    config: dict[str, Any]
    baseline_config: dict[str, Any]
    replicate: int = 0
    occasion: str = ""
    baseline_code: Code | None = None

    def key(self, conditions: Mapping[str, str]) -> str:
        """The trial's identity where it runs under these conditions."""
        identity = {
            "config": self.config,
            "baseline": self.baseline_config,
            "code": self.code.digest,
            "conditions": conditions,
            "replicate": self.replicate,
        }
        if self.baseline_code is not None:
            sides = (self.code, self.baseline_code)
            identity["versions"] = [[code.digest, *(code.tree.version if code.tree else ())] for code in sides]
        return sha256(canonical({**identity, **({"occasion": self.occasion} if self.occasion else {})}))
