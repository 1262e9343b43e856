"""The three promises of the TVM backend."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
from pathlib import Path

import msgspec

from ...compiler.capabilities import Capabilities
from ...compiler.hardware.machine import Machine, this_machine
from ...compiler.plan import Plan
from ...ir.diagnostics import BuildError
from ..base import Built, Runner
from ..signature import signatures

LIBRARY = "kernels.so"
WIDTH = 32


def _need() -> None:
    if importlib.util.find_spec("tvm") is None:
        raise BuildError("the TVM backend needs TVM to compile", hint="pip install 'tundish[compile]'")


class Tvm:
    """One shared library, made for the CPU at hand."""

    name = "tvm"

    def versions(self) -> dict[str, str]:
        return {p: importlib.metadata.version(p) for p in ("apache-tvm", "apache-tvm-ffi")}

    def capabilities(self, machine: Machine) -> Capabilities:
        _need()
        from .lower import STRUCTURE, declined, decomposed, table
        from .lower_product import WIDTH

        return Capabilities(
            self.name,
            ops=frozenset(table()) | STRUCTURE,
            decomposed=decomposed(),
            declined=declined(),
            dtypes=frozenset({"f32", "i64", "i32", "bool"}),
            panel=WIDTH,
            features=machine.features & frozenset({"avx2", "fma", "avx512f", "avx512bw", "avx512vl"}),
        )

    def build(self, plan: Plan, out: Path, weights: Path) -> Built:
        """Writes the library, `<entry>.<n>.json` for each variant, and TVM's run-time library. Raises: BuildError."""
        _need()
        from .emit import Emit, Kernels
        from .library import compiled, link, module_of
        from .runner import RUNTIME, runtime_library
        from .walk import emit

        machine = this_machine()
        kernels = Kernels()
        schedules, models, functions = [], {}, {}
        for entry, variants in plan.entries.items():
            models[entry] = []
            for i, variant in enumerate(variants):
                to = Emit(f"run_{len(schedules)}", kernels, lanes_of(machine))
                schedules.append(emit(plan.program, variant.function, to, plan.aliases.get(entry, {})))
                file = f"{entry}.{i}.json"
                (out / file).write_bytes(msgspec.json.encode(schedules[-1]))
                guard = variant.guard
                models[entry].append({"guard": [guard.symbol, guard.op, guard.value], "file": file})
                functions[file] = variant.function
        link(compiled(module_of(kernels, schedules, machine.arch), target_of(machine)), out / LIBRARY)
        runtime = runtime_library()
        assert runtime is not None
        shutil.copyfile(runtime, out / RUNTIME)
        options = {"models": models, "library": LIBRARY, "functions": functions}
        return Built(out, weights, signatures(plan), options)

    def open(self, built: Built, *, threads: int | None = None) -> Runner:
        from .runner import TvmRunner

        return TvmRunner(built, threads)


def lanes_of(machine: Machine) -> int:
    """The f32 numbers in a vector."""
    return 16 if "avx512f" in machine.features else 8 if "avx2" in machine.features else 4


def target_of(machine: Machine) -> dict[str, object]:
    """TVM's description of a CPU."""
    if machine.arch != "x86_64":
        return {"kind": "llvm", "mcpu": "generic", "mtriple": f"{machine.arch}-linux-gnu"}
    level = "x86-64-v4" if "avx512f" in machine.features else "x86-64-v3" if "avx2" in machine.features else "x86-64"
    return {"kind": "llvm", "mcpu": level, "mtriple": "x86_64-linux-gnu"}
