"""Under what a trial is measured, as far as that changes its result: the machine's kind, versions, environment.

Trials that differ in it can't be compared.
"""

import msgspec

from research_steps.records.model import TrialRecord

PACKAGES = (
    "research-steps", "marin-core", "marin-levanter", "marin-haliax", "marin-fray", "jax", "jaxlib", "libtpu",
    "jax-triton", "jax-cuda12-plugin", "jax-cuda13-plugin", "triton", "torch", "equinox", "optax", "numpy", "scipy",
)  # fmt: skip
ENVIRONMENT = (
    "JAX_",
    "XLA_",
    "LIBTPU_",
    "TPU_",
    "CUDA_",
    "NCCL_",
    "OMP_",
    "MKL_",
    "OPENBLAS_",
    "MARIN_",
    "LEVANTER_",
    "RAGGED_DOT_",
)
# What decides how fast a kernel is; the rest only says where the record comes from.
_MATTERING = frozenset(PACKAGES) - {"research-steps", "marin-core", "marin-fray"}
# What these name are places on a machine, and decide nothing. Importing Marin sets TPU_SKIP_MDS_QUERY, so that it is in
# one mode's environment and not in the other's.
PLACES = (
    *("MARIN_", "JAX_COMPILATION_CACHE", "JAX_PERSISTENT_CACHE", "CUDA_VISIBLE_DEVICES"),
    *("TPU_NAME", "TPU_WORKER", "TPU_SKIP_MDS_QUERY"),
)


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
        return _conditions(self.device_class, self.python, self.packages, self.env)


def conditions(record: TrialRecord) -> dict[str, str]:
    """Under what a trial was measured, as far as that changes its result: trials that differ in it can't be compared."""
    made = record.provenance
    return _conditions(record.device_class, made.python, made.packages, made.env)


def _conditions(machine: str, python: str, packages: dict[str, str], env: dict[str, str]) -> dict[str, str]:
    return {
        "device class": machine,
        "python": python.rpartition(".")[0],
        **{name: version for name, version in packages.items() if name in _MATTERING},
        **{name: value for name, value in env.items() if not name.startswith(PLACES)},
    }
