"""Masks that are drawn once for all layers move into the layers' body, where they can be read into its attention."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from ...ir.dtypes import boolean
from ...ir.graph import Graph, Node, Program, Value, callee, producers, users
from ..analysis import call_sites
from ..rewriting import Event, Rewritten, RuleBuilder, drop_dead, notes_of
from ..task import Task
from .registry import rewrite

# What masks are drawn with. It is made anew in each layer until `hoist` takes out again what is left of it.
WORDS = frozenset(
    "add and cast constant dim_value eq expand ge gt iota le lt mul ne not or reshape sub transpose where".split()
)
ATTENDS = frozenset({"attention", "softmax", "call"})
MOST_NODES = 24  # what takes more to draw is more than a mask

Drawn = Mapping[int, tuple[Node, ...]]  # by parameter, the nodes that draw what is passed for it


@rewrite("sink_masks", optimizes=True)
def sink_masks(program: Program, task: Task) -> Rewritten:
    """Callers first, so that a mask sinks from the entry into the innermost body that attends with it."""
    events: dict[str, list[Event]] = {}
    for name in reversed(list(program.functions)):
        functions, sites = dict(program.functions), call_sites(program)[name]
        callers = {caller for caller, _ in sites}
        if len(callers) != 1 or name in program.entries or any(node.op.name != "call" for _, node in sites):
            continue
        (caller,) = callers
        calls = [node for _, node in sites]
        drawn = _drawn(functions[caller], functions[name], calls)
        if drawn:
            leaves = _leaves(drawn)
            passed = {leaf: i for leaf in leaves if (i := _parameter(leaf, calls)) is not None}
            more = [leaf for leaf in leaves if leaf not in passed]
            functions[caller] = _passing(functions[caller], name, drawn, more)
            functions[name] = _drawing(functions[name], drawn, more, passed)
            places = [nodes[-1].where for nodes in drawn.values()]
            events[name] = [Event("a mask that all layers share is drawn in the layer", p) for p in places]
            program = program.replace(functions=functions)
    return Rewritten(program, notes_of(program, "sink_masks", events))


def _drawn(caller: Graph, body: Graph, calls: Sequence[Node]) -> Drawn:
    """The masks that every call passes alike to a body that attends with them."""
    if not any(node.op.name in ATTENDS for node in body.nodes):
        return {}
    made_by, used = producers(caller), users(body)
    found = {}
    for i, parameter in enumerate(body.inputs):
        value = calls[0].inputs[i]
        if value is None or parameter not in used or any(call.inputs[i] is not value for call in calls):
            continue
        nodes = _drawing_of(value, made_by)
        if _is_mask(value, {node.op.name for node in nodes}):
            found[i] = nodes
    return found


def _drawing_of(value: Value, made_by: Mapping[Value, Node]) -> tuple[Node, ...]:
    """The nodes that draw a value, in order; none where they are too many."""
    wanted = [value]
    nodes: set[Node] = set()
    while wanted and len(nodes) <= MOST_NODES:
        node = made_by.get(wanted.pop())
        if node is not None and node not in nodes and node.op.name in WORDS:
            nodes.add(node)
            wanted += [v for v in node.inputs if v is not None]
    return tuple(n for n in made_by.values() if n in nodes) if len(nodes) <= MOST_NODES else ()


def _is_mask(value: Value, names: Collection[str]) -> bool:
    """Whether a drawing compares positions, or makes numbers out of what a mask says."""
    if value.type.rank < 2:
        return False
    if value.type.dtype == boolean:
        return "iota" in names
    return value.type.dtype.is_float and ("where" in names or {"cast", "mul"}.issubset(names))


def _leaves(drawn: Drawn) -> list[Value]:
    """What the drawings start from."""
    made = {v for nodes in drawn.values() for n in nodes for v in n.outputs}
    read = (v for nodes in drawn.values() for n in nodes for v in n.inputs)
    return list(dict.fromkeys(v for v in read if v is not None and v not in made))


def _parameter(leaf: Value, calls: Sequence[Node]) -> int | None:
    """The place of the parameter for which every call passes this value already."""
    places = (i for i in range(len(calls[0].inputs)) if all(call.inputs[i] is leaf for call in calls))
    return next(places, None)


def _passing(caller: Graph, name: str, drawn: Drawn, leaves: Sequence[Value]) -> Graph:
    """The caller, with the leaves passed in the masks' stead."""
    b = RuleBuilder(caller)
    for node in caller.nodes:
        if callee(node) != name:
            b.copy(node)
            continue
        args = [v for i, v in enumerate(node.inputs) if i not in drawn]
        made = b.emit_node(node.op, [*args, *leaves], node.attrs, types=node.output_types, where=node.where)
        b.replace(node, made.outputs)
    return drop_dead(b.done())


def _drawing(body: Graph, drawn: Drawn, leaves: Sequence[Value], passed: Mapping[Value, int]) -> Graph:
    """The body, drawing the masks itself: from leaves that become parameters, and from those that are such already."""
    b = RuleBuilder(body)
    b.inputs = [v for i, v in enumerate(body.inputs) if i not in drawn]
    inner = {leaf: b.input(leaf.name, leaf.type) for leaf in leaves}
    inner |= {leaf: body.inputs[i] for leaf, i in passed.items()}
    for i, nodes in drawn.items():
        for node in nodes:
            if node.output not in inner:
                inputs = [None if v is None else inner[v] for v in node.inputs]
                inner[node.output] = b.emit_node(node.op, inputs, node.attrs, where=node.where).output
        b.map[body.inputs[i]] = inner[nodes[-1].output]
    for node in body.nodes:
        b.copy(node)
    return b.done()
