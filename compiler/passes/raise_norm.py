"""Root-mean-square and layer normalisation, written out, to `rms_norm` and `layer_norm`."""

from __future__ import annotations

from typing import Any

from ...ir.graph import Program, Value
from ..pattern import Match, Rule, rule
from ..rewriting import Rewritten, rewrite_by_rules
from ..task import Task
from .registry import rewrite


def _squared(p: Any, x: Any) -> Any:
    return p.either(p.mul(x, x), p.pow(x, p.const(2)))


def _over_root(p: Any, x: Any, of: Any, eps: Any) -> Any:
    """x / sqrt(mean(of²) + eps), as models write it."""
    inside = p.add(p.mean(_squared(p, of), axes=(-1,), keepdims=True), p.const(eps))
    root = p.sqrt(inside)
    return p.either(p.mul(x, p.rsqrt(inside)), p.div(x, root), p.mul(x, p.reciprocal(root)))


def _is_norm(m: Match) -> str | None:
    """One rule for both norms: parameters per feature of the last axis, and the type kept."""
    if m.x.type != m.root.output.type:
        return f"it turns {m.x.type} into {m.root.output.type}"
    if not m.x.type.dtype.is_float:
        return f"{m.x.type} is no floating type"
    for parameter in (m.weight, m.bias if "bias" in m.holes else None):
        if parameter is not None and parameter.type.shape != m.x.type.shape[-1:]:
            return f"its parameter is {parameter.type}, not one number per feature of {m.x.type}"
    return None if m.eps >= 0 else f"eps is {m.eps}"


def _scaled(p: Any, weight: Any, normed: Any) -> Any:
    product = p.mul(weight, p.maybe_cast(normed))
    return p.either(p.cast(product), product)


@rule(
    lambda p, x, weight, eps: _scaled(p, weight, _over_root(p, p.maybe_cast(x), p.maybe_cast(x), eps)), when=_is_norm
)
def rms_norm(b: Any, m: Match) -> Value:
    """x / sqrt(mean(x²) + eps) · weight is one rms_norm"""
    return b.emit("rms_norm", m.x, m.weight, eps=m.eps)


def _centred(p: Any, x: Any) -> Any:
    wide = p.maybe_cast(x)
    return p.sub(wide, p.mean(wide, axes=(-1,), keepdims=True))


def _standard(p: Any, x: Any, eps: Any) -> Any:
    centred = _centred(p, x)
    return p.maybe_cast(_over_root(p, centred, centred, eps))


@rule(
    lambda p, x, weight, bias, eps: p.maybe_cast(p.add(p.mul(weight, _standard(p, x, eps)), bias)), when=_is_norm
)
def layer_norm(b: Any, m: Match) -> Value:
    """(x - mean) / sqrt(variance + eps) · weight + bias is one layer_norm"""
    return b.emit("layer_norm", m.x, m.weight, m.bias, eps=m.eps)


@rule(lambda p, x, weight, eps: p.maybe_cast(p.mul(weight, _standard(p, x, eps))), when=_is_norm)
def layer_norm_without_bias(b: Any, m: Match) -> Value:
    """(x - mean) / sqrt(variance + eps) · weight is one layer_norm"""
    return b.emit("layer_norm", m.x, m.weight, eps=m.eps)


RULES: tuple[Rule, ...] = (layer_norm, layer_norm_without_bias, rms_norm)


@rewrite("raise_norm", optimizes=True)
def raise_norm(program: Program, task: Task) -> Rewritten:
    """Written as transformers' LlamaRMSNorm and T5LayerNorm, as decomposed layer norms, and as ONNX files have them."""
    return rewrite_by_rules(program, "raise_norm", RULES)
