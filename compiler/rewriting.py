"""Applying rules to graphs and programs, and counting what they did in the user's terms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ..ir.build import Rebuilder
from ..ir.diagnostics import Where
from ..ir.graph import Graph, Node, Program, Value, callee, producers
from ..ir.op import Op
from .pattern import Match, Rule
from .plan import Note
from .tuning import Pick

MOST_SWEEPS = 100


class Event(NamedTuple):
    """Something done or declined once, at a place in one function."""

    text: str
    where: Where | None


class Rewritten(NamedTuple):
    """What a rewrite gives back: the new program, its notes, and what it chose that could be chosen otherwise."""

    program: Program
    notes: tuple[Note, ...] = ()
    picks: tuple[Pick, ...] = ()


class RuleBuilder(Rebuilder):
    """A Rebuilder whose `emit` takes values of the old graph too."""

    def emit_node(
        self, op: str | Op, inputs: Sequence[Value | None], attrs: Mapping[str, Any], **options: Any
    ) -> Node:
        return super().emit_node(op, [self.now(v) for v in inputs], attrs, **options)

    def replace(self, node: Node, new: Sequence[Value]) -> None:
        """Lets new values stand for a node's outputs. Their types must be the same."""
        for old, value in zip(node.outputs, new, strict=True):
            value = self.present(value)
            assert value.type == old.type, f"{old.type} became {value.type}"
            if value is not old:
                self.map[old] = value

    def present(self, value: Value) -> Value:
        """The value that stands for this one now."""
        now = self.now(value)
        assert now is not None
        return now


def apply_rules(graph: Graph, rules: Sequence[Rule]) -> tuple[Graph, list[Event]]:
    """Applies rules, the first that fits at each node, until none does. Dead nodes are dropped on the way.

    Raises: AssertionError when the rules do not come to rest.
    """
    by_root: dict[str, list[Rule]] = {}
    for r in rules:
        for name in r.roots:
            by_root.setdefault(name, []).append(r)
    done: list[Event] = []
    graph = drop_dead(graph)
    for _ in range(MOST_SWEEPS):
        graph, fired, declined = _sweep(graph, by_root)
        done += fired
        if not fired:
            return graph, done + declined
    raise AssertionError(f"rules do not come to rest: {Counter(e.text for e in fired)}")


def _sweep(graph: Graph, by_root: Mapping[str, list[Rule]]) -> tuple[Graph, list[Event], list[Event]]:
    if not any(node.op.name in by_root for node in graph.nodes):
        return graph, [], []
    chosen, declined = _choose(graph, by_root)
    if not chosen:
        return graph, [], declined
    fired: list[Event] = []
    b = RuleBuilder(graph)
    for node in graph.nodes:
        if node not in chosen:
            b.copy(node)
            continue
        rule, match = chosen[node]
        with b.at(node.where):
            new = rule.build(b, match)
        b.replace(node, (new,) if isinstance(new, Value) else new)
        fired.append(Event(rule.says, node.where))
    return drop_dead(b.done()), fired, declined


def _choose(
    graph: Graph, by_root: Mapping[str, list[Rule]]
) -> tuple[dict[Node, tuple[Rule, Match]], list[Event]]:
    """Where which rule fires. From the end to the start, so that the largest match wins over what it covers."""
    made_by, used = producers(graph), use_counts(graph)
    chosen: dict[Node, tuple[Rule, Match]] = {}
    declined: list[Event] = []
    covered: set[Node] = set()
    for node in reversed(graph.nodes):
        if node in covered or node.op.name not in by_root:
            continue
        found, reasons = _first_fit(node, by_root[node.op.name], made_by, used)
        declined += [Event(text, node.where) for text in reasons]
        if found is not None:
            chosen[node] = found
            covered.update(n for n in found[1].nodes if not _is_free(n))
    declined.reverse()
    return chosen, declined


def _first_fit(
    node: Node, rules: Iterable[Rule], made_by: Mapping[Value, Node], used: Mapping[Value, int]
) -> tuple[tuple[Rule, Match] | None, list[str]]:
    """The first rule that fits on this node; and why those that were drawn alike did not."""
    reasons: list[str] = []
    for rule in rules:
        reason = None
        for match in rule.matches(node, made_by):
            why = _leaks(match, used) or (rule.when(match) if rule.when else None)
            if why is None:
                return (rule, match), reasons
            reason = reason or why
        if reason is not None:
            reasons.append(f"{rule.name} declined: {reason}")
    return None, reasons


def _leaks(match: Match, used: Mapping[Value, int]) -> str | None:
    """Why an inner value stops the match: someone outside needs it, so its work would be done twice.

    Moves, casts and sources cost nothing to keep, so they may be shared.
    """
    if len(match.nodes) == 1:
        return None
    inside = Counter(v for n in dict.fromkeys(match.nodes) for v in n.inputs if v is not None)
    for node in match.nodes:
        if node is match.root or _is_free(node):
            continue
        for value in node.outputs:
            if used.get(value, 0) > inside[value]:
                return f"%{value.name} ({node.op.name}) inside is used elsewhere"
    return None


def _is_free(node: Node) -> bool:
    return node.op.pure_move or node.op.name == "cast"


def use_counts(graph: Graph) -> Counter[Value]:
    """How often each value is used; being an output of the graph counts too."""
    counts = Counter(v for node in graph.nodes for v in node.inputs if v is not None)
    counts.update(graph.outputs)
    return counts


def drop_dead(graph: Graph) -> Graph:
    """Without the nodes whose results nobody uses; the inputs stay."""
    live = set(graph.outputs)
    kept: list[Node] = []
    for node in reversed(graph.nodes):
        if not live.isdisjoint(node.outputs):
            kept.append(node)
            live.update(v for v in node.inputs if v is not None)
    if len(kept) == len(graph.nodes):
        return graph
    return Graph(graph.inputs, tuple(reversed(kept)), graph.outputs, graph.output_names)


def call_counts(program: Program) -> dict[str, int]:
    """How often each function runs when every entry runs once."""
    counts = dict.fromkeys(program.functions, 0)
    for name in program.entries:
        counts[name] += 1
    for name in reversed(list(program.functions)):
        for node in program.functions[name].nodes:
            inner = callee(node)
            if inner is not None:
                counts[inner] += counts[name]
    return counts


def notes_of(program: Program, pass_name: str, events: Mapping[str, Sequence[Event]]) -> tuple[Note, ...]:
    """Events by function -> notes; equal ones are one note, and calls are expanded."""
    times: Counter[Event] = Counter()
    runs = call_counts(program)
    for function, found in events.items():
        for event in found:
            times[event] += runs.get(function, 1) or 1
    return tuple(Note(pass_name, e.text, e.where, n) for e, n in times.items())


def rewrite_graphs(
    program: Program, pass_name: str, change: Callable[[Graph], tuple[Graph, list[Event]]]
) -> Rewritten:
    """Changes each function on its own; its inputs and outputs must keep their types."""
    functions: dict[str, Graph] = {}
    events: dict[str, list[Event]] = {}
    for name, graph in program.functions.items():
        functions[name], events[name] = change(graph)
    return Rewritten(program.replace(functions=functions), notes_of(program, pass_name, events))


def rewrite_by_rules(
    program: Program, pass_name: str, rules: Sequence[Rule], *, quiet: Sequence[str] = ()
) -> Rewritten:
    """The body of most rewrites: the same rules on every function.

    quiet: rules whose declining is no news, because what they are drawn on is mostly meant as it is.
    """
    hushed = tuple(f"{name} declined: " for name in quiet)

    def change(graph: Graph) -> tuple[Graph, list[Event]]:
        graph, events = apply_rules(graph, rules)
        return graph, [e for e in events if not e.text.startswith(hushed)] if hushed else events

    return rewrite_graphs(program, pass_name, change)


def pad_rank(shape: tuple[Any, ...], rank: int) -> tuple[Any, ...]:
    """A shape with ones in front, as broadcasting reads it."""
    return (1,) * (rank - len(shape)) + tuple(shape)


def as_rank(b: Rebuilder, value: Value, rank: int) -> Value:
    """The value with ones put in front of its shape."""
    if value.type.rank == rank:
        return value
    return b.emit("reshape", value, shape=pad_rank(value.type.shape, rank))


def in_order(graph: Graph) -> Graph:
    """The same nodes in an order in which they can run, as near to the given one as that allows.

    Raises: AssertionError on a cycle.
    """
    made_by = producers(graph)
    placed: dict[Node, None] = {}
    for root in graph.nodes:
        stack = [root]
        while stack:
            node = stack[-1]
            waits = [made_by[v] for v in node.inputs if v in made_by and made_by[v] not in placed]
            if not waits:
                placed[node] = None
                stack.pop()
            else:
                assert len(stack) <= len(graph.nodes), "the graph has a cycle"
                stack.append(waits[0])
    return Graph(graph.inputs, tuple(placed), graph.outputs, graph.output_names)


def inline(b: RuleBuilder, node: Node, body: Graph) -> list[Value]:
    """Emits a function's body in place of a call of it; the values that stand for the call's outputs."""
    inner: dict[Value, Value | None] = {p: b.now(v) for p, v in zip(body.inputs, node.inputs, strict=True)}
    for n in body.nodes:
        inputs = [None if v is None else inner[v] for v in n.inputs]
        types = n.output_types if n.op.name in ("call", "fused", "weight") else None
        made = b.emit_node(n.op, inputs, n.attrs, types=types, where=n.where)
        inner.update(zip(n.outputs, made.outputs, strict=True))
    return [v for v in (inner[v] for v in body.outputs) if v is not None]
