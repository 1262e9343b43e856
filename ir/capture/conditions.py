"""What tracing took for granted about sizes: which way each Python condition on them went, and where it stands.

Only conditions that Python evaluates count, in the model or in torch.nn. What torch asks itself while it works out an
op's shape and layout changes nothing in what the op means.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

from ..diagnostics import CaptureError, Where
from ..dims import Range
from .places import model_frame
from .sizes import Sizes

_MANY = 600  # sizes of one name that are all tried; of a longer range, the powers of two and their neighbours too
# Where a condition passes through on its way from the line that asks it.
_ASKED = re.compile(r"torch/(__init__|fx/experimental/[^/]+|utils/_[^/]+)\.py$")
_SIGNS = {"Equality": "==", "Unequality": "!=", "LessThan": "<=", "StrictLessThan": "<", "GreaterThan": ">=",
          "StrictGreaterThan": ">"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Condition:
    """A relation of torch's between sizes that held at the sizes traced with."""

    expr: Any
    where: Where | None


@contextlib.contextmanager
def noticed() -> Iterator[list[Condition]]:
    """Collects the conditions of what is traced inside: torch keeps their lines only until its tracing ends."""
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    found: list[Condition] = []
    forget = ShapeEnv.cleanup

    def keep(env: Any) -> None:
        for told in (a for asserts in env.deferred_runtime_asserts.values() for a in asserts):
            if _in_python(told.stack.summary()):
                file, line = model_frame("".join(told.stack.format()))
                found.append(Condition(env.replace(told.expr), Where(file, line) if line else None))
        forget(env)

    ShapeEnv.cleanup = keep  # type: ignore[method-assign, assignment]
    try:
        yield found
    finally:
        ShapeEnv.cleanup = forget  # type: ignore[method-assign]


def _in_python(frames: Any) -> bool:
    """Whether it was asked by a line of a model or of torch.nn, and not while an op's shapes were worked out."""
    import torch

    root = os.path.dirname(torch.__file__) + os.sep
    asking = [f.filename.removeprefix(root) for f in frames if not _ASKED.search(f.filename)]
    return bool(asking) and (os.path.isabs(asking[-1]) or asking[-1].startswith("nn" + os.sep))


def check(conditions: list[Condition], sizes: Sizes) -> None:
    """Raises: CaptureError for a condition that some of the allowed sizes, from 2 on, do not answer as tracing did."""
    for condition in conditions:
        names = {s: sizes.name(str(s)) for s in getattr(condition.expr, "free_symbols", ())}
        known = {s: name for s, name in names.items() if name is not None}
        if not known or len(known) < len(names):
            continue  # of sizes that hang on values: what reads them is told of elsewhere
        spans = [_tried(sizes.ranges.get(name, Range(1, None)), len(known)) for name in known.values()]
        for chosen in product(*spans):
            if not _holds(condition.expr, dict(zip(known, chosen, strict=True))):
                at = ", ".join(f"{n}={v}" for n, v in sorted(zip(known.values(), chosen, strict=True)))
                raise CaptureError(
                    "a Python condition goes one way at some sizes and another way at others", where=condition.where,
                    found=f"traced where {_spoken(condition.expr, sizes)}, which does not hold at {at}",
                    hint="write one way that serves all sizes, allow only sizes that go one way, or fix the size in "
                    "the dims that a factory returns",
                )  # fmt: skip


def _holds(expr: Any, sizes: dict[Any, int]) -> bool:
    try:
        return bool(expr.subs(sizes) != False)  # noqa: E712  # sympy's own; what it cannot tell is not held against it
    except ZeroDivisionError:
        return False


def _tried(span: Range, names: int) -> list[int]:
    """Sizes of a range that tell: all of a short one, or where several vary together, the least ones and the ends."""
    low, high = max(span.low, 2), span.high if span.high is not None else 1 << 20
    few = {1: _MANY, 2: 24}.get(names, 8)
    powers = {(1 << k) + d for k in range(1, 21) for d in (-1, 0, 1)} if names == 1 else set()
    return sorted(n for n in {*range(low, low + few), *powers, high} if low <= n <= high)


def _spoken(expr: Any, sizes: Sizes) -> str:
    """`seq%2 != 0`, in the user's names."""
    sign = _SIGNS.get(type(expr).__name__)
    try:
        return f"{sizes.dim(expr.lhs)} {sign} {sizes.dim(expr.rhs)}" if sign else str(expr)
    except CaptureError:
        return str(expr)
