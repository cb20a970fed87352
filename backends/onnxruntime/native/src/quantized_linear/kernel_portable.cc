// Plain C++ that a compiler turns into the vectors it knows. Products aren't fused with sums here: results differ from
// the other instruction sets' by rounding.

#include <string.h>

#include "kernel.h"
#include "simd/half.h"

// No standard C++ header, nothing with external linkage but the table: see paged_attention/kernel.h.

namespace {

struct Floats {
  float lane[16];
};
struct Ints {
  int32_t lane[16];
};
struct Bytes {
  uint8_t lane[64];
};
constexpr int kMostRows = 2;
constexpr int64_t kFewRows = 4;

#define LANES static inline __attribute__((always_inline))

// Every lane of a result from the same lanes of operands.
template <class Result, class Make>
LANES Result each(Make make) {
  Result result;
  for (int i = 0; i < 16; i++) result.lane[i] = make(i);
  return result;
}

LANES Floats spread(float value) {
  return each<Floats>([=](int) { return value; });
}
LANES Ints spread(int32_t value) {
  return each<Ints>([=](int) { return value; });
}
LANES Floats zero_floats() { return spread(0.0f); }
LANES Ints zero_ints() { return spread(0); }
LANES Floats load(const float* from) {
  return each<Floats>([=](int i) { return from[i]; });
}
LANES void store(float* to, const Floats& value) { memcpy(to, value.lane, sizeof value.lane); }
LANES Floats add(const Floats& a, const Floats& b) {
  return each<Floats>([&](int i) { return a.lane[i] + b.lane[i]; });
}
LANES Floats multiply(const Floats& a, const Floats& b) {
  return each<Floats>([&](int i) { return a.lane[i] * b.lane[i]; });
}
LANES Floats multiply_add(const Floats& a, const Floats& b, const Floats& c) {
  return each<Floats>([&](int i) { return a.lane[i] * b.lane[i] + c.lane[i]; });
}
LANES Ints add(const Ints& a, const Ints& b) {
  return each<Ints>([&](int i) { return a.lane[i] + b.lane[i]; });
}
LANES Ints subtract(const Ints& a, const Ints& b) {
  return each<Ints>([&](int i) { return a.lane[i] - b.lane[i]; });
}
LANES Ints multiply(const Ints& a, const Ints& b) {
  return each<Ints>([&](int i) { return a.lane[i] * b.lane[i]; });
}
LANES Floats to_floats(const Ints& value) {
  return each<Floats>([&](int i) { return static_cast<float>(value.lane[i]); });
}
LANES Ints to_nearest(const Floats& value) {
  constexpr float kRound = 12582912.0f;  // see activations.inc
  return each<Ints>([&](int i) { return static_cast<int32_t>((value.lane[i] + kRound) - kRound); });
}
LANES Ints magnitudes(const Floats& value) {
  Ints bits;
  memcpy(bits.lane, value.lane, sizeof bits.lane);
  return each<Ints>([&](int i) { return bits.lane[i] & 0x7fffffff; });
}
LANES Ints larger(const Ints& a, const Ints& b) {
  return each<Ints>([&](int i) { return a.lane[i] < b.lane[i] ? b.lane[i] : a.lane[i]; });
}
LANES uint32_t largest(const Ints& value) {
  int32_t most = 0;
  for (int32_t lane : value.lane) most = most < lane ? lane : most;
  return static_cast<uint32_t>(most);
}
LANES int32_t total_of(const Ints& value) {
  int32_t total = 0;
  for (int32_t lane : value.lane) total += lane;
  return total;
}
LANES void store_bytes(int8_t* to, const Ints& value) {
  for (int i = 0; i < 16; i++) to[i] = static_cast<int8_t>(value.lane[i]);
}
LANES Ints widen(const int8_t* from) {
  return each<Ints>([=](int i) { return static_cast<int32_t>(from[i]); });
}

LANES Floats load_half(const uint16_t* from) {
  return each<Floats>([=](int i) { return optcc::from_half(from[i]); });
}

LANES void prefetch(const uint8_t* at, bool once) {
  if (once) __builtin_prefetch(at, 0, 0);
  else __builtin_prefetch(at);
}
LANES Bytes load_bytes(const uint8_t* from) {
  Bytes value;
  memcpy(value.lane, from, sizeof value.lane);
  return value;
}
LANES void store(uint8_t* to, const Bytes& value) { memcpy(to, value.lane, sizeof value.lane); }
LANES Bytes low_halves(const Bytes& value) {
  Bytes result;
  for (int i = 0; i < 64; i++) result.lane[i] = value.lane[i] & 15;
  return result;
}
LANES Bytes high_halves(const Bytes& value) {
  Bytes result;
  for (int i = 0; i < 64; i++) result.lane[i] = value.lane[i] >> 4;
  return result;
}
template <int kByte>
LANES Ints byte_of(const Bytes& value) {
  return each<Ints>([&](int i) { return static_cast<int32_t>(value.lane[i * 4 + kByte]); });
}

// Adds four products of unsigned fields and signed levels to each lane.
template <int kBits>
LANES Ints dot(const Ints& sum, const Bytes& fields, const int8_t* levels) {
  return each<Ints>([&](int i) {
    const uint8_t* four = fields.lane + i * 4;
    return sum.lane[i] + four[0] * levels[0] + four[1] * levels[1] + four[2] * levels[2] + four[3] * levels[3];
  });
}

}  // namespace

#include "kernel.inc"

const Kernels optcc::quantized_linear::kPortable = {quantize, integer, floating};
