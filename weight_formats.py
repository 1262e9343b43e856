"""What `--weights` asks for, as a precision policy; and how the weights of a plan are held, for the manifest."""

from __future__ import annotations

from typing import Any

from .compiler.plan import Plan
from .compiler.task import Precision
from .ir import dims
from .ir.diagnostics import CompileError
from .ir.graph import Program
from .work import PRECISIONS

BLOCKS = ("int8", "int4", "stored")
WEIGHTS = ("fp32", "bf16", *BLOCKS)


def policy(precision: str, weights: str | None) -> Precision:
    """The element types by role. weights: a format of WEIGHTS; None holds them in the type of the computation.

    Raises: CompileError on a word that names none.
    """
    compute = PRECISIONS[precision]
    if weights is None:
        return Precision(weights=compute, compute=compute)
    if weights not in WEIGHTS:
        raise CompileError(f"there is no weight format {weights!r}", hint=f"one of {', '.join(WEIGHTS)}")
    if weights in BLOCKS:
        return Precision(weights=compute, compute=compute, blocks=weights)
    return Precision(weights=PRECISIONS[weights], compute=compute)


def weights_held(
    plan: Plan, captured: Program, precision: str, weights: str | None, buffers: frozenset[str] = frozenset()
) -> dict[str, Any]:
    """How a plan's weights are held: the format, the bytes of all of them, and the bits that a parameter takes.

    buffers: weights of the captured program that are no parameters.
    """
    from .backends.weight_out import stored_weights
    from .profiler.parameters import parameters

    stored = stored_weights(plan.program).values()
    size_bytes = sum(dims.evaluate(w.type.bytes, {}) for w in stored)
    count = sum(p.elements for p in parameters(captured, captured.entries[0], buffers, None))
    bits = round(8 * size_bytes / count, 3) if count else 0.0
    return {"format": weights or precision, "bytes": size_bytes, "parameters": count, "bits_per_weight": bits}
