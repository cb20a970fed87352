// What one core of this machine can do at most, as JSON: bytes read from memory, and products of 8-bit numbers.
//   c++ -O3 -march=native limits.cc -o limits && ./limits

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <initializer_list>

#if defined(__AVX512VNNI__)
#include <immintrin.h>
#endif

static double now() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
}

// GB/s of reading 256 MB in order, the best of ten times.
static double read_rate() {
  const size_t bytes = size_t(256) << 20, words = bytes / 8;
  uint64_t* data = static_cast<uint64_t*>(aligned_alloc(64, bytes));
  memset(data, 1, bytes);
  double best = 1e9;
  volatile uint64_t kept = 0;
  for (int round = 0; round < 10; round++) {
    const double start = now();
    uint64_t sum[16] = {};
    for (size_t i = 0; i < words; i += 16) {
      __builtin_prefetch(data + i + 256);
      __builtin_prefetch(data + i + 264);
      for (int j = 0; j < 16; j++) sum[j] += data[i + j];
    }
    for (uint64_t part : sum) kept = kept + part;
    const double took = now() - start;
    if (took < best) best = took;
  }
  free(data);
  return static_cast<double>(bytes) / best / 1e9;
}

// 1e9 products and sums a second, 0 where there is no instruction for them that this program knows.
static double product_rate() {
#if defined(__AVX512VNNI__)
  __m512i sum[16], a = _mm512_set1_epi8(1), b = _mm512_set1_epi8(2);
  for (__m512i& lane : sum) lane = _mm512_setzero_si512();
  const int count = 1000000;
  double best = 1e9;
  for (int round = 0; round < 20; round++) {
    const double start = now();
    for (int i = 0; i < count; i++) {
      // Written out: a compiler sees that all sums are the same and computes one.
      for (__m512i& lane : sum) __asm__ volatile("vpdpbusd %2, %1, %0" : "+v"(lane) : "v"(a), "v"(b));
    }
    const double took = now() - start;
    if (took < best) best = took;
  }
  return count * 16.0 * 64.0 / best / 1e9;
#else
  return 0;
#endif
}

int main() { printf("{\"read_gb_s\": %.1f, \"products_g_s\": %.1f}\n", read_rate(), product_rate()); }
