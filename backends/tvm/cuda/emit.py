"""Collects the calls of one entry for a GPU: kernels of its own in place of those for CPUs, and how many blocks run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, wraps
from typing import Any

from ....compiler.hardware.gpus import Gpu
from ....ir import dims
from ....ir.diagnostics import BuildError
from ....ir.dims import Dim
from ..emit import Emit, Make, View
from ..kernels import cache, elementwise, index, matmul, norm, rotary, softmax
from ..tiles import Chip
from .block import BLOCK, of_blocks
from .kernels import elementwise as own_elementwise
from .kernels import matmul as own_matmul
from .kernels import norm as own_norm
from .kernels import rows as own_rows

ONE_LANE = Chip(lanes=1)  # a thread computes no vectors
MOST_BLOCKS = 1024  # of a kernel whose threads each take a share of any size


@dataclass(frozen=True)
class Own:
    """A GPU's kernel with the slots of one for CPUs, but for scratch memory, and how many blocks it takes."""

    make: Make
    grid: Callable[[Mapping[str, Any], Sequence[Dim]], Dim]


OWN: dict[Make, Own] = {
    elementwise.elementwise: Own(own_elementwise.elementwise, own_elementwise.elementwise_grid),
    norm.norm: Own(own_norm.norm, own_norm.norm_grid),
    softmax.softmax: Own(own_norm.softmax, own_norm.softmax_grid),
    rotary.rotary: Own(own_rows.rotary, own_rows.rotary_grid),
    cache.cache_write: Own(own_rows.cache_write, own_rows.cache_write_grid),
    index.gather: Own(own_rows.gather, own_rows.gather_grid),
    index.panel_gather: Own(own_rows.panel_gather, own_rows.panel_gather_grid),
    matmul.matmul: Own(own_matmul.matmul, own_matmul.matmul_grid),
}


@dataclass(eq=False)
class GpuEmit(Emit):
    """gpu: the kind of chip."""

    gpu: Gpu | None = None

    def call(
        self, make: Make, static: Mapping[str, Any], reads: Sequence[View], writes: Sequence[View],
        sizes: Sequence[Dim] = (), scratch: Dim = 0, order: Sequence[View] | None = None, reports: bool = False,
        apart: bool = False, grid: Dim | None = None, only: tuple[Dim, int, int] | None = None, cut: Any = None,
        own: Sequence[View] = (),
    ) -> None:  # fmt: skip
        """grid: given for a kernel that is a GPU's. Of how work is cut nothing is made use of."""
        if grid is None and make in OWN:
            ours = OWN[make]
            make, grid, scratch = ours.make, ours.grid(static, sizes), 0
        elif grid is None:
            if scratch != 0:
                raise BuildError(f"TVM has no kernel {make.__name__} for GPUs", found=", ".join(self.keys))
            grid = dims.minimum(MOST_BLOCKS, dims.floordiv(_elements(writes) + (BLOCK - 1), BLOCK))
            make, sizes = on_blocks(make), (*sizes, grid * BLOCK)
        super().call(make, static, reads, writes, sizes, scratch, order, reports, apart, grid, only, None, own)


def _elements(views: Sequence[View]) -> Dim:
    total: Dim = 1
    for view in views:
        total = dims.maximum(total, dims.product(view.shape))
    return total


@lru_cache
def on_blocks(make: Make) -> Make:
    """A kernel for CPUs, each thread of a GPU doing the share of one of a CPU's."""

    @wraps(make)
    def made(name: str, **static: Any) -> Any:
        with of_blocks():
            return make(name, **static)

    return made
