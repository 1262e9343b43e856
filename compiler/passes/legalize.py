"""Only what the backend takes: the rest is decomposed, inlined, or refused by name."""

from __future__ import annotations

from collections.abc import Mapping

from ...ir.diagnostics import CompileError, Where
from ...ir.graph import Graph, Node, Program, Value
from ...ir.walk import walk
from ..capabilities import Capabilities
from ..plan import Note
from ..rewriting import Event, Rewritten, RuleBuilder, drop_dead, inline, rewrite_graphs
from ..task import Task
from .registry import rewrite

STRUCTURE = frozenset({"weight", "constant", "dim_value", "call", "fused"})  # what every backend takes
DEEPEST = 16  # decompositions of decompositions


@rewrite("legalize")
def legalize(program: Program, task: Task) -> Rewritten:
    """Decomposes what the backend takes in parts. Raises: CompileError naming every op that is left."""
    able = task.capabilities
    bodies = program.functions
    notes: tuple[Note, ...] = ()
    for _ in range(DEEPEST):
        done = rewrite_graphs(program, "legalize", lambda graph: _legal(graph, able, bodies))
        program, notes = done.program, (*notes, *done.notes)
        if not done.notes:
            break
    refused = _refused(program, able)
    if refused:
        raise _error(refused, able)
    return Rewritten(program, notes)


def _legal(graph: Graph, able: Capabilities, bodies: Mapping[str, Graph]) -> tuple[Graph, list[Event]]:
    if all(_takes(node, able) or not _opens(node, able) for node in graph.nodes):
        return graph, []
    events: list[Event] = []
    b = RuleBuilder(graph)
    for node in graph.nodes:
        if _takes(node, able) or not _opens(node, able):
            b.copy(node)
            continue
        if node.op.name == "fused":
            new = inline(b, node, bodies[node.attrs["function"]])
            text = f"{_spoken(node)} is not one kernel of {able.backend}: its ops run one by one"
            events.append(Event(text, node.where))
        else:
            new = decompose(b, node)
            events.append(Event(f"{node.op.name} runs as simpler ops on {able.backend}", node.where))
        b.replace(node, new)
    return drop_dead(b.done()), events


def decompose(b: RuleBuilder, node: Node) -> list[Value]:
    """Emits the simpler ops that an op says it is made of."""
    with b.at(node.where):
        made = node.op.decompose(b, *(b.now(v) for v in node.inputs), **node.attrs)
    return list(made) if isinstance(made, tuple) else [made]


def _spoken(node: Node) -> str:
    return " + ".join((node.attrs["anchor"], *node.attrs["epilogue"]))


def _takes(node: Node, able: Capabilities) -> bool:
    if node.op.name == "fused":
        kernels = {(f.anchor, f.epilogue) for f in able.fusions}
        return (node.attrs["anchor"], node.attrs["epilogue"]) in kernels
    return node.op.name in STRUCTURE or node.op.name in able.ops


def _opens(node: Node, able: Capabilities) -> bool:
    return node.op.name == "fused" or (node.op.name in able.decomposed and node.op.decompose is not None)


def _refused(program: Program, able: Capabilities) -> dict[str, list[Where]]:
    found: dict[str, list[Where]] = {}
    for entry in program.entries:
        for where, node in walk(program, entry):
            if not _takes(node, able):
                found.setdefault(node.op.name, []).append(where)
    return found


def _error(refused: dict[str, list[Where]], able: Capabilities) -> CompileError:
    lines = []
    for op, places in refused.items():
        shown = ", ".join(dict.fromkeys(w.spoken for w in places[:3]))
        more = f" and {len(places) - 3} more" if len(places) > 3 else ""
        reason = able.declined.get(op, "no lowering is known")
        lines.append(f"{op}: {reason}; at {shown}{more}")
    first = next(iter(refused.values()))[0]
    listed = "\n         ".join(lines)
    return CompileError(
        f"{able.backend} takes no {', '.join(refused)}", where=first, found=listed,
        hint="choose another backend: the reference backend takes every op",
    )  # fmt: skip
