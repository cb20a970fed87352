// What one core of this machine can do at most, as JSON: bytes read from memory, and products of 8-bit numbers.
//   c++ -O3 -march=native limits.cc -o limits && ./limits

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>

#if defined(__AVX512VNNI__)
#include <immintrin.h>
#endif

static double now() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
}

// Reads `words` in order; asks for what comes `kAhead` words later, or leaves that to the processor, for which is faster
// depends on it.
template <bool kAsks>
static uint64_t read_all(const uint64_t* data, size_t words) {
  constexpr size_t kAhead = 768;
  uint64_t sum[16] = {}, all = 0;
  for (size_t i = 0; i < words; i += 16) {
    if (kAsks) {
      __builtin_prefetch(data + i + kAhead);
      __builtin_prefetch(data + i + kAhead + 8);
    }
    for (int j = 0; j < 16; j++) sum[j] += data[i + j];
  }
  for (uint64_t part : sum) all += part;
  return all;
}

// GB/s of reading 256 MB in order, the best of ten times either way.
static double read_rate() {
  const size_t bytes = size_t(256) << 20, words = bytes / 8;
  uint64_t* data = static_cast<uint64_t*>(aligned_alloc(64, bytes));
  memset(data, 1, bytes);
  double best = 1e9;
  volatile uint64_t kept = 0;
  for (int round = 0; round < 20; round++) {
    const double start = now();
    kept = kept + (round % 2 ? read_all<true>(data, words) : read_all<false>(data, words));
    const double took = now() - start;
    if (took < best) best = took;
  }
  free(data);
  return static_cast<double>(bytes) / best / 1e9;
}

// 1e9 products and sums a second, 0 where there is no instruction for them that this program knows.
static double product_rate() {
#if defined(__AVX512VNNI__)
  // Written out, registers too: a compiler sees that all sums are the same and computes one, or stores each.
  const __m512i a = _mm512_set1_epi8(1), b = _mm512_set1_epi8(2);
  const int count = 1000000;
  double best = 1e9;
#define OPTCC_TWO(x, y) "vpdpbusd %1, %0, %%zmm" #x "\n\tvpdpbusd %1, %0, %%zmm" #y "\n\t"
  for (int round = 0; round < 20; round++) {
    const double start = now();
    for (int i = 0; i < count; i++) {
      __asm__ volatile(OPTCC_TWO(16, 17) OPTCC_TWO(18, 19) OPTCC_TWO(20, 21) OPTCC_TWO(22, 23) OPTCC_TWO(24, 25)
                           OPTCC_TWO(26, 27) OPTCC_TWO(28, 29) OPTCC_TWO(30, 31)
                       :
                       : "v"(a), "v"(b)
                       : "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22", "xmm23", "xmm24", "xmm25",
                         "xmm26", "xmm27", "xmm28", "xmm29", "xmm30", "xmm31");
    }
    const double took = now() - start;
    if (took < best) best = took;
  }
#undef OPTCC_TWO
  return count * 16.0 * 64.0 / best / 1e9;
#else
  return 0;
#endif
}

int main() { printf("{\"read_gb_s\": %.1f, \"products_g_s\": %.1f}\n", read_rate(), product_rate()); }
