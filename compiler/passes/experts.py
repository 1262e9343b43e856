"""How layers of experts run: their matrices packed as a backend's grouped products read them, and what binds them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from ...ir import dims
from ...ir.dtypes import DTYPES, DType, bf16, f32
from ...ir.graph import Graph, Node, Program, Value, callee, producers
from ...ir.ops.moe import ACTIVATIONS
from ...ir.ops.widen import as_type
from ..analysis import static_values
from ..cost.roofline import Roofline
from ..experts.schedule import Layer, schedule, spoken
from ..hardware import nominal
from ..plan import Plan
from ..rewriting import Event, Rewritten, RuleBuilder, drop_dead, notes_of
from ..task import Task
from .hoist import hoisted
from .recipes import is_recipe
from .registry import decision, rewrite

EXPERTS = "experts"  # the decision: (function, node) -> rows that an expert counts for at least
LAYERS = frozenset({"moe", "panel_moe", "quantized_moe", "quad_moe"})
_PER_LANE = 4  # products of bytes that one instruction adds up in a lane, where one of f32 adds up one


@rewrite("experts")
def experts(program: Program, task: Task) -> Rewritten:
    """moe -> panel_moe, quantized_moe -> quad_moe, where experts are weights that the backend reads in panels."""
    width = task.capabilities.panel
    if not width or "panel_moe" not in task.capabilities.ops:
        return Rewritten(program)
    static, origins = static_values(program), _origins(program)
    functions, events = dict[str, Graph](), dict[str, list[Event]]()
    for name, graph in program.functions.items():
        functions[name], events[name] = _packed(graph, static[name], origins[name], width)
    if not any(events.values()):
        return Rewritten(program)
    changed = program.replace(functions=functions)
    bits = DTYPES[task.precision.weights].bits
    done = hoisted(changed, "experts", lambda n: is_recipe(n, bits), lambda n: False)
    return done._replace(notes=(*notes_of(changed, "experts", events), *done.notes))


class Origins(NamedTuple):
    """What values of a graph come from. narrow: what its parameters are in every call, before they are widened."""

    made_by: dict[Value, Node]
    narrow: dict[Value, DType]


def _origins(program: Program) -> dict[str, Origins]:
    """By function; callers come first here, as in `pack_panels`."""
    found, passed = dict[str, Origins](), dict[Value, set[DType]]()
    for name, graph in reversed(list(program.functions.items())):
        narrow = {v: types.pop() for v in graph.inputs if len(types := passed.get(v, set())) == 1}
        found[name] = Origins(producers(graph), narrow)
        for node in graph.nodes:
            inner = callee(node)
            for parameter, value in zip(program.functions[inner].inputs, node.inputs, strict=True) if inner else ():
                if value is not None:
                    passed.setdefault(parameter, set()).add(_held(value, found[name]))
    return found


def _packed(graph: Graph, static: set[Value], origins: Origins, width: int) -> tuple[Graph, list[Event]]:
    events = list[Event]()
    b = RuleBuilder(graph)
    for node in graph.nodes:
        if node.op.name not in _PACK or not static.issuperset(v for v in node.inputs[3:] if v is not None):
            b.copy(node)
            continue
        with b.at(node.where):
            b.replace(node, [_PACK[node.op.name](b, node, origins, width)])
        events.append(Event(_spoken(node), node.where))
    return (drop_dead(b.done()) if events else graph), events


def _spoken(node: Node) -> str:
    e, k = node.inputs[3].type.shape[0], node.inputs[1].type.shape[-1]  # type: ignore[union-attr]
    return f"{e} experts, {k} a token, run as two grouped products over the experts that tokens chose"


def _panel_moe(b: RuleBuilder, node: Node, origins: Origins, width: int) -> Value:
    x, indices, weights, up, down, *biases = node.inputs
    assert up is not None and down is not None
    activation = node.attrs["activation"]
    gated = ACTIVATIONS[activation].gated

    def panels(value: Value | None, gated: bool) -> Value | None:
        if value is None:
            return None
        held = _as(b, value, _held(value, origins), origins)
        held = _as_row(b, held) if value.type.rank == 2 else held
        return b.emit("to_expert_panels", held, width=width, gated=gated)

    parts = [panels(v, i % 2 == 0 and gated) for i, v in enumerate((up, down, *biases))]
    return b.emit("panel_moe", x, indices, weights, *parts, inner=down.type.shape[1], activation=activation)


def _held(value: Value, origins: Origins) -> DType:
    """The type in which a matrix of experts is held: bf16 where it passes through that. Vectors stay as they are."""
    node, found = origins.made_by.get(value), value.type.dtype
    while value.type.rank == 3 and node is not None and node.op.name in ("cast", "transpose") and node.inputs[0]:
        types = {v.type.dtype for v in (*node.inputs, node.output) if v is not None}
        if not types <= {f32, bf16}:
            break
        found, value = bf16 if bf16 in types else found, node.inputs[0]
        node = origins.made_by.get(value)
    return bf16 if value.type.rank == 3 and origins.narrow.get(value) == bf16 else found


def _as(b: RuleBuilder, value: Value, dtype: DType, origins: Origins) -> Value:
    """The value in that type, which it has before it is moved: so that a cast stands beside the one that it undoes."""
    node = origins.made_by.get(value)
    if value.type.dtype == dtype or node is None or node.op.name not in ("cast", "transpose"):
        return as_type(b, b.present(value), dtype)
    assert node.inputs[0] is not None
    inner = _as(b, node.inputs[0], dtype, origins)
    return inner if node.op.name == "cast" else b.emit("transpose", inner, **node.attrs)


def _quad_moe(b: RuleBuilder, node: Node, origins: Origins, width: int) -> Value:
    x, indices, weights, *parts = node.inputs
    a = node.attrs
    gated = ACTIVATIONS[a["activation"]].gated

    def packed(i: int, value: Value | None) -> Value | None:
        if value is None:
            return None
        halves = gated and i in (0, 1, 4)
        if i in (0, 2):
            return b.emit("to_expert_quads", value, width=width, bits=a["bits"], gated=halves)
        turned = b.emit("transpose", value, perm=(0, 2, 1)) if i < 4 else _as_row(b, value)
        return b.emit("to_expert_panels", turned, width=width, gated=halves)

    inner = parts[2].type.shape[2]  # type: ignore[union-attr]
    new = [packed(i, v) for i, v in enumerate(parts)]
    return b.emit("quad_moe", x, indices, weights, *new, inner=inner, **a)


def _as_row(b: RuleBuilder, bias: Value) -> Value:
    """Biases as matrices of one row."""
    e, n = bias.type.shape
    return b.emit("reshape", bias, shape=(e, 1, n))


_PACK = {"moe": _panel_moe, "quantized_moe": _quad_moe}


@decision("schedule_experts", needs=("legalize",))
def schedule_experts(plan: Plan, task: Task) -> Plan:
    """Decides for how much each expert counts where its layer's work is shared out among threads, and says what binds.

    plan.decisions["experts"]: (function, node's output) -> rows that an expert counts for at least.
    """
    decided, events = dict[tuple[str, str], int](), dict[str, list[Event]]()
    for name, graph in plan.program.functions.items():
        for node in graph.nodes:
            if node.op.name in LAYERS:
                layer, reach = _layer(node), _recorded(node, task)
                found = schedule(layer, _roofline(node, task), reach)
                decided[name, node.output.name] = found.least_rows
                events.setdefault(name, []).append(Event(spoken(layer, found, reach is not None), node.where))
    if not decided or task.machine.target.startswith("cuda"):  # the figures are those of CPUs
        return plan
    return plan.decide(EXPERTS, decided, *notes_of(plan.program, EXPERTS, events))


def _layer(node: Node) -> Layer:
    types = [t for t in node.input_types if t is not None]
    e, k = (dims.evaluate(d, {}) for d in (types[3].shape[0], types[1].shape[-1]))
    held = sum(dims.evaluate(t.bytes, {}) for t in types[3:])
    flops, pairs = node.op.flops(node.output.type, *node.input_types, **node.attrs), types[1].elements
    once = dict.fromkeys((*dims.symbols(flops), *dims.symbols(pairs)), 1)
    return Layer(e, min(k, e), held // e, dims.evaluate(flops, once) // dims.evaluate(pairs, once))


def _roofline(node: Node, task: Task) -> Roofline:
    """Of all cores, as a machine is nominally."""
    cores, few_bits = task.machine.cores, node.attrs.get("x_bits") == 8
    peak = nominal.peak_flops_per_s(task.machine, cores, "f32") * (_PER_LANE if few_bits else 1)
    return Roofline(peak, nominal.bandwidths(cores))


def _recorded(node: Node, task: Task) -> Callable[[int], float] | None:
    """How many experts tokens reach, by what was recorded of the layers that this node stands for; the mean of them."""
    if task.routing is None:
        return None
    alike = re.sub(r"\\\{[^}]*\}", r"\\d+", re.escape(node.where.module))
    mine = [layer for layer in task.routing.layers if re.fullmatch(alike, layer.module)]
    return (lambda n: sum(layer.distinct(n) for layer in mine) / len(mine)) if mine else None
