// Keys and values as int8 with a scale per token and head: the arithmetic of optcc.quantize_activation.

#pragma once

#include <stdint.h>

namespace optcc {

// Levels of a row, to nearest, ties to even. Returns its scale, the largest magnitude by 127; no number where one of the
// row is none.
inline float to_int8(const float* row, int64_t count, int8_t* levels) {
  constexpr float kMost = 127.0f, kWhole = 12582912.0f;  // 1.5 * 2^23: a sum with it has no bits behind the point
  float peak = 0.0f;
  bool number = true;
  for (int64_t i = 0; i < count; ++i) {
    const float magnitude = row[i] < 0 ? -row[i] : row[i];
    number &= magnitude == magnitude;
    peak = magnitude > peak ? magnitude : peak;
  }
  const float inverse = peak > 0 ? kMost / peak : 0.0f;
  for (int64_t i = 0; i < count; ++i) {
    const float level = (row[i] * inverse + kWhole) - kWhole;
    levels[i] = static_cast<int8_t>(level > kMost ? kMost : level >= -kMost ? level : level < 0 ? -kMost : 0.0f);
  }
  return number ? peak / kMost : __builtin_nanf("");
}

}  // namespace optcc
