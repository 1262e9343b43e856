"""Products with weights on a GPU."""

from __future__ import annotations

from collections.abc import Sequence

from ....ir.graph import Node
from ..emit import NAMES, Emit, View
from ..epilogue import Epilogue
from ..lower import PARTS
from .kernels.elementwise import per_block
from .kernels.gemm import Product, gemm
from .kernels.gemv import FEW, gemv, gemv_blocks

WIDTH = 64  # columns of a panel


def takes(node: Node) -> bool:
    """Whether a node is a product of panels that are the kernels'."""
    if node.op.name != "panel_linear":
        return False
    x, panels = (v.type for v in node.inputs[:2] if v is not None)
    return panels.shape[-1] == WIDTH and x.dtype.name in ("f32", "bf16", "f16") and panels.dtype.is_float


def panel_linear(to: Emit, node: Node) -> object:
    if not takes(node):
        return PARTS
    product(to, node, node, Epilogue(), [])
    return None


def product(to: Emit, node: Node, last: Node, epilogue: Epilogue, arrays: Sequence[View]) -> None:
    """x · w of a node, its bias, and an epilogue that reads `arrays`; the result is that of `last`. Of few rows by a
    kernel that reads each weight once for all of them."""
    x, panels, *bias = (to.array(v) for v in node.inputs if v is not None)
    n, k = node.attrs["columns"], panels.shape[1]
    assert isinstance(k, int)
    more = [*bias, *arrays]
    y = to.result(last)
    types = tuple(NAMES[v.dtype.name] for v in more)
    form = Product(k, n, WIDTH, NAMES[x.dtype.name], NAMES[panels.dtype.name], NAMES[y.dtype.name], types,
                   epilogue.biased() if bias else epilogue)  # fmt: skip
    rows, order = node.output.type.elements // n, [x, panels, y, *more]
    for low, high in FEW:
        if not isinstance(rows, int) or low <= rows <= high:
            to.call(gemv, {"form": form, "rows": high}, [x, panels, *more], [y], [rows], order=order,
                    grid=gemv_blocks(form), only=(rows, low, high))  # fmt: skip
    least = FEW[-1][1] + 1
    if not isinstance(rows, int) or rows >= least:
        grid = per_block(rows, form.tile.rows) * per_block(n, form.tile.columns)
        to.call(gemm, {"form": form}, [x, panels, *more], [y], [rows], order=order, grid=grid,
                only=(rows, least, (1 << 31) - 1))  # fmt: skip


