"""Dot products of bytes and of bf16 pairs: instructions that TVM's own operations do not reach, through LLVM's."""

from __future__ import annotations

from .script import Expr, pure_external

DOT = """
define weak_odr hidden <16 x i32> @tundish_dot_bytes(<16 x i32> %sum, <16 x i32> %a, <16 x i32> %b) alwaysinline {
  %unsigned = bitcast <16 x i32> %a to <64 x i8>
  %signed = bitcast <16 x i32> %b to <64 x i8>
  %y = call <16 x i32> @llvm.x86.avx512.vpdpbusd.512(<16 x i32> %sum, <64 x i8> %unsigned, <64 x i8> %signed)
  ret <16 x i32> %y
}
declare <16 x i32> @llvm.x86.avx512.vpdpbusd.512(<16 x i32>, <64 x i8>, <64 x i8>)
"""


def dot(total: Expr, unsigned: Expr, signed: Expr) -> Expr:
    """total + the four products of bytes in each 32-bit lane, those of `unsigned` from 0 to 255."""
    return pure_external("int32x16", "tundish_dot_bytes", total, unsigned, signed)
