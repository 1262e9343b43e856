"""A torch ExportedProgram as a Source: its graph as a module that takes inputs by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .errors import ModelError
from .pt2_file import load
from .source import DTYPES, InputSpec, Source, describe


def load_pt2(path: Path) -> Source:
    """Describes a `.pt2` file. Sizes that vary are `batch` on axis 0, `seq` on axis 1, else the input's own.

    Raises: ModelError.
    """
    program = load(path)
    names: dict[str, str] = {}
    tables = _tables(program)
    specs = tuple(_spec(name, value, names, tables) for name, value in _inputs(program, path))
    module = _module(program, [s.name for s in specs])
    ids = [s.high + 1 for s in specs if s.role == "ids"]
    spans = _spans(program, names)
    source = Source(
        name=path.stem, kind="pt2", module=module, inputs=specs, spans=spans, vocab_size=ids[0] if ids else None
    )
    free = dict.fromkeys(d for s in specs for d in s.dims if isinstance(d, str))
    sizes = {n: _probed(3 + i, *spans.get(n, (1, None))) for i, n in enumerate(free)}
    probe = {s.name: np.ones([d if isinstance(d, int) else sizes[d] for d in s.dims], DTYPES[s.dtype]) for s in specs}
    return describe(source, probe)


def _inputs(program: Any, path: Path) -> list[tuple[str, Any]]:
    """Name and fake tensor of each input. Raises: ModelError for one that is not a tensor."""
    found = {n.name: n.meta.get("val") for n in program.graph.nodes if n.op == "placeholder"}
    named = []
    for name in program.graph_signature.user_inputs:
        value = found.get(name) if isinstance(name, str) else None
        if value is None or not hasattr(value, "dtype"):
            raise ModelError(f"{path} takes an input that is no tensor", found=str(name),
                             hint="export it with that argument fixed")  # fmt: skip
        named.append((name, value))
    return named


def _spec(name: str, value: Any, names: dict[str, str], tables: Mapping[str, int]) -> InputSpec:
    kind = str(value.dtype).removeprefix("torch.")
    dtype = _DTYPES.get(kind)
    if dtype is None:
        raise ModelError(f"the input {name!r} is {kind}", hint=f"one of {', '.join(DTYPES)}")
    dims = tuple(d if isinstance(d, int) else _size(str(d), name, i, names) for i, d in enumerate(value.shape))
    if dtype[0] in "ib" and len(dims) == 2 and "mask" in name:
        return InputSpec(name, dtype, dims, role="mask", inverted="padding" in name)
    if name in tables:
        return InputSpec(name, dtype, dims, role="ids" if name == "input_ids" else "data", high=tables[name] - 1)
    return InputSpec(name, dtype, dims)


def _tables(program: Any) -> dict[str, int]:
    """Input -> rows of the smallest table that it looks up in."""
    found: dict[str, int] = {}
    for node in program.graph.nodes:
        if str(node.target) == "aten.embedding.default":
            table, ids = node.args[:2]
            rows = int(table.meta["val"].shape[0])
            found[ids.name] = min(rows, found.get(ids.name, rows))
    return found


def _spans(program: Any, names: Mapping[str, str]) -> dict[str, tuple[int, int | None]]:
    """Least and greatest of each size; torch writes 2 for a least size that nobody bounded."""
    bounds = {str(symbol): bound for symbol, bound in program.range_constraints.items()}
    found = {}
    for symbol, name in names.items():
        if symbol in bounds:
            low, high = bounds[symbol].lower, bounds[symbol].upper
            found[name] = (int(low) if int(low) > 2 else 1, int(high) if high.is_Integer else None)
    return found


def _probed(wanted: int, low: int, high: int | None) -> int:
    return max(low, wanted if high is None else min(wanted, high))


def _size(symbol: str, name: str, at: int, names: dict[str, str]) -> str:
    """The name of a size, one for each symbol of the program. Raises: ModelError for one worked out from another."""
    if not symbol.isidentifier():
        raise ModelError(f"axis {at} of the input {name!r} is tied to another size", found=f"it is {symbol}",
                         hint="export it with a size of its own, as Dim.AUTO is, or give FILE.py:FACTORY")  # fmt: skip
    if symbol not in names:
        wanted = {0: "batch", 1: "seq"}.get(at, f"{name}_{at}")
        names[symbol] = wanted if wanted not in names.values() else f"{name}_{at}"
    return names[symbol]


def _module(program: Any, names: list[str]) -> Any:
    import torch
    from torch.utils import _pytree

    inner = program.module(check_guards=False)

    class Exported(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.program = inner

        def forward(self, **given: Any) -> Any:
            args, kwargs = _pytree.tree_unflatten([given[n] for n in names], program.call_spec.in_spec)
            return self.program(*args, **kwargs)

        def train(self, mode: bool = True) -> Any:
            return self  # it was exported in one mode, and has no other

    return Exported()


_DTYPES = {
    "float64": "f64", "float32": "f32", "float16": "f16", "bfloat16": "bf16", "int64": "i64", "int32": "i32",
    "int16": "i16", "int8": "i8", "uint8": "u8", "bool": "bool",
}  # fmt: skip
