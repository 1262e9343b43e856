// A GPU's threads on a CPU: the kernels' CUDA C as it is, each thread a context of its own. A block's threads run one at
// a time in an order that is given, each until it waits for others, so that a missing barrier shows as a wrong number in
// some order. Shared memory begins as what no kernel may read, and what is copied asynchronously is there only once it
// was waited for.
// Sources: NVIDIA, PTX ISA 9.0: mma.sync.m16n8k16, ldmatrix, cp.async, shfl.sync.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <vector>
#include <sys/mman.h>
#include <ucontext.h>

typedef unsigned int uint;
typedef unsigned short ushort;
typedef unsigned char uchar;
#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static __attribute__((section("tundish_shared")))
#define CUDART_INF_F __builtin_inff()
#define CUDART_NAN_F __builtin_nanf("")
#define CUDART_INF __builtin_inf()
#define CUDART_NAN __builtin_nan("")
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) uint4 { uint x, y, z, w; };
struct alignas(8) uint2 { uint x, y; };
struct alignas(16) int4 { int x, y, z, w; };
static inline uint4 make_uint4(uint x, uint y, uint z, uint w) { return {x, y, z, w}; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
template <typename T> static inline T tundish_most(T a, T b) { return a > b ? a : b; }
template <typename T> static inline T tundish_least(T a, T b) { return a < b ? a : b; }

extern "C" unsigned char __start_tundish_shared[], __stop_tundish_shared[];
__attribute__((used)) __shared__ int tundish_some_shared;  // so that the section is there
alignas(1024) static unsigned char tundish_dynamic[1 << 18];

namespace gpu {
enum State { READY, BLOCK, WARP, DONE };
const int STACK = 1 << 17, MOST = 1024;
struct Copy { void* to; unsigned char data[16]; };
struct Thread {
  ucontext_t context;
  State state;
  int site, parity;
  std::vector<Copy> open;
  std::deque<std::vector<Copy>> groups;
};
static Thread threads[MOST];
static unsigned char* stacks;
static ucontext_t scheduler;
static int now, block_size;
static char said[400];
static uint64_t slots[MOST / 32][2][32][4];  // what the lanes of a warp show one another
static struct { int x, y, z; } block_index;

static void complain(const char* what, int site) {
  if (!said[0]) snprintf(said, sizeof said, "block %d, thread %d, line %d: %s", block_index.x, now, site, what);
}
static void wait(State state, int site) {
  Thread& me = threads[now];
  me.state = state, me.site = site;
  int mine = now;
  swapcontext(&me.context, &scheduler);
  now = mine;
}
static inline uint64_t (*warp_slots())[4] { return slots[now / 32][threads[now].parity]; }
// Shows 32 bytes to the other lanes, and gives all lanes'.
static inline uint64_t (*show(const void* data, size_t size, int site))[4] {
  uint64_t(*all)[4] = warp_slots();
  memcpy(all[now % 32], data, size);
  threads[now].parity ^= 1;
  wait(WARP, site);
  return all;
}
}  // namespace gpu

static struct { operator int() const { return gpu::now; } } tundish_thread;
struct tundish_index { int (*get)(); operator int() const { return get(); } };
static struct { tundish_index x{[] { return gpu::now; }}; } threadIdx;
static struct { tundish_index x{[] { return gpu::block_index.x; }}; } blockIdx;
#define __syncthreads() gpu::wait(gpu::BLOCK, __LINE__)

#define alignas(bytes) __attribute__((aligned(bytes)))

// -- arithmetic -------------------------------------------------------------------------------------------------
static inline float tundish_bits(uint32_t bits) { float f; memcpy(&f, &bits, 4); return f; }
static inline uint32_t tundish_bits(float f) { uint32_t bits; memcpy(&bits, &f, 4); return bits; }
static inline float tundish_from_half(uint16_t bits) { _Float16 h; memcpy(&h, &bits, 2); return (float)h; }
static inline uint16_t tundish_to_half(float f) { _Float16 h = (_Float16)f; uint16_t b; memcpy(&b, &h, 2); return b; }
static inline float tundish_from_bf16(uint16_t bits) { return tundish_bits((uint32_t)bits << 16); }
static inline uint16_t tundish_to_bf16(float f) {
  uint32_t bits = tundish_bits(f);
  if (f != f) return 0x7fff;
  return (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}
struct half {
  uint16_t bits;
  half() {}
  explicit half(float value) : bits(tundish_to_half(value)) {}
  operator float() const { return tundish_from_half(bits); }
};
static inline uint32_t tundish_pack_bf16(float low, float high) {
  return tundish_to_bf16(low) | (uint32_t)tundish_to_bf16(high) << 16;
}
static inline uint32_t tundish_pack_f16(float low, float high) {
  return tundish_to_half(low) | (uint32_t)tundish_to_half(high) << 16;
}
static inline float tundish_exp2(float value) { return exp2f(value); }

// -- what a warp does together ----------------------------------------------------------------------------------
template <typename T> static inline T tundish_xor_at(T value, int mask, int site) {
  uint64_t(*all)[4] = gpu::show(&value, sizeof(T), site);
  T other;
  memcpy(&other, all[(gpu::now % 32) ^ mask], sizeof(T));
  return other;
}
#define tundish_xor(value, mask) tundish_xor_at(value, mask, __LINE__)

template <float widen(uint16_t)>
static inline void tundish_mma_at(float* d, const uint32_t* a, const uint32_t* b, int site) {
  uint32_t mine[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
  uint64_t(*all)[4] = gpu::show(mine, sizeof mine, site);
  int lane = gpu::now % 32;
  auto piece = [&](int of, int word, int half) {
    uint32_t words[6];
    memcpy(words, all[of], sizeof words);
    return widen((uint16_t)(words[word] >> (16 * half)));
  };
  for (int i = 0; i < 4; i++) {
    int row = lane / 4 + 8 * (i / 2), column = lane % 4 * 2 + i % 2;
    float total = d[i];
    for (int k = 0; k < 16; k++) {
      int quad = k % 8 / 2, word = (row >= 8 ? 1 : 0) + (k >= 8 ? 2 : 0);
      total += piece(row % 8 * 4 + quad, word, k % 2) * piece(column * 4 + quad, 4 + k / 8, k % 2);
    }
    d[i] = total;
  }
}
#define tundish_mma_bf16(d, a, b) tundish_mma_at<tundish_from_bf16>(d, a, b, __LINE__)
#define tundish_mma_f16(d, a, b) tundish_mma_at<tundish_from_half>(d, a, b, __LINE__)

static inline void tundish_ldmatrix_at(uint32_t* r, const uint16_t* row, bool turned, int site) {
  if ((uintptr_t)row % 16) gpu::complain("ldmatrix of an address that is no multiple of 16", site);
  uint64_t(*all)[4] = gpu::show(&row, sizeof row, site);
  int lane = gpu::now % 32;
  for (int m = 0; m < 4; m++) {
    uint16_t pair[2];
    for (int i = 0; i < 2; i++) {
      int at = turned ? lane % 4 * 2 + i : lane / 4, column = turned ? lane / 4 : lane % 4 * 2 + i;
      const uint16_t* from;
      memcpy(&from, all[8 * m + at], sizeof from);
      pair[i] = from[column];
    }
    r[m] = pair[0] | (uint32_t)pair[1] << 16;
  }
}
#define tundish_ldmatrix(r, row) tundish_ldmatrix_at(r, row, false, __LINE__)
#define tundish_ldmatrix_turned(r, row) tundish_ldmatrix_at(r, row, true, __LINE__)

// -- copies that are on their way -------------------------------------------------------------------------------
static inline void tundish_copy_async_at(void* to, const void* from, int bytes, int site) {
  if ((uintptr_t)to % 16 || (bytes && (uintptr_t)from % 16)) gpu::complain("cp.async of an odd address", site);
  if (bytes < 0 || bytes > 16) gpu::complain("cp.async of an odd size", site);
  gpu::Copy copy = {to, {}};
  memcpy(copy.data, from, bytes);
  memset(to, 0xff, 16);
  gpu::threads[gpu::now].open.push_back(copy);
}
#define tundish_copy_async(to, from, bytes) tundish_copy_async_at(to, from, bytes, __LINE__)
static inline void tundish_copies_end() {
  gpu::Thread& me = gpu::threads[gpu::now];
  me.groups.push_back(me.open);
  me.open.clear();
}
static inline void tundish_copies_wait(size_t left) {
  gpu::Thread& me = gpu::threads[gpu::now];
  for (; me.groups.size() > left; me.groups.pop_front())
    for (gpu::Copy& copy : me.groups.front()) memcpy(copy.to, copy.data, 16);
}
static inline void tundish_copies_wait_0() { tundish_copies_wait(0); }
static inline void tundish_copies_wait_1() { tundish_copies_wait(1); }
static inline void tundish_copies_wait_2() { tundish_copies_wait(2); }
static inline void tundish_copies_wait_3() { tundish_copies_wait(3); }

// gcc's check of addresses calls this, in place of its library's.
extern "C" void __ubsan_handle_type_mismatch_v1(void* at, unsigned long) {
  gpu::complain("a vector is read or written at an address that is no multiple of its size", 0);
}

#define max(a, b) tundish_most(a, b)
#define min(a, b) tundish_least(a, b)

// -- running ----------------------------------------------------------------------------------------------------
static void (*tundish_body)();
static void tundish_begin() {
  tundish_body();
  gpu::threads[gpu::now].state = gpu::DONE;
  setcontext(&gpu::scheduler);
}

namespace gpu {
static bool release(int first, int end, State state, bool whole) {
  int site = -1;
  for (int i = first; i < end; i++) {
    if (threads[i].state == DONE && !whole) continue;
    if (threads[i].state != state) return false;
    if (site >= 0 && threads[i].site != site) return now = i, complain("threads wait at different places", threads[i].site), false;
    site = threads[i].site;
  }
  if (site < 0) return false;
  for (int i = first; i < end; i++)
    if (threads[i].state == state) threads[i].state = READY;
  return true;
}
static void run_block(uint64_t seed) {
  memset(__start_tundish_shared, 0xff, __stop_tundish_shared - __start_tundish_shared);
  memset(tundish_dynamic, 0xff, sizeof tundish_dynamic);
  if (!stacks)
    stacks = (unsigned char*)mmap(0, (size_t)STACK * MOST, PROT_READ | PROT_WRITE,
                                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  std::vector<int> order(block_size);
  for (int i = 0; i < block_size; i++) order[i] = i;
  for (int i = 0; i < block_size; i++) {
    Thread& t = threads[i];
    getcontext(&t.context);
    t.context.uc_stack.ss_sp = stacks + (size_t)STACK * i;
    t.context.uc_stack.ss_size = STACK;
    t.context.uc_link = 0;
    makecontext(&t.context, tundish_begin, 0);
    t.state = READY, t.parity = 0, t.open.clear(), t.groups.clear();
  }
  for (bool more = true; more && !said[0];) {
    more = false;
    for (int i = block_size - 1; seed > 1 && i > 0; i--) {
      seed = seed * 6364136223846793005ull + 1442695040888963407ull;
      std::swap(order[i], order[(seed >> 33) % (i + 1)]);
    }
    for (int k = 0; k < block_size; k++) {
      int i = seed == 1 ? order[block_size - 1 - k] : order[k];
      if (threads[i].state != READY) continue;
      now = i, more = true;
      swapcontext(&scheduler, &threads[i].context);
    }
    for (int w = 0; w * 32 < block_size; w++) more |= release(w * 32, w * 32 + 32, WARP, true);
    more |= release(0, block_size, BLOCK, false);
  }
  for (int i = 0; i < block_size; i++) {
    if (threads[i].state != DONE) now = i, complain("a thread waits for others that never come", threads[i].site);
    if (!threads[i].open.empty()) now = i, complain("a copy was begun and its group never ended", 0);
  }
}
}  // namespace gpu
extern "C" const char* complaint() { return gpu::said; }
