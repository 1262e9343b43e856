"""Which node is the first to differ: the backend is probed at inner values, by binary search, against numpy."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..backends import registry
from ..backends.bundle import Bundle
from ..backends.cases import Case, Cases
from ..compiler.driver import PASSES, compile_program
from ..compiler.hardware.machine import this_machine
from ..compiler.plan import Guard, Note, Plan, Variant
from ..compiler.task import Task
from ..ir.evaluate import Evaluator
from ..ir.graph import Graph, Node, Program, Value
from ..ir.unfold import unfold
from .parity import TOLERANCE, Report, compare

_PROBE = "probe"


def first_difference(bundle: Bundle, cases: Cases, captured: Program | None = None) -> dict[str, Any]:
    """Where the bundle leaves the program that it was built from.

    captured: the original's program before any pass; with it, a fault of a pass is told from one of the capture.

    The program is run in numpy on the smallest case that fails. Where numpy agrees with the original, the backend is
    at fault, and the first node whose value differs is found with about log2(nodes) builds. Where it does not, the
    capture or a pass is at fault, and that is said instead. Where no part differs when it is built now, the bundle's
    own files are at fault.
    """
    dtype = bundle.manifest.dtype
    case = _smallest_failing(bundle, cases, dtype)
    flat = unfold(bundle.program, fused=False)
    evaluated = compare(_numpy(flat, case, bundle.path), Cases("", [case]), dtype)
    if not evaluated.passed:
        return _program_at_fault(bundle, case, evaluated, captured)
    graph = flat.functions[case.entry]
    nodes = [n for n in graph.nodes if n.op.name != "weight"]
    expected = _inner_values(flat, bundle.path, case)
    with tempfile.TemporaryDirectory(prefix="tundish-bisect-") as folder:
        probe = _Probe(bundle, flat, case, Path(folder))
        low, high = 0, len(nodes) - 1  # the answer lies in nodes[low..high]
        while low < high:
            middle = (low + high) // 2
            if probe.error(_alive_after(graph, nodes, middle), expected)[0] > TOLERANCE[dtype]:
                high = middle
            else:
                low = middle + 1
        share, worst = probe.error(_alive_after(graph, nodes, low), expected)
    if share <= TOLERANCE[dtype]:
        return _files_at_fault(bundle, case)
    return _found(nodes[low], share, worst, case, TOLERANCE[dtype])


def _alive_after(graph: Graph, nodes: list[Node], index: int) -> tuple[Value, ...]:
    """The values that cross from nodes[..index] to what comes after it.

    All that is computed so far shows in them, so that a branch that the node at `index` is not on is seen too.
    """
    later = {v for n in nodes[index + 1 :] for v in n.inputs} | set(graph.outputs)
    made = [v for n in nodes[: index + 1] if n.op.name != "constant" for v in n.outputs]
    return tuple(v for v in made if v in later)


def _smallest_failing(bundle: Bundle, cases: Cases, dtype: str) -> Case:
    def passes(case: Case) -> bool:
        return compare(lambda x: bundle.run(x, case.entry), Cases("", [case]), dtype).passed

    failing = [c for c in cases.cases if not passes(c)]
    return min(failing or cases.cases, key=lambda c: sum(a.size for a in c.inputs.values()))


def _numpy(program: Program, case: Case, folder: Path | None = None) -> Callable[[Any], dict[str, np.ndarray]]:
    """The case's entry in numpy."""
    return lambda inputs: Evaluator(program, folder=folder).run(inputs, case.entry)


def _inner_values(program: Program, folder: Path, case: Case) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}

    def keep(path: str, node: Node, results: tuple[np.ndarray, ...]) -> None:
        if not path:  # inner values of fused kernels are no values of the entry
            found.update(zip((v.name for v in node.outputs), results, strict=True))

    Evaluator(program, folder=folder, on_node=keep).run(case.inputs, case.entry)
    return found


class _Probe:
    """Builds the part of a program that makes one value, and runs it on the bundle's backend."""

    def __init__(self, bundle: Bundle, program: Program, case: Case, folder: Path) -> None:
        self.bundle, self.program, self.case, self.folder = bundle, program, case, folder
        self.backend = registry.get(bundle.manifest.backend)
        self.count = 0

    def error(self, values: tuple[Value, ...], expected: dict[str, np.ndarray]) -> tuple[float, float]:
        """(share of max(1, max|expected|), absolute) by which the values differ; infinite if not finite."""
        shares = [(0.0, 0.0)]
        for value, answer in zip(values, self._answers(values), strict=True):
            want = expected[value.name].astype(np.float64)
            got = answer.astype(np.float64)
            if not np.array_equal(np.isfinite(got), np.isfinite(want)):
                return float("inf"), float("inf")
            difference = float(np.abs(np.where(np.isfinite(want), got - want, 0)).max(initial=0.0))
            largest = float(np.abs(np.where(np.isfinite(want), want, 0)).max(initial=0.0))
            shares.append((difference / max(1.0, largest), difference))
        return max(shares)

    def _answers(self, values: tuple[Value, ...]) -> list[np.ndarray]:
        if not values:
            return []
        self.count += 1
        out = self.folder / str(self.count)
        out.mkdir()
        program = _ending_at(self.program, self.case.entry, values)
        plan = Plan(
            program, {_PROBE: (Variant(Guard(), _PROBE),)}, self.bundle.plan_backend, self.bundle.target
        )
        built = self.backend.build(plan, out, self.bundle.weights)
        runner = self.backend.open(built)
        try:
            answers = runner.run(_PROBE, self.case.inputs)
            return [answers[f"probe_{i}"] for i in range(len(values))]
        finally:
            runner.close()


def _ending_at(program: Program, entry: str, values: tuple[Value, ...]) -> Program:
    """An entry of the program cut down to what makes `values`; all inputs stay, so that the same case runs."""
    graph = program.functions[entry]
    needed, kept = set(values), []
    for node in reversed(graph.nodes):
        if needed & set(node.outputs):
            kept.append(node)
            needed |= {v for v in node.inputs if v is not None}
    names = tuple(f"probe_{i}" for i in range(len(values)))
    cut = Graph(graph.inputs, tuple(reversed(kept)), values, names)
    kernels = {n: g for n, g in program.functions.items() if n not in program.entries}
    return replace(program, functions={**kernels, _PROBE: cut}, entries=(_PROBE,))


def _program_at_fault(bundle: Bundle, case: Case, report: Report, captured: Program | None) -> dict[str, Any]:
    worst = max(report.outputs, key=lambda o: o.max_abs_error / (o.tolerance or 1.0))
    by = f"{worst.name} of {case.entry} by {worst.max_abs_error:.3g} (case {case.name})"
    start = f"the program itself differs from the original in {by}"
    found: dict[str, Any] = {"stage": "program", "output": worst.name, "max_abs_error": worst.max_abs_error}
    if captured is None:
        return {**found, "text": f"{start}; give the original with --against to tell which pass"}
    dtype = bundle.manifest.dtype

    def agrees(program: Program) -> bool:
        return compare(_numpy(program, case), Cases("", [case]), dtype).passed

    if not agrees(captured):
        return {**found, "stage": "capture", "text": f"{start}: it was captured wrong, before any pass"}
    name, notes = _first_pass(bundle, captured, agrees)
    if not name:
        return {**found, "text": f"{start}: no pass makes it so, but the precision or the weights that are stored"}
    places = "".join(f"\n  {n.where.spoken if n.where else ''}: {n.text}" for n in notes)
    return {**found, "stage": f"pass {name}", "text": f"{start}: the pass {name} made it so{places}"}


def _first_pass(bundle: Bundle, captured: Program, agrees: Callable[[Program], bool]) -> tuple[str, list[Note]]:
    """The first pass after which the program no longer agrees, and what that pass says it did; "" where none is."""
    machine = this_machine(bundle.manifest.target)
    task = Task(machine, registry.get(bundle.manifest.backend).capabilities(machine), ranges=captured.symbols)
    for i, step in enumerate(PASSES):
        plan = compile_program(captured, task, passes=PASSES[: i + 1])
        if not agrees(plan.program):
            return step.name, [n for n in plan.notes if n.pass_name == step.name]
    return "", []


def _files_at_fault(bundle: Bundle, case: Case) -> dict[str, Any]:
    made = ", ".join(f"{name} {number}" for name, number in bundle.manifest.versions.items())
    text = (
        f"every part of the program agrees with the original when it is built now (case {case.name}), so the bundle's "
        f"own files are at fault, or what the backend does to the whole; it was built by {made}: compile it again"
    )
    return {"stage": "bundle", "text": text}


def _spoken(node: Node) -> str:
    """The op, or the ops of a fused kernel."""
    return " + ".join((node.attrs["anchor"], *node.attrs["epilogue"])) if node.op.name == "fused" else node.op.name


def _found(node: Node, share: float, worst: float, case: Case, tolerance: float) -> dict[str, Any]:
    text = (
        f"{node.where.spoken}: {_spoken(node)} is the first node that differs: by {worst:.3g}, {share:.3g} of its "
        f"largest value where {tolerance:g} is allowed (case {case.name})"
    )
    return {
        "stage": "backend", "node": node.outputs[0].name, "op": _spoken(node), "module": node.where.module,
        "source": f"{node.where.file}:{node.where.line}", "max_abs_error": worst, "text": text,
    }  # fmt: skip
