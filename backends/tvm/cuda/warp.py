"""Tensor cores and what feeds them: products of small matrices by a warp, and copies that are on their way.

A product is of [16, 16] and [16, 8] in 16 bits, summed in f32. Of its parts a lane holds, as two numbers in a word,
with g = lane / 4 and t = lane % 4: of the first rows g and g + 8 at columns 2 t, 2 t + 1 and 8 more; of the second rows
2 t, 2 t + 1 and 8 more at column g; of the sums, in f32, rows g and g + 8 at columns 2 t, 2 t + 1.
Source: NVIDIA, PTX ISA 9.0, "Matrix Fragments for mma.m16n8k16", "ldmatrix", "cp.async".
"""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from .block import i32, pointer

PAD = 8  # numbers of 16 bits between rows of shared memory, so that 8 rows at the same column lie in all banks
CHUNK = 8  # numbers of 16 bits that one copy moves, 16 bytes
WORDS = {"bfloat16": "bf16", "float16": "f16"}
Expr = Any


class Words:
    """Registers of words of two numbers, or of sums: what instructions take by their address."""

    def __init__(self, count: int, dtype: str = "uint32") -> None:
        self.buffer = T.alloc_buffer((count,), dtype, scope="local", layout=None)

    def at(self, i: int) -> Expr:
        return pointer(self.buffer, i)

    def __getitem__(self, i: int) -> Expr:
        return tirx.BufferLoad(self.buffer, [i32(i)])

    def __setitem__(self, i: int, value: Expr) -> None:
        T.buffer_store(self.buffer, value, [i32(i)])


def multiply(kind: str, sums: Expr, a: Expr, b: Expr) -> None:
    """sums += a · b; the addresses of 4 sums, 4 words and 2. kind: TVM's name of the numbers' type."""
    T.evaluate(tirx.call_extern("void", f"tundish_mma_{WORDS[kind]}", sums, a, b))


def load_matrices(words: Expr, row: Expr, *, turned: bool = False) -> None:
    """Four matrices of 8 x 8 into 4 words: lane 8 i + j gives the address of row j of the i-th, in shared memory."""
    T.evaluate(tirx.call_extern("void", "tundish_ldmatrix_turned" if turned else "tundish_ldmatrix", words, row))


def pack(kind: str, low: Expr, high: Expr) -> Expr:
    """Two f32 numbers in a word."""
    return tirx.call_pure_extern("uint32", f"tundish_pack_{WORDS[kind]}", low, high)


def copy_async(to: Expr, source: Expr, inside: Expr) -> None:
    """16 bytes from global to shared memory; 0 where a condition does not hold, and then nothing is read."""
    bytes = tirx.Select(inside, i32(16), i32(0))
    T.evaluate(tirx.call_extern("void", "tundish_copy_async", to, source, bytes))


def end_copies() -> None:
    """Those begun since the last end are a group."""
    T.evaluate(tirx.call_extern("void", "tundish_copies_end"))


def wait_copies(left: int) -> None:
    """Until no more than so many groups are on their way."""
    T.evaluate(tirx.call_extern("void", f"tundish_copies_wait_{left}"))
