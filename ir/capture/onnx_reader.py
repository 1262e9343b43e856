"""What an op's translation reads of its ONNX node: inputs as values, contents or sizes, and attributes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..build import Builder
from ..diagnostics import CaptureError, Where
from ..dims import Dim
from ..dtypes import DType, from_numpy, i64
from ..graph import Node, Value
from ..op import Attrs, get
from ..tensor import TensorType
from ..weights import Held, Weight
from .onnx_terms import Term
from .onnx_types import dtype

Arrays = Callable[[Any], np.ndarray]  # a TensorProto's elements


class Unsettled(CaptureError):
    """A shape depends on the values of an input; `inputs` names those that would settle it if they were fixed."""

    inputs: tuple[str, ...] = ()


class Reader:
    """The node at hand, and the graph that its translation goes into.

    op, opset: the op type at hand and its domain's version.
    scope:     the terms that the node can name. weights: what the graph refers to by name.
    """

    def __init__(self, arrays: Arrays, name: str) -> None:
        self.arrays = arrays
        self.builder = Builder()
        self.weights: dict[str, Weight] = {}
        self.scope: dict[str, Term] = {}
        self.node: Any = None
        self.op, self.opset = "", 0
        self._weight_nodes: dict[str, Node] = {}
        self._place = Where(name)
        self._attrs: dict[str, Any] = {}
        self._scratch: dict[int, tuple[Value, np.ndarray]] | None = None

    def emit(self, op: str, *inputs: Value | None, **attrs: Any) -> Value:
        return self.builder.emit(op, *inputs, **attrs)

    def emit_many(self, op: str, *inputs: Value | None, **attrs: Any) -> tuple[Value, ...]:
        return self.builder.emit_node(op, inputs, attrs).outputs

    def constant(self, value: float | int | bool, dtype: DType) -> Value:
        """A scalar."""
        return self.builder.constant(value, dtype)

    def has(self, i: int) -> bool:
        """Whether the node is given input i."""
        return i < len(self.node.input) and bool(self.node.input[i])

    @property
    def count(self) -> int:
        return len(self.node.input)

    @property
    def wanted(self) -> int:
        """How many outputs the node names, up to the last one that is used."""
        return max((i + 1 for i, name in enumerate(self.node.output) if name), default=0)

    def wants(self, i: int) -> bool:
        """Whether output i is used by name."""
        return i < len(self.node.output) and bool(self.node.output[i])

    def term(self, i: int) -> Term:
        """Input i as it was read."""
        if not self.has(i):
            raise CaptureError(f"{self.op} lacks its input {i}")
        return self.lookup(self.node.input[i])

    def lookup(self, name: str) -> Term:
        if name not in self.scope:
            raise CaptureError(f"{self.op} reads {name!r}, which nothing before it makes")
        return self.scope[name]

    def value(self, i: int, dtype: DType | None = None) -> Value:
        """Input i as a Value, cast to `dtype` where given."""
        value = self.valued(self.term(i))
        return value if dtype in (None, value.type.dtype) else self.emit("cast", value, dtype=dtype)

    def optional(self, i: int) -> Value | None:
        return self.value(i) if self.has(i) else None

    def content(self, i: int, what: str) -> np.ndarray:
        """The numbers of input i, which must be known now. Raises: Unsettled."""
        term = self.term(i)
        if term.content is None or not term.plain:
            raise self.unsettled(term, what)
        return term.content

    def dims(self, i: int, what: str) -> tuple[Dim, ...]:
        """The elements of input i as sizes, symbols among them. Raises: Unsettled."""
        term = self.term(i)
        if term.content is None:
            raise self.unsettled(term, what)
        if not term.dtype.is_int:
            raise CaptureError(f"{self.op}: the {what} is {term.dtype}, not a number of elements")
        return tuple(int(v) if isinstance(v, (int, np.integer)) else v for v in term.content.flat)

    def ints(self, i: int, what: str) -> tuple[int, ...]:
        """The elements of input i as plain ints. Raises: Unsettled; CaptureError where they are no whole numbers."""
        if not self.term(i).dtype.is_int:
            raise CaptureError(f"{self.op}: the {what} is {self.term(i).dtype}, not whole numbers")
        return tuple(int(v) for v in self.content(i, what).flat)

    def attr(self, name: str, default: Any = ...) -> Any:
        """An attribute as Python has it: number, str, list, TensorProto, GraphProto. Raises: CaptureError when lost."""
        if name in self._attrs:
            return self._attrs[name]
        if default is ...:
            raise CaptureError(f"{self.op} lacks its attribute {name!r}")
        return default

    def dtype(self, number: int) -> DType:
        """The DType of ONNX's number for it. Raises: CaptureError for one that no tensor of ours can hold."""
        return dtype(number)

    def tensor(self, proto: Any) -> Term:
        """A TensorProto's content. Raises: CaptureError for element types that no tensor of ours can hold."""
        kind, array = dtype(proto.data_type), self.arrays(proto)
        return Term(kind, tuple(array.shape), content=array, kept=proto.name)

    def weight(self, name: str, array: np.ndarray) -> Value:
        """An array as a weight; a name that is taken by other bytes gets a number."""
        base, n = name, 0
        while name in self.weights:
            n += 1
            name = f"{base}.{n}"
        return self._weight(name, Term(from_numpy(array.dtype), array.shape, content=array))

    def valued(self, term: Term) -> Value:
        """The Value of a term. Inside a constant's computation it is an input of that."""
        if term.items is not None:
            raise CaptureError(f"{self.op} takes a sequence, which is not a tensor")
        if term.value is None and term.content is None:
            raise CaptureError(f"{self.op} takes an optional without a value")
        if self._scratch is not None and term.content is not None:
            if id(term) not in self._scratch:
                type = TensorType(term.dtype, term.shape)
                self._scratch[id(term)] = (self.builder.input(self.builder.fresh("c"), type), term.content)
            return self._scratch[id(term)][0]
        if term.value is None:
            term.value = self._made(term)
        return term.value

    def unsettled(self, term: Term, what: str) -> Unsettled:
        roots = _roots(self.builder, term)
        named = ", ".join(repr(r) for r in roots) or "the model's inputs"
        error = Unsettled(
            f"{self.op}: its {what} depends on the values of {named}", where=self._place,
            hint="shapes must follow from input shapes; settle such an input when compiling, with --fix NAME=VALUES",
        )  # fmt: skip
        error.inputs = roots
        return error

    # -- contents as values -----------------------------------------------------------------------

    def _made(self, term: Term) -> Value:
        assert term.content is not None, "a term has a value or a content"
        if not term.plain:
            return self._sizes(term)
        if not term.shape and term.dtype.name not in ("i4", "u4") and _exact(term.content):
            return self.builder.constant(term.content.item(), term.dtype)
        return self._weight(term.kept or f"constant_{len(self.weights)}", term)

    def _sizes(self, term: Term) -> Value:
        """An array of dims, computed at run time from the sizes."""
        assert term.content is not None
        each = [self.emit("cast", self.emit("dim_value", dim=v), dtype=term.dtype) if term.dtype != i64
                else self.emit("dim_value", dim=v) for v in term.content.flat]  # fmt: skip
        if not term.shape:
            return each[0]
        flat = self.emit("concat", *(self.emit("reshape", v, shape=(1,)) for v in each), axis=0)
        return flat if len(term.shape) == 1 else self.emit("reshape", flat, shape=term.shape)

    def _weight(self, name: str, term: Term) -> Value:
        if name not in self._weight_nodes:
            assert term.content is not None
            type = TensorType(term.dtype, tuple(term.shape))
            self.weights[name] = Weight(type, Held(np.asarray(term.content)))
            value = Value(self.builder.fresh(name), type)
            self._weight_nodes[name] = Node(get("weight"), (), Attrs({"name": name}), (value,), self._place)
        return self._weight_nodes[name].output


def _exact(array: np.ndarray) -> bool:
    """Whether a scalar survives being a Python float."""
    item = array.item()
    return isinstance(item, bool) or item != item or float(item) == item


def _roots(builder: Builder, term: Term) -> tuple[str, ...]:
    """The graph's inputs that a term is computed from."""
    made = {v: n for n in builder.nodes for v in n.outputs}
    names, seen, todo = [], set(), [term.value]
    while todo:
        value = todo.pop()
        if value is None or value in seen:
            continue
        seen.add(value)
        node = made.get(value)
        if node is not None:
            todo.extend(node.inputs)
        elif any(value is i for i in builder.inputs):
            names.append(value.name)
    return tuple(sorted(names))
