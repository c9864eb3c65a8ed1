"""Names and tags as W&B takes them: on one line, and no longer than it allows."""

import re
from collections.abc import Sequence

from research_steps.records.series import LONGEST_TAG

# W&B refuses longer names of runs.
LONGEST_NAME = 64
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


def named(id: str, label: str) -> str:
    """An experiment ID and its label; the ID alone where there is no label."""
    return shortened(id if label in ("", id) else f"{id} {label}", LONGEST_NAME)


def accepted_tags(wanted: Sequence[str]) -> list[str]:
    """Tags, each once and of 1 to 64 characters."""
    return list(dict.fromkeys(tag for text in wanted if (tag := shortened(text, LONGEST_TAG))))


def shortened(text: str, longest: int) -> str:
    line = _CONTROL.sub(" ", text).strip()
    return line if len(line) <= longest else f"{line[: longest - 1]}…"
