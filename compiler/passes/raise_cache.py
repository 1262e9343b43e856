"""Attention over caches that were just written into: one op that writes and attends, where the backend has it."""

from __future__ import annotations

from dataclasses import dataclass

from ...ir.graph import Graph, Node, Program, Value, producers, users
from ..rewriting import Event, Rewritten, RuleBuilder, drop_dead, rewrite_graphs
from ..task import Task
from .registry import rewrite

HEADS_FIRST = (0, 2, 1, 3)


@dataclass(frozen=True, slots=True)
class _Found:
    """The attention, and the writes of its keys and values."""

    attention: Node
    keys: Node
    values: Node


@rewrite("raise_cache", optimizes=True)
def raise_cache(program: Program, task: Task) -> Rewritten:
    """attention(q, transpose(cache_write(...)), transpose(cache_write(...)), position) -> cached_attention.

    By hand and not by a rule: what was written is a result too, which a match may not lose.
    """
    if "cached_attention" not in task.capabilities.ops:
        return Rewritten(program)
    return rewrite_graphs(program, "raise_cache", _raised)


def _raised(graph: Graph) -> tuple[Graph, list[Event]]:
    made_by, used = producers(graph), users(graph)
    found = {n: f for n in graph.nodes if n.op.name == "attention" and (f := _find(n, made_by, used)) is not None}
    if not found:
        return graph, []
    gone = {write for f in found.values() for write in (f.keys, f.values)}
    events: list[Event] = []
    b = RuleBuilder(graph)
    for node in graph.nodes:
        if node in found:
            _emit(b, found[node])
            events.append(Event("attention writes into the cache that it reads", node.where))
        elif node not in gone and not (node.op.name == "transpose" and made_by.get(_present(node.inputs[0])) in gone):
            b.copy(node)
    return drop_dead(b.done()), events


def _find(node: Node, made_by: dict[Value, Node], used: dict[Value, list[Node]]) -> _Found | None:
    mask, position = (node.inputs[i] if i < len(node.inputs) else None for i in (3, 6))
    if position is None or mask is not None or not node.attrs["causal"]:
        return None
    keys, values = (_write(x, made_by, used, node) for x in node.inputs[1:3])
    if keys is None or values is None or keys.inputs[2] is not position or values.inputs[2] is not position:
        return None
    return _Found(node, keys, values)


def _write(value: Value | None, made_by: dict[Value, Node], used: dict[Value, list[Node]], reader: Node) -> Node | None:
    """The write whose cache [b, g, t, d] a reader alone sees, as [b, t, g, d]."""
    moved = made_by.get(_present(value))
    if moved is None or moved.op.name != "transpose" or moved.attrs["perm"] != HEADS_FIRST:
        return None
    write = made_by.get(_present(moved.inputs[0]))
    if write is None or write.op.name != "cache_write" or write.attrs["axis"] != 2:
        return None
    seen_by = [user for made in used[write.output] for user in used[made.output] if made.op.name == "transpose"]
    return write if all(u.op.name == "transpose" for u in used[write.output]) and set(seen_by) == {reader} else None


def _emit(b: RuleBuilder, found: _Found) -> None:
    node = found.attention
    q, _, _, _, bias, sinks = (*node.inputs, *(None,) * 6)[:6]
    attrs = {k: node.attrs[k] for k in ("scale", "window", "softcap")}
    with b.at(node.where):
        new = [b.emit("transpose", w.inputs[1], perm=HEADS_FIRST) for w in (found.keys, found.values)]
        caches = [w.inputs[0] for w in (found.keys, found.values)]
        made = b.emit_node("cached_attention", (q, *new, *caches, found.keys.inputs[2], bias, sinks), attrs)
    y, keys, values = made.outputs
    b.replace(node, (y,))
    b.replace(found.keys, (keys,))
    b.replace(found.values, (values,))


def _present(value: Value | None) -> Value:
    assert value is not None
    return value
