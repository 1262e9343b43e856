"""One layer of experts over numbers of tokens: ours on TVM and on ONNX Runtime against theirs, in fp32."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..ir.build import Builder
from ..ir.dims import Range, symbol
from ..ir.dtypes import f32, i64
from ..ir.graph import Graph
from ..ir.tensor import TensorType
from .ceilings import Ceiling
from .kernel_race import FILE, OPENED_BY, OURS, compiled, raced, weight
from .openers import Arrays, Begin, Run, torch_threads

TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
ROUTINGS = 4  # in one run, so that few tokens do not always find the same experts in a cache
ORT_FILE = "ort.tundish"
PEERS: dict[str, tuple[str, str]] = {  # the file's name, how it is opened
    OURS: (FILE, OPENED_BY),
    "ours on ONNX Runtime": (ORT_FILE, OPENED_BY),
    "ONNX Runtime MoE": ("model.onnx", "onnx"),
    "torch grouped_mm": (".", f"{__package__}.kernel_moe:grouped_mm"),
}


@dataclass(frozen=True, slots=True)
class Layer:
    """Its sizes: experts, experts of each token, features, features inside an expert."""

    experts: int
    k: int
    d: int
    inner: int

    @property
    def spoken(self) -> str:
        return f"{self.experts} experts, {self.k} a token, {self.d} x {self.inner}"

    @property
    def each(self) -> int:
        """Numbers of one expert."""
        return 3 * self.d * self.inner

    def weights(self) -> dict[str, np.ndarray]:
        """gate_up [e, 2 inner, d] and down [e, d, inner], as torch holds them, such that numbers stay around 1."""
        rng = np.random.default_rng(0)
        up = rng.standard_normal((self.experts, 2 * self.inner, self.d), np.float32)
        down = rng.standard_normal((self.experts, self.d, self.inner), np.float32)
        up *= np.float32(self.d**-0.5)
        down *= np.float32(self.inner**-0.5)
        return {"up": up, "down": down}

    def inputs(self, tokens: int) -> dict[str, np.ndarray]:
        """Tokens, and experts drawn uniformly for each, ROUTINGS times."""
        rng, many = np.random.default_rng(tokens), (ROUTINGS, tokens)
        ids = np.argsort(rng.random((*many, self.experts)), -1)[..., : self.k]
        return {
            "x": rng.standard_normal((*many, self.d), np.float32), "ids": np.ascontiguousarray(ids, np.int64),
            "share": rng.random((*many, self.k), np.float32) + np.float32(0.1),
        }  # fmt: skip


LAYERS = (Layer(8, 2, 1024, 3584), Layer(64, 8, 1024, 384))


# -- the same layer as files of each competitor -----------------------------------------------------------------------


def graph_of(layer: Layer) -> Graph:
    """The layer on each routing in turn."""
    b, t, (e, k, d, f) = Builder(), symbol("t"), (layer.experts, layer.k, layer.d, layer.inner)
    given = [b.input("x", TensorType(f32, (ROUTINGS, t, d))), b.input("ids", TensorType(i64, (ROUTINGS, t, k))),
             b.input("share", TensorType(f32, (ROUTINGS, t, k)))]  # fmt: skip
    shapes = {"up": (e, 2 * f, d), "down": (e, d, f)}
    held = [b.emit("transpose", weight(b, name, shape), perm=(0, 2, 1)) for name, shape in shapes.items()]
    ys = []
    for i in range(ROUTINGS):
        cut = [b.emit("slice", v, axis=0, start=i, stop=i + 1, step=1) for v in given]
        ys.append(b.emit("moe", *(b.emit("reshape", v, shape=v.type.shape[1:]) for v in cut), *held))
    return b.finish(ys, [f"y{i}" for i in range(ROUTINGS)])


def write_onnx(folder: Path, layer: Layer, weights: Mapping[str, np.ndarray], tokens: int) -> None:
    """ONNX Runtime's own operator, given the chosen experts' weights as logits beside ones that nothing chooses."""
    import onnx
    from onnx import TensorProto, helper

    e, k, d, f = layer.experts, layer.k, layer.d, layer.inner
    if not (folder / "moe.bin").exists():
        with open(folder / "moe.bin", "wb") as file:
            up = weights["up"].reshape(e, 2, f, d).transpose(0, 2, 1, 3)  # a gate, and what it gates, by turns
            np.ascontiguousarray(up).tofile(file)
            weights["down"].tofile(file)
    held, at = [], 0
    for name, shape in (("up", (e, 2 * f, d)), ("down", (e, d, f))):
        tensor = TensorProto(name=name, dims=shape, data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
        size = 4 * int(np.prod(shape))
        for key, value in (("location", "moe.bin"), ("offset", at), ("length", size)):
            tensor.external_data.add(key=key, value=str(value))
        held.append(tensor)
        at += size
    held.append(helper.make_tensor("none", TensorProto.FLOAT, (tokens, e), np.full(tokens * e, -1e4, np.float32)))
    nodes = []
    for i in range(ROUTINGS):
        held.append(helper.make_tensor(f"i{i}", TensorProto.INT64, (), [i]))
        nodes += [helper.make_node("Gather", [name, f"i{i}"], [f"{name}{i}"]) for name in ("x", "ids", "share")]
        nodes += [
            helper.make_node("Log", [f"share{i}"], [f"log{i}"]),
            helper.make_node("ScatterElements", ["none", f"ids{i}", f"log{i}"], [f"logits{i}"], axis=1),
            helper.make_node("MoE", [f"x{i}", f"logits{i}", "up", "", "down"], [f"even{i}"], domain="com.microsoft",
                             k=k, activation_type="swiglu", swiglu_fusion=1, normalize_routing_weights=1,
                             activation_alpha=1.0, activation_beta=0.0),
            helper.make_node("ReduceSum", [f"share{i}", "last"], [f"whole{i}"]),
            helper.make_node("Mul", [f"even{i}", f"whole{i}"], [f"y{i}"]),
        ]  # fmt: skip
    held.append(helper.make_tensor("last", TensorProto.INT64, (1,), [1]))
    shapes = {"x": d, "ids": k, "share": k}
    given = [
        helper.make_tensor_value_info(n, TensorProto.INT64 if n == "ids" else TensorProto.FLOAT, (ROUTINGS, tokens, c))
        for n, c in shapes.items()
    ]
    ys = [helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, (tokens, d)) for i in range(ROUTINGS)]
    graph = helper.make_graph(nodes, "experts", given, ys, held)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), str(folder / "model.onnx"))


def grouped_mm(job: dict[str, Any], inputs: Arrays) -> Begin:
    """torch's grouped products on rows sorted by expert, as transformers runs them."""
    import torch
    from torch.nn import functional as F

    torch_threads(job["threads"])
    x, ids, share = (torch.from_numpy(inputs[name]) for name in ("x", "ids", "share"))

    def begin() -> Run:
        up, down = (torch.from_numpy(np.load(Path(job["path"]) / f"{n}.npy", mmap_mode="c")) for n in ("up", "down"))
        experts, k = len(up), ids.shape[-1]

        def one(x: Any, ids: Any, share: Any) -> Any:
            mine, order = ids.reshape(-1).sort(stable=True)
            ends = torch.bincount(mine, minlength=experts).cumsum(0).to(torch.int32)
            gate, value = F.grouped_mm(x[order // k], up.transpose(1, 2), offs=ends).chunk(2, -1)
            y = F.grouped_mm(F.silu(gate) * value, down.transpose(1, 2), offs=ends)
            y = torch.empty_like(y).index_copy_(0, order, y)
            return (y.reshape(*ids.shape, -1) * share[..., None]).sum(1)

        def run() -> Any:
            with torch.no_grad():
                found = [one(*parts) for parts in zip(x, ids, share, strict=True)]
            return lambda: [(f"y{i}", y.numpy()) for i, y in enumerate(found)]

        return run

    return begin


# -- measuring --------------------------------------------------------------------------------------------------------


def measured(
    layers: Sequence[Layer], tokens: Sequence[int], threads: int, rounds: int, say: Callable[[str], None]
) -> Iterator[dict[str, Any]]:
    """{"layer", "tokens", "reached", "ms", "ratios": {peer: theirs / ours}} of each layer and number of tokens."""
    for layer in layers:
        with tempfile.TemporaryDirectory(prefix="tundish-moe-") as text:
            folder, weights, graph = Path(text), layer.weights(), graph_of(layer)
            for name, array in weights.items():
                np.save(folder / f"{name}.npy", array)
            for file, backend in ((FILE, "tvm"), (ORT_FILE, "onnxruntime")):
                compiled(folder / file, graph, {"t": Range(1, max(TOKENS))}, weights, backend=backend)
            for n in tokens:
                say(f"{layer.spoken}: {n} tokens")
                write_onnx(folder, layer, weights, n)
                inputs = layer.inputs(n)
                np.savez(folder / "inputs.npz", x=inputs["x"], ids=inputs["ids"], share=inputs["share"])
                found = raced(folder, PEERS, threads, rounds, ROUTINGS, say)
                reached = float(np.mean([len(np.unique(ids)) for ids in inputs["ids"]]))
                yield {"layer": layer, "tokens": n, "reached": reached, **found}


def shown(row: Mapping[str, Any], most: Ceiling) -> dict[str, Any]:
    """A measured layer as a row of the table."""
    layer, seconds = row["layer"], row["ms"] / 1e3
    flops, read_bytes = 2 * row["tokens"] * layer.k * layer.each, 4 * row["reached"] * layer.each
    return {
        "layer": layer.spoken, "tokens": row["tokens"], "ours ms": f"{row['ms']:.3g}",
        "GFLOP/s": f"{1e-9 * flops / seconds:.0f}", "of the peak": f"{flops / seconds / most.flops_per_s:.0%}",
        "experts reached": f"{row['reached']:.1f}", "of them GB/s": f"{1e-9 * read_bytes / seconds:.1f}",
        "of the limit": f"{most.least_s(flops, read_bytes) / seconds:.0%}",
        **{name: f"{ratio:.2f}" for name, ratio in row["ratios"].items()},
        "clean of rounds": f"{row['clean']} of {row['rounds']}",
    }  # fmt: skip


def summary(rows: Sequence[Mapping[str, Any]]) -> str:
    """Where another body than ours on TVM is faster by more than 5 %, and the layer at 128 tokens."""
    parts = []
    for row in rows:
        name, ratio = min(row["ratios"].items(), key=lambda item: item[1])
        if ratio < 1 / 1.05:
            parts.append(f"{row['layer'].spoken} at {row['tokens']} tokens ({name} {ratio:.2f})")
    told = f"Another is faster by more than 5 % at {'; '.join(parts)}" if parts else "None is faster by more than 5 %"
    return f"{told}. Figures of the others: their time over ours."


def bench(asked: argparse.Namespace, most: Ceiling, say: Callable[[str], None]) -> tuple[list[dict[str, Any]], str]:
    """Rows and what they come to. --sizes: layers as EXPERTSxKxFEATURESxINNER."""
    tokens = [int(t) for t in asked.rows.split(",")] if asked.rows else TOKENS
    layers = [Layer(*map(int, s.split("x"))) for s in asked.sizes.split(",") if s] or LAYERS
    found = list(measured(layers, tokens, asked.threads, asked.rounds, say))
    return [shown(row, most) for row in found], summary(found)
