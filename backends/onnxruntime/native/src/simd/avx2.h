// Eight floats in an AVX register. Included by *_avx2.cc alone; internal linkage throughout (see kernel.h).

#pragma once

#include <immintrin.h>
#include <stdint.h>

namespace optcc {
namespace {

using V = __m256;
using I = __m256i;  // an int32 in each lane, or two int16
constexpr int kLanes = 8;

inline V zero() { return _mm256_setzero_ps(); }
inline V set1(float x) { return _mm256_set1_ps(x); }
inline V load(const float* p) { return _mm256_loadu_ps(p); }
inline void store(float* p, V x) { _mm256_storeu_ps(p, x); }
inline V load_half(const uint16_t* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
inline void store_half(uint16_t* p, V x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
}
// Nearest, ties to even; x is within int16.
inline void store_int16(int16_t* p, V x) {
  const __m256i whole = _mm256_cvtps_epi32(x);
  const __m128i packed = _mm_packs_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), packed);
}
inline I zero_int() { return _mm256_setzero_si256(); }
inline I load_pairs(const int16_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
inline I load_pairs(const int8_t* p) {
  return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
inline void store_pairs(int16_t* p, I x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x); }
// The same pair in each lane.
inline I pair(const int16_t* p) {
  int32_t both;
  __builtin_memcpy(&both, p, sizeof both);
  return _mm256_set1_epi32(both);
}
// sum + both products, in each lane.
inline I dot(I x, I y, I sum) { return _mm256_add_epi32(sum, _mm256_madd_epi16(x, y)); }
inline V floats(I x) { return _mm256_cvtepi32_ps(x); }
inline V add(V a, V b) { return _mm256_add_ps(a, b); }
inline V sub(V a, V b) { return _mm256_sub_ps(a, b); }
inline V mul(V a, V b) { return _mm256_mul_ps(a, b); }
inline V div(V a, V b) { return _mm256_div_ps(a, b); }
inline V fma(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }
// b where either is not a number: vmax(bound, x) lets a NaN in x through.
inline V vmax(V a, V b) { return _mm256_max_ps(a, b); }
inline V vmin(V a, V b) { return _mm256_min_ps(a, b); }
inline V magnitude(V x) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x); }
// Of magnitudes, as integers: what is not a number is the greatest.
inline V greatest(V a, V b) {
  return _mm256_castsi256_ps(_mm256_max_epi32(_mm256_castps_si256(a), _mm256_castps_si256(b)));
}
inline float reduce_greatest(V x) {
  const __m256i bits = _mm256_castps_si256(x);
  __m128i a = _mm_max_epi32(_mm256_castsi256_si128(bits), _mm256_extracti128_si256(bits, 1));
  a = _mm_max_epi32(a, _mm_shuffle_epi32(a, 0x4e));
  a = _mm_max_epi32(a, _mm_shuffle_epi32(a, 0xb1));
  return _mm_cvtss_f32(_mm_castsi128_ps(a));
}
inline V with_sign_of(V x, V sign) {
  return _mm256_or_ps(x, _mm256_and_ps(sign, _mm256_set1_ps(-0.0f)));  // x >= 0
}
inline V where_less(V a, V b, V yes, V no) {
  return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(a, b, _CMP_LT_OQ));
}
// A bit for each lane.
inline uint32_t lanes_less(V a, V b) {
  return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_LT_OQ)));
}
inline V nearest(V x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
// x times 2^n for whole n from -126 to 127.
inline V scale2(V x, V n) {
  const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
  return _mm256_mul_ps(x, _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)));
}
// Lanes from..to of x, the others of `other`.
inline V keep(V x, int from, int to, V other) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const __m256i out = _mm256_or_si256(_mm256_cmpgt_epi32(_mm256_set1_epi32(from), lane),
                                      _mm256_cmpgt_epi32(lane, _mm256_set1_epi32(to)));
  return _mm256_blendv_ps(x, other, _mm256_castsi256_ps(out));
}
// Their trees are fixed: the order depends on nothing.
inline float reduce_max(V x) {
  __m128 a = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  a = _mm_max_ps(a, _mm_movehl_ps(a, a));
  return _mm_cvtss_f32(_mm_max_ss(a, _mm_shuffle_ps(a, a, 1)));
}
inline float reduce_add(V x) {
  __m128 a = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  a = _mm_add_ps(a, _mm_movehl_ps(a, a));
  return _mm_cvtss_f32(_mm_add_ss(a, _mm_shuffle_ps(a, a, 1)));
}

// Lane i is r[i]'s lanes, put together in the order of reduce_max and reduce_add.
template <V (*Op)(V, V)>
inline V reduce_each(const V* r) {
  V t[4];
  for (int i = 0; i < 4; ++i)
    t[i] = Op(_mm256_permute2f128_ps(r[i], r[i + 4], 0x20), _mm256_permute2f128_ps(r[i], r[i + 4], 0x31));
  const V x = Op(_mm256_unpacklo_ps(t[0], t[2]), _mm256_unpackhi_ps(t[0], t[2]));
  const V y = Op(_mm256_unpacklo_ps(t[1], t[3]), _mm256_unpackhi_ps(t[1], t[3]));
  return Op(_mm256_unpacklo_ps(x, y), _mm256_unpackhi_ps(x, y));
}

inline void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }

}  // namespace
}  // namespace optcc
