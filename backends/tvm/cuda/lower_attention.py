"""Attention on a GPU."""

from __future__ import annotations

from typing import Any

from ....ir.diagnostics import BuildError
from ..emit import Emit, View


def attend(to: Emit, attrs: Any, q: View, k: View, v: View, beside: dict[str, View], y: View) -> None:
    raise BuildError("no attention yet")
