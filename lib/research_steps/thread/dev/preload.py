"""Imported by a kept parent ahead of attempts: what their first use of a library costs is paid here, once."""

import draccus.cfgparsing
import fsspec.implementations.local
import scipy.special
import yaml

from research_steps.records.redaction import redact
from research_steps.thread.dev import attempt
from research_steps.trial.provenance import facts_here

__all__ = ["attempt", "draccus", "fsspec", "scipy", "yaml"]

# The patterns of secrets are compiled by their first use; the machine and its packages are looked at once.
redact("no secret")
facts_here()
