"""Products with, and rows of, quantised weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...compiler.capabilities import Blocks
from ...ir import dims
from ...ir.diagnostics import BuildError
from ...ir.dims import Dim
from ...ir.dtypes import f32, i8
from ...ir.graph import Node
from ...ir.ops.quantize import middle
from ...ir.tensor import TensorType
from .emit import NAMES, Emit, View
from .epilogue import Epilogue
from .kernels.quads import FEW, Form, quad_product, quad_rows, rounded_rows
from .lower import lowers
from .lower_product import beside

X_BITS, GROUPS = 8, (32, 64, 128)
MANY = (1 << 31) - 1
BLOCKS = frozenset(Blocks(bits, g, scheme) for bits in (4, 8) for g in GROUPS for scheme in ("centred", "offset"))


def _form(to: Emit, node: Node) -> Form:
    a, quads = node.attrs, node.inputs[0 if node.op.name == "quad_gather" else 1]
    assert quads is not None
    _, steps, width, _ = quads.type.shape
    assert isinstance(steps, int) and isinstance(width, int)
    zero = 0 if a["scheme"] == "offset" else middle(a["bits"])
    return Form(steps * 32 // a["bits"], a["columns"], a["bits"], a["group"], zero, width, to.lanes)


@lowers("quad_linear")
def _quad_linear(to: Emit, node: Node) -> None:
    product(to, node, node, Epilogue(), [])


def product(to: Emit, node: Node, last: Node, epilogue: Epilogue, arrays: Sequence[View]) -> None:
    """x · w of a node, its bias, and an epilogue that reads `arrays`; the result is that of `last`."""
    x, quads, scale, *rest = node.inputs
    zero, bias = (*rest, None, None)[:2]
    form = _form(to, node)
    m = node.output.type.elements // form.n
    rounded = rounded_of(to, to.array(x), form.k, form.group, (m, FEW + 1, MANY))
    held = [to.array(x), *rounded, *(to.array(v) for v in (quads, scale, zero) if v is not None)]
    more, y = [*([] if bias is None else [to.array(bias)]), *arrays], to.result(last)
    static: dict[str, Any] = {"form": form, "zero": zero is not None, "out": NAMES[y.dtype.name],
                              "epilogue": epilogue if bias is None else epilogue.biased()}  # fmt: skip
    own, others = beside(arrays, epilogue)
    reads = [*held, *more[: len(more) - len(arrays)], *others]
    to.call(quad_product, static, reads, [y], [m], scratch=form.scratch, order=[*held, y, *more],
            cut=(form, m), own=own)  # fmt: skip


def rounded_of(
    to: Emit, x: View, k: int, group: int, only: tuple[Dim, int, int] | None = None
) -> tuple[View, View, View]:
    """x [*m, k] in bytes, the scale of each group, and its sum; made once for all products of it. only: where it is
    done at all, as of `Emit.call`."""
    key = ("rounded", x.root, x.offset, group, only)
    if key not in to.shared:
        m = dims.floordiv(dims.product(x.shape), k)
        numbers = to.new(TensorType(i8, (m, k)))
        scale, total = (to.new(TensorType(f32, (m, k // group))) for _ in range(2))
        static = {"k": k, "group": group, "lanes": to.lanes}
        to.call(rounded_rows, static, [x], [numbers, scale, total], [m], only=only)
        to.shared[key] = (numbers, scale, total)
    found: tuple[View, View, View] = to.shared[key]
    return found


@lowers("quantized_matmul", "quantized_gather", "quantized_moe")
def _not_packed(to: Emit, node: Node) -> None:
    """Raises: BuildError. The compiler packs all of them whose numbers are weights."""
    raise BuildError(f"{node.op.name}: TVM's kernels take numbers that are weights, of 4 or 8 bits", where=node.where)


@lowers("quad_gather")
def _quad_gather(to: Emit, node: Node) -> None:
    quads, ids, scale, *rest = node.inputs
    form, zero = _form(to, node), (*rest, None)[0]
    given = [to.array(v) for v in (quads, ids, scale, zero) if v is not None]
    assert ids is not None
    static = {"form": form, "zero": zero is not None}
    to.call(quad_rows, static, given, [to.result(node)], [ids.type.elements], reports=True)
