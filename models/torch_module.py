"""A plain torch module as a Source, from Python or from `FILE.py:FACTORY`."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .errors import ModelError
from .source import DTYPES, InputSpec, Source, describe

Dims = Sequence["int | str"]
_SHAPE = "a factory returns (module, example inputs) or (module, example inputs, dims)"


def module_source(
    module: Any,
    examples: Any,
    dims: Mapping[str, Dims] | None = None,
    *,
    name: str = "",
) -> Source:
    """Describes a torch module by example inputs.

    examples: a tensor, a tuple of tensors in forward's order, or tensors by forward's names.
    dims:     which sizes vary, by input: `{"x": ("batch", "seq", 64)}`. By default axis 0 is `batch`, and axis 1 is
              `seq` in integer and bool tensors and in those of rank 3; a second length gets its own name. Both
              axes of a square are the length that they are as long as (a mask of which position sees which).
    Raises: ModelError.
    """
    _check_module(module)
    given = _named(module, examples)
    by_position = not isinstance(examples, Mapping) and _has_star(module)
    module = module.eval()
    wanted = dict(dims or {})
    unknown = sorted(set(wanted) - set(given))
    if unknown:
        raise ModelError(f"dims are given for unknown inputs {', '.join(unknown)}",
                         hint=f"the inputs are {', '.join(given)}")  # fmt: skip
    lengths: dict[int, str] = {}
    rows = next((a.shape[0] for a in given.values() if a.ndim), 0)
    specs = tuple(_spec(n, a, wanted.get(n), lengths, rows) for n, a in given.items())
    source = Source(
        name=name or type(module).__name__, kind="torch", module=module, inputs=specs, by_position=by_position,
    )  # fmt: skip
    return describe(source, given)


def load_factory(reference: str) -> Source:
    """Runs FACTORY of FILE.py, the user's own code, and describes what it returns. Raises: ModelError."""
    file, _, function = reference.rpartition(":")
    factory = _import(Path(file), function)
    try:
        made = factory()
    except Exception as error:  # the user's own code may raise anything
        raise ModelError(f"{reference} raised {type(error).__name__}: {error}") from error
    if not isinstance(made, tuple) or len(made) not in (2, 3):
        raise ModelError(f"{reference} returned {type(made).__name__}", hint=_SHAPE)
    return module_source(*made, name=function)


def _import(path: Path, function: str) -> Callable[[], Any]:
    if not path.is_file():
        raise ModelError(f"there is no file {path}")
    spec = importlib.util.spec_from_file_location(f"tundish_user_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ModelError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the user's own code may raise anything
        raise ModelError(f"{path} cannot be imported: {type(error).__name__}: {error}") from error
    found = getattr(module, function, None)
    if not callable(found):
        names = [n for n, v in vars(module).items() if callable(v) and getattr(v, "__module__", "") == module.__name__]
        raise ModelError(f"{path} has no function {function!r}", hint=f"it has: {', '.join(names) or 'none'}")
    return found


def _check_module(module: Any) -> None:
    import torch

    if not isinstance(module, torch.nn.Module):
        raise ModelError(f"not a torch module: {type(module).__name__}", hint=_SHAPE)


def _parameters(module: Any) -> list[inspect.Parameter]:
    return list(inspect.signature(module.forward).parameters.values())


def _has_star(module: Any) -> bool:
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.POSITIONAL_ONLY)
    return any(p.kind in kinds for p in _parameters(module))


def _named(module: Any, examples: Any) -> dict[str, np.ndarray]:
    """Example arrays by name, in forward's order."""
    import torch

    if isinstance(examples, Mapping):
        pairs = dict(examples)
    else:
        values = [examples] if isinstance(examples, torch.Tensor) else list(examples)
        kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.POSITIONAL_ONLY)
        names = [p.name for p in _parameters(module) if p.kind in kinds]
        names += [f"input_{i}" for i in range(len(names), len(values))] if _has_star(module) else []
        if len(values) > len(names):
            raise ModelError(f"forward takes {len(names)} inputs, {len(values)} examples are given")
        pairs = dict(zip(names, values, strict=False))
    if not pairs:
        raise ModelError("no example inputs are given", hint=_SHAPE)
    optional = {p.name for p in _parameters(module) if p.default is None}
    return {n: _array(n, v) for n, v in pairs.items() if v is not None or n not in optional}


def _array(name: str, value: Any) -> np.ndarray:
    import torch

    if not isinstance(value, torch.Tensor):
        raise ModelError(f"the example of {name!r} is a {type(value).__name__}, not a tensor",
                         hint="bind it in forward's caller, or make it a buffer")  # fmt: skip
    value = value.detach().cpu().contiguous()
    array = value.view(torch.int16).numpy().view(DTYPES["bf16"]) if value.dtype == torch.bfloat16 else value.numpy()
    if array.dtype not in DTYPES.values():
        raise ModelError(f"the example of {name!r} is {array.dtype}", hint=f"one of {', '.join(DTYPES)}")
    return array


def _spec(name: str, array: np.ndarray, dims: Dims | None, lengths: dict[int, str], rows: int) -> InputSpec:
    if dims is not None and len(dims) != array.ndim:
        raise ModelError(f"dims of {name!r} are {len(dims)}, its example has {array.ndim} axes")
    chosen = tuple(dims) if dims is not None else _default_dims(name, array, lengths, rows)
    for size, dim in zip(array.shape, chosen, strict=True):
        if isinstance(dim, int) and dim != size:
            raise ModelError(f"dims of {name!r} say {dim} where its example has {size}")
    dtype = next(short for short, kind in DTYPES.items() if kind == array.dtype)
    if _is_mask(name, array, chosen):
        inverted = "padding" in name or (array.size > 0 and not array.any())
        return InputSpec(name, dtype, chosen, role="mask", inverted=inverted)
    if array.dtype.kind == "b":  # never an index, so both values may stand anywhere
        return InputSpec(name, dtype, chosen, role="data", low=0, high=1)
    if array.dtype.kind in "biu":  # never beyond what the example has: it may be an index
        low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
        return InputSpec(name, dtype, chosen, role="data", low=low, high=high)
    return InputSpec(name, dtype, chosen, role="data")


def _is_mask(name: str, array: np.ndarray, dims: tuple[int | str, ...]) -> bool:
    """Whether an input [batch, length] says which tokens are real: by its name, or because its example is constant."""
    if array.dtype.kind not in "biu" or len(dims) != 2 or not all(isinstance(d, str) for d in dims):
        return False
    if dims[0] == dims[1]:  # which position sees which
        return False
    constant = array.size > 0 and int(array.min()) == int(array.max()) in (0, 1)
    return any(word in name for word in ("mask", "pad")) or (array.dtype.kind == "b" and constant)


def _default_dims(name: str, array: np.ndarray, lengths: dict[int, str], rows: int) -> tuple[int | str, ...]:
    dims: list[int | str] = list(array.shape)
    if array.ndim == 2 and array.shape[0] == array.shape[1] != rows and array.shape[0] in lengths:
        return (lengths[array.shape[0]],) * 2
    if array.ndim >= 1:
        dims[0] = "batch"
    if array.ndim >= 2 and (array.dtype.kind in "biu" or array.ndim == 3):
        size = array.shape[1]
        dims[1] = lengths.setdefault(size, "seq" if not lengths else f"{name}_seq")
    return tuple(dims)
