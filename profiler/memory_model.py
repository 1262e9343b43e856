"""What a run holds in memory at most, from the plan and what is known of the backend.

ONNX Runtime reads weights where they lie in the bundle's file, whose mapped pages are the file's and count for nothing
here. It copies those of matrix products into blocks for its kernels when it opens (N rounded up to 16), one after the
other, each mapped as long, and first transposes those that are stored the other way round; such a copy is given back,
but stays until all are packed. TVM's kernels read panels where they lie in the bundle's file, and attention keeps no
scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from ..backends.weight_out import derived_weights
from ..compiler.passes.memory import arena
from ..ir import dims
from ..ir.graph import Node, Program, Value, callee
from ..ir.walk import steps
from .profiles import MemoryPoint

_PANEL = 16  # columns of a packed block
_COPIED = {"linear": 1, "matmul": 1, "conv": 1}  # op -> its input that is copied into blocks


@dataclass(frozen=True, slots=True)
class Held:
    """Bytes. weights: as the backend holds them in a run. opening: what it needs beyond them while it opens."""

    weights: int
    opening: int = 0


@dataclass(frozen=True, slots=True)
class PredictedPeak:
    """Bytes: runtime: of the process without a model. run: values alive at once, and the kernels' workspace."""

    runtime: int
    held: Held
    inputs: int
    run: int

    @property
    def total(self) -> int:
        return self.runtime + self.held.weights + max(self.held.opening, self.inputs + self.run)


def predicted_peak(
    program: Program, function: str, sizes: Mapping[str, int], backend: str, runtime_bytes: int
) -> PredictedPeak:
    """The peak of a process that opens the bundle and runs this function at these sizes."""
    held = _HELD[backend](program, function, sizes)
    inputs = sum(_bytes(v, sizes) for v in program.functions[function].inputs)
    scores = backend not in _WITHOUT_SCORES
    alive = max((p.live_bytes for p in timeline(program, function, sizes, workspace=scores)), default=0)
    return PredictedPeak(runtime_bytes, held, inputs, alive)


def timeline(
    program: Program, function: str, sizes: Mapping[str, int], *, workspace: bool = False
) -> tuple[MemoryPoint, ...]:
    """Bytes of the values that are alive while each node runs, weights and inputs aside; under the node's first value.

    workspace: with what a kernel needs for itself.
    """
    planned = arena(program, function, sizes)
    needs = {s.key: _workspace(s.node, sizes) for s in steps(program, function)} if workspace else {}
    change: dict[int, int] = {}
    names: dict[int, str] = {}
    for slot in planned.slots:
        change[slot.first] = change.get(slot.first, 0) + slot.size_bytes
        change[slot.last + 1] = change.get(slot.last + 1, 0) - slot.size_bytes
        names.setdefault(slot.first, f"{slot.path}/{slot.value}" if slot.path else slot.value)
    alive, points = 0, []
    for step in sorted(change):
        alive += change[step]
        if step in names:
            points.append(MemoryPoint(names[step], alive + needs.get(names[step], 0)))
    return tuple(points)


def _workspace(node: Node, sizes: Mapping[str, int]) -> int:
    """Of attention: the scores, and queries, keys and values with their heads outside."""
    if node.op.name != "attention":
        return 0
    q, k, v = (value for value in node.inputs[:3])
    assert q is not None and k is not None and v is not None
    batch, queries, heads, _ = (dims.evaluate(d, sizes) for d in q.type.shape)
    keys = dims.evaluate(k.type.shape[1], sizes)
    scores = batch * heads * queries * keys * 4
    return scores + sum(_bytes(x, sizes) for x in (q, k, v))


def _bytes(value: Value, sizes: Mapping[str, int]) -> int:
    return dims.evaluate(value.type.bytes, sizes)


# -- weights as a backend holds them ------------------------------------------------------------------------


def _onnxruntime(program: Program, function: str, sizes: Mapping[str, int]) -> Held:
    derived = derived_weights(program)
    packed: dict[str, int] = {}
    transposed: dict[str, int] = {}
    largest = 0
    for node, names in _reads(program, function):
        for at, name in enumerate(names):
            if name is None:
                continue
            shape = [dims.evaluate(d, {}) for d in program.weights[name].type.shape]
            size = dims.evaluate(program.weights[name].type.bytes, {})
            if _COPIED.get(node.op.name) != at or len(shape) < 2:
                continue
            packed[name] = size // max(1, shape[-1]) * -(-shape[-1] // _PANEL) * _PANEL if len(shape) == 2 else size
            if name in derived:
                transposed[name] = size
            else:
                largest = max(largest, size)
    return Held(sum(packed.values()), max(largest, sum(transposed.values())))


def _all(program: Program, function: str, sizes: Mapping[str, int]) -> Held:
    """Every weight as it is."""
    read = {name for _, names in _reads(program, function) for name in names if name is not None}
    return Held(sum(dims.evaluate(program.weights[name].type.bytes, {}) for name in read))


def _none(program: Program, function: str, sizes: Mapping[str, int]) -> Held:
    """What is read where it lies."""
    return Held(0)


_WITHOUT_SCORES = frozenset({"tvm"})
_HELD: dict[str, Callable[[Program, str, Mapping[str, int]], Held]] = {
    "onnxruntime": _onnxruntime, "reference": _all, "tvm": _none,
}  # fmt: skip


def _reads(program: Program, name: str, given: tuple[str | None, ...] = ()) -> Iterator[tuple[Node, list[str | None]]]:
    """Every node that runs, with the weight that each of its inputs is, calls expanded."""
    graph = program.functions[name]
    known: dict[Value, str | None] = dict(zip(graph.inputs, given, strict=False))
    for node in graph.nodes:
        names = [None if v is None else known.get(v) for v in node.inputs]
        inner = callee(node)
        if inner is not None:
            yield from _reads(program, inner, tuple(names))
        elif node.op.name == "weight":
            known[node.outputs[0]] = str(node.attrs["name"])
        else:
            yield node, names
