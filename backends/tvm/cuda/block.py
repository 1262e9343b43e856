"""What kernels of a GPU are written with, on top of `script`: blocks of threads, shared memory, what warps do together.

A kernel's slots are its parameters: addresses of arrays, and sizes as i64. One written for CPUs is a kernel of a GPU
too: each of its threads does the share of one of a CPU's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tvm import DataType, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from ..script import (
    BUILDER,
    WIDTHS,
    Body,
    Expr,
    bf16_bits,
    bind,
    element_of,
    load,
    number,
    same,
    store,
    when,
    widened,
)  # fmt: skip

BLOCK = 128  # threads of a block where a kernel does not say otherwise
WARP = 32
_ANY = 1 << 40
NAME = "kernel"  # of the only function of each cubin
_MOST_BLOCKS = (1 << 31) - 1
Write = Callable[..., None]


class Block(Body):
    """Inside one block of threads. block: its number; thread: of this thread within it; both i32.

    Of a kernel that is written for CPUs, `Body.thread` is the thread's number among those of all blocks.
    """

    def __init__(self, args: list[Expr], kinds: dict[int, str], found: dict[int, str], block: Expr, lane: Expr) -> None:
        self._args, self._kinds, self._found = args, kinds, found
        self.widths: dict[int, int] = {}
        self.block, self.lane = block, lane

    def all_threads(self, count: int) -> None:
        """Makes `thread` and `threads` what a kernel for CPUs takes them for: the last slot is how many there are."""
        self.thread = bind(tirx.Cast("int64", self.block) * count + tirx.Cast("int64", self.lane))
        self.threads = self._args[-1]

    def array(self, slot: int, dtype: str = "float32", together: int = 1) -> Any:
        if dtype in ("float16", "bfloat16"):
            dtype = "uint16"
        self._found.setdefault(slot, dtype)
        self.widths[slot] = DataType(dtype).bits // together
        if self._kinds.get(slot) != dtype:
            return self.at(self._args[slot], dtype)
        return T.decl_buffer((_ANY,), dtype, data=self._args[slot], layout=None)

    def numbers(self, slot: int, dtype: str, rounds: Any = None) -> Any:
        """The array, read and written as the type in which its numbers are computed. rounds: a CPU's, not used here."""
        return Halves(self.array(slot, dtype), dtype) if dtype in ("float16", "bfloat16") else (
            Plain(self.array(slot, dtype), dtype)
        )  # fmt: skip

    def size(self, slot: int) -> Expr:
        return self._args[slot]

    def whole(self, slot: int) -> Expr:
        """The number in a slot, as i32."""
        return bind(tirx.Cast("int32", self._args[slot]))

    def scratch(self, slot: int, bytes: Expr, offset: int = 0, dtype: str = "float32") -> Any:
        raise AssertionError("a kernel of a GPU has no scratch memory of each thread")

    def shared(self, count: int, dtype: str = "float32") -> Any:
        """So many numbers that all threads of the block see."""
        return T.alloc_buffer((count,), dtype, scope="shared", layout=None)

    def asked(self, count: int, dtype: str = "float32") -> Any:
        """The shared memory that a launch asks for, which may be more than `shared` gives; once in a kernel."""
        return T.alloc_buffer((count,), dtype, scope="shared.dyn", layout=None)


class Plain:
    """An array whose numbers are computed in their own type."""

    def __init__(self, array: Any, dtype: str) -> None:
        self.array, self.dtype, self.wide = array, dtype, dtype

    def load(self, at: Expr, lanes: int = 1) -> Expr:
        return load(self.array, at, lanes)

    def store(self, at: Expr, value: Expr, lanes: int = 1) -> None:
        if element_of(value) != self.dtype:
            value = tirx.Cast(self.dtype, value)
        store(self.array, at, value, lanes)


class Halves:
    """An array of numbers of 16 bits, which are computed in f32."""

    wide = "float32"

    def __init__(self, array: Any, dtype: str) -> None:
        self.array, self.dtype = array, dtype

    def load(self, at: Expr, lanes: int = 1) -> Expr:
        return self.given(load(self.array, at, lanes))

    def given(self, bits: Expr) -> Expr:
        """A number from its bits."""
        return widened(bits) if self.dtype == "bfloat16" else from_half(bits)

    def store(self, at: Expr, value: Expr, lanes: int = 1) -> None:
        store(self.array, at, self.bits(value))

    def bits(self, value: Expr) -> Expr:
        """A number's bits."""
        if element_of(value) != "float32":
            value = tirx.Cast("float32", value)
        if self.dtype == "float16":
            return to_half(value)
        return tirx.Cast("uint16", bf16_bits(value) >> number(16, 1, "uint32"))


def from_half(bits: Expr) -> Expr:
    return tirx.call_pure_extern("float32", "tundish_from_half", bits)


def to_half(value: Expr) -> Expr:
    return tirx.call_pure_extern("uint16", "tundish_to_half", value)


# -- functions --------------------------------------------------------------------------------------------------


def block_kernel(slots: int, write: Write, *, block: int = BLOCK, shared: int = 0, blocks: int = 0) -> Any:
    """A function for blocks of so many threads. shared: bytes that are asked for when it is launched.
    blocks: how many at least a multiprocessor is to hold, which bounds the registers; 0 leaves that to the compiler."""
    kinds: dict[int, str] = {}
    _function(slots, write, block, {}, kinds)  # of which only is learned what the slots are
    function = _function(slots, write, block, kinds, {})
    return function.with_attr("tundish.launch", [block, shared, blocks])


def _function(slots: int, write: Write, block: int, kinds: dict[int, str], found: dict[int, str]) -> Any:
    with IRBuilder() as builder:
        with T.prim_func():
            T.func_name(NAME)
            T.func_attr({"global_symbol": NAME, "tirx.noalias": True, "calling_conv": 2, "tirx.is_global_func": True})
            args = [T.arg(f"a{i}", T.handle(kinds[i]) if i in kinds else T.int64()) for i in range(slots)]
            with T.launch_thread("blockIdx.x", _MOST_BLOCKS) as x, T.launch_thread("threadIdx.x", block) as lane:
                body = Block(args, kinds, found, _var(x), _var(lane))
                write(body)
    return builder.get().with_attr(WIDTHS, {str(slot): bits for slot, bits in sorted(body.widths.items())})


def _var(thread: Any) -> Expr:
    return getattr(thread, "var", thread)


@contextmanager
def of_blocks() -> Iterator[None]:
    """Inside, `script.kernel` makes kernels of a GPU, with one more slot for how many threads there are."""

    def make(name: str, slots: int, write: Callable[[Body], None]) -> Any:
        def all_of(b: Block) -> None:
            b.all_threads(BLOCK)
            write(b)

        return block_kernel(slots + 1, all_of)

    before = BUILDER.set(make)
    try:
        yield
    finally:
        BUILDER.reset(before)


# -- what threads do together -----------------------------------------------------------------------------------


def sync() -> None:
    """Each thread waits until all of the block are here."""
    T.evaluate(tirx.op.tvm_storage_sync("shared"))


def i32(value: Expr | int) -> Expr:
    return tirx.IntImm("int32", value) if isinstance(value, int) else tirx.Cast("int32", value)


def i64_of(value: Expr) -> Expr:
    return tirx.Cast("int64", value)


def div32(a: Expr, b: Expr | int) -> Expr:
    return tirx.truncdiv(a, i32(b) if isinstance(b, int) else b)


def rem32(a: Expr, b: Expr | int) -> Expr:
    return tirx.truncmod(a, i32(b) if isinstance(b, int) else b)


def loop32(first: Expr | int, end: Expr | int) -> Any:
    low, high = (i32(x) if isinstance(x, int) else x for x in (first, end))
    return T.serial(low, high)


def guarded(condition: Expr, value: Expr, other: Expr) -> Expr:
    """A value that is only read where a condition holds."""
    return tirx.if_then_else(condition, value, other)


def from_lane(value: Expr, mask: int) -> Expr:
    """The value of the lane of the warp whose number differs in these bits. All lanes must be here."""
    return tirx.call_extern(element_of(value), "tundish_xor", value, i32(mask))


def over_lanes(value: Expr, combine: Callable[[Expr, Expr], Expr], lanes: int = WARP) -> Expr:
    """One number from those of neighbouring lanes, the same in all of them."""
    step = lanes // 2
    while step:
        value = bind(value)
        value = combine(value, bind(from_lane(value, step)))
        step //= 2
    return bind(value)


def over_block(b: Block, value: Expr, combine: Callable[[Expr, Expr], Expr], threads: int, room: Any) -> Expr:
    """One number from those of all threads of a block, the same in all. room: a shared number for each warp, which is
    used for nothing else until the next `sync`."""
    value = over_lanes(value, combine)
    if threads == WARP:
        return value
    when(same(rem32(b.lane, WARP), i32(0)), lambda: store(room, div32(b.lane, WARP), value))
    sync()
    parts = [load(room, i32(i)) for i in range(threads // WARP)]
    while len(parts) > 1:
        half = (len(parts) + 1) // 2
        parts = [combine(parts[i], parts[i + half]) if i + half < len(parts) else parts[i] for i in range(half)]
    return bind(parts[0])


def part(vector: Expr, lane: int) -> Expr:
    """One number of a vector."""
    return tirx.Shuffle([vector], [i32(lane)])


def pointer(array: Any, at: Expr | int) -> Expr:
    return T.address_of(tirx.BufferLoad(array, [at]))
