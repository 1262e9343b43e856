"""Walks a program's graphs and emits each node through the table; calls are inlined, weights stay by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...ir.build import Builder
from ...ir.diagnostics import BuildError, Where
from ...ir.dtypes import DType, f32
from ...ir.graph import Graph, Node, Program, Value, callee
from ...ir.op import Attrs
from ...ir.walk import key_of, resolve
from ...ir.weights import Recipe
from ..weight_out import derived_weights
from .emit import Emit
from .kernels import ABSENT, NATIVE
from .lower import DECLINED, OTHERS, Lowering
from .lower_fused import FUSED, parts


class Walk:
    """One emission of a program's graphs into an `Emit`."""

    def __init__(
        self, program: Program, to: Emit, table: Mapping[str, Lowering],
        kernels: Mapping[tuple[str, str], str] | None = None,
    ) -> None:  # fmt: skip
        """kernels: (function, node's first output) -> the kernel to take in place of the usual one."""
        self.program, self.to, self.table = program, to, table
        self._chosen = {
            node: OTHERS[node.op.name][kernels[name, node.outputs[0].name]]
            for name, graph in program.functions.items() if kernels
            for node in graph.nodes if (name, node.outputs[0].name) in kernels
        }  # fmt: skip
        self._special = {
            "weight": self._weight, "constant": self._constant, "dim_value": self._dim_value,
            "call": self._call, "fused": self._fused,
        }  # fmt: skip
        self._calls: tuple[Node, ...] = ()
        self._path = ""  # of the calls, as in the key of a step
        self._within = False  # a decomposition's nodes are none of the plan's
        self._derived = derived_weights(program)

    def graph(self, graph: Graph, args: Sequence[str]) -> list[str]:
        """Emits a graph on these inputs; gives the names of its outputs."""
        outer = self.to.names
        self.to.names = dict(zip(graph.inputs, args, strict=True))
        for node in graph.nodes:
            self._place(node.where)
            self._note(node)
            outputs = self._special.get(node.op.name, self._lowered)(node)
            self.to.names.update(zip(node.outputs, outputs, strict=True))
        results = [self.to.names[v] for v in graph.outputs]
        self.to.names = outer
        return results

    # -- where a node comes from -------------------------------------------------------------------

    def _place(self, where: Where) -> None:
        for call in self._calls:  # innermost first
            where = resolve(where, call)
        self.to.where, self.to.path = where, where.module

    def _note(self, *nodes: Node) -> None:
        """What is emitted from here on computes these nodes."""
        if not self._within:
            self.to.keys = tuple(key_of(self._path, n) for n in nodes)

    # -- the ops of structure ----------------------------------------------------------------------

    def _weight(self, node: Node) -> list[str]:
        name = node.attrs["name"]
        base = self._derived.get(name)
        if base is None:
            return [self._initializer(name)]
        source = self.program.weights[name].source
        assert isinstance(source, Recipe)  # a transpose, which ONNX Runtime does once, when it opens the model
        return [self.to.transpose(self._initializer(base), *source.attrs["perm"])]

    def _initializer(self, name: str) -> str:
        if name not in self.to.weights:
            self.to.weights[name] = self.to.fresh(name)
        return self.to.weights[name]

    def _constant(self, node: Node) -> list[str]:
        return [self.to.scalar(node.attrs["value"], node.attrs["dtype"])]

    def _dim_value(self, node: Node) -> list[str]:
        return [self.to.sizes.scalar(node.attrs["dim"])]

    def _call(self, node: Node) -> list[str]:
        outer = self._calls, self._path
        self._calls, self._path = (node, *self._calls), key_of(self._path, node)
        body = self.program.functions[str(callee(node))]
        outputs = self.graph(body, [self.to.name(v) for v in node.inputs])
        self._calls, self._path = outer
        return outputs

    def _fused(self, node: Node) -> list[str]:
        body = self.program.functions[str(callee(node))]
        made = self._kernel(node, body)
        return self._call(node) if made is None else made

    def _kernel(self, node: Node, body: Graph) -> list[str] | None:
        """The fused kernel for a body, or None where there is none and the body is inlined."""
        key = node.attrs["anchor"], tuple(node.attrs["epilogue"])
        nodes = parts(body)
        lowering = None if self.to.portable else FUSED.get(key)
        floats = {v.type.dtype for n in nodes for v in n.outputs if v.type.dtype.is_float}
        if lowering is None or tuple(n.op.name for n in nodes) != (key[0], *key[1]) or floats != {f32}:
            return None
        outer, calls, path = self.to.names, self._calls, self._path
        self.to.names = dict(zip(body.inputs, (self.to.name(v) for v in node.inputs), strict=True))
        self._calls, self._path = (node, *calls), key_of(path, node)
        self._place(nodes[0].where)
        self._note(*nodes)
        for n in body.nodes:
            if n not in nodes:
                self.to.names.update(zip(n.outputs, self._special[n.op.name](n), strict=True))
        made = lowering(self.to, body, nodes)
        self.to.names, self._calls, self._path = outer, calls, path
        if made is None or any(v not in made for v in body.outputs):
            return None
        return [made[v] for v in body.outputs]

    # -- ordinary ops ------------------------------------------------------------------------------

    def _lowered(self, node: Node) -> list[str]:
        for value in (*node.inputs, *node.outputs):
            if value is not None and value.type.dtype.name in ABSENT:
                problem = f"{node.op.name}: ONNX Runtime has no kernels for {value.type.dtype}"
                raise BuildError(problem, where=node.where)
        narrow = self._narrow(node)
        if narrow is not None:  # between casts nothing is written in place, and what is not written would be lost
            return self._decomposed(node) if node.op.aliases else self._widened(node, narrow)
        lowering = self._chosen.get(node) or self.table.get(node.op.name)
        if lowering is None:
            return self._decomposed(node)
        names = lowering(self.to, node)
        if names is None:
            return self._decomposed(node)
        return [names] if isinstance(names, str) else names

    def _decomposed(self, node: Node) -> list[str]:
        if node.op.decompose is None:
            reason = DECLINED.get(node.op.name, "no lowering to ONNX is written")
            raise BuildError(f"{node.op.name}: ONNX Runtime does not take it: {reason}", where=node.where)
        b = Builder(node.where)
        given = [None if v is None else b.input(v.name, v.type) for v in node.inputs]
        result = node.op.decompose(b, *given, **node.attrs)
        outputs = result if isinstance(result, tuple) else (result,)
        present = [self.to.name(v) for v in node.inputs if v is not None]
        outer, self._within = self._within, True
        made = self.graph(b.finish(outputs), present)
        self._within = outer
        return made

    def _narrow(self, node: Node) -> DType | None:
        """The element type of the node that has no kernel for this op and must be computed in f32."""
        for value in (*node.inputs, *node.outputs):
            if value is not None and value.type.dtype.name in NATIVE:
                if node.op.name not in NATIVE[value.type.dtype.name]:
                    return value.type.dtype
        return None

    def _widened(self, node: Node, narrow: DType) -> list[str]:
        """The node in f32, with casts around it: ONNX Runtime has no kernel for it in the narrow type."""

        def wide(value: Value) -> Value:
            dtype = f32 if value.type.dtype == narrow else value.type.dtype
            return Value(value.name, value.type.with_dtype(dtype))

        inputs = tuple(None if v is None else wide(v) for v in node.inputs)
        for old, new in zip(node.inputs, inputs, strict=True):
            if old is not None and new is not None:
                name = self.to.name(old)
                self.to.names[new] = self.to.cast(name, f32) if old.type != new.type else name
        attrs = Attrs({k: f32 if v == narrow else v for k, v in node.attrs.items()})
        outputs = tuple(wide(v) for v in node.outputs)
        names = self._lowered(Node(node.op, inputs, attrs, outputs, node.where))
        return [
            self.to.cast(name, narrow) if old.type.dtype == narrow else name
            for name, old in zip(names, node.outputs, strict=True)
        ]
