// Four floats in the compiler's own vector type: SSE2, NEON or plain registers, whatever the machine has. Included by
// *_portable.cc alone; internal linkage throughout (see kernel.h).

#pragma once

#include <stdint.h>
#include <string.h>

#include "simd/half.h"

namespace optcc {
namespace {

typedef float V __attribute__((vector_size(16)));
typedef int32_t I __attribute__((vector_size(16)));  // or two int16 in each lane
typedef int16_t Pairs __attribute__((vector_size(16)));
constexpr int kLanes = 4;

inline V zero() { return V{0, 0, 0, 0}; }
inline V set1(float x) { return V{x, x, x, x}; }
inline V load(const float* p) {
  V x;
  memcpy(&x, p, sizeof x);
  return x;
}
inline void store(float* p, V x) { memcpy(p, &x, sizeof x); }
inline V load_half(const uint16_t* p) {
  return V{from_half(p[0]), from_half(p[1]), from_half(p[2]), from_half(p[3])};
}
inline void store_half(uint16_t* p, V x) {
  for (int i = 0; i < kLanes; ++i) p[i] = to_half(x[i]);
}
// Nearest, ties to even; x is within int16.
inline void store_int16(int16_t* p, V x) {
  constexpr float kWhole = 12582912.0f;  // 1.5 * 2^23: a sum with it has no bits behind the point
  const V rounded = (x + kWhole) - kWhole;
  for (int i = 0; i < kLanes; ++i) p[i] = static_cast<int16_t>(rounded[i]);
}
inline I zero_int() { return I{0, 0, 0, 0}; }
inline I load_pairs(const int16_t* p) {
  I x;
  memcpy(&x, p, sizeof x);
  return x;
}
inline I load_pairs(const int8_t* p) {
  return reinterpret_cast<I>(Pairs{p[0], p[1], p[2], p[3], p[4], p[5], p[6], p[7]});
}
inline void store_pairs(int16_t* p, I x) { memcpy(p, &x, sizeof x); }
// The same pair in each lane.
inline I pair(const int16_t* p) {
  int32_t both;
  memcpy(&both, p, sizeof both);
  return I{both, both, both, both};
}
// sum + both products, in each lane.
inline I dot(I x, I y, I sum) {
  const Pairs a = reinterpret_cast<Pairs>(x), b = reinterpret_cast<Pairs>(y);
  for (int i = 0; i < kLanes; ++i) sum[i] += a[2 * i] * b[2 * i] + a[2 * i + 1] * b[2 * i + 1];
  return sum;
}
inline V floats(I x) { return __builtin_convertvector(x, V); }
inline V choose(I mask, V yes, V no) {
  return reinterpret_cast<V>((mask & reinterpret_cast<I>(yes)) | (~mask & reinterpret_cast<I>(no)));
}
inline V add(V a, V b) { return a + b; }
inline V sub(V a, V b) { return a - b; }
inline V mul(V a, V b) { return a * b; }
inline V div(V a, V b) { return a / b; }
inline V fma(V a, V b, V c) { return a * b + c; }
// b where either is not a number: vmax(bound, x) lets a NaN in x through.
inline V vmax(V a, V b) { return choose(a > b, a, b); }
inline V vmin(V a, V b) { return choose(a < b, a, b); }
inline V magnitude(V x) { return reinterpret_cast<V>(reinterpret_cast<I>(x) & 0x7fffffff); }
// Of magnitudes, as integers: what is not a number is the greatest.
inline V greatest(V a, V b) {
  return choose(reinterpret_cast<I>(a) > reinterpret_cast<I>(b), a, b);
}
inline float reduce_greatest(V x) {
  V found = set1(x[0]);
  for (int i = 1; i < kLanes; ++i) found = greatest(found, set1(x[i]));
  return found[0];
}
inline V with_sign_of(V x, V sign) {
  return reinterpret_cast<V>(reinterpret_cast<I>(x) | (reinterpret_cast<I>(sign) & INT32_MIN));  // x >= 0
}
inline V where_less(V a, V b, V yes, V no) { return choose(a < b, yes, no); }
// A bit for each lane.
inline uint32_t lanes_less(V a, V b) {
  const I less = a < b;
  uint32_t lanes = 0;
  for (int i = 0; i < kLanes; ++i) lanes |= static_cast<uint32_t>(less[i] & 1) << i;
  return lanes;
}
inline V nearest(V x) { return x + 12582912.0f - 12582912.0f; }  // 1.5 * 2^23 pushes the fraction out
// x times 2^n for whole n from -126 to 127.
inline V scale2(V x, V n) { return x * reinterpret_cast<V>((__builtin_convertvector(n, I) + 127) << 23); }
// Lanes from..to of x, the others of `other`.
inline V keep(V x, int from, int to, V other) {
  const I lane = {0, 1, 2, 3};
  return choose((lane >= from) & (lane <= to), x, other);
}
// Their trees are fixed: the order depends on nothing.
inline float larger(float a, float b) { return a > b ? a : b; }
inline float reduce_max(V x) { return larger(larger(x[0], x[2]), larger(x[1], x[3])); }
inline float reduce_add(V x) { return (x[0] + x[2]) + (x[1] + x[3]); }

// Lane i is r[i]'s lanes, put together in the order of reduce_max and reduce_add.
template <V (*Op)(V, V)>
inline V reduce_each(const V* r) {
  const auto lane = [r](int i) { return V{r[0][i], r[1][i], r[2][i], r[3][i]}; };
  return Op(Op(lane(0), lane(2)), Op(lane(1), lane(3)));
}

inline void prefetch(const void* p) { __builtin_prefetch(p); }

}  // namespace
}  // namespace optcc
