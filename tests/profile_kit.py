"""Profiles of a real small program: its own nodes, places and work, with times and ceilings that a test chooses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tundish.ir import dims, dtypes
from tundish.ir.build import Builder
from tundish.ir.diagnostics import Where
from tundish.ir.dims import Range
from tundish.ir.graph import Program
from tundish.ir.tensor import TensorType
from tundish.ir.walk import Step, steps
from tundish.ir.weights import Weight
from tundish.profiler.profiles import MemoryPoint, NodeRow, Profile, Roofs

B, S = dims.symbol("batch"), dims.symbol("seq")
ROOFS = Roofs(224e9, {"L1": 1.6e12, "L2": 7.5e11, "L3": 1.7e11, "memory": 2.4e10}, {"bf16": 4.6e11})
SIZES = {"batch": 2, "seq": 32}


def transformer(layers: int, width: int = 64, heads: int = 4, vocabulary: int = 500) -> Program:
    """An embedding, layers of attention and an MLP, and a head: 13 nodes a layer that take time."""
    b = Builder()
    weights: dict[str, Weight] = {}

    def weight(name: str, *shape: int) -> object:
        weights[name] = Weight(TensorType(dtypes.f32, shape))
        return b.emit_node("weight", (), {"name": name}, types=[weights[name].type], names=[name]).output

    def at(module: str, line: int, op: str, *values: object, **attrs: object) -> object:
        with b.at(Where("models/tiny.py", line, module)):
            return b.emit(op, *values, **attrs)

    def linear(module: str, line: int, x: object, k: int, n: int) -> object:
        return at(module, line, "linear", x, weight(f"{module}.weight", k, n), weight(f"{module}.bias", n))

    def norms(module: str) -> tuple[object, object]:
        return weight(f"{module}.norm1.weight", width), weight(f"{module}.norm1.bias", width)

    ids = b.input("input_ids", TensorType(dtypes.i64, (B, S)))
    x = at("embed", 11, "gather", weight("embed.weight", vocabulary, width), ids, axis=0)
    for i in range(layers):
        here, split = f"layers.{i}", (B, S, heads, width // heads)
        norm = at(f"{here}.norm1", 21, "layer_norm", x, *norms(here), eps=1e-5)
        q, k, v = (
            at(f"{here}.attn", 31, "reshape", linear(f"{here}.attn.{p}", 30, norm, width, width), shape=split)
            for p in "qkv"
        )
        mixed = at(f"{here}.attn", 32, "attention", q, k, v, scale=0.25)
        mixed = at(f"{here}.attn", 33, "reshape", mixed, shape=(B, S, width))
        x = at(here, 41, "add", x, linear(f"{here}.attn.o", 34, mixed, width, width))
        up = at(f"{here}.mlp", 51, "gelu", linear(f"{here}.mlp.up", 50, x, width, 4 * width))
        x = at(here, 42, "add", x, linear(f"{here}.mlp.down", 52, up, 4 * width, width))
    logits = linear("head", 61, x, width, vocabulary)
    return Program({"main": b.finish([logits])}, ("main",), weights, {"batch": Range(1, 8), "seq": Range(1, 64)})


def estimated_ms(step: Step) -> float:
    """A time that any test may know: what the roofs allow, and a microsecond to begin."""
    return roof_of(step)[0] + 1e-3


def roof_of(step: Step) -> tuple[float, str]:
    """The time at the roof that binds a node, ms, and its name."""
    work = step.node.op.work(step.node.output_types, step.node.input_types, step.node.attrs).at(SIZES)
    compute = work.flops / ROOFS.peak_flops_per_s * 1e3
    memory = (work.read_bytes + work.written_bytes) / ROOFS.bandwidths["memory"] * 1e3
    return (compute, "compute") if compute >= memory else (memory, "memory")


def profile(
    program: Program | None = None, ms: Callable[[Step], float] = estimated_ms, gap_ms: float = 1e-4, **changes: object
) -> Profile:
    """One row for each node that is no weight, one after the other with a gap between."""
    rows, memory, now, live = [], [], 0.0, 0
    for step in steps(program or transformer(2)):
        if step.node.op.name in ("weight", "constant", "dim_value"):
            continue
        work = step.node.op.work(step.node.output_types, step.node.input_types, step.node.attrs).at(SIZES)
        took, (at_roof, roof) = ms(step), roof_of(step)
        where = step.where
        rows.append(NodeRow(
            step.key, step.node.op.name, where.module, f"{where.file}:{where.line}", f"{step.node.op.name}_kernel",
            now, took, took / 20, at_roof * 1.1 + 8e-4, at_roof, at_roof * 2 + 2e-3, work.flops, work.flops,
            work.read_bytes, work.written_bytes, roof, at_roof / took * 100 if took else None,
        ))  # fmt: skip
        live += work.written_bytes
        memory.append(MemoryPoint(step.key, live))
        now += took + gap_ms
    attributed = sum(r.measured_ms for r in rows)
    made = Profile(
        model="tiny transformer", backend="reference", target="cpu", machine="a test machine, 2 cores",
        date="2026-11-25", phase="prefill", precision="fp32", threads=2, sizes=SIZES, warmup=3, repeats=20,
        total_ms=now, iqr_ms=now / 50, profiled_ms=now * 1.04, predicted_ms=sum(r.predicted_ms or 0 for r in rows),
        unattributed_ms=now - attributed, nodes=tuple(rows), peak_bytes={"measured": 3 << 20, "predicted": 2 << 20},
        calibration="2026-11-25, a test machine", memory=tuple(memory), roofs=ROOFS, versions={"numpy": "2"},
        notes=("times are chosen by a test",),
    )  # fmt: skip
    return replace(made, **changes)  # type: ignore[arg-type]
