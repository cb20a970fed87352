// AVX-512 with VNNI: sixteen lanes are one register.

#include <immintrin.h>

#include "kernel.h"

namespace {

using Floats = __m512;
using Ints = __m512i;
using Bytes = __m512i;
constexpr int kMostRows = 8;
constexpr int64_t kFewRows = 4;

#define LANES static inline __attribute__((always_inline))

LANES Floats zero_floats() { return _mm512_setzero_ps(); }
LANES Ints zero_ints() { return _mm512_setzero_si512(); }
LANES Floats spread(float value) { return _mm512_set1_ps(value); }
LANES Ints spread(int32_t value) { return _mm512_set1_epi32(value); }
LANES Floats load(const float* from) { return _mm512_loadu_ps(from); }
LANES void store(float* to, Floats value) { _mm512_storeu_ps(to, value); }
LANES Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
LANES Floats multiply(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
LANES Floats multiply_add(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
LANES Ints add(Ints a, Ints b) { return _mm512_add_epi32(a, b); }
LANES Ints subtract(Ints a, Ints b) { return _mm512_sub_epi32(a, b); }
LANES Ints multiply(Ints a, Ints b) { return _mm512_mullo_epi32(a, b); }
LANES Floats to_floats(Ints value) { return _mm512_cvtepi32_ps(value); }
LANES Ints to_nearest(Floats value) { return _mm512_cvtps_epi32(value); }
LANES Ints larger(Ints a, Ints b) { return _mm512_max_epu32(a, b); }
LANES uint32_t largest(Ints value) { return _mm512_reduce_max_epu32(value); }
LANES int32_t total_of(Ints value) { return _mm512_reduce_add_epi32(value); }
LANES Ints magnitudes(Floats value) {
  return _mm512_and_si512(_mm512_castps_si512(value), _mm512_set1_epi32(0x7fffffff));
}
LANES void store_bytes(int8_t* to, Ints value) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8(value));
}
LANES Floats load_half(const uint16_t* from) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
}
LANES Ints widen(const int8_t* from) {
  return _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
}

LANES void prefetch(const uint8_t* at, bool once) {
  if (once) _mm_prefetch(reinterpret_cast<const char*>(at), _MM_HINT_NTA);
  else _mm_prefetch(reinterpret_cast<const char*>(at), _MM_HINT_T0);
}
LANES Bytes load_bytes(const uint8_t* from) { return _mm512_loadu_si512(from); }
LANES void store(uint8_t* to, Bytes value) { _mm512_storeu_si512(to, value); }
LANES Bytes low_halves(Bytes value) { return _mm512_and_si512(value, _mm512_set1_epi8(15)); }
LANES Bytes high_halves(Bytes value) {
  return _mm512_and_si512(_mm512_srli_epi16(value, 4), _mm512_set1_epi8(15));
}
template <int kByte>
LANES Ints byte_of(Bytes value) {
  return _mm512_and_si512(_mm512_srli_epi32(value, 8 * kByte), _mm512_set1_epi32(255));
}

// Adds four products of unsigned fields and signed levels to each lane. Written out because g++ 12 makes a copy of the
// sum for every _mm512_dpbusd_epi32 in a loop, and runs out of registers.
template <int kBits>
LANES Ints dot(Ints sum, Bytes fields, const int8_t* levels) {
  int32_t four;
  __builtin_memcpy(&four, levels, sizeof four);
  __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(fields), "v"(_mm512_set1_epi32(four)));
  return sum;
}

}  // namespace

#include "kernel.inc"

const Kernels optcc::quantized_linear::kAvx512 = {quantize, integer, floating};
