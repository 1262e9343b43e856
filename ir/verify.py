"""The rules that every program keeps. Run between all passes in tests, and at the ends in production."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from . import dims
from .diagnostics import GraphError, VerifyError, Where
from .dims import Expr
from .graph import Graph, Node, Program, Value, callee
from .op import OPS
from .tensor import TensorType
from .weights import Recipe, Weight

LIMIT = 20
Problem = tuple[Where | None, str]


def verify(program: Program) -> Program:
    """The program itself, when it keeps all rules.

    Checked: values are made before they are used, and names are unique; types are what `infer` says; attributes are
    the op's; every node has a place; callees stand before callers and take what they are given; weight nodes agree
    with the table, whose shapes are numbers; symbols are declared, and an entry's inputs bind those it needs; outputs
    are named once each; no value is read after an op wrote over it.

    Raises: VerifyError with the place of the first problem and the text of the first 20.
    """
    problems = list(_problems(program))
    if problems:
        raise _error(problems)
    return program


def _error(problems: list[Problem]) -> VerifyError:
    (where, first), rest = problems[0], problems[1:]
    lines = [f"{w.spoken}: {text}" if w else text for w, text in rest[: LIMIT - 1]]
    if len(problems) > LIMIT:
        lines.append(f"and {len(problems) - LIMIT} more")
    return VerifyError("\n  ".join([first, *lines]), where=where)


def _problems(program: Program) -> Iterator[Problem]:
    for name, weight in program.weights.items():
        yield from ((None, f"weight {name!r}: {p}") for p in _weight(weight))
    overwritten: dict[str, frozenset[int]] = {}
    free: dict[str, frozenset[str]] = {}
    for name, graph in program.functions.items():
        checker = _Checker(program, name, graph, overwritten)
        yield from checker.run()
        overwritten[name] = checker.overwritten_inputs()
        called = (callee(n) for n in graph.nodes)
        free[name] = _symbols(graph).union(*(free.get(c, frozenset()) for c in called if c))
    yield from _entries(program, free)


def _entries(program: Program, free: Mapping[str, frozenset[str]]) -> Iterator[Problem]:
    if not program.entries:
        yield None, "the program has no entry"
    for name in program.entries:
        if name not in program.functions:
            yield None, f"entry {name!r} is not a function of the program"
            continue
        graph = program.functions[name]
        bound = {str(d) for v in graph.inputs for d in v.type.shape if isinstance(d, Expr) and str(d).isidentifier()}
        for symbol in sorted(free[name] - bound):
            place = graph.nodes[0].where if graph.nodes else None
            yield place, f"entry {name!r}: no input has {symbol!r} as a size of its own, so nothing tells its value"
    if len(set(program.entries)) != len(program.entries):
        yield None, f"an entry is named twice: {', '.join(program.entries)}"


def _weight(weight: Weight) -> Iterator[str]:
    if any(type(d) is not int or d < 0 for d in weight.type.shape):
        yield f"its shape is not of numbers: {weight.type}"
    if not isinstance(weight.source, Recipe):
        return
    for inner in weight.source.inputs:
        yield from _weight(inner)
    inferred = _infer(weight.source.op, [w.type for w in weight.source.inputs], weight.source.attrs)
    if inferred != (weight.type,):
        yield f"its recipe gives {_said(inferred)}, the table says {weight.type}"


class _Checker:
    """One graph, read once from the first node to the last."""

    def __init__(
        self, program: Program, name: str, graph: Graph, overwritten: Mapping[str, frozenset[int]]
    ) -> None:
        self.program, self.name, self.graph = program, name, graph
        self.known = overwritten
        self.made: set[Value] = set()
        self.names: set[str] = set()
        self.dead: dict[Value, Node] = {}
        self.where: Where | None = None

    def run(self) -> Iterator[Problem]:
        for value in self.graph.inputs:
            yield from self._said(self._make(value))
        for node in self.graph.nodes:
            self.where = node.where if isinstance(node.where, Where) else None
            yield from self._said(self._node(node))
        self.where = self.graph.nodes[-1].where if self.graph.nodes else None
        yield from self._said(self._outputs())

    def overwritten_inputs(self) -> frozenset[int]:
        """Which inputs of this graph its nodes write over."""
        return frozenset(i for i, v in enumerate(self.graph.inputs) if v in self.dead)

    def _said(self, problems: Iterable[str]) -> Iterator[Problem]:
        return ((self.where, f"{self.name}: {p}") for p in problems)

    def _node(self, node: Node) -> Iterator[str]:
        if not isinstance(node.where, Where) or not node.where.file:
            yield f"{node} has no place in the user's model"
        for value in node.inputs:
            yield from self._use(value, repr(node))
        yield from self._attrs(node)
        yield from _RULES.get(node.op.name, _Checker._inferred)(self, node)
        for index in self._writes_over(node):
            value = node.inputs[index]
            if value is not None:
                self.dead[value] = node
        for value in node.outputs:
            yield from self._make(value)
        yield from self._symbols(f"{node}", node.attrs.values())

    def _use(self, value: Value | None, user: str) -> Iterator[str]:
        if value is None:
            return
        if value not in self.made:
            yield f"%{value.name} is not made before {user}"
        if value in self.dead:
            yield f"%{value.name} is read by {user}, after {self.dead[value]} wrote over it"

    def _make(self, value: Value) -> Iterator[str]:
        if value in self.made:
            yield f"%{value.name} is made twice"
        elif value.name in self.names:
            yield f"the name %{value.name} stands for two values"
        self.made.add(value)
        self.names.add(value.name)
        yield from self._symbols(f"%{value.name}", (value.type.shape,))

    def _symbols(self, what: str, parts: Iterable[Any]) -> Iterator[str]:
        for name in sorted(frozenset().union(*map(_free, parts)) - set(self.program.symbols)):
            yield f"{what} has the size {name!r}, which is no symbol of the program"

    def _attrs(self, node: Node) -> Iterator[str]:
        try:
            if node.op.complete_attrs(node.attrs) != node.attrs:
                yield f"{node} lacks attributes that have a default: {node.attrs}"
            if OPS.get(node.op.name) is not node.op:
                yield f"{node}: its op is not the one defined as {node.op.name!r}"
            node.op.check_arity(node.inputs)
        except GraphError as error:
            yield error.problem

    def _outputs(self) -> Iterator[str]:
        names = self.graph.output_names
        for value in self.graph.outputs:
            yield from self._use(value, "the end of the graph")
        if len(names) != len(self.graph.outputs):
            yield f"{len(self.graph.outputs)} outputs have {len(names)} names"
        if len(set(names)) != len(names):
            yield f"an output name stands twice: {', '.join(names)}"

    # -- what each kind of node must give ---------------------------------------------------------

    def _inferred(self, node: Node) -> Iterator[str]:
        inferred = _infer(node.op, node.input_types, node.attrs)
        if inferred != node.output_types:
            yield f"{node}: its inputs give {_said(inferred)}"

    def _weight(self, node: Node) -> Iterator[str]:
        name = node.attrs.get("name", "")
        if name not in self.program.weights:
            yield f"{node}: there is no weight {name!r}"
        elif node.output_types != (self.program.weights[name].type,):
            yield f"{node}: weight {name!r} is {self.program.weights[name].type}"

    def _call(self, node: Node) -> Iterator[str]:
        name = node.attrs.get("function", "")
        graph = self.program.functions.get(name)
        if graph is None:
            yield f"{node}: there is no function {name!r}"
            return
        if name not in self.known:
            yield f"{node}: function {name!r} does not stand before its caller"
        wanted = tuple(v.type for v in graph.inputs)
        if node.input_types != wanted:
            yield f"{node}: {name!r} takes {_differ(wanted, node.input_types)}"
        gives = tuple(v.type for v in graph.outputs)
        if node.output_types != gives:
            yield f"{node}: {name!r} gives {_differ(gives, node.output_types)}"

    def _writes_over(self, node: Node) -> Iterable[int]:
        name = callee(node)
        if name is not None:
            return [i for i in self.known.get(name, ()) if i < len(node.inputs)]
        return [i for i in node.op.aliases.values() if i < len(node.inputs)]


_RULES: dict[str, Any] = {"weight": _Checker._weight, "call": _Checker._call, "fused": _Checker._call}


def _infer(op: Any, types: Iterable[TensorType | None], attrs: Mapping[str, Any]) -> Any:
    """The output types, or the text of why there are none."""
    try:
        inferred = op.infer(*types, **attrs)
    except GraphError as error:
        return error.problem + (f" ({error.found})" if error.found else "")
    except Exception as error:  # a shape that the op's own rule did not foresee is the program's fault here
        return f"{op.name}: cannot take them ({error})"
    return (inferred,) if isinstance(inferred, TensorType) else tuple(inferred)


def _said(inferred: Any) -> str:
    return f"an error: {inferred}" if isinstance(inferred, str) else ", ".join(map(str, inferred))


def _differ(wanted: tuple[TensorType, ...], found: tuple[TensorType | None, ...]) -> str:
    if len(wanted) != len(found):
        return f"{len(wanted)} values, not {len(found)}"
    pairs = enumerate(zip(wanted, found, strict=True))
    return "; ".join(f"{w} as number {i}, not {'_' if f is None else f}" for i, (w, f) in pairs if w != f)


def _free(part: Any) -> frozenset[str]:
    """The symbols in a dim, or in a tuple of them; anything else has none."""
    if isinstance(part, Expr):
        return dims.symbols(part)
    if isinstance(part, tuple):
        return frozenset().union(*map(_free, part))
    return frozenset()


def _symbols(graph: Graph) -> frozenset[str]:
    """All symbols of a graph, in types and attributes."""
    shapes = (v.type.shape for v in graph.values())
    attrs = (a for n in graph.nodes for a in n.attrs.values())
    return frozenset().union(*map(_free, shapes), *map(_free, attrs))
