"""An entry of a session bound to buffers that it writes over, run step after step without copying them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

from ...ir import dims
from ...ir.diagnostics import RunError
from ...ir.graph import Program, callee
from ...ir.walk import steps
from ..signature import Signature

Arrays = Mapping[str, np.ndarray]
# What numpy has no type of its own for passes by its bits: onnxruntime's name and number for it.
BITS = {
    np.dtype(ml_dtypes.bfloat16): ("tensor(bfloat16)", 16),
    np.dtype(ml_dtypes.float8_e4m3fn): ("tensor(float8e4m3fn)", 17),
    np.dtype(ml_dtypes.float8_e4m3fnuz): ("tensor(float8e4m3fnuz)", 18),
    np.dtype(ml_dtypes.float8_e5m2): ("tensor(float8e5m2)", 19),
    np.dtype(ml_dtypes.float8_e5m2fnuz): ("tensor(float8e5m2fnuz)", 20),
}


class OrtBound:
    """One session, the arrays that its entry writes over, and perhaps others that it reads and that stay the same.

    rowwise: the inputs that hold a place of each row, where the session takes several tokens of several rows only while
    all of those are 0; elsewhere the rows are run one by one.
    """

    def __init__(self, session: Any, signature: Signature, held: Arrays, rowwise: tuple[str, ...] = ()) -> None:
        self._session, self._signature, self._rowwise = session, signature, rowwise
        self._held = {s.name: held[s.name] for s in signature.inputs if s.name in held}
        self._sizes = signature.sizes_of(self._held)
        self._given = [s for s in signature.inputs if s.name not in self._held]
        read = [s for s in signature.inputs if s.name in set(held) - set(signature.aliases.values())]
        self._old = {d for s in read for d in s.shape[1:] if isinstance(d, str)}  # sizes of what no run brings anew
        self._made = [s for s in signature.outputs if s.name not in signature.aliases]
        self._types = {s.name: s.type for s in self._made}
        self._binding = session.io_binding()
        for name, array in self._held.items():
            _bind(self._binding.bind_input, name, array)
        for output, name in signature.aliases.items():
            _bind(self._binding.bind_output, output, self._held[name])
        self._rows: list[OrtBound] = []
        self._last: tuple[Any, ...] = ()  # the shapes and types of the inputs that are bound
        self._kept: list[np.ndarray] = []  # the session is given bare addresses: inputs are copied into these
        self._shapes: list[tuple[int, ...]] = []  # of the outputs at those sizes

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """One step: the outputs that are no buffers. Raises: RunError."""
        inputs = {s.name: np.asarray(inputs[s.name]) for s in self._given}
        if self._must_split(inputs):
            return self._one_by_one(inputs)
        sizes = tuple((a.shape, a.dtype) for a in inputs.values())
        if sizes == self._last:  # as in every step of a text: what is bound takes the new numbers
            for kept, array in zip(self._kept, inputs.values(), strict=True):
                kept[...] = array
        else:
            self._bind_inputs(inputs)
            self._last = sizes
        made = {}
        for spec, shape in zip(self._made, self._shapes, strict=True):
            made[spec.name] = np.empty(shape, self._types[spec.name].dtype.numpy)
            _bind(self._binding.bind_output, spec.name, made[spec.name])
        try:
            self._session.run_with_iobinding(self._binding)
        except Exception as error:  # ONNX Runtime's errors have no common base
            raise RunError(f"onnxruntime failed: {error}") from error
        return made

    def _bind_inputs(self, inputs: Arrays) -> None:
        """Copies of the inputs, bound, and the shapes of the outputs. Raises: RunError on what does not fit."""
        self._last = ()
        sizes = self._signature.sizes_of(inputs, self._sizes)
        self._shapes = [tuple(dims.evaluate(d, sizes) for d in self._types[s.name].shape) for s in self._made]
        self._kept = [np.array(a, order="C") for a in inputs.values()]
        for name, array in zip(inputs, self._kept, strict=True):
            _bind(self._binding.bind_input, name, array)

    def _must_split(self, inputs: Arrays) -> bool:
        if not self._rowwise:
            return False
        places = [inputs[name] for name in self._rowwise]
        new = [s for s in self._given if len(s.shape) > 1 and s.shape[1] not in self._old]
        several = any(min(inputs[s.name].shape[:2]) > 1 for s in new)
        return several and any(bool(p.any()) for p in places)

    def _one_by_one(self, inputs: Arrays) -> dict[str, np.ndarray]:
        count = len(inputs[self._rowwise[0]])
        if not self._rows:
            self._rows = [
                OrtBound(self._session, self._signature, {n: a[i : i + 1] for n, a in self._held.items()})
                for i in range(count)
            ]
        rows = next(s for s in self._given if s.name == self._rowwise[0]).shape[0]
        by_row = {s.name for s in self._given if s.shape and s.shape[0] == rows}
        answers = [
            bound.run({n: a[i : i + 1] if n in by_row else a for n, a in inputs.items()})
            for i, bound in enumerate(self._rows)
        ]
        return {name: np.concatenate([a[name] for a in answers]) for name in answers[0]}


def places(program: Program, entry: str) -> list[str]:
    """The inputs that tell each row's place in its cache, for attention that takes rows together only at place 0."""
    given = program.functions[entry].inputs
    found: dict[str, None] = {}
    for step in steps(program, entry):
        if step.node.op.name != "cached_attention":
            continue
        value = step.node.inputs[5]
        for call in step.calls:
            inputs = program.functions[str(callee(call))].inputs
            value = call.inputs[inputs.index(value)] if value in inputs else value
        found.update((v.name, None) for v in given if v is value)
    return list(found)


def _bind(bind: Any, name: str, array: np.ndarray) -> None:
    bits = BITS.get(array.dtype)
    bind(name, "cpu", 0, array.dtype.type if bits is None else bits[1], array.shape, array.ctypes.data)
