"""Loading a transformers folder from disk: safetensors only, code from the folder never."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

from .errors import ModelError
from .folder_checks import SPARE_MODULES, check_numbers, few_modules, read_header, read_json
from .source import Source
from .transformers_source import transformers_source

# Task -> transformers' table of the class for each model type.
TASKS = {
    "causal-lm": "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "embeddings": "MODEL_MAPPING_NAMES",
    "image-classification": "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES",
    "masked-lm": "MODEL_FOR_MASKED_LM_MAPPING_NAMES",
    "next-sentence-prediction": "MODEL_FOR_NEXT_SENTENCE_PREDICTION_MAPPING_NAMES",
    "question-answering": "MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES",
    "seq2seq-lm": "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
    "sequence-classification": "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
    "token-classification": "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES",
}
# The words that transformers' pipelines use.
ALIASES = {
    "feature-extraction": "embeddings",
    "fill-mask": "masked-lm",
    "text-classification": "sequence-classification",
    "text-generation": "causal-lm",
    "text2text-generation": "seq2seq-lm",
}
DTYPES = {"f64": "float64", "f32": "float32", "f16": "float16", "bf16": "bfloat16"}
BYTES = {"f64": 8, "f32": 4, "f16": 2, "bf16": 2}
# How an original runs: as its own code is written, without kernels of its library's.
PLAIN = {"attn_implementation": "eager", "experts_implementation": "eager"}
_FLOATS = frozenset({"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"})
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
SPARE_NUMBERS = 1 << 24  # that a model may make itself (tables of positions) beyond those in its files
_TOKENIZER_FILES = (
    "added_tokens.json", "chat_template.jinja", "merges.txt", "special_tokens_map.json", "tokenizer.json",
    "tokenizer.model", "tokenizer_config.json", "vocab.json", "vocab.txt",
)  # fmt: skip


def load_folder(path: Path, task: str | None = None, *, dtype: str = "f32", shape_only: bool = False) -> Source:
    """The model of a folder with config.json and safetensors files.

    Its class is `config.architectures[0]`, or the task's. All floating weights are read as `dtype`; with `shape_only`
    no weight is read. Raises: ModelError.
    """
    config = read_config(path)
    cls = model_class(config, task)
    if shape_only:
        module = _on_meta(cls, path)
        notes: tuple[str, ...] = ("shapes only: no weights were read",)
    else:
        tensors = {name: entry for file in weight_files(path) for name, entry in read_header(file).items()}
        _check_asked(cls, path, len(tensors), sum(prod(entry["shape"]) for entry in tensors.values()))
        module, notes = from_files(cls, path, dtype), ()
    return transformers_source(
        module, name=path.resolve().name, kind="huggingface", notes=notes,
        pad_side=_pad_side(path), tokenizer_files=lambda: _read_tokenizer(path),
    )  # fmt: skip


def estimate_bytes(path: Path, dtype: str = "f32") -> int:
    """Bytes that the model's weights will take once loaded as `dtype`, from the files' headers alone.

    Raises: ModelError where there is no safetensors file, or a header is broken.
    """
    total = 0
    for file in weight_files(path):
        for entry in read_header(file).values():
            bits = BYTES[dtype] if entry["dtype"] in _FLOATS else None
            begin, end = entry["data_offsets"]
            total += end - begin if bits is None else prod(entry["shape"]) * bits
    return total


def read_config(path: Path) -> dict[str, Any]:
    """config.json of a folder, of a model type that transformers knows. Raises: ModelError."""
    file = path / "config.json"
    if not file.is_file():
        raise ModelError(
            f"{path} has no config.json", found=", ".join(sorted(p.name for p in path.iterdir())[:8]) or "nothing",
            hint="give the folder that transformers' save_pretrained wrote",
        )  # fmt: skip
    config = read_json(file)
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise ModelError(f"{file} names no model_type", hint="is this a transformers model?")
    _check_model_type(config)
    check_numbers(config, file)
    return config


def model_class(config: Mapping[str, Any], task: str | None = None) -> Any:
    """The transformers class of a config: `architectures[0]`, or the task's. Raises: ModelError."""
    import transformers
    from transformers.models.auto import modeling_auto

    model_type = config["model_type"]
    if task is not None:
        task = ALIASES.get(task, task)
        if task not in TASKS:
            raise ModelError(f"there is no task {task!r}", hint=f"tasks: {', '.join(sorted({*TASKS, *ALIASES}))}")
        name = getattr(modeling_auto, TASKS[task]).get(model_type)
        if name is None:
            raise ModelError(f"transformers has no {task} class for {model_type!r} models")
        name = name[0] if isinstance(name, (tuple, list)) else name
    else:
        names = config.get("architectures") or []
        if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
            raise ModelError("the config's architectures are no list of names", found=str(names)[:80])
        if not names:
            raise ModelError("the config names no architecture", hint="say which head you want: --task causal-lm")
        name = names[0]
    cls = getattr(transformers, name, None)
    if not (isinstance(cls, type) and issubclass(cls, transformers.PreTrainedModel)):
        near = difflib.get_close_matches(name, dir(transformers), n=3)
        raise ModelError(
            f"transformers {transformers.__version__} has no class {name!r}",
            hint=f"nearest: {', '.join(near)}" if near else "choose another head with --task",
        )
    return cls


def weight_files(path: Path) -> list[Path]:
    """The safetensors files of a folder. Raises: ModelError when there are none, or only pickled weights."""
    index = path / "model.safetensors.index.json"
    if index.is_file():
        table = read_json(index)
        places = table.get("weight_map") if isinstance(table, dict) else None
        if not isinstance(places, dict) or not all(isinstance(n, str) for n in places.values()):
            raise ModelError(f"{index} is no index of weight files", hint="fetch the folder again")
        names = sorted(set(places.values()))
        odd = [n[:80] for n in names if Path(n).name != n or len(n.encode(errors="replace")) > 255]
        if odd:
            raise ModelError(f"{index.name} names files that cannot lie in {path}", found=", ".join(odd))
        files = [path / n for n in names]
        lost = [f.name for f in files if not f.is_file()]
        if lost:
            raise ModelError(f"{path} lacks weight files", found=", ".join(lost), hint="fetch the folder again")
        return files
    single = path / "model.safetensors"
    if single.is_file():
        return [single]
    pickles = sorted(p.name for pattern in _PICKLES for p in path.glob(pattern))
    if pickles:
        raise ModelError(
            f"{path} holds its weights as pickles, which can run any code when opened", found=", ".join(pickles),
            hint="get the safetensors revision of the model, or where you trust the file save it again: "
            "AutoModel.from_pretrained(FOLDER).save_pretrained(NEW)",
        )  # fmt: skip
    raise ModelError(f"{path} has no model.safetensors", hint="give a folder with weights, or a zoo name")


def from_files(cls: Any, folder: Path, dtype: str, **options: Any) -> Any:
    """A module of that class with the weights of a folder, or of its `gguf_file`. Raises: ModelError."""
    import torch

    where = folder / options["gguf_file"] if "gguf_file" in options else folder
    kind = {} if "gguf_file" in options else {"use_safetensors": True}
    with explained(where), quiet():
        module, report = cls.from_pretrained(
            str(folder.resolve()), dtype=getattr(torch, DTYPES[dtype]), **PLAIN,
            local_files_only=True, output_loading_info=True, **kind, **options,
        )  # fmt: skip
    missing = sorted(report["missing_keys"])
    if missing:
        raise ModelError(
            f"{where} lacks weights of {cls.__name__}, which would be random", found=some(missing),
            hint="choose the head that was trained, with --task",
        )  # fmt: skip
    return module


def _check_asked(cls: Any, path: Path, tensors: int, numbers: int) -> None:
    """Raises: ModelError where the config asks for far more than lies in the files, before any of it is made."""
    with few_modules(16 * tensors + SPARE_MODULES, path):
        module = _on_meta(cls, path)
    check_size(module, numbers, path)


def check_size(module: Any, numbers: int, path: Path) -> None:
    """Raises: ModelError where a module on the meta device is far larger than the numbers in a file."""
    asked = sum(t.numel() for t in (*module.parameters(), *module.buffers()))
    if asked > 2 * numbers + SPARE_NUMBERS:
        raise ModelError(
            f"{path} lacks weights of {type(module).__name__}",
            found=f"its config asks for {asked:,} numbers, its tensors hold {numbers:,}",
        )


def _on_meta(cls: Any, path: Path) -> Any:
    import torch
    from transformers import AutoConfig

    with explained(path), quiet(), torch.device("meta"):
        config = AutoConfig.from_pretrained(str(path), local_files_only=True)
        return cls._from_config(config, **PLAIN)


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """transformers' own complaints as ours, with the path."""
    try:
        yield
    except (MemoryError, ModelError):
        raise
    except Exception as error:  # a config can make it fail anywhere
        first = str(error).strip().splitlines()
        raise ModelError(f"transformers cannot load {path}", found=first[0] if first else repr(error)) from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' progress bars and advice; ours is shown instead."""
    from transformers.utils import logging

    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _check_model_type(config: Mapping[str, Any]) -> None:
    from transformers import __version__
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    kind = config["model_type"]
    if kind in CONFIG_MAPPING_NAMES:
        return
    near = difflib.get_close_matches(str(kind), CONFIG_MAPPING_NAMES, n=3)
    hint = f"nearest: {', '.join(near)}" if near else "pass it as a torch module: FILE.py:FACTORY"
    if "auto_map" in config:
        hint = "its code lies in its folder, and that is never run; pass it as a torch module: FILE.py:FACTORY"
    raise ModelError(f"transformers {__version__} has no model type {kind!r}", hint=hint)


def _pad_side(path: Path) -> str:
    try:
        side = read_json(path / "tokenizer_config.json").get("padding_side", "right")
    except (ModelError, AttributeError):
        return "right"
    return side if side in ("left", "right") else "right"


def _read_tokenizer(path: Path) -> dict[str, bytes]:
    files = (path / name for name in _TOKENIZER_FILES)
    return {f.name: f.read_bytes() for f in files if f.is_file()}


def some(names: list[str]) -> str:
    """The first of many names, and how many more there are."""
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
