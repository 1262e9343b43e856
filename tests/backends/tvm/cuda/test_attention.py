"""Attention for GPUs means what the op says, by simulation: the cases of the kernels for CPUs."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..kit import check
from ..test_attention import CASES
from .device import Simulating
from .simulate import BACKWARD, MIXED, needs_compiler

pytestmark = [needs_compiler, pytest.mark.slow]


@pytest.mark.parametrize("order", [BACKWARD, MIXED])
def test_every_input_and_attribute(tmp_path: Path, order: int) -> None:
    backend = Simulating(order=order)
    check(CASES, tmp_path, atol=3e-6, rtol=3e-6, backend=backend, target=backend.target)
