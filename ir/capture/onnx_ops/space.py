"""What ONNX's convolutions and poolings share: kernels, strides and padding over the axes of space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ... import dims
from ...diagnostics import CaptureError
from ...dims import Dim

if TYPE_CHECKING:
    from ...graph import Value
    from ..from_onnx import Importer

Ints = tuple[int, ...]


@dataclass(frozen=True)
class Space:
    """One number for each axis of space. `span` is how far a kernel reaches; `after` may hold what no input fills."""

    kernel: Ints
    strides: Ints
    dilations: Ints
    before: Ints
    after: Ints

    @property
    def span(self) -> Ints:
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True))


def read(to: Importer, x: Value, kernel: Sequence[Dim]) -> Space:
    """The attributes of the node at hand, for x [batch, channels, *space]. Raises: CaptureError."""
    n = x.type.rank - 2
    space = unpadded(to, x, kernel, listed(to, "strides", n, 1), listed(to, "dilations", n, 1))
    pads = tuple(to.attr("pads", (0,) * (2 * n)))
    if len(pads) != 2 * n or min(pads) < 0:
        raise CaptureError(f"{to.op}: pads are {list(pads)} for {n} axes of space")
    return automatic(to, x, replace(space, before=pads[:n], after=pads[n:]))


def unpadded(to: Importer, x: Value, kernel: Sequence[Dim], strides: Ints, dilations: Ints) -> Space:
    """Without padding. Raises: CaptureError where the kernel does not fit x."""
    n = x.type.rank - 2
    if n < 1 or len(kernel) != n or not all(isinstance(k, int) and k > 0 for k in kernel):
        raise CaptureError(f"{to.op}: a kernel of {list(map(str, kernel))} does not fit {x.type}")
    whole = tuple(int(k) for k in kernel if isinstance(k, int))
    return Space(whole, strides, dilations, (0,) * n, (0,) * n)


def listed(to: Importer, name: str, n: int, default: int, least: int = 1) -> Ints:
    """An attribute of one number for each axis of space."""
    found = tuple(to.attr(name, ())) or (default,) * n
    if n < 1 or len(found) != n or min(found) < least:
        raise CaptureError(f"{to.op}: {name} are {list(found)} for {n} axes of space, each at least {least}")
    return found


def automatic(to: Importer, x: Value, space: Space) -> Space:
    """The padding that `auto_pad` asks for: none, or as much as gives ceil(size / stride) places."""
    mode, n = to.attr("auto_pad", "NOTSET"), len(space.kernel)
    if mode == "NOTSET":
        return space
    if mode == "VALID":
        return replace(space, before=(0,) * n, after=(0,) * n)
    if mode not in ("SAME_UPPER", "SAME_LOWER"):
        raise CaptureError(f"{to.op}: there is no auto_pad {mode!r}")
    total = [_needed(to, *each) for each in zip(x.type.shape[2:], space.span, space.strides, strict=True)]
    small, large = tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
    low, high = (small, large) if mode == "SAME_UPPER" else (large, small)
    return replace(space, before=low, after=high)


def _needed(to: Importer, size: Dim, span: int, stride: int) -> int:
    if stride == 1:
        return span - 1
    if not isinstance(size, int):
        raise CaptureError(f"{to.op}: how much to pad depends on the size {size}", hint="fix that size")
    return max(0, (-(-size // stride) - 1) * stride + span - size)


def places(size: Dim, span: int, stride: int, before: int, after: int) -> Dim:
    """How many places a kernel has along an axis."""
    return dims.floordiv(size + before + after - span, stride) + 1
