"""Taking over a logbook that people wrote: every byte of it stays, and entries follow at its end."""

from research_steps.errors import ConflictedLogbook, UsageError
from research_steps.files import is_there, write_aside
from research_steps.git import Checkout
from research_steps.journal.logbook_place import logbook_of
from research_steps.publish import rendering
from research_steps.publish.logbook import format as logbook_format
from research_steps.publish.logbook.file import lock
from research_steps.publish.logbook.handwritten import closing
from research_steps.publish.logbook.verify import read_files
from research_steps.records.series import check_prefix


def adopt(checkout: Checkout, topic: str, prefix: str, dry_run: bool = False) -> int:
    """Have entries follow at the end of a logbook that people wrote, unless this is a `dry_run`; returns how many bytes
    stay as they were.

    Whatever would hide what follows (a fence, a comment, a folded section that is still open) is closed first. In one
    that was adopted before, and in whose own part people went on writing, that is taken as it is by now.
    """
    check_prefix(topic, prefix)
    place = logbook_of(checkout, topic)
    path = place.path
    with lock(place):
        if not is_there(path):
            raise UsageError(
                f"There is no logbook {path} to adopt: expected one that people wrote by hand. Where the thread keeps "
                "it in another checkout, run the thread first."
            )
        files = read_files(place)
        old = files.logbook
        if logbook_format.is_ours(old):
            again = logbook_format.adopted_again(old)
            if again is None:
                raise UsageError(f"{path} needs no adoption: research-steps made or adopted it before.")
            if not dry_run:
                write_aside(path, again)
            return len(old)
        if logbook_format.conflicts(old):
            raise ConflictedLogbook(f"{path} has conflict markers of a git merge: resolve them, then adopt it.")
        if files.hashes & files.contents.records:
            raise UsageError(
                f"{path} holds entries of research-steps but lost the line '{logbook_format.MADE_HERE}' of its front "
                "matter: put it back, or restore the file with git."
            )
        above = old + closing(old).encode()
        marker = logbook_format.adoption_marker(above, topic, prefix)
        log = logbook_format.log_part(rendering.NOTHING_YET, logbook_format.HEADINGS[1])
        if not dry_run:
            behind = (above + marker + log)[len(old) :]
            write_aside(path, old + (logbook_format.crlf(behind) if logbook_format.is_crlf(old) else behind))
    return len(old)
