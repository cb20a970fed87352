// Philox4x64-10, the counter-based generator of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011.

#pragma once

#include <stdint.h>

namespace optcc {

// The first word for (key, counter, stream), as numpy.random.Philox(key, counter=[counter, stream, 0, 0]) gives it:
// numpy counts up before it draws.
inline uint64_t philox(uint64_t key, uint64_t counter, uint64_t stream) {
  uint64_t c[4] = {counter + 1, stream + (counter + 1 == 0), 0, 0};
  uint64_t k0 = key, k1 = 0;
  for (int round = 0; round < 10; ++round) {
    const auto a = static_cast<unsigned __int128>(0xD2E7470EE14C6C93u) * c[0];
    const auto b = static_cast<unsigned __int128>(0xCA5A826395121157u) * c[2];
    const uint64_t next[4] = {static_cast<uint64_t>(b >> 64) ^ c[1] ^ k0, static_cast<uint64_t>(b),
                              static_cast<uint64_t>(a >> 64) ^ c[3] ^ k1, static_cast<uint64_t>(a)};
    for (int i = 0; i < 4; ++i) c[i] = next[i];
    k0 += 0x9E3779B97F4A7C15u;
    k1 += 0xBB67AE8584CAA73Bu;
  }
  return c[0];
}

// In [0, 1).
inline double uniform(uint64_t key, uint64_t counter) {
  return static_cast<double>(philox(key, counter, 0) >> 11) * 0x1.0p-53;
}

}  // namespace optcc
