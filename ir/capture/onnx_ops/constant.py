"""ONNX ops that make tensors out of nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ...diagnostics import CaptureError
from ...dtypes import from_numpy
from ..onnx_terms import Term
from .table import enters

if TYPE_CHECKING:
    from ..from_onnx import Importer

TABLE: dict[str, Any] = {}


@enters(TABLE, "Constant")
def _(to: Importer) -> Term:
    if to.attr("value", None) is not None:
        return to.tensor(to.attr("value"))
    for name, kind in (("value_float", np.float32), ("value_floats", np.float32), ("value_int", np.int64),
                       ("value_ints", np.int64)):  # fmt: skip
        if to.attr(name, None) is not None:
            array = np.asarray(to.attr(name), kind)
            return Term(from_numpy(array.dtype), array.shape, content=array)
    raise CaptureError("Constant holds no tensor of numbers")
