"""What tracing took for granted about sizes: which way each Python condition on them went, and where it stands.

Only conditions that Python evaluates count, in the model or in torch.nn. What torch asks itself while it works out an
op's shape and layout changes nothing in what the op means.
"""

from __future__ import annotations

import contextlib
import dis
import os
import re
import sys
import traceback
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
_BRANCH = re.compile(r"(POP_)?JUMP|TO_BOOL|UNARY_NOT|COMPARE_OP|CONTAINS_OP")
_SIGNS = {"Equality": "==", "Unequality": "!=", "LessThan": "<=", "StrictLessThan": "<", "GreaterThan": ">=",
          "StrictGreaterThan": ">"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Condition:
    """A relation of torch's between sizes that held at the sizes traced with.

    from_one: also at sizes of 1, which torch takes to be like no other and so never asks about.
    """

    expr: Any
    where: Where | None
    from_one: bool = False


@contextlib.contextmanager
def noticed() -> Iterator[list[Condition]]:
    """Collects the conditions of what is traced inside: torch keeps their lines only until its tracing ends."""
    import torch
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    found: list[Condition] = []
    asked: dict[tuple[Any, str, int], tuple[Any, Any, Where | None]] = {}
    forget, answer = ShapeEnv.cleanup, torch.SymBool.__bool__

    def keep(env: Any) -> None:
        for told in (a for asserts in env.deferred_runtime_asserts.values() for a in asserts):
            if _in_python(told.stack.summary()):
                found.append(Condition(env.replace(told.expr), _place("".join(told.stack.format()))))
        forget(env)

    def ask(condition: Any) -> bool:
        said, frame, expr = answer(condition), sys._getframe(1), condition.node.expr
        key = (expr, frame.f_code.co_filename, frame.f_lineno)
        if key not in asked and getattr(expr, "free_symbols", None) and _of_a_module(key[1]) and _decides(frame):
            held = expr if said else ~expr
            asked[key] = (condition.node.shape_env, held, _place("".join(traceback.format_stack(frame))))
        return said

    ShapeEnv.cleanup, torch.SymBool.__bool__ = keep, ask  # type: ignore[method-assign, assignment]
    try:
        yield found
    finally:
        ShapeEnv.cleanup, torch.SymBool.__bool__ = forget, answer  # type: ignore[method-assign]
        found += [Condition(env.replace(held), where, from_one=True) for env, held, where in asked.values()]


def _place(trace: str) -> Where | None:
    file, line = model_frame(trace)
    return Where(file, line) if line else None


def _in_python(frames: Any) -> bool:
    """Whether it was asked by a line of a model or of torch.nn, and not while an op's shapes were worked out."""
    asking = [f.filename for f in frames if not _ASKED.search(f.filename) and f.filename != __file__]
    return bool(asking) and _of_a_module(asking[-1])


def _decides(frame: Any) -> bool:
    """Whether a frame stands at a branch or a comparison of its own, and not within a call of torch's."""
    return bool(_BRANCH.match(dis.opname[frame.f_code.co_code[frame.f_lasti]]))


def _of_a_module(file: str) -> bool:
    import torch

    root = os.path.dirname(torch.__file__) + os.sep
    return os.path.isabs(file) and (not file.startswith(root) or file.startswith(root + "nn" + os.sep))


def check(conditions: list[Condition], sizes: Sizes) -> dict[str, Range]:
    """The ranges of sizes for which 1, or 0 where that is allowed, has to be left out: a condition answers otherwise.

    Raises: CaptureError for a condition that some of the allowed sizes, from 2 on, do not answer as tracing did.
    """
    narrowed: dict[str, Range] = {}
    for condition in conditions:
        names = {s: sizes.name(str(s)) for s in getattr(condition.expr, "free_symbols", ())}
        known = {s: name for s, name in names.items() if name is not None}
        if not known or len(known) < len(names):
            continue  # of sizes that hang on values: what reads them is told of elsewhere
        spans = {s: _tried(sizes.ranges.get(name, Range()), len(known)) for s, name in known.items()}
        for chosen in product(*spans.values()):
            if not _holds(condition.expr, dict(zip(known, chosen, strict=True))):
                raise _refusal(condition, dict(zip(known.values(), chosen, strict=True)), sizes)
        for symbol, name in known.items() if condition.from_one else ():
            span = narrowed.get(name, sizes.ranges.get(name, Range()))
            for small in (n for n in (1, 0) if n in span):
                at_small = product(*({**spans, symbol: [small]}).values())
                if all(_holds(condition.expr, dict(zip(known, c, strict=True))) for c in at_small):
                    continue
                if span.high is not None and span.high <= small:
                    raise _refusal(condition, {name: small}, sizes)
                narrowed[name] = Range(small + 1, span.high)
                break
    return narrowed


def _refusal(condition: Condition, at: dict[str, int], sizes: Sizes) -> CaptureError:
    return CaptureError(
        "a Python condition goes one way at some sizes and another way at others", where=condition.where,
        found=f"traced where {_spoken(condition.expr, sizes)}, which does not hold at "
        + ", ".join(f"{name}={size}" for name, size in sorted(at.items())),
        hint="write one way that serves all sizes, allow only sizes that go one way, or fix the size in the dims that "
        "a factory returns",
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
