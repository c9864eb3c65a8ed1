"""What lies in a step's output beside what its function wrote: Marin's status, its lock and what was returned. Both
generations lay that out alike, and only have it in other modules."""

import json
from dataclasses import dataclass
from importlib.util import find_spec

from research_steps.errors import StoreError
from research_steps.journal.store import Store

if find_spec("marin.execution.step_status") is not None:
    from marin.execution.step_status import STATUS_SUCCESS, StatusFile, get_status_path
    from rigging.filesystem.distributed_lock import Lease, create_lock
    from rigging.filesystem.factory import url_to_fs
else:
    from marin.execution.executor_step_status import STATUS_SUCCESS, StatusFile, get_status_path
    from rigging.distributed_lock import Lease, create_lock
    from rigging.filesystem import url_to_fs


@dataclass(frozen=True)
class StepLock:
    """Marin's lock of a step: where it lies, in words and in the store, and the worker that has it."""

    path: str
    name: str
    holder: str


def lock_of(store: Store, output_path: str) -> StepLock | None:
    """The lock that Marin waits for before it runs the step with this output path; None where there is none, and for
    a step that doesn't lie in the store."""
    if not output_path.startswith(f"{store.url}/"):
        return None
    path = f"{get_status_path(output_path)}.lock"
    name = path.removeprefix(f"{store.url}/")
    data = store.read(name)
    if not data or store.read(name.removesuffix(".lock")) == STATUS_SUCCESS.encode():
        return None
    try:
        lease = Lease(**json.loads(data))
    except (ValueError, TypeError):
        # It is just being written.
        return None
    return None if lease.is_stale() else StepLock(path, name, lease.worker_id)


def release(lock: StepLock) -> None:
    """Give up a lock in place of its holder, unless another worker has it by now. Raises StoreError."""
    try:
        create_lock(lock.path, worker_id=lock.holder).release()
    except Exception as error:
        raise StoreError(f"Marin's lock {lock.path} could not be removed: {type(error).__name__}: {error}") from error


def has_ended(output_path: str) -> bool:
    """Whether what the step with this output path puts out is there."""
    return bool(StatusFile(output_path, worker_id="research").status == STATUS_SUCCESS)


def forget(output_path: str) -> None:
    """Clear the status of the step with this output path, so that it runs again."""
    status = StatusFile(output_path, worker_id="research")
    if status.fs.exists(status.path):
        status.fs.rm(status.path)


def read_outputs(output_path: str, pattern: str) -> list[str]:
    """The text files below an output path with these names, '*' being any folder."""
    store, path = url_to_fs(output_path)
    return [store.read_text(found) for found in sorted(store.glob(f"{path}/{pattern}"))]
