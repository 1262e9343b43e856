"""An ONNX model as a Program: each op through one table, functions and branches taken in, sizes followed as dims."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np

from .. import dims
from ..build import Builder
from ..canonical import canonical
from ..diagnostics import CaptureError, GraphError, RunError, Where
from ..dims import Dim, Range
from ..evaluate import Evaluator
from ..graph import Program, Value
from ..tensor import TensorType
from .onnx_functions import Body, defaults, definition, unchanged
from .onnx_moves import moved
from .onnx_ops import ONNX
from .onnx_reader import Arrays, Reader, Unsettled
from .onnx_terms import Term, of_value, settle
from .onnx_types import STANDARD, attribute, dtype
from .problems import Problems

Axes = Mapping[str, Mapping[int, str]]  # input -> axis -> name of its size
OLDEST = 11  # of an older opset only ops that have not changed since
_FOLDED = 1 << 20  # elements; what would be larger is computed at run time
_DEPTH = 32  # functions and branches within each other
_MOST = 200_000  # nodes within functions and branches, each counted every time it is taken in


def capture(
    model: Any, axes: Axes | None = None, *, arrays: Arrays | None = None,
    fixed: Mapping[str, np.ndarray] | None = None, ranges: Mapping[str, Range] | None = None, name: str = "model.onnx",
) -> Program:  # fmt: skip
    """The Program of a ModelProto, flat: one entry `forward` with the model's own input and output names.

    axes:   which axes are dynamic, and the name of each size; other axes have the size that the file gives.
    arrays: reads a TensorProto, also one of external data; `onnx.numpy_helper.to_array` when None.
    fixed:  inputs whose values are settled here; they are no inputs of the program.
    ranges: the sizes that the user allows.
    Raises: CaptureError naming every op that has no counterpart; Unsettled where a shape depends on an input's values.
    """
    from onnx import numpy_helper

    return Importer(model, axes or {}, arrays or numpy_helper.to_array, fixed or {}, ranges or {}, name).program()


class _TooLarge(Exception):
    """A constant's computation makes something large."""


class _Lost(Exception):
    """A body's output follows from an op that has no counterpart."""


class Importer(Reader):
    """Walks a model once. The functions of the table get this object as `to`."""

    def __init__(
        self, model: Any, axes: Axes, arrays: Arrays, fixed: Mapping[str, np.ndarray], ranges: Mapping[str, Range],
        name: str,
    ) -> None:  # fmt: skip
        super().__init__(arrays, name)
        self.model, self.axes, self.fixed, self.name = model, axes, fixed, name
        self.ranges = dict(ranges)
        self.problems = Problems()
        self.functions = {(f.domain, f.name): f for f in model.functions}
        self.opsets = {o.domain: o.version for o in model.opset_import}
        self._depth = self._taken_in = 0
        self._lost: set[str] = set()  # what follows from an op that has no counterpart

    def body(self, graph: Any, given: Sequence[Term]) -> list[Term]:
        """A subgraph's outputs on these inputs, its nodes taken into the graph at hand. It sees the names around it."""
        before, names = self.scope, [i.name for i in graph.input]
        if len(names) != len(given):
            raise CaptureError(f"{self.op}: its body takes {len(names)} inputs, {len(given)} are given")
        self.scope = {**before, **dict(zip(names, given, strict=True))}
        try:
            self._graph(graph)
            if self._lost.intersection(o.name for o in graph.output):
                raise _Lost
            return [self.lookup(o.name) for o in graph.output]
        finally:
            self.scope = before

    def defined(self) -> list[Term | None] | None:
        """The node's outputs by the function that ONNX itself defines the op by; None where there is none."""
        node, version = self.node, self._version(self.node.domain)
        body = definition(node, version, [self.scope.get(n) if n else None for n in node.input])
        return None if body is None else self._called(body, {**defaults(node, version), **self._attrs})

    def read_elsewhere(self, i: int) -> bool:
        """Whether anything in the file may read input i beside this node."""
        return _reads(self.model.graph, self.node.input[i]) + sum(
            _reads(f, self.node.input[i]) for f in self.model.functions) > 1  # fmt: skip

    # -- the walk ---------------------------------------------------------------------------------

    def program(self) -> Program:
        """Raises: CaptureError."""
        graph = self.model.graph
        held = {t.name for t in graph.initializer} | {t.values.name for t in graph.sparse_initializer}
        for value in graph.input:
            if value.name not in held:
                self.scope[value.name] = self._input(value)
        self._graph(graph)
        self.problems.refuse("`tundish ops` lists what there is")
        outputs = []
        for out in graph.output:
            with self._at(Where(self.name)):
                self.op = "the model"
                outputs.append(self.valued(self.lookup(out.name)))
        heads = list(self._weight_nodes.values())
        self.builder.nodes = heads + [n for n in self.builder.nodes if n.op.name != "weight"]
        finished = self.builder.finish(outputs, [o.name for o in graph.output])
        used = {n for v in finished.inputs for d in v.type.shape for n in dims.symbols(d)}
        symbols = {n: self.ranges.get(n, Range()) for n in sorted(used)}
        return canonical(Program({"forward": finished}, ("forward",), self.weights, symbols))

    def _version(self, domain: str) -> int:
        names = STANDARD if domain in STANDARD else (domain,)
        return next((self.opsets[n] for n in names if n in self.opsets), 0)

    def _input(self, value: Any) -> Term:
        kind = value.type.WhichOneof("value")
        if kind != "tensor_type":
            raise CaptureError(f"input {value.name!r} is no tensor", found=str(kind or "without a type"))
        if value.name in self.fixed:
            array = np.asarray(self.fixed[value.name])
            return Term(dtype(value.type.tensor_type.elem_type), array.shape, content=array)
        tensor = value.type.tensor_type
        if not tensor.HasField("shape"):
            raise CaptureError(f"input {value.name!r} has no shape", hint="write its sizes into the file")
        shape = tuple(self._size(value.name, i, d) for i, d in enumerate(tensor.shape.dim))
        return of_value(self.builder.input(value.name, TensorType(dtype(tensor.elem_type), shape)))

    def _size(self, name: str, at: int, dim: Any) -> Dim:
        asked = self.axes.get(name, {}).get(at)
        if asked is not None:
            return dims.symbol(asked)
        if dim.HasField("dim_value") and dim.dim_value >= 0:
            return int(dim.dim_value)
        raise CaptureError(f"input {name!r} has no size for axis {at}", hint="name that size")

    def _graph(self, graph: Any) -> None:
        self._depth += 1
        if self._depth > _DEPTH:
            raise CaptureError(f"functions and branches lie more than {_DEPTH} deep in each other")
        for tensor in graph.initializer:
            self.scope[tensor.name] = self.tensor(tensor)
        self._taken_in += len(graph.node) + 1 if self._depth > 1 else 0
        if self._taken_in > _MOST:
            raise CaptureError(f"functions and loops come to more than {_MOST:,} nodes", where=self._place)
        for i, node in enumerate(graph.node):
            self._visit(node, i)
        self._depth -= 1

    def _visit(self, node: Any, number: int) -> None:
        outer = self.node, self.op, self.opset, self._attrs, self._place
        self.node, self.op, self.opset = node, node.op_type, self._version(node.domain)
        self._place = _where(self.name, node, number) if self._depth == 1 else self._place
        try:
            with self._at(self._place):
                self._attrs = {a.name: attribute(a) for a in node.attribute}
                self._check_age(node)
                results = self._translated(node)
                if results is not None:
                    self._bind(node, results)
        except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, AssertionError) as error:
            raise self._malformed(error) from error
        finally:
            self.node, self.op, self.opset, self._attrs, self._place = outer

    def _check_age(self, node: Any) -> None:
        """Raises: CaptureError on an op of an opset before the oldest whose meaning was another one then."""
        if node.domain in STANDARD and 0 < self.opset < OLDEST and not unchanged(node, self.opset, OLDEST):
            raise CaptureError(f"{node.op_type} of opset {self.opset} means something else than today",
                               hint=f"opset {OLDEST} and up are read; onnx.version_converter raises it")  # fmt: skip

    @contextmanager
    def _at(self, place: Where) -> Iterator[None]:
        """What goes wrong inside is told with the place."""
        with self.builder.at(place):
            try:
                yield
            except Unsettled as error:
                error.where = error.where or place
                raise
            except (GraphError, RunError) as error:
                raise CaptureError(f"{self.op}: {error.problem}", where=place, found=error.found,
                                   hint=error.hint) from error  # fmt: skip
            except CaptureError as error:
                raise CaptureError(error.problem, where=error.where or place, found=error.found,
                                   hint=error.hint) from error  # fmt: skip

    def _translated(self, node: Any) -> list[Term | None] | None:
        """The outputs; None where the op, or one before it, has no counterpart."""
        given = [self.scope.get(n) if n else None for n in node.input]
        if any(n and n in self._lost for n in node.input):
            self._lost.update(n for n in node.output if n)
            return None
        function = self.functions.get((node.domain, node.op_type))
        if function is not None:
            return self._called(function, self._attrs)
        key = node.op_type if node.domain in STANDARD else f"{node.domain}.{node.op_type}"
        if key not in ONNX:
            return self._without(node, key)
        for name in node.input:
            if name:
                self.lookup(name)
        settled = settle(key, self, given)
        if settled is not None:
            return [settled]
        if given and all(t is None or (t.plain and t.small) for t in given) and not _graphs(node):
            with suppress(_TooLarge):
                return self._computed(ONNX[key])
        gone = moved(key, self, given, lambda: self._computed(ONNX[key]))
        if gone is not None:
            return gone
        try:
            return _terms(ONNX[key](self))
        except _Lost:
            self._lost.update(n for n in node.output if n)
            return None

    def _computed(self, translate: Any) -> list[Term | None]:
        """The content of an op on contents: translated into a graph of its own, which is run at once."""
        outer_builder, outer = self.builder, self._scratch
        weights, heads = dict(self.weights), dict(self._weight_nodes)
        self.builder, self._scratch = Builder(where=outer_builder.where), {}
        try:
            results = _terms(translate(self))
            nodes = [n for name, n in self._weight_nodes.items() if name not in heads] + self.builder.nodes
            if any(not _is_small(v.type.elements) for n in nodes for v in n.outputs):
                raise _TooLarge
            asked = [r for r in results if r is not None and r.value is not None]
            inputs = {v.name: a for v, a in self._scratch.values()}
            self.builder.nodes = nodes
            graph = self.builder.finish([r.value for r in asked if r.value is not None])
            program = Program({"f": graph}, ("f",), self.weights, {})
            made = list(Evaluator(program).graph(graph, [inputs[v.name] for v in graph.inputs], {}, ""))
        finally:
            self.builder, self._scratch = outer_builder, outer
            self.weights, self._weight_nodes = weights, heads
        for result, array in zip(asked, made, strict=True):
            result.value, result.content = None, np.asarray(array)
        return results

    def _called(self, function: Any, attrs: Mapping[str, Any]) -> list[Term | None] | None:
        """A model-local function's or a function body's outputs, its nodes taken in."""
        before, opsets, lost = self.scope, self.opsets, self._lost
        given = [self.lookup(n) if n else None for n in self.node.input]
        self.scope = {n: t for n, t in zip(function.input, given, strict=False) if t is not None}
        self.opsets = {**opsets, **{o.domain: o.version for o in function.opset_import}}
        self._lost = set()
        own = {a.name: attribute(a) for a in function.attribute_proto}
        try:
            self._graph(Body(function, {**own, **attrs}))
            if self._lost.intersection(function.output):
                lost.update(n for n in self.node.output if n)
                return None
            return [self.scope.get(n) for n in function.output]
        finally:
            self.scope, self.opsets, self._lost = before, opsets, lost

    def _without(self, node: Any, key: str) -> list[Term | None] | None:
        """An op that is not in the table: the function that ONNX defines it by, or a problem to report."""
        made = self.defined()
        if made is not None or any(n in self._lost for n in node.output):
            return made
        self.problems.add(key, self._place)
        self._lost.update(n for n in node.output if n)
        return None

    def _bind(self, node: Any, results: Sequence[Term | None]) -> None:
        for name, term in zip(node.output, results, strict=False):
            if name and term is None:
                raise CaptureError(f"{self.op} gives no output {name!r}")
            if name and term is not None:
                self.scope[name] = term

    def _malformed(self, error: Exception) -> Exception:
        """The file's fault where ONNX's own checker finds one in the node or in types, else ours: the error itself."""
        from onnx import checker, shape_inference

        context = checker.DEFAULT_CONTEXT
        context.opset_imports = dict(self.opsets)
        context.ir_version = self.model.ir_version or 3
        try:
            checker.check_node(self.node, context)
            shape_inference.infer_shapes(self.model, check_type=True, strict_mode=True)
        except (checker.ValidationError, shape_inference.InferenceError, UnicodeDecodeError) as found:
            first = str(found).strip().splitlines()[0][:200]
            return CaptureError(f"{self.op} is malformed: {first}", where=self._place)
        return error


def _terms(results: Any) -> list[Term | None]:
    listed = list(results) if isinstance(results, (tuple, list)) else [results]
    return [of_value(r) if isinstance(r, Value) else r for r in listed]


def _reads(graph: Any, name: str) -> int:
    """How often a graph or a function, and the graphs within it, read a name."""
    inner = [a.g for n in graph.node for a in n.attribute if a.HasField("g")]
    own = sum(list(n.input).count(name) for n in graph.node)
    return own + sum((o if isinstance(o, str) else o.name) == name for o in graph.output) + sum(
        _reads(g, name) for g in inner)  # fmt: skip


def _is_small(elements: Dim) -> bool:
    return isinstance(elements, int) and elements <= _FOLDED


def _graphs(node: Any) -> bool:
    return any(a.HasField("g") for a in node.attribute)


def _where(file: str, node: Any, number: int) -> Where:
    """The node's number in the file, from 1, and the module that its name tells of (`/layers.0/fc1/MatMul`)."""
    path = node.name.strip("/").split("/") if node.name else []
    return Where(file, number + 1, ".".join(path[:-1]))
