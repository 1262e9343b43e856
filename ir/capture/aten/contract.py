"""ATen matrix products, attention, norms and softmax."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...diagnostics import CaptureError
from ...dtypes import boolean
from ..einsum import einsum
from .table import axis, enters

if TYPE_CHECKING:
    from ...graph import Value
    from ..from_torch import Translator

TABLE: dict[str, Any] = {}
_ZEROS = frozenset({"aten.zeros.default", "aten.zeros_like.default", "aten.new_zeros.default"})
_HEADS_LAST = (0, 2, 1, 3)  # [b, h, s, d] <-> [b, s, h, d]


@enters(TABLE, "linear.default")
def _(to: Translator) -> Value:
    x, weight, bias = to.args("input", "weight", "bias")
    w = to.value(weight)
    if w.type.rank != 2:
        raise CaptureError("linear with a vector weight is not captured", hint="use a [1, n] weight")
    return to.emit("linear", to.value(x), to.emit("transpose", w, perm=(1, 0)), to.optional(bias))


@enters(TABLE, "addmm.default")
def _(to: Translator) -> Value:
    bias, x, weight = to.node.args[:3]
    beta, alpha = to.args("beta", "alpha")
    b, w = to.value(bias), to.value(weight)
    if beta == 1 and alpha == 1 and b.type.shape == w.type.shape[1:]:
        return to.emit("linear", to.value(x), w, b)
    return _scaled_sum(to, to.emit("matmul", to.value(x), w), b, alpha, beta)


@enters(TABLE, "baddbmm.default")
def _(to: Translator) -> Value:
    bias, a, b = to.node.args[:3]
    beta, alpha = to.args("beta", "alpha")
    return _scaled_sum(to, to.emit("matmul", to.value(a), to.value(b)), to.value(bias), alpha, beta)


def _scaled_sum(to: Translator, product: Value, bias: Value, alpha: Any, beta: Any) -> Value:
    dtype = product.type.dtype
    product = product if alpha == 1 else to.emit("mul", product, to.value(float(alpha), dtype))
    bias = bias if beta == 1 else to.emit("mul", bias, to.value(float(beta), dtype))
    return to.emit("add", product, bias)


@enters(TABLE, "matmul.default", "mm.default", "bmm.default")
def _(to: Translator) -> Value:
    """torch's matmul also takes vectors: those become matrices with one row or column."""
    a, b = (to.value(x) for x in to.node.args[:2])
    out = to.type().shape
    rows, columns = a.type.rank == 1, b.type.rank == 1
    a = to.emit("reshape", a, shape=(1, *a.type.shape)) if rows else a
    b = to.emit("reshape", b, shape=(*b.type.shape, 1)) if columns else b
    y = to.emit("matmul", a, b)
    return to.emit("reshape", y, shape=out) if rows or columns else y


@enters(TABLE, "einsum.default")
def _(to: Translator) -> Value:
    equation, operands = to.node.args[:2]
    return einsum(to.emit, equation, [to.value(x) for x in operands])


@enters(TABLE, "tundish.attention.default")
def _(to: Translator) -> Value:
    q, k, v, mask, bias, sinks = to.args("q", "k", "v", "mask", "bias", "sinks")
    scale, causal, window, softcap, position = to.args("scale", "causal", "window", "softcap", "position")
    q, k, v = (to.emit("transpose", to.value(x), perm=_HEADS_LAST) for x in (q, k, v))
    bias = None if str(getattr(bias, "target", "")) in _ZEROS else bias
    return to.emit(
        "attention", q, k, v, to.optional(mask), to.optional(bias), to.optional(sinks), to.optional(position),
        scale=float(scale), causal=bool(causal), window=int(window), softcap=float(softcap),
    )  # fmt: skip


@enters(TABLE, "tundish.cache_write.default")
def _(to: Translator) -> Value:
    return to.emit("cache_write", *map(to.value, to.node.args), axis=2)


@enters(TABLE, "tundish.moe.default")
def _(to: Translator) -> Value:
    names = ("x", "indices", "weights", "gate_up", "down", "gate_up_bias", "down_bias")
    *given, activation = to.args(*names, "activation")
    return to.emit("moe", *map(to.optional, given), activation=str(activation))


@enters(TABLE, "scaled_dot_product_attention.default")
def _(to: Translator) -> Value:
    """torch aligns its causal mask to the first key, ours to the last: the same where lengths are equal."""
    q, k, v, mask, causal, scale = to.args("query", "key", "value", "attn_mask", "is_causal", "scale")
    q, k, v = to.value(q), to.value(k), to.value(v)
    out, rank = to.type(), q.type.rank
    if causal and q.type.shape[-2] != k.type.shape[-2]:
        raise CaptureError("is_causal with fewer queries than keys is not captured", hint="pass attn_mask")
    if rank not in (3, 4):
        raise CaptureError(f"attention over {rank} axes is not captured", hint="merge the leading axes into one")
    q, k, v = (to.emit("transpose", _four(to, x), perm=_HEADS_LAST) for x in (q, k, v))
    given = to.optional(mask)
    if given is not None:
        given = _four(to, given)
    masks = (given, None) if given is None or given.type.dtype == boolean else (None, given)
    scale = float(scale) if scale is not None else int(q.type.shape[-1]) ** -0.5  # type: ignore[arg-type]
    y = to.emit("attention", q, k, v, *masks, scale=scale, causal=bool(causal))
    y = to.emit("transpose", y, perm=_HEADS_LAST)
    return y if rank == 4 else to.emit("reshape", y, shape=out.shape)


def _four(to: Translator, x: Value) -> Value:
    """[b, s, d] -> [b, 1, s, d]; a mask gets leading ones."""
    shape = x.type.shape
    if len(shape) == 4:
        return x
    return to.emit("reshape", x, shape=(shape[0], 1, *shape[1:]) if len(shape) == 3 else (1, 1, *shape))


@enters(TABLE, "layer_norm.default", "rms_norm.default")
def _(to: Translator) -> Value:
    name = "rms_norm" if "rms_norm" in str(to.node.target) else "layer_norm"
    x, shape, weight, bias, eps = to.args("input", "normalized_shape", "weight", "bias", "eps")
    value = to.value(x)
    if len(shape) != 1:
        raise CaptureError(f"{name} over {len(shape)} axes is not captured", hint="flatten them to one")
    if eps is None:
        import torch

        eps = torch.finfo(to.node.meta["val"].dtype).eps
    scale = to.optional(weight)
    if scale is None:
        scale = to.emit("expand", to.value(1.0, value.type.dtype), shape=(to.dim(shape[0]),))
    inputs = (value, scale) if name == "rms_norm" else (value, scale, to.optional(bias))
    return to.emit(name, *inputs, eps=float(eps))


@enters(TABLE, "softmax.int", "_softmax.default", "special_softmax.int")
def _(to: Translator) -> Value:
    value = to.value(to.node.args[0], to.type().dtype)
    return to.emit("softmax", value, axis=axis(to.node.args[1], value.type.rank))


@enters(TABLE, "log_softmax.int", "_log_softmax.default")
def _(to: Translator) -> Value:
    value = to.value(to.node.args[0], to.type().dtype)
    at = (axis(to.node.args[1], value.type.rank),)
    shifted = to.emit("sub", value, to.emit("max", value, axes=at, keepdims=True))
    total = to.emit("sum", to.emit("exp", shifted), axes=at, keepdims=True)
    return to.emit("sub", shifted, to.emit("log", total))
