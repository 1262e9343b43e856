"""A backend is three promises: what it can do, how it builds, how it opens what it built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from ..compiler.capabilities import Capabilities
from ..compiler.hardware.machine import Machine
from ..compiler.plan import Plan

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input or output as a user sees it; `shape` holds ints and dims in text form (`batch`)."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class Built:
    """What a backend wrote: the folder, and what it must be told to open it again.

    options: small JSON values of the backend's own (file names, provider).
    """

    folder: Path
    options: Mapping[str, object] = field(default_factory=dict)


class Runner(Protocol):
    """An opened program."""

    def run(self, entry: str, inputs: Arrays, outputs: list[str] | None = None) -> dict[str, np.ndarray]:
        """Runs an entry once. Raises: RunError on inputs that do not fit."""
        ...

    def close(self) -> None:
        """Frees what it holds."""
        ...


class Backend(Protocol):
    """Builds under one folder and opens from it; decides nothing about fusion."""

    name: str

    def capabilities(self, machine: Machine) -> Capabilities: ...

    def build(self, plan: Plan, out: Path) -> Built: ...

    def open(self, built: Built, *, threads: int | None = None) -> Runner: ...
