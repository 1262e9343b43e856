"""What users would pick instead: every peer by its name, how it is run, and what makes its files."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..ir.diagnostics import TundishError
from . import exporters

OURS = "tundish"
ALIASES = {"torch-onnx": "onnxruntime"}
Make = Callable[[dict[str, Any], Path], dict[str, Any]]
_EITHER = ("onnxruntime", "tvm")


@dataclass(frozen=True, slots=True)
class Peer:
    """A competitor.

    kind: how it is run, of `openers.OPEN`, or another opener as `module:function`.
    make: makes its files from a model of each form (`torch`, `onnx`), None where it runs the model itself; forms that
    are not there it cannot take.
    needs: the modules that it imports. weights: the format that it holds them in, where that is less than the model's.
    like: which of ours holds weights in as many bits, where that is not the first. decodes: it does nothing else.
    beside: the backends of ours that it is timed beside unless others are asked for.
    """

    kind: str
    make: dict[str, Make | None]
    needs: tuple[str, ...] = ()
    weights: str = ""
    like: str = ""
    decodes: bool = False
    beside: tuple[str, ...] = _EITHER


def _own(weights: str, backend: str | None = None, needs: str = "", beside: str = "") -> Peer:
    """Our own bundle, with its weights so, of a backend, or of the one that is asked for."""
    make = partial(exporters.ours, weights=weights, backend=backend)
    forms: dict[str, Make | None] = {"torch": make} if weights != "fp32" else {"torch": make, "onnx": make}
    return Peer("bundle", forms, (needs,) if needs else (), "" if weights == "fp32" else weights,
                f"{OURS}-{weights}" if backend and weights != "fp32" else "",
                beside=(beside,) if beside else _EITHER)  # fmt: skip


PEERS: dict[str, Peer] = {
    OURS: Peer("bundle", {"torch": exporters.ours, "onnx": exporters.ours}),
    "torch": Peer("torch", {"torch": None}, ("torch",)),
    "torch-compile": Peer("torch-compile", {"torch": None}, ("torch",)),
    "aoti": Peer("aoti", {"torch": exporters.aoti}, ("torch",)),
    "aoti-static": Peer("aoti", {"torch": exporters.aoti_static}, ("torch",)),
    "onnxruntime": Peer(
        "onnx", {"torch": exporters.torch_onnx, "onnx": exporters.own_file}, ("onnxruntime", "onnxscript")
    ),
    "ort-optimizer": Peer(
        "onnx", {"torch": exporters.ort_optimizer, "onnx": exporters.ort_optimizer}, ("onnxruntime", "onnxscript")
    ),
    "transformers-onnx": Peer("onnx", {"torch": exporters.transformers_onnx}, ("onnxruntime", "onnxscript")),
    "openvino": Peer(
        "openvino", {"torch": exporters.openvino_torch, "onnx": exporters.openvino_file}, ("openvino",)
    ),
    "tundish-bf16": _own("bf16", needs="tvm", beside="tvm"),
    "tundish-int8": _own("int8"),
    "tundish-int4": _own("int4"),
    "tundish-tvm": _own("fp32", "tvm", "tvm", "onnxruntime"),
    **{f"tundish-tvm-{held}": _own(held, "tvm", "tvm", "onnxruntime") for held in ("bf16", "int8", "int4")},
    "tundish-tvm-precision-bf16": Peer(
        "bundle", {"torch": partial(exporters.ours, weights=None, backend="tvm", precision="bf16")}, ("tvm",), "bf16"
    ),
    "openvino-bf16": Peer(
        "openvino-bf16", {"torch": exporters.openvino_torch, "onnx": exporters.openvino_file}, ("openvino",), "bf16",
        "tundish-tvm-precision-bf16",
    ),
    "tundish-ort": _own("fp32", "onnxruntime", "onnxruntime", "tvm"),
    **{f"tundish-ort-{held}": _own(held, "onnxruntime", "onnxruntime", "tvm") for held in ("int8", "int4")},
    "llama-cpp": Peer(
        "llama-cpp", {"torch": exporters.gguf_file}, ("llama_cpp",), "int4", "tundish-int4", decodes=True
    ),
    "llama-cpp-q8": Peer(
        "llama-cpp", {"torch": exporters.gguf_q8}, ("llama_cpp",), "int8", "tundish-int8", decodes=True
    ),
    "llama-cpp-f32": Peer("llama-cpp", {"torch": exporters.gguf_f32}, ("llama_cpp",), decodes=True),
}  # fmt: skip


def chosen(names: Iterable[str] | None, phase: str = "prefill", backend: str = "onnxruntime") -> list[str]:
    """The peers by their own names, each once, ours first; by default all that compute with the model's own weights,
    and for `decode` those that hold them in fewer bits too. backend: of ours.

    Raises: TundishError naming those that there are not.
    """
    usual = [
        name for name, peer in PEERS.items()
        if backend in peer.beside and (phase == "decode" or not (peer.weights or peer.decodes))
    ]  # fmt: skip
    wanted = [ALIASES.get(n, n) for n in names] if names is not None else usual
    unknown = [repr(n) for n in wanted if n not in PEERS]
    if unknown:
        raise TundishError(f"there is no peer {', '.join(unknown)}",
                           hint=f"the peers are {', '.join([*list(PEERS)[1:], *ALIASES])}")  # fmt: skip
    return list(dict.fromkeys([OURS, *wanted]))


def cannot(name: str, form: str) -> str | None:
    """Why a peer does not run models of this form here, or None."""
    peer = PEERS[name]
    if form not in peer.make:
        known = " or ".join(_FORMS[f] for f in peer.make)
        return f"takes {known}, and this is {_FORMS[form]}"
    missing = [module for module in peer.needs if importlib.util.find_spec(module) is None]
    if missing:
        where = _ELSEWHERE.get(missing[0], "'tundish[bench]'")
        return f"{missing[0]} is not installed: pip install {where}"
    return None


_ELSEWHERE = {"llama_cpp": "'tundish[llama]'"}  # the extra that it is in, where that is another
_FORMS = {"torch": "a torch module", "onnx": "an ONNX file"}


def prepare(job: dict[str, Any]) -> dict[str, Any]:
    """Makes one competitor's files; returns their path and `compile_s`: without loading the model."""
    make = PEERS[job["peer"]].make[job["form"]]
    assert make is not None
    return make(job, Path(job["folder"]))
