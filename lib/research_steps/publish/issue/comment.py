"""A comment of an experiment issue, and the lines by which ours are known.

Neither GitHub nor a file can be asked to take a comment only once, so a comment says in its first line which record it
shows, and whoever posts looks for that line first. The second line anchors the logbook: it names the link of the
record's entry, which follows from everything above that entry.
"""

import re
from dataclasses import dataclass

_MARKER = re.compile(r"\A<!-- research-steps (record [0-9a-f]{64}|heartbeat [\w:.+-]+) -->\r?(?:\n|\Z)")
_CHAIN = re.compile(r"<!-- research-steps chain [0-9a-f]{64} -->")


@dataclass(frozen=True)
class Comment:
    """One comment as it is now. What an outsider wrote is no receipt, whatever it says."""

    id: int
    body: str
    author: str = ""
    outsider: bool = False

    @property
    def marker(self) -> str:
        """What the comment shows, such as 'record <sha256>'; empty for one that people wrote."""
        match = None if self.outsider else _MARKER.match(self.body)
        return match[1] if match else ""

    def repeats(self, first: "Comment") -> bool:
        """Whether this is the same update by the same author, posted twice; links may have changed in between.

        One that somebody answered in, below a copy of it, is theirs.
        """
        return self.author == first.author and _without_links(self.body) == _without_links(first.body)


def marked(marker: str, text: str) -> str:
    """A comment's body with its marker."""
    return f"<!-- research-steps {marker} -->\n{text}"


def chained(link: str, text: str) -> str:
    """An update with the link of its entry in the logbook, which is empty while no logbook here holds the entry."""
    return f"<!-- research-steps chain {link} -->\n{text}" if link else text


def _without_links(body: str) -> list[str]:
    """An update without its links, which say where things are by now, in the logbook too."""
    lines = body.replace("\r\n", "\n").rstrip().split("\n")
    return [line for line in lines if not (line.startswith(("  - ", "- Command: ")) or _CHAIN.fullmatch(line))]
