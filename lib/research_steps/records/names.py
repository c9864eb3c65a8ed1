"""Names: what a path, a ref of git, an address or a marker may be made of, and how each is spelled.

Whoever reads a record or an object reads these strictly, so that one with any other spelling is broken. Everything else
in a record is text, which is shown and never used.
"""

from typing import Annotated

import msgspec

# Between an ID and the first digits of a hash, where people tell apart two records that carry one ID.
_BY_HASH = "@"
HASH = "[0-9a-f]{64}"
COMMIT = "[0-9a-f]{40}(?:[0-9a-f]{24})?"
TOPIC = "[a-z0-9][a-z0-9_-]{0,63}"
PREFIX = "[A-Z](?:[A-Z0-9-]{0,30}[A-Z0-9])?"
EXPERIMENT_ID = f"{PREFIX}-[0-9]{{3,9}}"
# That of an entry, or of a trial below it.
RECORD_ID = rf"{EXPERIMENT_ID}(?:\.[0-9]{{2,9}})?"
HYPOTHESIS = "H[1-9][0-9]{0,8}"
METRIC = "[A-Za-z][A-Za-z0-9_./-]{0,63}"
TAG = f"{TOPIC}/{EXPERIMENT_ID}"
ATTACHED_FILE = "[0-9a-f]{12}-[A-Za-z0-9._-]{1,80}"
# 'owner/name', neither of which is '.' or '..'.
REPOSITORY = r"(?!\.\.?/)[A-Za-z0-9._-]+/(?!\.\.?\Z)[A-Za-z0-9._-]+"
# Nothing in it ends a link of Markdown.
WEB_ADDRESS = "https?://[A-Za-z0-9_.~:/?#@!$&'*+,;=%-]+"
MARKER = f"record {HASH}|heartbeat [0-9A-Za-z_:.+-]+|series {TOPIC} [0-9a-f]+"
# Of W&B.
PROJECT = r"[^/\\#?%:\x00-\x1f\x7f]{1,128}"
RUN_ID = "[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}"
RUN_FOLDER = f"(?:offline-)?run-[0-9]{{8}}_[0-9]{{6}}-{RUN_ID}"
# Of a file inside of a repository.
INNER_PATH = r"(?!/)(?!(?:[^\x00]*/)?\.\.?(?:/|\Z))[^\x00]+"


def named(text: str) -> tuple[str, str]:
    """The ID that people name a record by, and the first digits of its hash, empty where they gave none: 'MOE-HC-007' or
    'MOE-HC-007@1f2e3d4c5b6a'."""
    id, _, sha256 = text.partition(_BY_HASH)
    return id, sha256.lower()


def by_hash(id: str, sha256: str) -> str:
    """How people name the record with this hash, whatever else carries its ID."""
    return f"{id}{_BY_HASH}{sha256[:12]}"


def _spelled(pattern: str) -> msgspec.Meta:
    # Not '$', which leaves room for a line break.
    return msgspec.Meta(pattern=rf"^(?:{pattern})\Z")


Hash = Annotated[str, _spelled(HASH)]
Commit = Annotated[str, _spelled(COMMIT)]
Topic = Annotated[str, _spelled(TOPIC)]
ExperimentID = Annotated[str, _spelled(EXPERIMENT_ID)]
RecordID = Annotated[str, _spelled(RECORD_ID)]
# Under which the journal keeps attempts: a trial's identity, or an entry's ID.
Key = Annotated[str, _spelled(f"{HASH}|{EXPERIMENT_ID}")]
Attempt = Annotated[int, msgspec.Meta(ge=0)]
HypothesisID = Annotated[str, _spelled(HYPOTHESIS)]
# What is reserved in a sequence of a series.
ReservedName = Annotated[str, _spelled(f"{EXPERIMENT_ID}|{HYPOTHESIS}")]
MetricName = Annotated[str, _spelled(METRIC)]
TagName = Annotated[str, _spelled(TAG)]
Repository = Annotated[str, _spelled(REPOSITORY)]
WebAddress = Annotated[str, _spelled(WEB_ADDRESS)]
Marker = Annotated[str, _spelled(MARKER)]
ProjectName = Annotated[str, _spelled(PROJECT)]
RunID = Annotated[str, _spelled(RUN_ID)]
RunFolder = Annotated[str, _spelled(RUN_FOLDER)]
Nonce = Annotated[str, _spelled("[0-9a-f]{1,64}")]
PythonVersion = Annotated[str, _spelled("[0-9][0-9A-Za-z.+_-]{0,39}")]
InnerPath = Annotated[str, _spelled(INNER_PATH)]
# What git says of the commit that is checked out in a submodule, and that commit.
SubmoduleState = Annotated[str, _spelled(f"(?:[a-z ]+, )*{COMMIT}")]

# Empty where there is none.
MaybeHash = Annotated[str, _spelled(f"(?:{HASH})?")]
MaybeCommit = Annotated[str, _spelled(f"(?:{COMMIT})?")]
MaybeRecordID = Annotated[str, _spelled(f"(?:{RECORD_ID})?")]
MaybeTag = Annotated[str, _spelled(f"(?:{TAG})?")]
MaybeAttachedFile = Annotated[str, _spelled(f"(?:{ATTACHED_FILE})?")]
