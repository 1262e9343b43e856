"""What does not depend on the user's input becomes a recipe in the weight table; what is the same in every layer is
computed once, by the caller."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ...ir.dtypes import DTYPES
from ...ir.graph import Graph, Node, Program, Value, callee, users
from ...ir.walk import resolve
from ..analysis import call_sites, static_values
from ..rewriting import Event, Rewritten, RuleBuilder, drop_dead, notes_of
from ..task import Task
from .clean import share
from .recipes import SOURCES, Recipes, is_recipe
from .registry import rewrite
from .stored import stays


@dataclass(frozen=True)
class Moved:
    """What leaves a body: nodes in order, which of their values the body is passed instead, and its old parameters."""

    nodes: tuple[Node, ...]
    values: tuple[Value, ...]
    inputs: tuple[Value, ...]


Choice = Callable[[Node], bool]


@rewrite("hoist")
def hoist(program: Program, task: Task) -> Rewritten:
    """Callees first, so that an expression climbs from the innermost body to the entry, where it becomes a recipe."""
    weight_bits = DTYPES[task.precision.weights].bits
    return hoisted(program, "hoist", lambda n: is_recipe(n, weight_bits), _is_worth_it)


@rewrite("dequantize")
def dequantize_weights(program: Program, task: Task) -> Rewritten:
    """Weights that the program holds quantised are dequantised when it is built, unless they stay so: then from here
    on they are plain weights, which fold and fuse with what uses them."""
    return _dequantized(program, "dequantize", lambda n: not stays(n, task))


@rewrite("dequantize_rest")
def dequantize_rest(program: Program, task: Task) -> Rewritten:
    """The same for those that nothing works on as they are after all."""
    if "dequantize" in task.capabilities.ops:
        return Rewritten(program)
    return _dequantized(program, "dequantize_rest", lambda n: True)


def _dequantized(program: Program, pass_name: str, leaves: Choice) -> Rewritten:
    def may(node: Node) -> bool:
        return node.op.name == "dequantize" and leaves(node)

    if not any(may(n) for g in program.functions.values() for n in g.nodes):
        return Rewritten(program)
    return hoisted(program, pass_name, may, lambda n: False)


def hoisted(program: Program, pass_name: str, may: Choice, worth: Choice) -> Rewritten:
    """Moves what `may` move and depends on weights alone, and out of layers what is `worth` computing once."""
    static = static_values(program)
    functions: dict[str, Graph] = {}
    moved: dict[str, Moved] = {}
    events: dict[str, list[Event]] = {}
    recipes = Recipes(program.weights)
    for name, graph in program.functions.items():
        known = static[name].intersection(graph.inputs)
        graph, told = _take_in(graph, moved)
        if name in program.entries:
            graph, events[name] = recipes.apply(graph, _depends_on(graph, known), may, told)
        else:
            leaving = _leaving(program, name, graph, known, may, worth)
            if leaving is not None:
                moved[name], events[name] = leaving
                graph = _without(graph, moved[name])
        functions[name] = graph
    changed = program.replace(functions=functions, weights=recipes.table)
    return Rewritten(changed, notes_of(changed, pass_name, events))


def _take_in(graph: Graph, moved: Mapping[str, Moved]) -> tuple[Graph, set[str]]:
    """A caller with what left its callees before each call; and the places of that, which are told already."""
    told: set[str] = set()
    if not any(callee(n) in moved for n in graph.nodes):
        return graph, told
    b = RuleBuilder(graph)
    for node in graph.nodes:
        leaving = moved.get(str(callee(node)))
        if leaving is None:
            b.copy(node)
            continue
        inner: dict[Value, Value | None] = dict(zip(leaving.inputs, map(b.now, node.inputs), strict=True))
        for n in leaving.nodes:
            where = resolve(n.where, node)
            inputs = [None if v is None else inner[v] for v in n.inputs]
            types = n.output_types if n.op.name == "weight" else None
            new = b.emit_node(n.op, inputs, n.attrs, types=types, where=where)
            inner.update(zip(n.outputs, new.outputs, strict=True))
            told.add(str(where))
        args = (*node.inputs, *(inner[v] for v in leaving.values))
        b.replace(node, b.emit_node(node.op, args, node.attrs, types=node.output_types, where=node.where).outputs)
    return share(b.done())[0], told


def _leaving(
    program: Program, name: str, graph: Graph, known: set[Value], may: Choice, worth: Choice
) -> tuple[Moved, list[Event]] | None:
    """What leaves a body, or None: then it stays as it is, as the body of a fused kernel must."""
    sites = call_sites(program)[name]
    if any(node.op.name != "call" for _, node in sites):
        return None
    static = _movable(graph, known, may)
    same = _movable(graph, _same_in_every_call(program, name, graph), worth)
    nodes = tuple(n for n in graph.nodes if n in static or n in same)
    made = {v for n in nodes if n.op.name not in SOURCES for v in n.outputs}
    leaving = set(nodes)
    used, outside = users(graph), set(graph.outputs)
    values = tuple(v for v in _made_in_order(nodes) if v in made and (v in outside or not leaving.issuperset(used[v])))
    if not values:
        return None
    needed = _needed(nodes, values)
    events = [_event(n, n in static) for n in needed if not set(n.outputs).isdisjoint(values)]
    return Moved(needed, values, graph.inputs), events


def _event(node: Node, static: bool) -> Event:
    if static:
        return Event(f"{node.op.name} of weights is done when the program is built", node.where)
    return Event(f"{node.op.name} is the same in every layer, and computed once", node.where)


def _made_in_order(nodes: tuple[Node, ...]) -> list[Value]:
    return [v for n in nodes for v in n.outputs]


def _needed(nodes: tuple[Node, ...], values: tuple[Value, ...]) -> tuple[Node, ...]:
    wanted = set(values)
    kept = []
    for node in reversed(nodes):
        if not wanted.isdisjoint(node.outputs):
            kept.append(node)
            wanted.update(v for v in node.inputs if v is not None)
    return tuple(reversed(kept))


def _movable(graph: Graph, known: set[Value], may: Choice) -> dict[Node, None]:
    """The nodes that depend on these parameters and on scalars only, and may move."""
    found: dict[Node, None] = {}
    have = set(known)
    for node in graph.nodes:
        ready = all(v is None or v in have for v in node.inputs)
        if ready and not node.op.aliases and (node.op.name in SOURCES or may(node)):
            found[node] = None
            have.update(node.outputs)
    return found


def _depends_on(graph: Graph, known: set[Value]) -> set[Value]:
    """The values that depend on these inputs and on weights only."""
    have = set(known)
    for node in graph.nodes:
        if not node.op.aliases and all(v is None or v in have for v in node.inputs):
            have.update(node.outputs)
    return have


def _is_worth_it(node: Node) -> bool:
    """Whether passing a value in is better than making it in every layer: not where it only repeats elements."""
    if callee(node) is not None:
        return False
    return node.op.name != "expand" or node.output.type.elements == node.input_types[0].elements  # type: ignore[union-attr]


def _same_in_every_call(program: Program, name: str, graph: Graph) -> set[Value]:
    """The parameters that get one and the same value in all calls of each caller, where it calls more than once."""
    by_caller: dict[str, list[Node]] = {}
    for caller, node in call_sites(program)[name]:
        by_caller.setdefault(caller, []).append(node)
    if not by_caller or any(len(nodes) < 2 for nodes in by_caller.values()):
        return set()
    same = set(range(len(graph.inputs)))
    for first, *rest in by_caller.values():
        same = {i for i in same if all(n.inputs[i] is first.inputs[i] for n in rest)}
    return {graph.inputs[i] for i in same}


def _without(graph: Graph, moved: Moved) -> Graph:
    """The body with new parameters for the values that left."""
    b = RuleBuilder(graph)
    passed = set(moved.values)
    for value in moved.values:
        b.map[value] = b.input(value.name, value.type)
    for node in graph.nodes:
        if not passed.issuperset(node.outputs):
            b.copy(node)
    return drop_dead(b.done())
