"""What does not depend on the user's input becomes a recipe in the weight table; what is the same in every layer is
computed once, by the caller."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ...ir import dims
from ...ir.dtypes import DTYPES
from ...ir.graph import Graph, Node, Program, Value, callee, users
from ...ir.op import get
from ...ir.walk import resolve
from ...ir.weights import Held, Recipe, Weight
from ..analysis import call_sites, static_values
from ..rewriting import Event, Rewritten, RuleBuilder, drop_dead, notes_of
from ..task import Task
from .clean import IN_PLACE, share
from .recipes import Recipes, is_recipe
from .registry import rewrite

SOURCES = ("constant", "dim_value", "weight")  # they cost nothing where they are


@dataclass(frozen=True)
class Moved:
    """What leaves a body: nodes in order, and which of their values the body is now passed."""

    nodes: tuple[Node, ...]
    values: tuple[Value, ...]
    inputs: tuple[Value, ...]  # the body's old parameters, in the order of a call's arguments


@rewrite("hoist")
def hoist(program: Program, task: Task) -> Rewritten:
    """Callees first, so that an expression climbs from the innermost body to the entry, where it becomes a recipe."""
    weights_bits = DTYPES[task.precision.weights].bits
    functions: dict[str, Graph] = {}
    moved: dict[str, Moved] = {}
    events: dict[str, list[Event]] = {}
    cloned: set[Node] = set()
    recipes = Recipes(program.weights)
    static = static_values(program)
    for name in program.functions:
        graph, here = _take_in(program.functions[name], static[name], functions, moved, cloned)
        if name in program.entries:
            graph, events[name] = recipes.apply(graph, here, weights_bits, cloned)
        else:
            same = _same_in_every_call(program, name)
            leaving = _leaving(graph, here, same, weights_bits) if same is not None else None
            if leaving is not None:
                moved[name], events[name] = leaving, _told(leaving, here)
                graph = _without(graph, leaving)
        functions[name] = graph
    changed = program.replace(functions=functions, weights=recipes.table)
    return Rewritten(changed, notes_of(changed, "hoist", events))
