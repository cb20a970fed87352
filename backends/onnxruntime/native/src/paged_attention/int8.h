// Keys and values as int8 with a scale per token and head: the arithmetic of optcc.quantize_activation.

#pragma once

#include <stdint.h>

namespace optcc {

static constexpr float kMostInt8 = 127.0f;

// A level within a million of zero, to nearest, ties to even.
static inline float nearest(float level) {
  constexpr float kWhole = 12582912.0f;  // 1.5 * 2^23: a sum with it has no bits behind the point
  return (level + kWhole) - kWhole;
}

// Levels of a row. Returns its scale, the largest magnitude by 127; no number where one of the row is none.
static inline float to_int8(const float* row, int64_t count, int8_t* levels) {
  float peak = 0.0f;
  bool number = true;
  for (int64_t i = 0; i < count; ++i) {
    const float magnitude = row[i] < 0 ? -row[i] : row[i];
    number &= magnitude == magnitude;
    peak = magnitude > peak ? magnitude : peak;
  }
  const float inverse = number && peak > 0 ? 1.0f / peak * kMostInt8 : 0.0f;  // as torch divides a number by a tensor
  for (int64_t i = 0; i < count; ++i) {
    const float level = nearest(row[i] * inverse);  // infinite where `inverse` is
    levels[i] = static_cast<int8_t>(level > 127.0f ? 127.0f : level >= -128.0f ? level : level < 0 ? -128.0f : 0.0f);
  }
  return number ? peak / kMostInt8 : __builtin_nanf("");
}

}  // namespace optcc
