"""Matrices of linear layers and of experts into groups of few bits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...ir.diagnostics import CompileError
from ...ir.dtypes import DTYPES
from ...ir.graph import Graph, Node, Program, Value, callee, producers, users
from ..analysis import static_values
from ..capabilities import Capabilities
from ..rewriting import Event, Rewritten, RuleBuilder, drop_dead, notes_of
from ..task import Precision, Task
from .hoist import hoisted
from .quantize_experts import GROUPS, SCHEME, group_of, quantized_experts
from .quantize_experts import spoken as experts_spoken
from .quantize_experts import why_not as why_not_experts
from .raise_quantized import dequantized
from .registry import rewrite
from .stored import BITS, STORED

PRODUCTS = ("linear", "matmul", "quantized_matmul", "attention", "moe", "conv")
DONE_ONCE = ("quantize", "quantize_scale", "transpose", "reshape")  # on weights, when the program is built
Users = Mapping[Value, list[Node]]


@rewrite("quantize")
def quantize_weights(program: Program, task: Task) -> Rewritten:
    """The weight of each linear becomes `dequantize(quantize(weight))`, and each layer of experts one of numbers of few
    bits, where `task.precision.blocks` asks for it.

    So does, with a tied head, the embedding that it shares its numbers with: there is one copy of them. Left as they
    are: routers, whose small differences choose other experts; matrices whose rows no group divides; what is no weight.
    Raises: CompileError where the backend has no kernels for such weights.
    """
    asked = task.precision.blocks
    if not asked:
        return Rewritten(program)
    check_blocks(task.capabilities, task.precision)
    if asked == STORED:
        return _as_stored(program, task)
    static = static_values(program)
    functions: dict[str, Graph] = {}
    events: dict[str, list[Event]] = {}
    for name, graph in program.functions.items():
        functions[name], events[name] = _quantized(graph, static[name], task)
    program = program.replace(functions=functions)
    changed = hoisted(program, "quantize", lambda n: n.op.name in DONE_ONCE, lambda n: False)
    return Rewritten(changed.program, notes_of(program, "quantize", events))


def _as_stored(program: Program, task: Task) -> Rewritten:
    """Nothing is to be done. Raises: CompileError where nothing is stored in blocks that the backend takes."""
    if not any(n.op.name == "dequantize" for g in program.functions.values() for n in g.nodes):
        raise CompileError(f"the model has no weights in blocks that {task.capabilities.backend} works on as they are",
                           hint="take --weights int8 or int4, or fp32")  # fmt: skip
    return Rewritten(program)


def check_blocks(able: Capabilities, asked: Precision) -> None:
    """Cheap, so that it can be asked before a model is opened.

    Raises: CompileError where the backend has no kernels for weights in blocks, or none for this computation.
    """
    if asked.blocks and "quantized_matmul" not in able.ops:
        raise CompileError(f"{able.backend} has no kernels for {asked.blocks} weights",
                           hint="take --weights fp32 or bf16")  # fmt: skip
    if asked.blocks and able.blocks is not None and DTYPES[asked.compute].bits < 32:
        raise CompileError(f"{able.backend} computes with {asked.blocks} weights in fp32 only",
                           hint="leave --precision out, or take --weights fp32")  # fmt: skip


def _quantized(graph: Graph, static: set[Value], task: Task) -> tuple[Graph, list[Event]]:
    made_by, used = producers(graph), users(graph)
    events: list[Event] = []
    change = _Change(graph, made_by, task)
    for node in graph.nodes:
        if node.op.name == "moe":
            events.append(_experts(node, static, task, change))
        if node.op.name != "linear" or node.inputs[1] not in static or dequantized(node.inputs[1], made_by):
            continue
        reason = _why_not(node, used, task)
        if reason is None:
            change.plan(node)
        events.append(Event(f"{_spoken(node, task)} declined: {reason}" if reason else _spoken(node, task), node.where))
    return (change.done() if change.linears or change.experts else graph), events


def _experts(node: Node, static: set[Value], task: Task, change: _Change) -> Event:
    reason = why_not_experts(node, static, task)
    if reason is not None:
        return Event(f"experts in {task.precision.blocks} declined: {reason}", node.where)
    change.experts.add(node)
    return Event(experts_spoken(node, task), node.where)


def _spoken(node: Node, task: Task) -> str:
    group = _group(node, task)
    return f"a linear layer's weight in {task.precision.blocks}" + (f", groups of {group}" if group else "")


def _why_not(node: Node, used: Users, task: Task) -> str | None:
    """Why the weight of a linear is left as it is."""
    k = node.inputs[1].type.shape[0]  # type: ignore[union-attr]
    if _group(node, task) is None:
        return f"no group of {', '.join(map(str, GROUPS))} divides its {k} features"
    if routes(node, used):
        return "it chooses experts"
    return None


def _group(node: Node, task: Task) -> int | None:
    return group_of(node.inputs[1].type.shape[0], task)  # type: ignore[union-attr]


def routes(node: Node, used: Users) -> bool:
    """Whether what a linear gives is ranked, before anything is multiplied by another weight."""
    waiting, seen = list(node.outputs), set[Value]()
    while waiting:
        value = waiting.pop()
        for user in used[value] if value not in seen else ():
            if user.op.name == "topk":
                return True
            if user.op.name not in PRODUCTS and callee(user) is None:
                waiting += user.outputs
        seen.add(value)
    return False


class _Change:
    """One graph with some of its linears on quantised weights."""

    def __init__(self, graph: Graph, made_by: Mapping[Value, Node], task: Task) -> None:
        self.b, self.made_by, self.task = RuleBuilder(graph), made_by, task
        self.linears: dict[Node, tuple[Value, bool]] = {}  # -> its weight, and whether that must be turned to rows
        self.experts: set[Node] = set()
        self.groups: dict[Value, int] = {}  # weight as it stands -> its groups
        self.made: dict[Value, Value] = {}  # the same -> its numbers [n, k], dequantised

    def plan(self, node: Node) -> None:
        """Says that this linear's weight is to be quantised."""
        weight, group = node.inputs[1], _group(node, self.task)
        assert weight is not None and group is not None
        maker = self.made_by.get(weight)
        if maker is not None and maker.op.name == "transpose" and maker.inputs[0] is not None:
            self.linears[node], weight = (maker.inputs[0], False), maker.inputs[0]
        else:
            self.linears[node] = weight, True
        self.groups[weight] = group

    def done(self) -> Graph:
        """The new graph. Rows of a weight that a planned linear shares are read from its quantised numbers too."""
        shared = {weight for weight, turned in self.linears.values() if not turned}
        for node in self.b.graph.nodes:
            with self.b.at(node.where):
                if node in self.linears:
                    weight = self.b.emit("transpose", self._numbers(*self.linears[node]), perm=(1, 0))
                    self.b.replace(node, (self.b.emit("linear", node.inputs[0], weight, *node.inputs[2:]),))
                elif node in self.experts:
                    self.b.replace(node, (quantized_experts(self.b, node, self.made_by, self.task),))
                elif node.op.name == "gather" and node.inputs[0] in shared and node.attrs["axis"] % 2 == 0:
                    rows = self._numbers(node.inputs[0], False)
                    self.b.replace(node, (self.b.emit("gather", rows, node.inputs[1], axis=0),))
                else:
                    self.b.copy(node)
        return drop_dead(self.b.done())

    def _numbers(self, weight: Value, turned: bool) -> Value:
        """What stands for the weight, rows of k."""
        if weight not in self.made:
            b, sizes = self.b, dict[str, Any](bits=BITS[self.task.precision.blocks], group=self.groups[weight])
            rows = b.emit("transpose", weight, perm=(1, 0)) if turned else b.present(weight)
            scale = b.emit("quantize_scale", rows, **sizes)
            q = b.emit("quantize", rows, scale, **sizes)
            self.made[weight] = b.emit("dequantize", q, scale, axis=1, scheme=SCHEME, dtype=weight.type.dtype, **sizes)
        return self.made[weight]
