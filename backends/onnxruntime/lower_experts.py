"""Layers of experts: rows sorted by expert, cut where the next expert begins, and a product for each part.

All of it is standard ONNX. An expert that no token chose multiplies no rows, so its weights are not read; an index
beyond the experts leaves rows that belong to none, at which the cut stops with an error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...ir import dims
from ...ir.build import Builder
from ...ir.dims import Dim
from ...ir.dtypes import i64, u8
from ...ir.graph import Graph, Node, Value
from ...ir.ops.moe import ACTIVATIONS
from ...ir.tensor import TensorType
from .emit import Emit
from .lower import FAST, STANDARD, lowers, table
from .lower_quantized import X_BITS, fits, product

Product = Callable[[int, str], str]  # (expert, its rows) -> its rows times its matrix


class _Layer:
    """The rows of one layer by expert. rows: of all of its tokens' choices."""

    def __init__(self, to: Emit, node: Node, experts: int) -> None:
        x, indices = node.inputs[:2]
        assert x is not None and indices is not None
        self.to, self.node, self.experts = to, node, experts
        self.tokens, self.d, self.k = dims.product(x.type.shape[:-1]), x.type.shape[-1], _number(indices.type.shape[-1])
        self.rows: Dim = self.tokens * self.k
        ids = to.reshape(to.cast(indices, i64), indices.type.shape, (self.rows,))
        self.ids, self.order = to("TopK", ids, to.sizes.vector(self.rows), outputs=2, axis=0, largest=0, sorted=1)
        each = to.array(_numbers(experts))
        mine = to.cast(to("Equal", to.reshape(self.ids, (self.rows,), (self.rows, 1)), each), i64)
        self.counts = to("ReduceSum", mine, to.ints(0), keepdims=0)

    def tokens_rows(self, x: Value) -> str:
        """Each choice's token."""
        flat = self.to.reshape(x, x.type.shape, (self.tokens, self.d))
        return str(self.to("Gather", flat, self.to("Div", self.order, self.to.scalar(self.k, i64)), axis=0))

    def product(self, rows: str, one: Product, bias: Value | None) -> str:
        """Every expert's rows times its own matrix, and its bias."""
        to = self.to
        parts = to("Split", rows, self.counts, outputs=self.experts, axis=0)
        parts = [parts] if self.experts == 1 else parts
        y = to("Concat", *(one(e, part) for e, part in enumerate(parts)), axis=0)
        return y if bias is None else str(to("Add", y, to("Gather", bias, self.ids, axis=0)))

    def activated(self, y: str, inner: int) -> str:
        """What stands between the two products."""
        act = ACTIVATIONS[self.node.attrs["activation"]]
        assert self.node.inputs[0] is not None
        type = TensorType(self.node.inputs[0].type.dtype, (self.rows, inner))
        b = Builder(self.node.where)
        halves = [b.input(name, type) for name in ("gate", "up")[: 1 + act.gated]]
        graph = b.finish([act.emit(b, halves[0], halves[-1])])
        given = self.to("Split", y, self.to.ints(inner, inner), outputs=2, axis=-1) if act.gated else [y]
        return _inlined(self.to, graph, given)

    def summed(self, y: str) -> str:
        """The weighted sum of what each token's experts gave, in the shape of the layer's input."""
        to, weights = self.to, self.node.inputs[2]
        assert weights is not None
        _, back = to("TopK", self.order, to.sizes.vector(self.rows), outputs=2, axis=0, largest=0, sorted=1)
        wide = (self.tokens, self.k, self.d)
        y = to.reshape(to("Gather", y, back, axis=0), (self.rows, self.d), wide)
        share = to.reshape(self._share(weights), weights.type.shape, (self.tokens, self.k, 1))
        total = to("ReduceSum", to("Mul", y, share), to.ints(1), keepdims=0)
        return to.reshape(total, (self.tokens, self.d), self.node.output.type.shape)

    def _share(self, weights: Value) -> str:
        dtype = self.node.output.type.dtype
        return self.to.name(weights) if weights.type.dtype == dtype else self.to.cast(weights, dtype)


@lowers(STANDARD, "moe")
def _moe(to: Emit, node: Node) -> str | None:
    x, _, _, up, down, *biases = node.inputs
    assert x is not None and up is not None and down is not None
    if not _known(x, node.inputs[1], up, down):
        return None
    experts, inner = _number(up.type.shape[0]), _number(down.type.shape[1])
    layer, (first, second) = _Layer(to, node, experts), (*biases, None, None)[:2]
    hidden = layer.product(layer.tokens_rows(x), _plain(to, up), first)
    return layer.summed(layer.product(layer.activated(hidden, inner), _plain(to, down), second))


def _known(*values: Value | None) -> bool:
    """Whether sizes are numbers where they must be: of tokens, of their choices, of the experts."""
    x, indices, *parts = (v.type.shape for v in values if v is not None)
    return all(isinstance(d, int) for d in (x[-1], indices[-1], *(d for part in parts for d in part)))


def _number(dim: Dim) -> int:
    assert isinstance(dim, int)
    return dim


def _plain(to: Emit, w: Value) -> Product:
    _, k, n = (_number(d) for d in w.type.shape)
    size = k * n * w.type.dtype.bits // 8
    held = to.is_weight(w)

    def one(e: int, rows: str) -> str:
        matrix = to.view(w, w.type.dtype, k, n, start=e * size) if held else to("Gather", w, to.scalar(e, i64), axis=0)
        return str(to("MatMul", rows, matrix))

    return one


@lowers(FAST, "quantized_moe")
def _quantized_moe(to: Emit, node: Node) -> str | None:
    """By the kernel that products of linear layers in few bits take."""
    x, _, _, up, up_scale, down, down_scale, *biases = node.inputs
    a = node.attrs
    assert x is not None and up is not None and down is not None and up_scale is not None and down_scale is not None
    pairs = ((up, up_scale, a["group"]), (down, down_scale, a["inner_group"]))
    known = _known(x, node.inputs[1], up, down)
    if not known or a["x_bits"] != X_BITS or not all(fits(to, *pair, a["bits"], x.type.dtype) for pair in pairs):
        return None
    layer, (first, second) = _Layer(to, node, _number(up.type.shape[0])), (*biases, None, None)[:2]
    one, two = (_quantized(to, *pair, a["bits"]) for pair in pairs)
    hidden = layer.product(layer.tokens_rows(x), one, first)
    inner = _number(down.type.shape[2])
    return layer.summed(layer.product(layer.activated(hidden, inner), two, second))


def _quantized(to: Emit, q: Value, scale: Value, group: int, bits: int) -> Product:
    _, n, k = (_number(d) for d in q.type.shape)

    def one(e: int, rows: str) -> str:
        blocks = to.view(q, u8, n, k // group, group * bits // 8, start=e * n * k * bits // 8)
        units = to.view(scale, scale.type.dtype, n, k // group, start=e * n * (k // group) * scale.type.dtype.bits // 8)
        return product(to, rows, blocks, units, k=k, n=n, bits=bits, group=group)

    return one


def _numbers(count: int) -> Any:
    import numpy as np

    return np.arange(count, dtype=np.int64)[None]


def _inlined(to: Emit, graph: Graph, given: list[str]) -> str:
    """A small graph of element-wise ops on these inputs."""
    outer, lowerings = to.names, table(to.opset, to.portable)
    to.names = dict(zip(graph.inputs, given, strict=True))
    for node in graph.nodes:
        if node.op.name == "constant":
            made = to.scalar(node.attrs["value"], node.attrs["dtype"])
        else:
            made = str(lowerings[node.op.name](to, node))
        to.names[node.output] = made
    result = to.names[graph.outputs[0]]
    to.names = outer
    return result
