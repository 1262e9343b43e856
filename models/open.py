"""One name for every form in which a user names a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import gguf, hub, huggingface, zoo
from .errors import ModelError
from .exported import load_pt2
from .onnx_source import onnx_source
from .source import Source
from .torch_module import load_factory, module_source

Dims = Mapping[str, Sequence[int | str]] | None


def open_model(
    model: Any,
    task: str | None = None,
    *,
    dtype: str = "f32",
    shape_only: bool = False,
    inputs: Any = None,
    dims: Dims = None,
    fixed: Mapping[str, Any] | None = None,
) -> Source:
    """A zoo name, a transformers folder, `org/name` of the hub cache, a `.gguf`, `.onnx` or `.pt2` file,
    `FILE.py:FACTORY`, or a torch module with sample `inputs`.

    dtype: what floating weights are read as; a torch module is taken as it is. fixed: inputs of an ONNX file that are
    settled now, by name: an array, a .npy file, or numbers (`1,2,3`).
    Raises: ModelError.
    """
    if fixed and Path(str(model)).suffix != ".onnx":
        raise ModelError("only an ONNX file's inputs can be fixed", found=", ".join(fixed),
                         hint="give a torch module that computes it")  # fmt: skip
    if not isinstance(model, (str, Path)):
        return module_source(model, inputs, dims)
    text, path = str(model), Path(model)
    _refuse_unclear(text, path)
    if text in zoo.ZOO or text in zoo.PACKAGED:
        return zoo.load_named(text, task, dtype=dtype, shape_only=shape_only)
    if ".py:" in text:
        return load_factory(text)
    if path.is_file() and path.suffix in _FILES:
        return _FILES[path.suffix](path, task, dtype, dims, fixed)
    if path.is_dir():
        return huggingface.load_folder(path, task, dtype=dtype, shape_only=shape_only)
    if not path.exists() and hub.is_name(text):
        source = huggingface.load_folder(hub.snapshot(text), task, dtype=dtype, shape_only=shape_only)
        return source.replace(name=text.partition("/")[2].partition("@")[0])
    raise _no_model(text, path)


def _onnx(path: Path, task: str | None, dtype: str, dims: Dims, fixed: Any) -> Source:
    return onnx_source(path, dims=dims, fixed=fixed, within=hub.repository_of(path))


def _gguf(path: Path, task: str | None, dtype: str, dims: Dims, fixed: Any) -> Source:
    return gguf.load_gguf(path, task, dtype=dtype)


def _pt2(path: Path, task: str | None, dtype: str, dims: Dims, fixed: Any) -> Source:
    return load_pt2(path)


_FILES = {".gguf": _gguf, ".onnx": _onnx, ".pt2": _pt2}


def _no_model(text: str, path: Path) -> ModelError:
    if path.suffix in _FILES and not path.exists():
        return ModelError(f"there is no file {text}")
    return ModelError(
        f"{text!r} is no model",
        hint="give a transformers folder, org/name of the hub cache, a .gguf, .onnx or .pt2 file, FILE.py:FACTORY, "
        "or a name that `tundish models` lists",
    )


def _refuse_unclear(text: str, path: Path) -> None:
    """Raises: ModelError for a name that is a folder too, and for a bundle."""
    if path.is_dir() and (text in zoo.ZOO or text in zoo.PACKAGED):
        raise ModelError(f"{text!r} is a folder here and the name of a model", hint=f"write ./{text} for the folder")
    if (path / "manifest.json").is_file():
        raise ModelError(f"{text} is a bundle, which is compiled already", hint="run, verify or load it instead")


def opens_bare(model: Any) -> bool:
    """Whether a model can be opened on the meta device, with the shapes of its weights and not their numbers."""
    if not isinstance(model, (str, Path)):
        return False
    text, path = str(model), Path(model)
    if text in zoo.PACKAGED:
        path = zoo.packaged_path(text)
    return text in zoo.ZOO or path.is_dir() or (not path.exists() and hub.is_name(text))


def estimate_bytes(model: Any, dtype: str = "f32") -> int | None:
    """Bytes of the weights once loaded, known before loading them; None where that cannot be said.

    Raises: ModelError on a folder without safetensors.
    """
    if not isinstance(model, (str, Path)):
        return None
    text, path = str(model), Path(model)
    _refuse_unclear(text, path)
    if text in zoo.ZOO:
        return zoo.ZOO[text].parameters * huggingface.BYTES[dtype]
    if text in zoo.PACKAGED:
        path = zoo.packaged_path(text)
    if not path.exists() and hub.is_name(text):
        path = hub.snapshot(text)
    if path.suffix == ".gguf" and not path.is_dir():
        return gguf.estimate_bytes(path, dtype)
    if path.is_dir():
        return huggingface.estimate_bytes(path, dtype)
    if path.suffix in (".onnx", ".pt2") and path.is_file():
        return path.stat().st_size  # and external data, which is mapped, not read
    return None
