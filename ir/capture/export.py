"""torch.export on a module, with one symbol per named size, and what it says about those sizes afterwards."""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import re
import traceback
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..diagnostics import CaptureError, Where
from ..dims import Range
from .conditions import Condition, noticed
from .places import fixed_at, model_frame, model_text

Axes = Mapping[str, Mapping[int, str]]  # input -> axis -> name of its size, or a sum of such: `past+1`, `past+seq`


@dataclass(frozen=True, slots=True)
class Exported:
    """An exported module. `names` maps torch's symbols to ours or a sum; `ranges` is what tracing proved about them.

    conditions: what it took for granted about them beyond that.
    """

    program: Any
    names: dict[str, str]
    ranges: dict[str, Range]
    outputs: tuple[str, ...]
    conditions: list[Condition]


def export(module: Any, inputs: Mapping[str, Any], axes: Axes, *, outputs: tuple[str, ...] = (),
           constants: Mapping[str, Any] | None = None, by_position: bool = False) -> Exported:  # fmt: skip
    """Traces `module(**inputs, **constants)`; sizes named alike in `axes` are one symbol.

    by_position: the inputs are passed in order instead of by name.

    Raises: CaptureError with the user's line where the module cannot be traced, or where a named size was frozen.
    """
    import torch

    from .huggingface import hooked
    from .torch_layers import plain_layers
    from .torch_ops import library

    library()
    found: list[str] = []
    call = _by_position if by_position else _by_name
    wrapper = _wrapper(module, inputs, axes, lambda m, given: call(m, given, dict(constants or {})), outputs, found)
    dynamic = {n: dict.fromkeys(axes.get(n, {}), torch.export.Dim.AUTO) for n in inputs}
    with _quiet(), plain_layers(), hooked(module), torch.no_grad(), noticed() as conditions:
        try:
            traced = torch.export.export(
                wrapper, (), dict(inputs), dynamic_shapes=dynamic, strict=False,
                prefer_deferred_runtime_asserts_over_guards=True,
            )  # fmt: skip
            if _mutates(traced):
                traced = traced.run_decompositions({})
        except CaptureError:
            raise
        except Exception as error:  # torch raises many kinds; all mean "cannot be traced"
            raise _failure(error) from error
    names, ranges = _sizes(traced, inputs, axes)
    return Exported(traced, names, ranges, tuple(found), conditions)


def _by_name(module: Any, given: dict[str, Any], constants: dict[str, Any]) -> Any:
    return module(**given, **constants)


def _by_position(module: Any, given: dict[str, Any], constants: dict[str, Any]) -> Any:
    return module(*given.values(), **constants)


def _wrapper(module: Any, inputs: Any, axes: Axes, call: Any, outputs: Any, found: list[str]) -> Any:
    """A module whose forward takes exactly `inputs` by name and gives a tuple of tensors."""
    import torch

    first: dict[str, tuple[str, int]] = {}
    same = []
    for name in inputs:
        for axis, size in axes.get(name, {}).items():
            other = first.setdefault(size, (name, axis))
            if other != (name, axis):
                same.append(((name, axis), [other], 0))
    for size in first:
        if _is_sum(size):
            terms, more = _terms(size)
            same.append((first[size], [first[t] for t in terms], more))

    class Wrapper(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.m = module

    def forward(self: Any, **given: Any) -> Any:
        for (name, axis), terms, more in same:
            size = sum((given[n].shape[a] for n, a in terms), more)
            torch._check(given[name].shape[axis] == size)
            if len(terms) > 1:  # torch keeps such a size a symbol of its own and would not know the two to be equal
                shape = given[name].shape
                given[name] = given[name].view(*shape[:axis], size, *shape[axis + 1 :])
        named = dict(flatten(call(self.m, given)))
        chosen = {n: named[n] for n in outputs} if outputs else named
        found[:] = list(chosen)
        return tuple(chosen.values())

    parameter = inspect.Parameter
    forward.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [parameter(n, parameter.POSITIONAL_OR_KEYWORD) for n in ("self", *inputs)]
    )
    Wrapper.forward = forward  # type: ignore[method-assign]
    return Wrapper().eval()


def _is_sum(size: str) -> bool:
    return "+" in size


def _terms(size: str) -> tuple[list[str], int]:
    """The names in a sum, and the number that is added to them."""
    parts = size.split("+")
    return [p for p in parts if not p.isdigit()], sum(int(p) for p in parts if p.isdigit())


def flatten(result: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Name and tensor of everything in a module's result: dict keys, else `output` or `output_0`, `output_1`."""
    import torch

    if isinstance(result, torch.Tensor):
        yield name or "output", result
    elif isinstance(result, Mapping):
        for key, value in result.items():
            yield from flatten(value, f"{name}_{key}" if name else str(key))
    elif isinstance(result, (tuple, list)):
        for i, value in enumerate(result):
            yield from flatten(value, f"{name or 'output'}_{i}")


def _mutates(traced: Any) -> bool:
    """Whether an op writes into its input, so that the graph must be made functional first."""
    return any(
        n.op == "call_function" and getattr(getattr(n.target, "_schema", None), "is_mutable", False)
        for n in traced.graph.nodes
    )


def _sizes(traced: Any, inputs: Any, axes: Axes) -> tuple[dict[str, str], dict[str, Range]]:
    import torch

    tensors = {n.name: n.meta.get("val") for n in traced.graph.nodes if n.op == "placeholder"}
    names: dict[str, str] = {}
    ranges: dict[str, Range] = {}
    frozen: list[str] = []
    for name in inputs:
        for axis, size in axes.get(name, {}).items():
            dim = tensors[name].shape[axis]
            expr = dim.node.expr if isinstance(dim, torch.SymInt) else dim
            if _is_sum(size):
                names |= {str(expr): size} if getattr(expr, "is_Symbol", False) else {}
                continue
            if not getattr(expr, "is_Symbol", False):
                frozen.append(f"{size} of {name!r} became {expr}")
                continue
            names[str(expr)] = size
            bound = traced.range_constraints.get(expr)
            high = None if bound is None or not bound.upper.is_Integer else int(bound.upper)
            if high is not None and int(bound.lower) == high:
                frozen.append(f"{size} of {name!r} became {high}")
            low = 1 if bound is None or int(bound.lower) <= 2 else int(bound.lower)
            ranges[size] = Range(low, high)
    if frozen:
        raise CaptureError(
            "the model fixes a size that should stay dynamic", where=fixed_at(traced), found="; ".join(frozen),
            hint="look for shapes read as Python ints, or pass that size as fixed",
        )  # fmt: skip
    return names, ranges


_SIZES = re.compile(r"is inconsistent!|not in VR\[")
# What torch says -> what it means, and what to do.
_REASONS = (
    (
        re.compile("data-dependent|Dynamic control flow|only one element tensors|one element tensors can be converted"),
        "a Python condition or size depends on the values of a tensor",
        "use torch.where, or decide from a shape or a setting",
    ),
    (
        _SIZES,
        "it says of a size what does not hold at every size",
        "fix that size in the dims that a factory returns",
    ),
    (re.compile(r"\.numpy\(\) is not supported"), "it leaves torch for numpy", "write it with torch's own functions"),
)


def _failure(error: Exception) -> CaptureError:
    """The user's line out of whatever torch.export raised."""
    text = "".join(traceback.format_exception(error)) + str(error)
    file, line = model_frame(text)
    where = Where(file, line) if line else None
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    message = next((line for line in lines if not line.endswith(":")), "")[:300]
    for said, problem, hint in _REASONS:
        if said.search(str(error)):
            found = message if said is _SIZES else model_text(text)
            return CaptureError(f"cannot be traced: {problem}", where=where, found=found, hint=hint)
    return CaptureError(
        f"cannot be traced: {type(error).__name__}: {message}", where=where,
        hint="run the module in eager torch on two rows first; what works only there looks at more than shapes",
    )  # fmt: skip


class _quiet:
    """torch and transformers warn while tracing about things that do not concern the user, and print what they had."""

    def __enter__(self) -> None:
        self._printed = contextlib.redirect_stderr(io.StringIO())
        self._printed.__enter__()
        self._warnings = warnings.catch_warnings()
        self._warnings.__enter__()
        warnings.simplefilter("ignore")
        self._loggers = [(logging.getLogger(n), logging.getLogger(n).level) for n in ("torch", "transformers")]
        for logger, _ in self._loggers:
            logger.setLevel(logging.ERROR)

    def __exit__(self, *details: Any) -> None:
        self._printed.__exit__(*details)
        self._warnings.__exit__(*details)
        for logger, level in self._loggers:
            logger.setLevel(level)
