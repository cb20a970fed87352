// Sixteen floats in an AVX-512 register. Included by *_avx512.cc alone; internal linkage throughout (see kernel.h).

#pragma once

#include <immintrin.h>
#include <stdint.h>

namespace optcc {
namespace {

using V = __m512;
using I = __m512i;  // an int32 in each lane, or two int16
constexpr int kLanes = 16;

inline V zero() { return _mm512_setzero_ps(); }
inline V set1(float x) { return _mm512_set1_ps(x); }
inline V load(const float* p) { return _mm512_loadu_ps(p); }
inline void store(float* p, V x) { _mm512_storeu_ps(p, x); }
inline V load_half(const uint16_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline void store_half(uint16_t* p, V x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
// Nearest, ties to even; x is within int16.
inline void store_int16(int16_t* p, V x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(_mm512_cvtps_epi32(x)));
}
inline I zero_int() { return _mm512_setzero_si512(); }
inline I load_pairs(const int16_t* p) { return _mm512_loadu_si512(p); }
inline I load_pairs(const int8_t* p) {
  return _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline void store_pairs(int16_t* p, I x) { _mm512_storeu_si512(p, x); }
// The same pair in each lane.
inline I pair(const int16_t* p) {
  int32_t both;
  __builtin_memcpy(&both, p, sizeof both);
  return _mm512_set1_epi32(both);
}
// sum + both products, in each lane. Written out because g++ 12 makes copies of the sum for every _mm512_dpwssd_epi32.
inline I dot(I x, I y, I sum) {
  __asm__("vpdpwssd %2, %1, %0" : "+v"(sum) : "v"(x), "v"(y));
  return sum;
}
inline V floats(I x) { return _mm512_cvtepi32_ps(x); }
inline V add(V a, V b) { return _mm512_add_ps(a, b); }
inline V sub(V a, V b) { return _mm512_sub_ps(a, b); }
inline V mul(V a, V b) { return _mm512_mul_ps(a, b); }
inline V div(V a, V b) { return _mm512_div_ps(a, b); }
inline V fma(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
// b where either is not a number: vmax(bound, x) lets a NaN in x through.
inline V vmax(V a, V b) { return _mm512_max_ps(a, b); }
inline V vmin(V a, V b) { return _mm512_min_ps(a, b); }
inline V magnitude(V x) { return _mm512_abs_ps(x); }
// Of magnitudes, as integers: what is not a number is the greatest.
inline V greatest(V a, V b) {
  return _mm512_castsi512_ps(_mm512_max_epi32(_mm512_castps_si512(a), _mm512_castps_si512(b)));
}
inline float reduce_greatest(V x) {
  const int32_t bits = _mm512_reduce_max_epi32(_mm512_castps_si512(x));
  float found;
  __builtin_memcpy(&found, &bits, sizeof found);
  return found;
}
inline V with_sign_of(V x, V sign) {
  return _mm512_or_ps(x, _mm512_and_ps(sign, _mm512_set1_ps(-0.0f)));  // x >= 0
}
inline V where_less(V a, V b, V yes, V no) {
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), no, yes);
}
// A bit for each lane.
inline uint32_t lanes_less(V a, V b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
inline V nearest(V x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
// x times 2^n for whole n.
inline V scale2(V x, V n) { return _mm512_scalef_ps(x, n); }
// Lanes from..to of x, the others of `other`.
inline V keep(V x, int from, int to, V other) {
  const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __mmask16 early = _mm512_cmpge_epi32_mask(lane, _mm512_set1_epi32(from));
  return _mm512_mask_blend_ps(_mm512_mask_cmple_epi32_mask(early, lane, _mm512_set1_epi32(to)), other, x);
}
// Their trees are fixed: the order depends on nothing.
inline float reduce_max(V x) { return _mm512_reduce_max_ps(x); }
inline float reduce_add(V x) { return _mm512_reduce_add_ps(x); }

// Lane i is r[i]'s lanes, put together in the order of reduce_max and reduce_add.
template <V (*Op)(V, V)>
inline V reduce_each(const V* r) {
  V t[8], u[4];
  for (int i = 0; i < 8; ++i) {
    const V x = r[i + i / 4 * 4], y = r[i + i / 4 * 4 + 4];
    t[i] = Op(_mm512_shuffle_f32x4(x, y, 0x44), _mm512_shuffle_f32x4(x, y, 0xee));
  }
  for (int i = 0; i < 4; ++i)
    u[i] = Op(_mm512_shuffle_f32x4(t[i], t[i + 4], 0x88), _mm512_shuffle_f32x4(t[i], t[i + 4], 0xdd));
  const V x = Op(_mm512_unpacklo_ps(u[0], u[2]), _mm512_unpackhi_ps(u[0], u[2]));
  const V y = Op(_mm512_unpacklo_ps(u[1], u[3]), _mm512_unpackhi_ps(u[1], u[3]));
  return Op(_mm512_unpacklo_ps(x, y), _mm512_unpackhi_ps(x, y));
}

inline void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }

}  // namespace
}  // namespace optcc
