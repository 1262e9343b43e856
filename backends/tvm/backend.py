"""The three promises of the TVM backend."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from ...compiler.capabilities import Capabilities
from ...compiler.hardware import gpus
from ...compiler.hardware.baselines import BASELINES, NAMED, Baseline, bodies
from ...compiler.hardware.caches import ASSUMED, caches
from ...compiler.hardware.machine import Machine, this_machine
from ...compiler.passes.choose import KERNELS, RUN
from ...compiler.passes.experts import EXPERTS
from ...compiler.plan import Plan
from ...ir.diagnostics import BuildError
from ...ir.weights import TensorFile
from ..base import Built, Runner, Say
from ..options import runs
from ..signature import signatures
from .linker import check_linker
from .schedule import Schedule
from .tiles import WIDTH, Chip, chip_of, cuts

NO_BF16 = "products of bf16 need avx512_bf16, which the CPU that is built for lacks; --weights bf16 needs nothing"
NO_FP16 = "its CPUs multiply no faster in fp16 than in fp32, and bf16 takes as few bytes"
QUANTIZED = frozenset({
    "quantized_matmul", "quantized_gather", "quantized_moe", "quad_linear", "quad_gather", "quad_moe",
})  # fmt: skip


def _need() -> None:
    if importlib.util.find_spec("tvm") is None:
        raise BuildError("the TVM backend needs TVM to compile", hint="pip install 'tundish[compile]'")


class Tvm:
    """One shared library, made for the CPU at hand."""

    name = "tvm"

    def versions(self) -> dict[str, str]:
        """TVM's compiler is needed to build, not to run."""
        found = {"apache-tvm-ffi": importlib.metadata.version("apache-tvm-ffi")}
        if importlib.util.find_spec("tvm") is not None:
            found["apache-tvm"] = importlib.metadata.version("apache-tvm")
        return found

    def capabilities(self, machine: Machine) -> Capabilities:
        _need()
        if gpus.gpus(machine.target):
            from .cuda.build import capabilities

            return capabilities(self.name)
        from .lower import STRUCTURE, declined, decomposed, table
        from .lower_quads import BLOCKS, X_BITS

        chip = _chip(machine)
        pairs = "avx512_bf16" in chip.features
        few_bits = "avx512_vnni" in chip.features  # without, their products would be slower than those in fp32
        return Capabilities(
            self.name,
            ops=(frozenset(table()) | STRUCTURE) - (frozenset() if few_bits else QUANTIZED),
            decomposed=decomposed(),
            declined=declined(),
            dtypes=frozenset({"f32", "i64", "i32", "bool"}),
            products=frozenset({"bf16"} if pairs else ()),
            unable={"f16": NO_FP16, **({} if pairs else {"bf16": NO_BF16})},
            panel=WIDTH,
            features=chip.features,
            blocks=BLOCKS if few_bits else frozenset(),
            x_bits=X_BITS if few_bits else 0,
            targets=frozenset({"cpu", *NAMED, *gpus.NAMED}),
            kernels={"panel_linear": tuple(cuts(_cut_for(machine.target, chip)))},
            alone=frozenset({"panel_linear"}),
            runs=runs(machine.cores)[:1] if machine.target == "cpu" else (),
        )

    def ready(self, machine: Machine) -> None:
        """Raises: BuildError where there is no TVM, no kernels for that CPU, or no linker; for a GPU, no compiler."""
        _need()
        if gpus.gpus(machine.target):
            from .cuda.nvrtc import need

            need()
            return
        check_linker(_chip(machine).arch)

    def build(self, plan: Plan, out: Path, weights: Path, progress: Say | None = None) -> Built:
        """Writes for each CPU of the target a library and a schedule for each variant of an entry, and TVM's run-time
        library, where there is one for that CPU. Raises: BuildError."""
        _need()
        if gpus.gpus(plan.target):
            from .cuda.build import build

            return Built(out, weights, signatures(plan), build(plan, out, progress))
        from .runner import RUNTIME, runtime_library

        machine = this_machine()
        chips = bodies(plan.target) or (of_machine(machine),)
        header = TensorFile(weights).header
        prefixes = [f"{chip.name}." if len(chips) > 1 else "" for chip in chips]
        found = [_body(plan, chip, out, p, header, progress) for chip, p in zip(chips, prefixes, strict=True)]
        runtime = runtime_library()
        if runtime is not None and chips[0].arch == machine.arch:
            shutil.copyfile(runtime, out / RUNTIME)
        run = {"run": dict(plan.decisions[RUN])} if RUN in plan.decisions else {}
        return Built(out, weights, signatures(plan), {"bodies": found, **run})

    def open(self, built: Built, *, threads: int | None = None) -> Runner:
        if built.options.get("device") == "cuda":
            from .cuda.runner import CudaRunner

            return CudaRunner(built)
        from .runner import TvmRunner

        return TvmRunner(built, threads)


def _body(
    plan: Plan, chip: Baseline, out: Path, prefix: str, header: Mapping[str, Any], progress: Say | None
) -> dict[str, object]:
    """One library and its schedules, whose files' names begin with `prefix`. header: of the weights' file."""
    from .emit import Emit, Kernels
    from .library import write_library
    from .lower import cpus
    from .walk import emit

    kernels, schedules = Kernels(), list[Schedule]()
    cut_for = _cut_for(plan.target, chip)
    signed = signatures(plan)
    chosen, experts = (plan.decisions.get(name, {}) for name in (KERNELS, EXPERTS))
    models: dict[str, list[dict[str, object]]] = {}
    functions: dict[str, str] = {}
    for entry, variants in plan.entries.items():
        models[entry] = []
        for i, variant in enumerate(variants):
            to = Emit(kernels, cut_for, cpus())
            made = emit(plan.program, variant.function, to, signed[entry].aliases, chosen, experts)
            guard, file = variant.guard, f"{prefix}{entry}.{i}.json"
            seal = made.seal(signed[entry], guard, header, chip.features)
            schedules.append(msgspec.structs.replace(made, function=seal))
            (out / file).write_bytes(msgspec.json.encode(schedules[-1]))
            models[entry].append({"guard": [guard.symbol, guard.op, guard.value], "file": file})
            functions[file] = variant.function
    library = write_library(kernels, schedules, chip, out, prefix, progress)
    return {"features": sorted(chip.features), "library": library, "models": models, "functions": functions}


def _cut_for(target: str, chip: Baseline) -> Chip:
    """The caches of a named CPU are not known."""
    return chip_of(chip.features, ASSUMED if bodies(target) else caches())


def _chip(machine: Machine) -> Baseline:
    """What is built for: of several CPUs the least."""
    return (bodies(machine.target) or (of_machine(machine),))[-1]


def of_machine(machine: Machine) -> Baseline:
    """The most able named CPU that a machine is one of; its model's own name tells LLVM no more than that.

    Raises: BuildError where there is none.
    """
    fitting = [b for b in BASELINES.values() if b.arch == machine.arch and b.features <= machine.features]
    if not fitting:
        raise BuildError(f"the TVM backend does not build for this CPU: {machine.name}",
                         hint="it needs AVX2, or an Arm Neoverse; take --backend onnxruntime")  # fmt: skip
    return max(fitting, key=lambda b: len(b.features))
