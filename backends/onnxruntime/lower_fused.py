"""Fused kernels: an anchor and its epilogue in one or two of ONNX Runtime's own nodes.

A fused lowering gets the ops of the body in order and returns the outputs it made, or None if the body is not wired
the way the kernel is; the walk then inlines the body. Those in RARE are taken only where they were measured to be
faster: SkipLayerNormalization rounds worse than Add and LayerNormalization, and is mostly not faster.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ...ir.graph import Graph, Node, Value
from .emit import Emit

Outputs = Mapping[Value, str]
FusedLowering = Callable[[Emit, Graph, Sequence[Node]], "Outputs | None"]
FUSED: dict[tuple[str, tuple[str, ...]], FusedLowering] = {}
RARE = frozenset({("add", ("layer_norm",)), ("linear", ("add", "layer_norm"))})


def _fused(anchor: str, *epilogue: str) -> Callable[[FusedLowering], FusedLowering]:
    def enter(function: FusedLowering) -> FusedLowering:
        FUSED[anchor, epilogue] = function
        return function

    return enter


def parts(graph: Graph) -> list[Node]:
    """The ops of a fused body, without the scalars it makes for itself."""
    return [n for n in graph.nodes if n.op.name not in ("constant", "dim_value", "weight")]


@_fused("linear", "gelu")
def _linear_gelu(to: Emit, graph: Graph, nodes: Sequence[Node]) -> Outputs | None:
    linear, gelu = nodes
    bias = linear.inputs[2] if len(linear.inputs) > 2 else None
    if bias is None or gelu.inputs[0] is not linear.output or linear.output in graph.outputs:
        return None
    product = to("MatMul", *linear.inputs[:2])
    kernel = "BiasGelu" if gelu.attrs["approximate"] == "none" else "FastGelu"
    return {gelu.output: to.ms(kernel, product, bias)}


@_fused("add", "layer_norm")
@_fused("add", "rms_norm")
def _add_norm(to: Emit, graph: Graph, nodes: Sequence[Node]) -> Outputs | None:
    add, norm = nodes
    if norm.inputs[0] is not add.output:
        return None
    return _skip(to, add, norm, to.name(add.inputs[0]), to.name(add.inputs[1]), None)


@_fused("linear", "add", "layer_norm")
@_fused("linear", "add", "rms_norm")
def _linear_add_norm(to: Emit, graph: Graph, nodes: Sequence[Node]) -> Outputs | None:
    linear, add, norm = nodes
    y = linear.output
    if norm.inputs[0] is not add.output or add.inputs.count(y) != 1 or y in graph.outputs:
        return None
    skip = add.inputs[1] if add.inputs[0] is y else add.inputs[0]
    bias = linear.inputs[2] if len(linear.inputs) > 2 else None
    assert skip is not None
    if skip.type.shape != y.type.shape:
        return None
    return _skip(to, add, norm, to("MatMul", *linear.inputs[:2]), to.name(skip), bias)


def _skip(to: Emit, add: Node, norm: Node, x: str, skip: str, bias: Value | None) -> Outputs | None:
    """normed, sum = norm(x + skip + bias). The kernel wants equal shapes of rank 3."""
    if any(v is None or v.type.shape != add.output.type.shape for v in add.inputs):
        return None
    shape = add.output.type.shape
    if len(shape) not in (2, 3):
        return None
    layer = norm.op.name == "layer_norm"
    kernel = "SkipLayerNormalization" if layer else "SkipSimplifiedLayerNormalization"
    gains = (*norm.inputs[1:], None)[:2] if layer else norm.inputs[1:2]
    normed, _, _, total = to.ms(kernel, x, skip, *gains, bias, outputs=4, epsilon=norm.attrs["eps"])
    return {norm.output: normed, add.output: total}
