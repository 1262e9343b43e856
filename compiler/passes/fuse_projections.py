"""Projections of one input, joined to one product: query, key and value; gate and up."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ...ir.graph import Graph, Node, Program, Value, users
from ..analysis import static_values
from ..rewriting import Event, Rewritten, RuleBuilder, drop_dead, in_order, notes_of
from ..task import Task
from ..tuning import Choice, Pick, node_dtype
from .registry import rewrite

# group -> (the ops where its projections meet, what they may pass through on the way there)
MEETINGS = {
    "qkv": (
        ("attention", "cached_attention"),
        frozenset({"reshape", "transpose", "rotary", "rms_norm", "layer_norm", "cast"}),
    ),
    "gate_up": (("mul",), frozenset({"silu", "gelu", "relu", "sigmoid", "cast"})),
}
JOINED, APART = "joined", "apart"
PRODUCTS = ("linear", "quantized_matmul")
Users = dict[Value, list[Node]]


@rewrite("fuse_projections", optimizes=True)
def fuse_projections(program: Program, task: Task) -> Rewritten:
    """One product with joined weights and a `split`, for the groups that the backend gains from."""
    functions: dict[str, Graph] = {}
    events: dict[str, list[Event]] = {}
    picks: list[Pick] = []
    static = static_values(program)
    for name, graph in program.functions.items():
        functions[name], events[name] = _fuse(graph, static[name], task, picks)
    return Rewritten(
        program.replace(functions=functions), notes_of(program, "fuse_projections", events), tuple(picks)
    )


def _fuse(graph: Graph, static: set[Value], task: Task, picks: list[Pick]) -> tuple[Graph, list[Event]]:
    used = users(graph)
    events: list[Event] = []
    joined: dict[Node, Sequence[Node]] = {}
    for group, nodes in _groups(graph, used):
        what = f"the {len(nodes)} projections {group} of one input"
        reason, why = _why_not(nodes, static), ""
        if reason is None:
            pick = _pick(nodes, group, task)
            picks.append(pick)
            why = pick.why
            if pick.option == APART:
                reason = f"{task.capabilities.backend} gains nothing from joining {group}"
        if reason is None:
            joined[nodes[0]] = nodes
            events.append(Event(f"{what} are one product{why}", nodes[0].where))
        else:
            events.append(Event(f"{what} declined: {reason}{why}", nodes[0].where))
    return (_join(graph, joined) if joined else graph), events


def _groups(graph: Graph, used: Users) -> Iterable[tuple[str, list[Node]]]:
    """(group, products of one input that meet), in order."""
    by_input: dict[Value, list[Node]] = {}
    for node in graph.nodes:
        if node.op.name in PRODUCTS and node.inputs[0] is not None:
            by_input.setdefault(node.inputs[0], []).append(node)
    for nodes in by_input.values():
        left = nodes
        for group in MEETINGS:
            meets: dict[Node, list[Node]] = {}
            for node in left:
                place = _meeting(node, group, used)
                if place is not None:
                    meets.setdefault(place, []).append(node)
            for together in meets.values():
                if len(together) > 1:
                    left = [n for n in left if n not in together]
                    yield group, together


def _meeting(node: Node, group: str, used: Users) -> Node | None:
    ops, through = MEETINGS[group]
    value = node.output
    while len(used[value]) == 1:
        (user,) = used[value]
        if user.op.name in ops:
            return user
        if user.op.name not in through or user.inputs[0] is not value:
            return None
        value = user.outputs[0]
    return None


def _pick(nodes: Sequence[Node], group: str, task: Task) -> Pick:
    """Joined or apart, by what was measured for these sizes, else as the backend's `joins` or `block_joins` say."""
    able = task.capabilities
    joins = able.joins if nodes[0].op.name == "linear" else able.block_joins
    options = (JOINED, APART) if group in joins else (APART, JOINED)
    inner = nodes[0].inputs[0].type.shape[-1]  # type: ignore[union-attr]
    outer = "+".join(str(n.output.type.shape[-1]) for n in nodes)
    return task.tuning.pick(Choice("join", options), group, f"{inner}x{outer}", node_dtype(nodes[0]))


def _why_not(nodes: Sequence[Node], static: set[Value]) -> str | None:
    if len({(n.op.name, n.attrs) for n in nodes}) > 1:
        return "their weights are held in different forms"
    if len({_bias(n) is not None for n in nodes}) > 1:
        return "some have a bias and some have none"
    if any(v is not None and v not in static for n in nodes for v in n.inputs[1:]):
        return "a weight depends on the input"
    if len({tuple(None if v is None else v.type.dtype for v in n.inputs[1:]) for n in nodes}) > 1:
        return "the weights have different dtypes"
    return None


def _join(graph: Graph, joined: dict[Node, Sequence[Node]]) -> Graph:
    b = RuleBuilder(graph)
    for node in graph.nodes:
        b.copy(node)
        if node in joined:
            _emit(b, node, joined[node])
    return drop_dead(in_order(b.done()))


def _bias(node: Node) -> Value | None:
    at = node.op.inputs.index("bias?")
    return node.inputs[at] if len(node.inputs) > at else None


def _emit(b: RuleBuilder, first: Node, nodes: Sequence[Node]) -> None:
    outputs = 1 if first.op.name == "linear" else 0  # the axis of a weight that is the outputs'; a bias has but one
    with b.at(first.where):
        joined = []
        for i, name in enumerate(first.op.inputs[1:], 1):
            parts = [n.inputs[i] for n in nodes if len(n.inputs) > i and n.inputs[i] is not None]
            joined.append(b.emit("concat", *parts, axis=0 if name == "bias?" else outputs) if parts else None)
        y = b.emit(first.op, first.inputs[0], *joined, **first.attrs)
        sizes = tuple(n.output.type.shape[-1] for n in nodes)
        parts_of = b.emit_node("split", (y,), {"axis": y.type.rank - 1, "sizes": sizes})
    for node, part in zip(nodes, parts_of.outputs, strict=True):
        b.map[node.output] = part
