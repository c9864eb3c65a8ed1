"""What a step measures, and on what."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from research_steps.errors import UsageError
from research_steps.records.configurations import changed, plain
from research_steps.records.resources import Resources
from research_steps.trial.code import Code, trace_name


@dataclass(frozen=True)
class Measured:
    """What a step measures, and on what: the measure function's code, the baseline case, a configuration of the
    experiment, and the resources that a cluster's engine is asked for."""

    name: str
    root: str
    digest: str
    config_type: str
    case: Any
    resources: Resources | None = None

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
        """The baseline case with some fields replaced, as it is recorded."""
        return plain(changed(self.case, changes, what), what)
