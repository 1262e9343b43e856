"""Named CPUs to build for on another one: what all chips of a kind have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

PREFIX = "cpu-"


@dataclass(frozen=True, slots=True)
class Baseline:
    """arch: as `platform.machine()` says it. features: in our words. llvm: what LLVM calls the chip, more: and what it
    has besides."""

    name: str
    arch: str
    features: frozenset[str]
    llvm: str
    more: tuple[str, ...] = ()


_V3 = frozenset({"avx", "avx2", "fma", "f16c", "bmi1", "bmi2", "movbe", "lzcnt"})
_V4 = _V3 | {f"avx512{part}" for part in ("f", "bw", "cd", "dq", "vl")}
# Source: System V ABI for AMD64, "Micro-Architecture Levels"; Arm Neoverse N1 is Armv8.2 with Advanced SIMD.
BASELINES: Mapping[str, Baseline] = {
    b.name: b for b in (
        Baseline("x86-64-v3", "x86_64", _V3, "x86-64-v3"),
        Baseline("x86-64-v4", "x86_64", _V4, "x86-64-v4"),
        Baseline("x86-64-v4-vnni", "x86_64", _V4 | {"avx512_vnni"}, "x86-64-v4", ("avx512vnni",)),
        Baseline("x86-64-v4-bf16", "x86_64", _V4 | {"avx512_vnni", "avx512_bf16"}, "x86-64-v4",
                 ("avx512vnni", "avx512bf16")),
        Baseline("neoverse", "aarch64", frozenset({"neon"}), "neoverse-n1"),
    )
}  # fmt: skip
NAMED = (*(f"{PREFIX}{name}" for name in BASELINES), f"{PREFIX}x86-64-v3+v4")


def bodies(target: str) -> tuple[Baseline, ...]:
    """The baselines of a target, the most able first; none of `cpu`, which is the machine at hand.

    >>> [b.name for b in bodies("cpu-x86-64-v3+v4")]
    ['x86-64-v4', 'x86-64-v3']
    """
    if target not in NAMED:
        return ()
    first, *more = target.removeprefix(PREFIX).split("+")
    stem = first.rpartition("-")[0]
    names = [first, *(f"{stem}-{level}" for level in more)]
    return tuple(sorted((BASELINES[n] for n in names), key=lambda b: -len(b.features)))
