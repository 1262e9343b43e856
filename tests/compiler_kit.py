"""What the tests of the compiler share: tasks, small programs, and a pass held against the program it began with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from tundish.compiler.capabilities import Capabilities, Fusion
from tundish.compiler.hardware.machine import Machine
from tundish.compiler.passes.registry import Rewrite
from tundish.compiler.pattern import Rule
from tundish.compiler.rewriting import Rewritten, apply_rules
from tundish.compiler.task import Precision, Task
from tundish.ir.build import Builder
from tundish.ir.diagnostics import Where
from tundish.ir.dims import Range, symbol
from tundish.ir.dtypes import DType, f32
from tundish.ir.evaluate import evaluate
from tundish.ir.graph import Graph, Program, Value
from tundish.ir.op import OPS, get
from tundish.ir.tensor import TensorType
from tundish.ir.verify import verify
from tundish.ir.weights import Held, Weight

get("add")  # fills OPS
BATCH, SEQ = symbol("batch"), symbol("seq")
SYMBOLS = {"batch": Range(1, 8), "seq": Range(1, 64)}
MACHINE = Machine("cpu", "x86_64", "a test machine", 2, frozenset(), 1 << 34)
HERE = Where("model.py", 7, "block")


def capabilities(**changes: object) -> Capabilities:
    """A backend that takes every op and no fused kernel."""
    given: dict[str, object] = {
        "backend": "tester", "ops": frozenset(OPS), "dtypes": frozenset({"f32", "f16", "bf16"}), **changes,
    }  # fmt: skip
    return Capabilities(**given)  # type: ignore[arg-type]


def task(*, precision: Precision | None = None, ranges: Mapping[str, Range] | None = None, fuse: bool = True,
         machine: Machine = MACHINE, **changes: object) -> Task:  # fmt: skip
    return Task(machine, capabilities(**changes), precision or Precision(), ranges or {}, fuse)


def fusions(*chains: str) -> frozenset[Fusion]:
    """`linear gelu` -> Fusion("linear", ("gelu",))."""
    split = [c.split() for c in chains]
    return frozenset(Fusion(anchor, tuple(rest)) for anchor, *rest in split)


class Draft(Builder):
    """A program in the making: inputs, weights with seeded numbers, functions."""

    def __init__(self) -> None:
        super().__init__(HERE)
        self.weights: dict[str, Weight] = {}
        self.rng = np.random.default_rng(0)
        self.functions: dict[str, Graph] = {}

    def x(self, *shape: object, name: str = "x", dtype: DType = f32) -> Value:
        return self.input(name, TensorType(dtype, shape))  # type: ignore[arg-type]

    def weight(self, name: str, *shape: int, dtype: DType = f32) -> Value:
        type = TensorType(dtype, shape)
        array = np.asarray(self.rng.standard_normal(shape), np.float32).astype(dtype.numpy)
        self.weights[name] = Weight(type, Held(array))
        return self.emit_node("weight", (), {"name": name}, types=(type,), names=(name,)).output

    def program(self, *outputs: Value) -> Program:
        functions = {**self.functions, "main": self.finish(outputs)}
        return Program(functions, ("main",), self.weights, SYMBOLS)


def arrays(
    program: Program, *, batch: int = 2, seq: int = 5, seed: int = 0, size: float = 1.0
) -> dict[str, np.ndarray]:
    """Random inputs of an entry; integers stand for tokens below 8, masks are half open."""
    rng = np.random.default_rng(seed)
    found = {}
    for v in program.entry.inputs:
        shape = tuple({"batch": batch, "seq": seq}.get(str(d), d) for d in v.type.shape)
        draws = {"float": lambda s: rng.standard_normal(s) * size, "bool": lambda s: rng.random(s) < 0.5}
        draw = draws.get(v.type.dtype.kind, lambda s: rng.integers(0, 8, s))
        found[v.name] = np.asarray(draw(shape)).astype(v.type.dtype.numpy)
    return found


def same_numbers(before: Program, after: Program, *given: Mapping[str, np.ndarray], tolerance: float = 1e-9) -> None:
    """Equal in f64, where nothing but rounding of our own could differ."""
    for inputs in given or (arrays(before), arrays(before, batch=1, seq=1), arrays(before, seq=3, size=1e3)):
        wanted, got = (evaluate(p, inputs, float64=True) for p in (before, after))
        assert wanted.keys() == got.keys()
        for name, want in wanted.items():
            assert want.shape == got[name].shape
            finite = np.abs(want[np.isfinite(want)].astype(np.float64))
            scale = max(1.0, float(finite.max(initial=0)))
            np.testing.assert_allclose(got[name], want, rtol=tolerance, atol=tolerance * scale, err_msg=name)


def run(step: Rewrite, program: Program, given: Task | None = None) -> Rewritten:
    """A pass between two verifications."""
    verify(program)
    done = step(program, given or task())
    verify(done.program)
    return done


def ops(graph: Graph | Program) -> list[str]:
    """What a graph does, without the sources."""
    graph = graph if isinstance(graph, Graph) else graph.entry
    return [n.op.name for n in graph.nodes if n.op.name not in ("weight", "constant", "dim_value")]


def texts(done: Rewritten) -> list[str]:
    return [n.text for n in done.notes]


def applied(program: Program, *rules: Rule) -> tuple[Program, list[str]]:
    """Rules on the entry alone, and what they said."""
    graph, events = apply_rules(program.entry, rules)
    return verify(program.replace(functions={"main": graph})), [e.text for e in events]


def only(found: Iterable[str], part: str) -> list[str]:
    return [text for text in found if part in text]
