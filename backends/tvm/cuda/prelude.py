"""What the kernels' CUDA C stands on: instructions that TensorIR has no words for, each a small function.

Sources: NVIDIA, PTX ISA 9.0, "Warp Level Matrix Instructions" (mma, ldmatrix) and "Data Movement and Conversion
Instructions" (cvt, cp.async).
"""

from __future__ import annotations

_MMA = """
__device__ __forceinline__ void tundish_mma_{name}(float* d, const unsigned int* a, const unsigned int* b) {{
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.{name}.{name}.f32 "
      "{{%0,%1,%2,%3}}, {{%4,%5,%6,%7}}, {{%8,%9}}, {{%0,%1,%2,%3}};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}}
"""

_LDMATRIX = """
__device__ __forceinline__ void tundish_ldmatrix{suffix}(unsigned int* r, const unsigned short* row) {{
  unsigned int at = (unsigned int)__cvta_generic_to_shared(row);
  asm volatile("ldmatrix.sync.aligned.m8n8.x4{word}.shared.b16 {{%0,%1,%2,%3}}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at));
}}
"""

_WAIT = """
__device__ __forceinline__ void tundish_copies_wait_{count}() {{
  asm volatile("cp.async.wait_group {count};" ::: "memory");
}}
"""

PRELUDE = (
    """
typedef unsigned int uint;
typedef unsigned short ushort;
typedef unsigned char uchar;
#define CUDART_INF_F __int_as_float(0x7f800000)
#define CUDART_NAN_F __int_as_float(0x7fffffff)
#define CUDART_INF __longlong_as_double(0x7ff0000000000000LL)
#define CUDART_NAN __longlong_as_double(0xfff8000000000000LL)
typedef signed char int8_t; typedef short int16_t; typedef int int32_t; typedef long long int64_t;
typedef unsigned char uint8_t; typedef unsigned short uint16_t; typedef unsigned int uint32_t;
typedef unsigned long long uint64_t;

__device__ __forceinline__ float tundish_from_half(unsigned short bits) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
}
__device__ __forceinline__ unsigned short tundish_to_half(float value) {
  unsigned short bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
}
struct half {
  unsigned short bits;
  __device__ half() {}
  __device__ explicit half(float value) : bits(tundish_to_half(value)) {}
  __device__ operator float() const { return tundish_from_half(bits); }
};
// As TVM means them: the second where one of the two is not a number, which CUDA's own would pass over.
template <typename T> __device__ __forceinline__ T tundish_most(T a, T b) { return a > b ? a : b; }
template <typename T> __device__ __forceinline__ T tundish_least(T a, T b) { return a < b ? a : b; }
#define max(a, b) tundish_most(a, b)
#define min(a, b) tundish_least(a, b)
template <typename T> __device__ __forceinline__ T tundish_xor(T value, int mask) {
  return __shfl_xor_sync(0xffffffffu, value, mask);
}
__device__ __forceinline__ unsigned int tundish_pack_bf16(float low, float high) {
  unsigned int both;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
  return both;
}
__device__ __forceinline__ unsigned int tundish_pack_f16(float low, float high) {
  unsigned int both;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
  return both;
}
__device__ __forceinline__ float tundish_exp2(float value) {
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(value));
  return power;
}
// 16 bytes, of which the first `bytes` are copied and the others 0. Both addresses are multiples of 16.
__device__ __forceinline__ void tundish_copy_async(void* to, const void* from, int bytes) {
  unsigned int at = (unsigned int)__cvta_generic_to_shared(to);
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" :: "r"(at), "l"(from), "r"(bytes) : "memory");
}
__device__ __forceinline__ void tundish_copies_end() { asm volatile("cp.async.commit_group;" ::: "memory"); }
"""
    + "".join(_MMA.format(name=n) for n in ("bf16", "f16"))
    + "".join(_LDMATRIX.format(suffix=s, word=w) for s, w in (("", ""), ("_turned", ".trans")))
    + "".join(_WAIT.format(count=n) for n in range(4))
)
