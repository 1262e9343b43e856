"""What kernels are written with: TVM's own builder of TensorIR, and the few forms that they all use.

A kernel takes a table of 64-bit words, in which each slot is the address of an array or a size, the number of its
thread and how many there are. All threads run it at once; each does its share, and none waits for another in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from functools import reduce
from typing import Any

from tvm import DataType, ir, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

Expr = Any
WIDTHS = "tundish.widths"  # a kernel's attribute: the bits of an element by slot, of those that are arrays
_ANY = 1 << 40  # elements of an array whose size is not known: addresses are computed, bounds are not checked


class Body:
    """Inside one kernel.

    thread, threads: i64. Arrays are flat: their places are given as single numbers, in elements.
    """

    def __init__(self, table: Expr, thread: Expr, threads: Expr) -> None:
        self._table, self.thread, self.threads = table, thread, threads
        self.widths: dict[int, int] = {}  # slot -> bits of an element there

    def array(self, slot: int, dtype: str = "float32", together: int = 1) -> Any:
        """The array whose address is in a slot. together: as many of its elements are read as one number."""
        self.widths[slot] = DataType(dtype).bits // together
        return self.at(self._table[slot], dtype)

    def at(self, word: Expr, dtype: str = "float32") -> Any:
        """The array at an address."""
        kind = ir.PointerType(ir.PrimType(dtype))
        return T.decl_buffer((_ANY,), dtype, data=T.Bind(T.reinterpret(kind, word)), layout=None)

    def scratch(self, slot: int, bytes: Expr, offset: int = 0, dtype: str = "float32") -> Any:
        """This thread's own scratch memory: its address is in a slot, each thread has so many bytes; from an offset."""
        kind = ir.PointerType(ir.PrimType(dtype))
        own = T.Bind(T.reinterpret(kind, self._table[slot] + self.thread * bytes + offset))
        return T.decl_buffer((_ANY,), dtype, data=own, layout=None)

    def numbers(self, slot: int, dtype: str, rounds: Callable[[Expr], Expr] | None = None) -> Numbers:
        """The same, read and written as the type in which its numbers are computed. rounds: as of `Numbers`."""
        return Numbers(self.array(slot, "uint16" if dtype == "bfloat16" else dtype), dtype, rounds)

    def size(self, slot: int) -> Expr:
        """The number in a slot, an i64."""
        return T.Bind(self._table[slot])

    def share(self, count: Expr) -> tuple[Expr, Expr]:
        """(first, end) of this thread's part of so many equal pieces of work: parts lie one after another."""
        return T.Bind(div(count * self.thread, self.threads)), T.Bind(div(count * (self.thread + 1), self.threads))


# What makes a function of a kernel's body, where that is not the one for CPUs.
BUILDER: ContextVar[Callable[[str, int, Callable[[Body], None]], Any] | None] = ContextVar("builder", default=None)


def kernel(name: str, slots: int, write: Callable[[Body], None]) -> Any:
    """A function of TVM's that others in its module may call: (table, thread, threads)."""
    builder_of = BUILDER.get()
    if builder_of is not None:
        return builder_of(name, slots, write)
    with IRBuilder() as builder:
        with T.prim_func(private=True):
            T.func_name(name)
            T.func_attr({"tirx.noalias": True})
            table = T.arg("table", T.handle("int64"))
            thread, threads = T.arg("thread", T.int64()), T.arg("threads", T.int64())
            body = Body(T.decl_buffer((slots,), "int64", data=table, layout=None), thread, threads)
            write(body)
    return builder.get().with_attr(WIDTHS, {str(slot): bits for slot, bits in sorted(body.widths.items())})


# -- numbers ----------------------------------------------------------------------------------------------------


def i64(value: int) -> Expr:
    return tirx.IntImm("int64", value)


def number(value: float, lanes: int = 1, dtype: str = "float32") -> Expr:
    """A constant, in each lane."""
    scalar = tirx.FloatImm(dtype, value) if dtype.startswith(("float", "bfloat")) else tirx.IntImm(dtype, int(value))
    return scalar if lanes == 1 else tirx.Broadcast(scalar, lanes)


def splat(value: Expr, lanes: int) -> Expr:
    """A scalar in each lane."""
    return value if lanes == 1 else tirx.Broadcast(value, lanes)


def div(a: Expr, b: Expr | int) -> Expr:
    """a // b of numbers that are not negative."""
    return tirx.truncdiv(a, i64(b) if isinstance(b, int) else b)


def rem(a: Expr, b: Expr | int) -> Expr:
    """a % b of numbers that are not negative."""
    return tirx.truncmod(a, i64(b) if isinstance(b, int) else b)


def least(a: Expr, b: Expr) -> Expr:
    return tirx.min(a, b)


def most(a: Expr, b: Expr) -> Expr:
    return tirx.max(a, b)


def sqrt(x: Expr) -> Expr:
    return tirx.sqrt(x)


def lanes_of(x: Expr) -> int:
    """How many numbers a vector has, 1 for a scalar."""
    lanes = str(x.ty.dtype).rpartition("x")[2]
    return int(lanes) if lanes.isdigit() and "x" in str(x.ty.dtype) else 1


def size(x: Expr) -> Expr:
    """|x|."""
    return tirx.abs(x)


def nearest(x: Expr) -> Expr:
    """The nearest whole number, of two the even one."""
    return tirx.nearbyint(x)


def select(condition: Expr, yes: Expr, no: Expr) -> Expr:
    """Both are computed."""
    return tirx.Select(condition, yes, no)


def reinterpret(dtype: str, x: Expr) -> Expr:
    """The same bits as another type."""
    return tirx.reinterpret(dtype, x)


def cast(kind: str, x: Expr) -> Expr:
    """x as another scalar type, lane by lane."""
    lanes = lanes_of(x)
    return tirx.Cast(kind if lanes == 1 else f"{kind}x{lanes}", x)


def widened(x: Expr) -> Expr:
    """bf16 numbers, given as uint16, in f32."""
    lanes = lanes_of(x)
    whole = cast("uint32", x) << number(16, lanes, "uint32")
    return reinterpret("float32" if lanes == 1 else f"float32x{lanes}", whole)


def is_nan(x: Expr) -> Expr:
    return tirx.isnan(x)


def same(a: Expr, b: Expr) -> Expr:
    """a == b, which in Python is not TVM's."""
    return tirx.EQ(a, b)


def differ(a: Expr, b: Expr) -> Expr:
    """a != b of whole numbers: of nan, TVM says no."""
    return tirx.NE(a, b)


def either(*conditions: Expr) -> Expr:
    """Whether one holds, lane by lane."""
    return reduce(tirx.Or, conditions)


def each(*conditions: Expr) -> Expr:
    """Whether all hold, lane by lane."""
    return reduce(tirx.And, conditions)


def steps_from(start: Expr, step: int, lanes: int) -> Expr:
    """start, start + step, ... in the lanes."""
    return start if lanes == 1 else tirx.Ramp(start, i64(step), lanes)


def shift_right(x: Expr, bits: int) -> Expr:
    """Of an int32: its sign goes along."""
    return x >> number(bits, lanes_of(x), "int32")


def element_of(x: Expr) -> str:
    """TVM's name of a vector's element type."""
    return str(x.ty.dtype).partition("x")[0]


def vector_of(dtype: str, lanes: int) -> str:
    """TVM's name of a vector type."""
    return dtype if lanes == 1 else f"{dtype}x{lanes}"


def per_lane(function: Callable[..., Expr], *vectors: Expr) -> Expr:
    """A function of scalars on each lane."""
    lanes = lanes_of(vectors[0])
    if lanes == 1:
        return function(*vectors)
    held = [T.Bind(v) for v in vectors]
    return tirx.Shuffle([function(*(tirx.Shuffle([v], [i]) for v in held)) for i in range(lanes)], list(range(lanes)))


# -- memory -----------------------------------------------------------------------------------------------------


def load(array: Any, at: Expr, lanes: int = 1) -> Expr:
    """Elements at `at` and after it."""
    return tirx.BufferLoad(array, [at if lanes == 1 else tirx.Ramp(at, 1, lanes)])


def store(array: Any, at: Expr, value: Expr, lanes: int = 1) -> None:
    T.buffer_store(array, value, [at if lanes == 1 else tirx.Ramp(at, 1, lanes)])


def prefetch(array: Any, at: Expr, *, writes: bool = False) -> None:
    """Asks for the cache line that an element lies in, into the nearest cache; it need not exist."""
    kind, nearest_cache, data = (tirx.IntImm("int32", i) for i in (int(writes), 3, 1))
    T.evaluate(tirx.call_llvm_intrin("void", "llvm.prefetch.p0", address(array, at), kind, nearest_cache, data))


class Numbers:
    """An array whose numbers are computed as `wide`: f32 for those of 16 bits, else its own type.

    rounds: an instruction that rounds 16 of f32 to the bits of bf16, where there is one.
    """

    def __init__(self, array: Any, dtype: str, rounds: Callable[[Expr], Expr] | None = None) -> None:
        self.array, self._dtype, self.wide, self._rounds = array, dtype, wide(dtype), rounds

    def load(self, at: Expr, lanes: int = 1) -> Expr:
        value = load(self.array, at, lanes)
        if self._dtype == "bfloat16":
            return widened(value)
        return value if self.wide == self._dtype else tirx.Cast(vector_of(self.wide, lanes), value)

    def store(self, at: Expr, value: Expr, lanes: int = 1) -> None:
        if self._dtype == "bfloat16" and self._rounds is not None and lanes == 16:
            value = self._rounds(value)
        elif self._dtype == "bfloat16":
            value = value if element_of(value) == "float32" else tirx.Cast(vector_of("float32", lanes), value)
            value = tirx.Cast(vector_of("uint16", lanes), bf16_bits(value) >> number(16, lanes, "uint32"))
        elif element_of(value) != self._dtype:
            value = tirx.Cast(vector_of(self._dtype, lanes), value)
        store(self.array, at, value, lanes)


def wide(dtype: str) -> str:
    """The type in which numbers of a type are computed."""
    return "float32" if dtype in ("float16", "bfloat16") else dtype


def bf16_bits(value: Expr) -> Expr:
    """The bits of f32 numbers rounded to bf16, the nearest and of two the even one; the lower 16 mean nothing."""
    lanes = lanes_of(value)
    bits = T.Bind(tirx.reinterpret(vector_of("uint32", lanes), value))
    half, one, shift = (number(n, lanes, "uint32") for n in (0x7FFF, 1, 16))
    quiet = bits | number(0x400000, lanes, "uint32")
    return tirx.Select(tirx.isnan(value), quiet, bits + half + ((bits >> shift) & one))


class Registers:
    """Vectors that stay in registers, as long as every index is a constant."""

    def __init__(self, count: int, lanes: int, dtype: str = "float32") -> None:
        self.count, self.lanes = count, lanes
        self._buffer = T.alloc_buffer((count * lanes,), dtype, scope="local", layout=None)

    def __getitem__(self, i: int) -> Expr:
        return load(self._buffer, i * self.lanes, self.lanes)

    def __setitem__(self, i: int, value: Expr) -> None:
        store(self._buffer, i * self.lanes, value, self.lanes)

    def lane(self, i: int, lane: int) -> Expr:
        """One number of a vector."""
        return load(self._buffer, i * self.lanes + lane)

    def fill(self, value: Expr) -> None:
        for i in range(self.count):
            self[i] = value


def kept(value: Expr) -> Expr:
    """A number that is computed here, once: TVM writes what `bind` binds out again wherever it stands, and tries for
    seconds to simplify what comes of smallest and largest ones in one another."""
    one = Registers(1, lanes_of(value), element_of(value))
    one[0] = value
    return one[0]


# -- control ----------------------------------------------------------------------------------------------------

bind = T.Bind


def loop(first: Expr | int, end: Expr | int) -> Any:
    """`with loop(first, end) as i:`, i an i64."""
    low, high = (i64(x) if isinstance(x, int) else x for x in (first, end))
    return T.serial(low, high)


def when(condition: Expr, then: Callable[[], None], otherwise: Callable[[], None] | None = None) -> None:
    """Runs one or the other."""
    with T.If(condition):
        with T.Then():
            then()
        if otherwise is not None:
            with T.Else():
                otherwise()


def negated(condition: Expr) -> Expr:
    return tirx.Not(condition)


def both(*conditions: Expr) -> Expr:
    return tirx.all(*conditions)


def call(function: Any, *args: Expr) -> None:
    """Calls another function of the module."""
    T.evaluate(ir.Call(function, list(args)))


def external(name: str, *args: Expr) -> None:
    """Calls a function of C's that gives nothing back."""
    T.evaluate(tirx.call_extern("void", name, *args))


def pure_external(dtype: str, name: str, *args: Expr) -> Expr:
    """What a function gives that only computes."""
    return tirx.call_pure_extern(dtype, name, *args)


def evaluate(value: Expr) -> None:
    """Runs an expression for what it does."""
    T.evaluate(value)


def address(array: Any, at: Expr | int) -> Expr:
    return T.address_of(tirx.BufferLoad(array, [at]))


def imports(text: str) -> Any:
    """`with imports(text):`, where functions of that LLVM code are called."""
    return T.attr(i64(0), "pragma_import_llvm", text)


def function(name: str, args: Sequence[tuple[str, str]], write: Callable[..., None]) -> Any:
    """A function that a program can call by its name. args: (name, type), `*` behind it for an address."""
    with IRBuilder() as builder:
        with T.prim_func():
            T.func_name(name)
            T.func_attr({"global_symbol": name, "tirx.noalias": True})
            given = [T.arg(n, T.handle(t[:-1]) if t.endswith("*") else getattr(T, t)()) for n, t in args]
            write(*given)
    return builder.get()


def table_of(pointer: Expr, slots: int) -> Any:
    """The words at an address."""
    return T.decl_buffer((slots,), "int64", data=pointer, layout=None)


parallel = T.parallel
