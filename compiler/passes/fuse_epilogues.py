"""An op and the ops after it, as one `fused` node, where the backend has such a kernel."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from ...ir.graph import Graph, Node, Program, Value, producers, users
from ..capabilities import Fusion
from ..rewriting import Event, Rewritten, RuleBuilder, drop_dead, notes_of
from ..task import Task
from ..tuning import Choice, Pick, node_dtype, shape_class
from .registry import rewrite

NORMS = ("rms_norm", "layer_norm")
FUSED, APART = "fused", "apart"
Bodies = dict[tuple[object, ...], str]


class Chain(NamedTuple):
    """Nodes that one kernel takes; `kept` is an inner value that others need too: the sum before a norm."""

    fusion: Fusion
    nodes: tuple[Node, ...]
    kept: tuple[Value, ...]
    pick: Pick


@rewrite("fuse_epilogues", optimizes=True)
def fuse_epilogues(program: Program, task: Task) -> Rewritten:
    """Longest epilogues first; equal bodies are one function."""
    fusions = sorted(task.capabilities.fusions, key=lambda f: (-len(f.epilogue), f.anchor, f.epilogue))
    if not fusions:
        return Rewritten(program)
    functions: dict[str, Graph] = {}
    bodies: Bodies = {}
    made: dict[str, Graph] = {}
    events: dict[str, list[Event]] = {}
    picks: dict[Pick, None] = {}
    fused_already = {n.attrs["function"] for g in program.functions.values() for n in g.nodes if n.op.name == "fused"}
    for name, graph in program.functions.items():
        if name in fused_already:
            functions[name] = graph
            continue
        found, declined = _chains(graph, fusions, task)
        picks.update(dict.fromkeys(c.pick for c in found))
        chains = [c for c in found if c.pick.option == FUSED]
        taken = (*program.functions, *made)
        functions[name] = _replace(graph, chains, bodies, made, taken) if chains else graph
        events[name] = [_event(c) for c in found if c in chains or c.pick.answer] + declined
    changed = program.replace(functions={**made, **functions})
    return Rewritten(changed, notes_of(changed, "fuse_epilogues", events), tuple(picks))


def _event(chain: Chain) -> Event:
    done = "is one kernel" if chain.pick.option == FUSED else "runs as single kernels"
    return Event(f"{_spoken(chain.fusion)} {done}{chain.pick.why}", chain.nodes[-1].where)


def _pick(fusion: Fusion, anchor: Node, task: Task) -> Pick:
    """One kernel or several, by what was measured for these sizes, else as the backend does usually."""
    choice = Choice("fuse", (FUSED, APART) if fusion.usual else (APART, FUSED))
    return task.tuning.pick(choice, _spoken(fusion), shape_class(anchor), node_dtype(anchor))


def _spoken(fusion: Fusion) -> str:
    return " + ".join((fusion.anchor, *fusion.epilogue))


def _chains(graph: Graph, fusions: Sequence[Fusion], task: Task) -> tuple[list[Chain], list[Event]]:
    """The chains that could be one kernel, those that are left apart too: their nodes may be part of others."""
    used, outside, made_by = users(graph), set(graph.outputs), producers(graph)
    taken: set[Node] = set()
    chains: list[Chain] = []
    declined: list[Event] = []
    for fusion in fusions:
        for node in graph.nodes:
            if node.op.name != fusion.anchor or node in taken:
                continue
            nodes, reason = _follow(node, fusion, used, outside)
            kept = _kept(nodes, used, outside)
            if reason is None and not taken.intersection(nodes) and not _waits(nodes, kept, made_by):
                chains.append(Chain(fusion, nodes, kept, _pick(fusion, node, task)))
                taken.update(nodes if chains[-1].pick.option == FUSED else ())
            elif reason:
                declined.append(Event(f"{_spoken(fusion)} declined: {reason}", node.where))
    return chains, [d for d in declined if d.where not in {c.nodes[0].where for c in chains}]


def _follow(
    anchor: Node, fusion: Fusion, used: Mapping[Value, list[Node]], outside: set[Value]
) -> tuple[tuple[Node, ...], str | None]:
    """The nodes of the epilogue after an anchor. A reason: None where they fit, "" where they are not there at all."""
    nodes = [anchor]
    for name in fusion.epilogue:
        value = nodes[-1].outputs[0]
        after = list(dict.fromkeys(n for n in used[value] if n.op.name == name))
        if len(nodes[-1].outputs) > 1 or not after:
            return tuple(nodes), ""
        if len(after) > 1:
            return tuple(nodes), f"{len(after)} nodes {name} follow"
        alone = len(used[value]) == 1 and value not in outside
        if not alone and not (nodes[-1].op.name == "add" and name in NORMS):
            return tuple(nodes), f"the result of {nodes[-1].op.name} is used elsewhere"
        if not after[0].op.commutes and after[0].inputs[0] is not value:
            return tuple(nodes), f"it is not the first input of {name}"
        nodes.append(after[0])
    return tuple(nodes), None


def _kept(nodes: Sequence[Node], used: Mapping[Value, list[Node]], outside: set[Value]) -> tuple[Value, ...]:
    inner = [n.outputs[0] for n in nodes[:-1]]
    return tuple(v for v in inner if v in outside or any(n not in nodes for n in used[v]))


def _waits(nodes: Sequence[Node], kept: Sequence[Value], made_by: Mapping[Value, Node]) -> bool:
    """Whether a kernel that also gives an inner value reads, after it, something that must be computed first.

    Such a reading could depend on that very value, and the kernel could then never start.
    """
    if not kept:
        return False
    inner = {n.outputs[0] for n in nodes}
    late = [v for n in nodes[1:] if n.op.name in NORMS for v in n.inputs[1:] if v is not None and v not in inner]
    return not all(_is_at_hand(v, made_by) for v in late)


def _is_at_hand(value: Value, made_by: Mapping[Value, Node]) -> bool:
    """Whether only moves and casts stand between a value and weights, constants or the graph's inputs."""
    node = made_by.get(value)
    if node is None or not node.inputs:
        return True
    moves = node.op.pure_move or node.op.name == "cast"
    return moves and all(_is_at_hand(v, made_by) for v in node.inputs if v is not None)


def _replace(
    graph: Graph, chains: Iterable[Chain], bodies: Bodies, made: dict[str, Graph], taken: Iterable[str]
) -> Graph:
    names = set(taken)
    unit_of = {node: chain for chain in chains for node in chain.nodes}
    made_by = producers(graph)
    b = RuleBuilder(graph)
    for unit in _in_order(graph, unit_of, made_by):
        if isinstance(unit, Node):
            b.copy(unit)
            continue
        body, args = _body(unit, made_by)
        key = _key(body)
        if key not in bodies:
            bodies[key] = _name(unit.fusion, names)
            made[bodies[key]] = body
        attrs = {"function": bodies[key], "anchor": unit.fusion.anchor, "epilogue": unit.fusion.epilogue}
        types = [v.type for v in body.outputs]
        new = b.emit_node("fused", args, attrs, types=types, where=unit.nodes[-1].where)
        b.map.update(zip((unit.nodes[-1].outputs[0], *unit.kept), new.outputs, strict=True))
    return drop_dead(b.done())


def _in_order(
    graph: Graph, unit_of: Mapping[Node, Chain], made_by: Mapping[Value, Node]
) -> Iterable[Node | Chain]:
    """Nodes and chains, each after all that it reads: a chain as a whole, so some nodes move before or after it."""
    placed: set[Node] = set()
    for root in graph.nodes:
        stack = [root]
        while stack:
            unit = unit_of.get(stack[-1], stack[-1])
            nodes = (unit,) if isinstance(unit, Node) else unit.nodes
            read = (made_by[v] for n in nodes for v in n.inputs if v is not None and v in made_by)
            waits = [n for n in read if n not in placed and n not in nodes]
            if nodes[0] in placed:
                stack.pop()
            elif waits:
                stack.append(waits[0])
                assert len(stack) <= len(graph.nodes), "a kernel waits for itself"
            else:
                placed.update(nodes)
                yield unit


def _name(fusion: Fusion, taken: set[str]) -> str:
    base = "_".join(("fused", fusion.anchor, *fusion.epilogue))
    name, count = base, 1
    while name in taken:
        name, count = f"{base}_{count}", count + 1
    taken.add(name)
    return name


def _body(chain: Chain, made_by: Mapping[Value, Node]) -> tuple[Graph, list[Value]]:
    """The kernel's graph, with the scalars it needs inside; and what it is called with.

    The value that runs along the chain stands first in an op that commutes.
    """
    b = RuleBuilder(Graph((), (), ()))
    inner: dict[Value, Value] = {}
    args: list[Value] = []

    def local(value: Value) -> Value:
        if value not in inner:
            source = made_by.get(value)
            if source is not None and source.op.name == "constant":
                inner[value] = b.emit("constant", where=source.where, **source.attrs)
            else:
                args.append(value)
                inner[value] = b.input(f"x{len(args)}", value.type)
        return inner[value]

    flowing: Value | None = None
    for node in chain.nodes:
        inputs = node.inputs
        if node.op.commutes and flowing is not None and inputs[0] is not flowing:
            inputs = inputs[::-1]
        new = b.emit_node(node.op, [None if v is None else local(v) for v in inputs], node.attrs, where=node.where)
        inner[node.outputs[0]] = new.outputs[0]
        flowing = node.outputs[0]
    outputs = [inner[v] for v in (chain.nodes[-1].outputs[0], *chain.kept)]
    return b.finish(outputs), args


def _key(body: Graph) -> tuple[object, ...]:
    """Equal for bodies that do the same."""
    number = {v: i for i, v in enumerate(body.values())}
    nodes = tuple(
        (n.op.name, n.attrs, tuple(None if v is None else number[v] for v in n.inputs), n.output_types)
        for n in body.nodes
    )
    return (tuple(v.type for v in body.inputs), nodes, tuple(number[v] for v in body.outputs))
