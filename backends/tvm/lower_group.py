"""A group of nodes as one kernel: a chain of element-wise ops, or a product with what follows it."""

from __future__ import annotations

from collections.abc import Sequence

from ...ir.graph import Node, Value
from .emit import NAMES, Emit, View
from .epilogue import Epilogue
from .group import Group, beside
from .lower_elementwise import run_chain, step_attrs
from .steps import Chain, Step


def lower_group(to: Emit, group: Group) -> None:
    """Calls the group's kernel."""
    arrays = [v for v in group.arrays if v not in to.scalars]
    if group.anchor is not None:
        out = group.nodes[-1].output.type
        lies = tuple(str(beside(v.type, out, to.family.kinds)) for v in arrays)
        chain = chain_of(to, group.nodes, [group.anchor.output, *arrays]).stored(NAMES[out.dtype.name])
        epilogue = Epilogue(lies, chain) if chain.steps else Epilogue()
        to.family.product(to, group.anchor, group.nodes[-1], epilogue, [to.array(v) for v in arrays])
    else:
        views = [_readable(to, v) for v in arrays]
        run_chain(to, chain_of(to, group.nodes, arrays), views, to.result(group.nodes[-1]))


def _readable(to: Emit, value: Value) -> View:
    """A value's view where vectors of it can be read, else a dense copy."""
    view = to.view(value)
    last = view.strides[-1:]
    return view if last in ((), (0,), (1,)) or view.shape[-1] == 1 else to.array(value)


def chain_of(to: Emit, nodes: Sequence[Node], arrays: Sequence[Value]) -> Chain:
    """What the last node gives, of arrays in this order."""
    read = [v for n in nodes for v in n.inputs if v is not None]
    constants = list(dict.fromkeys(v for v in read if v in to.scalars))
    made = [n.output for n in nodes]
    place = {v: i for i, v in enumerate([*arrays, *constants, *made])}
    steps = [Step(n.op.name, tuple(place[v] for v in n.inputs if v is not None), step_attrs(n)) for n in nodes]
    known = tuple((to.scalars[v], NAMES[v.type.dtype.name]) for v in constants)
    return Chain(tuple(NAMES[v.type.dtype.name] for v in arrays), known, tuple(steps))
