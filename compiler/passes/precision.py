"""The one precision policy: which element type everything is computed in.

What comes from an activation is computed in the task's `compute` type. What does not (positions and their sines,
masks) stays as the model has it until it meets an activation. Ops that must keep their statistics in f32 get casts
around them where the backend's kernel does not see to that itself. A backend that only multiplies in that type, and
adds up in f32, gets everything else in f32: `narrow_products`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ...ir.build import UNKNOWN
from ...ir.diagnostics import CompileError, Where
from ...ir.dtypes import DTYPES, DType, f32
from ...ir.graph import Graph, Node, Program, Value, callee
from ..analysis import Sets, scale_values, static_values
from ..capabilities import Capabilities
from ..plan import Note
from ..rewriting import Rewritten, RuleBuilder, drop_dead
from ..task import Precision, Task
from .narrow_products import narrow_products
from .registry import rewrite

TABLES = ("gather", "gather_elements")
PRODUCTS = ("linear", "attention", "quantized_matmul", "moe", "quantized_moe")
SOURCES = ("weight", "constant", "iota", "dim_value")


@rewrite("precision")
def precision(program: Program, task: Task) -> Rewritten:
    """Puts casts where types must change. The user's inputs and outputs keep their types.

    Raises: CompileError when the backend has no kernels in that type.
    """
    check_precision(task.capabilities, task.precision)
    wanted = DTYPES[task.precision.compute]
    if wanted.name not in task.capabilities.dtypes:
        return narrow_products(_computed(program, replace(task, precision=Precision())), wanted)
    if _all_are(program, wanted, DTYPES[task.precision.weights]):
        return Rewritten(program)
    text = f"computed in {wanted}, weights held in {task.precision.weights}"
    return Rewritten(_computed(program, task), (Note("precision", text),))


def check_precision(able: Capabilities, asked: Precision) -> None:
    """Cheap, so that it can be asked before a model is opened. Raises: CompileError."""
    wanted = asked.compute
    if wanted in able.dtypes:
        return
    if wanted not in able.products:
        why = f": {able.unable[wanted]}" if wanted in able.unable else ""
        known = [flag for flag, name in _FLAGS.items() if name in able.dtypes | able.products]
        raise CompileError(f"{able.backend} does not compute in {wanted}{why}",
                           hint=f"take --precision {' or '.join(known)}")  # fmt: skip
    if asked.weights != wanted:
        raise CompileError(f"{able.backend} multiplies in {wanted} by weights in {wanted}",
                           found=f"weights in {asked.weights}", hint="leave --weights or --precision out")  # fmt: skip


_FLAGS = {"fp32": "f32", "fp16": "f16", "bf16": "bf16"}


def _computed(program: Program, task: Task) -> Program:
    if _all_are(program, DTYPES[task.precision.compute], DTYPES[task.precision.weights]):
        return program
    change = _Change(program, task)
    functions: dict[str, Graph] = {}
    for name in program.functions:
        functions[name] = change.graph(name, functions)
    return program.replace(functions=functions)


def _all_are(program: Program, *wanted: DType) -> bool:
    values = (v for g in program.functions.values() for v in set(g.values()) - scale_values(g))
    return len(set(wanted)) == 1 and all(v.type.dtype in wanted or not v.type.dtype.computes for v in values)


def activations(program: Program, static: Sets) -> Sets:
    """By function, the floating values that come from an embedding, a projection or the user's own floats."""
    found: Sets = {name: set() for name in program.functions}
    scales = {name: scale_values(graph) for name, graph in program.functions.items()}
    for name in program.entries:
        found[name] = {v for v in program.functions[name].inputs if v.type.dtype.is_float}
    size = -1
    while size != (size := sum(map(len, found.values()))):
        for name, graph in program.functions.items():
            for node in graph.nodes:
                if scales[name].isdisjoint(node.outputs):
                    _spread(program, node, found, found[name], static[name])
    return found


def _spread(program: Program, node: Node, found: Sets, here: set[Value], static: set[Value]) -> None:
    inner = callee(node)
    if inner is not None:
        body = program.functions[inner]
        found[inner].update(p for p, v in zip(body.inputs, node.inputs, strict=True) if v in here)
        here.update(v for v, o in zip(node.outputs, body.outputs, strict=True) if o in found[inner])
    elif _begins(node, static) or any(v in here for v in node.inputs if v is not None):
        here.update(v for v in node.outputs if v.type.dtype.is_float)


def _begins(node: Node, static: set[Value]) -> bool:
    if node.op.name in TABLES:
        return node.inputs[0] in static and node.inputs[1] not in static
    if node.op.name not in PRODUCTS or node.inputs[0] is None:
        return False
    return node.inputs[0] not in static and node.inputs[0].type.shape[-1] != 1


class _Change:
    """One application of the policy to one program."""

    def __init__(self, program: Program, task: Task) -> None:
        self.program, self.able = program, task.capabilities
        self.compute, self.weights = DTYPES[task.precision.compute], DTYPES[task.precision.weights]
        self.static = static_values(program)
        self.active = activations(program, self.static)

    def graph(self, name: str, done: Mapping[str, Graph]) -> Graph:
        graph, active = self.program.functions[name], self.active[name]
        b, kept = RuleBuilder(graph), scale_values(graph)
        if name not in self.program.entries:
            self._parameters(b, graph, active)
        held = _Casts(b, self.static[name], self.weights, self.weights.bits >= self.compute.bits)
        for node in graph.nodes:
            if callee(node) is not None:
                self._call(b, held, node, done)
            elif any(v in active for v in (*node.inputs, *node.outputs)) and node.op.name not in SOURCES:
                self._node(b, held, node, kept)
            else:
                b.copy(node)
        return self._finish(b, held, graph, name)

    def _parameters(self, b: RuleBuilder, graph: Graph, active: set[Value]) -> None:
        b.inputs = []
        for v in graph.inputs:
            new = Value(v.name, v.type.with_dtype(self.compute)) if v in active and v.type.dtype.computes else v
            b.inputs.append(new)
            if new is not v:
                b.map[v] = new

    def _call(self, b: RuleBuilder, held: _Casts, node: Node, done: Mapping[str, Graph]) -> None:
        body = done[str(callee(node))]
        args = [None if v is None else held.to(v, p.type.dtype) for v, p in zip(node.inputs, body.inputs, strict=True)]
        types = [v.type for v in body.outputs]
        new = b.emit_node(node.op, args, node.attrs, types=types, where=node.where)
        b.map.update(zip(node.outputs, new.outputs, strict=True))

    def _node(self, b: RuleBuilder, held: _Casts, node: Node, kept: set[Value]) -> None:
        wide = node.op.keeps_f32 and node.op.name not in self.able.wide_inside and self.compute.bits < f32.bits
        dtype = f32 if wide else self.compute
        if node.op.name == "cast" and node.attrs["dtype"].computes:
            assert node.inputs[0] is not None
            b.map[node.output] = held.to(node.inputs[0], self.compute)
            return
        dtype = node.attrs["source"] if node.op.name == "bitcast" else dtype
        inputs = [v if v is None or v in kept or not v.type.dtype.computes else held.to(v, dtype) for v in node.inputs]
        new = b.emit_node(node.op, inputs, node.attrs, where=node.where)
        for old, value in zip(node.outputs, new.outputs, strict=True):
            b.map[old] = held.to(value, self.compute, node) if value.type.dtype.computes else value

    def _finish(self, b: RuleBuilder, held: _Casts, graph: Graph, name: str) -> Graph:
        outputs: Sequence[Value] = graph.outputs
        if name in self.program.entries:
            outputs = [held.to(v, v.type.dtype) for v in graph.outputs]
        return drop_dead(b.finish([b.present(v) for v in outputs], graph.output_names))


class _Casts:
    """Casts of values, each made once. A weight passes through the type in which weights are held. `vectors`: so do
    those of one axis; where the computation is wider than weights are held, gains of norms and biases stay as they are:
    they are few, and much hangs on them."""

    def __init__(self, b: RuleBuilder, static: set[Value], weights: DType, vectors: bool) -> None:
        self.b, self.static, self.weights, self.vectors = b, static, weights, vectors
        self.made: dict[tuple[Value, DType], Value] = {}
        self.places = {v: node.where for node in b.graph.nodes for v in node.outputs}
        self.first = b.graph.nodes[0].where if b.graph.nodes else UNKNOWN

    def to(self, value: Value, dtype: DType, maker: Node | None = None) -> Value:
        """The value in that type. The place of a cast is that of the value's maker; a parameter's, the body's first."""
        now = self.b.present(value)
        where = maker.where if maker is not None else self.places.get(value, self.first)
        narrows = self.weights.bits < min(now.type.dtype.bits, dtype.bits) and (self.vectors or value.type.rank > 1)
        if value in self.static and now.type.dtype.is_float and narrows:
            now = self._cast(now, self.weights, where)
        return self._cast(now, dtype, where)

    def _cast(self, value: Value, dtype: DType, where: Where) -> Value:
        if value.type.dtype == dtype:
            return value
        if (value, dtype) not in self.made:
            self.made[value, dtype] = self.b.emit("cast", value, dtype=dtype, where=where)
        return self.made[value, dtype]
