"""Products in a narrow type on a machine whose instructions multiply in it and add up in f32.

Only what is multiplied is rounded: x on its way into a product, and the weights, once, when a program is built. Sums,
norms, softmax, attention, what layers add to, and the caches of keys and values stay in f32. Routers do too: their
small differences choose other experts. So does what is no product with a matrix of weights.
"""

from __future__ import annotations

from typing import Any

from ...ir.dtypes import DType, f32
from ...ir.graph import Graph, Node, Program, Value, producers, users
from ...ir.ops.widen import as_type
from ..analysis import static_values
from ..plan import Note
from ..rewriting import Event, Rewritten, RuleBuilder, drop_dead, notes_of
from .quantize import Users, routes

OTHERS = ("conv", "matmul", "attention")  # which multiply too


def narrow_products(program: Program, dtype: DType) -> Rewritten:
    """linear(x, w) of f32 -> linear of the same rounded to `dtype`; tables of which rows are looked up are held in it.

    The roundings are casts there and back: a backend that has the instructions takes both casts into its product.
    """
    static = static_values(program)
    functions, events = {}, {}
    for name, graph in program.functions.items():
        functions[name], events[name] = _Narrow(graph, static[name], dtype).all()
    done = program.replace(functions=functions)
    told = Note("precision", f"products multiply in {dtype} and add up in f32, all else is computed in f32")
    return Rewritten(done, (told, *notes_of(done, "precision", events)))


class _Narrow:
    """One graph's products."""

    def __init__(self, graph: Graph, static: set[Value], dtype: DType) -> None:
        self.graph, self.static, self.dtype = graph, static, dtype
        self.b, self.made_by = RuleBuilder(graph), producers(graph)
        self.used: Users = users(graph)
        self.made: dict[Value, Value] = {}

    def all(self) -> tuple[Graph, list[Event]]:
        events = list[Event]()
        for node in self.graph.nodes:
            with self.b.at(node.where):
                if self._looks_up(node):
                    rows = self.b.emit("gather", self._rounded(node.inputs[0]), node.inputs[1], **node.attrs)
                    self.b.replace(node, [as_type(self.b, rows, f32)])
                elif node.op.name in OTHERS:
                    self.b.copy(node)
                    events.append(Event(f"{node.op.name} stays in f32", node.where))
                elif node.op.name == "moe":
                    self.b.replace(node, [self._experts(node)])
                    events.append(Event(f"experts are held in {self.dtype} and multiply in f32", node.where))
                elif node.op.name != "linear":
                    self.b.copy(node)
                elif (reason := self._why_not(node)) is not None:
                    self.b.copy(node)
                    events.append(Event(f"a product stays in f32: {reason}", node.where))
                else:
                    x, w = (as_type(self.b, self._rounded(v), f32) for v in node.inputs[:2])
                    self.b.replace(node, [self.b.emit("linear", x, w, *node.inputs[2:])])
        return drop_dead(self.b.done()), events

    def _experts(self, node: Node) -> Value:
        """Experts whose matrices, where they are weights, are rounded; their tokens are not."""
        b, static = self.b, self.static
        parts = [as_type(b, self._rounded(v), f32) if v in static and v.type.dtype == f32 else v
                 for v in node.inputs[3:5] if v is not None]  # fmt: skip
        return b.emit("moe", *node.inputs[:3], *parts, *node.inputs[5:], **node.attrs)

    def _looks_up(self, node: Node) -> bool:
        table = node.inputs[0] if node.op.name == "gather" else None
        return table in self.static and table.type.dtype == f32 and table.type.rank == 2

    def _why_not(self, node: Node) -> str | None:
        x, weight = node.inputs[:2]
        assert x is not None and weight is not None
        if x.type.dtype != f32:
            return f"it is computed in {x.type.dtype}"
        if weight not in self.static or x in self.static:
            return "it is none of activations with a weight"
        k = weight.type.shape[0]
        if not isinstance(k, int) or k % 2:
            return f"its {k} features are no pairs"
        return "it chooses experts" if routes(node, self.used) else None

    def _rounded(self, value: Any) -> Value:
        """A value in the narrow type; of one that is but another shape of what a kernel computes, that is rounded."""
        if value not in self.made:
            maker = self.made_by.get(value)
            if maker is not None and maker.op.name == "reshape":
                self.made[value] = self.b.emit("reshape", self._rounded(maker.inputs[0]), **maker.attrs)
            else:
                self.made[value] = self.b.emit("cast", value, dtype=self.dtype)
        return self.made[value]
