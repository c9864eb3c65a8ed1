"""The series as its thread declared it, as bytes: in the store, and beside the logbook for whoever has no store.

Reading it runs no code of a checkout. What lies beside the logbook may be anybody's, so it names no place where runs or
a logbook would go: that is left out when it is written and when it is read.
"""

from dataclasses import asdict, replace
from pathlib import Path

import msgspec

from research_steps.files import read
from research_steps.records.encoding import canonical, decode_series
from research_steps.records.series import HERE, Series

NAME = "series.json"


def encoded(series: Series) -> bytes:
    """The same bytes for a series as its thread declares it, where a time may be a whole number, and as it was read."""
    return canonical(asdict(msgspec.convert(asdict(series.without_secrets()), Series))) + b"\n"


def published(series: Series) -> bytes:
    """What stands beside the logbook."""
    return encoded(_without_places(series))


def read_published(repository: Path, topic: str) -> Series | None:
    """The series as it stands in a folder of published records, None where it doesn't."""
    data = read(repository / NAME)
    return None if data is None else _without_places(decode_series(data, topic, str(repository / NAME)))


def _without_places(series: Series) -> Series:
    return replace(series, wandb_project="", parent="", logbook=HERE)
