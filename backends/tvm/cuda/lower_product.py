"""Products with weights on a GPU."""

from __future__ import annotations

from collections.abc import Sequence

from ....ir import dims
from ....ir.graph import Node
from ..emit import NAMES, Emit, View
from ..epilogue import Epilogue
from ..lower import PARTS
from .kernels.elementwise import per_block
from .kernels.gemm import gemm
from .kernels.gemm_mma import gemm_mma
from .kernels.gemv import FEW, gemv, gemv_blocks
from .kernels.product import Cut, Product
from .warp import CHUNK, WORDS

WIDTH = 64  # columns of a panel
MOST = (1 << 31) - 1
# By tensor cores, how a product of from so many rows to so many is cut: few tiles must go around among many
# multiprocessors, and of many rows large tiles read less.
MANY = ((FEW[-1][1] + 1, 512, Cut(64, 64, 32, 32, 32, 4)), (513, MOST, Cut(128, 256, 32, 64, 64, 4)))


def takes(node: Node) -> bool:
    """Whether a node is a product of panels that are the kernels'."""
    if node.op.name != "panel_linear":
        return False
    x, panels = (v.type for v in node.inputs[:2] if v is not None)
    packed = panels.rank == 3 and panels.shape[2] == WIDTH and panels.dtype.is_float
    return packed and x.dtype.name in ("f32", "bf16", "f16")


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
    tensor = by_tensor_cores(form, x)
    many = MANY if tensor else ((FEW[-1][1] + 1, MOST, None),)
    for low, high, cut in many:
        if isinstance(rows, int) and not low <= rows <= high:
            continue
        tile = form.tile if cut is None else cut
        grid = per_block(rows, tile.rows) * per_block(n, tile.columns)
        make, static = (gemm, {"form": form}) if cut is None else (gemm_mma, {"form": form, "cut": cut})
        to.call(make, static, [x, panels, *more], [y], [rows], order=order, grid=grid, only=(rows, low, high))


def by_tensor_cores(form: Product, x: View) -> bool:
    """Whether numbers are of 16 bits, and lie so that 16 bytes of them can be copied at once."""
    aligned = form.k % CHUNK == 0 and dims.mod(x.offset, CHUNK) == 0
    return form.given == form.held and form.given in WORDS and aligned


