// IEEE half precision in plain integers, for machines and places without instructions for it.

#pragma once

#include <stdint.h>
#include <string.h>

namespace optcc {
namespace {

inline float from_half(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000) << 16, exponent = h >> 10 & 31, fraction = h & 1023;
  uint32_t bits;
  if (exponent == 31) {
    bits = sign | 0x7f800000 | fraction << 13;
  } else if (exponent != 0) {
    bits = sign | (exponent + 112) << 23 | fraction << 13;
  } else {  // fraction * 2^-24, exact
    const float small = static_cast<float>(fraction) * 5.9604644775390625e-8f;
    memcpy(&bits, &small, 4);
    bits |= sign;
  }
  float x;
  memcpy(&x, &bits, 4);
  return x;
}

// To nearest, ties to even; too large becomes infinite.
inline uint16_t to_half(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  const uint32_t sign = bits >> 16 & 0x8000;
  bits &= 0x7fffffff;
  if (bits > 0x7f800000) return static_cast<uint16_t>(sign | 0x7e00);
  if (bits >= 0x477ff000) return static_cast<uint16_t>(sign | 0x7c00);  // 65520 and more
  if (bits < 0x38800000) {  // below 2^-14: adding 0.5 leaves the subnormal half in the lowest bits
    float magnitude;
    memcpy(&magnitude, &bits, 4);
    magnitude += 0.5f;
    memcpy(&bits, &magnitude, 4);
    return static_cast<uint16_t>(sign | (bits - 0x3f000000));
  }
  const uint32_t odd = bits >> 13 & 1;
  return static_cast<uint16_t>(sign | (bits + 0xfff + odd - 0x38000000) >> 13);
}

}  // namespace
}  // namespace optcc
