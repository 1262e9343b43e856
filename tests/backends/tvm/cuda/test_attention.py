"""Attention for GPUs means what the op says, by simulation: the cases of the kernels for CPUs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tundish.backends.tvm.cuda.build import emitted
from tundish.backends.tvm.cuda.kernels.attention_few import attention_few, attention_join
from tundish.backends.tvm.cuda.kernels.attention_mma import attention_mma
from tundish.compiler.hardware.gpus import GPUS
from tundish.compiler.plan import Guard, Plan, Variant
from tundish.ir.evaluate import evaluate

from ..kit import Case, check, one, opened, program_of
from ..test_attention import CASES, given, symbols
from .device import Simulating
from .simulate import BACKWARD, MIXED, needs_compiler

pytestmark = [needs_compiler, pytest.mark.slow]


@pytest.mark.parametrize("order", [BACKWARD, MIXED])
def test_every_input_and_attribute(tmp_path: Path, order: int) -> None:
    backend = Simulating(order=order)
    check(CASES, tmp_path, atol=3e-6, rtol=3e-6, backend=backend, target=backend.target)


KINDS = {"bf16": ml_dtypes.bfloat16, "fp16": np.float16}
CAUSAL = {"causal": True}
IN_16_BITS: dict[str, tuple[tuple[tuple[int, int], ...], dict[str, Any], dict[str, Any]]] = {
    "plain": (((64, 64), (1, 1), (65, 130), (7, 63)), {}, {}),
    "causal": (((70, 70), (1, 129), (64, 128)), {}, CAUSAL),
    "window": (((100, 200),), {"d": 32, "e": 48}, {"window": 70, **CAUSAL}),
    "keys": (((20, 80), (66, 66)), {"mask": "keys"}, {}),
    "full mask": (((20, 70),), {"mask": "bst", "bias": "bhst"}, {"window": 30, **CAUSAL}),
    "sinks": (((66, 70),), {"sinks": True, "d": 80, "e": 64}, {"softcap": 3.0}),
    "position": (((5, 140),), {"position": (0, 133), "h": 6, "g": 2}, CAUSAL),
    "one head for all": (((66, 66),), {"h": 3, "g": 1, "b": 1, "d": 128, "e": 112}, CAUSAL),
}


def rounded(arrays: list[np.ndarray | None], kind: Any) -> list[np.ndarray | None]:
    """Floats in 16 bits."""
    return [a if a is None or a.dtype.kind != "f" else a.astype(kind) for a in arrays]


def narrow(what: str, kind: Any) -> Case:
    lengths, others, attrs = IN_16_BITS[what]
    shapes = symbols(others.get("mask", ""), others.get("bias", ""))
    made, *more = (rounded(given(s, t, **others), kind) for s, t in lengths)
    case = one("attention", *made, shapes=shapes, scale=0.2, **attrs)
    return case.also(*({f"i{i}": a for i, a in enumerate(arrays) if a is not None} for arrays in more))


@pytest.mark.parametrize("order", [BACKWARD, MIXED])
@pytest.mark.parametrize("kind", KINDS)
def test_in_16_bits_by_tensor_cores(tmp_path: Path, kind: str, order: int) -> None:
    """Held against the same inputs in f32: what is rounded on the way are the powers, and the answers."""
    cases, backend = {w: narrow(w, KINDS[kind]) for w in IN_16_BITS}, Simulating(order=order)
    wide = {w: replace(narrow(w, np.float32), inputs={}) for w in IN_16_BITS}
    program, runner = program_of(wide), opened(cases, tmp_path, backend=backend, target=backend.target)
    step = 2.0**-8 if kind == "bf16" else 2.0**-11
    for name, case in cases.items():
        for inputs in (case.inputs, *case.others):
            full = {n: a if a.dtype.kind in "ib" else a.astype(np.float32) for n, a in inputs.items()}
            (want,), (got,) = evaluate(program, full, name).values(), runner.run(name, inputs).values()
            sizes = [a.shape for a in inputs.values()]
            np.testing.assert_allclose(
                got.astype(np.float32), want, atol=4 * step, rtol=2 * step, err_msg=f"{name} {sizes}"
            )  # fmt: skip


def test_numbers_of_16_bits_go_to_tensor_cores() -> None:
    cases = {w: narrow(w, ml_dtypes.bfloat16) for w in IN_16_BITS}
    plan = Plan(program_of(cases), {n: (Variant(Guard(), n),) for n in cases}, "tvm", "cuda-sm80")
    kernels, _ = emitted(plan, GPUS["sm80"])
    made = {make for make, _ in kernels.made.values() if "attention" in make.__name__}
    assert made == {attention_mma, attention_few, attention_join}
