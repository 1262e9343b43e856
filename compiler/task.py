"""What the user asked for: one frozen value that every pass receives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..ir.dims import Range
from .capabilities import Capabilities
from .hardware.machine import Machine
from .tuning import Table

if TYPE_CHECKING:
    from .experts.routing import Routing


@dataclass(frozen=True, slots=True)
class Precision:
    """The one precision policy: element types by role, by their short names.

    blocks: how the matrices of linear layers are held: "" as `weights` says, "int8" or "int4" in groups of so many
      bits, "stored" as the blocks in which the user's file has them.
    """

    weights: str = "f32"
    compute: str = "f32"
    accumulate: str = "f32"
    kv: str = "f32"
    gradients: str = "f32"
    optimizer: str = "f32"
    blocks: str = ""


@dataclass(frozen=True, slots=True)
class Task:
    """Machine, backend capabilities, precision, and the ranges of the symbols.

    fuse: False leaves every op as captured (for comparison and for bisecting).
    tuning: what was measured to be the fastest, where a pass may choose; model: the key of this model in it.
    routing: what its routers were seen to choose, where that was recorded. expert_memory_bytes: of all experts of a
      model together, where they are not all to be in memory.
    """

    machine: Machine
    capabilities: Capabilities
    precision: Precision = Precision()
    ranges: Mapping[str, Range] = field(default_factory=dict)
    fuse: bool = True
    tuning: Table = Table()
    model: str = ""
    routing: Routing | None = None
    expert_memory_bytes: int | None = None
