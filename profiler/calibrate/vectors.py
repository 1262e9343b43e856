"""Loops over vector registers, as LLVM code inside numba functions: multiply-adds alone, and loads alone.

Numba's own vectoriser may keep a loop in memory, in half vectors or bound by the latency of one sum; written out, each
iteration is more independent instructions than a core needs to hide their latency.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

ACCUMULATORS = 12  # of 16 (AVX) or 32 registers; latency 4 x 2 units = 8 must be in flight
LOADS = 8  # vectors that one iteration of the reading loop loads
Loop = Callable[[int], float]
Reader = Callable[[Any, int], int]


@dataclass(frozen=True, slots=True)
class Unit:
    """One instruction for multiply-adds. lanes: of the accumulator. flops: of one. intrinsic: LLVM's name."""

    dtype: str
    lanes: int
    flops: int
    intrinsic: str


def vector_bytes(features: frozenset[str]) -> int:
    """The widest vector of this CPU."""
    return 64 if "avx512f" in features else 32 if "avx" in features else 16


def units(features: frozenset[str]) -> dict[str, Unit]:
    """By element type, what this CPU multiplies and adds with."""
    width = vector_bytes(features)
    found = {
        "f32": Unit("f32", width // 4, 2 * (width // 4), f"llvm.fma.v{width // 4}f32"),
        "f64": Unit("f64", width // 8, 2 * (width // 8), f"llvm.fma.v{width // 8}f64"),
    }
    if "avx512_bf16" in features:
        found["bf16"] = Unit("bf16", 16, 64, "llvm.x86.avx512bf16.dpbf16ps.512")
    if "avx512_vnni" in features:
        found["i8"] = Unit("i8", 16, 128, "llvm.x86.avx512.vpdpbusd.512")
    return found


def loop(unit: Unit) -> Loop:
    """A compiled function: so many iterations of ACCUMULATORS instructions; its result depends on all of them.

    It holds no interpreter lock, so that threads run it at once.
    """
    from numba import njit, types
    from numba.extending import intrinsic

    @intrinsic
    def run(context, count):  # type: ignore[no-untyped-def]
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return _multiply_adds(builder, args[0], unit)

        return types.float64(types.int64), emit

    @njit(types.float64(types.int64), nogil=True)
    def looped(count):  # type: ignore[no-untyped-def]
        return run(count)  # type: ignore[call-arg]

    compiled: Loop = looped
    return compiled


def reader(width_bytes: int) -> Reader:
    """A compiled function (array of float32, passes): reads the array so many times, all but a last part of a block.

    A block is LOADS vectors. Its result depends on every element that is read.
    """
    from numba import njit, types
    from numba.extending import intrinsic

    @intrinsic
    def run(context, address, blocks, passes):  # type: ignore[no-untyped-def]
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return _loads(builder, args[0], args[1], args[2], width_bytes)

        return types.int64(types.uintp, types.int64, types.int64), emit

    @njit(types.int64(types.float32[::1], types.int64), nogil=True)
    def read(array, passes):  # type: ignore[no-untyped-def]
        blocks = array.size * 4 // (LOADS * width_bytes)
        return run(array.ctypes.data, blocks, passes)  # type: ignore[call-arg]

    compiled: Reader = read
    return compiled


def _multiply_adds(builder: Any, count: Any, unit: Unit) -> Any:
    """for i in range(count): each accumulator = fma(...); then the sum of their first lanes."""
    from llvmlite import ir

    double = ir.DoubleType()
    element, operand = _types(ir, unit)
    vector = ir.VectorType(element, unit.lanes)
    factor = ir.Constant(operand, [_operand(ir, operand.element)] * operand.count)
    start, body, after = builder.block, builder.append_basic_block("work"), builder.append_basic_block("done")
    builder.branch(body)
    builder.position_at_end(body)
    following = _counted(builder, ir, start, body)
    sums = [builder.phi(vector) for _ in range(ACCUMULATORS)]
    function = _intrinsic(builder, ir, unit, vector, operand)
    for k, accumulator in enumerate(sums):
        first = ir.Constant(element, k + 1 if isinstance(element, ir.IntType) else float(k + 1))
        accumulator.add_incoming(ir.Constant(vector, [first] * unit.lanes), start)
        accumulator.add_incoming(builder.call(function, (accumulator, factor, factor)), body)
    builder.cbranch(builder.icmp_signed("<", following(), count), body, after)
    builder.position_at_end(after)
    total = double(0.0)
    for accumulator in sums:
        lane = builder.extract_element(accumulator.incomings[1][0], ir.IntType(32)(0))
        total = builder.fadd(total, _as_double(builder, ir, lane))
    return total


def _counted(builder: Any, ir: Any, start: Any, body: Any) -> Callable[[], Any]:
    """An index from 0 at the head of `body`; the function given back adds 1 to it and closes the loop."""
    i64 = ir.IntType(64)
    index = builder.phi(i64)
    index.add_incoming(i64(0), start)

    def following() -> Any:
        after = builder.add(index, i64(1))
        index.add_incoming(after, builder.block)
        return after

    following.index = index  # type: ignore[attr-defined]
    return following


def _loads(builder: Any, address: Any, blocks: Any, passes: Any, width_bytes: int) -> Any:
    """for p in range(passes): for i in range(blocks): each sum += the vector at its place."""
    from llvmlite import ir

    i64 = ir.IntType(64)
    vector = ir.VectorType(i64, width_bytes // 8)
    zero = ir.Constant(vector, [0] * (width_bytes // 8))
    start = builder.block
    outer, inner, over, after = (builder.append_basic_block(n) for n in ("pass", "block", "passed", "done"))
    builder.branch(outer)
    builder.position_at_end(outer)
    next_pass = _counted(builder, ir, start, outer)
    carried = [builder.phi(vector) for _ in range(LOADS)]
    builder.branch(inner)
    builder.position_at_end(inner)
    next_block = _counted(builder, ir, outer, inner)
    sums = [builder.phi(vector) for _ in range(LOADS)]
    base = builder.add(address, builder.mul(next_block.index, i64(LOADS * width_bytes)))  # type: ignore[attr-defined]
    added = []
    for k, total in enumerate(sums):
        place = builder.inttoptr(builder.add(base, i64(k * width_bytes)), vector.as_pointer())
        added.append(builder.add(total, builder.load(place, align=16)))
        total.add_incoming(carried[k], outer)
        total.add_incoming(added[k], inner)
        carried[k].add_incoming(zero, start)
        carried[k].add_incoming(added[k], over)
    builder.cbranch(builder.icmp_signed("<", next_block(), blocks), inner, over)
    builder.position_at_end(over)
    builder.cbranch(builder.icmp_signed("<", next_pass(), passes), outer, after)
    builder.position_at_end(after)
    whole = added[0]
    for value in added[1:]:
        whole = builder.add(whole, value)
    total = i64(0)
    for lane in range(width_bytes // 8):
        total = builder.add(total, builder.extract_element(whole, ir.IntType(32)(lane)))
    return total


def _types(ir: Any, unit: Unit) -> tuple[Any, Any]:
    """The accumulator's element and the vector that is multiplied."""
    plain = {"f32": ir.FloatType(), "f64": ir.DoubleType()}
    if unit.dtype in plain:
        return plain[unit.dtype], ir.VectorType(plain[unit.dtype], unit.lanes)
    if unit.dtype == "bf16":
        return ir.FloatType(), ir.VectorType(ir.IntType(16), 2 * unit.lanes)
    return ir.IntType(32), ir.VectorType(ir.IntType(32), unit.lanes)


def _operand(ir: Any, element: Any) -> Any:
    """Below 1, so that sums stay finite: acc · f + f; small numbers for the integer kinds."""
    if isinstance(element, ir.IntType):
        return element(0x3C00 if element.width == 16 else 0x01010101)
    return element(0.5)


def _intrinsic(builder: Any, ir: Any, unit: Unit, vector: Any, operand: Any) -> Any:
    module = builder.module
    if unit.intrinsic in module.globals:
        return module.globals[unit.intrinsic]
    return ir.Function(module, ir.FunctionType(vector, [vector, operand, operand]), unit.intrinsic)


def _as_double(builder: Any, ir: Any, lane: Any) -> Any:
    if isinstance(lane.type, ir.IntType):
        return builder.sitofp(lane, ir.DoubleType())
    return lane if isinstance(lane.type, ir.DoubleType) else builder.fpext(lane, ir.DoubleType())
