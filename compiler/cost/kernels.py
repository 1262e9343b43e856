"""What a node costs, in the terms that a calibration speaks of: a family of kernels, a size in it, flops and bytes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Union

from ...ir import dims
from ...ir.dims import Bindings
from ...ir.graph import Node, Value
from ...ir.tensor import TensorType

At = tuple[float, ...]

NOTHING = frozenset({"weight", "constant", "dim_value", "call", "fused"})  # structure: no kernel runs for it

# Where an op's weights stand among its inputs: they are read from memory once a run, its other inputs were just made.
WEIGHTS: dict[str, tuple[int, ...]] = {
    "linear": (1, 2), "conv": (1, 2), "layer_norm": (1, 2), "rms_norm": (1,), "quantized_matmul": (1, 2, 3),
    **dict.fromkeys(("moe", "panel_moe", "quantized_moe", "quad_moe"), (3, 4, 5, 6, 7, 8)),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kernel's work. at: its size, in the family's coordinates, all of them positive.

    family: the name that its calibration bears: the op's, with the variants that change its speed; `+bias+gelu` is what
    an epilogue adds to the kernel before it.
    activation_bytes: read and written beside the weights. work_bytes: all that it touches at once, for the caches.
    """

    family: str
    dtype: str
    at: At
    flops: int
    weight_bytes: int
    activation_bytes: int

    @property
    def bytes(self) -> int:
        """Read and written, weights and all."""
        return self.weight_bytes + self.activation_bytes

    def scaled(self, **changes: Union[int, str]) -> Kernel:
        values = {name: getattr(self, name) for name in self.__slots__}
        return Kernel(**{**values, **changes})


def kernels(nodes: Sequence[Node], sizes: Bindings) -> tuple[Kernel, ...]:
    """The kernels of one node, or of a group that one kernel or two take: an anchor and the epilogue after it.

    A bias is an epilogue: whether it costs a pass over the result is the backend's matter, and so is measured apart.
    An epilogue reads what its anchor just made, so that counts once, as what the epilogue writes.
    """
    real = [n for n in nodes if n.op.name not in NOTHING]
    if not real:
        return ()
    anchor, rest = real[0], real[1:]
    found = [_kernel(anchor, sizes)]
    names = [_variant(n) for n in rest]
    biased = anchor.op.name == "linear" and len(anchor.inputs) > 2 and anchor.inputs[2] is not None
    if biased:
        found[0] = _without_bias(found[0], anchor, sizes)
        names.insert(0, "bias")
    if names:
        found.append(_epilogue(found[0], names, real, sizes))
    return tuple(found)


def parts_of(nodes: Sequence[Node], sizes: Bindings) -> tuple[Kernel, ...]:
    """Each node of a group as a kernel of its own, for a group that was never measured as one."""
    return tuple(k for node in nodes for k in kernels([node], sizes))


def _kernel(node: Node, sizes: Bindings) -> Kernel:
    work = node.op.work(node.output_types, node.input_types, node.attrs).at(sizes)
    flops, read, written = (int(x) for x in (work.flops, work.read_bytes, work.written_bytes))  # type: ignore[arg-type]
    held = [node.inputs[i] for i in WEIGHTS.get(node.op.name, ()) if i < len(node.inputs)]
    weights = min(read, sum(_bytes(v, sizes) for v in held if v is not None))
    at = tuple(float(max(1, x)) for x in _COORDINATES.get(node.op.name, _elements)(node, sizes))
    return Kernel(_variant(node), _dtype(node), at, flops, weights, read - weights + written)


def _without_bias(kernel: Kernel, node: Node, sizes: Bindings) -> Kernel:
    bias = _bytes(node.inputs[2], sizes)
    return kernel.scaled(
        flops=kernel.flops - _count(node.output_types[0], sizes), weight_bytes=kernel.weight_bytes - bias
    )


def _epilogue(before: Kernel, names: Sequence[str], group: Sequence[Node], sizes: Bindings) -> Kernel:
    """What comes after the anchor: it reads the anchor's result and what else its nodes take, and writes its own."""
    own = {v for n in group for v in n.outputs}
    last = group[-1].output_types[0]
    bias = group[0].inputs[2] if names[0] == "bias" else None
    flops = sum(_kernel(n, sizes).flops for n in group[1:])
    flops += 0 if bias is None else _count(group[0].output_types[0], sizes)
    others = [v for n in group[1:] for v in n.inputs if v is not None and v not in own]
    read = _bytes(bias, sizes) + sum(_bytes(v, sizes) for v in others)
    made = _bytes_of(group[0].output_types[0], sizes) + _bytes_of(last, sizes)
    return Kernel("+" + "+".join(names), before.dtype, (float(max(1, _count(last, sizes))),), flops, 0, read + made)


# -- families ------------------------------------------------------------------------------------------


def _variant(node: Node) -> str:
    name, a = node.op.name, node.attrs
    if name == "gelu" and a["approximate"] != "none":
        return f"gelu_{a['approximate']}"
    if name == "attention":
        given = [v is not None for v in node.inputs[3:6]]
        words = ("causal" if a["causal"] else "", "window" if a["window"] else "", *(
            word if there else "" for word, there in zip(("mask", "bias", "sinks"), given, strict=False)
        ))  # fmt: skip
        return "_".join(("attention", *filter(None, words)))
    if name == "transpose" and a["perm"][-1] != len(a["perm"]) - 1:
        return "transpose_last"  # element by element, where others move rows
    return f"{name}_broadcast" if name in _SPREADS and _spreads(node) else name


_SPREADS = ("add", "sub", "mul", "div")


def _spreads(node: Node) -> bool:
    """Whether one operand is repeated along an axis: a row of numbers, not a scalar."""
    out = node.output_types[0].shape
    return any(t is not None and t.shape != out and t.elements != 1 for t in node.input_types)


def _elements(node: Node, sizes: Bindings) -> At:
    return (max(_count(t, sizes) for t in (*node.output_types, *filter(None, node.input_types[:1]))),)


def _rows(node: Node, sizes: Bindings) -> At:
    """Rows and width of what it gives."""
    width = dims.evaluate(node.output_types[0].shape[-1], sizes) if node.output_types[0].shape else 1
    return (_count(node.output_types[0], sizes) / max(1, width), width)


def _linear(node: Node, sizes: Bindings) -> At:
    """Rows, inner size, columns."""
    rows, n = _rows(node, sizes)
    first = node.input_types[0]
    assert first is not None
    return (rows, dims.evaluate(first.shape[-1], sizes), n)


def _matmul(node: Node, sizes: Bindings) -> At:
    """Batch, rows, inner size, columns."""
    rows, k, n = _linear(node, sizes)
    m = dims.evaluate(node.output_types[0].shape[-2], sizes)
    return (rows / max(1, m), m, k, n)


def _attention(node: Node, sizes: Bindings) -> At:
    """Batch times heads, queries, keys, head size."""
    q, k = node.input_types[:2]
    assert q is not None and k is not None
    b, s, h, d = (dims.evaluate(x, sizes) for x in q.shape)
    return (b * h, s, dims.evaluate(k.shape[1], sizes), d)


def _conv(node: Node, sizes: Bindings) -> At:
    """Positions of the output, inner size, channels of the output: its size as a matrix product."""
    weight, out = node.input_types[1], node.output_types[0]
    assert weight is not None
    channels = dims.evaluate(weight.shape[0], sizes)
    return (_count(out, sizes) / max(1, channels), _count(weight, sizes) / max(1, channels), channels)


_COORDINATES: dict[str, Callable[[Node, Bindings], At]] = {
    "linear": _linear, "matmul": _matmul, "attention": _attention, "conv": _conv, "layer_norm": _rows,
    "rms_norm": _rows, "softmax": _rows, "gather": _rows,
}  # fmt: skip


def _dtype(node: Node) -> str:
    """The type that it computes in: of its first float, else of its result."""
    types = [t for t in (*node.input_types, *node.output_types) if t is not None and t.dtype.is_float]
    return (types[0] if types else node.output_types[0]).dtype.name


def _count(type: TensorType, sizes: Bindings) -> int:
    return dims.evaluate(type.elements, sizes)


def _bytes_of(type: TensorType, sizes: Bindings) -> int:
    return dims.evaluate(type.bytes, sizes)


def _bytes(value: Value | None, sizes: Bindings) -> int:
    return 0 if value is None else _bytes_of(value.type, sizes)


def log_size(kernel: Kernel) -> float:
    """ln of the product of its coordinates: one number to order sizes by."""
    return sum(math.log(x) for x in kernel.at)
