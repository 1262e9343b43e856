"""A layer of experts; the routing stays outside, so that every router fits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import dims
from ..diagnostics import GraphError
from ..dims import Dim
from ..dtypes import i64
from ..op import Attr, Op, op
from ..tensor import TensorType, Work
from .checks import INTEGERS, of_kind, same_dtype
from .erf import erf
from .widen import as_type

_OAI_SLOPE, _OAI_LIMIT = 1.702, 7.0  # the model's swiglu_limit and alpha


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return np.asarray(0.5 + 0.5 * np.tanh(x / 2))


def _oai(gate: np.ndarray, up: np.ndarray) -> np.ndarray:
    gate, up = np.minimum(gate, _OAI_LIMIT), np.clip(up, -_OAI_LIMIT, _OAI_LIMIT)
    return (up + 1) * gate * _sigmoid(_OAI_SLOPE * gate)


def _emit_oai(b: Any, gate: Any, up: Any) -> Any:
    def const(value: float) -> Any:
        return b.constant(value, gate.type.dtype)

    gate = b.emit("minimum", gate, const(_OAI_LIMIT))
    up = b.emit("minimum", b.emit("maximum", up, const(-_OAI_LIMIT)), const(_OAI_LIMIT))
    bent = b.emit("mul", gate, b.emit("sigmoid", b.emit("mul", gate, const(_OAI_SLOPE))))
    return b.emit("mul", b.emit("add", up, const(1.0)), bent)


def _emit_gated(name: str, **attrs: Any) -> Callable[[Any, Any, Any], Any]:
    return lambda b, gate, up: b.emit("mul", b.emit(name, gate, **attrs), up)


def _emit_plain(name: str, **attrs: Any) -> Callable[[Any, Any, Any], Any]:
    return lambda b, x, _: b.emit(name, x, **attrs)


@dataclass(frozen=True, slots=True)
class Activation:
    """What stands between the two products: numpy meaning, emitted form, FLOPs per inner element."""

    gated: bool
    fn: Callable[[Any, Any], np.ndarray]
    emit: Callable[[Any, Any, Any], Any]
    flops: int


def _gelu_tanh(x: np.ndarray) -> np.ndarray:
    return np.asarray(x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))))


ACTIVATIONS = {
    "swiglu": Activation(True, lambda g, u: g * _sigmoid(g) * u, _emit_gated("silu"), 3),
    "geglu": Activation(True, lambda g, u: g / 2 * (1 + erf(g / np.sqrt(2))) * u, _emit_gated("gelu"), 6),
    "geglu_tanh": Activation(
        True, lambda g, u: _gelu_tanh(g) * u, _emit_gated("gelu", approximate="tanh"), 9
    ),
    "reglu": Activation(True, lambda g, u: np.maximum(g, 0) * u, _emit_gated("relu"), 1),
    "swiglu_oai": Activation(True, _oai, _emit_oai, 5),
    "silu": Activation(False, lambda x, _: x * _sigmoid(x), _emit_plain("silu"), 2),
    "gelu": Activation(False, lambda x, _: x / 2 * (1 + erf(x / np.sqrt(2))), _emit_plain("gelu"), 5),
    "gelu_tanh": Activation(False, lambda x, _: _gelu_tanh(x), _emit_plain("gelu", approximate="tanh"), 8),
    "relu": Activation(False, lambda x, _: np.maximum(x, 0), _emit_plain("relu"), 0),
}


def distinct_experts(tokens: Dim, experts: int, k: int, each: int) -> Dim:
    """`each` times the experts that `tokens` tokens are expected to reach, k of them a token, drawn uniformly.

    E · (1 - (1 - k/E)^n), followed along straight lines between n = 0, 1, 2, 4, 8, ..., which makes it a size that
    symbols can stand in: exact at those n and at most 4 % of E below between them. Rounded up.
    Source: ours; the expectation of a union of n independent draws of k out of E.
    """

    def expected(n: int) -> float:
        return each * experts * (1.0 - (1.0 - k / experts) ** n)

    total: Dim = each * experts
    left = 1
    result = dims.minimum(total, each * k * tokens)
    while expected(left) < each * (experts - 0.5):
        slope = (expected(2 * left) - expected(left)) / left
        rise = max(round(slope), 1)
        start = int(np.ceil(expected(left))) - rise * left
        result = dims.minimum(result, rise * tokens + start)
        left *= 2
    return result


@op
class moe(Op):
    """For each token the weighted sum of its k experts: Σ weights[t, i] · expert[indices[t, i]](x[t]).

    An expert is down · act(gate_up · x). Gated activations (swiglu, geglu, geglu_tanh, reglu, swiglu_oai) take the
    first half of gate_up's columns as the gate and the second as the value; silu, gelu, gelu_tanh and relu take all.
    swiglu_oai is gpt-oss's: the gate at most 7, the value within 7, (value + 1) · gate · sigmoid(1.702 · gate).
    No token is dropped.

    Shapes: x [*t, d], indices integer [*t, k] in 0..e-1, weights [*t, k], gate_up [e, d, 2f] ([e, d, f] when not
      gated), down [e, f, d], gate_up_bias [e, 2f] (or f), down_bias [e, d] -> [*t, d].
    Flops: for each of tokens · k rows, 2 per multiply-add of both products, 1 per bias element, the activation as its
      op counts it (and 1 for the gate's product), 2 · d for weighing and adding up.
    Bytes: of the experts' parameters, those that the tokens are expected to reach; see `distinct_experts`.
    Source: Shazeer et al. 2017, "Outrageously Large Neural Networks".
    """

    inputs = ("x", "indices", "weights", "gate_up", "down", "gate_up_bias?", "down_bias?")
    attrs = {"activation": Attr(str, "swiglu")}
    axes = "*t d!, *t k!, *t k!, e! d! g!, e! f! d!, e! g!, e! d! -> *t d!"

    def infer(self, x: TensorType, indices: TensorType, weights: TensorType, gate_up: TensorType, down: TensorType,
              gate_up_bias: Any = None, down_bias: Any = None, *, activation: str) -> TensorType:  # fmt: skip
        if activation not in ACTIVATIONS:
            raise GraphError(f"moe: activation is one of {', '.join(ACTIVATIONS)}, got {activation!r}")
        of_kind("moe", "indices", indices, INTEGERS)
        same_dtype("moe", x, gate_up, down)
        found = f"x {x}, indices {indices}, weights {weights}, gate_up {gate_up}, down {down}"
        if x.rank < 1 or indices.shape[:-1] != x.shape[:-1] or weights.shape != indices.shape:
            raise GraphError("moe: indices and weights are k for each token", found=found)
        if gate_up.rank != 3 or down.rank != 3:
            raise GraphError("moe: gate_up and down are [experts, in, out]", found=found)
        (e, d, g), (_, f, _) = gate_up.shape, down.shape
        wide = 2 * f if ACTIVATIONS[activation].gated else f
        if x.shape[-1] != d or down.shape != (e, f, d) or g != wide:
            raise GraphError(f"moe: the parts do not fit together for {activation}", found=found)
        for name, bias, shape in (("gate_up_bias", gate_up_bias, (e, g)), ("down_bias", down_bias, (e, d))):
            if bias is not None and bias.shape != shape:
                raise GraphError(f"moe: {name} is {list(map(str, shape))}", found=str(bias))
        return x

    def flops(self, out: TensorType, *types: Any, activation: str) -> Dim:
        _, indices, _, gate_up, down, *biases = types
        gate_up_bias, down_bias = (*biases, None, None)[:2]
        (_, d, g), f = gate_up.shape, down.shape[1]
        row = 2 * d * g + 2 * f * d + ACTIVATIONS[activation].flops * f + 2 * d
        row = row + (0 if gate_up_bias is None else g) + (0 if down_bias is None else d)
        return indices.elements * row

    def work(self, outs: Any, types: Any, attrs: Any) -> Work:
        x, indices, weights, *parts = types
        experts, k = parts[0].shape[0], indices.shape[-1]
        held = sum((p.bytes for p in parts if p is not None), start=0)
        if not all(isinstance(n, int) for n in (experts, k, held)):
            raise GraphError("moe: the sizes of experts and k are numbers", found=", ".join(map(str, types)))
        reached = distinct_experts(dims.product(indices.shape[:-1]), experts, k, held // experts)
        given = x.bytes + indices.bytes + weights.bytes
        return Work(self.flops(outs[0], *types, **attrs), given + reached, outs[0].bytes)

    def reference(self, x: Any, indices: Any, weights: Any, *parts: Any, activation: str) -> np.ndarray:
        return mixed(x, indices, weights, *parts, activation=activation)

    def decompose(self, b: Any, x: Any, indices: Any, weights: Any, *parts: Any, activation: str) -> Any:
        """Every expert on every token, for targets that know no experts: e / k times the FLOPs."""
        return emit_mixed(b, x, indices, weights, *parts, activation=activation)


def mixed(
    x: Any, indices: Any, weights: Any, gate_up: Any, down: Any, gate_up_bias: Any = None, down_bias: Any = None, *,
    activation: str, between: Callable[[np.ndarray], np.ndarray] = lambda h: h,
) -> np.ndarray:  # fmt: skip
    """What a layer of experts gives, in numpy. between: what is done to what the second product takes.

    Raises: GraphError for an expert that there is not.
    """
    act, f = ACTIVATIONS[activation], down.shape[1]
    if indices.size and (indices.min() < 0 or indices.max() >= len(gate_up)):
        raise GraphError(f"moe: indices {indices.min()}..{indices.max()} are outside 0..{len(gate_up) - 1}")
    tokens = x.reshape(-1, x.shape[-1]).astype(np.float64)
    ids, parts = indices.reshape(len(tokens), -1), weights.reshape(len(tokens), -1).astype(np.float64)
    out = np.zeros_like(tokens)
    for e in np.unique(ids):
        row, choice = np.nonzero(ids == e)
        y = tokens[row] @ gate_up[e].astype(np.float64)
        y = y if gate_up_bias is None else y + gate_up_bias[e]
        y = between(act.fn(y[:, :f], y[:, f:]) if act.gated else act.fn(y, None)) @ down[e].astype(np.float64)
        y = y if down_bias is None else y + down_bias[e]
        np.add.at(out, row, parts[row, choice, None] * y)
    return out.reshape(x.shape)


def emit_mixed(
    b: Any, x: Any, indices: Any, weights: Any, gate_up: Any, down: Any, gate_up_bias: Any = None,
    down_bias: Any = None, *, activation: str, between: Callable[[Any], Any] = lambda h: h,
) -> Any:  # fmt: skip
    """The same in simpler ops, every expert on every token."""
    (e, d, g), f, k = gate_up.type.shape, down.type.shape[1], indices.type.shape[-1]
    tokens, act = dims.product(x.type.shape[:-1]), ACTIVATIONS[activation]
    y = b.emit("matmul", b.emit("reshape", x, shape=(1, tokens, d)), gate_up)
    if gate_up_bias is not None:
        y = b.emit("add", y, b.emit("reshape", gate_up_bias, shape=(e, 1, g)))
    gate, up = y, None
    if act.gated:
        gate, up = b.emit_node("split", [y], {"axis": 2, "sizes": (f, f)}).outputs
    y = b.emit("matmul", between(act.emit(b, gate, up)), down)
    if down_bias is not None:
        y = b.emit("add", y, b.emit("reshape", down_bias, shape=(e, 1, d)))
    share = _shares(b, indices, weights, (e, tokens, k), x.type.dtype)
    return b.emit("reshape", b.emit("sum", b.emit("mul", y, share), axes=(0,)), shape=x.type.shape)


def _shares(b: Any, indices: Any, weights: Any, sizes: tuple[Dim, Dim, Dim], dtype: Any) -> Any:
    """[e, tokens, 1]: what each expert counts for each token, 0 where it was not chosen."""
    e, tokens, k = sizes
    ids = b.emit("reshape", as_type(b, indices, i64), shape=(1, tokens, k))
    each = b.emit("reshape", b.emit("iota", length=e, dtype=i64), shape=(e, 1, 1))
    parts = b.emit("reshape", as_type(b, weights, dtype), shape=(1, tokens, k))
    chosen = b.emit("where", b.emit("eq", ids, each), parts, b.constant(0.0, dtype))
    return b.emit("sum", chosen, axes=(2,), keepdims=True)
