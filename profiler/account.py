"""Exact parameters, FLOPs and bytes of a program, by module and by op."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..ir import dims
from ..ir.diagnostics import GraphError, RunError, Where
from ..ir.dims import Bindings
from ..ir.graph import Node, Program, Value, producers
from ..ir.tensor import Work
from ..ir.unfold import unfold
from ..ir.walk import walk
from ..ir.weights import Held, Recipe, Stored, Weight, leaves


@dataclass(frozen=True, slots=True)
class Row:
    """The work of one module or one op. `count` is how many op runs it sums up."""

    name: str
    work: Work = Work()
    count: int = 0
    parameters: int = 0


@dataclass(frozen=True, slots=True)
class Account:
    """What one run of an entry does. Rows do not overlap: they add up to the total.

    parameters: elements of the weights that the entry reads; one that two places read counts once.
    by_module:  under the module whose own code does the work ("" is the root), in the order of first use.
    by_op:      the most FLOPs first, then the most bytes.
    """

    parameters: int
    work: Work
    by_module: tuple[Row, ...]
    by_op: tuple[Row, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain rows. A size that is not bound is its formula, as text."""
        return {
            "parameters": self.parameters,
            **_counts(self.work),
            "by_module": [{"module": r.name, "parameters": r.parameters, **_counts(r.work)} for r in self.by_module],
            "by_op": [{"op": r.name, "count": r.count, **_counts(r.work)} for r in self.by_op],
        }


def account(
    program: Program,
    bindings: Bindings | None = None,
    *,
    entry: str | None = None,
    buffers: frozenset[str] = frozenset(),
    captured: Program | None = None,
) -> Account:
    """The work of one run, calls expanded. Without `bindings` it is symbolic in the program's symbols.

    buffers: names of weights that the model does not count as parameters (tables of positions and frequencies).
    captured: the program before any pass, whose names the parameters bear; passes name what they make of them anew.
    Raises: GraphError naming every op that has no formula, with its place; RunError where a size is missing or out of
    range.
    """
    sizes = None if bindings is None else _check(program, bindings, entry)
    works = _Works(sizes)
    modules, ops = _Sums(), _Sums()
    for where, node in walk(program, entry):
        work = works.of(where, node)
        modules.add(where.module, work)
        if work != Work() or not node.op.pure_move:
            ops.add(node.op.name, work)
    works.refuse()
    parameters = 0
    for name, elements in _parameters(program, entry, buffers, {} if captured is None else _names(captured)):
        parameters += elements
        modules.add(name.rpartition(".")[0], Work(), parameters=elements, count=0)
    by_op = sorted(ops.rows(), key=_weight_of, reverse=True)
    return Account(parameters, ops.total(), tuple(modules.rows()), tuple(by_op))


@dataclass(slots=True)
class _Works:
    """Each node's work, found once however often it runs."""

    sizes: Bindings | None
    known: dict[Node, Work] = field(default_factory=dict)
    missing: dict[str, Where] = field(default_factory=dict)

    def of(self, where: Where, node: Node) -> Work:
        if node not in self.known:
            try:
                work = node.op.work(node.output_types, node.input_types, node.attrs)
                self.known[node] = work if self.sizes is None else work.at(self.sizes)
            except GraphError:
                self.missing.setdefault(node.op.name, where)
                self.known[node] = Work()
        return self.known[node]

    def refuse(self) -> None:
        if self.missing:
            places = "; ".join(f"{name} at {where.spoken}" for name, where in self.missing.items())
            raise GraphError("some ops have no formula for their FLOPs", found=places)


@dataclass(slots=True)
class _Sums:
    """Work summed under names, in the order of their first use."""

    found: dict[str, Row] = field(default_factory=dict)

    def add(self, name: str, work: Work, parameters: int = 0, count: int = 1) -> None:
        row = self.found.get(name, Row(name))
        self.found[name] = Row(name, row.work + work, row.count + count, row.parameters + parameters)

    def rows(self) -> list[Row]:
        return [r for r in self.found.values() if r.count and r.work != Work() or r.parameters]

    def total(self) -> Work:
        return sum((r.work for r in self.found.values()), start=Work())


def _names(captured: Program) -> dict[object, str]:
    """The name of each storage, the first of a tied one."""
    found: dict[object, str] = {}
    for name, weight in captured.weights.items():
        if not isinstance(weight.source, Recipe):
            found.setdefault(_identity(weight), name)
    return found


def _parameters(
    program: Program, entry: str | None, buffers: frozenset[str], names: Mapping[object, str]
) -> Iterator[tuple[str, int]]:
    """(name, elements) of every weight that the entry reads, each storage once.

    Index tables and masks (wide integers, bools) are no parameters, nor are the scales beside quantised ones.
    """
    seen: set[object] = _scales(program)
    read = dict.fromkeys(n.attrs["name"] for _, n in walk(program, entry) if n.op.name == "weight")
    for table_name in read:
        for leaf in leaves(program.weights[table_name]):
            dtype, key = leaf.type.dtype, _identity(leaf)
            name = names.get(key, table_name)
            if key in seen or name in buffers or dtype.name in ("i64", "i32", "bool"):
                continue
            seen.add(key)
            yield name, dims.evaluate(leaf.type.elements, {})


def _scales(program: Program) -> set[object]:
    """The storages of what quantised weights are multiplied by and moved by."""
    found: set[object] = set()
    for graph in unfold(program).functions.values():
        made_by = producers(graph)
        for node in graph.nodes:
            first = _QUANTIZED.get(node.op.name)
            for value in () if first is None else node.inputs[first : first + 2]:
                found.update(_stored(value, made_by, program))
    return found


_QUANTIZED = {"dequantize": 1, "quantized_matmul": 2}  # op -> where its scale stands, the zero after it


def _stored(value: Value | None, made_by: Mapping[Value, Node], program: Program) -> Iterator[object]:
    """The storages that a value is moved out of."""
    node = None if value is None else made_by.get(value)
    if node is None:
        return
    if node.op.name == "weight":
        yield from (_identity(leaf) for leaf in leaves(program.weights[node.attrs["name"]]))
    elif node.op.pure_move:
        yield from _stored(node.inputs[0], made_by, program)


def _identity(leaf: Weight) -> object:
    """Equal for two references to the same bytes."""
    source = leaf.source
    if isinstance(source, Stored):
        return source.file, source.key
    if isinstance(source, Held) and isinstance(source.array, np.ndarray):
        layout = source.array.__array_interface__
        return layout["data"][0], layout["shape"], layout["strides"], str(source.array.dtype)
    return id(leaf)


def _check(program: Program, bindings: Bindings, entry: str | None) -> Bindings:
    """The bindings, when each symbol of the entry's inputs has a size in range."""
    graph = program.functions[entry or program.entries[0]]
    needed = sorted({s for v in graph.inputs for d in v.type.shape for s in dims.symbols(d)})
    lost = [name for name in needed if name not in bindings]
    if lost:
        raise RunError(f"no size is given for {', '.join(lost)}", hint=f"give --{lost[0]}")
    for name, size in bindings.items():
        span = program.symbols.get(name)
        if span is not None and size not in span:
            raise RunError(f"{name} is {size}, outside {span}")
    return bindings


def _counts(work: Work) -> dict[str, int | str]:
    return {k: v if isinstance(v, int) else str(v) for k, v in work.counts.items()}


def _weight_of(row: Row) -> tuple[int, int]:
    """A sorting key; symbolic work is compared at a size of 128 for every symbol."""
    names = {s for d in row.work.counts.values() for s in dims.symbols(d)}
    work = row.work.at(dict.fromkeys(names, 128))
    flops, read, written = work.flops, work.read_bytes, work.written_bytes
    assert isinstance(flops, int) and isinstance(read, int) and isinstance(written, int)
    return flops, read + written
