"""Resizing of grids: along each axis a product with the matrix by which ONNX interpolates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ...diagnostics import CaptureError
from .table import axis, enters

if TYPE_CHECKING:
    from ...graph import Value
    from ..from_onnx import Importer

TABLE: dict[str, Any] = {}
_LARGEST = 1 << 22  # elements of one matrix
_SEPARABLE = frozenset(("nearest", "linear", "cubic"))


@enters(TABLE, "Resize")
def _(to: Importer) -> Value:
    """Every mode interpolates each axis by itself, so that it is a matrix for each axis that changes."""
    if to.attr("mode", "nearest") not in _SEPARABLE or to.attr("coordinate_transformation_mode", "") == (
        "tf_crop_and_resize"
    ):
        raise CaptureError("Resize of this mode is not read", found=str(to.attr("coordinate_transformation_mode", "")))
    if to.attr("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise CaptureError("Resize that keeps the aspect ratio is not read", hint="give sizes for each axis")
    x = to.value(0)
    rank = x.type.rank
    chosen = [axis(int(a), rank) for a in to.attr("axes", None) or range(rank)]
    sized = to.has(3) and to.term(3).shape != (0,)
    where = 3 if sized else 2 if to.opset > 10 else 1
    asked = to.dims(3, "sizes") if sized else tuple(to.content(where, "scales").ravel().tolist())
    if len(asked) != len(chosen):
        raise CaptureError(f"Resize: {len(asked)} sizes for {len(chosen)} axes")
    for at, wanted in zip(chosen, asked, strict=True):
        if wanted != (x.type.shape[at] if sized else 1):
            x = _along(to, x, at, wanted, sized)
    return x


def _along(to: Importer, x: Value, at: int, wanted: Any, sized: bool) -> Value:
    size = x.type.shape[at]
    if not isinstance(size, int) or not isinstance(wanted, (int, float)):
        raise CaptureError("Resize: the sizes of the axes that change must be known", found=f"{size} to {wanted}",
                           hint="fix the height and width when exporting")  # fmt: skip
    out = int(wanted) if sized else int(np.floor(size * wanted))
    if not 0 < size * out <= size * max(size, out) <= _LARGEST:
        raise CaptureError(f"Resize of {size} to {out} is outside what is read")
    matrix = _matrix(to, size, wanted, sized).astype(x.type.dtype.numpy)
    last = x.type.rank - 1
    perm = tuple(last if i == at else at if i == last else i for i in range(last + 1))
    moved = x if at == last else to.emit("transpose", x, perm=perm)
    product = to.emit("matmul", moved, to.weight(f"resize_{size}_to_{out}", matrix))
    return product if at == last else to.emit("transpose", product, perm=perm)


def _matrix(to: Importer, size: int, wanted: Any, sized: bool) -> np.ndarray:
    """[size, out]: what ONNX's own reference makes of the unit vectors."""
    from onnx import TensorProto, helper
    from onnx.reference import ReferenceEvaluator

    kept = ("mode", "coordinate_transformation_mode", "cubic_coeff_a", "exclude_outside", "nearest_mode", "antialias")
    attrs = {name: to.attr(name) for name in kept if to.attr(name, None) is not None}
    inputs = ["x", "", "", "to"] if sized else ["x", "", "to"]
    node = helper.make_node("Resize", inputs, ["y"], **attrs)
    given = np.array([size, int(wanted)], np.int64) if sized else np.array([1.0, wanted], np.float32)
    graph = helper.make_graph(
        [node], "resize", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [size, size]),
                           helper.make_tensor_value_info("to", helper.np_dtype_to_tensor_dtype(given.dtype), [2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", max(to.opset, 18))])
    try:
        (made,) = ReferenceEvaluator(model).run(None, {"x": np.eye(size, dtype=np.float32), "to": given})  # type: ignore[index,misc]
    except (ValueError, RuntimeError) as error:
        raise CaptureError(f"Resize: {error}") from error
    return np.asarray(made)
