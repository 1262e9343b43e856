"""NVIDIA GPUs to build for, by their compute capability: what all chips of a kind have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

PREFIX = "cuda-"


@dataclass(frozen=True, slots=True)
class Gpu:
    """compute: the capability, (major, minor). shared_bytes: of shared memory, the most that one block may ask for.
    registers: of 32 bits, the most of one thread."""

    name: str
    compute: tuple[int, int]
    shared_bytes: int
    registers: int = 255

    @property
    def arch(self) -> str:
        """NVIDIA's name of what code is made for."""
        return f"sm_{self.compute[0]}{self.compute[1]}"

    def runs_on(self, compute: tuple[int, int]) -> bool:
        """Whether a chip runs its code: one of the same major number, and no lesser minor one."""
        return compute[0] == self.compute[0] and compute[1] >= self.compute[1]


# Source: NVIDIA, CUDA C++ Programming Guide 13.0, "Technical Specifications per Compute Capability".
GPUS: Mapping[str, Gpu] = {
    g.name: g for g in (
        Gpu("sm80", (8, 0), 163 << 10), Gpu("sm90", (9, 0), 227 << 10), Gpu("sm100", (10, 0), 227 << 10),
    )
}  # fmt: skip
NAMED = (*(f"{PREFIX}{name}" for name in GPUS), f"{PREFIX}{'+'.join(GPUS)}")


def gpus(target: str) -> tuple[Gpu, ...]:
    """The kinds of chip that a target names; none of a target that is no GPU's.

    >>> [g.arch for g in gpus("cuda-sm80+sm90+sm100")], gpus("cpu")
    (['sm_80', 'sm_90', 'sm_100'], ())
    """
    return tuple(GPUS[n] for n in target.removeprefix(PREFIX).split("+")) if target in NAMED else ()
