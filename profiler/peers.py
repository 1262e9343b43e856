"""What users would pick instead, each prepared as its own documentation says: exporters and optimizers."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .workers import resolve


@dataclass(frozen=True, slots=True)
class Peer:
    """A competitor: how it is run, how its files are made (None: it runs the model itself), and what it starts from.

    form: `torch`, `onnx`, or "" where it takes any model.
    """

    kind: str
    make: Callable[[dict[str, Any], Path], dict[str, Any]] | None = None
    form: str = "torch"


def peers_for(form: str) -> list[str]:
    """Names of the competitors that can take a model of this form."""
    return [name for name, peer in PEERS.items() if peer.form in ("", form)]


def prepare(job: dict[str, Any]) -> dict[str, Any]:
    """Makes one competitor's files; returns their path and `compile_s`: without loading the model."""
    folder = Path(job["folder"])
    make = PEERS[job["peer"]].make
    assert make is not None
    return make(job, folder)


def _ours(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Our bundle. Imports, loading and asking the original are left out, as they are for the others."""
    import torch  # noqa: F401
    import transformers  # noqa: F401

    marks: list[tuple[str, float]] = []
    path = folder / "ours.tundish"
    resolve(job["compile"])(
        job["model"], path, batch=job["batch"], seq=job["seq"],
        progress=lambda stage, _: marks.append((stage, time.perf_counter())),
    )  # fmt: skip
    spans = [(a[0], b[1] - a[1]) for a, b in zip(marks, marks[1:], strict=False)]
    left_out = ("loading the model", "asking the original model")
    return {"path": str(path), "compile_s": sum(s for stage, s in spans if stage not in left_out)}


def _sample(job: dict[str, Any]) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """(torch module, sample tensors with some padding, dynamic axes)."""
    import numpy as np
    import torch

    source = resolve(job["loader"])(job["model"])
    arrays = resolve(job["inputs_maker"])(source, 2, 64, np.random.default_rng(0))
    tensors = {k: torch.from_numpy(v) for k, v in arrays.items()}
    if "attention_mask" in tensors:
        tensors["attention_mask"][0, 50:] = 0
    return source.module, tensors, {k: {0: "batch", 1: "seq"} for k in tensors}


def _torch_onnx(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """torch.onnx.export with dynamic batch and sequence, through torch.export."""
    import torch

    module, tensors, axes = _sample(job)
    if hasattr(module, "config"):
        module.config.use_cache = False
    dynamic = {k: dict.fromkeys(v, torch.export.Dim.DYNAMIC) for k, v in axes.items()}
    started = time.perf_counter()
    program = torch.onnx.export(
        module,
        (),
        kwargs=tensors,
        dynamo=True,
        input_names=list(tensors),
        dynamic_shapes=dynamic,
        verbose=False,
    )
    path = folder / "torch.onnx"
    assert program is not None  # it is None only for a file given to torch to write
    program.save(str(path), external_data=True)
    return {"path": str(path), "compile_s": time.perf_counter() - started}


def _ort_optimizer(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The same file after onnxruntime.transformers' optimizer."""
    from onnxruntime.transformers import optimizer
    from onnxruntime.transformers.fusion_options import FusionOptions

    made = _torch_onnx(job, folder)
    started = time.perf_counter()
    config = resolve(job["loader"])(job["model"]).config
    kind = config["model_type"] if config["model_type"] in ("bert", "gpt2") else "gpt2"
    heads = config.get("num_attention_heads") or config.get("n_head") or 0
    hidden = config.get("hidden_size") or config.get("n_embd") or 0
    model = optimizer.optimize_model(
        made["path"], model_type=kind, num_heads=heads, hidden_size=hidden, opt_level=0, use_gpu=False,
        optimization_options=FusionOptions(kind),
    )  # fmt: skip
    path = folder / "optimized.onnx"
    model.save_model_to_file(str(path), use_external_data_format=True)
    return {"path": str(path), "compile_s": made["compile_s"] + time.perf_counter() - started}


def _transformers_onnx(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """transformers' own exporter, with its fusions for ONNX Runtime's CPU provider."""
    import torch
    from transformers.exporters import OnnxConfig, OnnxExporter

    module, tensors, axes = _sample(job)
    module.set_attn_implementation("sdpa")
    module.config.use_cache = False
    config = OnnxConfig(dynamic=True, ort_fusions="cpu")
    config.dynamic_shapes = {k: {i: torch.export.Dim(n) for i, n in v.items()} for k, v in axes.items()}
    started = time.perf_counter()
    try:
        made = OnnxExporter().export(module, tensors, config=config)
    except Exception:  # a named size may be narrower than the exporter asks for: let it choose
        config.dynamic_shapes = None
        started = time.perf_counter()
        made = OnnxExporter().export(module, tensors, config=config)
    path = folder / "transformers.onnx"
    OnnxExporter.save_program(made.program, str(path))
    return {"path": str(path), "compile_s": time.perf_counter() - started}


def _onnx_file(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The user's own file in ONNX Runtime, as it is."""
    return {"path": str(resolve(job["loader"])(job["model"]).path), "compile_s": None}


PEERS = {
    "tundish": Peer("bundle", _ours, ""),
    "onnxruntime": Peer("onnx", _onnx_file, "onnx"),
    "torch": Peer("torch"),
    "torch-onnx": Peer("onnx", _torch_onnx),
    "ort-optimizer": Peer("onnx", _ort_optimizer),
    "transformers-onnx": Peer("onnx", _transformers_onnx),
}
