"""An exported torch graph as a Program: each ATen op through one table, every problem reported at once."""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..build import Builder
from ..canonical import canonical
from ..diagnostics import CaptureError, GraphError, Where
from ..dims import Dim, Expr, Range
from ..dtypes import DTYPES, DType, from_numpy
from ..graph import Node, Program, Value
from ..op import Attrs, get
from ..tensor import TensorType
from ..weights import Held, Weight
from .aten import ATEN, COMPLEX, is_complex
from .conditions import check as check_conditions
from .export import Axes, Exported, export
from .masks import fold_masks
from .picks import fold_picks
from .places import where
from .problems import Problems
from .scalars import as_size
from .sizes import Sizes
from .triangles import Triangle, triangle


def capture(module: Any, inputs: Mapping[str, Any], axes: Axes, *, outputs: tuple[str, ...] = (),
            constants: Mapping[str, Any] | None = None, by_position: bool = False,
            ranges: Mapping[str, Range] | None = None) -> Program:  # fmt: skip
    """The Program of a torch module, flat: one entry `forward`.

    inputs:    sample tensors by name; sizes that stay dynamic must be at least 2 in them.
    axes:      which axes are dynamic: {"input_ids": {0: "batch", 1: "seq"}}.
    outputs:   which outputs to keep, by name; all when empty.
    constants: further keyword arguments of the call; by_position: inputs are passed in order, not by name.
    ranges:    the sizes the user allows; narrowed by what tracing proved.
    Raises: CaptureError naming every op that has no counterpart, with its source line.
    """
    exported = export(module, inputs, axes, outputs=outputs, constants=constants, by_position=by_position)
    fold_picks(exported.program)
    fold_masks(exported.program)
    translator = Translator(exported, dict(ranges or {}))
    translator.ranges.update(check_conditions(exported.conditions, translator.sizes))
    return translator.program()


class Translator:
    """Walks an exported graph once. The functions of the ATen table get this object as `to`."""

    def __init__(self, exported: Exported, ranges: Mapping[str, Range]) -> None:
        self.exported = exported
        self.ranges = {n: _meet(n, r, ranges.get(n)) for n, r in exported.ranges.items()}
        self.sizes = Sizes(exported.names, self.ranges)
        self.builder = Builder()
        self.env: dict[Any, Any] = {}
        self.problems = Problems()
        self._from_data: dict[Any, Any] = {}  # sizes that hang on a tensor's values -> the node that made them so
        self.weights: dict[str, Weight] = {}
        self._arrays = _tensors(exported.program)
        self._weight_nodes: dict[str, Node] = {}
        self._shared = _first_names(self._arrays)
        self.node: Any = None

    # -- what the table's functions use -----------------------------------------------------------

    def emit(self, op: str, *inputs: Value | None, **attrs: Any) -> Value:
        return self.builder.emit(op, *inputs, **attrs)

    def emit_many(self, op: str, *inputs: Value | None, **attrs: Any) -> tuple[Value, ...]:
        return self.builder.emit_node(op, inputs, attrs).outputs

    def value(self, arg: Any, dtype: DType | None = None) -> Value:
        """An argument as a Value: a tensor, or a number as a scalar of `dtype`; cast to `dtype` where given."""
        known = self.env.get(arg) if hasattr(arg, "meta") else arg
        known = known.draw(self.emit) if isinstance(known, Triangle) else known
        if isinstance(known, Value):
            return known if dtype in (None, known.type.dtype) else self.emit("cast", known, dtype=dtype)
        if isinstance(known, Expr):
            scalar = self.emit("dim_value", dim=known)
            return scalar if dtype in (None, scalar.type.dtype) else self.emit("cast", scalar, dtype=dtype)
        if isinstance(known, (bool, int, float)):
            return self.builder.constant(known, dtype or DTYPES["f32"])
        raise CaptureError(f"an argument of {self.node.target} is {known!r}, not a tensor")

    def optional(self, arg: Any) -> Value | None:
        return None if arg is None else self.value(arg)

    def dim(self, arg: Any) -> Dim:
        """An int or symbolic argument."""
        known = self.env.get(arg) if hasattr(arg, "meta") else arg
        if isinstance(known, (int, Expr)) and not isinstance(known, bool):
            return known
        raise CaptureError(f"an argument of {self.node.target} must be a size, got {known!r}")

    def type(self, meta: Any = None) -> TensorType:
        """The type torch gave the node's result (or another fake tensor)."""
        meta = self.node.meta["val"] if meta is None else meta
        return TensorType(_dtype(meta.dtype), tuple(self.sizes.dim(s) for s in meta.shape))

    def args(self, *names: str, **defaults: Any) -> list[Any]:
        """The call's arguments by the names of its schema, with the schema's defaults."""
        schema = self.node.target._schema.arguments
        given = {a.name: v for a, v in zip(schema, self.node.args, strict=False)} | dict(self.node.kwargs)
        full = {a.name: given.get(a.name, a.default_value) for a in schema}
        return [full.get(n, defaults.get(n)) for n in names]

    # -- the walk ---------------------------------------------------------------------------------

    def program(self) -> Program:
        outputs: list[Value] = []
        for node in self.exported.program.graph.nodes:
            self.node = node
            if node.op == "output":
                self.problems.refuse("rewrite those lines with ops that `tundish ops` lists")
                outputs = [self.value(a) for a in _kept(self.exported.program, node)]
            elif node.op == "placeholder":
                self._placeholder(node)
            else:
                self._call(node)
        heads = list(self._weight_nodes.values())
        self.builder.nodes = heads + [n for n in self.builder.nodes if n.op.name != "weight"]
        graph = self.builder.finish(outputs, self.exported.outputs)
        return canonical(Program({"forward": graph}, ("forward",), self.weights, self.ranges))

    def _placeholder(self, node: Any) -> None:
        """User inputs become graph inputs; parameters wait until something reads them."""
        if node.name not in self._arrays:
            self.env[node] = self.builder.input(node.name, self.type(node.meta["val"]))

    def _call(self, node: Any) -> None:
        import torch

        name = str(node.target)
        if node.target is operator.getitem:
            source = self.env.get(node.args[0])
            self.env[node] = source[node.args[1]] if source is not None else None
            return
        if _is_size(node.meta.get("val")):
            self.env[node] = self._size(node)
            return
        if isinstance(node.meta.get("val"), (torch.SymBool, bool)):
            return  # conditions, which only assertions read
        if "assert" in name or "sym_constrain" in name or node.meta.get("val") is None:
            return
        translate = (COMPLEX if is_complex(node) else ATEN).get(name)
        if translate is None:
            self._problem(name)
            return
        self._bind_weights(node)
        lost = [a for a in node.all_input_nodes if self.env.get(a) is None]
        if lost:
            for made in {self._from_data[a] for a in lost if a in self._from_data}:
                self._problem(f"{made.target}, a size out of the values of a tensor", made)
            self.env[node] = None
            return  # an earlier problem; everything that follows from it is not the user's concern
        with self.builder.at(where(node)):
            try:
                self.env[node] = translate(self)
            except CaptureError as error:
                raise CaptureError(
                    error.problem, where=error.where or where(node), found=error.found, hint=error.hint
                ) from error
            except GraphError as error:
                raise CaptureError(
                    f"{name}: {error.problem}", where=where(node), found=error.found, hint=error.hint
                ) from error
        self._check(node)

    def _size(self, node: Any) -> Dim | None:
        """A size; None for one that hangs on a tensor's values, which matters once anything but a check reads it."""
        found, made = node.meta["val"], [self.env.get(a) for a in node.all_input_nodes]
        if self.sizes.knows(found):
            return self.sizes.dim(found)
        if len(made) == 1 and isinstance(made[0], Value) and "item" in str(node.target):
            size = as_size(made[0], self.builder.nodes)
            if size is not None:
                self.sizes.learn(found, size)
                return size
        earlier = [self._from_data[a] for a in node.all_input_nodes if a in self._from_data]
        if earlier or all(v is not None for v in made):
            self._from_data[node] = earlier[0] if earlier else node
        return None

    def _check(self, node: Any) -> None:
        """Our inference must agree with torch's, or the translation is wrong."""
        value, meta = self.env[node], node.meta["val"]
        if isinstance(value, Value) and value.type != self.type(meta):
            raise CaptureError(
                f"{node.target} was translated to {value.type}, torch says {self.type(meta)}",
                where=where(node), hint="this is a fault of the translation; please report it",
            )  # fmt: skip

    def _problem(self, name: str, node: Any = None) -> None:
        self.problems.add(name, where(node or self.node))
        self.env[self.node] = None

    # -- weights ----------------------------------------------------------------------------------

    def table(self, name: str, array: np.ndarray) -> Value:
        """A weight that the translation itself brings; equal ones are one."""
        name = f"{name}.{hashlib.sha256(array.tobytes()).hexdigest()[:8]}"
        if name not in self._weight_nodes:
            type = TensorType(from_numpy(array.dtype), array.shape)
            self.weights[name] = Weight(type, Held(array))
            value = Value(self.builder.fresh(name), type)
            self._weight_nodes[name] = Node(get("weight"), (), Attrs({"name": name}), (value,), where(self.node))
        return self._weight_nodes[name].output

    def _bind_weights(self, node: Any) -> None:
        from torch.nn import Parameter

        for arg in node.all_input_nodes:
            if arg.op == "placeholder" and arg not in self.env:
                name, tensor = self._arrays[arg.name]
                drawn = None if isinstance(tensor, Parameter) else triangle(_array(tensor)[0])
                self.env[arg] = self._weight(name, tensor, where(node)) if drawn is None else drawn

    def _weight(self, name: str, tensor: Any, place: Where) -> Value:
        """A parameter or buffer; one that shares another's storage (a tied head) is the same weight."""
        array, key = _array(tensor)
        if not tensor.shape and array is not None:
            return self.builder.constant(array.item(), from_numpy(array.dtype))
        name = self._shared[key]
        if name not in self._weight_nodes:
            type = TensorType(_dtype(tensor.dtype), tuple(tensor.shape))
            self.weights[name] = Weight(type, Held(array))
            value = Value(self.builder.fresh(name), type)
            self._weight_nodes[name] = Node(get("weight"), (), Attrs({"name": name}), (value,), place)
        return self._weight_nodes[name].output


def _is_size(meta: Any) -> bool:
    import torch

    return isinstance(meta, torch.SymInt) or type(meta) is int


def _tensors(exported: Any) -> dict[str, tuple[str, Any]]:
    """placeholder -> (name, tensor) of every parameter, buffer and lifted constant."""
    signature, found = exported.graph_signature, {}
    for spec in signature.input_specs:
        if spec.kind.name in ("PARAMETER", "BUFFER", "CONSTANT_TENSOR"):
            tensor = exported.state_dict.get(spec.target)
            tensor = exported.constants.get(spec.target) if tensor is None else tensor
            found[spec.arg.name] = (spec.target.removeprefix("m."), tensor)
    return found


def _kept(exported: Any, output: Any) -> list[Any]:
    """What the module returns. What it writes to a buffer only to read it again in the same call is no output.

    Raises: CaptureError for a buffer that a later call would find changed.
    """
    placeholders = {n.name: n for n in exported.graph.nodes if n.op == "placeholder"}
    buffers = {s.target: s.arg.name for s in exported.graph_signature.input_specs if s.kind.name == "BUFFER"}
    kept = []
    for spec, arg in zip(exported.graph_signature.output_specs, output.args[0], strict=True):
        if spec.kind.name == "USER_OUTPUT":
            kept.append(arg)
        elif placeholders[buffers[spec.target]].users:
            raise CaptureError(
                f"the model keeps a state in its buffer {spec.target.removeprefix('m.')}", where=where(arg),
                hint="a bundle answers each call alike; pass the state as an input and return the new one",
            )  # fmt: skip
    return kept


def _first_names(tensors: dict[str, tuple[str, Any]]) -> dict[tuple[Any, ...], str]:
    """storage -> the first name under which the module holds it."""
    names: dict[tuple[Any, ...], str] = {}
    for name, tensor in tensors.values():
        names.setdefault(_array(tensor)[1], name)
    return names


def _array(tensor: Any) -> tuple[np.ndarray | None, tuple[Any, ...]]:
    """(array sharing the tensor's storage, key of that storage); no array for the meta device."""
    import torch

    tensor = tensor.detach()
    layout = (tuple(tensor.shape), tuple(tensor.stride()), str(tensor.dtype))
    if tensor.is_meta:  # all lie at address 0; a storage is still one object
        return None, (tensor.untyped_storage()._cdata, tensor.storage_offset(), *layout)
    key = (tensor.data_ptr(), *layout)
    if tensor.is_floating_point() and (tensor.element_size() == 1 or tensor.dtype is torch.bfloat16):
        bits = tensor.view(torch.uint8 if tensor.element_size() == 1 else torch.int16)
        return bits.numpy().view(_dtype(tensor.dtype).numpy), key
    return tensor.numpy(), key


def _dtype(dtype: Any) -> DType:
    name = _DTYPES.get(str(dtype).removeprefix("torch."))
    if name is None:
        raise CaptureError(f"tensors of {dtype} are not supported", hint=f"supported: {', '.join(_DTYPES)}")
    return DTYPES[name]


_DTYPES = {
    "float64": "f64", "float32": "f32", "float16": "f16", "bfloat16": "bf16", "int64": "i64", "int32": "i32",
    "int16": "i16", "int8": "i8", "uint64": "u64", "uint32": "u32", "uint16": "u16", "uint8": "u8", "bool": "bool",
    "float8_e4m3fn": "f8e4m3", "float8_e5m2": "f8e5m2", "float8_e4m3fnuz": "f8e4m3fnuz",
    "float8_e5m2fnuz": "f8e5m2fnuz", "float8_e8m0fnu": "f8e8m0",
}  # fmt: skip


def _meet(name: str, proved: Range, asked: Range | None) -> Range:
    """The sizes that are both proved and asked for; of 0, too, where asked: tracing tells nothing of sizes below 2.

    Raises: CaptureError where there are none.
    """
    if asked is None:
        return proved
    highs = [h for h in (proved.high, asked.high) if h is not None]
    low, high = asked.low if proved.low <= 1 else max(proved.low, asked.low), min(highs) if highs else None
    if high is not None and high < low:
        raise CaptureError(f"the model takes {name} {proved}", found=f"{name} {asked}",
                           hint=f"allow sizes among these with --{name}")  # fmt: skip
    return Range(low, high)
