"""A model from a .gguf file: what its header says is checked first, and quantised blocks are kept beside the module."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from .errors import ModelError
from .gguf_blocks import Blocks, blocks_of, placeholder
from .gguf_header import Header, Tensor, read_header
from .huggingface import BYTES, check_size, explained, from_files, model_class, quiet, some
from .source import Source
from .transformers_source import transformers_source

PLAIN = frozenset({"F64", "F32", "F16", "BF16", "I8", "I16", "I32", "I64"})


def load_gguf(path: Path, task: str | None = None, *, dtype: str = "f32") -> Source:
    """The model of a .gguf file, its module computing in `dtype`, the file's blocks beside it in `Source.quantized`.

    Raises: ModelError.
    """
    header = read_header(path)
    from transformers import AutoConfig

    folder, file = str(header.path.parent), str(header.path)
    with _read_once():
        with explained(path), quiet():
            config = AutoConfig.from_pretrained(folder, gguf_file=file)
        cls = model_class({"model_type": config.model_type}, task or "causal-lm")
        _check_shapes(_on_meta(cls, config, header), config, header)
        module = from_files(cls, header.path.parent, dtype, gguf_file=file)
        tokenizer = _tokenizer(folder, file) if "tokenizer.ggml.model" in header.metadata else None
        quantized, notes = _quantized(header, module, config) if dtype == "f32" else ({}, [])
    return transformers_source(
        module, name=path.stem, kind="gguf", notes=tuple(notes), quantized=quantized,
        pad_side="right" if tokenizer is None else tokenizer.padding_side,
        tokenizer_files=partial(_written_tokenizer, tokenizer),
    )  # fmt: skip


def estimate_bytes(path: Path, dtype: str = "f32") -> int:
    """Bytes that the module's weights will take once loaded as `dtype`. Raises: ModelError on a broken header."""
    return read_header(path).elements * BYTES[dtype]


def _on_meta(cls: Any, config: Any, header: Header) -> Any:
    """The module without weights. Raises: ModelError where the metadata ask for far more of them than the file has."""
    import torch

    with explained(header.path), quiet(), torch.device("meta"):
        module = cls._from_config(config)
    check_size(module, header.elements, header.path)
    return module


def _check_shapes(module: Any, config: Any, header: Header) -> None:
    """Raises: ModelError naming a tensor that is not as its parameter.

    Tensors that are merged into one parameter are not looked at.
    """
    processor, names = _names(header, module, config)
    wanted = {name: tuple(p.shape) for name, p in module.named_parameters(remove_duplicate=False)}
    single = {a for a in names if list(names.values()).count(names[a]) == 1}
    for name in sorted(single & header.tensors.keys()):
        with explained(header.path), np.errstate(all="ignore"):
            found = _rearranged(processor, name, placeholder(header.tensors[name].shape)).shape
        if found != wanted.get(names[name], found):
            raise ModelError(
                f"{header.path}: tensor {name!r} does not fit the metadata",
                found=f"{list(found)} where {type(module).__name__} has {list(wanted[names[name]])}",
            )


# -- which tensor is which parameter ---------------------------------------------------------------------


def _names(header: Header, module: Any, config: Any) -> tuple[Any, dict[str, str]]:
    """transformers' way of rearranging this family's tensors, and tensor -> parameter."""
    from transformers import modeling_gguf_pytorch_utils as theirs

    family = theirs.TENSOR_PROCESSORS.get(header.metadata["general.architecture"], theirs.TensorProcessor)
    processor = family(config={k: v for k, v in config.to_dict().items() if v is not None})
    with explained(header.path), quiet():
        return processor, theirs.get_gguf_hf_weights_map(module, processor)


def _quantized(header: Header, module: Any, config: Any) -> tuple[dict[str, Blocks], list[str]]:
    """The blocks of each parameter, under every name that it bears; and what the user should know."""
    kinds = [t for t in header.tensors.values() if t.type not in PLAIN]
    processor, names = _names(header, module, config)
    aliases = _aliases(module)
    found: dict[str, Blocks] = {}
    held: list[str] = []
    left: dict[str, list[str]] = {}
    for tensor in kinds:
        blocks = _blocks(header, tensor, processor, names, aliases)
        if isinstance(blocks, str):
            left.setdefault(blocks, []).append(tensor.name)
        else:
            found.update(dict.fromkeys(aliases[names[tensor.name]], blocks))
            held.append(tensor.type)
    notes = [f"{len(held)} weights enter as the file's {' and '.join(sorted(set(held)))} blocks"] if held else []
    notes += [f"held dequantised, for {why}: {some(tensors)}" for why, tensors in left.items()]
    return found, notes


def _blocks(
    header: Header, tensor: Tensor, processor: Any, names: Mapping[str, str], aliases: Mapping[str, Any]
) -> Blocks | str:
    if names.get(tensor.name) not in aliases:
        return "they are no parameters of their own"
    return blocks_of(header, tensor, partial(_rearranged, processor, tensor.name))


def _rearranged(processor: Any, name: str, array: np.ndarray) -> np.ndarray:
    """What transformers does to a tensor of that name, which is made for the dequantised one."""
    return np.asarray(processor.process(array, name).weights)


def _aliases(module: Any) -> dict[str, tuple[str, ...]]:
    """parameter -> all names of the same storage: a tied head has two."""
    named = [(n, p.data_ptr()) for n, p in module.named_parameters(remove_duplicate=False)]
    by_place: dict[int, list[str]] = {}
    for name, place in named:
        by_place.setdefault(place, []).append(name)
    return {name: tuple(by_place[place]) for name, place in named}


# -- transformers' own reading -----------------------------------------------------------------------------


@contextmanager
def _read_once() -> Iterator[None]:
    """Inside, transformers parses the file and makes its table of names once, and draws no progress bar."""
    from transformers import modeling_gguf_pytorch_utils as theirs

    gguf: Any = import_module("gguf")
    before = gguf.GGUFReader, gguf.get_tensor_name_map, theirs.tqdm
    gguf.GGUFReader, gguf.get_tensor_name_map = cache(gguf.GGUFReader), cache(gguf.get_tensor_name_map)
    theirs.tqdm = lambda items, **options: items
    try:
        yield
    finally:
        gguf.GGUFReader, gguf.get_tensor_name_map, theirs.tqdm = before


def _tokenizer(folder: str, file: str) -> Any:
    from transformers import AutoTokenizer

    with explained(Path(file)), quiet():
        return AutoTokenizer.from_pretrained(folder, gguf_file=file)


def _written_tokenizer(tokenizer: Any) -> dict[str, bytes]:
    """What `save_pretrained` would write of it, without the paths of this machine."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return {}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "padding_side": tokenizer.padding_side,
              "clean_up_tokenization_spaces": False, **tokenizer.special_tokens_map}  # fmt: skip
    files = {"tokenizer.json": backend.to_str(), "tokenizer_config.json": json.dumps(config, default=str, indent=2)}
    if isinstance(tokenizer.chat_template, str):
        files["chat_template.jinja"] = tokenizer.chat_template
    return {name: text.encode() for name, text in files.items()}
