"""Products with weights."""

from __future__ import annotations

from ...ir.graph import Node
from .emit import NAMES, Emit
from .epilogue import COLUMN, Epilogue
from .kernels.gemm import Shape, gemm
from .lower import lowers
from .steps import Chain, Step
from .tiles import WIDTH, Chip, tiles_of


def product_shape(k: int, n: int, chip: Chip, held: str = "float32") -> Shape:
    return Shape(k, n, chip.lanes, WIDTH, tiles_of(k, chip), held)


BIASED = Epilogue((COLUMN,), Chain(("float32", "float32"), (), (Step("add", (0, 1)),)))


@lowers("panel_linear")
def _panel_linear(to: Emit, node: Node) -> None:
    x, panels, *bias = (to.array(v) for v in node.inputs if v is not None)
    n, k = node.attrs["columns"], panels.shape[1]
    assert isinstance(k, int)
    epilogue = BIASED if bias else Epilogue()
    y = to.result(node)
    shape = product_shape(k, n, to.chip, NAMES[panels.dtype.name])
    static, rows = {"shape": shape, "epilogue": epilogue}, node.output.type.elements // n
    order = [x, panels, y, *bias]
    to.call(gemm, static, [x, panels, *bias], [y], [rows, k], scratch=shape.scratch, order=order)
