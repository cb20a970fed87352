// Rotary position embedding (Su et al., "RoFormer", 2021) of one head of one token.

#pragma once

#include <stdint.h>
#include <string.h>

namespace optcc {

// Tables cos and sin [T, half]; the first 2 * half channels of a head are rotated, the others pass through.
struct Rotary {
  const float *cos, *sin;
  int64_t half, width;
  bool interleaved;  // channels 2i and 2i + 1 are a pair; otherwise i and i + half

  void turn(int64_t token, const float* from, float* to) const {
    const float *c = cos + token * half, *s = sin + token * half;
    if (interleaved) {
      for (int64_t i = 0; i < half; ++i) {
        to[2 * i] = from[2 * i] * c[i] - from[2 * i + 1] * s[i];
        to[2 * i + 1] = from[2 * i + 1] * c[i] + from[2 * i] * s[i];
      }
    } else {
      for (int64_t i = 0; i < half; ++i) to[i] = from[i] * c[i] - from[i + half] * s[i];
      for (int64_t i = 0; i < half; ++i) to[i + half] = from[i + half] * c[i] + from[i] * s[i];
    }
    memcpy(to + 2 * half, from + 2 * half, static_cast<size_t>(width - 2 * half) * sizeof(float));
  }
};

}  // namespace optcc
