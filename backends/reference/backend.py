"""Runs a program's text in numpy."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ...compiler.capabilities import Capabilities
from ...compiler.hardware.machine import Machine
from ...compiler.plan import Plan
from ...ir import ops  # noqa: F401  (fills OPS)
from ...ir.diagnostics import LoadError
from ...ir.dtypes import DTYPES
from ...ir.evaluate import Evaluator
from ...ir.graph import Graph, Node, Program
from ...ir.op import OPS
from ...ir.walk import key_of, steps
from ..base import Bound, Built, KernelTime, Profiled, Runner, Say
from ..options import ReferenceOptions, typed
from ..plan_text import read_program
from ..signature import choose, known_entry, signatures
from ..weight_out import stored_program

FILE = "program.txt"


class Reference:
    """The meaning of every op; slow, and always there."""

    name = "reference"

    def versions(self) -> dict[str, str]:
        return {"numpy": np.__version__}

    def capabilities(self, machine: Machine) -> Capabilities:
        return Capabilities(self.name, ops=frozenset(OPS), dtypes=frozenset(DTYPES))

    def ready(self, machine: Machine) -> None:
        """Nothing is needed."""

    def build(self, plan: Plan, out: Path, weights: Path, progress: Say | None = None) -> Built:
        """Writes the program's text, its weights referring to the weights file."""
        from ...ir.text import to_text

        (out / FILE).write_text(to_text(stored_program(plan.program)))
        entries = {
            entry: [{"guard": [v.guard.symbol, v.guard.op, v.guard.value], "function": v.function} for v in variants]
            for entry, variants in plan.entries.items()
        }
        return Built(out, weights, signatures(plan), {"entries": entries})

    def open(self, built: Built, *, threads: int | None = None) -> Runner:
        """Opens it; numpy decides about threads itself."""
        return ReferenceRunner(built)


class ReferenceRunner:
    """An opened program text."""

    def __init__(self, built: Built) -> None:
        self.built = built
        self._entries = typed(built.options, ReferenceOptions).variants()
        program = read_program(built.folder / FILE)
        unknown = {v.function for variants in self._entries.values() for v in variants} - set(program.functions)
        if unknown:
            raise LoadError(f"{FILE} has no function {sorted(unknown)[0]!r}")
        for entry, variants in self._entries.items():
            for variant in variants:
                _check_names(entry, built, program.functions[variant.function])
        self._evaluator = Evaluator(program, folder=built.weights.parent)

    def run(
        self, entry: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None
    ) -> dict[str, np.ndarray]:
        """Runs an entry once. Raises: RunError."""
        signature = known_entry(entry, self.built.entries)
        sizes, names = signature.bind(inputs), signature.select(outputs)
        variants = self._entries[entry]
        results = self._evaluator.run(inputs, variants[choose(variants, sizes)].function)
        return {name: results[name] for name in names}

    def bind(self, entry: str, held: Mapping[str, np.ndarray]) -> Bound:
        """Each run copies what it wrote back into the arrays."""
        return _Bound(self, entry, known_entry(entry, self.built.entries).aliases, held)

    def profile(self, entry: str, inputs: Mapping[str, np.ndarray], *, warmup: int, repeats: int) -> Profiled:
        """Runs an entry in turns without and with a clock between its nodes. Raises: RunError."""
        variants = self._entries[entry] if entry in self._entries else ()
        sizes = known_entry(entry, self.built.entries).bind(inputs)
        function = variants[choose(variants, sizes)].function
        clock = _Clock(self._evaluator.program, function)
        watched = Evaluator(self._evaluator.program, folder=self.built.weights.parent, on_node=clock)
        totals, profiled, runs = [], [], []
        for i in range(warmup + repeats):
            started = time.perf_counter()
            self._evaluator.run(inputs, function)
            total = time.perf_counter() - started
            clock.start()
            watched.run(inputs, function)
            seconds = time.perf_counter() - clock.started
            if i >= warmup:
                totals.append(total)
                profiled.append(seconds)
                runs.append(tuple(clock.kernels))
        return Profiled(function, tuple(totals), tuple(profiled), tuple(runs))

    def close(self) -> None:
        """Nothing is held."""


class _Bound:
    """An entry on arrays that take the place of what it writes over."""

    def __init__(
        self, runner: ReferenceRunner, entry: str, aliases: Mapping[str, str], held: Mapping[str, np.ndarray]
    ) -> None:
        self._runner, self._entry, self._aliases = runner, entry, aliases
        self._held = {name: held[name] for name in aliases.values()}

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """One run. Raises: RunError."""
        answers = self._runner.run(self._entry, {**inputs, **self._held})
        for output, name in self._aliases.items():
            self._held[name][...] = answers.pop(output)
        return answers


class _Clock:
    """Told of each node when it is done: it took the time since the one before, the evaluator's work too."""

    def __init__(self, program: Program, function: str) -> None:
        self._keys = {s.key for s in steps(program, function)}
        self.start()

    def start(self) -> None:
        self.kernels: list[KernelTime] = []
        self.started = self._last = time.perf_counter()

    def __call__(self, path: str, node: Node, results: tuple[np.ndarray, ...]) -> None:
        now = time.perf_counter()
        key = key_of(path, node)
        if key in self._keys:  # a call is done when its last node is
            self.kernels.append(KernelTime(key, f"numpy {node.op.name}", self._last - self.started, now - self._last))
        self._last = now


def _check_names(entry: str, built: Built, graph: Graph) -> None:
    """Raises: LoadError where the manifest calls an entry's inputs or outputs otherwise than the program does."""
    signature = known_entry(entry, built.entries)
    said = {s.name for s in signature.inputs}, {s.name for s in signature.outputs}
    if said != ({v.name for v in graph.inputs}, set(graph.output_names)):
        raise LoadError(f"the manifest and {FILE} differ on the inputs or outputs of {entry!r}")
