"""Attention on a GPU."""

from __future__ import annotations

from typing import Any

from ....ir import dims
from ....ir.dims import Dim
from ....ir.dtypes import f32
from ....ir.tensor import TensorType
from ..emit import NAMES, Emit, View
from ..lower_attention import apart, known
from .kernels.attention import attention, tile_of
from .kernels.attention_few import BESIDE, KEYS, attention_few, attention_join
from .kernels.attention_few import fits as fits_few
from .kernels.attention_form import Form
from .kernels.attention_mma import ROWS, attention_mma, fits
from .kernels.elementwise import per_block
from .lower_product import MOST
from .warp import CHUNK, WORDS


def form_of(q: View, k: View, v: View, attrs: Any, beside: dict[str, View]) -> Form:
    h, d, g, e = (known(n) for n in (q.shape[2], q.shape[3], k.shape[2], v.shape[3]))
    mask = "" if "mask" not in beside else "keys" if len(beside["mask"].shape) == 2 else "full"
    types = [NAMES[beside[n].dtype.name] if n in beside else "" for n in ("bias", "sinks", "position")]
    return Form(d, e, g, h // g, attrs["scale"], attrs["causal"], attrs["window"], attrs["softcap"],
                NAMES[q.dtype.name], mask, *types)  # fmt: skip


def attend(to: Emit, attrs: Any, q: View, k: View, v: View, beside: dict[str, View], y: View) -> None:
    """Calls the kernels. q [b, s, h, d], k [b, t, g, d], v [b, t, g, e], y [b, s, h, e]: views with contiguous rows."""
    form = form_of(q, k, v, attrs, beside)
    (b, s), t = q.shape[:2], k.shape[1]
    arrays, sizes = [q, k, v, y, *(beside[n] for n in form.optional)], list[Dim]([b, s, t])
    reads = [x for x in arrays if x is not y]
    for view in (q, k, v, y, *(beside[n] for n in ("mask", "bias") if n in beside)):
        sizes += apart(view)
    if alone(form, s, t):
        parts = to.new(TensorType(f32, (b * form.heads * form.group * per_block(t, KEYS) * (form.e + BESIDE),)))
        split, single = b * form.heads * per_block(t, KEYS), (s, 1, 1)
        few = [*arrays, parts]
        to.call(attention_few, {"form": form}, reads, [parts], sizes, order=few, grid=split, only=single)
        to.call(attention_join, {"form": form}, [*reads, parts], [y], sizes, order=few,
                grid=b * form.heads * form.group, only=single)  # fmt: skip
        if s == 1:
            return
    make, rows = (attention_mma, ROWS) if by_tensor_cores(form, q, k, v) else (attention, tile_of(form).rows)
    grid = b * form.heads * form.group * per_block(s, rows)
    only = (s, 2, MOST) if alone(form, s, t) else None
    to.call(make, {"form": form}, reads, [y], sizes, order=arrays, grid=grid, only=only)


def alone(form: Form, s: Dim, t: Dim) -> bool:
    """Whether there may be one query over many keys."""
    return fits_few(form) and (s == 1 or (not isinstance(s, int) and s != t))


def by_tensor_cores(form: Form, *views: View) -> bool:
    """Whether numbers are of 16 bits, and lie so that 16 bytes of them can be copied at once."""
    steps = (step for v in views for step in (*v.strides[:3], v.offset))
    return form.given in WORDS and fits(form) and all(dims.mod(step, CHUNK) == 0 for step in steps)
