"""What is usable on this machine: the rows of `tundish targets`, `ops` and `doctor`."""

from __future__ import annotations

import ctypes.util
import importlib.metadata
from typing import Any

from ..compiler.capabilities import Capabilities
from ..compiler.hardware.machine import this_machine
from ..ir.op import OPS
from ..ir.op import get as get_op
from .registry import available, get
from .tvm.linker import linker

Row = dict[str, Any]
_NEEDED = {"torch": "capturing models", "transformers": "loading models", "onnx": "building ONNX files"}


def target_rows() -> list[Row]:
    """One row per target and backend."""
    from .onnxruntime.backend import providers

    machine = this_machine()
    about = f"{machine.name}, {machine.cores} cores, {', '.join(sorted(machine.features))}"
    rows = [
        {"target": "cpu", "backend": r.name, "usable": r.usable, "about": r.reason or about} for r in available()
    ]
    ort = next(r for r in rows if r["backend"] == "onnxruntime")
    if not ort["usable"] or "CUDAExecutionProvider" not in providers():
        lacking = "this build of ONNX Runtime has no CUDA provider"
    else:
        lacking = "" if ctypes.util.find_library("cuda") else "this machine has no NVIDIA driver"
    said = lacking or "NVIDIA GPU through ONNX Runtime"
    return [*rows, {"target": "cuda", "backend": "onnxruntime", "usable": not lacking, "about": said}]


def op_rows() -> list[Row]:
    """One row per op, with how each usable backend takes it."""
    get_op("weight")  # fills OPS
    known = {r.name: get(r.name).capabilities(this_machine()) for r in available() if r.usable}
    return [{"op": op, **{name: _cell(c, op) for name, c in known.items()}} for op in sorted(OPS)]


def _cell(capabilities: Capabilities, op: str) -> str:
    if op in capabilities.ops:
        return "lowered"
    return "decomposed" if op in capabilities.decomposed else capabilities.declined.get(op, "missing")


def part_rows() -> list[Row]:
    """One row per backend and library, with what to do about what is missing."""
    rows: list[Row] = [
        {"part": f"backend {r.name}", "usable": r.usable,
         "about": r.reason or ", ".join(f"{k} {v}" for k, v in r.versions.items()) or "built in"}
        for r in available()
    ]  # fmt: skip
    for package, why in _NEEDED.items():
        try:
            rows.append({"part": package, "usable": True, "about": importlib.metadata.version(package)})
        except importlib.metadata.PackageNotFoundError:
            missing = f"missing, needed for {why}; pip install 'tundish[compile]'"
            rows.append({"part": package, "usable": False, "about": missing})
    path = linker(this_machine().arch)
    about = path or "missing, needed for compiling with the TVM backend; install gcc, clang or binutils"
    return [*rows, {"part": "linker", "usable": path is not None, "about": about}]
