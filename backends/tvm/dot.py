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
PAIRS = """
define weak_odr hidden <16 x float> @tundish_dot_pairs(<16 x float> %sum, <16 x i32> %a, <16 x i32> %b) alwaysinline {
  %x = bitcast <16 x i32> %a to <32 x bfloat>
  %w = bitcast <16 x i32> %b to <32 x bfloat>
  %y = call <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(<16 x float> %sum, <32 x bfloat> %x, <32 x bfloat> %w)
  ret <16 x float> %y
}
define weak_odr hidden <16 x i16> @tundish_to_bf16(<16 x float> %x) alwaysinline {
  %y = call <16 x bfloat> @llvm.x86.avx512bf16.cvtneps2bf16.512(<16 x float> %x)
  %bits = bitcast <16 x bfloat> %y to <16 x i16>
  ret <16 x i16> %bits
}
declare <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(<16 x float>, <32 x bfloat>, <32 x bfloat>)
declare <16 x bfloat> @llvm.x86.avx512bf16.cvtneps2bf16.512(<16 x float>)
"""


def dot(total: Expr, unsigned: Expr, signed: Expr) -> Expr:
    """total + the four products of bytes in each 32-bit lane, those of `unsigned` from 0 to 255."""
    return pure_external("int32x16", "tundish_dot_bytes", total, unsigned, signed)


def dot_pairs(total: Expr, a: Expr, b: Expr) -> Expr:
    """total + the two products of the bf16 pair in each 32-bit lane, in f32; the least numbers count as 0."""
    return pure_external("float32x16", "tundish_dot_pairs", total, a, b)


def to_bf16(x: Expr) -> Expr:
    """16 f32 numbers rounded to bf16, as uint16; the least numbers become 0."""
    return pure_external("uint16x16", "tundish_to_bf16", x)
