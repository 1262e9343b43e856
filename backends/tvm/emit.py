"""Collects the calls of one entry: kernels, what they read and write, and how long each buffer is needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ...ir import dims
from ...ir.diagnostics import BuildError
from ...ir.dims import Dim
from ...ir.dtypes import DType
from ...ir.graph import Node, Value
from ...ir.tensor import TensorType
from .schedule import Arg, Buffer, Call, Constant, Only, Schedule
from .tiles import USUAL, Chip

if TYPE_CHECKING:
    from .family import Family

Make = Callable[..., Any]  # (name, **static sizes) -> a function of TVM's

class _Names(dict[str, str]):
    def __missing__(self, name: str) -> str:
        raise BuildError(f"the TVM backend computes with no {name}", hint="choose another backend")


# TVM's names of element types; a bool is a byte.
NAMES = _Names({
    "f32": "float32", "f64": "float64", "f16": "float16", "bf16": "bfloat16", "i64": "int64", "i32": "int32",
    "i16": "int16", "i8": "int8", "u64": "uint64", "u32": "uint32", "u16": "uint16", "u8": "uint8", "bool": "uint8",
})  # fmt: skip


@dataclass(eq=False)
class Root:
    """Memory that views lie in. Stages: of its first use, its last, and the last in which it was written, or read.

    age: how often what a whole value of the program was in it was written over. cut: how the kernel that wrote it last
    shares its work out among threads, None where nothing is known of that.
    """

    kind: str
    name: str = ""
    bytes: Dim = 0
    first: int = -1
    last: int = -1
    written: int = -1
    read: int = -1
    age: int = 0
    cut: Any = None


@dataclass(frozen=True)
class View:
    """Elements of a root as it is at an age: from `offset` on, axis by axis `strides` elements apart."""

    root: Root
    dtype: DType
    shape: tuple[Dim, ...]
    strides: tuple[Dim, ...]
    offset: Dim = 0
    age: int = 0

    @property
    def dense(self) -> bool:
        """Whether the elements lie one after another, in row-major order."""
        return all(s == d or n == 1 for s, d, n in zip(self.strides, row_major(self.shape), self.shape, strict=True))

    @property
    def bytes_offset(self) -> Dim:
        return self.offset * (self.dtype.bits // 8)


def row_major(shape: Sequence[Dim]) -> tuple[Dim, ...]:
    strides: list[Dim] = []
    step: Dim = 1
    for n in reversed(shape):
        strides.append(step)
        step = step * n
    return tuple(reversed(strides))


@dataclass
class Kernels:
    """The kernels of a library; equal ones are one. name -> (how to make it, with what).

    widths: kernel -> by call, the bits of an element of each array that it is given.
    """

    made: dict[str, tuple[Make, Mapping[str, Any]]] = field(default_factory=dict)
    widths: dict[str, set[tuple[int, ...]]] = field(default_factory=dict)
    _names: dict[Any, str] = field(default_factory=dict)

    def name(self, make: Make, static: Mapping[str, Any]) -> str:
        key = (make.__module__, make.__name__, tuple(sorted(static.items(), key=lambda item: item[0])))
        if key not in self._names:
            self._names[key] = f"{make.__name__}_{len(self._names)}"
            self.made[self._names[key]] = (make, static)
        return self._names[key]


@dataclass(frozen=True)
class Rounding:
    """A cast of a value, which its kernel may do too. alone: nobody else reads the value."""

    cast: Node
    alone: bool


@dataclass
class Emit:
    """keys: the nodes that what is called next computes. held: the inputs that the entry writes over. options: of the
    nodes whose kernel is not the usual one, which it is. family: the lowerings of this kind of device."""

    kernels: Kernels
    chip: Chip
    family: Family
    keys: tuple[str, ...] = ()
    held: frozenset[str] = frozenset()
    views: dict[Value, View] = field(default_factory=dict)
    scalars: dict[Value, float] = field(default_factory=dict)
    shared: dict[Any, Any] = field(default_factory=dict)  # what several lowerings need of the same value, made once
    roundings: dict[Value, Rounding] = field(default_factory=dict)
    rounded: set[Value] = field(default_factory=set)  # of which the cast is yet to come, and has nothing to do
    options: Mapping[Node, str] = field(default_factory=dict)
    least_rows: Mapping[Node, int] = field(default_factory=dict)  # of layers of experts: see `passes/experts.py`

    def option(self, node: Node) -> str:
        """Which of its kernels computes a node."""
        return self.options.get(node, USUAL)

    @property
    def lanes(self) -> int:
        return self.chip.lanes

    def __post_init__(self) -> None:
        self._calls: list[tuple[str, tuple[str, ...], list[tuple[Root, Dim] | Dim], bool, str, Only | None]] = []
        self._roots: list[Root] = []
        self._constants: list[Constant] = []
        self._scratch: Dim = 0
        self._cut: Dim = 0  # how the scratch memory is cut among the threads in this stage, 0 where it is not used
        self._stage = 0

    # -- values ------------------------------------------------------------------------------------

    def view(self, value: Value | None) -> View:
        """Where a value lies, however it lies."""
        assert value is not None
        return self.views[value]

    def array(self, value: Value | None) -> View:
        """The same, dense: copied where it is not."""
        view = self.view(value)
        if view.dense:
            return view
        from .lower_move import copy_of

        made = copy_of(self, view)
        assert value is not None
        self.views[value] = made
        return made

    def new(self, type: TensorType) -> View:
        """A new buffer of the arena."""
        root = Root("arena", bytes=type.elements * (type.dtype.bits // 8 or 1))
        return View(root, type.dtype, type.shape, row_major(type.shape))

    def result(self, node: Node, index: int = 0) -> View:
        """A new buffer, for an output of a node."""
        made = self.new(node.outputs[index].type)
        self.views[node.outputs[index]] = made
        return made

    def roundable(self, node: Node) -> list[View]:
        """New buffers for a node's output by a kernel that can write it in several types: as it is, where anyone reads
        it so, and as a cast to a narrower type gives it, where there is one."""
        rounding = self.roundings.get(node.output)
        made = [] if rounding is not None and rounding.alone else [self.result(node)]
        if rounding is not None:
            made.append(self.result(rounding.cast))
            self.rounded.add(rounding.cast.output)
        return made

    def overwritten(self, value: Value | None) -> View:
        """Where a value lies, to be written over: from now on what lies there is the new value. Where that may not
        be, as in a weight or an input that is its caller's, it is a copy."""
        from .lower_move import copy_of

        view = self.view(value)
        own = view.root.age > 0 or (view.root.kind == "input" and view.root.name in self.held)
        if not (own and view.dense):
            view = copy_of(self, view)
        view.root.age += 1
        return replace(view, age=view.root.age)

    def constant(self, value: Dim | float, dtype: DType) -> View:
        """One number in memory."""
        self._constants.append(Constant(str(value), dtype.name))
        return View(Root("constant", str(len(self._constants) - 1)), dtype, (), ())

    # -- calls -------------------------------------------------------------------------------------

    def call(
        self, make: Make, static: Mapping[str, Any], reads: Sequence[View], writes: Sequence[View],
        sizes: Sequence[Dim] = (), scratch: Dim = 0, order: Sequence[View] | None = None, reports: bool = False,
        apart: bool = False, grid: Dim | None = None, only: tuple[Dim, int, int] | None = None, cut: Any = None,
        own: Sequence[View] = (),
    ) -> None:  # fmt: skip
        """Runs a kernel. Its table: the views in `order` (what it reads, then what it writes), scratch memory where it
        asks for some, the sizes. reports: before the sizes, a word to write the next one in where an index is outside
        of what it looks up, and the call's number, from 1.
        apart: other kernels of its stage write in its root, but not where it does.
        grid, only: as in its `Call`; (value, low, high). What may not run, and so not wait, is followed by what does.
        cut: how its work is shared out. own: what it reads beside `reads`, and where a thread reads no other places
        than it writes: what was cut alike it need not wait for, as each thread has written its part itself."""
        if any(v.age != v.root.age for v in (*reads, *own)):
            raise BuildError("a value is read after it was written over", found=", ".join(self.keys))
        read, wrote = [v.root for v in reads], [v.root for v in writes]
        now = self._stage
        read += [v.root for v in own if cut is None or v.root.cut != cut]
        waits = any(r.written == now for r in read) or any(r.read == now for r in wrote)
        waits = waits or (not apart and any(r.written == now for r in wrote))
        # A thread that is ahead would write where another, whose part begins elsewhere, still reads.
        waits = waits or (scratch != 0 and self._cut not in (0, scratch))
        self._stage += waits
        self._cut = scratch if waits or scratch != 0 else self._cut
        read += [v.root for v in own]
        for root in read:
            root.read = self._stage
        for root in wrote:
            root.written, root.cut = self._stage, cut
        for root in (*read, *wrote):
            if root.first < 0:
                root.first = self._stage
                if root.kind == "arena":
                    self._roots.append(root)
            root.last = self._stage
        given = (*reads, *writes) if order is None else order
        args: list[Any] = [(v.root, v.bytes_offset) for v in given]
        if scratch != 0:
            args.append((Root("scratch"), 0))
            self._scratch = dims.maximum(self._scratch, scratch)
        if reports:
            args += [(Root("report"), 0), len(self._calls) + 1]
        name = self.kernels.name(make, static)
        self.kernels.widths.setdefault(name, set()).add(tuple(v.dtype.bits for v in given))
        blocks = "" if grid is None else str(grid)
        when = None if only is None else Only(str(only[0]), *only[1:])
        self._calls.append((name, self.keys, [*args, *sizes], waits, blocks, when))

    def finish(self, outputs: Sequence[tuple[str, Value]], aliases: Mapping[str, str]) -> Schedule:
        """The schedule; the outputs' buffers become the user's, or are copied into them."""
        from .lower_move import copy_into

        taken: set[Root] = set()
        for name, value in outputs:
            view = self.views[value]
            if name in aliases and view.root.kind == "input" and view.root.name == aliases[name]:
                continue
            if name in aliases:  # computed in another type than it is kept in
                kept = ("input", aliases[name])
                held = next(v.root for v in self.views.values() if (v.root.kind, v.root.name) == kept)
                copy_into(self, view, View(held, view.dtype, view.shape, row_major(view.shape)))
                continue
            if view.root.kind == "arena" and view.root not in taken and view.dense and view.offset == 0:
                whole = replace(view, root=view.root)
                if whole.root.bytes == value.type.bytes:
                    view.root.kind, view.root.name = "output", name
                    taken.add(view.root)
                    continue
            copy_into(self, view, View(Root("output", name), view.dtype, view.shape, row_major(view.shape)))
        arena = [r for r in self._roots if r.kind == "arena"]
        places = {id(r): str(i) for i, r in enumerate(arena)}
        calls = [
            Call(kernel, list(keys), [_arg(a, places) for a in args], waits, grid, only)
            for kernel, keys, args, waits, grid, only in self._calls
        ]
        buffers = [Buffer(str(r.bytes), r.first, r.last) for r in arena]
        return Schedule("", calls, buffers, self._constants, str(self._scratch))


def _arg(arg: Any, places: Mapping[int, str]) -> Arg:
    if isinstance(arg, tuple):
        root, offset = arg
        return Arg(root.kind, places.get(id(root), root.name), str(offset))
    return Arg("size", "", str(arg))
