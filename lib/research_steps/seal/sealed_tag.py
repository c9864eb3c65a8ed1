"""A sealed tag held against itself: the object in git, the bundle, and the logbook with its records in the tag's tree.

The message is written again from the bundle, and the claims are made again from the trials in the tag. That all of it
was made up together is told only by what lies elsewhere and names the tag's commit: see `seal.verify`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest

from research_steps.evidence.founded import claimed
from research_steps.evidence.recomputed import recompute, unlike
from research_steps.evidence.standing import about, standing
from research_steps.git import Checkout
from research_steps.publish.logbook.verify import Files, check_files
from research_steps.records.series import Series
from research_steps.seal import bundle, bundle_text


@dataclass(frozen=True)
class Tag:
    """A sealed tag: the commit that was sealed as far as it is here, else the one that it names, and what lies there.

    `bundle` is None where an older version made it.
    """

    name: str
    commit: str
    files: Files
    bundle: bundle.Bundle | None


def damage(checkout: Checkout, tag: Tag) -> Iterator[str]:
    """Everything in which a tag does not agree with itself."""
    yield from (f"tag {tag.name}, in its own tree: {problem}" for problem in check_files(tag.files))
    if tag.bundle is None:
        return
    sealed, series = tag.bundle, tag.bundle.declared
    about = (*_contents(tag, sealed), *_object(checkout, tag, sealed, series), *_evidence(checkout, tag, sealed, series))
    yield from (f"tag {tag.name}: {problem}" for problem in about)


def _contents(tag: Tag, sealed: bundle.Bundle) -> Iterator[str]:
    """What the bundle says of the tag and of the logbook that lie beside it."""
    if {sealed.tag, f"{sealed.topic}/{sealed.id}", f"{sealed.topic}/{sealed.seal.id}"} != {tag.name}:
        yield f"its bundle says that it belongs to {sealed.tag}"
    if tag.files.contents.tips != set(sealed.logbook):
        yield "its logbook does not end where its bundle says that it does"
    for ref in sealed.records:
        if ref.sha256 not in tag.files.hashes:
            yield f"its bundle rests on record {ref.sha256[:12]} of {ref.id}, which is not in the tag"


def _object(checkout: Checkout, tag: Tag, sealed: bundle.Bundle, series: Series) -> Iterator[str]:
    """The object of git that the name leads to, where it names the commit that was sealed."""
    ref = f"refs/tags/{tag.name}"
    if checkout.commit_of(ref) != tag.commit:
        return
    fields = ("objecttype", "taggername", "taggeremail", "contents:signature", "contents")
    told = checkout.git("for-each-ref", f"--format={'%00'.join(f'%({field})' for field in fields)}", ref)
    kind, name, address, signature, text = told.decode("utf-8", "replace").removesuffix("\n").split("\0")
    if kind != "tag":
        yield "it is a lightweight tag, and was sealed as an annotated one, which has a message and a tagger"
        return
    message = bundle_text.tag_message(sealed, series), text.removesuffix(signature)
    for wanted, found in zip_longest(*(_lines(side, sealed) for side in message), fillvalue=""):
        if wanted != found:
            yield f"its message says {found!r}, and its bundle {wanted!r}: the tag was made anew, or the bundle changed"
            break
    if sealed.tagger and f"{name} {address}" != sealed.tagger:
        yield f"{name} {address} made it, and {sealed.tagger} sealed it: the tag was made anew"
    if sealed.signed and not signature:
        yield "it was sealed with a signature, and has none: the tag was made anew"


def _lines(message: str, sealed: bundle.Bundle) -> list[str]:
    lines = [line.rstrip() for line in message.rstrip().split("\n")]
    # When it was sealed and by whom, a bundle of schema 2 does not say.
    return [line for line in lines if sealed.recorded or not line.startswith(f"Experiment {sealed.id}, recorded ")]


def _evidence(checkout: Checkout, tag: Tag, sealed: bundle.Bundle, series: Series) -> Iterator[str]:
    """What the bundle takes from the records in the tag."""
    if series.topic != sealed.topic:
        yield f"its bundle holds the series {series.topic!r}: expected {sealed.topic!r}"
    known = tag.files.records
    entries = [known.entries[ref.sha256] for ref in sealed.records if ref.sha256 in known.entries]
    if not entries:
        yield "its bundle rests on no entry"
        return
    sources = [entry.record.provenance for entry in entries]
    if (sealed.commit, sealed.patch) not in [(source.commit, source.patch) for source in sources]:
        yield f"its bundle says that it was measured at {sealed.commit[:12]}, and its records that it was elsewhere"
    elif checkout.commit_of(sealed.commit) and not checkout.is_ancestor(sealed.commit, tag.commit):
        yield f"commit {sealed.commit[:12]}, at which it was measured, is not in its history"
    if {given.command for given in sealed.commands} != {source.command for source in sources}:
        yield "its bundle names other commands than its records"
    records = [entry.record for entry in entries]
    for claim, why in unlike(series, sealed.claims, records):
        yield f"its bundle claims {claimed(claim)}: {why}"
    left_out = {about(claim) for claim in standing(records)} - {about(claim) for claim in sealed.claims}
    if left_out:
        yield f"its bundle leaves out {len(left_out)} of the claims that its records make"
    yield from recompute(series, known, entries).not_following
