"""Building for GPUs, on any machine: what the kernels can do, and a bundle's device code."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Union

import msgspec

from ....compiler.capabilities import Capabilities
from ....compiler.hardware.gpus import NAMED, Gpu, gpus
from ....compiler.plan import Plan
from ...base import Say
from ...signature import signatures
from ..emit import Kernels
from ..schedule import Schedule

DEVICE = "cuda"  # what a bundle's options call the kind of device
Compile = Callable[[Mapping[str, Any], Gpu, Union[Say, None]], dict[str, bytes]]
Models = dict[str, list[dict[str, object]]]


def capabilities(name: str) -> Capabilities:
    """The same on every kind of chip."""
    from .lower import taken
    from .lower_product import WIDTH

    ops, decomposed, declined = taken()
    return Capabilities(
        name, ops=ops, decomposed=decomposed, declined=declined, panel=WIDTH, blocks=frozenset(),
        dtypes=frozenset({"f32", "bf16", "f16", "i64", "i32", "bool"}), targets=frozenset(NAMED),
        wide_inside=frozenset({"attention", "cached_attention", "layer_norm", "rms_norm", "softmax"}),
    )  # fmt: skip


def emitted(plan: Plan, gpu: Gpu) -> tuple[Kernels, dict[tuple[str, int], Schedule]]:
    """The kernels of a plan, and the schedule of each variant of an entry."""
    from ..walk import emit
    from .emit import ONE_LANE, GpuEmit
    from .lower import gpus as lowerings

    kernels, schedules, signed = Kernels(), dict[tuple[str, int], Schedule](), signatures(plan)
    for entry, variants in plan.entries.items():
        for i, variant in enumerate(variants):
            to = GpuEmit(kernels, ONE_LANE, lowerings(), gpu=gpu)
            schedules[entry, i] = emit(plan.program, variant.function, to, signed[entry].aliases, {})
    return kernels, schedules


def build(plan: Plan, out: Path, say: Say | None = None) -> dict[str, object]:
    """Writes a file of device code for each kind of chip, and how it runs; a backend's options. Raises: BuildError."""
    return {"device": DEVICE, "bodies": [body(plan, gpu, out, say) for gpu in gpus(plan.target)]}


def body(plan: Plan, gpu: Gpu, out: Path, say: Say | None = None, compile: Compile | None = None) -> dict[str, object]:
    """Of one kind of chip. compile: what makes code of the kernels' texts, NVIDIA's compiler where nothing else is."""
    from .library import cubins, launched, sources, write_cubins

    kernels, schedules = emitted(plan, gpu)
    found = sources(kernels, gpu)
    library = f"kernels.{gpu.arch}.safetensors"
    write_cubins((compile or cubins)(found, gpu, say), out / library)
    return {"features": [gpu.name], "library": library, **_models(plan, launched(schedules, found), gpu, out)}


def _models(plan: Plan, schedules: Mapping[tuple[str, int], Schedule], gpu: Gpu, out: Path) -> dict[str, object]:
    models: Models = {entry: [] for entry in plan.entries}
    functions: dict[str, str] = {}
    for (entry, i), schedule in schedules.items():
        file, variant = f"{gpu.arch}.{entry}.{i}.json", plan.entries[entry][i]
        (out / file).write_bytes(msgspec.json.encode(schedule))
        guard = variant.guard
        models[entry].append({"guard": [guard.symbol, guard.op, guard.value], "file": file})
        functions[file] = variant.function
    return {"models": models, "functions": functions}
