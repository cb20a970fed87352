// How the weights of one linear lie in memory: one layout for every instruction set, written when a model is compiled
// (`native/packing.py`) and used from the mapped file as it is.
//
// Outputs in tiles of 16, one after the other; missing outputs of the last tile have scale 0. A tile is one stream of
//
//   scales  [groups][16] float32 or float16
//   zeros   [groups][16] int8, only where the weights have zero points
//   lines   [groups][lines][16 outputs][4 bytes]
//
// each padded to whole cache lines. A field is the level plus `offset`, so it is never negative. 8 bits: line l of a
// group holds inputs 4l..4l+3, a byte each. 4 bits: the low halves hold inputs 4l..4l+3 of the group's first half, the
// high halves the same of its second half. That is what an instruction that adds four products of unsigned and signed
// bytes wants: 16 outputs side by side, four inputs each.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace optcc::quantized_linear {

constexpr int64_t kTile = 16;  // outputs
constexpr int64_t kLargestGroup = 32768;

struct Layout {
  int64_t inputs;   // K
  int64_t outputs;  // N
  int64_t group;    // inputs that share a scale; divides K, a multiple of 8
  int bits;         // 4 or 8
  bool half;        // scales are float16
  bool zeros;       // there are zero points

  // What follows from it.
  int64_t groups;      // K / group
  int64_t tiles;       // of 16 outputs
  int64_t lines;       // of 64 bytes, in a group
  int32_t offset;      // added to levels: 8 or 128
  size_t zeros_at;     // bytes from the start of a tile
  size_t lines_at;
  size_t tile_bytes;
};

// Throws std::invalid_argument.
Layout make_layout(int64_t inputs, int64_t outputs, int64_t group, int bits, bool half, bool zeros);

}  // namespace optcc::quantized_linear
