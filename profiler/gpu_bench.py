"""The TVM backend's kernels and models on an NVIDIA GPU, beside cuBLAS and torch.

`python -m tundish.profiler.gpu_bench [gemm] [MODEL.tundish ...] [--rounds N] [--write FILE]`
`python -m tundish.profiler.gpu_bench --resources MODEL.tundish`, which needs no GPU
gemm: y = x · w in bf16 with fp32 sums, of 4096 x 4096 x 4096 and less, against `torch.matmul` where torch has CUDA.
MODEL.tundish: bundles for this GPU; each is held against its stored answers, then timed: the whole model at 1 x 128,
and of a decoder one step after 256 tokens.
--resources: what each kernel of a bundle takes of a multiprocessor, by kind of chip.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from ..backends import registry
from ..backends.bundle import open_bundle
from ..backends.bundle_write import build_files
from ..backends.inputs import random_inputs
from ..backends.options import TvmOptions, typed
from ..backends.tvm.cuda.cubin import resources
from ..backends.tvm.runner import read_schedule
from ..compiler.hardware.gpus import GPUS, PREFIX
from ..compiler.plan import Guard, Plan, Variant
from ..ir.build import Builder
from ..ir.diagnostics import CheckError, LoadError, TundishError, Where
from ..ir.dtypes import bf16
from ..ir.graph import Program
from ..ir.tensor import TensorType
from ..ir.weights import TensorFile
from .benchmarks import write_part
from .kernel_race import markdown
from .parity import check
from .report.table import table

SIZES = ((4096, 4096, 4096), (2048, 4096, 4096), (512, 4096, 4096), (128, 768, 3072), (1, 4096, 4096))  # m, k, n
USUAL = {"batch": 1, "seq": 128, "tokens": 1, "past": 256, "capacity": 512}
BAR = 0.55  # of cuBLAS's rate, at 4096 cubed


def main(args: Sequence[str] | None = None) -> int:
    """Prints the tables. 1 where a bar was missed, 2 where nothing could be measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="*", default=["gemm"])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--resources", type=Path, metavar="BUNDLE")
    asked = parser.parse_args(args)
    if asked.resources is not None:
        try:
            table(taken(asked.resources))
        except TundishError as error:
            print(f"gpu_bench: {error.message}", file=sys.stderr)
            return error.exit_code
        return 0
    try:
        from ..backends.tvm.cuda.driver import driver

        device = driver()
        rows = products(device, asked.rounds) if "gemm" in asked.what else []
        models = [row for path in asked.what if path != "gemm" for row in model_rows(Path(path), asked.rounds)]
    except TundishError as error:
        print(f"gpu_bench: {error.message}", file=sys.stderr)
        return error.exit_code
    major, minor = device.compute
    head = f"{date.today()}, {device.name}, compute capability {major}.{minor}; `python -m tundish.profiler.gpu_bench"
    told = " ".join(Path(w).name for w in asked.what)
    text = "\n\n".join([f"{head} {told}`.", *("\n".join(markdown(part)) for part in (rows, models) if part)])
    print(text)
    if asked.write is not None:
        write_part(asked.write, "gpu", text)
    missed = [r for r in rows if r["m x k x n"] == "4096 x 4096 x 4096" and r["of cuBLAS"] != "-"
              and float(r["of cuBLAS"]) < BAR]  # fmt: skip
    return 1 if missed else 0


def taken(path: Path) -> list[dict[str, Any]]:
    """One row a kernel and kind of chip. Raises: LoadError where a bundle is none for GPUs."""
    with open_bundle(path) as bundle:
        options = typed(bundle.manifest.options, TvmOptions)
        if options.device != "cuda":
            raise LoadError(f"{path.name} is no bundle for a GPU", found=bundle.target)
        folder, found = path / bundle.manifest.backend, list[dict[str, Any]]()
        for body in options.bodies:
            files = [m.file for models in body.models.values() for m in models]
            launches = {k: v for file in files for k, v in read_schedule(folder / file).launches.items()}
            for name, code in TensorFile(folder / body.library).items():
                own, launch = resources(code.tobytes()), launches[name]
                found.append({"kernel": name, "chip": ", ".join(body.features), "threads": launch.threads,
                              "registers": own.registers, "shared bytes": own.shared_bytes + launch.shared,
                              "spilled bytes": own.stack_bytes})  # fmt: skip
        return found


def products(device: Any, rounds: int) -> list[dict[str, Any]]:
    """One row a product: seconds of our kernel by the device's clock, TFLOP/s, and the part of cuBLAS's rate."""
    found = []
    for m, k, n in SIZES:
        seconds, peer = ours_s(device, m, k, n, rounds), cublas_s(m, k, n, rounds)
        found.append({
            "m x k x n": f"{m} x {k} x {n}", "ms": f"{seconds * 1e3:.3f}",
            "TFLOP/s": f"{2 * m * k * n / seconds / 1e12:.1f}",
            "cuBLAS, ms": "-" if peer is None else f"{peer * 1e3:.3f}",
            "of cuBLAS": "-" if peer is None else f"{peer / seconds:.2f}",
        })  # fmt: skip
    return found


def ours_s(device: Any, m: int, k: int, n: int, rounds: int) -> float:
    """Seconds of one product, the median. Raises: CheckError where its numbers are wrong."""
    from ..backends.tvm.cuda.lower_product import WIDTH

    gpu = next((g for g in reversed(list(GPUS.values())) if g.runs_on(device.compute)), None)
    if gpu is None:
        raise LoadError(f"TVM makes no code for this GPU: {device.name}")
    shapes = {"x": (m, k), "panels": (-(-n // WIDTH), k, WIDTH)}
    b = Builder(Where("gpu_bench.py", 1))
    x, panels = (b.input(name, TensorType(bf16, shape)) for name, shape in shapes.items())
    graph = b.finish([b.emit("panel_linear", x, panels, columns=n)])
    program = Program({"product": graph}, ("product",), {}, {})
    plan = Plan(program, {"product": (Variant(Guard(), "product"),)}, "tvm", f"{PREFIX}{gpu.name}")
    rng, engine = np.random.default_rng(0), registry.get("tvm")
    given = {name: rng.standard_normal(shape).astype(bf16.numpy) for name, shape in shapes.items()}
    with tempfile.TemporaryDirectory() as folder:
        runner = engine.open(build_files(plan, engine, Path(folder)))
        (got,) = runner.run("product", given).values()
        _check(got, given["x"], given["panels"])
        timed = runner.profile("product", given, warmup=3, repeats=rounds)
        runner.close()
    return median(sum(kernel.seconds for kernel in run) for run in timed.runs)


def _check(got: np.ndarray, x: np.ndarray, panels: np.ndarray) -> None:
    """Some rows and the first panel. Raises: CheckError."""
    width, rows = panels.shape[2], slice(None, None, max(1, len(x) // 16))
    want = x[rows].astype(np.float64) @ panels[0].astype(np.float64)
    off = np.abs(got[rows, :width].astype(np.float64) - want).max() / np.abs(want).max()
    if not off < 2.0**-7:
        raise CheckError("the product is wrong", found=f"{off:.3g} of its largest number")


def cublas_s(m: int, k: int, n: int, rounds: int) -> float | None:
    """Seconds of torch's product on the GPU, the median; None where this torch has no CUDA."""
    try:
        import torch
    except ImportError:
        return None
    if not torch.cuda.is_available():
        return None
    x, w = (torch.randn(s, device="cuda", dtype=torch.bfloat16) for s in ((m, k), (k, n)))
    times = []
    for i in range(3 + rounds):
        first, second = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        torch.matmul(x, w)
        second.record()
        torch.cuda.synchronize()
        if i >= 3:
            times.append(first.elapsed_time(second) / 1e3)
    return median(times)


def model_rows(path: Path, rounds: int) -> list[dict[str, Any]]:
    """One row an entry, after the bundle's own cases held. Raises: CheckError, LoadError."""
    with open_bundle(path) as bundle:
        check(bundle, bundle.manifest.judged)
        found = []
        for entry, signature in bundle.entries.items():
            sizes = {n: min(max(low, USUAL.get(n, low)), high or USUAL.get(n, low))
                     for n, (low, high) in signature.symbols.items()}  # fmt: skip
            timed = bundle.runner().profile(entry, random_inputs(signature, sizes=sizes), warmup=3, repeats=rounds)
            kernels = median(sum(k.seconds for k in run) for run in timed.runs)
            spoken = " ".join(f"{n} {size}" for n, size in sizes.items())
            found.append({"bundle": bundle.manifest.name, "entry": entry, "sizes": spoken,
                          "ms, with copies": f"{median(timed.totals_s) * 1e3:.3f}",
                          "ms, kernels": f"{kernels * 1e3:.3f}", "kernels": len(timed.runs[0])})  # fmt: skip
        return found


if __name__ == "__main__":
    sys.exit(main())
