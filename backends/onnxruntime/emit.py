"""Collects ONNX nodes: equal ones once, small constants as initializers, sizes from the inputs' shapes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Union

import numpy as np

from ...ir.diagnostics import Where
from ...ir.dims import Dim, Ranges
from ...ir.dtypes import DType, f32
from ...ir.graph import Value
from ...ir.tensor import TensorType
from .sizes import Sizes

MS = "com.microsoft"
Arg = Union[str, Value, None]

# ONNX's numbers for element types (onnx.TensorProto.DataType).
ONNX_TYPES = {
    "f32": 1, "u8": 2, "i8": 3, "i16": 5, "i32": 6, "i64": 7, "bool": 9, "f16": 10, "f64": 11, "bf16": 16,
    "u4": 21, "i4": 22, "u16": 4, "u32": 12, "u64": 13, "f8e4m3": 17, "f8e4m3fnuz": 18, "f8e5m2": 19, "f8e5m2fnuz": 20,
    "f4e2m1": 23, "f8e8m0": 24, "u2": 25, "i2": 26,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Made:
    """One ONNX node before it is written. keys: the nodes of the plan that it computes, the anchor first."""

    op_type: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attrs: tuple[tuple[str, Any], ...]
    name: str
    where: Where
    keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class View:
    """A weight of the table, its bytes from `start` on, as a type."""

    key: str
    type: TensorType
    start: int = 0


class Emit:
    """Adds ONNX nodes for one model.

    A call `to("Add", a, b)` adds a node and returns the name of its output (a list for `outputs` > 1). All ONNX ops
    used here are pure, so a node that is equal to an earlier one is that one: masks, shapes and tables that every
    layer asks for are computed once.

    opset:    the version of the standard operators.
    portable: only standard operators, none of ONNX Runtime's own.
    """

    def __init__(self, opset: int, portable: bool, ranges: Ranges) -> None:
        self.opset, self.portable, self.ranges = opset, portable, ranges
        self.names: dict[Value, str] = {}
        self.nodes: list[Made] = []
        self.initializers: dict[str, np.ndarray] = {}
        self.weights: dict[str, str] = {}  # weight name in the program's table -> name in the model
        self.views: dict[str, View] = {}  # name in the model -> what of the table it is
        self._viewed: dict[View, str] = {}
        self.where = Where("<model>")
        self.path = ""
        self.keys: tuple[str, ...] = ()  # the nodes of the plan that are being emitted
        self.sizes = Sizes(self)
        self._made: dict[Any, tuple[str, ...]] = {}
        self._constants: dict[Any, str] = {}
        self._taken: set[str] = set()
        self._per_path: dict[tuple[str, str], int] = {}
        self._reshaped: dict[str, tuple[str, tuple[Dim, ...]]] = {}

    def __call__(
        self, op_type: str, *inputs: Arg, outputs: int = 1, domain: str = "", since: int = 1, **attrs: Any
    ) -> Any:
        """Adds a node; a None input is left out. `since` is the opset that brought a standard operator."""
        if domain and self.portable or not domain and since > self.opset:
            raise AssertionError(f"{op_type} does not exist in portable={self.portable} opset {self.opset}")
        args = tuple(self.name(v) for v in inputs)
        while args and not args[-1]:
            args = args[:-1]
        items = tuple(sorted((k, _frozen(v)) for k, v in attrs.items() if v is not None))
        key = (op_type, domain, args, items, outputs)
        names = self._made.get(key)
        if names is None:
            node_name = self._node_name(op_type)
            names = tuple(self.fresh(f"{node_name}:{i}" if i else node_name) for i in range(outputs))
            self._made[key] = names
            self.nodes.append(Made(op_type, domain, args, names, items, node_name, self.where, self.keys))
        return names[0] if outputs == 1 else list(names)

    def ms(self, op_type: str, *inputs: Arg, outputs: int = 1, **attrs: Any) -> Any:
        """Adds one of ONNX Runtime's own operators."""
        return self(op_type, *inputs, outputs=outputs, domain=MS, **attrs)

    def name(self, arg: Arg) -> str:
        """The ONNX name of a value of the current graph; names pass as they are, None is ""."""
        if arg is None:
            return ""
        return arg if isinstance(arg, str) else self.names[arg]

    def is_weight(self, value: Value | None) -> bool:
        """Whether a value is a weight of the table, as it stands there."""
        return value is not None and self.name(value) in self.weights.values()

    def view(self, value: Value, dtype: DType, *shape: int, start: int = 0) -> str:
        """A weight's bytes, from one on, as a tensor of another type."""
        name = self.name(value)
        key = next(key for key, known in self.weights.items() if known == name)
        view = View(key, TensorType(dtype, shape), start)
        if view not in self._viewed:
            self._viewed[view] = self.fresh(f"{name}.{dtype}")
            self.views[self._viewed[view]] = view
        return self._viewed[view]

    def fresh(self, hint: str) -> str:
        """A name that nothing in the model bears yet."""
        name, count = hint, 1
        while name in self._taken:
            count += 1
            name = f"{hint}.{count}"
        self._taken.add(name)
        return name

    def take(self, name: str) -> str:
        """Reserves a name that must be kept (inputs, outputs, weights)."""
        self._taken.add(name)
        return name

    def _node_name(self, op_type: str) -> str:
        key = (self.path, op_type)
        self._per_path[key] = count = self._per_path.get(key, 0) + 1
        return f"{self.path}/{op_type}#{count}" if self.path else f"{op_type}#{count}"

    # -- constants ---------------------------------------------------------------------------------

    def array(self, array: np.ndarray, hint: str = "const") -> str:
        """A small constant; equal ones are one."""
        array = np.asarray(array, order="C")  # ascontiguousarray would make a scalar a vector
        key = (array.dtype.str, str(array.dtype), array.shape, array.tobytes())
        if key not in self._constants:
            name = self.fresh(hint)
            self._constants[key] = name
            self.initializers[name] = array
        return self._constants[key]

    def ints(self, *values: int) -> str:
        """A vector of int64."""
        return self.array(np.asarray(values, np.int64).reshape(len(values)))

    def scalar(self, value: float | int | bool, dtype: DType = f32) -> str:
        """A rank-0 constant."""
        return self.array(np.asarray(value).astype(dtype.numpy))

    def cast(self, x: Arg, dtype: DType) -> str:
        """x in another element type."""
        return self("Cast", x, to=ONNX_TYPES[dtype.name], saturate=0 if dtype.name.startswith("f8e") else None)

    # -- shapes ------------------------------------------------------------------------------------

    def reshape(self, x: Arg, before: Sequence[Dim], after: Sequence[Dim]) -> str:
        """x in another shape: a reshape of a reshape starts from the first one's input, an idle one is left out."""
        name, before, after = self.name(x), tuple(before), tuple(after)
        if name in self._reshaped:
            name, before = self._reshaped[name]
        if before == after:
            return name
        target, exact = self.sizes.reshape_target(before, after)
        result: str = self("Reshape", name, target, allowzero=1 if exact else None)
        self._reshaped[result] = (name, before)
        return result

    def unshaped(self, x: Value) -> tuple[str, tuple[Dim, ...]]:
        """What a value is a reshape of, and its shape; itself where it is none."""
        return self._reshaped.get(self.name(x), (self.name(x), tuple(x.type.shape)))

    def transpose(self, x: Arg, *perm: int) -> str:
        return self("Transpose", x, perm=perm)


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
