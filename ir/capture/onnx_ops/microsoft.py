"""ONNX Runtime's own operators (com.microsoft): what its optimizer fuses out of activations, norms and products."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ...diagnostics import CaptureError
from ...dtypes import DTYPES, DType
from ...ops.widen import as_type
from ...packing import unpack
from ...tensor import TensorType
from ..onnx_terms import Term, of_value
from .contract import TABLE as CONTRACT
from .contract import product, scaled
from .conv import TABLE as CONV
from .norm import TABLE as NORM
from .quantize import TABLE as QUANTIZE
from .quantize import integer_product
from .table import enters

if TYPE_CHECKING:
    from ...graph import Value
    from ..from_onnx import Importer

TABLE: dict[str, Any] = {f"com.microsoft.{name}": QUANTIZE[name] for name in ("QuantizeLinear", "DequantizeLinear")}
_OURS = "com.microsoft."


def only(to: Importer, **values: Any) -> None:
    """Raises: CaptureError where an attribute asks for a form of the op that is not read."""
    for name, value in values.items():
        if to.attr(name, value) != value:
            raise CaptureError(f"{to.op}: {name} = {to.attr(name)!r} is not supported", hint=f"only {value!r} is")


def absent(to: Importer, **inputs: int) -> None:
    """Raises: CaptureError where an input is given that is not read."""
    for name, i in inputs.items():
        if to.has(i):
            raise CaptureError(f"{to.op}: the input {name} is not supported")


def biased(to: Importer, x: Value, i: int) -> Value:
    """x + input i, where that is given."""
    return to.emit("add", x, to.value(i)) if to.has(i) else x


# -- activations ------------------------------------------------------------------------------------------


@enters(TABLE, _OURS + "Gelu", _OURS + "BiasGelu")
def _(to: Importer) -> Value:
    return to.emit("gelu", biased(to, to.value(0), 1))


@enters(TABLE, _OURS + "FastGelu")
def _(to: Importer) -> Value:
    return to.emit("gelu", biased(to, to.value(0), 1), approximate="tanh")


@enters(TABLE, _OURS + "QuickGelu")
def _(to: Importer) -> Value:
    x, alpha = to.value(0), to.attr("alpha", 1.702)
    return to.emit("silu", x) if alpha == 1 else to.emit("mul", x, to.emit("sigmoid", scaled(to, x, alpha)))


@enters(TABLE, _OURS + "BiasSplitGelu")
def _(to: Importer) -> Value:
    """The first half of the features times gelu of the second."""
    x = biased(to, to.value(0), 1)
    at, size = x.type.rank - 1, x.type.shape[-1]
    if not isinstance(size, int) or size % 2:
        raise CaptureError(f"BiasSplitGelu: {size} features have no halves")
    first, second = (to.emit("slice", x, axis=at, start=i, stop=i + size // 2) for i in (0, size // 2))
    return to.emit("mul", first, to.emit("gelu", second))


@enters(TABLE, _OURS + "BiasAdd")
def _(to: Importer) -> Value:
    return biased(to, biased(to, to.value(0), 1), 2)


# -- norms ------------------------------------------------------------------------------------------------


@enters(TABLE, "SimplifiedLayerNormalization", _OURS + "SimplifiedLayerNormalization")
def _(to: Importer) -> Any:
    _statistics(to, 1)
    return NORM["RMSNormalization"](to)


@enters(TABLE, _OURS + "SkipLayerNormalization")
def _(to: Importer) -> list[Term | None]:
    _statistics(to, 1, 2)
    total = biased(to, _with_skip(to), 4)
    y = to.emit("layer_norm", total, to.value(2), to.optional(3), eps=to.attr("epsilon", 1e-5))
    return [of_value(y), None, None, of_value(total)]


@enters(TABLE, _OURS + "SkipSimplifiedLayerNormalization")
def _(to: Importer) -> list[Term | None]:
    _statistics(to, 1, 2)
    total = biased(to, _with_skip(to), 3)
    y = to.emit("rms_norm", total, to.value(2), eps=to.attr("epsilon", 1e-5))
    return [of_value(y), None, None, of_value(total)]


def _with_skip(to: Importer) -> Value:
    return to.emit("add", to.value(0), to.value(1))


def _statistics(to: Importer, *outputs: int) -> None:
    if any(to.wants(i) for i in outputs):
        raise CaptureError(f"{to.op}: the statistics that training saves are not supported as outputs")


@enters(TABLE, _OURS + "EmbedLayerNormalization")
def _(to: Importer) -> list[Term | None]:
    """Word, position and segment embeddings, summed and normalised."""
    ids = to.value(0)
    if ids.type.rank != 2:
        raise CaptureError(f"EmbedLayerNormalization: ids are [batch, positions], got {ids.type}")
    places = to.value(8) if to.has(8) else to.emit("iota", length=ids.type.shape[1])
    total = to.emit("add", to.emit("gather", to.value(2), ids, axis=0), to.emit("gather", to.value(3), places, axis=0))
    if to.has(1) and to.has(4):
        total = to.emit("add", total, to.emit("gather", to.value(4), to.value(1), axis=0))
    y = to.emit("layer_norm", total, to.value(5), to.value(6), eps=to.attr("epsilon", 1e-12))
    return [of_value(y), _lengths(to, ids) if to.wants(1) else None, of_value(total)]


def _lengths(to: Importer, ids: Value) -> Term:
    """How many tokens of each row are real; without a mask 0."""
    kind = DTYPES["i32"]
    if not to.has(7):
        return of_value(to.emit("expand", to.constant(0, kind), shape=ids.type.shape[:1]))
    return of_value(as_type(to, to.emit("sum", to.value(7), axes=(1,)), kind))


# -- products ---------------------------------------------------------------------------------------------


@enters(TABLE, _OURS + "FusedMatMul", _OURS + "TransposeMatMul")
def _(to: Importer) -> Value:
    only(to, transBatchA=0, transBatchB=0)
    a, b = (_turned(to, to.value(i)) if to.attr(n, 0) else to.value(i) for i, n in enumerate(("transA", "transB")))
    return scaled(to, product(to, a, b), to.attr("alpha", 1.0))


@enters(TABLE, _OURS + "FusedGemm")
def _(to: Importer) -> Value:
    return _activated(to, CONTRACT["Gemm"](to))


@enters(TABLE, _OURS + "FusedConv")
def _(to: Importer) -> Value:
    """A convolution, input 3 added, and an activation."""
    return _activated(to, biased(to, CONV["Conv"](to), 3))


_ACTIVATIONS = {"Relu": "relu", "Sigmoid": "sigmoid", "Tanh": "tanh"}


def _activated(to: Importer, x: Value) -> Value:
    name = to.attr("activation", "")
    if name and name not in _ACTIVATIONS:
        raise CaptureError(f"{to.op}: the activation {name!r} is not supported", hint=f"{', '.join(_ACTIVATIONS)} are")
    return to.emit(_ACTIVATIONS[name], x) if name else x


def _turned(to: Importer, x: Value) -> Value:
    """The last two axes exchanged."""
    if x.type.rank < 2:
        return x
    return to.emit("transpose", x, perm=(*range(x.type.rank - 2), x.type.rank - 1, x.type.rank - 2))


@enters(TABLE, _OURS + "MatMulNBits")
def _(to: Importer) -> Value:
    """x · dequantize(weight): blocks along the input features, packed in bytes, the first number lowest."""
    absent(to, g_idx=4)
    only(to, weight_prepacked=0)
    x, bits, block = to.value(0), to.attr("bits", 4), to.attr("block_size")
    features, outputs = to.attr("K"), to.attr("N")
    if bits not in (2, 4, 8) or block < 16 or min(features, outputs) < 1 or x.type.shape[-1:] != (features,):
        raise CaptureError(f"MatMulNBits: {bits} bits in blocks of {block} for [{features}, {outputs}], x {x.type}")
    blocks = -(-features // block)
    numbers = _packed(to, 1, (outputs, blocks * block), bits)[:, :features]
    scale = to.content(2, "scales").reshape(outputs, blocks)
    middle, zero = 1 << (bits - 1), None
    if to.has(3):
        zero = _zeros(to, outputs, blocks, bits)
    else:  # around the middle, so that the numbers are signed and need no zero
        numbers = numbers.astype(np.int16) - middle
    kind = _holder(bits, signed=not to.has(3))
    name = to.node.input[1]
    parts = [to.weight(name, np.ascontiguousarray(numbers.T).astype(kind.numpy)),
             to.weight(to.node.input[2], np.ascontiguousarray(scale.T))]  # fmt: skip
    if zero is not None:
        parts.append(to.weight(to.node.input[3], np.ascontiguousarray(zero.T)))
    weight = to.emit("dequantize", *parts, bits=bits, group=block, axis=0, dtype=x.type.dtype,
                     scheme="symmetric" if zero is None else "asymmetric")  # fmt: skip
    return to.emit("linear", x, weight, to.optional(5))


def _packed(to: Importer, i: int, shape: tuple[int, int], bits: int) -> np.ndarray:
    """Known bytes as rows of numbers; a row begins with a byte of its own."""
    data = to.content(i, "packed weight")
    each = 8 // bits
    row = -(-shape[1] // each)
    if data.dtype != np.uint8 or data.size != shape[0] * row:
        raise CaptureError(f"{to.op}: input {i} holds {data.size} of {data.dtype}, not {shape[0] * row} bytes")
    flat = np.ascontiguousarray(data).reshape(-1)
    wide = (shape[0], row * each)
    numbers = flat if bits == 8 else unpack(flat, TensorType(DTYPES[f"u{bits}"], wide)).astype(np.uint8)
    return numbers.reshape(wide)[:, : shape[1]]


def _zeros(to: Importer, outputs: int, blocks: int, bits: int) -> np.ndarray:
    """Zero points [outputs, blocks]: packed like the weight, or plain numbers of x's type."""
    term = to.term(3)
    if term.dtype.is_float:
        return to.content(3, "zero points").reshape(outputs, blocks)
    return _packed(to, 3, (outputs, blocks), bits).astype(_holder(bits, signed=False).numpy)


def _holder(bits: int, *, signed: bool) -> DType:
    """What the numbers are held in: those of two bits in four, which backends have kernels for."""
    return DTYPES[f"{'i' if signed else 'u'}{max(bits, 4)}"]


@enters(TABLE, _OURS + "MatMulIntegerToFloat")
def _(to: Importer) -> Value:
    """Inputs: a, b, their scales, their zeros, a bias."""
    sums = to.emit("cast", integer_product(to, (0, 4), (1, 5)), dtype=to.term(2).dtype)
    return biased(to, to.emit("mul", sums, to.emit("mul", to.value(2), to.value(3))), 6)


@enters(TABLE, _OURS + "DynamicQuantizeMatMul")
def _(to: Importer) -> Value:
    """x to u8 by its own range, times a quantised weight. Inputs: x, the weight, its scale, its zero, a bias."""
    x, b = to.value(0), as_type(to, to.value(1), DTYPES["i32"])
    q, scale, zero = QUANTIZE["DynamicQuantizeLinear"](to)
    a = to.emit("sub", *(as_type(to, v, b.type.dtype) for v in (q, zero)))
    if to.has(3):
        b = to.emit("sub", b, as_type(to, to.value(3), b.type.dtype))
    sums = as_type(to, to.emit("matmul", a, b), x.type.dtype)
    return biased(to, to.emit("mul", sums, to.emit("mul", scale, to.value(2))), 4)
