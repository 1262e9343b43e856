"""Attention alone in fp32, ours on TVM against torch's fused one and ONNX Runtime's: full, causal, and of one query."""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..ir.build import Builder
from ..ir.dims import Range, symbol
from ..ir.dtypes import f32
from ..ir.tensor import TensorType
from .ceilings import Ceiling
from .kernel_race import FILE, OPENED_BY, OURS, compiled, raced
from .openers import Arrays, Begin, Run, torch_threads

HEADS, SIZE = 12, 64
LENGTHS = (32, 64, 128, 256, 512, 1024, 37, 113, 333, 777)
FULL, CAUSAL, ONE = "full", "causal", "one query"
COUNT = 8  # attentions in a row, each of which gives the next one's queries
PEERS: dict[str, tuple[str, str]] = {
    OURS: (FILE, OPENED_BY),
    "torch SDPA": ("case.json", f"{__package__}.kernel_attention:sdpa"),
    "ORT Attention": ("Attention.onnx", "onnx"),
    "ORT MHA": ("MultiHeadAttention.onnx", "onnx"),
}


@dataclass(frozen=True, slots=True)
class Case:
    """kind: which keys a query sees. batch, and how many keys; of `ONE` there is one query, else as many."""

    kind: str
    batch: int
    keys: int

    @property
    def queries(self) -> int:
        return 1 if self.kind == ONE else self.keys

    @property
    def spoken(self) -> str:
        return f"{self.kind}, {self.batch} x {self.keys}"

    @property
    def flops(self) -> int:
        """Of the two products."""
        pairs = self.keys * (self.keys + 1) // 2 if self.kind == CAUSAL else self.queries * self.keys
        return 4 * pairs * self.batch * HEADS * SIZE


def cases(lengths: Sequence[int]) -> list[Case]:
    """Every length, full, causal and of one query, and eight rows of the usual one."""
    more = [Case(kind, 8, 128) for kind in (FULL, CAUSAL)] if 128 in lengths else []
    return [*(Case(kind, 1, n) for kind in (FULL, CAUSAL, ONE) for n in lengths), *more]


# -- the same case as files of each competitor ------------------------------------------------------------------------


def write_ours(folder: Path, case: Case) -> None:
    b = Builder()
    batch, keys = symbol("batch"), symbol("keys")
    queries = 1 if case.kind == ONE else keys
    q, k, v = (b.input(n, TensorType(f32, (batch, s, HEADS, SIZE))) for n, s in zip("qkv", (queries, keys, keys),
                                                                                  strict=True))  # fmt: skip
    for _ in range(COUNT):
        q = b.emit("attention", q, k, v, scale=SIZE**-0.5, causal=case.kind == CAUSAL)
    compiled(folder / FILE, b.finish([q], ["y"]), {"batch": Range(1, 64), "keys": Range(1, max(LENGTHS))}, {})


def write_onnx(folder: Path, case: Case) -> None:
    """ONNX's own op and ONNX Runtime's older one."""
    import onnx
    from onnx import TensorProto, helper

    causal, flat = case.kind == CAUSAL, HEADS * SIZE
    ops: dict[str, tuple[str, dict[str, Any]]] = {
        "Attention": ("", {"q_num_heads": HEADS, "kv_num_heads": HEADS, "is_causal": int(causal)}),
        "MultiHeadAttention": ("com.microsoft", {"num_heads": HEADS, "unidirectional": int(causal)}),
    }
    shapes = {n: (case.batch, s, HEADS, SIZE) for n, s in zip("qkv", (case.queries, *[case.keys] * 2), strict=True)}
    for op, (domain, attrs) in ops.items():
        nodes = [helper.make_node("Reshape", [n, f"{n}s"], [f"{n}0"]) for n in "qkv"]
        for i in range(COUNT):
            nodes.append(helper.make_node(op, [f"q{i}", "k0", "v0"], [f"q{i + 1}"], domain=domain, **attrs))
        held = [helper.make_tensor(f"{n}s", TensorProto.INT64, [3], [*shapes[n][:2], flat]) for n in "qkv"]
        given = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shapes[n]) for n in "qkv"]
        y = helper.make_tensor_value_info(f"q{COUNT}", TensorProto.FLOAT, (case.batch, case.queries, flat))
        graph = helper.make_graph(nodes, "attention", given, [y], held)
        sets = [helper.make_opsetid("", 23), helper.make_opsetid("com.microsoft", 1)]
        onnx.save(helper.make_model(graph, opset_imports=sets, ir_version=11), str(folder / f"{op}.onnx"))


def sdpa(job: dict[str, Any], inputs: Arrays) -> Begin:
    """torch's fused attention, as it chooses it."""
    import torch

    torch_threads(job["threads"])
    causal = json.loads(Path(job["path"]).read_text())["causal"]
    attend = torch.nn.functional.scaled_dot_product_attention
    first, k, v = (torch.from_numpy(np.array(inputs[n])).transpose(1, 2) for n in "qkv")

    def begin() -> Run:
        def run() -> Any:
            q = first
            with torch.no_grad():
                for _ in range(COUNT):
                    q = attend(q, k, v, is_causal=causal)
            return lambda: [("y", q.transpose(1, 2).contiguous().numpy())]

        return run

    return begin


# -- measuring and writing down ---------------------------------------------------------------------------------------


def measured(
    wanted: Sequence[Case], threads: int, rounds: int, say: Callable[[str], None]
) -> Iterator[tuple[Case, dict[str, Any]]]:
    """Each case with what `kernel_race.raced` gives."""
    for case in wanted:
        say(case.spoken)
        with tempfile.TemporaryDirectory(prefix="tundish-attention-") as text:
            folder, rng = Path(text), np.random.default_rng(case.keys)
            write_ours(folder, case)
            write_onnx(folder, case)
            (folder / "case.json").write_text(json.dumps({"causal": case.kind == CAUSAL}))
            lengths = {"q": case.queries, "k": case.keys, "v": case.keys}
            np.savez(folder / "inputs.npz", allow_pickle=False, **{
                n: rng.standard_normal((case.batch, s, HEADS, SIZE), np.float32) for n, s in lengths.items()
            })  # fmt: skip
            yield case, raced(folder, PEERS, threads, rounds, COUNT, say)


def shown(case: Case, row: Mapping[str, Any], most: Ceiling) -> dict[str, Any]:
    """A measured case as a row of the table."""
    seconds = row["ms"] / 1e3
    return {
        f"{HEADS} heads of {SIZE}": case.spoken, "ours ms": f"{row['ms']:.3g}",
        "of peak": f"{case.flops / seconds / most.flops_per_s:.0%}",
        **{name: f"{ratio:.2f}" for name, ratio in row["ratios"].items()},
        "fastest peer": f"{min(row['ratios'].values()):.2f}", "clean of rounds": f"{row['clean']} of {row['rounds']}",
    }  # fmt: skip


def summary(found: Sequence[tuple[Case, Mapping[str, Any]]]) -> str:
    """Of each kind, the geometric mean against the fastest peer, and the least."""
    said = []
    for kind in dict.fromkeys(case.kind for case, _ in found):
        best = {case.spoken: min(row["ratios"].values()) for case, row in found if case.kind == kind}
        mean = math.exp(sum(map(math.log, best.values())) / len(best))
        least = min(best, key=best.__getitem__)
        said.append(f"{kind}: {mean:.2f} times ours (geometric mean of {len(best)}; the least {best[least]:.2f}, "
                    f"{least.partition(', ')[2]})")  # fmt: skip
    return f"What the fastest peer takes. {'. '.join(said)}."


def bench(
    asked: argparse.Namespace, most: Ceiling, say: Callable[[str], None]
) -> tuple[list[dict[str, Any]], str]:  # fmt: skip
    """Rows and what they come to."""
    lengths = [int(n) for n in asked.rows.split(",")] if asked.rows else LENGTHS
    found = list(measured(cases(lengths), asked.threads, asked.rounds, say))
    return [shown(case, row, most) for case, row in found], summary(found)
