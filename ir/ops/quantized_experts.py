"""Layers of experts whose matrices are held in few bits: plain, and in quads as dot-product instructions read them."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import dims
from ..diagnostics import GraphError
from ..dims import Dim
from ..dtypes import DTYPES, u8
from ..op import Attr, Op, get, op
from ..tensor import TensorType, Work
from .checks import INTEGERS, of_kind
from .expert_panels import panels_of, wide_of
from .moe import ACTIVATIONS, distinct_experts, emit_mixed, mixed
from .quads import BITS, QUAD, deep_of
from .quantize import emit_rounded, rounded

_GROUPED = {
    "bits": int, "group": int, "inner_group": int, "activation": Attr(str, "swiglu"), "x_bits": Attr(int, 0),
}  # fmt: skip


@op
class quantized_moe(Op):
    """`moe` of experts held in few bits, scheme "centred" of `dequantize`: each output a row of numbers, in groups.

    group: along d, of gate_up; inner_group: along the experts' inner size f, of down. x_bits: as in `quantized_matmul`,
    of what each of the two products takes.
    Shapes: x [*t, d], indices integer and weights [*t, k], gate_up integer [e, g, d], its scale [e, g, d / group],
      down [e, d, f], its scale [e, d, f / inner_group], biases [e, g] and [e, d] -> [*t, d].
      g is 2 f where it gates, else f.
    Flops: those of `moe`. Bytes: of the experts' parameters, those that the tokens are expected to reach.
    """

    inputs = ("x", "indices", "weights", "gate_up", "gate_up_scale", "down", "down_scale", "gate_up_bias?",
              "down_bias?")  # fmt: skip
    attrs = _GROUPED
    axes = "*t d!, *t k!, *t k!, e! g! d!, e! g! c!, e! d! f!, e! d! h!, e! g!, e! d! -> *t d!"

    def infer(self, x: TensorType, indices: TensorType, weights: TensorType, up: TensorType, up_scale: TensorType,
              down: TensorType, down_scale: TensorType, *biases: Any, bits: int, group: int, inner_group: int,
              activation: str, x_bits: int) -> TensorType:  # fmt: skip
        of_kind("quantized_moe", "gate_up", up, INTEGERS)
        of_kind("quantized_moe", "down", down, INTEGERS)
        for name, q, scale, each in (("gate_up", up, up_scale, group), ("down", down, down_scale, inner_group)):
            whole = q.rank == 3 and isinstance(q.shape[2], int) and each > 0 and q.shape[2] % each == 0
            if not whole or scale.shape != (*q.shape[:2], q.shape[2] // each) or not 1 <= bits <= q.dtype.bits:
                raise GraphError(f"quantized_moe: {name} is [experts, out, in] in groups of {each} of {bits} bits",
                                 found=f"{q}, scale {scale}")  # fmt: skip
        if x_bits and not 2 <= x_bits <= 16:
            raise GraphError(f"quantized_moe: x_bits is 0, or 2..16, got {x_bits}")
        y = get("moe").infer(x, indices, weights, *_turned(x, up, down), *biases, activation=activation)
        assert isinstance(y, TensorType)
        return y

    def flops(self, out: TensorType, x: TensorType, indices: TensorType, weights: Any, up: TensorType, up_scale: Any,
              down: TensorType, down_scale: Any, *biases: Any, activation: str, **attrs: Any) -> Dim:  # fmt: skip
        plain = _turned(x, up, down)
        return get("moe").flops(out, x, indices, weights, *plain, *biases, activation=activation)

    def work(self, outs: Any, types: Any, attrs: Any) -> Work:
        x, indices, weights, *parts = types
        bits, (experts, k) = attrs["bits"], (parts[0].shape[0], indices.shape[-1])
        held = sum((t.elements * bits // 8 if i in (0, 2) else t.bytes for i, t in enumerate(parts) if t is not None),
                   start=0)  # fmt: skip
        reached = distinct_experts(dims.product(indices.shape[:-1]), experts, k, held // experts)
        given = x.bytes + indices.bytes + weights.bytes
        return Work(self.flops(outs[0], *types, **attrs), given + reached, outs[0].bytes)

    def reference(self, x: Any, indices: Any, weights: Any, up: Any, up_scale: Any, down: Any, down_scale: Any,
                  *biases: Any, bits: int, group: int, inner_group: int, activation: str,
                  x_bits: int) -> np.ndarray:  # fmt: skip
        form = {"bits": bits, "axis": 2, "scheme": "centred", "dtype": DTYPES["f64"]}
        plain = [get("dequantize").reference(q, scale, None, group=each, **form)
                 for q, scale, each in ((up, up_scale, group), (down, down_scale, inner_group))]  # fmt: skip
        turned = [np.asarray(w).transpose(0, 2, 1) for w in plain]
        if x_bits:
            x = rounded(x.astype(np.float64), x_bits, group)
        return mixed(x, indices, weights, *turned, *biases, activation=activation,
                     between=lambda h: rounded(h, x_bits, inner_group) if x_bits else h)  # fmt: skip

    def decompose(self, b: Any, x: Any, indices: Any, weights: Any, up: Any, up_scale: Any, down: Any, down_scale: Any,
                  *biases: Any, bits: int, group: int, inner_group: int, activation: str,
                  x_bits: int) -> Any:  # fmt: skip
        form = {"bits": bits, "axis": 2, "scheme": "centred", "dtype": x.type.dtype}
        plain = [b.emit("dequantize", q, scale, group=each, **form)
                 for q, scale, each in ((up, up_scale, group), (down, down_scale, inner_group))]  # fmt: skip
        turned = [b.emit("transpose", w, perm=(0, 2, 1)) for w in plain]
        if x_bits:
            x = emit_rounded(b, x, x_bits, group)
        return emit_mixed(b, x, indices, weights, *turned, *biases, activation=activation,
                          between=lambda h: emit_rounded(b, h, x_bits, inner_group) if x_bits else h)  # fmt: skip


def _turned(x: TensorType, up: TensorType, down: TensorType) -> list[TensorType]:
    """The two matrices as `moe` takes them."""
    return [TensorType(x.dtype, (t.shape[0], t.shape[2], t.shape[1])) for t in (up, down)]


@op
class to_expert_quads(Op):
    """Experts' numbers [e, n, k] as panels of `width` columns of quads; columns missing in a last panel are 0.

    gated: as in `to_expert_panels`. Shapes: q [e, n, k] -> u8 [e, p, k / deep, width, 4], deep = 32 / bits.
    """

    inputs = ("q",)
    attrs = {"width": int, "bits": int, "gated": Attr(bool, False)}
    axes = "e n! k! -> e p! d! w! z!"
    pure_move = True

    def infer(self, q: TensorType, *, width: int, bits: int, gated: bool) -> TensorType:
        of_kind("to_expert_quads", "q", q, INTEGERS)
        e, n, k = (*q.shape, 0, 0, 0)[:3]
        if q.rank != 3 or not (isinstance(n, int) and isinstance(k, int)) or bits not in BITS or k % deep_of(bits):
            raise GraphError("to_expert_quads: takes matrices of numbers of 4 or 8 bits, 4 or 8 at a time",
                             found=str(q))  # fmt: skip
        if width < 1 or (gated and (n % 2 or width % 2)):
            raise GraphError("to_expert_quads: as many gates as what is gated", found=f"{n} columns, width {width}")
        return TensorType(u8, (e, panels_of(n, width, gated), k // deep_of(bits), width, QUAD))

    def flops(self, out: TensorType, *types: Any, **attrs: Any) -> Dim:
        return 0

    def reference(self, q: np.ndarray, *, width: int, bits: int, gated: bool) -> np.ndarray:
        e, n, k = q.shape
        parts = 2 if gated else 1
        panels, each = panels_of(n, width, gated), width // parts
        wide = np.zeros((e, parts, panels * each, k), np.uint8)
        wide[:, :, : n // parts] = q.reshape(e, parts, n // parts, k).astype(np.uint8)
        rows = wide.reshape(e, parts, panels, each, k).transpose(0, 2, 1, 3, 4).reshape(-1, k)
        cut = np.asarray(get("to_quads").reference(rows, width=width, bits=bits))
        return cut.reshape(e, panels, *cut.shape[1:])


@op
class from_expert_quads(Op):
    """The experts' numbers that quads were made of.

    Shapes: x u8 [e, p, k / deep, width, 4] -> [e, n, k], n = columns.
    """

    inputs = ("x",)
    attrs = {"columns": int, "bits": int, "gated": Attr(bool, False)}
    axes = "e p! d! w! z! -> e n! k!"
    pure_move = True

    def infer(self, x: TensorType, *, columns: int, bits: int, gated: bool) -> TensorType:
        if x.rank != 5 or x.shape[4] != QUAD or not all(isinstance(d, int) for d in x.shape) or bits not in BITS:
            raise GraphError("from_expert_quads: takes quads [e, p, d, width, 4]", found=str(x))
        e, panels, deep, width, _ = x.shape
        assert isinstance(width, int) and isinstance(deep, int)
        if columns < 1 or (gated and (columns % 2 or width % 2)) or panels_of(columns, width, gated) != panels:
            raise GraphError(f"from_expert_quads: {panels} panels of {width} do not make {columns} columns")
        return TensorType(DTYPES[f"u{bits}"], (e, columns, deep * deep_of(bits)))

    def flops(self, out: TensorType, *types: Any, **attrs: Any) -> Dim:
        return 0

    def reference(self, x: np.ndarray, *, columns: int, bits: int, gated: bool) -> np.ndarray:
        e, panels, deep, width, _ = x.shape
        parts = 2 if gated else 1
        rows = np.asarray(get("from_quads").reference(x.reshape(-1, deep, width, QUAD), bits=bits,
                                                      columns=e * panels * width))  # fmt: skip
        wide = rows.reshape(e, panels, parts, width // parts, -1).transpose(0, 2, 1, 3, 4)
        wide = wide.reshape(e, parts, -1, rows.shape[-1])[:, :, : columns // parts]
        return np.ascontiguousarray(wide.reshape(e, columns, -1))


@op
class quad_moe(Op):
    """`quantized_moe` of experts that are held in quads, their scales in panels, their biases in panels of one row.

    inner: f. Shapes: x [*t, d], indices and weights [*t, k], gate_up [e, p, d / deep, width, 4], its scale [e, p, d /
      group, width], down [e, q, f / deep, width, 4], its scale [e, q, f / inner_group, width], biases [e, p, 1, width]
      and [e, q, 1, width] -> [*t, d]. Flops and bytes: those of `quantized_moe`.
    """

    inputs = quantized_moe.inputs
    attrs = {**_GROUPED, "inner": int}
    axes = ("*t d!, *t k!, *t k!, e! p! d! w! z!, e! p! c! w!, e! q! f! w! z!, e! q! h! w!, e! p! 1 w!, e! q! 1 w!"
            " -> *t d!")  # fmt: skip

    def infer(self, x: TensorType, indices: TensorType, weights: TensorType, *parts: Any, inner: int,
              **attrs: Any) -> TensorType:  # fmt: skip
        y = get("quantized_moe").infer(x, indices, weights, *_types(x, parts, inner, attrs), **attrs)
        assert isinstance(y, TensorType)
        return y

    def flops(self, out: TensorType, x: TensorType, indices: TensorType, weights: Any, *parts: Any, inner: int,
              **attrs: Any) -> Dim:  # fmt: skip
        return get("quantized_moe").flops(out, x, indices, weights, *_types(x, parts, inner, attrs), **attrs)

    def work(self, outs: Any, types: Any, attrs: Any) -> Work:
        x, indices, weights, *parts = types
        own = {name: value for name, value in attrs.items() if name != "inner"}
        plain, whole = _types(x, parts, attrs["inner"], attrs), get("quantized_moe")
        return whole.work(outs, [x, indices, weights, *plain], whole.complete_attrs(own))

    def reference(self, x: Any, indices: Any, weights: Any, *parts: Any, inner: int, **attrs: Any) -> Any:
        quads, panels = get("from_expert_quads").reference, get("from_expert_panels").reference

        def plain(what: str, part: Any, columns: int, gated: bool) -> Any:
            if what == "q":
                return quads(part, columns=columns, bits=attrs["bits"], gated=gated)
            whole = np.asarray(panels(part, columns=columns, gated=gated))
            return whole.transpose(0, 2, 1) if what == "scale" else whole[:, 0]

        given = _each(plain, parts, x.shape[-1], inner, attrs["activation"])
        return get("quantized_moe").reference(x, indices, weights, *given, **attrs)

    def decompose(self, b: Any, x: Any, indices: Any, weights: Any, *parts: Any, inner: int, **attrs: Any) -> Any:
        def plain(what: str, part: Any, columns: int, gated: bool) -> Any:
            if what == "q":
                return b.emit("from_expert_quads", part, columns=columns, bits=attrs["bits"], gated=gated)
            whole = b.emit("from_expert_panels", part, columns=columns, gated=gated)
            if what == "scale":
                return b.emit("transpose", whole, perm=(0, 2, 1))
            return b.emit("reshape", whole, shape=(whole.type.shape[0], columns))

        given = _each(plain, parts, x.type.shape[-1], inner, attrs["activation"])
        return b.emit("quantized_moe", x, indices, weights, *given, **attrs)


def _each(plain: Any, parts: Any, d: int, inner: int, activation: str) -> list[Any]:
    """`plain(what it is, part, columns, gated)` of each part, None of one that is not there."""
    wide, gated = wide_of(inner, activation), ACTIVATIONS[activation].gated
    first, second = (wide, gated), (d, False)
    kinds = (("q", *first), ("scale", *first), ("q", *second), ("scale", *second), ("bias", *first), ("bias", *second))
    padded = (*parts, None, None)[: len(kinds)]
    return [None if p is None else plain(what, p, *size) for p, (what, *size) in zip(padded, kinds, strict=True)]


def _types(x: TensorType, parts: Any, inner: int, attrs: Any) -> list[Any]:
    """The types that `quantized_moe` takes."""

    def plain(what: str, part: Any, columns: int, gated: bool) -> Any:
        if what == "q":
            return get("from_expert_quads").infer(part, columns=columns, bits=attrs["bits"], gated=gated)
        whole: Any = get("from_expert_panels").infer(part, columns=columns, gated=gated)
        e, k, n = whole.shape
        return whole.with_shape(e, n, k) if what == "scale" else whole.with_shape(e, n)

    if not isinstance(x.shape[-1], int):
        raise GraphError("quad_moe: the size of a token is a number", found=str(x))
    return _each(plain, parts, x.shape[-1], inner, attrs["activation"])
