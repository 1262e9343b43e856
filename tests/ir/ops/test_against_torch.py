"""The references against torch, an independent oracle, on random and on awkward input."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tundish.ir.dtypes import DTYPES
from tundish.ir.op import OPS

from .cases import CASES, DEFAULT, Case, attention_cases

_TORCH = {"i32": torch.int32, "i64": torch.int64, "bool": torch.bool, "f32": torch.float32}
_PLAIN = {
    "add": torch.add, "sub": torch.sub, "mul": torch.mul, "pow": torch.pow, "maximum": torch.maximum,
    "minimum": torch.minimum, "mod": torch.remainder, "eq": torch.eq, "ne": torch.ne, "lt": torch.lt, "le": torch.le,
    "gt": torch.gt, "ge": torch.ge, "and": torch.logical_and, "or": torch.logical_or, "xor": torch.logical_xor,
    "not": torch.logical_not, "neg": torch.neg, "abs": torch.abs, "exp": torch.exp, "log": torch.log,
    "sqrt": torch.sqrt, "rsqrt": torch.rsqrt, "reciprocal": torch.reciprocal, "tanh": torch.tanh, "erf": torch.erf,
    "sigmoid": torch.sigmoid, "relu": torch.relu, "sin": torch.sin, "cos": torch.cos, "floor": torch.floor,
    "ceil": torch.ceil, "round": torch.round, "sign": torch.sign, "isnan": torch.isnan, "silu": F.silu,
    "where": torch.where, "matmul": torch.matmul, "gelu": F.gelu,
    "tan": torch.tan, "asin": torch.asin, "acos": torch.acos, "atan": torch.atan, "sinh": torch.sinh,
    "cosh": torch.cosh, "asinh": torch.asinh, "acosh": torch.acosh, "atanh": torch.atanh,
    "bit_and": torch.bitwise_and, "bit_or": torch.bitwise_or, "bit_xor": torch.bitwise_xor,
}  # fmt: skip


def _gather(x: Any, ids: Any, axis: int) -> Any:
    flat = torch.index_select(x, axis, ids.reshape(-1).long())
    at = axis % x.ndim
    return flat.reshape(*x.shape[:at], *ids.shape, *x.shape[at + 1 :])


def _scatter(x: Any, ids: Any, updates: Any, axis: int, reduction: str) -> Any:
    if reduction == "none":
        return torch.scatter(x, axis, ids, updates)
    kind = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}[reduction]
    return torch.scatter_reduce(x, axis, ids, updates, kind, include_self=True)


def _slice(x: Any, axis: int, start: int, stop: int, step: int) -> Any:
    return torch.index_select(x, axis, torch.arange(start, stop, step))


def _pad(x: Any, before: Any, after: Any, value: float) -> Any:
    return F.pad(x, [p for pair in zip(before[::-1], after[::-1], strict=True) for p in pair], value=value)


def _panels(x: Any, width: int, depth: int = 1) -> Any:
    columns = F.pad(x, (0, -x.shape[1] % width)).unflatten(1, (-1, width)).transpose(0, 1)
    return columns if depth == 1 else columns.unflatten(1, (-1, depth)).transpose(2, 3)


def _from_panels(x: Any) -> Any:
    x = x if x.dim() == 3 else x.transpose(2, 3).flatten(1, 2)
    return x.transpose(0, 1).flatten(1)


def _reduced(name: str) -> Callable[..., Any]:
    def over(x: Any, axes: tuple[int, ...], keepdims: bool) -> Any:
        for a in sorted((a % x.ndim for a in axes), reverse=True):
            y = getattr(torch, name)(x, dim=a, keepdim=keepdims)
            x = y if torch.is_tensor(y) else y.values
        return x

    return over


def _layer_norm(x: Any, w: Any, b: Any = None, *, eps: float) -> Any:
    return F.layer_norm(x, x.shape[-1:], w, b, eps)


def _rotary(x: Any, cos: Any, sin: Any, interleaved: bool) -> Any:
    """As a rotation of complex numbers, angle by angle."""
    r = cos.shape[-1]
    head = x[..., :r]
    pairs = (head[..., 0::2], head[..., 1::2]) if interleaved else (head[..., : r // 2], head[..., r // 2 :])
    c, s = ((y[..., 0::2], y[..., 1::2]) if interleaved else (y[..., : r // 2], y[..., r // 2 :]) for y in (cos, sin))
    c, s = ([z[:, :, None] for z in y] for y in (c, s))
    one, two = pairs[0] * c[0] - pairs[1] * s[0], pairs[1] * c[1] + pairs[0] * s[1]
    y = torch.stack([one, two], -1).flatten(-2) if interleaved else torch.cat([one, two], -1)
    return torch.cat([y, x[..., r:]], -1)


def _conv(x: Any, w: Any, b: Any = None, *, before: Any, after: Any, strides: Any, dilations: Any, groups: int) -> Any:
    n = x.ndim - 2
    x = _pad(x, before or (0,) * n, after or (0,) * n, 0.0)
    return (F.conv1d, F.conv2d, F.conv3d)[n - 1](x, w, b, strides or 1, 0, dilations or 1, groups)


def _expert_panels(x: Any, width: int, gated: bool) -> Any:
    if not gated:
        return F.pad(x, (0, -x.shape[2] % width)).unflatten(2, (-1, width)).transpose(1, 2)
    halves = [_expert_panels(half, width // 2, False) for half in x.chunk(2, 2)]
    return torch.cat(halves, 3)


def _from_expert_panels(x: Any, columns: int, gated: bool) -> Any:
    if not gated:
        return x.transpose(1, 2).flatten(2)[..., :columns]
    return torch.cat([_from_expert_panels(half, columns // 2, False) for half in x.chunk(2, 3)], 2)


ORACLES: dict[str, Callable[..., Any]] = {
    **_PLAIN,
    **{n: _reduced(n) for n in ("sum", "mean", "prod", "any", "all")}, "max": _reduced("amax"), "min": _reduced("amin"),
    "div": lambda a, b: torch.div(a, b, rounding_mode=None if a.is_floating_point() else "trunc"),
    "cast": lambda x, dtype: x.to(_TORCH[dtype.name]),
    "reshape": lambda x, shape: x.reshape(shape),
    "transpose": lambda x, perm: x.permute(perm),
    "expand": lambda x, shape: x.expand(shape),
    "concat": lambda *xs, axis: torch.cat(xs, axis),
    "slice": _slice,
    "split": lambda x, axis, sizes: torch.split(x, sizes, axis),
    "pad": _pad,
    "gather": _gather,
    "gather_elements": lambda x, i, axis: torch.gather(x, axis, i),
    "scatter_elements": _scatter,
    "bitcast": lambda x, source, target: x.view(_TORCH[target.name]),
    "iota": lambda length, start, step, dtype: torch.arange(length, dtype=_TORCH[dtype.name]) * step + start,
    "argmax": lambda x, axis, keepdims: torch.argmax(x, axis, keepdims),
    "cumsum": lambda x, axis: torch.cumsum(x, axis),
    "to_panels": _panels,
    "from_panels": lambda x, columns: _from_panels(x)[:, :columns],
    "panel_linear": lambda x, w, b=None, columns=0: F.linear(
        x if w.dim() == 3 else x.float(), _from_panels(w)[:, :columns].T.to(x.dtype if w.dim() == 3 else torch.float), b
    ),
    "panel_gather": lambda x, ids, columns: F.embedding(ids, _from_panels(x).T),
    "to_expert_panels": _expert_panels,
    "from_expert_panels": _from_expert_panels,
    "linear": lambda x, w, b=None: F.linear(x, w.T, b),
    "conv": _conv,
    "rms_norm": lambda x, w, eps: F.rms_norm(x, x.shape[-1:], w, eps),
    "layer_norm": _layer_norm,
    "softmax": lambda x, axis: torch.softmax(x, axis),
    "rotary": _rotary,
    "topk": lambda x, k, axis, largest: torch.sort(x, dim=axis, descending=largest, stable=True),
}  # fmt: skip
ELSEWHERE = {  # held against something else in test_meanings.py or below
    "attention", "constant", "dim_value", "cache_write", "cached_attention", "dequantize", "quantized_matmul", "moe",
    "to_quads", "from_quads", "quad_linear", "quad_gather", "panel_moe", "quantized_moe",
    "quad_moe", "to_expert_quads", "from_expert_quads",
    "quantized_gather", "quantize", "quantize_scale", "all_reduce", "all_gather", "reduce_scatter", "all_to_all",
}  # fmt: skip


def test_every_op_has_an_oracle():
    assert {c.name for c in CASES} == set(ORACLES) | ELSEWHERE


@pytest.mark.parametrize("case", [c for c in CASES if c.name in ORACLES], ids=str)
@pytest.mark.parametrize("sizes", [DEFAULT, {"b": 1, "s": 2, "t": 2, "n": 3}], ids=str)
def test_reference_is_what_torch_gives(case: Case, sizes: dict[str, int]):
    arrays, attrs = case.arrays(sizes), case.attrs_at(sizes)
    raw = case.op.reference(*arrays, **attrs)
    wanted = ORACLES[case.name](*(torch.from_numpy(a) for a in arrays if a is not None), **attrs)
    for got, want in zip(raw if isinstance(raw, tuple) else (raw,), _listed(wanted), strict=True):
        want = want.narrow(attrs["axis"], 0, attrs["k"]) if case.name == "topk" else want
        assert np.shape(got) == tuple(want.shape)
        np.testing.assert_allclose(got, want.numpy(), rtol=2e-6, atol=2e-6)


def _listed(y: Any) -> list[Any]:
    return [y] if torch.is_tensor(y) else list(y)


AWKWARD = np.array(
    [0.0, -0.0, 0.5, -0.5, 1.5, 2.5, -2.5, 1e-40, 88.0, 200.0, -200.0, np.inf, -np.inf, np.nan], np.float32
)


@pytest.mark.parametrize("name", [n for n in _PLAIN if OPS[n].inputs == ("x",) and n not in ("not", "gelu")])
def test_awkward_numbers(name: str):
    x = AWKWARD[:-1] if name == "sign" else AWKWARD  # torch's sign of nan is 0, numpy's nan
    with np.errstate(all="ignore"):
        got = OPS[name].reference(x).astype(np.float64)
    np.testing.assert_allclose(got, _PLAIN[name](torch.from_numpy(x)).double().numpy(), rtol=1e-5, atol=1e-38)


@pytest.mark.parametrize("name", ["maximum", "minimum", "mod", "div", "pow", "eq", "ne", "lt", "ge"])
def test_awkward_pairs(name: str):
    a, b = (x.ravel() for x in np.meshgrid(AWKWARD, AWKWARD))
    if name == "mod":  # torch and numpy differ where a quotient overflows, and no result is of use there
        keep = np.isfinite(a) & np.isfinite(b) & (np.abs(b) > 0.1)
        a, b = a[keep], b[keep]
    with np.errstate(all="ignore"):
        got = OPS[name].reference(a, b).astype(np.float64)
    want = ORACLES[name](torch.from_numpy(a), torch.from_numpy(b)).double().numpy()
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-38)


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_far_out(approximate: str):
    x = np.linspace(-30, 30, 401)
    got = OPS["gelu"].reference(x, approximate=approximate)
    want = F.gelu(torch.from_numpy(x), approximate=approximate).numpy()
    np.testing.assert_allclose(got, want, atol=1e-14, rtol=1e-13)


def test_erf_is_exact_to_double_precision():
    x = np.concatenate([np.linspace(-7, 7, 20001), [1e-300, 0.46875, 4.0, 6.0, -4.0]])
    np.testing.assert_allclose(OPS["erf"].reference(x), [math.erf(v) for v in x], rtol=5e-16, atol=0)


def test_ties_and_nan_in_topk_and_argmax():
    x = np.array([3.0, np.nan, 3.0, 7.0, np.nan], np.float32)
    values, places = OPS["topk"].reference(x, k=4, axis=0, largest=True)
    assert places.tolist() == [1, 4, 3, 0] and np.isnan(values[:2]).all() and values[2:].tolist() == [7.0, 3.0]
    assert OPS["topk"].reference(x, k=2, axis=0, largest=False)[1].tolist() == [0, 2]
    assert OPS["argmax"].reference(x, axis=0, keepdims=False) == torch.from_numpy(x).argmax()


@pytest.mark.parametrize("name", ["bf16", "f16"])
def test_half_types_accumulate_wider(name: str):
    """2048 ones and 4096 halves: a sum kept in bf16 would stop at 256."""
    x = np.ones((1, 2048), DTYPES[name].numpy)
    assert OPS["matmul"].reference(x, x.T) == 2048
    assert OPS["sum"].reference(x, axes=(1,), keepdims=False) == 2048
    assert OPS["mean"].reference(x, axes=(1,), keepdims=False) == 1
    assert OPS["cumsum"].reference(x, axis=1)[0, -1] == 2048
    assert OPS["softmax"].reference(x, axis=1).sum() == pytest.approx(1.0)
    exact = OPS["exp"].reference(x[:, :3]).astype(np.float64)
    assert exact == pytest.approx(np.e, rel=0.01)
    assert OPS["relu"].reference(np.asarray([-1.0], ml_dtypes.bfloat16)).tolist() == [0.0]


# -- attention -----------------------------------------------------------------------------------------


def naive_attention(q, k, v, mask=None, bias=None, sinks=None, position=None, *, scale, causal, window, softcap):
    """One query after the other, from the words of the docstring."""
    (b, s, h, _), (_, t, g, _) = q.shape, k.shape
    q, k, v = q.double(), k.double(), v.double()
    out = torch.zeros(b, s, h, v.shape[3], dtype=torch.float64)
    wide = None if mask is None else (mask[:, None, None, :] if mask.ndim == 2 else mask).expand(b, h, s, t)
    for n, i, head in np.ndindex(b, s, h):
        logits, values = [], []
        for j in range(t):
            ahead = i + (t - s if position is None else int(position[n])) - j
            seen = (not causal or ahead >= 0) and (not window or (ahead < window and (causal or -ahead < window)))
            if not seen or (wide is not None and not wide[n, head, i, j]):
                continue
            score = float(q[n, i, head] @ k[n, j, head // (h // g)]) * scale
            score = softcap * math.tanh(score / softcap) if softcap else score
            logits.append(score + (0.0 if bias is None else float(bias.expand(b, h, s, t)[n, head, i, j])))
            values.append(v[n, j, head // (h // g)])
        if not logits:
            continue
        extra = [] if sinks is None else [float(sinks[head])]
        weights = torch.softmax(torch.tensor([*logits, *extra], dtype=torch.float64), 0)[: len(logits)]
        out[n, i, head] = sum(w * x for w, x in zip(weights, values, strict=True))
    return out


@pytest.mark.parametrize("case", attention_cases(), ids=str)
@pytest.mark.parametrize("lengths", [(2, 3, 5), (1, 4, 4), (2, 5, 3)], ids=str)
def test_attention_against_a_loop(case: Case, lengths: tuple[int, int, int]):
    sizes = dict(DEFAULT, **dict(zip("bst", lengths, strict=True)))
    arrays = case.arrays(sizes)
    if len(arrays) > 3 and arrays[3] is not None:
        arrays[3][0] = False  # the first row may look at nothing
    tensors = [None if a is None else torch.from_numpy(a) for a in arrays]
    got = case.op.reference(*arrays, **case.attrs_at(sizes))
    np.testing.assert_allclose(got, naive_attention(*tensors, **case.attrs_at(sizes)).numpy(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("heads", [(4, 4), (6, 2), (3, 1)])
@pytest.mark.parametrize("kind", ["none", "causal", "mask", "bias"])
def test_attention_against_torch(heads: tuple[int, int], kind: str):
    rng = np.random.default_rng(3)
    h, g = heads
    q, k, v = (rng.normal(size=(2, 5, n, 8)).astype(np.float32) for n in (h, g, g))
    mask = rng.random((2, 1, 5, 5)) < 0.6
    mask[..., 0] = True
    bias = rng.normal(size=(1, h, 5, 5)).astype(np.float32)
    given = {"mask": (mask, None), "bias": (None, bias)}.get(kind, (None, None))
    attrs = {"scale": 0.4, "causal": kind == "causal", "window": 0, "softcap": 0.0}
    got = OPS["attention"].reference(q, k, v, *given, **attrs)
    tensors = [torch.from_numpy(x).transpose(1, 2).double() for x in (q, k, v)]
    extra = {"mask": torch.from_numpy(mask), "bias": torch.from_numpy(bias).double()}.get(kind)
    want = F.scaled_dot_product_attention(
        *tensors, attn_mask=extra, is_causal=attrs["causal"], scale=0.4, enable_gqa=h != g
    )
    np.testing.assert_allclose(got, want.transpose(1, 2).numpy(), rtol=1e-9, atol=1e-11)
