"""Takes every op, builds, and refuses to run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np

from ...compiler.capabilities import Capabilities
from ...compiler.hardware.machine import Machine
from ...compiler.plan import Plan
from ...ir import ops  # noqa: F401  (fills OPS)
from ...ir.diagnostics import RunError
from ...ir.dtypes import DTYPES
from ...ir.op import OPS
from ..base import Built, Profiled, Runner, Say
from ..signature import known_entry, signatures


class Null:
    """For the tests of the compiler and the command line: no library, no numbers."""

    name = "null"

    def versions(self) -> dict[str, str]:
        return {}

    def capabilities(self, machine: Machine) -> Capabilities:
        return Capabilities(self.name, ops=frozenset(OPS), dtypes=frozenset(DTYPES))

    def ready(self, machine: Machine) -> None:
        """Nothing is needed."""

    def build(self, plan: Plan, out: Path, weights: Path, progress: Say | None = None) -> Built:
        """Writes the names of the entries, so that a bundle of it is a bundle."""
        (out / "entries.txt").write_text("".join(f"{entry}\n" for entry in plan.entries))
        return Built(out, weights, signatures(plan))

    def open(self, built: Built, *, threads: int | None = None) -> Runner:
        return NullRunner(built)


class NullRunner:
    """Checks inputs as every runner does, then says that there is nothing to run."""

    def __init__(self, built: Built) -> None:
        self.built = built

    def run(
        self, entry: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None
    ) -> dict[str, np.ndarray]:
        """Raises: RunError, always."""
        self._refuse(entry, inputs, outputs)

    def bind(self, entry: str, held: Mapping[str, np.ndarray]) -> NoReturn:
        """Raises: RunError, always."""
        raise RunError("the null backend runs nothing", hint="compile with --backend onnxruntime")

    def profile(self, entry: str, inputs: Mapping[str, np.ndarray], *, warmup: int, repeats: int) -> Profiled:
        """Raises: RunError, always."""
        self._refuse(entry, inputs, None)

    def _refuse(self, entry: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str] | None) -> NoReturn:
        signature = known_entry(entry, self.built.entries)
        signature.bind(inputs)
        signature.select(outputs)
        raise RunError("the null backend runs nothing", hint="compile with --backend onnxruntime")

    def close(self) -> None:
        """Nothing is held."""
