"""What has to hold of a tag before anything of it is run: it agrees with itself, and with what names it here."""

from collections.abc import Callable

from research_steps.errors import RepositoryError
from research_steps.git import Checkout
from research_steps.journal.journal import Journal
from research_steps.journal.logbook_place import logbook_of
from research_steps.publish.logbook.verify import read_files
from research_steps.records.series import Series
from research_steps.seal import bundle, tags
from research_steps.seal.sealed_tag import Tag, damage
from research_steps.seal.verify import named_commits


def checked(checkout: Checkout, journal: Journal, name: str, say: Callable[[str], None]) -> bundle.Bundle:
    """The bundle of a tag that is as it was sealed, as far as that can be told here. Raises RepositoryError."""
    sealed = bundle.read(checkout, name)
    commit = checkout.commit_of(f"refs/tags/{name}") or ""
    sealed_as, problems = named_commits(read_files(logbook_of(checkout, journal.topic)), journal)
    named = sorted(sealed_as.get(name, ()))
    if named and named != [commit]:
        problems.append(f"tag {name} names {commit[:12]}, and was sealed as {' and '.join(sha[:12] for sha in named)}")
    problems += damage(checkout, Tag(name, commit, tags.files_at(checkout, journal.topic, commit), sealed))
    declared = journal.declared()
    if not problems and declared is not None:
        problems += [f"tag {name}: {differs}" for differs in other_series(sealed.declared, declared)]
    if problems:
        raise RepositoryError(
            f"{problems[0]}. So nothing of it is measured; 'research verify {journal.topic} --tag {name}' tells all."
        )
    if not named:
        say("neither the store nor the logbook here names its commit: that it was sealed so rests on whoever gave it")
    return sealed


def other_series(sealed: Series, other: Series) -> list[str]:
    """In what two series differ that should be one: its names, and what is better of a metric."""
    pairs = {name: (getattr(sealed, name), getattr(other, name)) for name in ("topic", "prefix")}
    theirs = {metric.name: metric for metric in other.metrics}
    for metric in sealed.metrics:
        if (same := theirs.get(metric.name)) is not None:
            pairs[metric.name] = (metric.direction, metric.target), (same.direction, same.target)
    return [f"its series has {name} {mine}, and here {here}" for name, (mine, here) in pairs.items() if mine != here]
