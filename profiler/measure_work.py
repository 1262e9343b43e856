"""What the nodes of one row do together: what passes between them is neither read nor written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ..ir import dims
from ..ir.graph import Graph, Program, Value
from ..ir.tensor import Work
from ..ir.walk import Step, steps


def works(
    program: Program, function: str, sizes: Mapping[str, int], groups: Iterable[Sequence[str]]
) -> dict[str, Work]:
    """First key of each group -> the work of all its nodes at these sizes.

    Raises: GraphError on an op without a formula for its work.
    """
    known = {s.key: s for s in steps(program, function)}
    uses = _Uses(program)
    return {keys[0]: _work([known[k] for k in keys], sizes, uses) for keys in groups}


def _work(group: Sequence[Step], sizes: Mapping[str, int], uses: _Uses) -> Work:
    own = [s.node.op.work(s.node.output_types, s.node.input_types, s.node.attrs).at(sizes) for s in group]
    total = sum(own, start=Work())
    if len(group) == 1:
        return total
    made = {(_path(s), v) for s in group for v in s.node.outputs}
    read = [(_path(s), v) for s in group for v in s.node.inputs if v is not None]
    within = [(path, v) for path, v in read if (path, v) in made]
    saved_read = sum(dims.evaluate(v.type.bytes, sizes) for _, v in within)
    kept = {pv for pv in made if within.count(pv) < uses.count(pv[1])}
    saved_written = sum(dims.evaluate(v.type.bytes, sizes) for _, v in made - kept)
    read_bytes, written = dims.evaluate(total.read_bytes, {}), dims.evaluate(total.written_bytes, {})
    return Work(total.flops, max(0, read_bytes - saved_read), max(0, written - saved_written), total.hardware_flops)


def _path(step: Step) -> str:
    return step.key.rpartition("/")[0]


class _Uses:
    """How often a value is read in its graph, or given back by it."""

    def __init__(self, program: Program) -> None:
        self._counts: dict[Value, int] = {}
        for graph in program.functions.values():
            self._add(graph)

    def _add(self, graph: Graph) -> None:
        for value in (*(v for n in graph.nodes for v in n.inputs if v is not None), *graph.outputs):
            self._counts[value] = self._counts.get(value, 0) + 1

    def count(self, value: Value) -> int:
        return self._counts.get(value, 0)
