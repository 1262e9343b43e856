"""Complex tensors, which rotary embeddings use: two real values each, and never a value of their own."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

from ...diagnostics import CaptureError
from ...dtypes import i64
from .elementwise import TABLE as _elementwise
from .index import TABLE as _index
from .index import row_and_column
from .shape import TABLE as _shape
from .table import axes, enters

if TYPE_CHECKING:
    from ...graph import Value
    from ..from_torch import Translator

TABLE: dict[str, Any] = {}
# What moves elements without looking at them.
_BY_PART = (
    "neg.default", "view.default", "reshape.default", "_unsafe_view.default", "unsqueeze.default", "squeeze.dim",
    "expand.default", "transpose.int", "permute.default", "slice.Tensor", "select.int", "clone.default",
    "contiguous.default", "alias.default", "detach.default", "flatten.using_ints", "index.Tensor",
    "index_select.default", "repeat.default", "to.dtype_layout", "to.device", "to.dtype", "_to_copy.default",
)  # fmt: skip


class Parts(NamedTuple):
    """A complex tensor."""

    real: Value
    imag: Value


def is_complex(node: Any) -> bool:
    """Whether a call takes or gives a complex tensor."""
    metas = [n.meta.get("val") for n in (node, *node.all_input_nodes)]
    return any(getattr(m, "dtype", None) is not None and m.dtype.is_complex for m in metas)


def _by_part(translate: Any) -> Any:
    """The translation of a real op, once for each part."""

    def both(to: Translator) -> Parts:
        if not to.node.meta["val"].dtype.is_complex:
            raise CaptureError(f"{to.node.target} drops the imaginary part", hint="take .real")
        node, whole = to.node, {a: p for a in to.node.all_input_nodes if isinstance(p := to.env[a], Parts)}
        to.node = SimpleNamespace(
            target=node.target, args=node.args, kwargs=node.kwargs, meta={**node.meta, "val": node.meta["val"].real}
        )
        made = []
        for part in Parts._fields:
            to.env.update({a: getattr(p, part) for a, p in whole.items()})
            made.append(translate(to))
        to.env.update(whole)
        to.node = node
        return Parts(*made)

    return both


_REAL = {**_elementwise, **_shape, **_index}
for _name in _BY_PART:
    TABLE[f"aten.{_name}"] = _by_part(_REAL[f"aten.{_name}"])


@enters(TABLE, "complex.default")
def _(to: Translator) -> Parts:
    return Parts(*(to.value(a) for a in to.node.args[:2]))


@enters(TABLE, "polar.default")
def _(to: Translator) -> Parts:
    length, angle = (to.value(a) for a in to.node.args[:2])
    return Parts(*(to.emit("mul", length, to.emit(turn, angle)) for turn in ("cos", "sin")))


@enters(TABLE, "view_as_complex.default")
def _(to: Translator) -> Parts:
    pairs = to.value(to.node.args[0])
    parts = (to.emit("slice", pairs, axis=pairs.type.rank - 1, start=i, stop=i + 1, step=1) for i in (0, 1))
    return Parts(*(to.emit("reshape", p, shape=pairs.type.shape[:-1]) for p in parts))


@enters(TABLE, "view_as_real.default")
def _(to: Translator) -> Value:
    parts = to.env[to.node.args[0]]
    wide = (to.emit("reshape", p, shape=(*p.type.shape, 1)) for p in parts)
    return to.emit("concat", *wide, axis=parts.real.type.rank)


@enters(TABLE, "real.default")
def _(to: Translator) -> Value:
    return to.env[to.node.args[0]].real


@enters(TABLE, "imag.default")
def _(to: Translator) -> Value:
    return to.env[to.node.args[0]].imag


@enters(TABLE, "_conj.default", "conj_physical.default", "resolve_conj.default")
def _(to: Translator) -> Parts:
    parts = to.env[to.node.args[0]]
    turned = "resolve" not in str(to.node.target)
    return Parts(parts.real, to.emit("neg", parts.imag) if turned else parts.imag)


@enters(TABLE, "mul.Tensor")
def _(to: Translator) -> Parts:
    """(a + bi)(c + di); a real factor scales both parts."""
    left, right = (to.env.get(a, a) if hasattr(a, "meta") else a for a in to.node.args[:2])
    if not isinstance(left, Parts):
        left, right = right, left
    dtype = left.real.type.dtype
    if not isinstance(right, Parts):
        factor = to.value(right, dtype)
        return Parts(*(to.emit("mul", part, factor) for part in left))
    (a, b), (c, d) = left, right
    real = to.emit("sub", to.emit("mul", a, c), to.emit("mul", b, d))
    return Parts(real, to.emit("add", to.emit("mul", a, d), to.emit("mul", b, c)))


@enters(TABLE, "fft_fftn.default", "fft_fft.default")
def _(to: Translator) -> Parts:
    """The Fourier transform written out along each axis: products with the cosines and sines of 2 pi j k / n."""
    sizes, dim, norm = to.args("s", "dim", "norm")
    if sizes is not None or to.args("n")[0] is not None or norm not in (None, "backward"):
        raise CaptureError("a Fourier transform is captured whole and unscaled only", hint="pad or scale beside it")
    given = to.env[to.node.args[0]]
    x = given if isinstance(given, Parts) else None
    real = x.real if x else to.value(to.node.args[0])
    imag = x.imag if x else None
    for at in axes(dim, real.type.rank):
        perm = [i for i in range(real.type.rank) if i != at] + [at]
        back = tuple(perm.index(i) for i in range(real.type.rank))
        parts = [None if p is None else to.emit("transpose", p, perm=tuple(perm)) for p in (real, imag)]
        real, imag = (to.emit("transpose", p, perm=back) for p in _turned(to, parts[0], parts[1]))
    assert imag is not None
    return Parts(real, imag)


def _turned(to: Translator, real: Value | None, imag: Value | None) -> Parts:
    """The transform along the last axis. The angle is taken within one turn, where f32 is exact enough."""
    assert real is not None
    n, dtype = real.type.shape[-1], real.type.dtype
    row, column = row_and_column(to, n, n)
    step = to.emit("mod", to.emit("mul", row, column), to.value(n, i64))
    turn = to.emit("div", to.value(2 * math.pi, dtype), to.value(n, dtype))
    angle = to.emit("mul", to.emit("cast", step, dtype=dtype), turn)
    cos, sin = to.emit("cos", angle), to.emit("sin", angle)
    y, z = to.emit("matmul", real, cos), to.emit("neg", to.emit("matmul", real, sin))
    if imag is None:
        return Parts(y, z)
    return Parts(
        to.emit("add", y, to.emit("matmul", imag, sin)), to.emit("add", z, to.emit("matmul", imag, cos))
    )
