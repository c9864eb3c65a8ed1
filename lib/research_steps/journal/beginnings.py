"""Whether what a store holds was begun there as everything is: an experiment ID reserved first, then an intent."""

from collections.abc import Iterator

from research_steps.errors import NewerObject
from research_steps.journal.journal import Journal
from research_steps.journal.objects import FOLDERS


def never_begun(journal: Journal) -> Iterator[str]:
    """The records of the store that have no intent, or an experiment ID that no step reserved, in sentences."""
    for subject in FOLDERS:
        for path in journal.attempts.never_begun(subject):
            # How a later version begins is not known here.
            if not isinstance(journal.objects.get(path, journal.objects.record), NewerObject):
                yield f"{journal.objects.where(path)} has no intent, which is written before anything begins: {_TRUST}"
    reserved = {id.id: id.step_key for id in journal.ids.reserved()}
    for stored in journal.entries().entries.values():
        record = stored.record
        if record.id not in reserved and not journal.ids.may_hold(record.id):
            yield f"{record.id}: the store holds its record, and no step reserved this ID there: {_TRUST}"
        elif reserved.get(record.id, record.step_key) != record.step_key:
            yield f"{record.id}: the store holds its record, and another step reserved this ID there: {_TRUST}"


_TRUST = "no run wrote it, and that it was measured rests on whoever writes to that store"
