"""Exact parameters, FLOPs, bytes and cache of a program, by module and by op; numbers, or formulas in its symbols.

Bytes are those of every op reading its inputs from memory and writing its outputs back, before any fusion.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from ..compiler.passes.memory import most_alive, weights_bytes
from ..ir import dims
from ..ir.diagnostics import GraphError, RunError, Where
from ..ir.dims import Bindings, Dim
from ..ir.graph import Node, Program
from ..ir.tensor import Work
from ..ir.walk import walk
from .kv_cache import Kept, kv_cache
from .modules import depth_of, paths_to, preorder
from .parameters import parameters


@dataclass(frozen=True, slots=True)
class Row:
    """The work of one module or one op. `count` is how many op runs it sums up.

    active: the parameters that one token uses: of experts, k of e.
    """

    name: str
    work: Work = Work()
    count: int = 0
    parameters: int = 0
    active: Fraction = Fraction(0)

    def __add__(self, other: Row) -> Row:
        return Row(self.name, self.work + other.work, self.count + other.count, self.parameters + other.parameters,
                   self.active + other.active)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Account:
    """What one run of an entry does. Rows do not overlap: they add up to the total.

    parameters: elements of the weights that the entry reads; one that two places read counts once.
    active:     those that one token uses. weights_bytes: of all weights, as they were captured.
    by_module:  under the module whose own code does the work ("" is the root), in the order of first use.
    by_op:      the most FLOPs first, then the most bytes.
    kv_cache:   what a decoder keeps, by attention; empty for a model that keeps nothing.
    """

    parameters: int
    work: Work
    by_module: tuple[Row, ...]
    by_op: tuple[Row, ...]
    active: int = 0
    weights_bytes: int = 0
    kv_cache: tuple[Kept, ...] = ()

    @property
    def kv_bytes(self) -> Dim:
        return sum((k.bytes for k in self.kv_cache), start=0)

    def tree(self) -> tuple[tuple[Row, Row], ...]:
        """(own, inclusive) of every module and of every module above one, parents first."""
        own = {r.name: r for r in self.by_module}
        inside: dict[str, Row] = {"": Row("")}
        for row in self.by_module:
            for path in paths_to(row.name):
                inside[path] = inside.get(path, Row(path)) + row
        below: dict[str, list[str]] = {}
        for path in inside:
            if path:
                below.setdefault(path.rpartition(".")[0], []).append(path)
        return tuple((own.get(path, Row(path)), inside[path]) for path in preorder(below))

    def to_json(self) -> dict[str, Any]:
        """Plain rows. A size that is not bound is its formula, as text that `ir.dims.parse` reads."""
        per_token = sum((k.bytes_per_token for k in self.kv_cache), start=0)
        layers = [{"module": k.module, "bytes_per_token": plain(k.bytes_per_token), "window": k.window or None,
                   "bytes": plain(k.bytes)} for k in self.kv_cache]  # fmt: skip
        kept = {"bytes_per_token": plain(per_token), "bytes": plain(self.kv_bytes), "layers": layers}
        return {
            "parameters": self.parameters, "active_parameters": self.active, "weights_bytes": self.weights_bytes,
            **_counts(self.work), "kv_cache": kept if layers else None,
            "by_module": [_module(own, total) for own, total in self.tree()],
            "by_op": [{"op": r.name, "count": r.count, **_counts(r.work)} for r in self.by_op],
        }  # fmt: skip


def account(
    program: Program,
    bindings: Bindings | None = None,
    *,
    entry: str | None = None,
    buffers: frozenset[str] = frozenset(),
    captured: Program | None = None,
    kept: Mapping[int, int] | None = None,
    symbolic: bool = False,
) -> Account:
    """The work of one run, calls expanded. Without `bindings` it is symbolic in the program's symbols.

    buffers: names of weights that the model does not count as parameters (tables of positions and frequencies).
    captured: the program before any pass, whose names the parameters bear; passes name what they make of them anew.
    kept: what the model is seen to keep of a token, by layer, as in `kv_cache`.
    symbolic: sizes that `bindings` leaves out stay symbols.
    Raises: GraphError naming every op that has no formula, with its place; RunError where a size is missing or out of
    range.
    """
    sizes = {} if bindings is None else _check(program, bindings, entry, symbolic)
    works = _Works(sizes)
    modules, ops = _Sums(), _Sums()
    for where, node in walk(program, entry):
        work = works.of(where, node)
        modules.add(Row(where.module, work, 1))
        if work != Work() or not node.op.pure_move:
            ops.add(Row(node.op.name, work, 1))
    works.refuse()
    counted = list(parameters(program, entry, buffers, captured))
    for p in counted:
        modules.add(Row(p.module, parameters=p.elements, active=p.active))
    by_op = sorted(ops.rows(), key=_weight_of, reverse=True)
    return Account(
        sum(p.elements for p in counted), ops.total(), tuple(modules.rows()), tuple(by_op),
        round(sum(p.active for p in counted)), weights_bytes(program if captured is None else captured),
        kv_cache(program, sizes, entry=entry, kept=kept),
    )  # fmt: skip


def activation_peak_bytes(program: Program, sizes: Bindings, entry: str | None = None) -> int:
    """The most bytes that are alive at once in a run, beside weights and inputs: no arena can be smaller."""
    return most_alive(program, entry or program.entries[0], sizes)


def intensity(work: Work) -> float | None:
    """FLOPs that the kernels do for each byte that moves; None where there are none, or sizes are not known."""
    done, moved = work.hardware_flops, work.bytes
    return done / moved if isinstance(done, int) and isinstance(moved, int) and moved else None


@dataclass(slots=True)
class _Works:
    """Each node's work, found once however often it runs."""

    sizes: Bindings
    known: dict[Node, Work] = field(default_factory=dict)
    missing: dict[str, Where] = field(default_factory=dict)

    def of(self, where: Where, node: Node) -> Work:
        if node not in self.known:
            try:
                work = node.op.work(node.output_types, node.input_types, node.attrs)
                self.known[node] = work.substituted(self.sizes) if self.sizes else work
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
    """Rows summed under their names, in the order of their first use."""

    found: dict[str, Row] = field(default_factory=dict)

    def add(self, row: Row) -> None:
        self.found[row.name] = self.found[row.name] + row if row.name in self.found else row

    def rows(self) -> list[Row]:
        return [r for r in self.found.values() if r.count and r.work != Work() or r.parameters]

    def total(self) -> Work:
        return sum((r.work for r in self.found.values()), start=Work())


def _check(program: Program, bindings: Bindings, entry: str | None, symbolic: bool) -> Bindings:
    """The bindings, when each symbol of the entry's inputs has a size in range, or may stay one."""
    graph = program.functions[entry or program.entries[0]]
    needed = sorted({s for v in graph.inputs for d in v.type.shape for s in dims.symbols(d)})
    lost = [name for name in needed if name not in bindings and not symbolic]
    if lost:
        raise RunError(f"no size is given for {', '.join(lost)}", hint=f"give --{lost[0]}")
    for name, size in bindings.items():
        span = program.symbols.get(name)
        if span is not None and size not in span:
            raise RunError(f"{name} is {size}, outside {span}")
    return bindings


def plain(count: Dim) -> int | str:
    """A number, or the formula of one."""
    return count if isinstance(count, int) else str(count)


def _counts(work: Work, prefix: str = "") -> dict[str, Any]:
    return {f"{prefix}{k}": plain(v) for k, v in work.counts.items()} | {f"{prefix}intensity": intensity(work)}


def _module(own: Row, total: Row) -> dict[str, Any]:
    """A module's own numbers, and under `total_` those of all within it."""
    found: dict[str, Any] = {"module": own.name, "depth": depth_of(own.name)}
    for prefix, row in (("", own), ("total_", total)):
        found |= {
            f"{prefix}count": row.count, f"{prefix}parameters": row.parameters,
            f"{prefix}active_parameters": round(row.active), **_counts(row.work, prefix),
        }  # fmt: skip
    return found


def _weight_of(row: Row) -> tuple[int, int]:
    """A sorting key; symbolic work is compared at a size of 128 for every symbol."""
    names: Iterable[str] = {s for d in row.work.counts.values() for s in dims.symbols(d)}
    work = row.work.at(dict.fromkeys(names, 128))
    assert isinstance(work.flops, int) and isinstance(work.bytes, int)
    return work.flops, work.bytes
