"""Products with weights."""

from __future__ import annotations

from ...ir.graph import Node
from .emit import Emit
from .epilogue import COLUMN, Epilogue
from .kernels.gemm import Shape, gemm
from .lower import lowers
from .steps import Chain, Step

WIDTH = 32  # columns of a panel


def product_shape(k: int, n: int, lanes: int) -> Shape:
    """Tiles for sizes that a model fixes. 8 rows of two vectors: 16 sums, which hide a multiply-add's latency."""
    return Shape(k, n, lanes, WIDTH, 8, 128, max(1, min(k, 1024)))


BIASED = Epilogue((COLUMN,), Chain(("float32", "float32"), (), (Step("add", (0, 1)),)))


@lowers("panel_linear")
def _panel_linear(to: Emit, node: Node) -> None:
    x, panels, *bias = (to.array(v) for v in node.inputs if v is not None)
    n, k = node.attrs["columns"], panels.shape[1]
    assert isinstance(k, int)
    epilogue = BIASED if bias else Epilogue()
    y = to.result(node)
    static = {"shape": product_shape(k, n, to.lanes), "epilogue": epilogue}
    rows = node.output.type.elements // n
    to.call(gemm, static, [x, panels, *bias], [y], [rows, k], order=[x, panels, y, *bias])
