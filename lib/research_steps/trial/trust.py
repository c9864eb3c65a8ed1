"""What may run here by a record's word. The code of the checkout is trusted; of what records name, only what a person
ran in this checkout, or allowed with `research trust`.

It is kept in a file of the git directory, which no clone, branch or store brings.
"""

from dataclasses import dataclass
from typing import Any

from research_steps.errors import UsageError
from research_steps.git import Checkout
from research_steps.records.encoding import canonical
from research_steps.records.model import TrialRecord, version_text


@dataclass(frozen=True)
class Trust:
    """What a person runs in a checkout: versions of its code, and measure functions with the types of their
    configurations."""

    checkout: Checkout

    def add_code(self, *versions: tuple[str, str | None] | None) -> None:
        """Trust the code of these, each a commit and the patch on it; one that is not known by these is not named."""
        for version in versions:
            if version is not None:
                self._add("code", *version)

    def add_measure(self, measure: str, config_type: str) -> None:
        self._add("measure", measure, config_type)

    def add_trial(self, trial: TrialRecord) -> None:
        """Trust what both sides of a trial ran."""
        self.add_measure(trial.measure, trial.config_type)
        self.add_code(*trial.ran)

    def has_measure(self, measure: str, config_type: str) -> bool:
        return self._has("measure", measure, config_type)

    def check_code(self, commit: str, patch: str | None) -> None:
        """Raises UsageError for code that only a record names: neither in the history of the work tree nor run here."""
        in_history = patch is None and self.checkout.is_ancestor(commit, "HEAD")
        if not in_history and not self._has("code", commit, patch):
            raise UsageError(
                f"The code of {version_text(commit, patch)} was not run in this checkout before, and a record can name "
                "any: read it ('research show ID --patch' prints the edits of a trial), then allow it to run here with "
                "'research trust ID'."
            )

    def _has(self, *what: Any) -> bool:
        path = self.checkout.private / "trusted"
        return self.checkout.git_dir is not None and path.is_file() and canonical(what) in path.read_bytes().splitlines()

    def _add(self, *what: Any) -> None:
        if self.checkout.git_dir is not None and not self._has(*what):
            self.checkout.private.mkdir(parents=True, exist_ok=True)
            # In one write, so that no line of another process is lost.
            with (self.checkout.private / "trusted").open("ab", buffering=0) as file:
                file.write(canonical(what) + b"\n")
