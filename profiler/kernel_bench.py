"""Single products, ours on TVM against oneDNN, ONNX Runtime and OpenVINO in their best settings, in fp32 or bf16.

`python -m tundish.profiler.kernel_bench gemm [--precision bf16] [--write FILE] [--threads N] [--rounds N] [--rows M,M]
[--sizes KxN,KxN]`
"""

from __future__ import annotations

import argparse
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..compiler.hardware.caches import caches
from ..compiler.hardware.machine import check_threads, this_machine
from ..ir.diagnostics import RunError
from .answers import ANSWER, read_answer
from .benchmarks import machine_line, write_part
from .host_lock import measuring_alone
from .openers import Arrays, Begin, Run, torch_threads
from .report.table import table
from .rounds import figures, race
from .workers import Worker

ROWS = (1, 4, 16, 32, 128, 512)
SIZES: dict[str, tuple[tuple[int, int], ...]] = {  # k, n of the weights
    "BERT-base": ((768, 768), (768, 3072), (3072, 768)),
    "Llama-8B, Mixtral-8x7B": ((4096, 4096), (4096, 1024), (4096, 14336), (14336, 4096)),
}
OURS = "ours"
PEERS: dict[str, tuple[str, str]] = {  # the file's name, how it is opened
    OURS: ("ours.tundish", f"{__package__}.kernel_bench:ours"),
    "oneDNN": ("weights.npy", f"{__package__}.kernel_bench:onednn"),
    "ONNX Runtime": ("model.onnx", "onnx"),
    "OpenVINO": ("model.onnx", "openvino"),
}


@dataclass(frozen=True, slots=True)
class Form:
    """What is multiplied. part: of docs/benchmarks.md. tolerance: of numbers that are of the size of 1."""

    dtype: str
    bytes: int
    part: str
    tolerance: float
    peers: Mapping[str, tuple[str, str]]


FP32 = Form("f32", 4, "gemm", 1e-4, PEERS)
# ONNX Runtime's CPU provider has no product in bf16.
BF16 = Form("bf16", 2, "gemm-bf16", 3e-2, {
    **{name: PEERS[name] for name in (OURS, "oneDNN")}, "OpenVINO": ("model.onnx", "openvino-bf16"),
})  # fmt: skip
FORMS = {"fp32": FP32, "bf16": BF16}
_LIMIT_S = 300.0
_SLOT_S = 0.15
_BEYOND = 4  # times the last cache


@dataclass(frozen=True, slots=True)
class Ceiling:
    """What the chip gives at most, on so many threads, in this run. weight_bytes: of one number."""

    flops_per_s: float
    bytes_per_s: float
    weight_bytes: int = 4

    def least_s(self, m: int, k: int, n: int) -> float:
        """Seconds in which x [m, k] · w [k, n] cannot be beaten, where the weights come from memory."""
        return max(2 * m * k * n / self.flops_per_s, self.weight_bytes * k * n / self.bytes_per_s)


def ceiling(threads: int, form: Form = FP32) -> Ceiling:
    """The best of 10 runs of multiply-adds in registers alone, and of reading memory."""
    from .calibrate.quiet import Watch
    from .calibrate.roofs import bandwidths, peaks

    wanted = {"avx", "avx2", "fma", "avx512f", "neon"} | ({"avx512_bf16"} if form is BF16 else set())
    features, watch = this_machine().features & wanted, Watch(threads)
    found, _ = peaks(features, (threads,), watch, 10, _silent)
    read = bandwidths(features, caches(), (threads,), watch, 10, _silent)
    most = {p.dtype: p.flops_per_s for p in found}
    if form.dtype not in most:
        raise RunError(f"this CPU multiplies in no {form.dtype}")
    return Ceiling(most[form.dtype], next(b.read_bytes_per_s for b in read if b.level == "memory"), form.bytes)


def _silent(text: str) -> None:
    return None


def copies(k: int, n: int, bytes: int = 4) -> int:
    """How many weights of that size lie far beyond the last cache, so that each is cold in its turn: 64 at most.

    Twice the cache is not enough: a part of them was found in it again, and read faster than memory is.
    """
    return min(64, max(2, math.ceil(_BEYOND * caches()[-1].size_bytes / (bytes * k * n))))


# -- the same products as files of each competitor --------------------------------------------------------------------


def drawn(k: int, n: int, count: int) -> np.ndarray:
    """Weights [count, k, n], no two alike, such that products of numbers around 1 are around 1."""
    rng = np.random.default_rng(0)
    found: np.ndarray = rng.standard_normal((count, k, n), np.float32)
    found *= np.float32(k**-0.5)
    return found


def write_ours(folder: Path, weights: np.ndarray, form: Form = FP32) -> None:
    """A bundle of one graph with all products, for any number of rows; x and the answers are of the form's type."""
    from ..backends.bundle_write import write_bundle
    from ..backends.registry import get
    from ..compiler.driver import compile_program
    from ..compiler.task import Precision, Task
    from ..ir.build import Builder
    from ..ir.dims import Range, symbol
    from ..ir.dtypes import DTYPES, f32
    from ..ir.graph import Program
    from ..ir.ops.widen import as_type
    from ..ir.tensor import TensorType
    from ..ir.weights import Held, Weight

    b, kind, dtype = Builder(), TensorType(f32, weights.shape[1:]), DTYPES[form.dtype]
    x = as_type(b, b.input("x", TensorType(dtype, (symbol("m"), weights.shape[1]))), f32)
    ws = [b.emit_node("weight", (), {"name": f"w{i}"}, types=(kind,)).output for i in range(len(weights))]
    ys = [as_type(b, b.emit("linear", x, w), dtype) for w in ws]
    graph = b.finish(ys, [f"y{i}" for i in range(len(ys))])
    held = {f"w{i}": Weight(kind, Held(w)) for i, w in enumerate(weights)}
    program = Program({"forward": graph}, ("forward",), held, {"m": Range(1, max(ROWS))})
    backend, machine = get("tvm"), this_machine()
    precision = Precision(weights=form.dtype, compute=form.dtype)
    plan = compile_program(program, Task(machine, backend.capabilities(machine), precision, program.symbols))
    write_bundle(folder / PEERS[OURS][0], plan, backend).close()


def write_onnx(folder: Path, weights: np.ndarray, m: int) -> None:
    """One file with all products, for so many rows; its weights lie beside it and are there once."""
    import onnx
    from onnx import TensorProto, helper

    count, k, n = weights.shape
    size = 4 * k * n
    held = []
    for i in range(count):
        tensor = TensorProto(name=f"w{i}", dims=(k, n), data_type=TensorProto.FLOAT,
                             data_location=TensorProto.EXTERNAL)  # fmt: skip
        for key, value in (("location", "weights.bin"), ("offset", i * size), ("length", size)):
            tensor.external_data.add(key=key, value=str(value))
        held.append(tensor)
    nodes = [helper.make_node("MatMul", ["x", f"w{i}"], [f"y{i}"]) for i in range(count)]
    ys = [helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, (m, n)) for i in range(count)]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, (m, k))
    graph = helper.make_graph(nodes, "products", [x], ys, held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, str(folder / "model.onnx"))


def ours(job: dict[str, Any], inputs: Arrays) -> Begin:
    """Opens our bundle."""
    from ..backends.bundle import open_bundle
    from ..ir.dtypes import DTYPES

    def begin() -> Run:
        bundle = open_bundle(Path(job["path"]), threads=job["threads"])
        given = {name: x.astype(DTYPES[job["dtype"]].numpy) for name, x in inputs.items()}

        def run() -> Any:
            found = bundle.run(given)
            return found.items

        return run

    return begin


def onednn(job: dict[str, Any], inputs: Arrays) -> Begin:
    """oneDNN's products as torch calls them, with its own packing of the weights for that number of rows."""
    import torch

    torch_threads(job["threads"])
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[job["dtype"]]
    x = torch.from_numpy(inputs["x"]).to(dtype)
    weights = np.load(job["path"], mmap_mode="r")

    def begin() -> Run:
        ops = torch.ops.mkldnn
        packed = [
            ops._reorder_linear_weight(torch.from_numpy(np.ascontiguousarray(w.T)).to(dtype), x.shape[0])
            for w in weights
        ]

        def run() -> Any:
            with torch.no_grad():
                found = [ops._linear_pointwise(x, w, None, "none", [], "") for w in packed]
            return lambda: [(f"y{i}", y.float().numpy()) for i, y in enumerate(found)]

        return run

    return begin


# -- measuring --------------------------------------------------------------------------------------------------------


def measured(
    sizes: Iterable[tuple[int, int]], rows: Sequence[int], threads: int, rounds: int, say: Callable[[str], None],
    form: Form = FP32,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """{"m", "k", "n", "ms", "ratios": {peer: theirs / ours}} of every product, the peers in turn in one run."""
    for k, n in sizes:
        with tempfile.TemporaryDirectory(prefix="tundish-gemm-") as text:
            folder = Path(text)
            weights = drawn(k, n, copies(k, n, form.bytes))
            weights.tofile(folder / "weights.bin")
            np.save(folder / "weights.npy", weights)
            write_ours(folder, weights, form)
            for m in rows:
                say(f"{m} x {k} x {n}")
                write_onnx(folder, weights, m)
                np.savez(folder / "inputs.npz", x=np.random.default_rng(m).standard_normal((m, k), np.float32))
                with _opened(folder, threads, form) as workers, measuring_alone(say):
                    yield {"m": m, "k": k, "n": n, **_raced(workers, threads, rounds, len(weights))}


@contextmanager
def _opened(folder: Path, threads: int, form: Form) -> Iterator[Mapping[str, Worker]]:
    """Each competitor in a process of its own. Raises: RunError where one does not run, or answers something else."""
    cpus = sorted(os.sched_getaffinity(0))[:threads]
    with ExitStack() as stack:
        workers, answers = {}, {}
        for name, (file, kind) in form.peers.items():
            own = folder / name.replace(" ", "-")
            own.mkdir(exist_ok=True)
            job = {
                "peer": own.name, "kind": kind, "path": str(folder / file), "threads": threads, "slot_s": _SLOT_S,
                "folder": str(own), "inputs": str(folder / "inputs.npz"), "answer": str(own / ANSWER),
                "environment": {"OMP_NUM_THREADS": str(threads)}, "dtype": form.dtype,
            }  # fmt: skip
            workers[name] = Worker(job, _LIMIT_S, cpus)
            stack.callback(workers[name].close)
            if "error" in workers[name].ready:
                raise RunError(f"{name} does not run", found=str(workers[name].ready["error"]))
            answers[name] = read_answer(own / ANSWER)[-1][1]
            if not np.allclose(answers[name], answers[OURS], atol=form.tolerance, rtol=form.tolerance):
                raise RunError(f"{name} gives another product than ours")
        yield workers


def _raced(workers: Mapping[str, Worker], threads: int, rounds: int, count: int) -> dict[str, Any]:
    cpus = sorted(os.sched_getaffinity(0))[:threads]
    live = {name: (worker, float(worker.ready["run_s"])) for name, worker in workers.items()}
    ran, failed = race(live, OURS, rounds, threads, cpus)
    if failed:
        raise RunError("a competitor ended", found=str(failed))
    found = {name: figures(ran, name, OURS, rounds) for name in workers}
    return {
        "ms": found[OURS]["median_ms"] / count, "clean": found[OURS]["clean_rounds"], "rounds": len(ran),
        "ratios": {name: found[name]["ratio"] for name in workers if name != OURS},
    }  # fmt: skip


# -- writing down -----------------------------------------------------------------------------------------------------


def shown(row: Mapping[str, Any], most: Ceiling) -> dict[str, Any]:
    """A measured product as a row of the table."""
    m, k, n = row["m"], row["k"], row["n"]
    seconds = row["ms"] / 1e3
    return {
        "m x k x n": f"{m} x {k} x {n}", "ours ms": f"{row['ms']:.3g}", "GFLOP/s": f"{2e-9 * m * k * n / seconds:.0f}",
        "of the peak": f"{2 * m * k * n / seconds / most.flops_per_s:.0%}",
        "of weights GB/s": f"{most.weight_bytes * 1e-9 * k * n / seconds:.1f}",
        "of the limit": f"{most.least_s(m, k, n) / seconds:.0%}",
        **{name: f"{ratio:.2f}" for name, ratio in row["ratios"].items()},
        "fastest peer": f"{min(row['ratios'].values()):.2f}", "clean of rounds": f"{row['clean']} of {row['rounds']}",
    }  # fmt: skip


def summary(rows: Sequence[Mapping[str, Any]]) -> str:
    """The geometric mean of what the fastest peer of each product takes against ours, and where ours is slower."""
    best = [min(row["ratios"].values()) for row in rows]
    mean = math.exp(sum(map(math.log, best)) / len(best))
    slower = [f"{r['m']} x {r['k']} x {r['n']} ({b:.2f})" for r, b in zip(rows, best, strict=True) if b < 1]
    text = f"Geometric mean against the fastest peer of each product: {mean:.3f} times ours."
    return f"{text} Ours is slower at {', '.join(slower)}." if slower else f"{text} Ours is slower at none."


def page(rows: Sequence[Mapping[str, Any]], most: Ceiling, threads: int) -> str:
    """The part of docs/benchmarks.md."""
    lines = [shown(row, most) for row in rows]
    keys = list(lines[0])
    return "\n".join([
        f"{machine_line()} {threads} threads. Limits in the same run: {most.flops_per_s / 1e9:.0f} GFLOP/s (registers "
        f"alone), {most.bytes_per_s / 1e9:.1f} GB/s (reading memory).", "", summary(rows), "",
        "| " + " | ".join(keys) + " |", "|" + "---|" * len(keys),
        *("| " + " | ".join(str(line[key]) for key in keys) + " |" for line in lines),
    ])  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("kernel", choices=["gemm"])
    parser.add_argument("--precision", choices=list(FORMS), default="fp32")
    parser.add_argument("--write", type=Path, help="the markdown file to rewrite")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=9, help="clean ones that each needs")
    parser.add_argument("--rows", default=",".join(map(str, ROWS)), help="as 1,128")
    parser.add_argument("--sizes", default="", help="as 768x3072,576x1536; the usual ones by default")
    asked = parser.parse_args()
    check_threads(asked.threads)
    rows = [int(m) for m in asked.rows.split(",")]
    usual = [size for group in SIZES.values() for size in group]
    sizes = [(int(k), int(n)) for k, n in (s.split("x") for s in asked.sizes.split(",") if s)] or usual
    form = FORMS[asked.precision]
    most = ceiling(asked.threads, form)
    found = list(measured(sizes, rows, asked.threads, asked.rounds, lambda text: print(text, flush=True), form))
    table([shown(row, most) for row in found])
    print(summary(found))
    if asked.write is not None:
        write_part(asked.write, form.part, page(found, most, asked.threads))


if __name__ == "__main__":
    main()
