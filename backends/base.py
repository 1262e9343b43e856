"""A backend is three promises: what it can do, how it builds, how it opens what it built."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from ..compiler.capabilities import Capabilities
from ..compiler.hardware.machine import Machine
from ..compiler.plan import Plan
from .signature import Signature, TensorSpec

Arrays = Mapping[str, np.ndarray]
WEIGHTS = "weights.safetensors"
Say = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Built:
    """What a backend wrote, and what it must be told to open it again.

    folder:  the backend's own folder.
    weights: the safetensors file with the final weights, under the names of the program's table.
    entries: how each entry is called.
    options: small JSON values of the backend's own (file names, provider).
    """

    folder: Path
    weights: Path
    entries: Mapping[str, Signature]
    options: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class KernelTime:
    """One kernel of one run.

    key:    the node of the plan that it computes (`ir.walk.Step.key`); several kernels may bear one node's key, and a
            kernel that computes several nodes bears the key of the one that anchors it. "" is work of no node.
    kernel: what the backend calls it.
    keys:   all nodes that it computes, where it is more than the one.
    start_s: since the run's start.
    """

    key: str
    kernel: str
    start_s: float
    seconds: float
    keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Profiled:
    """Runs of one entry: `totals_s` without profiling, `profiled_s` with it, interleaved; the kernels of each of those.

    The difference of the two medians is what profiling itself costs.
    function: of the program, which the entry chose for these inputs.
    clock_s, gap_s: what profiling itself adds to each kernel's seconds, which is still in them, and after each kernel.
    """

    function: str
    totals_s: tuple[float, ...]
    profiled_s: tuple[float, ...]
    runs: tuple[tuple[KernelTime, ...], ...]
    clock_s: float = 0.0
    gap_s: float = 0.0


class Bound(Protocol):
    """An entry bound to the arrays that it writes over: caches that stay in place from one run to the next."""

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """One run on the other inputs; gives the outputs that are none of the bound arrays. Raises: RunError."""
        ...


class Runner(Protocol):
    """An opened program."""

    def run(
        self, entry: str, inputs: Arrays, outputs: Sequence[str] | None = None
    ) -> dict[str, np.ndarray]:
        """Runs an entry once; `outputs` names those wanted, all by default. The inputs are left as they are.

        Raises: RunError on inputs that do not fit, or outputs that the entry does not have.
        """
        ...

    def bind(self, entry: str, held: Arrays) -> Bound:
        """An entry that writes over these arrays: the inputs that `Signature.aliases` names, C-contiguous.

        held: may also name inputs that it only reads, whose arrays stay the same from run to run. They are given to
        each run all the same, and a backend need not copy them.
        Raises: RunError on arrays that do not fit.
        """
        ...

    def profile(self, entry: str, inputs: Arrays, *, warmup: int, repeats: int) -> Profiled:
        """Runs an entry `warmup` times and then `repeats` times, without profiling and with it in turns.

        Raises: RunError on inputs that do not fit, or where the backend cannot time its kernels.
        """
        ...

    def close(self) -> None:
        """Frees what it holds."""
        ...


class Backend(Protocol):
    """Builds under one folder and opens from it; decides nothing about fusion."""

    name: str

    def versions(self) -> dict[str, str]:
        """The libraries that its files will run on, with their versions."""
        ...

    def capabilities(self, machine: Machine) -> Capabilities:
        """What it takes on that machine. Raises: BuildError where its compiler is missing, or takes no such machine."""
        ...

    def ready(self, machine: Machine) -> None:
        """Cheap, to ask before work begins. Raises: BuildError where something that `build` needs is missing here."""
        ...

    def build(self, plan: Plan, out: Path, weights: Path, progress: Say | None = None) -> Built:
        """Writes files under `out` only; `weights` is written before. Raises: BuildError.

        progress: called with (what is made, how many are done, of how many).
        """
        ...

    def open(self, built: Built, *, threads: int | None = None) -> Runner:
        """Opens what was built; `threads` None takes one per core. Raises: LoadError."""
        ...


__all__ = [
    "WEIGHTS", "Arrays", "Backend", "Bound", "Built", "KernelTime", "Profiled", "Runner", "Say", "Signature",
    "TensorSpec",
]  # fmt: skip
