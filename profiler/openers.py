"""How each kind of competitor is opened and run, in its own process.

An opener takes the job and the inputs, loads libraries and the model, and returns a function that begins: what passes
from there to the first answer is the competitor's own work (its session, its compilation). That gives the function that
runs the model once, whose result is called to have the outputs as (name, array).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..backends.generation.session import STEP
from .counted import step_inputs, steps_on
from .workers import resolve

Arrays = dict[str, np.ndarray]
Run = Callable[[], Callable[[], Iterable[tuple[str, np.ndarray]]]]
Begin = Callable[[], Run]
_LIBRARIES = {"tvm": ("tvm_ffi",), "onnxruntime": ("onnxruntime",)}  # of our backends; to import them is not counted


def _bundle(job: dict[str, Any], inputs: Arrays) -> Begin:
    from ..backends.bundle import open_bundle
    from ..backends.manifest import read_manifest

    for library in _LIBRARIES.get(read_manifest(Path(job["path"])).backend, ()):
        importlib.import_module(library)

    def begin() -> Run:
        bundle = open_bundle(Path(job["path"]), threads=job["asked_threads"])  # else as was measured to be best
        if steps_on(bundle.entries, inputs):
            return _step(bundle, inputs)

        def run() -> Any:
            found = bundle.run(inputs)
            return found.items

        return run

    return begin


def _step(bundle: Any, inputs: Arrays) -> Run:
    """One token on caches that hold what the inputs say of the past; it is written to the same place in every run."""
    caches, given = step_inputs(bundle.entries[STEP], inputs)
    bound = bundle.runner(None).bind(STEP, caches)

    def run() -> Any:
        found = bound.run(given)
        return found.items

    return run


def _llama_cpp(job: dict[str, Any], inputs: Arrays) -> Begin:
    """llama.cpp on the same GGUF file, its own cache kept: the last token is taken back and read again in every run."""
    import llama_cpp

    (prompt,) = job["prompt"]
    kept = getattr(llama_cpp, job["kept"]) if "kept" in job else None  # else as is its default, f16

    def begin() -> Run:
        model = llama_cpp.Llama(
            job["path"], n_ctx=len(prompt) + 8, n_threads=job["threads"], n_threads_batch=job["threads"], verbose=False,
            type_k=kept, type_v=kept,
        )  # fmt: skip
        model.eval(prompt[:-1])

        def run() -> Any:
            model.n_tokens = len(prompt) - 1
            model.eval(prompt[-1:])
            logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits(model._ctx.ctx), (model.n_vocab(),))
            return lambda: [("logits", logits.reshape(1, 1, -1).copy())]

        return run

    return begin


def _onnx(job: dict[str, Any], inputs: Arrays) -> Begin:
    import onnxruntime as ort

    def begin() -> Run:
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = job["threads"], 1
        options.log_severity_level = 4
        session = ort.InferenceSession(job["path"], options, providers=["CPUExecutionProvider"])
        given = _named([i.name for i in session.get_inputs()], inputs)
        names = [o.name for o in session.get_outputs()]

        def run() -> Any:
            found = session.run(None, given)
            return lambda: list(zip(names, found, strict=True))

        return run

    return begin


def _named(names: list[str], inputs: Arrays) -> Arrays:
    """The inputs that a file takes, by its names for them; by their order where it has none of ours."""
    if set(names) <= set(inputs):
        return {name: inputs[name] for name in names}
    if len(names) != len(inputs):
        raise ValueError(f"takes the inputs {', '.join(names)}")
    return dict(zip(names, inputs.values(), strict=True))


def torch_threads(threads: int) -> None:
    """So many threads for torch, in one pool."""
    import torch

    torch.set_num_threads(threads)
    with suppress(RuntimeError):  # it was set before
        torch.set_num_interop_threads(1)


def fast_module(job: dict[str, Any], experts: str = "grouped_mm") -> tuple[Any, Any]:
    """(the model as a module that takes its inputs by position and returns a tuple, its Source): with torch's own
    fused attention, as a user would run it. experts: which of transformers' forms of them it takes."""
    source = resolve(job["source"])(job["model"], job["options"])
    if source.form != "torch":
        raise ValueError("the model is an ONNX file, and torch does not run those")
    if hasattr(source.module, "set_attn_implementation"):
        with suppress(ValueError):  # a model that has its own attention only
            source.module.set_attn_implementation("sdpa")
    set_experts(source.module, experts)
    return resolve(job["plain"])(source), source


def set_experts(module: Any, form: str) -> None:
    """One of transformers' forms of experts, where the module has any that go through its interface."""
    if hasattr(module, "set_experts_implementation"):
        with suppress(ValueError):  # a model without experts, or with its own
            module.set_experts_implementation(form)


def _tensors(inputs: Arrays) -> tuple[Any, ...]:
    import torch

    return tuple(torch.from_numpy(np.array(a, order="C")) for a in inputs.values())


def _torch(job: dict[str, Any], inputs: Arrays) -> Begin:
    torch_threads(job["threads"])
    module, _ = fast_module(job)
    return lambda: _calling(module, module.outputs, _tensors(inputs))


def _torch_compile(job: dict[str, Any], inputs: Arrays) -> Begin:
    import torch

    torch_threads(job["threads"])
    torch._inductor.config.freezing = True  # weights are constants, which lets it pack them
    module, _ = fast_module(job)
    compiled = torch.compile(module, dynamic=True)
    return lambda: _calling(compiled, module.outputs, _tensors(inputs))


def _aoti(job: dict[str, Any], inputs: Arrays) -> Begin:
    import torch
    import torch._inductor

    torch_threads(job["threads"])

    def begin() -> Run:
        loaded = torch._inductor.aoti_load_package(job["path"])
        return _calling(loaded, job["outputs"], _tensors(inputs))

    return begin


def _calling(call: Any, names: list[str], given: tuple[Any, ...]) -> Run:
    import torch

    def run() -> Any:
        with torch.no_grad():
            found = call(*given)
        found = (found,) if isinstance(found, torch.Tensor) else found
        return lambda: [(n, t.numpy()) for n, t in zip(names, found, strict=True)]

    return run


def _openvino(job: dict[str, Any], inputs: Arrays, precision: str = "f32") -> Begin:
    import openvino as ov

    def begin() -> Run:
        # Its default precision on many machines is bf16, which would be another computation.
        compiled = ov.Core().compile_model(job["path"], "CPU", {
            "INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": job["threads"], "NUM_STREAMS": "1",
            "PERFORMANCE_HINT": "LATENCY",
        })  # fmt: skip
        request = compiled.create_infer_request()
        names = [min(i.get_names(), default="") for i in compiled.inputs]
        given = dict(enumerate(_named(names, inputs).values()))
        called = job.get("outputs") or [min(o.get_names(), default="") for o in compiled.outputs]

        def run() -> Any:
            found = request.infer(given, share_inputs=True, share_outputs=True)
            return lambda: [(n, np.array(found[i])) for i, n in enumerate(called)]

        return run

    return begin


OPEN: dict[str, Callable[[dict[str, Any], Arrays], Begin]] = {
    "bundle": _bundle, "onnx": _onnx, "torch": _torch, "torch-compile": _torch_compile, "aoti": _aoti,
    "openvino": _openvino, "openvino-bf16": partial(_openvino, precision="bf16"), "llama-cpp": _llama_cpp,
}  # fmt: skip
