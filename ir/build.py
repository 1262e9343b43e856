"""Making graphs: one general `emit`, and copying with a map from old values to new."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from .diagnostics import GraphError, Where
from .dtypes import DType
from .graph import Graph, Node, Value
from .op import Op, get
from .tensor import TensorType

UNKNOWN = Where("<built>")


class Builder:
    """Collects nodes in order and infers their types.

    `taken` names that must not be used (those of a graph that is being rebuilt).
    """

    def __init__(self, where: Where = UNKNOWN, taken: Iterable[str] = ()) -> None:
        self.where = where
        self.inputs: list[Value] = []
        self.nodes: list[Node] = []
        self._taken = set(taken)
        self._count = 0

    @contextmanager
    def at(self, where: Where) -> Iterator[None]:
        """Nodes emitted inside come from this place of the user's model."""
        before, self.where = self.where, where
        try:
            yield
        finally:
            self.where = before

    def fresh(self, hint: str = "") -> str:
        """A name that nothing bears yet."""
        name = hint
        while not name or name in self._taken:
            name = f"{hint}.{self._count}" if hint else str(self._count)
            self._count += 1
        self._taken.add(name)
        return name

    def input(self, name: str, type: TensorType) -> Value:
        value = Value(self.fresh(name), type)
        self.inputs.append(value)
        return value

    def emit(
        self, op: str | Op, *inputs: Value | None, name: str = "", where: Where | None = None, **attrs: Any
    ) -> Value:  # fmt: skip
        """Adds a node with one output and returns that. Raises: GraphError with the place."""
        return self.emit_node(op, inputs, attrs, where=where, names=(name,)).output

    def emit_node(
        self,
        op: str | Op,
        inputs: Sequence[Value | None],
        attrs: Mapping[str, Any],
        *,
        types: Sequence[TensorType] | None = None,
        where: Where | None = None,
        names: Sequence[str] = (),
    ) -> Node:
        """Adds a node; `types` gives the output types of ops that cannot infer them (`call`)."""
        where = where or self.where
        op = get(op) if isinstance(op, str) else op
        try:
            op.check_arity(inputs)
            full = op.complete_attrs(attrs)
            if types is None:
                inferred = op.infer(*(None if v is None else v.type for v in inputs), **full)
                types = (inferred,) if isinstance(inferred, TensorType) else inferred
        except GraphError as error:
            if error.where is not None:
                raise
            found = error.found or ", ".join("_" if v is None else str(v.type) for v in inputs)
            raise GraphError(error.problem, where=where, found=found, hint=error.hint) from None
        hints = [*names, *[""] * (len(types) - len(names))]
        outputs = tuple(Value(self.fresh(n), t) for n, t in zip(hints, types, strict=True))
        node = Node(op, tuple(inputs), full, outputs, where)
        self.nodes.append(node)
        return node

    def constant(self, value: float | int | bool, dtype: DType) -> Value:
        """A scalar."""
        return self.emit("constant", value=float(value), dtype=dtype)

    def call(
        self, function: str, graph: Graph, inputs: Sequence[Value | None], **attrs: Any
    ) -> Node:
        """A call of a function, whose output types are the graph's."""
        types = [v.type for v in graph.outputs]
        return self.emit_node("call", inputs, {"function": function, **attrs}, types=types)

    def finish(self, outputs: Sequence[Value], names: Sequence[str] = ()) -> Graph:
        return Graph(tuple(self.inputs), tuple(self.nodes), tuple(outputs), tuple(names))


class Rebuilder(Builder):
    """Builds a changed copy of a graph: `map` old values, `copy` the nodes that stay.

    A node whose inputs did not change is kept as it is, not inferred again.
    """

    def __init__(self, graph: Graph) -> None:
        super().__init__(taken=(v.name for v in graph.values()))
        self.graph = graph
        self.inputs = list(graph.inputs)
        self.map: dict[Value, Value] = {}

    def now(self, value: Value | None) -> Value | None:
        """The value that stands for an old one."""
        while value is not None and value in self.map:
            value = self.map[value]
        return value

    def copy(self, node: Node) -> Node:
        """Takes a node over, on the new values of its inputs."""
        inputs = tuple(self.now(v) for v in node.inputs)
        if all(a is b for a, b in zip(inputs, node.inputs, strict=True)):
            self.nodes.append(node)
            return node
        types = node.output_types
        if node.op.name not in ("call", "fused", "weight"):
            inferred = node.op.infer(*(None if v is None else v.type for v in inputs), **node.attrs)
            types = (inferred,) if isinstance(inferred, TensorType) else inferred
        outputs = tuple(
            v if v.type == t else Value(self.fresh(v.name), t)
            for v, t in zip(node.outputs, types, strict=True)
        )
        new = Node(node.op, inputs, node.attrs, outputs, node.where)
        self.map.update(
            {a: b for a, b in zip(node.outputs, outputs, strict=True) if a is not b}
        )
        self.nodes.append(new)
        return new

    def done(self) -> Graph:
        """The new graph, with the old one's outputs mapped and its output names kept."""
        outputs = [self.now(v) for v in self.graph.outputs]
        return self.finish([v for v in outputs if v is not None], self.graph.output_names)
