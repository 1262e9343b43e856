"""Single kernels of the TVM backend against those of others in their best settings: here products, in fp32 or bf16.

`python -m tundish.profiler.kernel_bench KERNEL [--precision bf16] [--write FILE] [--threads N] [--rounds N]
[--rows M,M] [--sizes KxN,KxN]`
KERNEL: gemm (against oneDNN, ONNX Runtime, OpenVINO), attention (torch, ONNX Runtime), epilogues (the bare product),
moe (a layer of experts: ONNX Runtime, torch; --rows are tokens, --sizes EXPERTSxKxFEATURESxINNER).
"""

from __future__ import annotations

import argparse
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..compiler.hardware.caches import caches
from ..compiler.hardware.machine import check_threads
from ..ir.build import Builder
from ..ir.dims import Range, symbol
from ..ir.dtypes import DTYPES, f32
from ..ir.ops.widen import as_type
from ..ir.tensor import TensorType
from .benchmarks import machine_line, write_part
from .ceilings import Ceiling, ceiling
from .kernel_race import FILE, OPENED_BY, OURS, TOLERANCE, compiled, markdown, raced, weight
from .openers import Arrays, Begin, Run, torch_threads
from .report.table import table

Lines = tuple[list[dict[str, Any]], str]  # of a table, and what they come to
ROWS = (1, 4, 16, 32, 128, 512)
SIZES: dict[str, tuple[tuple[int, int], ...]] = {  # k, n of the weights
    "BERT-base": ((768, 768), (768, 3072), (3072, 768)),
    "Llama-8B, Mixtral-8x7B": ((4096, 4096), (4096, 1024), (4096, 14336), (14336, 4096)),
}
PEERS: dict[str, tuple[str, str]] = {  # the file's name, how it is opened
    OURS: (FILE, OPENED_BY),
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


FP32 = Form("f32", 4, "gemm", TOLERANCE, PEERS)
# ONNX Runtime's CPU provider has no product in bf16.
BF16 = Form("bf16", 2, "gemm-bf16", 3e-2, {
    **{name: PEERS[name] for name in (OURS, "oneDNN")}, "OpenVINO": ("model.onnx", "openvino-bf16"),
})  # fmt: skip
FORMS = {"fp32": FP32, "bf16": BF16}
_BEYOND = 4  # times the last cache


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
    b, (count, k, n), dtype = Builder(), weights.shape, DTYPES[form.dtype]
    x = as_type(b, b.input("x", TensorType(dtype, (symbol("m"), k))), f32)
    ys = [as_type(b, b.emit("linear", x, weight(b, f"w{i}", (k, n))), dtype) for i in range(count)]
    graph = b.finish(ys, [f"y{i}" for i in range(count)])
    held = {f"w{i}": w for i, w in enumerate(weights)}
    compiled(folder / FILE, graph, {"m": Range(1, max(ROWS))}, held, form.dtype)


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
                found = raced(folder, form.peers, threads, rounds, len(weights), say, form.dtype, form.tolerance)
                yield {"m": m, "k": k, "n": n, **found}


# -- writing down -----------------------------------------------------------------------------------------------------


def shown(row: Mapping[str, Any], most: Ceiling, form: Form = FP32) -> dict[str, Any]:
    """A measured product as a row of the table."""
    m, k, n = row["m"], row["k"], row["n"]
    seconds, read_bytes = row["ms"] / 1e3, form.bytes * k * n
    return {
        "m x k x n": f"{m} x {k} x {n}", "ours ms": f"{row['ms']:.3g}", "GFLOP/s": f"{2e-9 * m * k * n / seconds:.0f}",
        "of the peak": f"{2 * m * k * n / seconds / most.flops_per_s:.0%}",
        "of weights GB/s": f"{1e-9 * read_bytes / seconds:.1f}",
        "of the limit": f"{most.least_s(2 * m * k * n, read_bytes) / seconds:.0%}",
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


def bench(asked: argparse.Namespace, most: Ceiling, say: Callable[[str], None]) -> Lines:
    """Rows and what they come to."""
    rows = [int(m) for m in asked.rows.split(",")] if asked.rows else ROWS
    usual = [size for group in SIZES.values() for size in group]
    sizes = [(int(k), int(n)) for k, n in (s.split("x") for s in asked.sizes.split(",") if s)] or usual
    form = FORMS[asked.precision]
    found = list(measured(sizes, rows, asked.threads, asked.rounds, say, form))
    return [shown(row, most, form) for row in found], summary(found)


def page(lines: list[dict[str, Any]], said: str, most: Ceiling, threads: int) -> str:
    """A part of docs/benchmarks.md."""
    return "\n".join([f"{machine_line()} {threads} threads. {most.spoken}", "", said, "", *markdown(lines)])


def _benches() -> dict[str, Callable[[argparse.Namespace, Ceiling, Callable[[str], None]], Lines]]:
    from . import kernel_attention, kernel_epilogues, kernel_moe

    return {
        "gemm": bench, "attention": kernel_attention.bench, "epilogues": kernel_epilogues.bench,
        "moe": kernel_moe.bench,
    }  # fmt: skip


def main() -> None:
    benches = _benches()
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("kernel", choices=list(benches))
    parser.add_argument("--precision", choices=list(FORMS), default="fp32", help="of gemm")
    parser.add_argument("--write", type=Path, help="the markdown file to rewrite")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=9, help="clean ones that each needs")
    parser.add_argument("--rows", default="", help="as 1,128; of attention, its lengths; the usual ones by default")
    parser.add_argument("--sizes", default="", help="as 768x3072,576x1536; the usual ones by default")
    asked = parser.parse_args()
    check_threads(asked.threads)
    form = FORMS[asked.precision]
    if form is not FP32 and asked.kernel != FP32.part:
        parser.error(f"{asked.kernel} is timed in fp32 only")
    most = ceiling(asked.threads, form.dtype)
    lines, said = benches[asked.kernel](asked, most, lambda text: print(text, flush=True))
    table(lines)
    print(said)
    if asked.write is not None:
        part = form.part if asked.kernel == FP32.part else asked.kernel
        write_part(asked.write, part, page(lines, said, most, asked.threads))


if __name__ == "__main__":
    main()
