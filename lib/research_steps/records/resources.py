"""What a step asks of the machine that measures it, in plain values, so that a thread file loads nothing for it.

On a cluster its engine finds such a machine. Where there is no cluster the thread's own machine measures.
"""

import re
from dataclasses import dataclass

from research_steps.errors import UsageError

_RAM = re.compile(r"[1-9][0-9]*(\.[0-9]+)?\s*[kmgt](i?b)?", re.IGNORECASE)


@dataclass(frozen=True)
class Resources:
    """One machine, or a part of it: CPU cores, memory ('4g'), and a TPU slice of one host by its type ('v4-8') or
    `gpus` GPUs of a type ('H100')."""

    cpu: float = 1
    ram: str = "4g"
    tpu: str = ""
    gpu: str = ""
    gpus: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.cpu, int | float) or not 0 < self.cpu < float("inf"):
            raise UsageError(f"Resources have cpu={self.cpu!r}: expected a number of cores above 0.")
        if not isinstance(self.ram, str) or not _RAM.fullmatch(self.ram):
            raise UsageError(f"Resources have ram={self.ram!r}: expected an amount such as '4g' or '512m'.")
        if self.tpu and self.gpu:
            raise UsageError(f"Resources ask for the TPU {self.tpu!r} and the GPU {self.gpu!r}: expected one of them.")
        for name in ("tpu", "gpu"):
            if not isinstance(getattr(self, name), str):
                raise UsageError(f"Resources have {name}={getattr(self, name)!r}: expected a type, as 'v4-8' or 'H100'.")
        if not isinstance(self.gpus, int) or self.gpus < 1 or (self.gpus > 1 and not self.gpu):
            raise UsageError(
                f"Resources have gpus={self.gpus!r} and gpu={self.gpu!r}: expected a number of 1 or more, and the type "
                "of GPU."
            )

    @property
    def kind(self) -> dict[str, str]:
        """What of it decides how fast something runs there."""
        device = self.tpu or (f"{self.gpus} x {self.gpu}" if self.gpu else f"{self.cpu:g} CPU")
        return {"asked for": device}
