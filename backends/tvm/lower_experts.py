"""Layers of experts: the pairs of a token and an expert in the experts' order, two grouped products, a weighted sum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...ir import dims
from ...ir.dims import Dim
from ...ir.dtypes import f32, i64
from ...ir.graph import Node, Value
from ...ir.ops.moe import ACTIVATIONS
from ...ir.tensor import TensorType
from .emit import NAMES, Emit, View
from .kernels.expert_quads import expert_quads
from .kernels.experts import Shape, expert_order, expert_product, expert_rows, expert_sums
from .lower import PARTS, lowers
from .lower_move import converted
from .lower_quads import X_BITS, rounded_of
from .tiles import WIDTH, tiles_of

APART = 16  # numbers between rows, so that those of a tile do not all fall into the same lines of a cache
USUAL_ROWS = 16  # that an expert counts for at least, where the compiler decided nothing


@dataclass(frozen=True)
class Ordered:
    """The pairs of one layer in the experts' order. k: experts of each token."""

    k: int
    pairs: Dim
    pair_of: View
    slot_of: View
    first: View
    cost: View


@lowers("panel_moe")
def _panel_moe(to: Emit, node: Node) -> object:
    x, _, _, up, down, *biases = node.inputs
    if not _takes(node):
        return PARTS
    assert x is not None and up is not None and down is not None
    (experts, panels, d, _), (_, last, inner, _) = _sizes(up), _sizes(down)
    first_bias, second_bias = (*biases, None, None)[:2]
    lies = ordered(to, node, experts)
    gated = ACTIVATIONS[node.attrs["activation"]].gated
    rows = gathered(to, to.array(x), lies, d + APART)
    columns = panels * (WIDTH // 2 if gated else WIDTH)

    def shape(k: int, count: int, held: Value, x_row: int, y_row: int, activation: str, biased: bool) -> Shape:
        kind = NAMES[held.type.dtype.name]
        return Shape(experts, k, count, to.lanes, WIDTH, tiles_of(k, to.chip), x_row, y_row, kind, activation,
                     gated and bool(activation), biased)  # fmt: skip

    sizes = d + APART, columns + APART, last * WIDTH + APART
    hidden = _product(to, shape(d, panels, up, sizes[0], sizes[1], node.attrs["activation"], first_bias is not None),
                      rows, up, first_bias, lies)  # fmt: skip
    given = _product(to, shape(inner, last, down, sizes[1], sizes[2], "", second_bias is not None),
                     hidden, down, second_bias, lies)  # fmt: skip
    summed(to, node, given, lies, sizes[2])
    return None


def _takes(node: Node) -> bool:
    """Whether the kernels read such panels, and compute in such a type."""
    x, up, down = (node.inputs[i] for i in (0, 3, 4))
    assert x is not None and up is not None and down is not None
    return x.type.dtype == f32 and up.type.shape[-1] == down.type.shape[-1] == WIDTH


def _sizes(value: Value) -> list[int]:
    """The shape of a weight."""
    return [int(d) for d in value.type.shape if isinstance(d, int)]


def _last(value: Value | View) -> int:
    """The size of the last axis, which is a number."""
    size = value.shape[-1] if isinstance(value, View) else value.type.shape[-1]
    assert isinstance(size, int)
    return size


def ordered(to: Emit, node: Node, experts: int) -> Ordered:
    """The pairs of a layer by expert."""
    indices = to.array(node.inputs[1])
    pairs, k, least = dims.product(indices.shape), _last(indices), to.least_rows.get(node, USUAL_ROWS)
    pair_of, slot_of = (to.new(TensorType(i64, (pairs,))) for _ in range(2))
    first, cost = (to.new(TensorType(i64, (experts + 1,))) for _ in range(2))
    static = {"experts": experts, "least_rows": least, "ids": NAMES[indices.dtype.name]}
    to.call(expert_order, static, [indices], [pair_of, slot_of, first, cost], [pairs], reports=True)
    return Ordered(k, pairs, pair_of, slot_of, first, cost)


def gathered(to: Emit, x: View, lies: Ordered, row: int) -> View:
    """Each slot's token."""
    y = to.new(TensorType(x.dtype, (lies.pairs, row)))
    static = {"k": lies.k, "d": x.shape[-1], "row": row, "lanes": to.lanes, "dtype": NAMES[x.dtype.name]}
    to.call(expert_rows, static, [x, lies.pair_of], [y], [lies.pairs])
    return y


def _product(to: Emit, shape: Shape, x: View, w: Value, bias: Value | None, lies: Ordered) -> View:
    y = to.new(TensorType(f32, (lies.pairs, shape.y_row)))
    panels, beside = to.array(w), [lies.first, lies.cost, *([to.array(bias)] if bias is not None else [])]
    to.call(expert_product, {"shape": shape}, [x, panels, *beside], [y], scratch=shape.scratch,
            order=[x, panels, y, *beside])  # fmt: skip
    return y


def summed(to: Emit, node: Node, x: View, lies: Ordered, row: int) -> None:
    """What each token's experts give, weighed and added up."""
    weights, y = to.array(node.inputs[2]), to.result(node)
    weights = weights if weights.dtype == f32 else converted(to, weights, f32)
    static = {"k": lies.k, "d": _last(y), "row": row, "lanes": to.lanes}
    to.call(expert_sums, static, [x, lies.slot_of, weights], [y], [dims.floordiv(lies.pairs, lies.k)])


@lowers("quad_moe")
def _quad_moe(to: Emit, node: Node) -> object:
    x, _, _, up, up_scale, down, down_scale, *biases = node.inputs
    a = node.attrs
    assert x is not None and up is not None and down is not None
    (experts, panels, _, width, _), last, d = _sizes(up), _sizes(down)[1], _last(x)
    inner, gated = a["inner"], ACTIVATIONS[a["activation"]].gated
    columns = panels * (width // 2 if gated else width)
    if width != WIDTH or a["x_bits"] != X_BITS or x.type.dtype != f32 or columns != inner:
        return PARTS
    first_bias, second_bias = (*biases, None, None)[:2]
    lies = ordered(to, node, experts)

    def shape(k: int, count: int, group: int, y_row: int, activation: str, biased: bool) -> Shape:
        return Shape(experts, k, count, to.lanes, WIDTH, tiles_of(k, to.chip), k, y_row, "uint8", activation,
                     gated and bool(activation), biased, a["bits"], group)  # fmt: skip

    tokens = [gathered(to, part, lies, _last(part)) for part in rounded_of(to, to.array(x), d, a["group"])]
    hidden = _quads(to, shape(d, panels, a["group"], inner, a["activation"], first_bias is not None), tokens,
                    (up, up_scale, first_bias), lies)  # fmt: skip
    inside = rounded_of(to, hidden, inner, a["inner_group"])
    row = last * WIDTH + APART
    given = _quads(to, shape(inner, last, a["inner_group"], row, "", second_bias is not None), inside,
                   (down, down_scale, second_bias), lies)  # fmt: skip
    summed(to, node, given, lies, row)
    return None


def _quads(to: Emit, shape: Shape, x: Sequence[View], held: Sequence[Value | None], lies: Ordered) -> View:
    """One product. held: quads, scales, biases."""
    y = to.new(TensorType(f32, (lies.pairs, shape.y_row)))
    weights, bias = [to.array(v) for v in held[:2]], [to.array(v) for v in held[2:] if v is not None]
    reads = [*x, *weights, lies.first, lies.cost, *bias]
    to.call(expert_quads, {"shape": shape}, reads, [y], scratch=shape.scratch,
            order=[*x, *weights, y, lies.first, lies.cost, *bias])  # fmt: skip
    return y
