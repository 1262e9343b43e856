"""Products with weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ...ir.dtypes import bf16, f32
from ...ir.graph import Node
from .emit import NAMES, Emit, View
from .epilogue import FULL, Epilogue
from .kernels.gemm import PAIR, Shape, gemm
from .lower import PARTS, lowers
from .tiles import USUAL, WIDTH, Chip, cuts, tiles_of


def product_shape(
    k: int, n: int, chip: Chip, held: str = "float32", option: str = USUAL, out: str = "float32"
) -> Shape:
    """k: of weights that are pairs, the pairs."""
    return Shape(k, n, chip.lanes, WIDTH, tiles_of(k, chip, cuts(chip)[option]), held, out)


@lowers("panel_linear")
def _panel_linear(to: Emit, node: Node) -> object:
    if not takes(node):
        return PARTS
    product(to, node, node, Epilogue(), [])
    return None


def takes(node: Node) -> bool:
    """Whether a node is a product of panels that are the kernel's."""
    if node.op.name != "panel_linear":
        return False
    x, panels = (v.type for v in node.inputs[:2] if v is not None)
    pairs = panels.rank == 4 and panels.shape[3] == 2 and x.dtype == panels.dtype == bf16
    return panels.shape[2] == WIDTH and (pairs or (panels.rank == 3 and x.dtype == f32))


def product(to: Emit, node: Node, last: Node, epilogue: Epilogue, arrays: Sequence[View]) -> None:
    """x · w of a node, its bias, and an epilogue that reads `arrays`; the result is that of `last`."""
    x, panels, *bias = (to.array(v) for v in node.inputs if v is not None)
    n, k = node.attrs["columns"], panels.shape[1]
    assert isinstance(k, int)
    more, y = [*bias, *arrays], to.result(last)
    held = NAMES[panels.dtype.name] if len(panels.shape) == 3 else PAIR
    shape = product_shape(k, n, to.chip, held, to.option(node), NAMES[y.dtype.name])
    static = {"shape": shape, "epilogue": epilogue.biased() if bias else epilogue}
    rows, order = node.output.type.elements // n, [x, panels, y, *more]
    own, others = beside(arrays, epilogue)
    to.call(gemm, static, [x, panels, *bias, *others], [y], [rows, k], scratch=shape.scratch, order=order,
            cut=(replace(shape, out=""), rows), own=own)  # fmt: skip


def beside(arrays: Sequence[View], epilogue: Epilogue) -> tuple[list[View], list[View]]:
    """The arrays of an epilogue that lie as the result does, and the others."""
    pairs = list(zip(arrays, epilogue.arrays, strict=True))
    return [a for a, how in pairs if how == FULL], [a for a, how in pairs if how != FULL]
