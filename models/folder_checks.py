"""What the files of a model's folder say, held against one another before anything is made of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import ModelError

MOST_JSON_BYTES = 64 << 20
MOST_THINGS = 100_000  # labels, layers, experts: what lists are made of
SPARE_MODULES = 2000
# Keys whose number says how many of something are made, in all families' spellings.
_COUNTS = re.compile(r"num_labels|layer|block|depth|expert|codebook|stage|repeat")
_SIZES = re.compile(r"size|_dim|dim_|drop|eps|prob|rate|theta")


def read_json(file: Path) -> Any:
    """Raises: ModelError on a file that is not JSON, or larger than a config can be."""
    try:
        size = file.stat().st_size
        if size > MOST_JSON_BYTES:
            raise ModelError(f"{file} is too large to be a model's", found=f"{size:,} bytes")
        return json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"cannot open {file}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{file} is not JSON: {str(error)[:200]}") from error


def read_header(file: Path) -> dict[str, Any]:
    """The header of a safetensors file: name -> {"dtype", "shape", "data_offsets"}. Raises: ModelError.

    Source: the format's description, https://github.com/huggingface/safetensors#format.
    """
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            size = file.stat().st_size
            if not 2 <= length <= min(100_000_000, size - 8):
                raise ValueError("the header's length is wrong")
            header = json.loads(stream.read(length), object_pairs_hook=_once)
            header.pop("__metadata__", None)
            _check_places(header, size - 8 - length)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"{file} is not a safetensors file, or a broken one", found=str(error)[:200],
                         hint="fetch it again") from error  # fmt: skip
    return dict(header)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("its header names something twice")
    return found


def _check_places(header: Mapping[str, Any], data_bytes: int) -> None:
    """Raises: ValueError where tensors leave the file, lie over one another or leave gaps; TypeError, KeyError."""
    at = 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        begin, end = entry["data_offsets"]
        sizes = [begin, end, *entry["shape"]]
        if not isinstance(entry["dtype"], str) or any(type(n) is not int or n < 0 for n in sizes):
            raise ValueError(f"the entry of {name!r} is broken")
        if begin != at or end < begin:
            raise ValueError(f"{name!r} lies at bytes {begin}..{end}, where {at} is next")
        at = end
    if at != data_bytes:
        raise ValueError(f"its tensors take {at} bytes, and it has {data_bytes}")


def check_numbers(config: Any, origin: Path, key: str = "") -> None:
    """Raises: ModelError on a number in a config that no model has, and that would fill the memory with lists."""
    if isinstance(config, Mapping):
        for name, value in config.items():
            check_numbers(value, origin, str(name))
    elif isinstance(config, list):
        for value in config:
            check_numbers(value, origin, key)
    elif isinstance(config, (int, float)) and abs(config) > _most(key):
        raise ModelError(f"{origin}: {key} is {config}, which no model has", hint="is the file damaged?")


def _most(key: str) -> float:
    return MOST_THINGS if _COUNTS.search(key) and not _SIZES.search(key) else float("inf")


@contextmanager
def few_modules(most: int, origin: Path) -> Iterator[None]:
    """Inside, making more torch modules than `most` raises a ModelError: a config may ask for any number of layers."""
    from torch import nn

    made, before = 0, nn.Module.__init__

    def counted(module: Any, *args: Any, **kwargs: Any) -> None:
        nonlocal made
        made += 1
        if made > most:
            raise ModelError(f"{origin} has too few tensors for its config", found=f"it asks for over {most:,} modules")
        before(module, *args, **kwargs)

    nn.Module.__init__ = counted  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        nn.Module.__init__ = before  # type: ignore[method-assign]
