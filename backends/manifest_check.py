"""What a manifest must hold beyond its types, so that nothing in it fails later in another way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ..compiler.hardware import baselines, gpus
from ..compiler.plan import Variant
from ..ir import dims
from ..ir.diagnostics import LoadError
from ..ir.dtypes import DTYPES
from .options import OPTIONS, TARGETS, typed
from .registry import BACKENDS
from .signature import COMPARE, Signature, TensorSpec

if TYPE_CHECKING:
    from .manifest import EntryPoint, Manifest

_LONGEST_DIM = 1000


def problems(m: Manifest) -> Iterator[str]:
    """What is wrong with it; each check may rely on those before."""
    if m.backend not in BACKENDS:
        yield f"there is no backend {m.backend!r}"
    if m.target not in (*TARGETS, *baselines.NAMED, *gpus.NAMED):
        yield f"there is no target {m.target!r}"
    if not m.entries:
        yield "it has no entries"
    for name, entry in m.entries.items():
        yield from (f"entry {name!r}: {text}" for text in _entry(entry))
    yield from _options(m)
    dtype = m.info.get("dtype", "f32")
    if not (isinstance(dtype, str) and dtype in DTYPES and DTYPES[dtype].is_float):
        yield f"info.dtype: there is no float type {dtype!r}"


def _entry(entry: EntryPoint) -> Iterator[str]:
    for symbol, (low, high) in entry.symbols.items():
        if low < 0 or (high is not None and high < low):
            yield f"{symbol!r} has no sizes from {low} to {high}"
    signature = entry.signature
    if not signature.outputs:
        yield "it has no outputs"
    for names in ([s.name for s in signature.inputs], [s.name for s in signature.outputs]):
        yield from (f"{name!r} stands twice" for name, n in Counter(names).items() if n > 1)
    known = set(entry.symbols)
    for spec in (*signature.inputs, *signature.outputs):
        yield from (f"{spec.name!r}: {text}" for text in _spec(spec, known))
    yield from _aliases(signature)
    bound = _bound(entry)
    for spec in signature.inputs:
        unbound = {s for d in spec.type.shape for s in dims.symbols(d)} - bound
        if unbound:
            yield f"no input has {sorted(unbound)[0]!r} as one of its sizes"


def _aliases(signature: Signature) -> Iterator[str]:
    given, made = ({s.name: s for s in side} for side in (signature.inputs, signature.outputs))
    for output, name in signature.aliases.items():
        if output not in made or name not in given or made[output].shape != given[name].shape:
            yield f"output {output!r} cannot be the buffer of input {name!r}"
        elif made[output].dtype != given[name].dtype:
            yield f"output {output!r} and the input {name!r} that it is differ in type"
    if len(set(signature.aliases.values())) < len(signature.aliases):
        yield "two outputs are one buffer"


def _spec(spec: TensorSpec, known: set[str]) -> Iterator[str]:
    if spec.dtype not in DTYPES:
        yield f"there is no type {spec.dtype!r}"
    for dim in spec.shape:
        text = str(dim)
        try:
            parsed = dims.parse(text) if len(text) <= _LONGEST_DIM else -1
        except ValueError:
            parsed = -1
        if isinstance(parsed, int) and parsed < 0:
            yield f"{text[:40]!r} is not a size"
        unknown = dims.symbols(parsed) - known
        if unknown:
            yield f"there is no symbol {sorted(unknown)[0]!r}"


def _bound(entry: EntryPoint) -> set[str]:
    """The symbols that stand alone in an input's shape, which is where their sizes are read."""
    return {str(d) for s in entry.signature.inputs for d in s.type.shape if str(d) in entry.symbols}


def _options(m: Manifest) -> Iterator[str]:
    if m.backend not in OPTIONS:
        return
    try:
        options = typed(m.options, OPTIONS[m.backend])
    except LoadError as error:
        yield f"options: {error.found}"
        return
    if getattr(options, "target", m.target) != m.target:
        yield f"options: the target is not {m.target!r}"
    for file in options.files():
        if f"{m.backend}/{file}" not in m.files:
            yield f"options: {file!r} is not one of its files"
    variants = options.variants()
    if set(variants) != set(m.entries):
        yield "options: they are not about its entries"
    for name, entry in m.entries.items():
        yield from (f"options: entry {name!r}: {text}" for text in _variants(variants[name], _bound(entry)))


def _variants(variants: Sequence[Variant], bound: set[str]) -> Iterator[str]:
    if not variants:
        yield "there is no variant"
    for guard in (v.guard for v in variants):
        if guard.op not in COMPARE:
            yield f"there is no comparison {guard.op!r}"
        if guard.symbol and guard.symbol not in bound:
            yield f"no input has {guard.symbol!r} as one of its sizes"
