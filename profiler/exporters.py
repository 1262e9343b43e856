"""How each competitor's files are made, as its own documentation says."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ..backends.generation.session import STEP
from .openers import fast_module, set_experts, torch_threads
from .workers import resolve


def ours(
    job: dict[str, Any], folder: Path, weights: str | None = "fp32", backend: str | None = None,
    precision: str = "fp32",
) -> dict[str, Any]:  # fmt: skip
    """Our bundle, of the backend that is asked for where none is named. Imports, loading and asking the original are
    left out, as they are for the others."""
    import torch  # noqa: F401
    import transformers  # noqa: F401

    marks: list[tuple[str, float]] = []
    path, options = folder / "ours.tundish", dict(job["options"])

    def compiled(**options: Any) -> Any:
        marks.clear()
        return resolve(job["compile"])(
            job["model"], path, **options, precision=precision, weights=weights, backend=backend or job["backend"],
            progress=lambda stage, _: marks.append((stage, time.perf_counter())),
        )  # fmt: skip

    if options.get("phase") == "decode":  # by the step of the whole bundle, into caches that stay in place
        if STEP not in compiled(**{k: v for k, v in options.items() if k != "past"} | {"phase": "generate"}).entries:
            compiled(**options)  # where a model has none, by the one that concatenates
    else:
        compiled(**options)
    spans = [(a[0], b[1] - a[1]) for a, b in zip(marks, marks[1:], strict=False)]
    left_out = ("loading the model", "asking the original model")
    return {"path": str(path), "compile_s": sum(s for stage, s in spans if stage not in left_out)}


def gguf_file(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The model's own GGUF file. Raises: ValueError where it is none, or no text is decoded after a prompt."""
    path = resolve(job["gguf"])(job["model"])
    if path is None:
        raise ValueError("takes a GGUF file, and the model is none")
    if len(job.get("prompt", ())) != 1:
        raise ValueError("is timed at decoding one row: --phase decode --batch 1")
    return {"path": str(path), "compile_s": None}


def gguf_q8(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The same with its numbers held anew in Q8_0, by llama.cpp itself."""
    return _gguf_as("LLAMA_FTYPE_MOSTLY_Q8_0", job, folder)


def gguf_f32(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The same with its numbers, and what it keeps of a text, in f32."""
    return {**_gguf_as("LLAMA_FTYPE_ALL_F32", job, folder), "kept": "GGML_TYPE_F32"}


def _gguf_as(kind: str, job: dict[str, Any], folder: Path) -> dict[str, Any]:
    import llama_cpp

    source, path = gguf_file(job, folder)["path"], folder / f"{kind}.gguf"
    asked = llama_cpp.llama_model_quantize_default_params()
    asked.ftype, asked.allow_requantize, asked.nthread = getattr(llama_cpp, kind), True, job["threads"]
    started = time.perf_counter()
    if llama_cpp.llama_model_quantize(source.encode(), str(path).encode(), asked):
        raise ValueError(f"llama.cpp does not hold it as {kind}")
    return {"path": str(path), "compile_s": time.perf_counter() - started}


def _sample(
    job: dict[str, Any], sizes: str = "sizes", experts: str = "grouped_mm"
) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """(module that takes tensors by position, sample tensors, its dynamic shapes): the sizes that vary for us vary."""
    import torch

    torch_threads(job["threads"])
    module, source = fast_module(job, experts)
    arrays = resolve(job["samples"])(source, job[sizes])
    axes = source.axes()
    dynamic = tuple(dict.fromkeys(axes[name], torch.export.Dim.DYNAMIC) for name in module.inputs)
    return module, tuple(arrays[name] for name in module.inputs), {"given": dynamic}


def _exported(module: Any, tensors: tuple[Any, ...], dynamic: dict[str, Any] | None) -> Any:
    import torch

    with torch.no_grad():
        return torch.export.export(module, tensors, dynamic_shapes=dynamic, strict=False)


def aoti(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """AOTInductor with its weights as constants, so that it packs them."""
    return _aoti(folder, *_sample(job))


def aoti_static(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The same for no other sizes than those that are timed."""
    module, tensors, _ = _sample(job, "exact")
    return _aoti(folder, module, tensors, None)


def _aoti(folder: Path, module: Any, tensors: Any, dynamic: Any) -> dict[str, Any]:
    import torch
    import torch._inductor

    started = time.perf_counter()
    program = _exported(module, tensors, dynamic)
    with torch.no_grad():
        path = torch._inductor.aoti_compile_and_package(
            program, package_path=str(folder / "aoti.pt2"), inductor_configs={"freezing": True}
        )
    return {"path": str(path), "compile_s": time.perf_counter() - started, "outputs": module.outputs}


def torch_onnx(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """torch.onnx.export, through torch.export."""
    import torch

    module, tensors, dynamic = _sample(job)
    started = time.perf_counter()
    with torch.no_grad():
        program = torch.onnx.export(
            module, tensors, dynamo=True, input_names=module.inputs, output_names=module.outputs,
            dynamic_shapes=dynamic, verbose=False,
        )  # fmt: skip
    path = folder / "torch.onnx"
    assert program is not None  # it is None only for a file given to torch to write
    program.save(str(path), external_data=True)
    return {"path": str(path), "compile_s": time.perf_counter() - started}


def ort_optimizer(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The same file, or the user's, after onnxruntime.transformers' optimizer."""
    from onnxruntime.transformers import optimizer
    from onnxruntime.transformers.fusion_options import FusionOptions

    made = (torch_onnx if job["form"] == "torch" else own_file)(job, folder)
    started = time.perf_counter()
    config = resolve(job["source"])(job["model"], job["options"]).config
    kind = config["model_type"] if config.get("model_type") in ("bert", "gpt2") else "gpt2"
    kind = "vit" if job["form"] == "onnx" else kind
    heads = config.get("num_attention_heads") or config.get("n_head") or 0
    hidden = config.get("hidden_size") or config.get("n_embd") or 0
    model = optimizer.optimize_model(
        made["path"], model_type=kind, num_heads=heads, hidden_size=hidden, opt_level=0, use_gpu=False,
        optimization_options=FusionOptions(kind),
    )  # fmt: skip
    path = folder / "optimized.onnx"
    model.save_model_to_file(str(path), use_external_data_format=True)
    return {"path": str(path), "compile_s": (made["compile_s"] or 0.0) + time.perf_counter() - started}


def transformers_onnx(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """transformers' own exporter, with its fusions for ONNX Runtime's CPU provider."""
    import torch
    from transformers.exporters import OnnxConfig, OnnxExporter

    source = resolve(job["source"])(job["model"], job["options"])
    if not hasattr(source.module, "config"):
        raise ValueError("the model is none of transformers'")
    source.module.set_attn_implementation("sdpa")
    set_experts(source.module, "grouped_mm")
    for name, value in source.constants.items():
        if hasattr(source.module.config, name):
            setattr(source.module.config, name, value)
    tensors = resolve(job["samples"])(source, job["sizes"])
    config = OnnxConfig(dynamic=True, ort_fusions="cpu")
    config.dynamic_shapes = {
        k: {i: torch.export.Dim(n) for i, n in axes.items() if n.isidentifier()} for k, axes in source.axes().items()
    }
    started = time.perf_counter()
    try:
        made = OnnxExporter().export(source.module, tensors, config=config)
    except Exception:  # a named size may be narrower than the exporter asks for: let it choose
        config.dynamic_shapes = None
        started = time.perf_counter()
        made = OnnxExporter().export(source.module, tensors, config=config)
    path = folder / "transformers.onnx"
    OnnxExporter.save_program(made.program, str(path))
    return {"path": str(path), "compile_s": time.perf_counter() - started}


def own_file(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The user's own file, as it is."""
    return {"path": str(resolve(job["source"])(job["model"], job["options"]).path), "compile_s": None}


def openvino_torch(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Converted from the program that torch.export gives; weights stay in fp32."""
    import openvino as ov

    module, tensors, dynamic = _sample(job, experts="batched_mm")  # it knows no grouped products in fp32
    started = time.perf_counter()
    model = ov.convert_model(_exported(module, tensors, dynamic))
    return _saved(model, folder, started) | {"outputs": module.outputs}


def openvino_file(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Converted from the user's ONNX file."""
    import openvino as ov

    path = own_file(job, folder)["path"]
    started = time.perf_counter()
    return _saved(ov.convert_model(path), folder, started)


def _saved(model: Any, folder: Path, started: float) -> dict[str, Any]:
    import openvino as ov

    path = folder / "openvino.xml"
    ov.save_model(model, str(path), compress_to_fp16=False)
    return {"path": str(path), "compile_s": time.perf_counter() - started}
