"""Under what a trial is measured, as far as that changes its result: the machine's kind, versions, environment.

Trials that differ in it can't be compared.
"""

import msgspec

from research_steps.records.model import Provenance, TrialRecord

PACKAGES = (
    "research-steps", "marin-core", "marin-levanter", "marin-haliax", "marin-fray", "jax", "jaxlib", "libtpu",
    "jax-triton", "jax-cuda12-plugin", "jax-cuda13-plugin", "triton", "torch", "equinox", "optax", "numpy", "scipy",
)  # fmt: skip
ENVIRONMENT = (
    "JAX_", "XLA_", "LIBTPU_", "TPU_", "CUDA_", "NCCL_", "OMP_", "MKL_", "OPENBLAS_", "MARIN_", "LEVANTER_",
    "RAGGED_DOT_",
)  # fmt: skip
# Where the store is and what code runs, which Marin's processes tell each other, and a record says in its own way.
UNRECORDED = frozenset(("MARIN_PREFIX", "MARIN_PROVENANCE"))
# What decides how fast a kernel is; the rest only says where the record comes from.
_MATTERING = frozenset(PACKAGES) - {"research-steps", "marin-core", "marin-fray"}
# What these name are places on a machine, and decide nothing. Importing Marin sets TPU_SKIP_MDS_QUERY, so that it is in
# one mode's environment and not in the other's.
PLACES = (
    "MARIN_", "JAX_COMPILATION_CACHE", "JAX_PERSISTENT_CACHE", "CUDA_VISIBLE_DEVICES", "TPU_NAME", "TPU_WORKER",
    "TPU_SKIP_MDS_QUERY",
)  # fmt: skip


class Facts(msgspec.Struct, frozen=True):
    """What a machine is to the trials that run on it."""

    host: str
    device_class: str
    python: str
    packages: dict[str, str]
    env: dict[str, str]

    @property
    def conditions(self) -> dict[str, str]:
        """Under what a trial is measured there, as far as that changes its result."""
        return conditions_at(self.device_class, self)


def conditions(record: TrialRecord) -> dict[str, str]:
    """Under what a trial was measured, as far as that changes its result: trials that differ in it can't be compared."""
    return conditions_at(record.device_class, record.provenance)


def conditions_at(device_class: str, source: Facts | Provenance) -> dict[str, str]:
    """The same of a kind of machine, with the versions and the environment of this source."""
    return {
        "device class": device_class,
        "python": source.python.rpartition(".")[0],
        **{name: version for name, version in source.packages.items() if name in _MATTERING},
        **{name: value for name, value in source.env.items() if not name.startswith(PLACES)},
    }
