"""What is usable on this machine: the rows of `tundish targets`, `ops` and `doctor`."""

from __future__ import annotations

import ctypes.util
import importlib.metadata
from typing import Any

from ..compiler.capabilities import Capabilities
from ..compiler.hardware.baselines import bodies
from ..compiler.hardware.gpus import gpus
from ..compiler.hardware.machine import this_machine
from ..ir.diagnostics import BuildError
from ..ir.op import OPS
from ..ir.op import get as get_op
from .registry import Availability, available, get
from .tvm.cuda.nvrtc import HINT, nvrtc
from .tvm.linker import linker

Row = dict[str, Any]
_NEEDED = {"torch": "capturing models", "transformers": "loading models", "onnx": "building ONNX files"}


def target_rows() -> list[Row]:
    """One row per target and backend: whether it can be compiled for here."""
    from .onnxruntime.backend import providers

    rows = [_target(row, "cpu") for row in available()]
    for row in available():
        known = capabilities(row.name) if row.usable else ""
        named = known.targets if isinstance(known, Capabilities) else frozenset()
        rows += [_target(row, target) for target in sorted(named) if bodies(target) or gpus(target)]
    ort = next(r for r in available() if r.name == "onnxruntime")
    if not ort.usable or "CUDAExecutionProvider" not in providers():
        lacking = "this build of ONNX Runtime has no CUDA provider"
    else:
        lacking = "" if ctypes.util.find_library("cuda") else "this machine has no NVIDIA driver"
    said = lacking or "NVIDIA GPU through ONNX Runtime"
    return [*rows, {"target": "cuda", "backend": "onnxruntime", "usable": not lacking, "about": said}]


def _target(row: Availability, target: str) -> Row:
    machine = this_machine(target)
    about = f"{machine.name}, {machine.cores} cores, " if target == "cpu" else "CPUs that have "
    chips = ", ".join(g.arch for g in gpus(target))
    able = f"NVIDIA GPUs, {chips}" if chips else f"{about}{', '.join(sorted(machine.features))}"
    about = row.reason or lacking(row.name, target) or able
    usable = row.usable and not lacking(row.name, target)
    return {"target": target, "backend": row.name, "usable": usable, "about": about}


def lacking(name: str, target: str = "cpu") -> str:
    """What a usable backend needs to compile for a target and does not find here, "" where there is nothing."""
    try:
        get(name).ready(this_machine(target))
    except BuildError as error:
        return f"{error.problem}; {error.hint}"
    return ""


def capabilities(name: str) -> Capabilities | str:
    """What a usable backend takes on this machine; where it cannot say so without its compiler, what it needs."""
    try:
        return get(name).capabilities(this_machine())
    except BuildError as error:
        return f"needs {error.hint}" if error.hint.startswith("pip ") else error.problem


def op_rows() -> list[Row]:
    """One row per op, with how each usable backend takes it."""
    get_op("weight")  # fills OPS
    known = {r.name: capabilities(r.name) for r in available() if r.usable}
    return [{"op": op, **{name: _cell(c, op) for name, c in known.items()}} for op in sorted(OPS)]


def _cell(known: Capabilities | str, op: str) -> str:
    if isinstance(known, str):
        return known
    if op in known.ops:
        return "lowered"
    return "decomposed" if op in known.decomposed else known.declined.get(op, "missing")


def part_rows() -> list[Row]:
    """One row per backend and library, with what to do about what is missing."""
    rows = [_backend(r) for r in available()]
    for package, why in _NEEDED.items():
        try:
            rows.append({"part": package, "usable": True, "about": importlib.metadata.version(package)})
        except importlib.metadata.PackageNotFoundError:
            missing = f"missing, needed for {why}; pip install 'tundish[compile]'"
            rows.append({"part": package, "usable": False, "about": missing})
    path = linker(this_machine().arch)
    about = path or "missing, needed for compiling with the TVM backend; install gcc, clang or binutils"
    rows.append({"part": "linker", "usable": path is not None, "about": about})
    compiler = nvrtc()
    made = f"missing, needed for compiling for NVIDIA GPUs with the TVM backend; {HINT}"
    about = made if compiler is None else f"NVRTC {compiler.version}: device code for NVIDIA GPUs can be made here"
    return [*rows, {"part": "cubins", "usable": compiler is not None, "about": about}]


def _backend(row: Availability) -> Row:
    """It is usable where its bundles run; what it lacks to compile is said beside."""
    held = row.reason or ", ".join(f"{k} {v}" for k, v in row.versions.items()) or "built in"
    needs = lacking(row.name) if row.usable else ""
    return {"part": f"backend {row.name}", "usable": row.usable,
            "about": f"{held}; runs bundles, compiles none: {needs}" if needs else held}  # fmt: skip
