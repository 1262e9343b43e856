"""Weights in few bits, by ONNX Runtime's own kernels for them.

A weight [n, k] of four bits lies in the bundle two numbers in a byte, the first in the lower half: those are the bytes
that the kernels want, under another shape.
"""

from __future__ import annotations

from ...compiler.capabilities import Blocks
from ...ir.dtypes import DType, f32, u8
from ...ir.graph import Node, Value
from .emit import Arg, Emit
from .lower import FAST, lowers

BITS, GROUPS = (4, 8), (16, 32, 64, 128, 256)
BLOCKS = tuple(Blocks(bits, group, "centred") for bits in BITS for group in GROUPS)
X_BITS = 8
_IN_WHOLE_NUMBERS = 4  # MatMulNBits' accuracy_level of int8: with 0, the default, eight bits are slower than fp32


@lowers(FAST, "quantized_matmul")
def _quantized_matmul(to: Emit, node: Node) -> str | None:
    x, q, scale, _, bias = (*node.inputs, None, None)[:5]
    if x is None or q is None or not _fits(to, node, q, x.type.dtype) or node.attrs["x_bits"] != X_BITS:
        return None
    (n, k), bits, group = _sizes(q), node.attrs["bits"], node.attrs["group"]
    blocks = to.view(q, u8, n, k // group, group * bits // 8)
    return product(to, x, blocks, scale, bias, k=k, n=n, bits=bits, group=group)


def product(
    to: Emit, x: Arg, blocks: Arg, scale: Arg, bias: Arg = None, *, k: int, n: int, bits: int, group: int
) -> str:  # fmt: skip
    """x times a weight [n, k] whose bytes are `blocks`."""
    y: str = to.ms("MatMulNBits", x, blocks, scale, None, None, bias, K=k, N=n, bits=bits, block_size=group,
                   accuracy_level=_IN_WHOLE_NUMBERS)  # fmt: skip
    return y


@lowers(FAST, "quantized_gather")
def _quantized_gather(to: Emit, node: Node) -> str | None:
    q, indices, scale = node.inputs[:3]
    if q is None or not _fits(to, node, q, node.output.type.dtype):
        return None
    (n, k), bits, group = _sizes(q), node.attrs["bits"], node.attrs["group"]
    rows = to.view(q, u8, n, k * bits // 8)
    y: str = to.ms("GatherBlockQuantized", rows, indices, scale, bits=bits, block_size=group, gather_axis=0,
                   quantize_axis=1)  # fmt: skip
    return y


def _fits(to: Emit, node: Node, q: Value, dtype: DType) -> bool:
    """Whether the kernels take such a node: others run as simpler ops."""
    a, scale = node.attrs, node.inputs[2]
    assert scale is not None
    known = Blocks(a["bits"], a["group"], a["scheme"]) in BLOCKS and q.type.dtype.name == f"u{a['bits']}"
    whole = all(isinstance(d, int) for d in q.type.shape) and to.is_weight(q)
    return known and whole and q.type.shape[1] % a["group"] == 0 and dtype == scale.type.dtype == f32


def fits(to: Emit, q: Value, scale: Value, group: int, bits: int, dtype: DType) -> bool:
    """The same of experts' numbers [e, n, k], in scheme "centred"."""
    known = Blocks(bits, group, "centred") in BLOCKS and q.type.dtype.name == f"u{bits}"
    whole = all(isinstance(d, int) for d in q.type.shape) and to.is_weight(q) and to.is_weight(scale)
    return known and whole and dtype == scale.type.dtype == f32


def _sizes(q: Value) -> tuple[int, int]:
    n, k = q.type.shape
    assert isinstance(n, int) and isinstance(k, int)
    return n, k
